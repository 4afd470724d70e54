"""The controller: evidence in, verdicts and wishes through the rollout machine, tables out.

Rules:

1. A tick never waits: not for the disk, not for a worker, not for another route (pipeline.py says what waits).
2. No verdict from stale counts: without a live worker's recent report the rollout holds.
3. An unreadable journal means stable only, and no rollout until it is mended (recovery.py).
4. While stable answers nothing, the rollout is frozen: no verdict, no step up, no rollback but an operator's, and an
   alarm. What was counted meanwhile is no evidence.
5. What fails for one route is that route's alarm until it works again; the others are judged all the same, and the
   instance stays ready.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TypeVar

import msgspec

from gateway.config.schema import GatewayConfig
from gateway.config.watching import watched
from gateway.control.alarms import Alarms
from gateway.control.commands import Wishes
from gateway.control.decide.pipeline import Decisions
from gateway.control.decide.recovery import Recovery
from gateway.control.decide.rollout_records import Record, Records
from gateway.control.decide.routes import RouteState
from gateway.control.decide.silent_sources import SilentSources
from gateway.control.events import EventLog
from gateway.control.health.conditions import no_verdict, world
from gateway.control.health.ejections import Ejections
from gateway.control.health.endpoint_health import EndpointHealth, unserved, view
from gateway.control.health.prober import Health, Prober
from gateway.control.health.process_alarms import ProcessAlarms
from gateway.control.health.readiness import SILENT_S, ReadinessWatch, instance_readiness
from gateway.control.journal.state_watch import StateGuard, StateWatch
from gateway.control.journal.store import Journal
from gateway.control.journal.writer import JournalWriter
from gateway.control.show import queries
from gateway.control.views import (
    AlarmView,
    BackendView,
    ControlEvent,
    ProbeCounts,
    Readiness,
    RolloutView,
    RouteView,
    WorkerView,
)
from gateway.control.workers.hub import WorkerHub
from gateway.control.workers.inspector_link import Inspection
from gateway.control.workers.report_aggregator import Merged, ReportAggregator
from gateway.control.workers.table_keeper import TableKeeper
from gateway.control.workers.table_publisher import TablePublisher
from gateway.core.analysis import Evidence, Verdict, look
from gateway.core.errors import ConflictError, JournalError, NotFoundError
from gateway.core.rollout import Analysed, Conditions, Phase
from gateway.core.traffic.table import RoutingTable
from gateway.core.types import WEIGHT_BP_MAX, Variant
from gateway.runtime import samples, wire
from gateway.runtime.clock import Clock, SystemClock
from gateway.runtime.notices import Notice

T = TypeVar("T")
_log = logging.getLogger("gateway.control")
# Workers that outlived the last control plane get this long to say what they are doing, before anything is published.
_WORKERS_WAIT_S = 1.0
_SNAPSHOT_EVERY_S = 1.0
_ANALYSIS_EVENT_EVERY_S = 0.25
_HEALTH_LOOK_S = 1.0


class Controller(Wishes):
    """The control plane, as control.api.ControlPlane describes it."""

    def __init__(
        self,
        config: GatewayConfig,
        table: RoutingTable,
        journal: Journal | JournalError,
        clock: Clock | None = None,
        *,
        keeper: TableKeeper | None = None,
        state_watch: StateWatch | None = None,
    ) -> None:
        self._config = config
        self._clock = clock or SystemClock()
        self._events = EventLog(self._clock)
        self._alarms = Alarms(self._events)
        self._keeper = keeper or TableKeeper()
        self._keeper.alarms = self._alarms
        look = (lambda: "") if state_watch is None else state_watch.look
        self._scribe = JournalWriter(journal, self._clock, self._alarms, look)
        self._state = None if state_watch is None else StateGuard(state_watch, self._scribe, self._alarms, self._keeper)
        self.table_source = ""
        self._observer = ReportAggregator()
        self.hub = WorkerHub(self._observer, self._clock, self._worker_changed)
        self._executor = TablePublisher(table, self.hub, self._events, self._remember)
        self.prober = Prober(config.backends, self._endpoint_turned, self._publish_health, self._clock)
        self._health = EndpointHealth(self.prober, self._observer, self._alarms)
        self._ejections = Ejections(self._observer, self._events, self._alarms)
        self.processes = ProcessAlarms(self._alarms, self._observer, self._clock)
        self._sources = SilentSources(self._observer, self._alarms)
        self._readiness = ReadinessWatch(self._events)
        self._health_looked_s = 0.0
        self.prober.guard(table.backends)
        self._routes = {route.name: RouteState(route) for route in config.routes}
        self._records = Records()
        self._decisions = Decisions(self._clock, self._scribe, self._executor, self._records, self._events)
        self._verdicts: dict[tuple[str, str], int] = {}
        self.inspection: Inspection | None = None
        self._began_s = self._clock.monotonic_s()
        # Set once the first table is out: before that there is nothing to show and no wish can be granted.
        self.recovered = asyncio.Event()

    # life

    def inspect(self, path: Path) -> None:
        """Look at answers and take labels with the help of the inspector who listens at ``path``."""
        self.inspection = Inspection(path, watched(self._config), self._observer, self._clock)

    async def run(self) -> None:
        """Take over from whatever was before, then tick. The hub must be listening.

        Returns when a journal that had no room has room again: then the process is to be started anew.
        """
        await self.recover()
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self.prober.run()), group.create_task(self._ticks())]
            if self.inspection is not None:
                tasks.append(group.create_task(self.inspection.run()))
            if self._state is not None:
                tasks.append(group.create_task(self._state.run()))
            await self._scribe.mended()
            _log.warning("the journal's disk has room again: the control plane starts anew")
            for task in tasks:
                task.cancel()

    async def _ticks(self) -> None:
        while True:
            await asyncio.sleep(min(route.config.analysis.interval_s for route in self._routes.values()))
            self.tick()

    @property
    def notice(self) -> Notice:
        """The newest of the supervisor."""
        return self.processes.notice

    @property
    def state_kept(self) -> bool:
        """Whether the state directory keeps what is decided."""
        return self._scribe.refusal is None and not self._scribe.unkept

    async def must_keep(self) -> None:
        """Raise JournalError when what is changed now could not be kept."""
        if self._state is not None:
            await self._state.must_keep()

    def _remember(self, table: RoutingTable) -> None:
        """A table is about to be published."""
        found = self._keeper.found
        # A journal that cannot be read has a newest event all the same.
        unread = 0 if found is None or self._scribe.readable else found.journal_seq
        configured = {state.name: state.configured for state in self._routes.values()}
        self._keeper.remember(table, configured, max(unread, self._scribe.last_seq))

    async def recover(self) -> None:
        """Hear the workers and the journal, and publish the first table."""
        recovery = Recovery(
            self._routes,
            self.hub,
            self._scribe,
            self._alarms,
            self._records,
            self._executor,
            self._decisions,
            self._clock,
            self._keeper,
        )
        try:
            async with asyncio.timeout(_WORKERS_WAIT_S):
                while len(self.hub.sessions) < self._config.workers:
                    await asyncio.sleep(0.01)
        except TimeoutError:
            pass
        memory = await recovery.read()
        self.table_source = recovery.source
        recovery.take_over(memory)
        self.recovered.set()
        await self._executor.settled()

    async def stop(self) -> None:
        """Save what the analysis knows, and close the journal."""
        for route in self._routes.values():
            self._snapshot(route)
        await self._scribe.close()
        await self._keeper.close()
        await self.hub.stop()

    # for hooks: the journal's order, without waiting for its disk

    async def read_journal(self, work: Callable[[Journal], T]) -> T:
        """Read the journal on its thread. Raises JournalError."""
        return await self._scribe.read(work)

    async def note_in_journal(self, work: Callable[[Journal], object]) -> None:
        """Write something beside the decisions, after all that were made so far. Raises JournalError."""
        await self._scribe.write(work)

    # the way of one decision

    def tick(self) -> None:
        """Judge every route's evidence once, and act on it."""
        now_s = self._clock.monotonic_s()
        self._health.take_reports()
        self._ejections.take_reports()
        fresh = any(now_s - session.reported_s < SILENT_S for session in self.hub.sessions)
        for route in self._routes.values():
            self._decisions.give_up(route, now_s)
            self._sources.look(route, self.inspection, now_s - self._began_s, now_s)
            if route.active and fresh:
                self._judge_safely(route, now_s)
            elif route.active:
                self._decisions.pass_time(route, now_s)
            else:
                self._alarms.clear(f"no verdict on {route.name}")
        self._observer.forget(self._executor.table.epoch, now_s)
        self._scribe.watch()
        self.processes.watch_hung(now_s)
        if now_s - self._health_looked_s >= _HEALTH_LOOK_S:
            self._health_looked_s = now_s
            self._health.sound_alarms(self._clock.wall_s())
            self._readiness.look(self.readiness())

    def _judge_safely(self, route: RouteState, now_s: float) -> None:
        alarm = f"analysis of {route.name}"
        try:
            self._judge(route, now_s)
        except Exception:  # noqa: BLE001  # see below
            # A loop that dies would leave every canary without a judge; the fault is logged and held against readiness,
            # and the next tick tries again.
            _log.exception("the analysis of route %s failed", route.name)
            self._alarms.sound(alarm, f"the analysis of route {route.name} fails; see the log", mild=True)
        else:
            self._alarms.clear(alarm)

    def _judge(self, route: RouteState, now_s: float) -> None:
        assert route.analysis_state is not None  # every active route has one: see RouteState
        known = self._world(route)
        if self._freezes(route, known, now_s):
            route.heard = Analysed(
                now_s, Verdict.ERROR, no_verdict(known, frozen=True), (), route.canary_requests, known
            )
            self._decisions.pass_time(route, now_s)
            return
        evidence = self._evidence(route, now_s)
        route.analysis_state, seen = look(route.analysis_state.spec, route.analysis_state, evidence)
        if self.inspection is not None:
            seen = self.inspection.judged(route.name, seen, route.analysis_state.spec, route.first_epoch)
        key = (route.name, seen.verdict.value)
        self._verdicts[key] = self._verdicts.get(key, 0) + 1
        changed = route.look is None or route.look.verdict is not seen.verdict
        route.look = seen
        event = Analysed(now_s, seen.verdict, seen.reason, seen.causes, seen.canary_requests, known)
        route.heard = event
        self._decisions.hear(route, event, seen)
        if changed or now_s - route.announced_s >= _ANALYSIS_EVENT_EVERY_S:
            route.announced_s = now_s
            self._decisions.announce(route, "analysis")
        if now_s - route.snapshot_s >= _SNAPSHOT_EVERY_S and self._scribe.idle:
            route.snapshot_s = now_s
            self._snapshot(route)

    def _world(self, route: RouteState) -> Conditions:
        """What the machine is told besides the verdict."""
        rollout = route.rollout
        return world(rollout.plan, rollout.stable, rollout.canary, self.prober.health, self._clock.wall_s())

    def _freezes(self, route: RouteState, known: Conditions, now_s: float) -> bool:
        """Whether there is nothing to compare the canary with; the alarm stands also where only the probes say so."""
        route.pulse.feel(*self._observer.tries(route.name, Variant.STABLE), now_s)
        frozen = bool(route.rollout.stable) and route.pulse.stopped(known.stable_up, now_s)
        reason = no_verdict(known, frozen=frozen)
        self._alarms.show(f"no verdict on {route.name}", reason and f"route {route.name}: {reason}")
        if route.frozen and not frozen:
            # A new epoch: nothing that either side failed during the outage is held against anybody.
            self._executor.set_weight(route.name, self._executor.weight_bp(route.name))
            route.first_epoch = self._executor.table.epoch
        route.frozen = frozen
        return frozen

    def _evidence(self, route: RouteState, now_s: float) -> Evidence:
        """The epochs in which a coin was flipped: the others say nothing, however long a request of theirs goes on."""
        if route.rollout.phase is Phase.WARMING:
            return Evidence(now_s, ())
        found = self._observer.evidence(route.name, route.first_epoch, self._executor.table.epoch, now_s)
        split = tuple(e for e in found.epochs if 0 < e.weight_bp < WEIGHT_BP_MAX)
        outside = 0
        if not route.canary_requests:
            # For the sentence that says why there is no verdict.
            forced = self._observer.forced(route.name, Variant.CANARY)
            if route.look is None:
                route.forced_before = forced
            outside = sum(e.canary.requests for e in found.epochs if e not in split) + forced - route.forced_before
        return Evidence(now_s, split, self._executor.table.epoch, route.unjudged, outside)

    def _snapshot(self, route: RouteState) -> None:
        state = route.analysis_state
        if self._scribe.refusal is not None or state is None or not route.active:
            return
        rollout_id, body, wall_s = route.rollout.rollout_id, msgspec.json.encode(state), self._clock.wall_s()
        evidence = msgspec.json.encode(route.analysis)
        self._scribe.write(lambda journal: journal.save_snapshot(rollout_id, body, evidence, wall_s))

    # answers and labels

    async def reconfigure(
        self,
        config: GatewayConfig,
        table: RoutingTable,
        by: str = "the configuration",
        *,
        file_sha256: str | None = None,
    ) -> None:
        """As in `Wishes`; the inspector is told, too."""
        await super().reconfigure(config, table, by, file_sha256=file_sha256)
        if self.inspection is not None:
            self.inspection.watch(watched(config))

    def label(self, route: str, labels: list[tuple[str, str, bool]]) -> None:
        """Hand labels on to the inspector. NotFoundError for a name that is unknown, ConflictError if it is away."""
        self._route(route)
        if self.inspection is None:
            raise ConflictError("labels cannot be taken: there is no inspector")
        self.inspection.tell(route, [samples.Label(*label) for label in labels])

    # views

    def routes(self) -> list[RouteView]:
        """All routes, in the order of the configuration."""
        shown = self._shown_routes()
        return [shown.view(state) for state in self._routes.values()]

    def route(self, name: str) -> RouteView:
        """One route, or NotFoundError."""
        return self._shown_routes().view(self._route(name))

    def _shown_routes(self) -> queries.Routes:
        return queries.Routes(self._executor.table, self.hub, self.prober.health, self._observer.rescues())

    def rollouts(self, route: str | None = None, limit: int = 50, before: str | None = None) -> list[RolloutView]:
        """Rollouts, newest first."""
        if route is not None:
            self._route(route)
        return [self._view(record) for record in self._records.page(route, limit, before)]

    def rollout(self, rollout_id: str) -> RolloutView:
        """One rollout, or NotFoundError."""
        return self._view(self._records.get(rollout_id))

    def _view(self, record: Record) -> RolloutView:
        state = self._routes.get(record.rollout.route)
        return record.view(record.rollout, record.analysis, None) if state is None else state.view(record)

    def events(self, after_id: int | None = None) -> AsyncIterator[ControlEvent]:
        """The stream of events."""
        return self._events.listen(after_id)

    def traffic(self) -> Merged:
        """The merged totals, for metrics."""
        return self._observer.merged()

    def traffic_later(self) -> Callable[[], Merged]:
        """What merges the totals of this moment, on any thread."""
        return self._observer.merged_later()

    def verdict_counts(self) -> dict[tuple[str, str], int]:
        """How many analyses ended in each verdict."""
        return dict(self._verdicts)

    def workers(self) -> list[WorkerView]:
        """The connected workers."""
        return queries.workers(self.hub, self._observer, self._clock.monotonic_s())

    def backends(self) -> list[BackendView]:
        """All backends."""
        return queries.backends(self._config, self._health)

    def probes(self) -> ProbeCounts:
        """What the probes could not find out, for metrics."""
        return self._health.counts()

    def alarms(self) -> list[AlarmView]:
        """What is wrong right now."""
        return self._alarms.standing

    def inspected(self) -> tuple[samples.Inspected | None, bool | None]:
        """What the inspector said last, and whether it is heard of."""
        inspection = self.inspection
        return (None, None) if inspection is None or not inspection.wanted else (inspection.newest, inspection.present)

    def readiness(self) -> Readiness:
        """Whether the instance can do its work, and what is wrong beside it."""
        reasons, warnings = self._alarms.reasons, self._alarms.warnings
        routes = unserved(self._executor.table, self.prober.health)
        (reasons if self._config.admin.unready_without_stable else warnings).extend(routes)
        return instance_readiness(
            *(reasons, warnings, self.hub),
            epoch=self._executor.table.epoch,
            workers=self._config.workers,
            draining=self.notice.draining,
            now_s=self._clock.monotonic_s(),
        )

    def _route(self, name: str) -> RouteState:
        try:
            return self._routes[name]
        except KeyError:
            known = ", ".join(sorted(self._routes))
            raise NotFoundError(f"no route is named {name!r}; there are: {known}") from None

    # what happens

    def _worker_changed(self, how: str, hello: wire.Hello) -> None:
        self._events.publish("worker", {"index": hello.index, "pid": hello.pid, "state": how})
        if how == "connected" and self.recovered.is_set() and hello.epoch > self._executor.table.epoch:
            self._executor.outbid(hello.epoch)
            for route in self._routes.values():
                # What it counted under numbers between ours and its own is of no experiment of ours.
                route.first_epoch = self._executor.table.epoch

    def tell_alarm(self, what: str, why: str) -> None:
        """An alarm that traffic does not suffer from stands, or is over (``why`` is empty)."""
        self._alarms.show(what, why)

    def _endpoint_turned(self, health: Health) -> None:
        state = "up" if health.up else "down"
        _log.warning("endpoint %s of %s is %s: %s", health.endpoint.url, health.backend, state, health.last_answer)
        self._publish_health()
        self._events.publish("health", msgspec.to_builtins(view(health)))

    def _publish_health(self) -> None:
        down = (wire.EndpointDown(one.backend, one.endpoint.url, one.refused) for one in self.prober.down)
        self.hub.publish_health(tuple(down))
