"""Messages of the Open Inference Protocol v2: bytes to tensors by name, and tensors to bytes. Pure.

An inference request is one JSON object, or, with the binary tensor data extension, a JSON object of
`Inference-Header-Content-Length` bytes followed by the raw data of those inputs whose parameters say
`binary_data_size`, in the order of the inputs. An answer is built the same way: an output is binary if its
`binary_data` parameter says so, or else the request's `binary_data_output`.

A `Signature` is what the model takes and gives; everything that does not fit it is a RequestError naming the tensor.
Unknown keys are ignored, as a protocol that grows by extensions wants it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import msgspec

from gateway.serving.errors import RequestError
from gateway.serving.tensors import DTYPES, Tensor, decode_binary, decode_json, encode_binary, encode_json

HEADER_LENGTH = "Inference-Header-Content-Length"
RANK_MAX = 32
"""numpy's arrays end at 64 dimensions, onnxruntime's sooner; no model comes near."""

Parameters = dict[str, str | int | float | bool | None]
_Dimension = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]
_Shape = Annotated[list[_Dimension], msgspec.Meta(max_length=RANK_MAX)]


class TensorSpec(msgspec.Struct, frozen=True):
    """One input or output as the model declares it; -1 stands for any size, `axes` names such dimensions if it can."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    axes: tuple[str | None, ...] = ()

    def describe(self) -> dict[str, Any]:
        """The tensor as the protocol's model metadata shows it."""
        return {"name": self.name, "datatype": self.datatype, "shape": list(self.shape)}


class Signature(msgspec.Struct, frozen=True):
    """What a model takes and gives, by name, in its own order."""

    inputs: dict[str, TensorSpec]
    outputs: dict[str, TensorSpec]


class InputTensor(msgspec.Struct):
    """One input of a request; `data` stays undecoded JSON until the datatype is known."""

    name: str
    shape: _Shape
    datatype: str
    parameters: Parameters = {}
    data: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


class RequestedOutput(msgspec.Struct):
    """One output that a request wants, and how."""

    name: str
    parameters: Parameters = {}


class InferRequest(msgspec.Struct):
    """The JSON object of an inference request."""

    inputs: list[InputTensor]
    id: str | None = None
    parameters: Parameters = {}
    outputs: list[RequestedOutput] | None = None


class InferAnswer(msgspec.Struct, frozen=True):
    """An answer on the wire: `json_bytes` is None when all of `body` is JSON, else how much of it is."""

    body: bytes
    json_bytes: int | None


_requests = msgspec.json.Decoder(InferRequest)
_answers = msgspec.json.Encoder()


def parse_request(body: bytes, json_bytes: int | None = None) -> tuple[InferRequest, memoryview]:
    """Split and decode an inference request; returns its JSON object and the raw tensor data behind it."""
    if json_bytes is not None and not 0 < json_bytes <= len(body):
        raise RequestError(
            f"{HEADER_LENGTH} is {json_bytes}; it must be the length of the JSON part, "
            f"from 1 to the body's {len(body)} bytes"
        )
    view = memoryview(body)
    head, tail = (view, view[:0]) if json_bytes is None else (view[:json_bytes], view[json_bytes:])
    try:
        return _requests.decode(head), tail
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise RequestError(f"malformed inference request: {error}") from None


def header_length(text: str | None) -> int | None:
    """The value of the header `Inference-Header-Content-Length`, None if it was not sent."""
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 16):
        raise RequestError(f"{HEADER_LENGTH} must be a number of bytes, not {text[:40]!r}")
    return int(text)


def decode_inputs(signature: Signature, request: InferRequest, tail: memoryview) -> dict[str, Tensor]:
    """Decode every input that the model takes; RequestError for a name, datatype, shape or size that does not fit."""
    arrays: dict[str, Tensor] = {}
    for tensor in request.inputs:
        spec = signature.inputs.get(tensor.name)
        if spec is None:
            raise RequestError(f"unknown input {tensor.name!r}; the model takes: {_listed(signature.inputs)}")
        if tensor.name in arrays:
            raise RequestError(f"input {tensor.name!r} is given twice; give it once")
        _check_fit(spec, tensor)
        arrays[tensor.name], tail = _decode_input(tensor, tail)
    missing = signature.inputs.keys() - arrays.keys()
    if missing:
        raise RequestError(f"missing input: {_listed(sorted(missing))}; the model takes: {_listed(signature.inputs)}")
    if len(tail):
        raise RequestError(f"{len(tail)} bytes are left over after the last binary input; check each binary_data_size")
    _check_axes(signature, arrays)
    return arrays


