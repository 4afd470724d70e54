"""A control plane in the test's own process, with the disk, the clock and the workers under the test's control.

Controller, journal, hub and the workers' counters are the real ones; the workers speak the real protocol over a real
socket, but serve requests that the test makes up.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from pathlib import Path
from typing import Any, Self

import msgspec
import pytest

from gateway.config.build import routing_table
from gateway.config.load import load
from gateway.config.stored import sha256_of
from gateway.control.controller import Controller
from gateway.control.decide.routes import RouteState
from gateway.control.journal.rows import RoutePast
from gateway.control.journal.sqlite_journal import SqliteJournal
from gateway.control.journal.sqlite_store import SqliteStore
from gateway.control.journal.store import Store
from gateway.control.views import ControlEvent
from gateway.control.workers.table_keeper import TableKeeper
from gateway.core.analysis import Analysis, Look
from gateway.core.analysis.bursts.past import Weather
from gateway.core.errors import JournalError
from gateway.core.rollout import Analysed, Phase, Rollout
from gateway.core.stats.histogram import bucket_of
from gateway.core.traffic.table import RoutingTable
from gateway.proxy.counting.counters import WorkerCounters
from gateway.proxy.counting.epoch_counters import EpochCounters
from gateway.runtime import wire
from gateway.runtime.table_memory import SharedTable, encode
from tests.support.worker import eventually


class ManualClock:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self.wall_now_s = 1_700_000_000.0

    def monotonic_s(self) -> float:
        """As set."""
        return self.now_s

    def wall_s(self) -> float:
        """As set."""
        return self.wall_now_s


class Disk:
    """What befalls the journal's writes: they hang while ``hold`` is on; they fail once ``broken`` is set."""

    def __init__(self) -> None:
        self._go = threading.Event()
        self._go.set()
        self.broken = False
        self.dead = False

    @property
    def holds(self) -> bool:
        """Whether writes hang."""
        return not self._go.is_set()

    def hold(self) -> None:
        """From now on no write comes back."""
        self._go.clear()

    def release(self) -> None:
        """The disk answers again."""
        self._go.set()

    def pass_by(self, journal: TestJournal) -> None:
        """Before each write, on the disk's thread."""
        self._go.wait()
        if self.broken or self.dead:
            journal.fail()


class TestJournal(SqliteJournal):
    """The real journal behind a disk of the test's."""

    __test__ = False
    disk: Disk

    def fail(self) -> None:
        """Fail as a full disk does."""
        self.file.broken = "disk I/O error"
        raise JournalError("cannot write: disk I/O error")

    def append(self, *args: Any) -> int:
        """As the disk allows."""
        self.disk.pass_by(self)
        return super().append(*args)

    def save_snapshot(self, *args: Any) -> None:
        """As the disk allows."""
        self.disk.pass_by(self)
        super().save_snapshot(*args)

    def set_weight(self, *args: Any) -> None:
        """As the disk allows."""
        self.disk.pass_by(self)
        super().set_weight(*args)


