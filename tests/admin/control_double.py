"""A control plane in memory, for tests of what stands above it.

The rollout machine and the event log are the real ones; there are neither workers nor traffic nor a journal.
As a program it serves the admin API on a free loopback port, and prints the URL:

    python tests/admin/control_double.py [--token TOKEN]
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import itertools
import math
import socket
import ssl
import sys
import tempfile
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Self, cast

import msgspec

from gateway.admin.app import build_admin
from gateway.admin.audit import AuditTrail
from gateway.admin.auth_failures import AuthFailures
from gateway.admin.configuring import Configuring
from gateway.admin.connections import Connections
from gateway.admin.idempotency import Replays
from gateway.admin.principals import Keyring
from gateway.admin.server import AdminServer, server_config
from gateway.config.admin import ClientConfig, Scope
from gateway.config.host_checks import Key, sha256_of
from gateway.config.load import load
from gateway.config.schema import GatewayConfig
from gateway.config.stored import Stored, effective
from gateway.control.alarms import Alarms
from gateway.control.api import TrafficTotals
from gateway.control.decide.rollout_records import RolloutRecord
from gateway.control.events import EventLog
from gateway.control.journal import names
from gateway.control.journal.given_configuration import GivenConfiguration
from gateway.control.journal.rows import JournalEntry
from gateway.control.journal.sqlite_store import SqliteStore
from gateway.control.journal.writer import JournalWriter
from gateway.control.show.decision_history import decision_history
from gateway.control.views import (
    AlarmView,
    BackendView,
    BadMoments,
    ControlEvent,
    DataResult,
    DecisionView,
    EndpointView,
    LatencyDistributions,
    ProbeCounts,
    Readiness,
    RolloutDataResults,
    RolloutSeries,
    RolloutView,
    RouteView,
    WorkerView,
)
from gateway.core.analysis.types import Analysis, Finding, Verdict
from gateway.core.errors import ConflictError, JournalError, NotFoundError
from gateway.core.objectives import Objectives
from gateway.core.rollout import (
    AbortRequested,
    ApproveRequested,
    Event,
    Notify,
    PauseRequested,
    Phase,
    Plan,
    PromoteRequested,
    ResumeRequested,
    Rollout,
    Started,
    Step,
    WeightRequested,
    allowed,
    step,
)
from gateway.core.traffic.table import RoutingTable
from gateway.core.types import percent_from_weight_bp
from gateway.runtime.clock import SystemClock
from gateway.runtime.notices import Notice

PLAN = Plan((Step(100, 1.0, 10), Step(5_000, 1.0, 10)), deadline_s=60.0)
METRICS = b"# TYPE gateway_up gauge\ngateway_up 1\n"
METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"


# What is known of a route that has had traffic for an hour.
_WATCHED: dict[str, Any] = {
    "stable_per_s": 45.0,
    "canary_per_s": 5.0,
    "stable_known_s": 3600.0,
    "bad_moments": (BadMoments("errors", 3600.0, 12.0, 12.0, 1.4, 2.3, 0.01),),
}


class Scraped:
    """What a scrape finds."""

    def render(self, *, openmetrics: bool) -> tuple[bytes, str]:
        """The same in every format."""
        return METRICS, METRICS_TYPE


CONFIG = """\
state_dir: state
admin:
  backend_allow: [10.0.0.0/8, "*.models.example"]
backends:
  digits-v1: {endpoints: ["http://127.0.0.1:8001"]}
  digits-v2: {endpoints: ["http://127.0.0.1:8002"]}
  spare: {endpoints: ["http://127.0.0.1:8003"]}
routes:
  - {name: digits, match: {path_prefix: /v2/models/digits}, stable: digits-v1, canary: digits-v2}
  - {name: plain, match: {path_prefix: /v2/models/plain}, stable: digits-v1}
