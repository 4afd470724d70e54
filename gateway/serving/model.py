"""One ONNX model in onnxruntime: its signature, its name and version, and the run itself. The boundary to onnxruntime.

Name and version come from the caller, else from the file's metadata properties `name` and `version`, else the name
from the file's name and version "1". Sessions use one thread each: the server's own threads are the parallelism.

Whose fault is a run that fails? onnxruntime says INVALID_ARGUMENT for some unfit inputs, and a bare FAIL for others
(sizes that do not go together inside the graph) as well as for a broken graph. A model that has answered before works,
so the input is to blame; one that never has is broken, and its failures must count as the server's.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

from gateway.serving.errors import ModelLoadError, RequestError
from gateway.serving.protocol import Signature, TensorSpec
from gateway.serving.tensors import DTYPES, Tensor

PLATFORM = "onnx_onnxruntime"

_DATATYPES = {
    "tensor(bool)": "BOOL",
    "tensor(uint8)": "UINT8",
    "tensor(uint16)": "UINT16",
    "tensor(uint32)": "UINT32",
    "tensor(uint64)": "UINT64",
    "tensor(int8)": "INT8",
    "tensor(int16)": "INT16",
    "tensor(int32)": "INT32",
    "tensor(int64)": "INT64",
    "tensor(float16)": "FP16",
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
    "tensor(string)": "BYTES",
}
_FATAL_ONLY = 4


class _NodeArg(Protocol):
    name: str
    type: str
    shape: Sequence[int | str | None]


class Model:
    """A loaded model. `run` may be called from several threads at once."""

    def __init__(self, session: onnxruntime.InferenceSession, name: str, version: str) -> None:
        self._session = session
        self._has_answered = False
        self.name = name
        self.version = version
        self.signature = Signature(
            inputs={node.name: _spec("input", node) for node in session.get_inputs()},
            outputs={node.name: _spec("output", node) for node in session.get_outputs()},
        )

    @classmethod
    def load(cls, path: str | Path, *, name: str | None = None, version: str | None = None) -> Model:
        """Load an ONNX file; ModelLoadError says in one line why it cannot be served."""
        path = Path(path)
        session = _open(path)
        properties = session.get_modelmeta().custom_metadata_map
        return cls(session, name or properties.get("name") or path.stem, version or properties.get("version") or "1")

    def describe(self) -> dict[str, Any]:
        """The protocol's model metadata."""
        return {
            "name": self.name,
            "versions": [self.version],
            "platform": PLATFORM,
            "inputs": [spec.describe() for spec in self.signature.inputs.values()],
            "outputs": [spec.describe() for spec in self.signature.outputs.values()],
        }

    def run(self, outputs: Sequence[str], inputs: dict[str, Tensor]) -> list[Tensor]:
        """Compute the named outputs; RequestError for inputs that the model refuses, other errors if it is broken."""
        try:
            arrays: list[Tensor] = self._session.run(outputs, inputs)
        except ort_errors.InvalidArgument as error:
            raise _refusal(error) from None
        except ort_errors.Fail as error:
            if self._has_answered:
                raise _refusal(error) from None
            raise
        self._has_answered = True
        return arrays

    def warm_up(self) -> None:
        """Run once on zeros, so that the first request does not pay for lazy set-up; a model may refuse zeros."""
        zeros = {spec.name: _zeros(spec) for spec in self.signature.inputs.values()}
        with contextlib.suppress(Exception):  # zeros need not mean anything to the model; real inputs will show
            self.run(tuple(self.signature.outputs), zeros)


def _open(path: Path) -> onnxruntime.InferenceSession:
    if not path.exists():
        raise ModelLoadError(f"{path}: there is no such file")
    if not path.is_file():
        raise ModelLoadError(f"{path}: this is not a file; name an .onnx file")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = _FATAL_ONLY
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own errors share no base class
        raise ModelLoadError(f"{path}: not a model that onnxruntime can load: {_reason(error)}") from None


def _spec(role: str, node: _NodeArg) -> TensorSpec:
    datatype = _DATATYPES.get(node.type)
    if datatype is None:
        hint = " (export classifiers with zipmap off)" if node.type.startswith("seq(map(") else ""
        raise ModelLoadError(f"{role} {node.name!r} is {node.type}, which the protocol cannot carry{hint}")
    shape = tuple(size if isinstance(size, int) and size >= 0 else -1 for size in node.shape)
    axes = tuple(size if isinstance(size, str) else None for size in node.shape)
    return TensorSpec(node.name, datatype, shape, axes if any(axes) else ())


def _zeros(spec: TensorSpec) -> Tensor:
    fill: Any = "" if spec.datatype == "BYTES" else 0
    return np.full(tuple(1 if size < 0 else size for size in spec.shape), fill, DTYPES[spec.datatype])


def _refusal(error: Exception) -> RequestError:
    return RequestError(f"the model cannot compute with these inputs; check their sizes and values: {_reason(error)}")


def _reason(error: Exception) -> str:
    """onnxruntime's message in one line, without its code prefix."""
    text = " ".join(str(error).split())
    return re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", text)
