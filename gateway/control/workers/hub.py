"""Control's end of the conversation with the workers: one Unix-domain socket, one session per worker.

`send_table` never waits; `settled` returns when every connected worker has said that it routes by the table, or when it
has waited long enough. A worker that hangs gets the table when it wakes, and is not waited for again until then; one
that has hung through megabytes of messages is cut off, and gets the newest of everything when it is back.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path

from gateway.control.workers.report_aggregator import ReportAggregator
from gateway.core.traffic.table import RoutingTable
from gateway.runtime import wire
from gateway.runtime.clock import Clock
from gateway.runtime.unix_server import unix_server

_log = logging.getLogger("gateway.control")
_APPLY_TIMEOUT_S = 1.0
_BACKLOG_BYTES_MAX = 4 << 20


class Session:
    """One connected worker."""

    def __init__(self, hello: wire.Hello, writer: asyncio.StreamWriter, now_s: float) -> None:
        self.hello = hello
        self.epoch = hello.epoch
        # When it last spoke. A report comes every few dozen milliseconds.
        self.last_message_s = now_s
        self.last_report_s = 0.0
        self.hangs = False
        self._writer = writer

    def send(self, message: wire.Down) -> None:
        """Send without waiting; a worker that does not read loses the connection, not the control plane its memory."""
        transport = self._writer.transport
        if transport.is_closing():
            return
        if transport.get_write_buffer_size() > _BACKLOG_BYTES_MAX:
            _log.error(
                "worker %s: not reading from its connection, which is closed; it will reconnect", self.hello.boot
            )
            transport.abort()
            return
        self._writer.write(wire.encode(message))


class WorkerHub:
    """All sessions; the newest table and health are sent to each one that connects."""

    def __init__(
        self, aggregator: ReportAggregator, clock: Clock, on_change: Callable[[str, wire.Hello], None]
    ) -> None:
        self._aggregator = aggregator
        self._clock = clock
        self._on_change = on_change
        self._sessions: dict[str, Session] = {}
        self._table: RoutingTable | None = None
        # None before the probes have settled: workers that outlived another control plane keep what that one knew.
        self._down: tuple[wire.EndpointDown, ...] | None = None
        self._applied = asyncio.Condition()
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self, path: Path) -> None:
        """Listen at ``path`` (mode 0600; a socket left by a dead control plane is replaced)."""
        path.parent.mkdir(mode=0o700, exist_ok=True)
        self._server = await unix_server(self._accept, path)

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

    def send_table(self, table: RoutingTable) -> None:
        """Give every worker a new table, now and when it connects."""
        self._table = table
        for session in self.sessions:
            session.send(wire.SetTable(table))

    async def settled(self, epoch: int) -> bool:
        """Wait for the workers to route by ``epoch``; True when all connected ones do."""
        try:
            async with asyncio.timeout(_APPLY_TIMEOUT_S), self._applied:
                await self._applied.wait_for(lambda: all(s.epoch >= epoch or s.hangs for s in self.sessions))
        except TimeoutError:
            for session in self.sessions:
                session.hangs = session.hangs or session.epoch < epoch
        return self.applied(epoch) == len(self._sessions)

    async def publish(self, table: RoutingTable) -> bool:
        """Both of the above."""
        self.send_table(table)
        return await self.settled(table.epoch)

    def applied(self, epoch: int) -> int:
        """How many connected workers route by ``epoch`` or a later one."""
        return sum(session.epoch >= epoch for session in self._sessions.values())

    def publish_health(self, down: tuple[wire.EndpointDown, ...]) -> None:
        """Send every worker the endpoints that are down."""
        self._down = down
        for session in self.sessions:
            session.send(wire.SetHealth(down))

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        session: Session | None = None
        try:
            session = self._greet(await wire.read_up(reader), writer)
            while True:
                await self._take(session, await wire.read_up(reader))
        except (OSError, asyncio.IncompleteReadError):
            pass
        except asyncio.CancelledError:
            pass  # by `stop`; a cancelled task would make asyncio's streams complain
        except ValueError as error:
            _log.error(
                "worker %s: connection closed after a protocol error: %s",
                session.hello.boot if session else "?",
                error,
            )
        finally:
            self._tasks.discard(task)
            writer.close()
            if session is not None:
                await self._ended(session)

    def _greet(self, hello: wire.Up, writer: asyncio.StreamWriter) -> Session:
        if not isinstance(hello, wire.Hello):
            raise ValueError(f"a worker began with {type(hello).__name__} instead of Hello")
        now_s = self._clock.monotonic_s()
        session = self._sessions[hello.boot] = Session(hello, writer, now_s)
        self._aggregator.arrived(hello.boot, hello.index, now_s)
        self._on_change("connected", hello)
        if self._down is not None:
            session.send(wire.SetHealth(self._down))
        if self._table is not None:
            session.send(wire.SetTable(self._table))
        return session

    async def _ended(self, session: Session) -> None:
        boot = session.hello.boot
        # It may have come back on a new connection before the old one was seen to end.
        if self._sessions.get(boot) is session:
            del self._sessions[boot]
            self._aggregator.gone(boot, self._clock.monotonic_s())
            self._on_change("disconnected", session.hello)
        async with self._applied:
            self._applied.notify_all()

    async def _take(self, session: Session, message: wire.Up) -> None:
        session.last_message_s = self._clock.monotonic_s()
        match message:
            case wire.Report():
                session.last_report_s = session.last_message_s
                self._aggregator.take(message, session.last_report_s)
                session.send(wire.Ack(message.seq))
            case wire.Applied(epoch):
                session.epoch = max(session.epoch, epoch)
                session.hangs = False
                async with self._applied:
                    self._applied.notify_all()
            case wire.Hello():
                raise ValueError("a second Hello")
