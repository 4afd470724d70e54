"""What surrounds the controller in the simulation: its disk, its workers and its clock, all on one virtual loop."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable
from typing import Any

from gateway.control.workers.hub import WorkerHub
from gateway.core.errors import JournalError
from gateway.core.stats.histogram import bucket_of
from gateway.runtime import wire
from tests.support.control import SpokenWorker

_LATENCY = bucket_of(1000)


class LoopClock:
    """The loop's virtual time; wall time goes where it is sent."""

    def __init__(self) -> None:
        self.wall_offset_s = 1_795_000_000.0

    def monotonic_s(self) -> float:
        """Virtual seconds."""
        return asyncio.get_running_loop().time() + 1000.0

    def wall_s(self) -> float:
        """The same, shifted."""
        return self.monotonic_s() + self.wall_offset_s


class Disk:
    """In place of the disk's thread: does what it is asked in order, each after a moment; it can hang and break."""

    def __init__(self, dice: random.Random) -> None:
        self._dice = dice
        self._jobs: deque[tuple[Callable[[], Any], asyncio.Future[Any]]] = deque()
        self._worker: asyncio.Task[None] | None = None
        self._go = asyncio.Event()
        self._go.set()
        self.broken = False
        self.dies_after_commit = False
        self.died = asyncio.Event()

    @property
    def holds(self) -> bool:
        """Whether it hangs."""
        return not self._go.is_set()

    def hold(self) -> None:
        """Hang."""
        self._go.clear()

    def release(self) -> None:
        """Answer again."""
        self._go.set()

    def do(self, work: Callable[[], Any]) -> asyncio.Future[Any]:
        """As `DiskThread.do`."""
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._jobs.append((work, future))
        if self._worker is None or self._worker.done():
            self._worker = asyncio.get_running_loop().create_task(self._run())
        return future

    async def _run(self) -> None:
        while self._jobs:
            await asyncio.sleep(self._dice.choice([0.0, 0.0, 0.001, 0.03]))
            await self._go.wait()
            work, future = self._jobs.popleft()
            try:
                if self.broken:
                    raise JournalError("disk I/O error")
                done, error = work(), None
            except Exception as raised:  # noqa: BLE001  # it is raised where it was asked for
                done, error = None, raised
            if self.dies_after_commit:
                self.died.set()  # it is on the disk, and the caller will never know
                await asyncio.Event().wait()
            if future.done():
                continue
            if error is None:
                future.set_result(done)
            else:
                future.set_exception(error)
                future.exception()


class _Pipe:
    """The writing end of a connection in memory: what asyncio's StreamWriter is to those who write."""

    def __init__(self, reader: asyncio.StreamReader) -> None:
        self._reader = reader
        self._closed = False
        self.transport = self

    def is_closing(self) -> bool:
        return self._closed

    def get_write_buffer_size(self) -> int:
        return 0

    def write(self, data: bytes) -> None:
        if not self._closed:
            self._reader.feed_data(data)

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._reader.feed_eof()

    abort = close


class Worker(SpokenWorker):
    """A worker's end with the real counters, connected to the hub in memory; serves a seeded stream."""

    hub: WorkerHub

    async def connect(self, hub: WorkerHub) -> None:  # type: ignore[override]  # no socket here
        """Say hello."""
        self.hub = hub
        up, down = asyncio.StreamReader(), asyncio.StreamReader()
        writer: Any = _Pipe(up)
        self.writer = writer
        loop = asyncio.get_running_loop()
        self.accepted = loop.create_task(hub._accept(up, _Pipe(down)))  # type: ignore[arg-type]  # it writes like one
        routes = self.table.routes if self.table else ()
        weights, stables = {r.name: r.weight_bp for r in routes}, {r.name: r.stable for r in routes}
        canaries = {r.name: r.canary for r in routes if r.canary}
        self.writer.write(wire.encode(wire.Hello(self.boot, self.index, 1, self.epoch, weights, stables, canaries)))
        self.task = loop.create_task(self._listen(down, writer))

    def traffic(self, dice: random.Random, requests: int, failing: dict[str, float]) -> None:
        """Serve so many requests on every route; ``failing`` is the share of failures by backend."""
        if self.table is None:
            return
        for route in self.table.routes:
            tally = self.tallies[route.name]
            canary = _binomial(dice, requests, route.weight_bp / 10_000)
            for arm, served, backend in (
                (tally.arms[0], requests - canary, route.stable),
                (tally.arms[1], canary, route.canary or ""),
            ):
                if served:
                    arm.requests += served
                    arm.assigned += served
                    errors = _binomial(dice, served, failing.get(backend, 0.0))
                    arm.enter("errors", errors)
                    tries = tally.totals[arm is tally.arms[1]].tries
                    for kind, n in (("ok", served - errors), ("errors", errors)):
                        tries[kind] = tries.get(kind, 0) + n
                    arm.latency[_LATENCY] = arm.latency.get(_LATENCY, 0) + served

    def send_report(self) -> None:
        """Report, unless it hangs or is not connected."""
        if self.hangs or self.task is None:
            return
        report = self.tally.report(self.epoch, 0, 0, 0)
        self.writer.write(wire.encode(report))

    async def close(self) -> None:
        """The connection ends."""
        if self.task is not None:
            self.task.cancel()
            self.writer.close()
            await asyncio.gather(self.task, self.accepted, return_exceptions=True)
            self.task = None


def _binomial(dice: random.Random, n: int, p: float) -> int:
    # Not random.binomialvariate: a seed means the same on every Python.
    return n if p >= 1.0 else sum(dice.random() < p for _ in range(n)) if p > 0.0 else 0
