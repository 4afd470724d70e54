"""A worker process: uvicorn hosts the protocol on an inherited listening socket, control tells it where to route.

uvicorn brings the accept loop, TLS and the graceful shutdown; its ASGI side is never entered. The listening socket
stays open in the supervisor, so that a worker that dies loses none of the connections still queued on it.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import secrets
import signal
import socket
import sys
from typing import Any

import msgspec
import uvicorn

from gateway.proxy.http1 import DownstreamConnection
from gateway.proxy.link import ControlLink
from gateway.proxy.state import SWEEP_S, WorkerState
from gateway.runtime.child import orphaned
from gateway.runtime.settings import WorkerSettings

# How long a newborn worker waits for control's table before it serves by the one it was born with (stable only).
_FIRST_TABLE_WAIT_S = 2.0


def run(settings: WorkerSettings) -> None:
    """Serve until told to stop (SIGTERM drains)."""
    listener = socket.socket(fileno=settings.listen_fd)
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(levelname)s %(name)s %(message)s")
    with asyncio.Runner(loop_factory=_new_loop) as runner:
        runner.run(_serve(settings, listener))


def _new_loop() -> asyncio.AbstractEventLoop:
    import uvloop  # noqa: PLC0415  # only a worker pays for it

    return uvloop.new_event_loop()


async def _serve(settings: WorkerSettings, listener: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    worker = WorkerState(
        loop,
        settings.table,
        settings.limits,
        boot=f"{settings.index}-{os.getpid()}-{secrets.token_hex(4)}",
        trusted_proxies=settings.trusted_proxies,
    )
    link = ControlLink(worker, settings.index, settings.control_path, settings.report_interval_s)
    tasks = [asyncio.create_task(link.run()), asyncio.create_task(_orphaned())]
    _sweep(worker)
    try:
        async with asyncio.timeout(_FIRST_TABLE_WAIT_S):
            await link.table_received.wait()
    except TimeoutError:
        pass  # control is away: stable only is the safe table to begin with
    server = uvicorn.Server(_config(worker, settings))
    # uvicorn raises a captured signal again when it is done; the last report must still get out.
    signal.signal(signal.SIGTERM, lambda *_: None)
    signal.signal(signal.SIGINT, lambda *_: None)
    await server.serve(sockets=[listener])
    # The last report goes out before the process does: what was counted while draining is evidence too.
    await asyncio.sleep(2 * settings.report_interval_s)
    for task in tasks:
        task.cancel()


def _config(worker: WorkerState, settings: WorkerSettings) -> uvicorn.Config:
    def protocol(*, server_state: Any, **_: Any) -> asyncio.Protocol:
        return DownstreamConnection(worker, server_state.connections)

    return uvicorn.Config(
        app=_no_app,
        http=protocol,  # type: ignore[arg-type]  # typed as a class, called as a factory
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        backlog=2048,
        timeout_graceful_shutdown=math.ceil(settings.limits.drain_timeout_s),
    )


async def _no_app(scope: Any, receive: Any, send: Any) -> None:
    raise AssertionError("the data plane speaks for itself: no ASGI application is behind it")


def _sweep(worker: WorkerState) -> None:
    # Armed first: a sweep that fails is the loop's to report, and must not be the last one.
    worker.loop.call_later(SWEEP_S, _sweep, worker)
    worker.sweep()


async def _orphaned() -> None:
    """End when the supervisor is gone: a worker that nobody looks after must not hold the port."""
    await orphaned()
    os.kill(os.getpid(), signal.SIGTERM)


def main() -> None:
    """Entry of ``python -m gateway.proxy.server``: settings arrive as JSON on standard input."""
    run(msgspec.json.decode(sys.stdin.buffer.read(), type=WorkerSettings))


if __name__ == "__main__":
    main()
