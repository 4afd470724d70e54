"""A worker process: accepts on an inherited listening socket, and routes by control's tables.

The listening socket stays open in the supervisor, so that a worker that dies loses none of the connections still queued
on it. SIGTERM drains (listener.py); SIGHUP looks at the TLS files at once. Both are handled from the start on.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import signal
import socket
import sys

import msgspec

from gateway.core.traffic.table import RoutingTable
from gateway.proxy import memory
from gateway.proxy.context import WorkerContext
from gateway.proxy.control_link import ControlLink
from gateway.proxy.counting.sample_link import SampleLink
from gateway.proxy.http1.client_connection import http1_connections
from gateway.proxy.listen.listener import Listener
from gateway.proxy.listen.tls import ServerTls
from gateway.proxy.spans import SEND_EVERY_S, SpanLink
from gateway.proxy.sweeper import Sweeper
from gateway.runtime.child import beat, orphaned, say_ready, say_retiring
from gateway.runtime.logs import log_to_stderr
from gateway.runtime.settings import WorkerSettings
from gateway.runtime.table_memory import SharedTable, first_table

# How long a newborn worker waits for control's table before it serves by the one it was born with (stable only).
_FIRST_TABLE_WAIT_S = 2.0
_TLS_LOOK_S = 1.0
_ROUTES_NAMED = 10
_log = logging.getLogger("gateway.worker")


def run(settings: WorkerSettings) -> None:
    """Serve until SIGTERM or SIGINT, and drain."""
    listener = socket.socket(fileno=settings.listen_fd)
    log_to_stderr(f"worker {settings.index}")
    with asyncio.Runner(loop_factory=_new_loop) as runner:
        runner.run(_serve(settings, listener))


def _new_loop() -> asyncio.AbstractEventLoop:
    import uvloop  # noqa: PLC0415  # only a worker pays for it

    return uvloop.new_event_loop()


async def _serve(settings: WorkerSettings, sock: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    table, source = _own_table(settings)
    worker = WorkerContext(
        loop,
        table,
        settings.limits,
        boot=f"{settings.index}-{os.getpid()}-{secrets.token_hex(4)}",
        connections=http1_connections,
        trusted_proxies=settings.trusted_proxies,
        policy=settings.headers,
        access_log=settings.access_log,
        tracing=settings.tracing,
        place=(settings.index, settings.workers),
    )
    tls = _tls(settings, worker, loop)
    link = ControlLink(worker, settings.index, settings.control_path, settings.report_interval_s)
    tasks = [asyncio.create_task(link.run()), asyncio.create_task(_orphaned())]
    tasks.append(asyncio.create_task(beat(settings.limits.hang_timeout_s)))
    tasks.append(asyncio.create_task(SampleLink(worker.samples, settings.control_path).run()))
    tasks.append(asyncio.create_task(worker.features.run(settings.control_path, lambda: _wants_features(worker))))
    if worker.tracer is not None:
        tasks.append(asyncio.create_task(SpanLink(worker.tracer, settings.control_path).run()))
    Sweeper(worker).start()
    await _first_table(link, stop)
    if not (link.table_received.is_set() or stop.is_set()):
        _log.warning(
            "worker %d: no routing table from control yet; serving stable versions only, from %s",
            *(settings.index, source),
        )
    listener = Listener(worker, sock, tls=tls, proxy_protocol=settings.proxy_protocol)
    if not stop.is_set():
        memory.settle()
        listener.start()
        say_ready()
        await stop.wait()
        say_retiring()
        await listener.drain(settings.limits.drain_timeout_s)
        # The last report goes out before the process does: what was counted while draining is evidence too.
        await asyncio.sleep(2 * max(settings.report_interval_s, 0.0 if worker.tracer is None else SEND_EVERY_S))
    for task in tasks:
        task.cancel()
    if worker.access is not None:
        worker.access.close()


def _wants_features(worker: WorkerContext) -> bool:
    return any(route.features is not None for route in worker.routes.values())


def _own_table(settings: WorkerSettings) -> tuple[RoutingTable, str]:
    """What to serve by until control speaks, and in words where it comes from."""
    kept = None
    if settings.memory_fds is not None:
        shared = SharedTable(settings.memory_fds)
        kept = shared.read()
        shared.close()
    table = first_table(settings.table, settings.config_sha256, kept)
    serving = ", ".join(f"{route.name}: {route.stable or 'nothing'}" for route in table.routes[:_ROUTES_NAMED])
    known = "the configuration file" if kept is None else f"table {kept.table.epoch} from memory"
    return table, f"{known} ({serving})"


async def _first_table(link: ControlLink, stop: asyncio.Event) -> None:
    """Wait for control's table, a while: when control is away, memory and stable only are safe to begin with."""
    waiters = [asyncio.create_task(event.wait()) for event in (link.table_received, stop)]
    await asyncio.wait(waiters, timeout=_FIRST_TABLE_WAIT_S, return_when=asyncio.FIRST_COMPLETED)
    for waiter in waiters:
        waiter.cancel()


def _tls(settings: WorkerSettings, worker: WorkerContext, loop: asyncio.AbstractEventLoop) -> ServerTls | None:
    tls = None if settings.tls is None else ServerTls(settings.tls)

    def look() -> None:
        worker.pools.each(lambda pool: pool.refresh_tls())
        if tls is not None:
            tls.refresh()
            worker.counts.tls_not_after_s = tls.not_after_s

    def look_again() -> None:
        loop.call_later(_TLS_LOOK_S, look_again)
        look()

    look_again()
    loop.add_signal_handler(signal.SIGHUP, look)
    return tls


async def _orphaned() -> None:
    """End when the supervisor is gone: an unsupervised worker must not hold the port."""
    await orphaned()
    os.kill(os.getpid(), signal.SIGTERM)


def main() -> None:
    """Entry of ``python -m gateway.proxy.worker``: settings arrive as JSON on standard input."""
    run(msgspec.json.decode(sys.stdin.buffer.read(), type=WorkerSettings))


if __name__ == "__main__":
    main()
