"""The command line as processes, against an admin API in a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest

TOKEN = "a-token-of-sixteen-or-more"
DOUBLE = Path(__file__).parents[1] / "admin" / "control_double.py"
ROOT = Path(__file__).parents[2]


class Ran(NamedTuple):
    """What a command line did."""

    status: int
    out: str
    err: str


class Api(NamedTuple):
    """A running admin API, and a client of its own to look behind the commands."""

    url: str
    http: httpx.Client

    def state(self) -> Any:
        return [self.http.get("/api/v1/routes").json(), self.http.get("/api/v1/rollouts").json()]


Run = Callable[..., Ran]


def environment(**more: str) -> dict[str, str]:
    """The process's environment without what would steer the commands."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("GATEWAY_", "COLUMNS"))}
    return kept | {"PYTHONPATH": str(ROOT)} | more


@pytest.fixture
def run() -> Run:
    def run(*arguments: str, **env: str) -> Ran:
        done = subprocess.run(
            [sys.executable, "-m", "gateway", *arguments],
            env=environment(**env),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert "Traceback" not in done.stderr, done.stderr
        return Ran(done.returncode, done.stdout, done.stderr)

    return run


def _serving(*arguments: str) -> Iterator[Api]:
    process = subprocess.Popen(
        [sys.executable, str(DOUBLE), *arguments], env=environment(), stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        assert url, "the admin API did not start"
        with httpx.Client(base_url=url, headers={"authorization": f"Bearer {TOKEN}"}, timeout=10) as client:
            yield Api(url, client)
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=20)


@pytest.fixture(scope="module")
def api() -> Iterator[Api]:
    yield from _serving()


@pytest.fixture(scope="module")
def guarded() -> Iterator[Api]:
    yield from _serving("--token", TOKEN)