def choose_outputs(signature: Signature, request: InferRequest) -> dict[str, bool]:
    """The outputs to compute, in the order wanted, each with whether it goes out as binary data."""
    default = _flag(request.parameters, "binary_data_output", False, "the request")
    if not request.outputs:
        return dict.fromkeys(signature.outputs, default)
    chosen: dict[str, bool] = {}
    for output in request.outputs:
        if output.name not in signature.outputs:
            raise RequestError(f"unknown output {output.name!r}; the model gives: {_listed(signature.outputs)}")
        if "classification" in output.parameters:
            raise RequestError(f"output {output.name!r}: the classification extension is not supported; ask for scores")
        chosen[output.name] = _flag(output.parameters, "binary_data", default, f"output {output.name!r}")
    return chosen


def encode_answer(
    head: Mapping[str, str],
    signature: Signature,
    request: InferRequest,
    chosen: Mapping[str, bool],
    arrays: Sequence[Tensor],
) -> InferAnswer:
    """Build the answer: `head` (model name and version), the request's id and parameters, and the chosen outputs."""
    outputs: list[dict[str, Any]] = []
    blobs: list[bytes] = []
    for (name, binary), array in zip(chosen.items(), arrays, strict=True):
        datatype = signature.outputs[name].datatype
        output: dict[str, Any] = {"name": name, "shape": array.shape, "datatype": datatype}
        if binary:
            blobs.append(encode_binary(datatype, array))
            output["parameters"] = {"binary_data_size": len(blobs[-1])}
        else:
            output["data"] = encode_json(array)
        outputs.append(output)
    answer: dict[str, Any] = dict(head)
    if request.id is not None:
        answer["id"] = request.id
    echoed = {key: value for key, value in request.parameters.items() if key != "binary_data_output"}
    if echoed:
        answer["parameters"] = echoed
    answer["outputs"] = outputs
    encoded = _answers.encode(answer)
    return (
        InferAnswer(b"".join((encoded, *blobs)), len(encoded)) if any(chosen.values()) else InferAnswer(encoded, None)
    )


def _decode_input(tensor: InputTensor, tail: memoryview) -> tuple[Tensor, memoryview]:
    size = tensor.parameters.get("binary_data_size")
    if size is None:
        if tensor.data is msgspec.UNSET:
            raise RequestError(f"input {tensor.name!r} has no data; give data, or binary_data_size and raw bytes")
        return decode_json(tensor.name, tensor.datatype, tensor.shape, tensor.data), tail
    if tensor.data is not msgspec.UNSET:
        raise RequestError(f"input {tensor.name!r} has both data and binary_data_size; give one of them")
    if type(size) is not int or size < 0:
        raise RequestError(f"input {tensor.name!r}: binary_data_size must be a number of bytes, not {size!r}")
    if size > len(tail):
        raise RequestError(
            f"input {tensor.name!r}: binary_data_size is {size}, but only {len(tail)} bytes are left after the JSON "
            f"part; check {HEADER_LENGTH} and the body's length"
        )
    return decode_binary(tensor.name, tensor.datatype, tensor.shape, tail[:size]), tail[size:]


def _check_fit(spec: TensorSpec, tensor: InputTensor) -> None:
    if tensor.datatype != spec.datatype:
        known = "" if tensor.datatype in DTYPES else " (not a datatype of the protocol)"
        raise RequestError(f"input {spec.name!r} is {spec.datatype}, not {tensor.datatype!r}{known}")
    fits = len(tensor.shape) == len(spec.shape) and all(
        want in (-1, got) for want, got in zip(spec.shape, tensor.shape, strict=True)
    )
    if not fits:
        raise RequestError(f"input {spec.name!r} has shape {list(spec.shape)} (-1: any size), not {list(tensor.shape)}")


def _check_axes(signature: Signature, arrays: Mapping[str, Tensor]) -> None:
    """Dimensions of one name must be of one size; onnxruntime would fail deep inside the graph instead."""
    sizes: dict[str, tuple[int, str]] = {}
    for name, array in arrays.items():
        for axis, size in zip(signature.inputs[name].axes, array.shape, strict=False):
            if axis is None:
                continue
            known, owner = sizes.setdefault(axis, (size, name))
            if size != known:
                raise RequestError(
                    f"input {name!r} has {size} for dimension {axis!r}, input {owner!r} has {known}; they must agree"
                )


def _flag(parameters: Parameters, key: str, default: bool, place: str) -> bool:
    value = parameters.get(key, default)
    if not isinstance(value, bool):
        raise RequestError(f"{place}: parameter {key} must be true or false, not {value!r}")
    return value


def _listed(names: Sequence[str] | Mapping[str, Any]) -> str:
    return ", ".join(repr(name) for name in names)
