"""Answers of the Open Inference Protocol v2 (KServe): JSON, and the binary tensor data extension.

Rules (protocol "Inference Response JSON Object" and "Tensor Data"; extension "Binary Tensor Data"):

1. JSON data is row-major, flat or nested as the shape says. JSON knows no NaN: ``null`` stands for it, and the
   ``NaN`` that some servers write all the same is read as what it means.
2. With Inference-Header-Content-Length the JSON object ends there; the raw data of the outputs that have
   ``binary_data_size`` follows in their order, little-endian, nothing between or after. A BYTES element is its length
   in four bytes, then its bytes.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator
from typing import Any

import msgspec

from gateway.core.predictions.outputs import (
    OUTPUTS_MAX,
    Output,
    UndecodableError,
    Value,
    WholeAnswer,
    checked,
    count,
    flat,
)
from gateway.core.predictions.protocols.adapter import AnswerClass, StreamEvent
from gateway.core.predictions.protocols.errors import class_of_answer, class_of_status
from gateway.core.predictions.protocols.stream_events import read_event

_FORMATS = {
    "BOOL": "?",
    "UINT8": "B",
    "UINT16": "H",
    "UINT32": "I",
    "UINT64": "Q",
    "INT8": "b",
    "INT16": "h",
    "INT32": "i",
    "INT64": "q",
    "FP16": "e",
    "FP32": "f",
    "FP64": "d",
}
_LENGTH = struct.Struct("<I")


class _Tensor(msgspec.Struct):
    name: str
    shape: list[int]
    datatype: str
    parameters: dict[str, Any] | None = None
    data: list[Any] | None = None


class _Response(msgspec.Struct):
    outputs: list[_Tensor]


_strict = msgspec.json.Decoder(_Response)


class OpenInference:
    """The adapter."""

    def classify(self, answer: WholeAnswer) -> AnswerClass:
        """What an answer is: of one with binary tensors, by whether they fit."""
        if not answer.header_length.strip() or class_of_status(answer.status) is not AnswerClass.OK:
            return class_of_answer(answer, _is_empty)
        try:
            return AnswerClass.OK if extract(answer) else AnswerClass.MODEL_ERROR
        except UndecodableError:
            return AnswerClass.MODEL_ERROR

    def extract(self, answer: WholeAnswer) -> list[Output]:
        """The outputs of an inference response. Raises UndecodableError."""
        return extract(answer)

    def stream(self, data: bytes, name: bytes = b"") -> StreamEvent:
        """What one event of `infer_stream` is: each holds outputs."""
        return read_event(data, name, lambda _, __: None)


def is_oip(tree: object) -> bool:
    """Whether a JSON value is meant as an inference response."""
    outputs = tree.get("outputs") if isinstance(tree, dict) else None
    return isinstance(outputs, list) and any(isinstance(one, dict) and "datatype" in one for one in outputs)


def _is_empty(tree: object) -> bool:
    """Whether there are no outputs, or none of them has an element."""
    outputs = tree.get("outputs") if isinstance(tree, dict) else None
    if not isinstance(outputs, list):
        return False
    return all(isinstance(one, dict) and one.get("data") == [] for one in outputs)


def extract(answer: WholeAnswer) -> list[Output]:
    """The outputs of an inference response. Raises UndecodableError."""
    head, tail = _split(answer)
    tensors = _response(head).outputs
    if len(tensors) > OUTPUTS_MAX:
        raise UndecodableError(f"{len(tensors)} outputs are over the limit of {OUTPUTS_MAX}")
    if len({tensor.name for tensor in tensors}) < len(tensors):
        raise UndecodableError("two outputs have the same name")
    outputs = []
    for tensor in tensors:
        size = (tensor.parameters or {}).get("binary_data_size")
        if size is None:
            outputs.append(_of_json(tensor))
            continue
        if type(size) is not int or not 0 <= size <= len(tail) or tensor.data is not None:
            raise UndecodableError(f"output {tensor.name!r}: its binary_data_size does not fit the body")
        outputs.append(_of_bytes(tensor, tail[:size]))
        tail = tail[size:]
    if tail:
        raise UndecodableError(f"{len(tail)} bytes are left over after the last output")
    return outputs


def _split(answer: WholeAnswer) -> tuple[bytes, memoryview]:
    text, body = answer.header_length.strip(), answer.body
    if not text:
        return body, memoryview(b"")
    if not (text.isascii() and text.isdigit() and len(text) < 16 and 0 < int(text) <= len(body)):
        raise UndecodableError("Inference-Header-Content-Length does not fit the body")
    return body[: int(text)], memoryview(body)[int(text) :]


def _response(head: bytes) -> _Response:
    try:
        return _strict.decode(head)
    except (msgspec.ValidationError, RecursionError) as error:
        raise UndecodableError(f"not an inference response: {error}") from None
    except (msgspec.DecodeError, UnicodeDecodeError):
        pass
    try:
        return msgspec.convert(json.loads(head), _Response)
    except (ValueError, RecursionError) as error:
        raise UndecodableError(f"not JSON: {error}") from None


def _of_json(tensor: _Tensor) -> Output:
    if tensor.data is None:
        raise UndecodableError(f"output {tensor.name!r} has no data")
    shape = tuple(tensor.shape)
    nested, values = flat(tensor.data)
    if len(nested) > 1 and nested != shape:
        raise UndecodableError(f"output {tensor.name!r}: data is nested as {list(nested)}, its shape is {list(shape)}")
    if tensor.datatype.startswith(("FP", "BF")):
        values = [math.nan if value is None else _float(tensor.name, value) for value in values]
    elif None in values:
        raise UndecodableError(f"output {tensor.name!r}: null is not a valid {tensor.datatype}")
    return checked(tensor.name, shape, values)


def _float(name: str, value: Value) -> float:
    # JSON writes 1.0 as 1, too.
    if type(value) is not int and type(value) is not float:
        raise UndecodableError(f"output {name!r} has a value that is not a number")
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _of_bytes(tensor: _Tensor, data: memoryview) -> Output:
    shape = tuple(tensor.shape)
    expected = count(tensor.name, shape)
    if tensor.datatype == "BYTES":
        return checked(tensor.name, shape, list(_texts(tensor.name, data, expected)))
    if tensor.datatype == "BF16":
        return checked(tensor.name, shape, _bfloats(tensor.name, data, expected))
    code = _FORMATS.get(tensor.datatype)
    if code is None:
        raise UndecodableError(f"output {tensor.name!r} has the unknown datatype {tensor.datatype[:20]!r}")
    if len(data) != expected * struct.calcsize("<" + code):
        raise UndecodableError(f"output {tensor.name!r}: {len(data)} bytes do not fill the shape {list(shape)}")
    return Output(tensor.name, shape, list(struct.unpack(f"<{expected}{code}", data)))


def _bfloats(name: str, data: memoryview, expected: int) -> list[Value]:
    if len(data) != 2 * expected:
        raise UndecodableError(f"output {name!r}: {len(data)} bytes are not {expected} BF16 values")
    halves = struct.unpack(f"<{expected}H", data)
    # A BF16 is the upper half of an FP32.
    return list(struct.unpack(f"<{expected}f", struct.pack(f"<{expected}I", *(half << 16 for half in halves))))


def _texts(name: str, data: memoryview, expected: int) -> Iterator[str]:
    position = 0
    while position < len(data) and expected:
        start = position + _LENGTH.size
        position = start + _LENGTH.unpack(data[position:start])[0] if start <= len(data) else start
        if position > len(data):
            break
        expected -= 1
        yield str(data[start:position], "utf-8", "replace")
    if position != len(data) or expected:
        raise UndecodableError(f"output {name!r}: its BYTES end inside an element or are not as many as its shape says")
