"""Real model servers in processes of their own, and tiny ONNX files written byte by byte (no onnx package needed)."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest

from gateway import bundled

COMMAND = [sys.executable, "-c", "from gateway.serving.command import model_server; model_server()"]

ELEMENT_TYPES = {
    "FP32": 1,
    "UINT8": 2,
    "INT8": 3,
    "UINT16": 4,
    "INT16": 5,
    "INT32": 6,
    "INT64": 7,
    "BYTES": 8,
    "BOOL": 9,
    "FP16": 10,
    "FP64": 11,
    "UINT32": 12,
    "UINT64": 13,
}
"""TensorProto.DataType of each datatype of the protocol."""


class Server(NamedTuple):
    """A running model server and a client bound to it."""

    process: subprocess.Popen[str]
    client: httpx.Client
    ready_line: str

    def stop(self, signum: int = signal.SIGTERM) -> int:
        """Signal the process and return its exit status."""
        self.process.send_signal(signum)
        return self.process.wait(timeout=20)

    def infer(self, content: Any, model: str = "digits-logreg", **options: Any) -> httpx.Response:
        return self.client.post(f"/v2/models/{model}/infer", json=content, **options)


Start = Callable[..., Server]


@contextlib.contextmanager
def _starting() -> Iterator[Start]:
    with contextlib.ExitStack() as stack:

        def start(model: Path | str = "digits-logreg", *options: str) -> Server:
            path = bundled.path(model) if isinstance(model, str) else model
            command = [*COMMAND, str(path), "--port", "0", *options]
            process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
            stack.callback(_end, process)
            assert process.stdout is not None
            line = process.stdout.readline().strip()
            assert " ready on http://" in line, line
            client = httpx.Client(base_url=line.rsplit(" ", 1)[1], timeout=20)
            stack.callback(client.close)
            return Server(process, client, line)

        yield start


def _end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait(timeout=20)
    if process.stdout is not None:
        process.stdout.close()


@pytest.fixture
def start() -> Iterator[Start]:
    """Start model servers: `start(model, *options)`; they end with the test."""
    with _starting() as starter:
        yield starter


@pytest.fixture(scope="module")
def start_module() -> Iterator[Start]:
    """As `start`, for all tests of a module."""
    with _starting() as starter:
        yield starter


@pytest.fixture(scope="module")
def digits() -> Iterator[Server]:
    """One server of digits-logreg for all tests of a module."""
    with _starting() as starter:
        yield starter()


@pytest.fixture(scope="module")
def identity(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server of a model called `identity` with an input and an equal output per datatype, all of shape [n, -1]."""
    path = tmp_path_factory.mktemp("onnx") / "identity.onnx"
    names = {datatype: f"in_{datatype}" for datatype in ELEMENT_TYPES}
    path.write_bytes(
        build_onnx(
            [("Identity", [name], [f"out_{datatype}"]) for datatype, name in names.items()],
            {name: (datatype, ("n", None)) for datatype, name in names.items()},
            {f"out_{datatype}": (datatype, ("n", None)) for datatype in names},
        )
    )
    with _starting() as starter:
        yield starter(path)


@pytest.fixture
def slow_model(tmp_path: Path) -> Path:
    """A model that multiplies two matrices of the `shape` in its settings: long work in a small request."""
    path = tmp_path / "slow.onnx"
    path.write_bytes(
        build_onnx(
            [
                ("ConstantOfShape", ["shape"], ["matrix"]),
                ("MatMul", ["matrix", "matrix"], ["product"]),
                ("ReduceSum", ["product"], ["sum"]),
            ],
            {"shape": ("INT64", (2,))},
            {"sum": ("FP32", (None, None))},
        )
    )
    return path


@pytest.fixture(scope="session")
def onnx_file() -> Callable[..., bytes]:
    """The writer of tiny ONNX files: `onnx_file(nodes, inputs, outputs)`."""
    return build_onnx


Ports = Mapping[str, tuple[str, Sequence[int | str | None]]]


def build_onnx(
    nodes: Sequence[tuple[str, list[str], list[str]]], inputs: Ports, outputs: Ports, properties: Mapping[str, str] = {}
) -> bytes:
    """A ModelProto in protobuf's wire format: nodes are (operator, inputs, outputs)."""
    graph = b"".join(
        _field(1, b"".join([*(_field(1, i) for i in ins), *(_field(2, o) for o in outs), _field(4, operator)]))
        for operator, ins, outs in nodes
    )
    graph += _field(2, "graph")
    graph += b"".join(_field(11, _value(name, *port)) for name, port in inputs.items())
    graph += b"".join(_field(12, _value(name, *port)) for name, port in outputs.items())
    opset = _field(1, "") + _field(2, 17)
    entries = b"".join(_field(14, _field(1, key) + _field(2, value)) for key, value in properties.items())
    return _field(1, 8) + _field(7, graph) + _field(8, opset) + entries


def _value(name: str, datatype: str, shape: Sequence[int | str | None]) -> bytes:
    dimensions = b"".join(
        _field(1, b"" if size is None else _field(1 if isinstance(size, int) else 2, size)) for size in shape
    )
    tensor = _field(1, ELEMENT_TYPES[datatype]) + _field(2, dimensions)
    return _field(1, name) + _field(2, _field(1, tensor))


def _field(number: int, value: int | str | bytes) -> bytes:
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    content = value.encode() if isinstance(value, str) else value
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    parts = bytearray()
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    parts.append(value)
    return bytes(parts)
