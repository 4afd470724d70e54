"""Tensors of the Open Inference Protocol, to and from numpy arrays. Pure.

Rules (Open Inference Protocol v2 "Tensor Data", and the binary tensor data extension):

1. JSON data is row-major, either flat or nested as the shape says; both name the same tensor.
2. Binary data is little-endian and row-major without padding; BOOL takes one byte; each element of a BYTES tensor is
   its length as four little-endian bytes, then its bytes.
3. A number that its datatype cannot hold is an error, never a silent wrap or infinity.
4. BYTES are texts here, because onnxruntime's string tensors are: they must be UTF-8.

JSON has no NaN and no infinity: an answer that holds one says `null` there; binary output carries it faithfully.
"""

from __future__ import annotations

import functools
import math
import struct
import types
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from gateway.serving.errors import RequestError

Tensor = NDArray[Any]
JsonBytes = bytes | memoryview | msgspec.Raw

DTYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype("?"),
    "UINT8": np.dtype("u1"),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "INT8": np.dtype("i1"),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "FP16": np.dtype("<f2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
    "BYTES": np.dtype(object),
}
"""Every datatype of the protocol that onnxruntime takes from numpy, with the array type that holds it."""

_LENGTH = struct.Struct("<I")
_PYTHON_TYPES: dict[str, Any] = {"b": bool, "u": int, "i": int, "f": float, "O": str}
_ELEMENT_WORDS = {"b": "true or false", "u": "whole numbers", "i": "whole numbers", "f": "numbers", "O": "strings"}


def decode_json(name: str, datatype: str, shape: Sequence[int], data: JsonBytes) -> Tensor:
    """Decode the JSON array `data` into an array of `shape`; RequestError names the tensor `name`."""
    dtype = DTYPES[datatype]
    try:
        values = _decoder(dtype.kind, 1).decode(data)
    except msgspec.ValidationError:
        values = _decode_nested(name, dtype.kind, shape, data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise RequestError(f"input {name!r}: data is not JSON: {error}") from None
    if len(values) != math.prod(shape):
        raise RequestError(_miscount(name, shape, len(values)))
    return _reshape(name, _array(name, datatype, values), shape)


def decode_binary(name: str, datatype: str, shape: Sequence[int], data: memoryview) -> Tensor:
    """Decode raw little-endian bytes into an array of `shape`; RequestError names the tensor `name`."""
    count = math.prod(shape)
    if datatype == "BYTES":
        texts = list(_texts(name, data))
        if len(texts) != count:
            raise RequestError(_miscount(name, shape, len(texts)))
        return _reshape(name, _array(name, datatype, texts), shape)
    dtype = DTYPES[datatype]
    if len(data) != count * dtype.itemsize:
        raise RequestError(
            f"input {name!r}: shape {list(shape)} of {datatype} takes {count * dtype.itemsize} bytes, "
            f"binary_data_size says {len(data)}"
        )
    if datatype == "BOOL":
        return _reshape(name, np.frombuffer(data, np.uint8) != 0, shape)
    return _reshape(name, np.frombuffer(data, dtype), shape)


def encode_json(array: Tensor) -> list[Any]:
    """The elements of an array, flat and row-major, as JSON's own types."""
    values: list[Any] = array.ravel().tolist()
    return values


def encode_binary(datatype: str, array: Tensor) -> bytes:
    """The elements of an array as raw little-endian bytes."""
    if datatype == "BYTES":
        encoded = (text.encode() for text in array.ravel().tolist())
        return b"".join(_LENGTH.pack(len(text)) + text for text in encoded)
    return array.astype(DTYPES[datatype], copy=False).tobytes()


@functools.cache
def _decoder(kind: str, depth: int) -> msgspec.json.Decoder[Any]:
    nested: Any = _PYTHON_TYPES[kind]
    for _ in range(depth):
        nested = types.GenericAlias(list, nested)
    return msgspec.json.Decoder(nested)


def _decode_nested(name: str, kind: str, shape: Sequence[int], data: JsonBytes) -> list[Any]:
    if len(shape) > 1:
        try:
            return list(_flatten(name, shape, _decoder(kind, len(shape)).decode(data), 0))
        except msgspec.ValidationError:
            pass
    raise RequestError(
        f"input {name!r}: data must be an array of {_ELEMENT_WORDS[kind]}, "
        f"flat or nested as its shape {list(shape)} says"
    )


def _flatten(name: str, shape: Sequence[int], values: list[Any], depth: int) -> Iterator[Any]:
    if len(values) != shape[depth]:
        raise RequestError(
            f"input {name!r}: data has {len(values)} items at depth {depth + 1}, its shape {list(shape)} says "
            f"{shape[depth]} there"
        )
    if depth == len(shape) - 1:
        yield from values
        return
    for nested in values:
        yield from _flatten(name, shape, nested, depth + 1)


def _array(name: str, datatype: str, values: list[Any]) -> Tensor:
    dtype = DTYPES[datatype]
    try:
        with np.errstate(over="ignore"):
            array = np.array(values, dtype)
    except OverflowError:
        low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
        raise RequestError(f"input {name!r}: {datatype} holds {low} to {high}, data has a number outside") from None
    if dtype.kind == "f" and not np.isfinite(array).all():
        raise RequestError(
            f"input {name!r}: data has a number too large for {datatype} (at most {np.finfo(dtype).max:.4g})"
        )
    return array


def _reshape(name: str, array: Tensor, shape: Sequence[int]) -> Tensor:
    try:
        return array.reshape(shape)
    except ValueError as error:  # an empty tensor whose other dimensions overflow
        raise RequestError(f"input {name!r}: shape {list(shape)} is impossible: {error}") from None


def _texts(name: str, data: memoryview) -> Iterator[str]:
    position = 0
    while position < len(data):
        start = position + _LENGTH.size
        position = start + _LENGTH.unpack(data[position:start])[0] if start <= len(data) else start
        if position > len(data):
            raise RequestError(f"input {name!r}: its BYTES data ends inside an element; check each four-byte length")
        try:
            yield str(data[start:position], "utf-8")
        except UnicodeDecodeError as error:
            raise RequestError(f"input {name!r}: BYTES must be UTF-8 text for this model: {error}") from None


def _miscount(name: str, shape: Sequence[int], found: int) -> str:
    return f"input {name!r}: shape {list(shape)} takes {math.prod(shape)} elements, data has {found}"
