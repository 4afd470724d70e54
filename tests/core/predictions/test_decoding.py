"""Bodies to outputs: what the protocol says is read as it means, and nothing else gets past an UndecodableError."""

from __future__ import annotations

import json
import math
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.predictions.outputs import Output, UndecodableError, WholeAnswer
from gateway.core.predictions.protocols.adapter import AnswerClass, ProtocolName
from gateway.core.predictions.protocols.choice import AnswerReader
from gateway.core.predictions.protocols.oip import extract as decode
from gateway.core.predictions.protocols.plain_json import PlainJson
from gateway.serving.protocol import InferRequest, InputTensor, Signature, TensorSpec, encode_answer
from gateway.serving.tensors import DTYPES


def body(*outputs: dict[str, Any], **more: Any) -> bytes:
    return json.dumps({"model_name": "m", "outputs": list(outputs), **more}).encode()


def tensor(datatype: str, shape: list[int], data: Any, **more: Any) -> dict[str, Any]:
    return {"name": "y", "datatype": datatype, "shape": shape, "data": data, **more}


def one(answer: bytes, header_length: str = "") -> Output:
    (output,) = decode(WholeAnswer(answer, "application/json", header_length))
    return output


@pytest.mark.parametrize("datatype", [name for name in DTYPES if name != "BYTES"])
@pytest.mark.parametrize("binary", [False, True])
def test_what_the_model_server_sends_is_read_back(datatype: str, binary: bool) -> None:
    array = np.arange(6).reshape(2, 3).astype(DTYPES[datatype])
    signature = Signature({}, {"y": TensorSpec("y", datatype, (-1, 3))})
    request = InferRequest([InputTensor("x", [1], "FP32")])
    sent = encode_answer({"model_name": "m"}, signature, request, {"y": binary}, [array])
    output = one(sent.body, "" if sent.json_bytes is None else str(sent.json_bytes))
    assert output.shape == (2, 3) and output.rows == 2
    assert output.values == array.ravel().tolist()
    assert output.row(1) == array[1].tolist()


@pytest.mark.parametrize("binary", [False, True])
def test_texts_are_read(binary: bool) -> None:
    signature = Signature({}, {"y": TensorSpec("y", "BYTES", (-1,))})
    request = InferRequest([InputTensor("x", [1], "FP32")])
    sent = encode_answer({}, signature, request, {"y": binary}, [np.array(["cat", "", "dögg"], object)])
    assert one(sent.body, "" if sent.json_bytes is None else str(sent.json_bytes)).values == ["cat", "", "dögg"]


def test_brain_floats_are_the_upper_halves_of_floats() -> None:
    head = body({"name": "y", "datatype": "BF16", "shape": [2], "parameters": {"binary_data_size": 4}})
    halves = b"".join(struct.pack("<f", value)[2:] for value in (1.5, -2.0))
    assert one(head + halves, str(len(head))).values == [1.5, -2.0]


def test_null_and_a_written_nan_are_nan() -> None:
    values = one(body(tensor("FP32", [3], [None, math.nan, 1]))).values
    assert [isinstance(value, float) and math.isnan(value) for value in values] == [True, True, False]


def test_nested_data_is_the_same_as_flat() -> None:
    assert one(body(tensor("FP32", [2, 2], [[1.0, 2.0], [3.0, 4.0]]))) == one(
        body(tensor("FP32", [2, 2], [1, 2, 3, 4]))
    )


FP32_HEAD = {"name": "y", "datatype": "FP32", "shape": [2], "parameters": {"binary_data_size": 8}}


def binary(tail: bytes, **changes: Any) -> tuple[bytes, str]:
    head = body(FP32_HEAD | changes)
    return head + tail, str(len(head))