class SpokenWorker:
    """A worker's end of the conversation, with real counters."""

    def __init__(self, index: int, boot: str) -> None:
        self.index = index
        self.boot = boot
        self.tally = WorkerCounters(boot)
        self.table: RoutingTable | None = None
        self.tallies: dict[str, EpochCounters] = {}
        self.tables: list[RoutingTable] = []
        self.down: tuple[wire.EndpointDown, ...] = ()
        self.acked = 0
        self.task: asyncio.Task[None] | None = None
        self._reading = asyncio.Event()
        self._reading.set()

    @property
    def epoch(self) -> int:
        """The table's, 0 before the first."""
        return self.table.epoch if self.table else 0

    def weight_bp(self, route: str = "r") -> int:
        """What it gives the canary."""
        return self.table.route(route).weight_bp if self.table else 0

    async def connect(self, path: Path) -> None:
        """Say hello."""
        self.reader, self.writer = await asyncio.open_unix_connection(str(path))
        weights = {r.name: r.weight_bp for r in self.table.routes} if self.table else {}
        stables = {r.name: r.stable for r in self.table.routes} if self.table else {}
        canaries = {r.name: r.canary for r in self.table.routes if r.canary} if self.table else {}
        self.writer.write(wire.encode(wire.Hello(self.boot, self.index, 1, self.epoch, weights, stables, canaries)))
        self.task = asyncio.create_task(self._listen(self.reader, self.writer))

    async def _listen(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while True:
                await self._reading.wait()
                message = await wire.read_down(reader)
                await self._reading.wait()
                match message:
                    case wire.SetTable(table):
                        self.tables.append(table)
                        if table.epoch > self.epoch:
                            self.table = table
                            self.tallies = self.tally.enter_table(table.epoch, table.routes)
                        writer.write(wire.encode(wire.Applied(self.epoch)))
                    case wire.SetHealth(down):
                        self.down = down
                    case wire.Ack(seq):
                        self.acked = max(self.acked, seq)
                        self.tally.acknowledged(seq)

    def hang(self) -> None:
        """As after SIGSTOP: what arrives stays unread."""
        self._reading.clear()

    def wake(self) -> None:
        """As after SIGCONT."""
        self._reading.set()

    @property
    def hangs(self) -> bool:
        """Whether it does."""
        return not self._reading.is_set()

    def serve(
        self, stable: int, canary: int, canary_errors: int = 0, route: str = "r", *, stable_errors: int = 0
    ) -> None:
        """Count made-up requests under the table in force."""
        tally = self.tallies[route]
        for totals, requests, errors in zip(
            tally.totals, (stable, canary), (stable_errors, canary_errors), strict=True
        ):
            for kind, n in (("ok", requests - errors), ("errors", errors)):
                totals.tries[kind] = totals.tries.get(kind, 0) + n
        for arm, requests in zip(tally.arms, (stable, canary), strict=True):
            arm.requests += requests
            if requests:
                bucket = bucket_of(1000)
                arm.latency[bucket] = arm.latency.get(bucket, 0) + requests
                arm.duration[bucket] = arm.duration.get(bucket, 0) + requests
        tally.arms[0].enter("errors", stable_errors)
        tally.arms[1].enter("errors", canary_errors)

    async def report(self) -> None:
        """Send what was counted, and wait until it was taken in."""
        if self.hangs:
            return
        report = self.tally.report(self.epoch, 0, 0, 0)
        self.writer.write(wire.encode(report))
        await eventually(lambda: self.acked >= report.seq, f"worker {self.boot}'s report {report.seq} is acknowledged")

    async def close(self) -> None:
        """The connection ends."""
        if self.task is not None:
            self.task.cancel()
            await asyncio.gather(self.task, return_exceptions=True)
            self.writer.close()
            self.task = None


class Plane:
    """Lives of the control plane, one after the other, over one journal and the same workers."""

    def __init__(self, directory: Path, text: str, *, workers: int = 2) -> None:
        self.directory = directory
        self.config_path = directory / "gateway.yaml"
        self.config_path.write_text(text)
        self.clock = ManualClock()
        self.disk = Disk()
        self.shared = SharedTable.create()
        self.workers = [SpokenWorker(index, f"w{index}-0") for index in range(workers)]
        self._births = workers
        self.controller: Controller
        self.journal: TestJournal

    async def __aenter__(self) -> Self:
        await self.begin()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.disk.release()
        for worker in self.workers:
            await worker.close()
        await self.controller.stop()
        self.shared.close()

    def forget(self, *, kept: bool) -> None:
        """All processes end, and the shared memory with them; ``kept``: the state directory has what was in it."""
        remembered = self.shared.read()
        self.shared.close()
        self.shared = SharedTable.create()
        if kept and remembered is not None:
            self.shared.write(encode(msgspec.structs.replace(remembered, from_file=True)))

    @property
    def socket(self) -> Path:
        """Where the hub listens."""
        return self.directory / "c.sock"

    @property
    def journal_path(self) -> Path:
        """Where the journal is."""
        return self.directory / "state.sqlite3"

    async def begin(self) -> None:
        """A life begins: open the journal, take the workers' reports, publish."""
        config = load(self.config_path)
        store: Store | JournalError
        try:
            store = self.store = SqliteStore.open(self.journal_path)
            self.store.journal = self.journal = TestJournal(self.store.file, self.store.journal.last_seq)
            self.journal.disk = self.disk
        except JournalError as error:
            store = error
        config = config.model_copy(update={"workers": len(self.workers)})
        keeper = TableKeeper(self.shared, config_sha256=sha256_of(self.config_path.read_bytes()))
        self.controller = Controller(config, routing_table(config, epoch=0), store, self.clock, keeper=keeper)
        self.events = self.controller.events()
        await self.controller.hub.start(self.socket)
        for worker in self.workers:
            await worker.connect(self.socket)
        await self.controller.recover()

    async def kill(self) -> None:
        """The life ends as by SIGKILL: what waits for the disk never reaches it."""
        self.disk.dead = True
        self.disk.release()
        for worker in self.workers:
            await worker.close()
        await self.controller.hub.stop()
        await eventually(lambda: self.controller._journal_writer.idle, "the disk's thread is done")
        self.store.close()
        self.disk = Disk()

    async def restart(self, text: str | None = None) -> None:
        """Kill, and begin again."""
        await self.kill()
        if text is not None:
            self.config_path.write_text(text)
        await self.begin()

    async def newborn(self, index: int) -> SpokenWorker:
        """The worker in this place dies; connect the new one."""
        await self.workers[index].close()
        self._births += 1
        self.workers[index] = SpokenWorker(index, f"w{index}-{self._births}")
        return self.workers[index]

    async def serve(
        self, stable: int, canary: int, canary_errors: int = 0, route: str = "r", *, stable_errors: int = 0
    ) -> None:
        """Every worker serves so many, and reports."""
        for worker in self.workers:
            worker.serve(stable, canary, canary_errors, route, stable_errors=stable_errors)
            await worker.report()

    def tick(self, after_s: float = 0.1) -> None:
        """Time passes and the controller looks."""
        self.clock.now_s += after_s
        self.controller.tick()

    async def good(self, route: str = "r") -> None:
        """Enough good traffic to prove the canary, split by the weight in force; one tick at its end."""
        await self._split(12_000, 0.0, route)
        self.tick(1.0)

    async def bad(self, route: str = "r") -> None:
        """Enough bad traffic to convict the canary, over a few seconds with a tick each."""
        for _ in range(8):
            if not self.state(route).phase.active or self.state(route).phase is Phase.RETURNING:
                break
            await self._split(400, 0.7, route)
            self.tick(0.5)

    async def _split(self, requests: int, error_share: float, route: str) -> None:
        canary = requests * self.weight_bp(route) // 10_000
        await self.serve(requests - canary, canary, round(canary * error_share), route)

    async def quiet(self) -> None:
        """Wait until nothing waits for the disk."""
        decisions = self.controller._pipeline
        await eventually(lambda: self.controller._journal_writer.idle and not decisions._tasks, "the disk is quiet")

    def queued(self) -> int:
        """How much waits for the disk."""
        return self.controller._journal_writer._thread._jobs.qsize()

    def never_sync(self) -> None:
        """A disk that is faster than it may be."""
        self.store.file.connection.execute("PRAGMA synchronous = OFF")

    def weight_bp(self, route: str = "r") -> int:
        """The weight in force."""
        return round(self.controller.route(route).canary_percent * 100)

    def stable(self, route: str = "r") -> str | None:
        """Who serves all but the canary's share."""
        return self.controller.route(route).stable

    def state(self, route: str = "r") -> Rollout:
        """The rollout in force."""
        return self.controller._routes[route].rollout

    def past(self, route: str = "r") -> RoutePast:
        """What is kept of the route's stable."""
        return self.controller._routes[route].past

    def weather(self, metric: str = "errors", route: str = "r") -> Weather:
        """What a rollout that began now would know of stable's bad moments."""
        return self.controller._routes[route].weather.get(metric, Weather())

    def weather_of_rollout(self, route: str = "r") -> dict[str, Weather]:
        """What the rollout under way was told."""
        state = self.controller._routes[route].analysis_state
        assert state is not None
        return state.weather

    def save_pasts(self) -> None:
        """As every minute."""
        self.controller._pasts.save(self.clock.now_s)

    def journaled(self, route: str = "r") -> Rollout | None:
        """The rollout as the journal would have it after a crash."""
        latest = self.journal.latest(route)
        return None if latest is None else self.journal.replay(latest.rollout_id)

    def analysis(self, route: str = "r") -> Analysis | None:
        """What the last tick found."""
        return self.controller._routes[route].analysis

    def waits(self, route: str) -> bool:
        """Whether something is decided that is not in force yet."""
        state = self.controller._routes[route]
        return state.decided is not state.rollout

    def stumble_over(self, name: str, patch: pytest.MonkeyPatch) -> None:
        """A fault of our own in whatever the analysis of this route leads to."""
        decisions = self.controller._pipeline
        on_analysis = decisions.on_analysis

        def stumbling(route: RouteState, event: Analysed, look: Look) -> None:
            if route.name == name:
                raise RuntimeError("a fault")
            on_analysis(route, event, look)

        patch.setattr(decisions, "on_analysis", stumbling)

    def alarms(self) -> list[str]:
        """What stands, but for the alarms of single backends."""
        return [one.reason for one in self.controller.alarms() if not one.what.startswith("backend ")]

    def reported(self, *kinds: str) -> list[ControlEvent]:
        """The remembered events of these kinds."""
        remembered = self.controller._events._remembered
        return [event for event in remembered if event.kind in kinds]


def text(*routes: str, canary_percent: float = 0.0, **changes: Any) -> str:
    """A configuration with these routes (default: r), each with two steps that need evidence but no time."""
    document = {
        "backends": {
            "v1": {"endpoints": ["http://127.0.0.1:9"], "probe": None},
            "v2": {"endpoints": ["http://127.0.0.1:9"], "probe": None},
            "v3": {"endpoints": ["http://127.0.0.1:9"], "probe": None},
        },
        "routes": [
            {
                "name": name,
                "match": {"path_prefix": f"/{name}"},
                "stable": "v1",
                "canary": "v2",
                "canary_percent": canary_percent,
                "analysis": {"latency": {"mode": "advise"}},
                "plan": {
                    "steps": [
                        {"percent": 20, "min_time_s": 0, "min_requests": 0},
                        {"percent": 50, "min_time_s": 0, "min_requests": 0},
                    ]
                },
            }
            | changes
            for name in routes or ("r",)
        ],
    }
    return msgspec.yaml.encode(document).decode()
