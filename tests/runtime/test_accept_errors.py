"""A process without descriptors says so once, and accepts again when it has some."""

from __future__ import annotations

import asyncio
import os
import resource
import socket
from pathlib import Path

import pytest

from gateway.runtime.accept_errors import say_accept_errors_once
from tests.support.worker import eventually


def open_descriptors() -> list[int]:
    return [int(entry.name) for entry in Path("/proc/self/fd").iterdir()]


def test_accepting_without_descriptors_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    async def run() -> None:
        say_accept_errors_once(asyncio.get_running_loop())
        greeted = 0

        def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal greeted
            greeted += 1
            writer.close()

        server = await asyncio.start_server(greet, "127.0.0.1", 0, backlog=2048)
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        waiting = [socket.socket() for _ in range(3)]
        descriptors = open_descriptors()
        limit = max(descriptors) + 1
        free = [os.dup(0) for _ in range(limit - len(descriptors) + 2)]
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(limit, soft), hard))
        try:
            for client in waiting:
                client.setblocking(False)
                await asyncio.get_running_loop().sock_connect(client, server.sockets[0].getsockname())
            await eventually(lambda: caplog.records, "it is said")
            assert not greeted
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            for descriptor in free:
                os.close(descriptor)
        await eventually(lambda: greeted == len(waiting), "those that waited are accepted")
        server.close()
        for client in waiting:
            client.close()

    with asyncio.Runner() as runner:
        runner.run(run())
    # asyncio may still start to serve on the socket that was closed meanwhile, which it complains of.
    said = [record for record in caplog.records if record.name == "gateway.accept"]
    assert len(said) == 1 and "Too many open files" in said[0].getMessage(), caplog.text
    assert "out of system resource" not in caplog.text


def test_other_errors_are_logged_as_before(caplog: pytest.LogCaptureFixture) -> None:
    async def run() -> None:
        loop = asyncio.get_running_loop()
        say_accept_errors_once(loop)
        loop.call_soon(lambda: 1 // 0)
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    asyncio.run(run())
    assert "ZeroDivisionError" in caplog.text
