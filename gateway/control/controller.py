"""The controller: the parts of the control plane joined, its life from take-over to stop, and its tick.

Rules:

1. A tick never waits: not for the disk, not for a worker, not for another route (decide/pipeline.py says what waits).
2. No verdict from stale counts: without a live worker's recent report the rollout holds.
3. An unreadable journal means stable only, and no rollout until it is repaired (decide/recovery.py).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TypeVar

import msgspec

from gateway.config.schema import GatewayConfig
from gateway.config.stored import Stored
from gateway.config.watching import watched
from gateway.control.alarms import Alarms
from gateway.control.commands import Commands
from gateway.control.decide.data_results import DataResultLog
from gateway.control.decide.external import ExternalRoutes, ExternalSplit
from gateway.control.decide.pipeline import DecisionPipeline
from gateway.control.decide.reconfiguration import Reconfiguration
from gateway.control.decide.recovery import Recovery
from gateway.control.decide.rollout_records import RolloutRecords
from gateway.control.decide.route_judge import RouteJudge
from gateway.control.decide.routes import RouteState, find_route, saved_analysis
from gateway.control.decide.silent_sources import SilentSources
from gateway.control.decide.stable_pasts import StablePasts
from gateway.control.events import EventLog
from gateway.control.health.ejections import Ejections
from gateway.control.health.endpoint_health import EndpointHealth, unserved, view
from gateway.control.health.prober import EndpointState, Prober
from gateway.control.health.process_alarms import ProcessAlarms
from gateway.control.health.readiness import SILENT_S, ReadinessWatch, instance_readiness
from gateway.control.journal.given_configuration import GivenConfiguration
from gateway.control.journal.state_watch import StateGuard, StateWatch
from gateway.control.journal.store import Journal, Store
from gateway.control.journal.writer import JournalWriter
from gateway.control.show.decision_history import decision_history
from gateway.control.show.distributions import distributions
from gateway.control.show.past_rollouts import PastRollouts
from gateway.control.show.queries import Queries
from gateway.control.show.rates import RequestRates
from gateway.control.views import (
    AlarmView,
    BackendView,
    ControlEvent,
    DecisionView,
    LatencyDistributions,
    ProbeCounts,
    Readiness,
    RolloutDataResults,
    RolloutSeries,
    RolloutView,
    RouteView,
    WorkerView,
)
from gateway.control.workers.hub import WorkerHub
from gateway.control.workers.inspector_link import Inspection
from gateway.control.workers.report_aggregator import MergedTotals, ReportAggregator
from gateway.control.workers.table_keeper import TableKeeper
from gateway.control.workers.table_publisher import TablePublisher
from gateway.core.errors import ConflictError, InvalidValueError, JournalError
from gateway.core.model_version import ModelVersion
from gateway.core.objectives import Objectives
from gateway.core.traffic.table import RoutingTable
from gateway.core.types import Variant
from gateway.runtime import samples, wire
from gateway.runtime.clock import Clock, SystemClock
from gateway.runtime.notices import Notice

T = TypeVar("T")
_log = logging.getLogger("gateway.control")
# Workers that outlived the last control plane get this long to say what they are doing, before anything is published.
_WORKERS_WAIT_S = 1.0
_HEALTH_LOOK_S = 1.0


class Controller:
    """The control plane, as control.api.ControlPlane describes it."""

    def __init__(
        self,
        config: GatewayConfig,
        table: RoutingTable,
        store: Store | JournalError,
        clock: Clock | None = None,
        *,
        keeper: TableKeeper | None = None,
        state_watch: StateWatch | None = None,
        state_lost: bool = False,
    ) -> None:
        self._config = config
        self._state_lost = state_lost
        self._clock = clock or SystemClock()
        self._events = EventLog(self._clock)
        self._alarms = Alarms(self._events)
        self._keeper = keeper or TableKeeper()
        self._keeper.alarms = self._alarms
        look = (lambda: "") if state_watch is None else state_watch.look
        self._journal_writer = JournalWriter(store, self._clock, self._alarms, look)
        self.given_configuration = GivenConfiguration(self._journal_writer, self._keeper.remember_given)
        self._state = None
        if state_watch is not None:
            self._state = StateGuard(state_watch, self._journal_writer, self._alarms, self._keeper.write)
        self.table_source = ""
        self._aggregator = ReportAggregator()
        self.hub = WorkerHub(self._aggregator, self._clock, self._worker_changed)
        self._publisher = TablePublisher(table, self.hub, self._events, self._remember_table)
        self.prober = Prober(config.backends, self._endpoint_changed, self._publish_health, self._clock)
        self.prober.restrict(table.backends)
        self._health = EndpointHealth(self.prober, self._aggregator, self._alarms)
        self._ejections = Ejections(self._aggregator, self._events, self._alarms)
        self.processes = ProcessAlarms(self._alarms, self._aggregator, self._clock)
        self._sources = SilentSources(self._aggregator, self._alarms)
        self._readiness = ReadinessWatch(self._events)
        self._health_looked_s = 0.0
        self._routes = {route.name: RouteState(route) for route in config.routes}
        self._records = RolloutRecords()
        self._pipeline = DecisionPipeline(
            self._clock, self._journal_writer, self._publisher, self._records, self._events
        )
        self.external = ExternalRoutes()
        self._judge = RouteJudge(
            external=self.external,
            aggregator=self._aggregator,
            prober=self.prober,
            publisher=self._publisher,
            pipeline=self._pipeline,
            journal_writer=self._journal_writer,
            alarms=self._alarms,
            clock=self._clock,
        )
        self._pasts = StablePasts(
            routes=self._routes,
            changes=self._aggregator.stable_changes,
            publisher=self._publisher,
            journal_writer=self._journal_writer,
            clock=self._clock,
        )
        self._rates = RequestRates()
        self._queries = Queries(
            routes=self._routes,
            records=self._records,
            publisher=self._publisher,
            hub=self.hub,
            aggregator=self._aggregator,
            health=self._health,
            rates=self._rates,
        )
        self._past = PastRollouts(
            self._records, self._pipeline.series, self._journal_writer, self._queries.rollout_view
        )
        self.commands = Commands(
            routes=self._routes,
            records=self._records,
            pipeline=self._pipeline,
            publisher=self._publisher,
            prober=self.prober,
            alarms=self._alarms,
            queries=self._queries,
            clock=self._clock,
            journal_writer=self._journal_writer,
            model_of=self._model_of,
        )
        self._reconfiguration = Reconfiguration(
            routes=self._routes,
            pipeline=self._pipeline,
            publisher=self._publisher,
            journal_writer=self._journal_writer,
            prober=self.prober,
            keeper=self._keeper,
        )
        self.inspection: Inspection | None = None
        self._data_results = DataResultLog(config.state_dir, self._clock)
        self._began_s = self._clock.monotonic_s()
        # Set once the first table is out: before that there is nothing to show and no command can be carried out.
        self.recovered = asyncio.Event()

    # life

    def inspect(self, path: Path) -> None:
        """Look at answers and take labels with the help of the inspector that listens at ``path``."""
        self.inspection = Inspection(path, watched(self._config), self._aggregator, self._clock)

    async def run(self) -> None:
        """Take over from the previous control process, then tick. The hub must be listening.

        Returns when a full or read-only disk takes writes again: then the process is to be restarted.
        """
        await self.recover()
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self.prober.run()), group.create_task(self._ticks())]
            if self.inspection is not None:
                tasks.append(group.create_task(self.inspection.run()))
            if self._state is not None:
                tasks.append(group.create_task(self._state.run()))
            await self._journal_writer.wait_for_room()
            _log.warning("journal: the state file can be written again, the control process restarts")
            for task in tasks:
                task.cancel()

    async def _ticks(self) -> None:
        while True:
            await asyncio.sleep(min(route.config.analysis.interval_s for route in self._routes.values()))
            self.tick()

    async def recover(self) -> None:
        """Wait for the running workers, read the journal, and publish the first table."""
        recovery = Recovery(
            routes=self._routes,
            hub=self.hub,
            journal_writer=self._journal_writer,
            alarms=self._alarms,
            records=self._records,
            publisher=self._publisher,
            pipeline=self._pipeline,
            clock=self._clock,
            keeper=self._keeper,
            state_lost=self._state_lost,
        )
        try:
            async with asyncio.timeout(_WORKERS_WAIT_S):
                while len(self.hub.sessions) < self._config.workers:
                    await asyncio.sleep(0.01)
        except TimeoutError:
            pass
        contents = await recovery.read()
        self.table_source = recovery.source
        await self._pasts.restore()
        recovery.take_over(contents)
        self.recovered.set()
        await self._publisher.settled()

    async def reconfigure(
        self,
        config: GatewayConfig,
        table: RoutingTable,
        by: str = "the configuration",
        *,
        file_sha256: str | None = None,
    ) -> None:
        """Serve by another configuration, see `control.api.ControlPlane`; the inspector learns of it, too."""
        self._reconfiguration.apply(config, table, by, file_sha256)
        self._config = config
        await self._publisher.settled()
        if self.inspection is not None:
            self.inspection.watch(watched(config))

    async def stop(self) -> None:
        """Save the analysis state, and close the journal."""
        for route in self._routes.values():
            self._judge.save_snapshot(route)
            self._pipeline.save_series(route.rollout.rollout_id, at_once=True)
        self._pasts.save(self._clock.monotonic_s())
        await self._journal_writer.close()
        await self._keeper.close()
        await self.hub.stop()

    def _keep_data_results(self, route: RouteState) -> None:
        """Keep what validators said with the rollout that it is about."""
        results = () if self.inspection is None else self.inspection.take_validated(route.name)
        ours = [one for one in results if one.epoch >= route.first_epoch]
        if ours and route.rollout.rollout_id:
            self._data_results.take(route.rollout.rollout_id, ours)

    # the tick

    def tick(self) -> None:
        """Judge every route's evidence once, and act on it."""
        now_s = self._clock.monotonic_s()
        self._health.take_reports()
        self._ejections.take_reports()
        self._pasts.take(now_s)
        fresh = any(now_s - session.last_report_s < SILENT_S for session in self.hub.sessions)
        for route in self._routes.values():
            self._pipeline.give_up(route, now_s)
            self._keep_data_results(route)
            self._sources.look(route, self.inspection, now_s - self._began_s, now_s)
            if route.active and fresh:
                self._judge.judge(route, self.inspection, now_s)
            elif route.active:
                self._pipeline.on_time_passed(route, now_s)
            else:
                self._judge.not_judged(route)
        self._aggregator.forget(self._publisher.table.epoch, now_s)
        self._journal_writer.watch()
        self.processes.watch_hung(now_s)
        if self._rates.due(now_s):
            self._rates.take(now_s, self._aggregator.tried())
        if now_s - self._health_looked_s >= _HEALTH_LOOK_S:
            self._health_looked_s = now_s
            self._health.sound_alarms(self._clock.wall_s())
            self._readiness.look(self.readiness())

    # the state directory, and for hooks the journal's order without waiting for its disk

    @property
    def state_kept(self) -> bool:
        """Whether decisions can be stored in the state directory."""
        return self._journal_writer.refusal is None and not self._journal_writer.unkept

    async def must_keep(self) -> None:
        """Raise JournalError when a change could not be stored now."""
        if self._state is not None:
            await self._state.must_keep()

    async def keep_configuration(self, stored: Stored | None) -> None:
        """Store a configuration before it is put in force; what was wrong with the one before does not matter then."""
        await self.given_configuration.keep(stored)
        self.show_alarm("stored configuration", "")

    async def copy_state(self) -> bytes:
        """The whole state as one file. Raises JournalError."""
        return await self._journal_writer.read_store(lambda store: store.copy())

    def drop_configuration(self, goes_on: Stored | None = None) -> None:
        """Forget the stored configuration, but for what goes on of it under the changed file."""
        self.given_configuration.replace(goes_on)
        self.show_alarm("stored configuration", "")

    @property
    def journal_writer(self) -> JournalWriter:
        """The one way to the store: for the audit trail and the idempotency keys too."""
        return self._journal_writer

    async def read_journal(self, work: Callable[[Journal], T]) -> T:
        """Read the journal on its thread. Raises JournalError."""
        return await self._journal_writer.read(work)

    async def note_in_journal(self, work: Callable[[Journal], object]) -> None:
        """Write something beside the decisions, after all that were made so far. Raises JournalError."""
        await self._journal_writer.write(work)

    # labels and alarms

    def label(self, route: str, labels: list[tuple[str, str, bool | float]]) -> None:
        """Pass labels to the inspector. NotFoundError for an unknown name, ConflictError if it is not connected."""
        values = {one.name for one in find_route(self._routes, route).config.analysis.events if one.bounds is not None}
        for _, name, value in labels:
            if isinstance(value, bool) is (name in values):
                wanted = "a number" if name in values else "true or false"
                raise InvalidValueError(f"{name} of route {route} takes {wanted}, not {value!r}")
        if self.inspection is None:
            raise ConflictError("labels cannot be accepted: no route needs an inspector")
        self.inspection.send_labels(route, [samples.Label(*label) for label in labels])

    def show_alarm(self, what: str, why: str) -> None:
        """Raise a warning, or clear it (``why`` is empty)."""
        self._alarms.show(what, why)

    def external_split(self, route: str) -> ExternalSplit | None:
        """What a route that something else splits is to be split like; None where it is not served any more."""
        state = self._routes.get(route)
        if state is None:
            return None
        rollout, epoch = state.rollout, self._publisher.table.epoch
        weight_bp = self._publisher.weight_bp(route)
        return ExternalSplit(rollout.rollout_id, rollout.phase, weight_bp, epoch, state.first_epoch)

    def canary_in_flight(self, route: str) -> int:
        """How many requests the workers have given to the route's canary and not finished yet."""
        return self._aggregator.in_flight(route, Variant.CANARY)

    def publish_source(self, route: str, data: dict[str, str]) -> None:
        """Publish what a source does for a route: state, version, reason."""
        self._events.publish("source", dict(data), route=route)

    # views

    @property
    def notice(self) -> Notice:
        """The newest of the supervisor."""
        return self.processes.notice

    def objectives(self) -> dict[str, Objectives]:
        """What each route promises its users."""
        return self._queries.objectives()

    def routes(self) -> list[RouteView]:
        """All routes, in the order of the configuration."""
        return self._queries.routes()

    def route(self, name: str) -> RouteView:
        """One route, or NotFoundError."""
        return self._queries.route(name)

    def route_page(self, search: str, offset: int, limit: int) -> tuple[list[RouteView], int]:
        """Some of the routes that match the words of ``search``, and how many match."""
        return self._queries.route_page(search, offset, limit)

    def rollouts(
        self, route: str | None = None, limit: int = 50, before: str | None = None, search: str = ""
    ) -> list[RolloutView]:
        """Rollouts, newest first."""
        return self._queries.rollouts(route, limit, before, search)

    def rollout(self, rollout_id: str) -> RolloutView:
        """One rollout, or NotFoundError."""
        return self._queries.rollout(rollout_id)

    async def rollout_page(
        self, route: str | None = None, limit: int = 50, before: str | None = None, search: str = ""
    ) -> list[RolloutView]:
        """Rollouts of any age, newest first."""
        if route is not None:
            find_route(self._routes, route)
        return await self._past.page(route, limit, before, search)

    async def find_rollout(self, rollout_id: str) -> RolloutView:
        """One rollout of any age, or NotFoundError."""
        return await self._past.find(rollout_id)

    async def decision_history(self, rollout_id: str) -> list[DecisionView]:
        """All decisions of a rollout, from the journal. Raises JournalError."""
        return decision_history(await self.read_journal(lambda journal: journal.events(rollout_id)))

    async def series(self, rollout_id: str) -> RolloutSeries:
        """The evidence of a rollout over time, or NotFoundError."""
        return await self._past.series(rollout_id)

    async def data_results(self, rollout_id: str) -> RolloutDataResults:
        """What validators said of a rollout's windows of data, or NotFoundError."""
        if self._records.find(rollout_id) is None:
            await self._past.find(rollout_id)
        return await asyncio.to_thread(self._data_results.results, rollout_id)

    async def latencies(self, rollout_id: str) -> LatencyDistributions:
        """Both versions' latencies in a rollout: what is in memory, else what the journal has."""
        record = self._records.find(rollout_id)
        if record is None:
            await self._past.find(rollout_id)
            return distributions(rollout_id, None)
        route = self._routes.get(record.rollout.route)
        if route is not None and route.rollout.rollout_id == rollout_id:
            return distributions(rollout_id, route.analysis_state)
        snapshot = await self.read_journal(lambda journal: journal.load_snapshot(rollout_id))
        return distributions(rollout_id, None if snapshot is None else saved_analysis(snapshot))

    def workers(self) -> list[WorkerView]:
        """The connected workers."""
        return self._queries.workers(self._clock.monotonic_s())

    def backends(self) -> list[BackendView]:
        """All backends."""
        return self._queries.backends(self._config)

    def events(self, after: str | None = None) -> AsyncIterator[ControlEvent]:
        """The stream of events."""
        return self._events.listen(after)

    def event_cursor(self, after: str | None = None) -> str:
        """Where the stream of events begins with the same ``after``."""
        return self._events.cursor(after)

    def decision_events(self) -> AsyncIterator[ControlEvent]:
        """The same stream for those who wait for decisions: analyses come less often while nobody else looks on."""
        return self._events.listen(looks_on=False)

    def traffic(self) -> MergedTotals:
        """The merged totals, for metrics."""
        return self._aggregator.merged()

    def traffic_later(self) -> Callable[[], MergedTotals]:
        """What merges the totals of this moment, on any thread."""
        return self._aggregator.merged_later()

    def verdict_counts(self) -> dict[tuple[str, str], int]:
        """How many analyses ended in each verdict."""
        return dict(self._judge.verdict_counts)

    def probes(self) -> ProbeCounts:
        """Probes without a result, for metrics."""
        return self._health.counts()

    def alarms(self) -> list[AlarmView]:
        """What is wrong right now."""
        return self._alarms.standing

    def inspected(self) -> tuple[samples.Inspected | None, bool | None]:
        """The inspector's newest report, and whether it is connected."""
        inspection = self.inspection
        return (None, None) if inspection is None or not inspection.wanted else (inspection.newest, inspection.present)

    def readiness(self) -> Readiness:
        """Whether the instance is ready, with reasons and warnings."""
        reasons, warnings = self._alarms.reasons, self._alarms.warnings
        routes = unserved(self._publisher.table, self.prober.endpoints)
        (reasons if self._config.admin.unready_without_stable else warnings).extend(routes)
        return instance_readiness(
            *(reasons, warnings, self.hub),
            epoch=self._publisher.table.epoch,
            workers=self._config.workers,
            draining=self.notice.draining,
            now_s=self._clock.monotonic_s(),
        )

    # callbacks of the parts

    def _model_of(self, backend: str) -> ModelVersion | None:
        found = self._config.backends.get(backend)
        return None if found is None or found.model is None else found.model.value

    def _remember_table(self, table: RoutingTable) -> None:
        """A table is about to be published."""
        found = self._keeper.found
        # A journal that cannot be read has a newest event all the same.
        unread = 0 if found is None or self._journal_writer.readable else found.journal_seq
        configured = {state.name: state.configured for state in self._routes.values()}
        self._keeper.remember(table, configured, max(unread, self._journal_writer.last_seq))

    def _worker_changed(self, how: str, hello: wire.Hello) -> None:
        self._events.publish("worker", {"index": hello.index, "pid": hello.pid, "state": how})
        if how == "connected" and self.recovered.is_set() and hello.epoch > self._publisher.table.epoch:
            self._publisher.renumber_above(hello.epoch)
            for route in self._routes.values():
                # What it counted under numbers between ours and its own is of no experiment of ours.
                route.first_epoch = self._publisher.table.epoch

    def _endpoint_changed(self, endpoint: EndpointState) -> None:
        state = "up" if endpoint.up else "down"
        _log.warning(
            "endpoint %s of backend %s is %s: %s",
            *(endpoint.endpoint.url, endpoint.backend, state, endpoint.last_answer),
        )
        self._publish_health()
        self._events.publish("health", msgspec.to_builtins(view(endpoint)))

    def _publish_health(self) -> None:
        down = (wire.EndpointDown(one.backend, one.endpoint.url, one.refused) for one in self.prober.down)
        self.hub.publish_health(tuple(down))
