"""A worker's own log: a pipe that nobody reads stops no request."""

from __future__ import annotations

import contextlib
import json
import os

import pytest

from gateway.core.traffic.table import Route
from gateway.runtime.logs import FORMAT_VARIABLE
from tests.support.backend import Backend, answer
from tests.support.worker import RunningWorker, eventually, table

pytestmark = pytest.mark.anyio
GET = b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"


async def test_a_full_pipe_stops_no_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FORMAT_VARIABLE, "json")
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    full = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            full += os.write(write_end, b"x" * 512)
    os.set_blocking(write_end, True)
    async with Backend(answer(body=b"well")) as backend:
        async with RunningWorker(table(Route("r", "/", stable="a"), a=backend.port), stderr=write_end) as w:
            path = w.directory / "c.sock"
            await w.hub.stop()  # the worker logs that, into the pipe that takes no more
            await w.hub.start(path)
            await eventually(lambda: w.hub.sessions, "it connects again")
            assert (await w.raw(GET)).endswith(b"well")
            assert os.read(read_end, full) == b"x" * full
            line = json.loads(os.read(read_end, 65536).partition(b"\n")[0])
            assert line["process"] == "worker 0"
            assert line["message"].startswith("worker 0: connection to control lost")
            assert w.observer.merged().notes["process_log_dropped"] == 0
    os.close(read_end)
    os.close(write_end)
