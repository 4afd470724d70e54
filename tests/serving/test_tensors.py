"""The tensor codec: what goes in comes out, and what does not fit is refused by name."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.serving.errors import RequestError
from gateway.serving.tensors import DTYPES, Tensor, decode_binary, decode_json, encode_binary, encode_json


@st.composite
def tensors(draw: st.DrawFn) -> tuple[str, Tensor]:
    """Any datatype, any small shape, any finite elements."""
    datatype = draw(st.sampled_from(sorted(DTYPES)))
    shape = draw(st.lists(st.integers(0, 4), max_size=3))
    dtype = DTYPES[datatype]
    count = math.prod(shape)
    values = draw(st.lists(_elements(dtype), min_size=count, max_size=count))
    return datatype, np.array(values, dtype).reshape(shape)


def _elements(dtype: np.dtype[Any]) -> st.SearchStrategy[Any]:
    if dtype.kind == "b":
        return st.booleans()
    if dtype.kind == "O":
        return st.text(max_size=8)
    if dtype.kind == "f":
        return st.floats(width=dtype.itemsize * 8, allow_nan=False, allow_infinity=False)  # type: ignore[arg-type]  # widths are 16, 32 or 64
    return st.integers(int(np.iinfo(dtype).min), int(np.iinfo(dtype).max))


@given(tensors())
def test_binary_data_round_trips(tensor: tuple[str, Tensor]) -> None:
    datatype, array = tensor
    encoded = encode_binary(datatype, array)
    decoded = decode_binary("x", datatype, array.shape, memoryview(encoded))
    assert decoded.dtype == array.dtype and decoded.shape == array.shape
    assert encode_binary(datatype, decoded) == encoded
    np.testing.assert_array_equal(decoded, array)


@given(tensors())
def test_json_data_round_trips_flat_and_nested(tensor: tuple[str, Tensor]) -> None:
    datatype, array = tensor
    flat = decode_json("x", datatype, array.shape, msgspec.json.encode(encode_json(array)))
    assert flat.dtype == array.dtype
    np.testing.assert_array_equal(flat, array)
    if array.ndim > 1:
        nested = decode_json("x", datatype, array.shape, msgspec.json.encode(array.tolist()))
        np.testing.assert_array_equal(nested, array)


@given(st.sampled_from([d for d in sorted(DTYPES) if DTYPES[d].kind == "f"]), st.data())
def test_binary_data_carries_every_bit_pattern(datatype: str, data: st.DataObject) -> None:
    """NaN payloads and infinities too: binary input is not interpreted."""
    size = DTYPES[datatype].itemsize
    raw = data.draw(st.binary(min_size=4 * size, max_size=4 * size))
    assert encode_binary(datatype, decode_binary("x", datatype, (2, 2), memoryview(raw))) == raw


def test_binary_layout_is_little_endian_with_length_prefixed_bytes() -> None:
    assert encode_binary("INT32", np.array([1, -1], np.int32)) == b"\x01\0\0\0\xff\xff\xff\xff"
    assert encode_binary("BYTES", np.array(["é", ""], object)) == b"\x02\0\0\0\xc3\xa9\0\0\0\0"
    assert encode_binary("BOOL", np.array([True, False])) == b"\x01\0"


@pytest.mark.parametrize(
    ("datatype", "shape", "data", "complaint"),
    [
        ("UINT8", [1], b"[256]", "UINT8 holds 0 to 255"),
        ("INT64", [1], b"[9223372036854775808]", "INT64 holds"),
        ("FP16", [1], b"[70000]", "too large for FP16"),
        ("FP32", [1], b"[1e39]", "too large for FP32"),
        ("FP32", [2], b"[1]", "takes 2 elements, data has 1"),
        ("FP32", [1], b"[null]", "array of numbers"),
        ("FP32", [1], b"{}", "array of numbers"),
        ("FP32", [1], b"7", "array of numbers"),
        ("INT32", [1], b"[1.5]", "array of whole numbers"),
        ("INT32", [1], b"[true]", "array of whole numbers"),
        ("BOOL", [1], b"[1]", "array of true or false"),
        ("BYTES", [1], b"[1]", "array of strings"),
        ("FP32", [2, 2], b"[[1,2],[3]]", "has 1 items at depth 2"),
        ("FP32", [2, 2], b"[[1,2]]", "has 1 items at depth 1"),
        ("FP32", [2, 2], b"[[1,2],3]", "flat or nested"),
        ("FP32", [4], b"[[1,2],[3,4]]", "flat or nested"),
        ("FP32", [0, 2147483647, 2147483647, 2147483647], b"[]", "impossible"),
    ],
)
def test_json_data_that_does_not_fit_is_refused(datatype: str, shape: list[int], data: bytes, complaint: str) -> None:
    with pytest.raises(RequestError, match=complaint) as caught:
        decode_json("pixels", datatype, shape, data)
    assert caught.value.status == 400 and "'pixels'" in str(caught.value)


@pytest.mark.parametrize(
    ("datatype", "shape", "data", "complaint"),
    [
        ("FP32", [2], b"\0" * 7, "takes 8 bytes, binary_data_size says 7"),
        ("BYTES", [1], b"\x05\0\0\0abc", "ends inside an element"),
        ("BYTES", [1], b"\x05\0", "ends inside an element"),
        ("BYTES", [2], b"\x01\0\0\0a", "takes 2 elements, data has 1"),
        ("BYTES", [1], b"\x01\0\0\0\xff", "UTF-8"),
    ],
)
def test_binary_data_that_does_not_fit_is_refused(datatype: str, shape: list[int], data: bytes, complaint: str) -> None:
    with pytest.raises(RequestError, match=complaint) as caught:
        decode_binary("pixels", datatype, shape, memoryview(data))
    assert caught.value.status == 400 and "'pixels'" in str(caught.value)