@pytest.mark.parametrize(
    ("answer", "header_length"),
    [
        (b"", ""),
        (b"\xff\xfe", ""),
        (b"[]", ""),
        (b"{}", ""),
        (b'{"outputs": 5}', ""),
        (b'{"outputs": [{}]}', ""),
        (b"[" * 100_000, ""),
        (b'{"outputs": [{"name": "y", "datatype": "FP32", "shape": [1], "data": ' + b"[" * 5000, ""),
        (body(tensor("FP32", [3], [1.0, 2.0])), ""),
        (body(tensor("FP32", [-1], [1.0])), ""),
        (body(tensor("FP32", [2**62, 2**62, 2**62], [1.0])), ""),
        (body(tensor("FP32", [1] * 40, [1.0])), ""),
        (body(tensor("FP32", [2], [[1.0], [2.0, 3.0]])), ""),
        (body(tensor("FP32", [2, 2], [[1.0, 2.0, 3.0, 4.0]])), ""),
        (body(tensor("FP32", [1], ["1"])), ""),
        (body(tensor("FP32", [1], [{}])), ""),
        (body(tensor("FP32", [1], [True])), ""),
        (body(tensor("INT64", [2], [1, None])), ""),
        (body(tensor("BYTES", [2], ["a", 1])), ""),
        (body({"name": "y", "datatype": "FP32", "shape": [1]}), ""),
        (body(tensor("FP32", [1], [1.0]), tensor("FP32", [1], [1.0])), ""),
        (body(*[tensor("FP32", [1], [1.0]) | {"name": str(i)} for i in range(65)]), ""),
        (body(tensor("FP32", [1], [1.0])), "-1"),
        (body(tensor("FP32", [1], [1.0])), "999999"),
        (body(tensor("FP32", [1], [1.0])), "x"),
        (body(tensor("FP32", [1], [1.0])), "9" * 40),
        binary(b"\0" * 7),
        binary(b"\0" * 9),
        binary(b"\0" * 8, shape=[3]),
        binary(b"\0" * 8, datatype="FP128"),
        binary(b"\0" * 8, parameters={"binary_data_size": -8}),
        binary(b"\0" * 8, parameters={"binary_data_size": True}),
        binary(b"\0" * 8, parameters={"binary_data_size": 8.0}),
        binary(b"\0" * 8, data=[1.0, 2.0]),
        binary(b"\xff\xff\xff\xff" + b"\0" * 4, datatype="BYTES", shape=[1]),
        binary(b"\0" * 8, datatype="BYTES", shape=[1]),
        binary(b"\0" * 8, datatype="BYTES", shape=[3]),
        binary(b"\0" * 8, datatype="BF16", shape=[3]),
    ],
)
def test_what_is_no_answer_is_undecodable(answer: bytes, header_length: str) -> None:
    with pytest.raises(UndecodableError):
        decode(WholeAnswer(answer, "application/json", header_length))


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=20,
)
_SHAPES = st.lists(st.integers(-2, 5) | st.integers(), max_size=4)
_TENSORS = st.fixed_dictionaries(
    {"name": st.text(max_size=3), "datatype": st.sampled_from([*DTYPES, "BF16", "X"]), "shape": _SHAPES},
    optional={"data": _JSON, "parameters": st.dictionaries(st.just("binary_data_size"), _JSON)},
)


@settings(max_examples=100)
@given(
    st.binary(max_size=200)
    | _JSON.map(lambda tree: json.dumps(tree).encode())
    | st.lists(_TENSORS, max_size=3).map(lambda outputs: body(*outputs)),
    st.binary(max_size=40),
    st.none() | st.integers(-5, 400).map(str) | st.text(max_size=5),
)
def test_no_bytes_whatever_make_a_decoder_fail_otherwise(head: bytes, tail: bytes, length: str | None) -> None:
    answer = WholeAnswer(head + tail, "application/json", str(len(head)) if length is None else length)
    readers = [AnswerReader(name, {"label": "a.b", "scores": "outputs.0.data"}) for name in ProtocolName]
    for reader in [*readers, AnswerReader("json", {})]:
        assert reader.classify(answer) in AnswerClass
        try:
            _, outputs = reader.extract(answer)
        except UndecodableError:
            continue
        for output in outputs:
            assert len(output.values) == math.prod(output.shape)
            assert sum(len(output.row(index)) for index in range(output.rows)) == len(output.values)


def test_json_of_ones_own_is_found_by_paths() -> None:
    answer = WholeAnswer(b'{"predictions": [{"class": "cat", "scores": [0.25, 0.75]}], "n": 3}')
    places = {"label": "predictions.0.class", "scores": "predictions.0.scores", "value": "n"}
    label, scores, number = PlainJson(places).extract(answer)
    assert (label.values, label.shape) == (["cat"], ())
    assert (scores.values, scores.shape) == ([0.25, 0.75], (2,))
    assert (number.name, number.values) == ("value", [3])


@pytest.mark.parametrize(
    "path", ["absent", "predictions.1", "predictions.x", "predictions.0.class.y", "predictions.-1"]
)
def test_a_path_that_leads_nowhere_is_undecodable(path: str) -> None:
    with pytest.raises(UndecodableError, match="there is nothing at"):
        PlainJson({"label": path}).extract(WholeAnswer(b'{"predictions": [{"class": "cat"}]}'))
