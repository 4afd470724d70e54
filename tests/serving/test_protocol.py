"""Requests and answers as bytes: nothing but an answer or a RequestError ever comes out, whatever goes in."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.serving.errors import RequestError
from gateway.serving.protocol import (
    InferAnswer,
    Signature,
    TensorSpec,
    choose_outputs,
    decode_inputs,
    encode_answer,
    header_length,
    parse_request,
)

SIGNATURE = Signature(
    inputs={
        "x": TensorSpec("x", "FP32", (-1, 2), ("n", None)),
        "y": TensorSpec("y", "BYTES", (-1,), ("n",)),
    },
    outputs={"z": TensorSpec("z", "FP32", (-1, 2)), "w": TensorSpec("w", "BYTES", (-1,))},
)
X: dict[str, Any] = {"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}
Y: dict[str, Any] = {"name": "y", "datatype": "BYTES", "shape": [1], "data": ["a"]}


def respond(body: bytes, json_bytes: int | None = None) -> InferAnswer:
    """All that the server does with a request, around a model that answers with its inputs."""
    request, tail = parse_request(body, json_bytes)
    arrays = decode_inputs(SIGNATURE, request, tail)
    chosen = choose_outputs(SIGNATURE, request)
    results = {"z": arrays["x"], "w": arrays["y"]}
    return encode_answer({"model_name": "m"}, SIGNATURE, request, chosen, [results[name] for name in chosen])


_leaves = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=4)
_json = st.recursive(_leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner))


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "id": st.text(max_size=3) | _json,
            "parameters": st.dictionaries(st.sampled_from(["binary_data_output", "k"]), _leaves) | _json,
            "inputs": st.lists(
                st.fixed_dictionaries(
                    {"name": st.sampled_from(["x", "y", "q"])},
                    optional={
                        "datatype": st.sampled_from(["FP32", "BYTES", "BF16"]) | _json,
                        "shape": st.lists(st.integers(-1, 3), max_size=3) | _json,
                        "data": _json,
                        "parameters": st.fixed_dictionaries({"binary_data_size": st.integers(-1, 16) | _leaves}),
                    },
                ),
                max_size=3,
            )
            | st.just([X, Y]),
            "outputs": st.lists(st.fixed_dictionaries({"name": st.sampled_from(["z", "w", "v"])}), max_size=3) | _json,
        },
    ),
    st.binary(max_size=16),
    st.none() | st.integers(-2, 2),
)
def test_any_request_gets_an_answer_or_a_request_error(content: Any, tail: bytes, off: int | None) -> None:
    head = json.dumps(content).encode()
    try:
        answer = respond(head + tail, None if off is None else len(head) + off)
    except RequestError as error:
        assert 400 <= error.status < 500 and str(error)
    else:
        assert json.loads(answer.body[: answer.json_bytes])["model_name"] == "m"


@given(st.binary(max_size=64))
def test_any_bytes_get_a_request_error(body: bytes) -> None:
    with pytest.raises(RequestError, match="malformed"):
        parse_request(body)


def test_deep_nesting_is_refused() -> None:
    body = b'{"inputs":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    with pytest.raises(RequestError, match="malformed"):
        parse_request(body)


def test_binary_parts_follow_the_json_in_the_order_of_the_inputs() -> None:
    y = {"name": "y", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": 6}}
    x = {"name": "x", "datatype": "FP32", "shape": [1, 2], "parameters": {"binary_data_size": 8}}
    content = {"inputs": [y, x], "outputs": [{"name": "w"}, {"name": "z", "parameters": {"binary_data": True}}]}
    head = json.dumps(content).encode()
    floats = np.array([1.5, -2], "<f4").tobytes()
    answer = respond(head + b"\x02\0\0\0hi" + floats, len(head))
    assert answer.json_bytes is not None
    outputs = json.loads(answer.body[: answer.json_bytes])["outputs"]
    assert outputs[0] == {"name": "w", "shape": [1], "datatype": "BYTES", "data": ["hi"]}
    assert outputs[1] == {"name": "z", "shape": [1, 2], "datatype": "FP32", "parameters": {"binary_data_size": 8}}
    assert answer.body[answer.json_bytes :] == floats


def test_id_and_parameters_come_back_and_outputs_in_the_order_wanted() -> None:
    content = {
        "id": "42",
        "parameters": {"trace": "on", "depth": 3, "binary_data_output": False},
        "inputs": [X, Y],
        "outputs": [{"name": "w"}, {"name": "z"}],
    }
    answer = json.loads(respond(json.dumps(content).encode()).body)
    assert answer["id"] == "42" and answer["parameters"] == {"trace": "on", "depth": 3}
    assert [output["name"] for output in answer["outputs"]] == ["w", "z"]


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"inputs": None}, "malformed"),
        ({"inputs": [X]}, "missing input: 'y'; the model takes: 'x', 'y'"),
        ({"inputs": [X, X, Y]}, "given twice"),
        ({"inputs": [X, {**Y, "name": "why"}]}, "unknown input 'why'; the model takes"),
        ({"inputs": [X, {**Y, "datatype": "FP32"}]}, "'y' is BYTES, not 'FP32'"),
        ({"inputs": [X, {**Y, "datatype": "STRING"}]}, "not a datatype of the protocol"),
        ({"inputs": [{**X, "shape": [1, 3]}, Y]}, r"has shape \[-1, 2\] \(-1: any size\), not \[1, 3\]"),
        ({"inputs": [{**X, "shape": [2]}, Y]}, "has shape"),
        ({"inputs": [{**X, "shape": [-1, 2]}, Y]}, "malformed"),
        ({"inputs": [X, {**Y, "shape": [2], "data": ["a", "b"]}]}, "2 for dimension 'n', input 'x' has 1"),
        ({"inputs": [X, {k: v for k, v in Y.items() if k != "data"}]}, "'y' has no data"),
        ({"inputs": [X, {**Y, "parameters": {"binary_data_size": 5}}]}, "both data and binary_data_size"),
        ({"outputs": [{"name": "v"}]}, "unknown output 'v'; the model gives: 'z', 'w'"),
        ({"outputs": [{"name": "z", "parameters": {"classification": 3}}]}, "classification"),
        ({"outputs": [{"name": "z", "parameters": {"binary_data": "yes"}}]}, "must be true or false"),
        ({"parameters": {"binary_data_output": 1}}, "must be true or false"),
    ],
)
def test_requests_that_do_not_fit_say_what_and_how_to_fix_it(change: dict[str, Any], complaint: str) -> None:
    with pytest.raises(RequestError, match=complaint):
        respond(json.dumps({"inputs": [X, Y], **change}).encode())


def test_binary_sizes_must_add_up() -> None:
    x = {"name": "x", "datatype": "FP32", "shape": [1, 2], "parameters": {"binary_data_size": 8}}
    head = json.dumps({"inputs": [x, Y]}).encode()
    with pytest.raises(RequestError, match="only 7 bytes are left"):
        respond(head + bytes(7), len(head))
    with pytest.raises(RequestError, match="1 bytes are left over"):
        respond(head + bytes(9), len(head))
    with pytest.raises(RequestError, match="must be the length of the JSON part"):
        respond(head, len(head) + 1)


@pytest.mark.parametrize("text", ["", "-1", "1.5", "ten", "٣", "9" * 40])
def test_header_length_must_be_a_number(text: str) -> None:
    with pytest.raises(RequestError, match="must be a number of bytes"):
        header_length(text)
