"""The command line: names, ready line, stop, and every way in which it does not start."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gateway import bundled

COMMAND = [sys.executable, "-c", "from gateway.serving.command import model_server; model_server()"]


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [*COMMAND, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_ready_line_shows_the_address_and_a_stop_on_request_exits_0(start: Any, signum: int) -> None:
    server = start()
    assert re.fullmatch(r"model-server: digits-logreg/1 ready on http://127\.0\.0\.1:\d+", server.ready_line)
    assert server.client.get("/v2/health/ready").status_code == 200
    assert server.stop(signum) == 0


def test_name_and_version_may_be_given(start: Any) -> None:
    server = start("digits-svm", "--name", "digits", "--version", "2")
    assert "digits/2 ready" in server.ready_line
    assert server.client.get("/v2/models/digits/versions/2").json()["versions"] == ["2"]
    assert server.client.get("/v2/models/digits-svm").status_code == 404


def test_a_file_without_metadata_is_named_after_itself(identity: Any) -> None:
    assert "identity/1 ready" in identity.ready_line


def test_a_file_that_is_no_model_exits_2_and_says_why(tmp_path: Path) -> None:
    text, empty, cut = tmp_path / "text.onnx", tmp_path / "empty.onnx", tmp_path / "cut.onnx"
    text.write_text("this is no protobuf")
    empty.write_bytes(b"")
    cut.write_bytes(bundled.path("digits-svm").read_bytes()[:1000])
    for path, reason in (
        (text, "not a model that onnxruntime can load"),
        (empty, "empty"),
        (cut, "not a model that onnxruntime can load"),
        (tmp_path / "missing.onnx", "there is no such file"),
        (tmp_path, "this is not a file"),
    ):
        result = run(path, "--port", 0)
        assert result.returncode == 2 and result.stdout == ""
        assert len(result.stderr.splitlines()) == 1, result.stderr
        assert str(path) in result.stderr and reason in result.stderr


def test_a_port_in_use_exits_1_and_says_which() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = run(bundled.path("digits-tree"), "--port", port)
    assert result.returncode == 1 and len(result.stderr.splitlines()) == 1
    assert f"port {port}" in result.stderr and "in use" in result.stderr


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--fault", "error-rate=2"], "must be a number from 0 to 1"),
        (["--fault", "explode"], "unknown fault explode"),
        (["--port", "70000"], "70000"),
        (["--threads", "0"], "threads"),
        (["--nonsense"], "nonsense"),
    ],
)
def test_bad_arguments_exit_2(options: list[str], complaint: str) -> None:
    result = run(bundled.path("digits-tree"), *options)
    assert result.returncode == 2 and complaint in result.stderr
