"""The load test runs as a person would run it, against a stub that answers as the gateway does."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from gateway import bundled

ROOT = Path(__file__).parents[2]
TURN = ("stable", "canary", "rescued", "failed")


class Stub:
    """Answers in turns: stable right, canary wrong, stable for the canary, and 502 for neither."""

    def __init__(self) -> None:
        pixels, labels = bundled.heldout()
        self.labels = {tuple(image): label for image, label in zip(pixels, labels, strict=True)}
        self.turns = count()
        self.answered = 0
        self.paths: set[str] = set()

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        body, more = b"", True
        while more:
            part = await receive()
            body, more = body + part.get("body", b""), part.get("more_body", False)
        self.paths.add(scope["path"])
        turn = TURN[next(self.turns) % len(TURN)]
        headers = {
            "stable": [(b"x-gateway-variant", b"stable")],
            "canary": [(b"x-gateway-variant", b"canary")],
            "rescued": [(b"x-gateway-variant", b"stable"), (b"x-gateway-rescued", b"true")],
            "failed": [],
        }[turn]
        (tensor,) = json.loads(body)["inputs"]
        label = self.labels[tuple(tensor["data"])] + (turn == "canary")
        answer = {"outputs": [{"name": "label", "shape": [1], "datatype": "INT64", "data": [label]}]}
        await send({"type": "http.response.start", "status": 502 if turn == "failed" else 200, "headers": headers})
        await send({"type": "http.response.body", "body": json.dumps(answer).encode()})
        self.answered += 1


@pytest.fixture
def stub() -> Iterator[tuple[Stub, str]]:
    app = Stub()
    server = uvicorn.Server(uvicorn.Config(app, lifespan="off", log_level="critical"))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        yield app, f"http://127.0.0.1:{listener.getsockname()[1]}"
        server.should_exit = True
        thread.join(timeout=20)
        assert not thread.is_alive()


def locust(url: str, folder: Path, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "locust", "-f", "loadtests/locustfile.py", "--headless", "--host", url]
    command += ["--users", "2", "--spawn-rate", "2", "--run-time", "120s", "--stop-timeout", "10"]
    command += ["--json-file", str(folder / "load"), *options]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def totals(folder: Path) -> tuple[dict[str, int], dict[str, int]]:
    """Requests and failures by name, as locust counted them at the end."""
    rows = json.loads((folder / "load.json").read_text(encoding="utf-8"))
    return {row["name"]: row["num_requests"] for row in rows}, {row["name"]: row["num_failures"] for row in rows}


def test_a_run_reports_by_variant_and_ends_with_the_accuracy_of_each(stub: tuple[Stub, str], tmp_path: Path) -> None:
    app, url = stub
    with locust(url, tmp_path, "--model", "digits-v7") as done:
        while app.answered < 3 * len(TURN) and done.poll() is None:
            time.sleep(0.02)
        done.terminate()  # it has seen enough, and says what it saw
        stdout, stderr = done.communicate(timeout=60)
    names = {"infer [stable]", "infer [canary]", "infer [rescued]", "infer [unrouted]"}
    requests, failures = totals(tmp_path)
    assert requests.keys() == names and min(requests.values()) >= 1, stderr
    assert [name for name in names if failures[name]] == ["infer [unrouted]"]
    assert done.returncode == 1, "failed requests must show in the exit status"
    assert app.paths == {"/v2/models/digits-v7/infer"}

    accuracy = [line for line in stdout.splitlines() if line.startswith("accuracy")]
    assert accuracy == [
        f"accuracy [canary] 0.0000 of {requests['infer [canary]']} images",
        f"accuracy [rescued] 1.0000 of {requests['infer [rescued]']} images",
        f"accuracy [stable] 1.0000 of {requests['infer [stable]']} images",
    ]
