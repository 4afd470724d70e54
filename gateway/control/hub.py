"""Control's end of the conversation with the workers: one Unix-domain socket, one session per worker.

`publish` returns when every connected worker has said that it routes by the new table (or when it has waited long
enough: a worker that hangs gets the table when it wakes, and is not waited for again until then).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable
from pathlib import Path

from gateway.control.observer import Observer
from gateway.core.traffic.table import RoutingTable
from gateway.runtime import wire
from gateway.runtime.clock import Clock

_log = logging.getLogger("gateway.control")
_APPLY_TIMEOUT_S = 1.0


class Session:
    """One connected worker."""

    def __init__(self, hello: wire.Hello, writer: asyncio.StreamWriter) -> None:
        self.hello = hello
        self.epoch = hello.epoch
        self.reported_s = 0.0
        self._writer = writer

    def send(self, message: wire.Down) -> None:
        """Send without waiting; a worker that does not read is cut off by its own death or by ours."""
        if not self._writer.is_closing():
            self._writer.write(wire.encode(message))


class WorkerHub:
    """All sessions; the newest table and health are given to whoever connects."""

    def __init__(self, observer: Observer, clock: Clock, on_change: Callable[[str, wire.Hello], None]) -> None:
        self._observer = observer
        self._clock = clock
        self._on_change = on_change
        self._sessions: dict[str, Session] = {}
        self._table: RoutingTable | None = None
        self._down: tuple[str, ...] = ()
        self._applied = asyncio.Condition()
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self, path: Path) -> None:
        """Listen at ``path`` (mode 0600; a socket left by a dead control plane is replaced)."""
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
        umask = os.umask(0o177)
        try:
            self._server = await asyncio.start_unix_server(self._accept, str(path))
        finally:
            os.umask(umask)

    async def stop(self) -> None:
        """Hang up on all workers."""
        if self._server is not None:
            self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def sessions(self) -> list[Session]:
        """The connected workers."""
        return list(self._sessions.values())

    async def publish(self, table: RoutingTable) -> bool:
        """Give every worker a new table; True when all of them route by it."""
        self._table = table
        for session in self._sessions.values():
            session.send(wire.SetTable(table))
        try:
            async with asyncio.timeout(_APPLY_TIMEOUT_S), self._applied:
                await self._applied.wait_for(lambda: self.applied(table.epoch) == len(self._sessions))
        except TimeoutError:
            return False
        return True

    def applied(self, epoch: int) -> int:
        """How many connected workers route by ``epoch`` or a later one."""
        return sum(session.epoch >= epoch for session in self._sessions.values())

    def publish_health(self, down: tuple[str, ...]) -> None:
        """Tell every worker which endpoints are down."""
        self._down = down
        for session in self._sessions.values():
            session.send(wire.SetHealth(down))

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        boot = ""
        try:
            hello = await wire.read_up(reader)
            if not isinstance(hello, wire.Hello):
                raise ValueError(f"a worker began with {type(hello).__name__} instead of Hello")
            boot = hello.boot
            session = self._sessions[boot] = Session(hello, writer)
            self._observer.arrived()
            self._on_change("connected", hello)
            session.send(wire.SetHealth(self._down))
            if self._table is not None:
                session.send(wire.SetTable(self._table))
            while True:
                await self._take(session, await wire.read_up(reader))
        except (OSError, asyncio.IncompleteReadError):
            pass
        except ValueError as error:
            _log.error("worker %s spoke nonsense: %s", boot or "?", error)
        finally:
            self._tasks.discard(task)
            writer.close()
            await self._ended(boot)

    async def _ended(self, boot: str) -> None:
        session = self._sessions.pop(boot, None)
        if session is not None:
            self._observer.gone(boot, self._clock.monotonic_s())
            self._on_change("disconnected", session.hello)
            async with self._applied:
                self._applied.notify_all()

    async def _take(self, session: Session, message: wire.Up) -> None:
        match message:
            case wire.Report():
                session.reported_s = self._clock.monotonic_s()
                self._observer.take(message, session.reported_s)
                session.send(wire.Ack(message.seq))
            case wire.Applied(epoch):
                session.epoch = max(session.epoch, epoch)
                async with self._applied:
                    self._applied.notify_all()
            case wire.Hello():
                raise ValueError("a second Hello")