"""
ANALYSIS = Analysis(
    verdict=Verdict.NODATA,
    reason="no canary requests yet",
    causes=("errors",),
    findings=(Finding("errors", Verdict.NODATA, "no data", True, -math.inf, math.nan, 0, 3, 0, 0, {"p": math.inf}),),
    log_e_bad=-math.inf,
    log_e_bad_needed=6.0,
    log_e_ok_needed=3.0,
    stable_requests=3,
    canary_requests=0,
)


class ControlDouble:
    """Two routes: ``digits`` with a canary, ``plain`` without. ``journal_fails`` refuses every command."""

    notice = Notice()
    table_source = "journal"
    state_kept = True

    def __init__(self, config: GatewayConfig) -> None:
        self.log = EventLog(SystemClock())
        self.given = cast("GivenConfiguration", None)  # a server of it has a store
        self.journal_fails = False
        self.ready = True
        self.listeners = 0
        self.labels: list[tuple[str, str, bool | float]] = []
        self.config = config
        self.commands = self
        self._canaries = {route.name: route.canary for route in config.routes}
        self._weights_bp = dict.fromkeys(self._canaries, 0)
        self._epoch = 1
        self._rollouts: dict[str, Rollout] = {}
        self._entries: list[JournalEntry] = []
        self._numbers = itertools.count(1)
        self._at_s = itertools.count()

    def state(self) -> Any:
        """All that a command could change."""
        return msgspec.to_builtins([self.routes(), self.rollouts(limit=1000), self.backends()])

    def objectives(self) -> dict[str, Objectives]:
        return {}

    def routes(self) -> list[RouteView]:
        return [self.route(name) for name in self._canaries]

    def route(self, name: str) -> RouteView:
        self._known(name)
        latest = self._latest(name)
        return RouteView(
            name=name,
            path_prefix=f"/v2/models/{name}",
            hosts=(),
            stable=next(route.stable for route in self.config.routes if route.name == name),
            canary=self._canaries[name],
            canary_percent=percent_from_weight_bp(self._weights_bp[name]),
            epoch=self._epoch,
            workers=2,
            workers_applied=2,
            endpoints=(EndpointView("digits-v1", "http://127.0.0.1:8001", True),),
            rollout_id=latest.rollout_id if latest else None,
            phase=latest.phase.value if latest else "IDLE",
            **(_WATCHED if name == "digits" else {}),
        )

    def route_page(self, search: str, offset: int, limit: int) -> tuple[list[RouteView], int]:
        found = [route for route in self.routes() if search in route.name]
        return found[offset : offset + limit], len(found)

    async def rollout_page(
        self, route: str | None = None, limit: int = 50, before: str | None = None, search: str = ""
    ) -> list[RolloutView]:
        return self.rollouts(route, limit, before, search)

    async def find_rollout(self, rollout_id: str) -> RolloutView:
        return self.rollout(rollout_id)

    async def series(self, rollout_id: str) -> RolloutSeries:
        self._find(rollout_id)
        return RolloutSeries(rollout_id, 1.0, (), (), (), ())

    async def data_results(self, rollout_id: str) -> RolloutDataResults:
        self._find(rollout_id)
        return RolloutDataResults(rollout_id, (DataResult("2026-01-01T00:00:00Z", "canary", False, ("labels",)),))

    async def latencies(self, rollout_id: str) -> LatencyDistributions:
        self._find(rollout_id)
        return LatencyDistributions(rollout_id, (), (), ())

    def rollouts(
        self, route: str | None = None, limit: int = 50, before: str | None = None, search: str = ""
    ) -> list[RolloutView]:
        if route is not None:
            self._known(route)
        if before is not None:
            self.rollout(before)
        newest = [r for r in reversed(self._rollouts.values()) if route in (None, r.route)]
        if before is not None:
            newest = list(itertools.dropwhile(lambda r: r.rollout_id != before, newest))[1:]
        return [_view(rollout) for rollout in newest if search in rollout.rollout_id][:limit]

    def rollout(self, rollout_id: str) -> RolloutView:
        return _view(self._find(rollout_id))

    def label(self, route: str, labels: list[tuple[str, str, bool | float]]) -> None:
        self._known(route)
        if any(name != "click" for _, name, _ in labels):
            raise NotFoundError(f"route {route} expects no such event")
        self.labels += labels

    async def set_weight(self, route: str, weight_bp: int, by: str, reason: str = "") -> RouteView:
        self._known(route)
        if weight_bp and self._canaries[route] is None:
            raise ConflictError(f"route {route} has no canary backend")
        self._journal()
        latest = self._latest(route)
        if latest and not latest.phase.terminal:
            self._apply(latest, WeightRequested(next(self._at_s), by, weight_bp))
        self._weights_bp[route] = weight_bp
        self._epoch += 1
        self.log.publish("weight", {"canary_percent": weight_bp / 100, "epoch": self._epoch, "by": by}, route=route)
        return self.route(route)

    async def start(
        self, route: str, by: str, plan: Plan | None = None, *, retry: bool = False, reason: str = ""
    ) -> RolloutView:
        self._known(route)
        canary = self._canaries[route]
        if canary is None:
            raise ConflictError(f"route {route} has no canary backend")
        self._journal()
        rollout_id = f"{route}-{next(self._numbers):04}"
        event = Started(rollout_id, route, "digits-v1", canary, plan or PLAN, next(self._at_s), by, retry, None, reason)
        return self._apply(self._latest(route) or Rollout(), event)

    async def pause(self, rollout_id: str, by: str, reason: str = "") -> RolloutView:
        return self._wish(rollout_id, PauseRequested(next(self._at_s), by, reason))

    async def resume(self, rollout_id: str, by: str, reason: str = "") -> RolloutView:
        return self._wish(rollout_id, ResumeRequested(next(self._at_s), by, 0, reason))

    async def approve(self, rollout_id: str, by: str, reason: str = "") -> RolloutView:
        return self._wish(rollout_id, ApproveRequested(next(self._at_s), by, reason))

    async def promote(self, rollout_id: str, by: str, reason: str = "", *, next_step: bool = False) -> RolloutView:
        return self._wish(rollout_id, PromoteRequested(next(self._at_s), by, reason, next_step))

    async def abort(self, rollout_id: str, by: str, reason: str = "") -> RolloutView:
        return self._wish(rollout_id, AbortRequested(next(self._at_s), by, reason))

    def event_cursor(self, after: str | None = None) -> str:
        return self.log.cursor(after)

    async def events(self, after: str | None = None) -> AsyncIterator[ControlEvent]:
        self.listeners += 1
        try:
            async for event in self.log.listen(after):
                yield event
        finally:
            self.listeners -= 1

    def traffic_later(self) -> Callable[[], TrafficTotals]:
        raise NotImplementedError

    def verdict_counts(self) -> dict[tuple[str, str], int]:
        return {}

    def workers(self) -> list[WorkerView]:
        return [WorkerView(index, 4711 + index, self._epoch, 0, 1, 0.01) for index in (0, 1)]

    def backends(self) -> list[BackendView]:
        return [
            BackendView(name, tuple(EndpointView(name, endpoint.url, None) for endpoint in backend.endpoints), ())
            for name, backend in self.config.backends.items()
        ]

    def alarms(self) -> list[AlarmView]:
        return [] if self.ready else [AlarmView("disk", "the disk does not answer")]

    async def must_keep(self) -> None:
        pass

    async def keep_configuration(self, stored: Stored | None) -> None:
        await self.given.keep(stored)

    async def copy_state(self) -> bytes:
        if self.journal_fails:
            raise JournalError("the state file cannot be read")
        return b"SQLite format 3\0" + bytes(84)

    def drop_configuration(self, goes_on: Stored | None = None) -> None:
        self.given.replace(goes_on)

    async def reconfigure(
        self, config: GatewayConfig, table: RoutingTable, by: str = "", *, file_sha256: str | None = None
    ) -> None:
        if self.journal_fails:
            raise ConflictError("a rollout is under way on route digits")
        assert {route.name for route in table.routes} == {route.name for route in config.routes}
        self.config = config
        self.table = table
        self._canaries = {route.name: route.canary for route in config.routes}
        self._weights_bp = {name: self._weights_bp.get(name, 0) for name in self._canaries}

    def inspected(self) -> tuple[None, None]:
        return None, None

    async def decision_history(self, rollout_id: str) -> list[DecisionView]:
        self._find(rollout_id)
        return decision_history(entry for entry in self._entries if entry.rollout_id == rollout_id)

    def probes(self) -> ProbeCounts:
        return ProbeCounts()

    def readiness(self) -> Readiness:
        return Readiness(self.ready, 2, () if self.ready else ("1 of 2 workers are connected",))

    def _wish(self, rollout_id: str, event: Event) -> RolloutView:
        rollout = self._find(rollout_id)
        self._journal()
        return self._apply(rollout, event)

    def _apply(self, rollout: Rollout, event: Event) -> RolloutView:
        new, commands = step(rollout, event)
        self._rollouts[new.rollout_id] = new
        self._entries.append(
            JournalEntry(len(self._entries) + 1, new.rollout_id, 1e9, type(event).__name__, event, new, ANALYSIS)
        )
        self._weights_bp[new.route] = new.weight_bp
        self._epoch += 1
        for command in commands:
            if isinstance(command, Notify):
                data = msgspec.to_builtins(_view(new))
                self.log.publish(command.kind, data, route=new.route, rollout_id=new.rollout_id)
        return _view(new)

    def _journal(self) -> None:
        if self.journal_fails:
            raise JournalError("cannot write state file state/state.sqlite3: disk full; free space on the disk")

    def _known(self, name: str) -> None:
        if name not in self._canaries:
            raise NotFoundError(f"no route is named {name!r}; there are: {', '.join(self._canaries)}")

    def _latest(self, route: str) -> Rollout | None:
        return next((r for r in reversed(self._rollouts.values()) if r.route == route), None)

    def _find(self, rollout_id: str) -> Rollout:
        if rollout_id not in self._rollouts:
            raise NotFoundError(f"no rollout has the id {rollout_id!r}")
        return self._rollouts[rollout_id]


class Served:
    """A real server with the admin application on a loopback socket, in a thread of its own."""

    def __init__(
        self,
        token: str | None = None,
        keys: tuple[Key, ...] = (),
        clients: tuple[ClientConfig, ...] = (),
        tls: ssl.SSLContext | None = None,
        directory: Path | None = None,
        auth_failures: AuthFailures | None = None,
        connections: Connections | None = None,
        listener: socket.socket | None = None,
    ) -> None:
        self._held = tempfile.TemporaryDirectory()
        directory = directory or Path(self._held.name)
        self.path = directory / "gateway.yaml"
        if not self.path.exists():
            self.path.write_text(CONFIG)
        text = self.path.read_bytes()
        self.store = SqliteStore.open(load(self.path).state_dir / names.STORE)
        in_force = effective(text, self.store.configurations.newest().stored)
        config = load(self.path, text=in_force.text)
        self.control = ControlDouble(config)
        clock = SystemClock()
        self.writer = writer = JournalWriter(self.store, clock, Alarms(EventLog(clock)))
        self.control.given = GivenConfiguration(writer, lambda _: None)
        self.control.given.adopt(in_force.stored)
        # From its descriptor, so that the socket knows its protocol and asyncio turns Nagle's algorithm off.
        listener = listener or socket.create_server(("127.0.0.1", 0))
        self._socket = socket.socket(fileno=listener.detach())
        self.port = self._socket.getsockname()[1]
        self.configuring = Configuring(
            *(self.control, clock, self.path, text, config, (("127.0.0.1", self.port), ("10.0.0.1", 9900))),
            stored=in_force.stored,
        )
        self.keyring = Keyring(keys if token is None else (*keys, Key("", (Scope.ADMIN,), sha256_of(token))), clients)
        self.app = build_admin(
            self.control,
            self.configuring,
            metrics=Scraped,
            keyring=self.keyring,
            trail=AuditTrail(clock, writer, self.store.audit.page(1000)),
            replays=Replays(clock, writer, self.store.answers.all()),
            auth_failures=auth_failures or AuthFailures(SystemClock(), burst=10_000),
        )
        self.server = AdminServer(server_config(self.app, tls, connections))
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self.port}"
        self.loop: asyncio.AbstractEventLoop = cast("asyncio.AbstractEventLoop", None)
        self._started = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self.serve()))

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._started.wait(20)
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Stop as a signal would, and wait for it."""
        self.server.should_exit = True
        self._thread.join(20)
        assert not self._thread.is_alive(), "the server does not stop"
        self._held.cleanup()

    def listener(self) -> socket.socket:
        """Its listening socket once more, for the server that comes after it."""
        return self._socket.dup()

    def call(self, function: Callable[..., Any], *args: Any, **options: Any) -> None:
        """Call a function in the server's loop, where the control plane lives."""
        self.loop.call_soon_threadsafe(lambda: function(*args, **options))

    async def serve(self) -> None:
        self.loop = asyncio.get_running_loop()
        self._started.set()
        await self.server.serve(sockets=[self._socket])
        await self.writer.close()


def _view(rollout: Rollout) -> RolloutView:
    analysis = None if rollout.phase is Phase.IDLE else ANALYSIS
    view = RolloutRecord(rollout, analysis, 0.0, rollout.last_at_s).view(rollout, analysis, 0)
    return dataclasses.replace(view, allowed=allowed(rollout))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--token")
    served = Served(parser.parse_args().token)
    sys.stdout.write(f"{served.url}\n")
    sys.stdout.flush()
    asyncio.run(served.serve())  # in the main thread, where signals arrive


if __name__ == "__main__":
    main()
