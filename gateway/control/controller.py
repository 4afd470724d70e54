"""The controller: evidence in, verdicts and wishes through the rollout machine, tables out.

Rules:

1. One thing at a time: ticks and wishes take turns on one lock, first come first served, so that every event meets
   the state that the one before it left.
2. More exposure for the canary: journal first, then apply; a journal that fails leaves everything as it was. Less
   exposure: apply first, then journal; a journal that fails raises an alarm, and the rollback stands.
3. An unreadable journal means stable only, and no rollout until it is mended.
4. No verdict from stale counts: without a live worker's recent report the rollout holds.
5. A restart publishes nothing above what the journal says and the workers were found doing.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec

from gateway.config.schema import GatewayConfig
from gateway.control.events import EventLog
from gateway.control.executor import Executor
from gateway.control.hub import WorkerHub
from gateway.control.journal import Journal
from gateway.control.observer import Merged, Observer
from gateway.control.prober import Health, Prober
from gateway.control.records import Record, Records
from gateway.control.routes import RouteState
from gateway.control.views import ControlEvent, EndpointView, Readiness, RolloutView, RouteView
from gateway.core.analysis import Analysis, AnalysisState, judge
from gateway.core.errors import ConflictError, JournalError, NotFoundError
from gateway.core.rollout import (
    AbortWished,
    Analysed,
    Event,
    Notify,
    PauseWished,
    Phase,
    Plan,
    PromoteWished,
    Restarted,
    ResumeWished,
    SetWeight,
    Started,
    WeightWished,
    step,
)
from gateway.core.rollout.machine import raises_exposure
from gateway.core.traffic.table import RoutingTable
from gateway.core.types import percent_from_weight_bp
from gateway.runtime import wire
from gateway.runtime.clock import Clock, SystemClock

_log = logging.getLogger("gateway.control")
# Workers that outlived the last control plane get this long to say what they are doing, before anything is published.
_WORKERS_WAIT_S = 1.0
_SNAPSHOT_EVERY_S = 1.0
_ANALYSIS_EVENT_EVERY_S = 0.25
# A worker reports every 50 ms; evidence in which the newest report is older than this decides nothing.
_STALE_S = 2.0


class Controller:
    """The control plane, as control.api.ControlPlane describes it."""

    def __init__(self, config: GatewayConfig, table: RoutingTable, journal: Journal | JournalError) -> None:
        self._config = config
        self._clock: Clock = SystemClock()
        self._journal = journal if isinstance(journal, Journal) else None
        self._disk = ThreadPoolExecutor(1, "journal")
        self._turn = asyncio.Lock()
        self._events = EventLog(self._clock)
        self._observer = Observer()
        self.hub = WorkerHub(self._observer, self._clock, self._worker_changed)
        self._executor = Executor(table, self.hub, self._events)
        self.prober = Prober(config.backends, self._endpoint_turned)
        self._routes = {route.name: RouteState(route) for route in config.routes}
        self._records = Records()
        self._verdicts: dict[tuple[str, str], int] = {}
        self._alarms: dict[str, str] = {}
        # Set once the first table is out: before that there is nothing to show and no wish can be granted.
        self.recovered = asyncio.Event()
        if isinstance(journal, JournalError):
            self._alarm("journal", f"serving stable only, rollouts are frozen: {journal}")

    # life

    async def run(self) -> None:
        """Take over from whatever was before, then tick for ever. The hub must be listening."""
        await self._recover()
        self.recovered.set()
        interval_s = min(route.config.analysis.interval_s for route in self._routes.values())
        async with asyncio.TaskGroup() as group:
            group.create_task(self.prober.run())
            group.create_task(self._ticks(interval_s))

    async def _ticks(self, interval_s: float) -> None:
        while True:
            await asyncio.sleep(interval_s)
            try:
                await self.tick()
            except Exception:  # noqa: BLE001  # see below
                # A loop that dies would leave a canary without a judge; the fault is logged, counted and held against
                # readiness, and the next tick tries again.
                _log.exception("the analysis tick failed")
                self._alarm("analysis", "the analysis loop has failed; see the log")

    async def _recover(self) -> None:
        try:
            async with asyncio.timeout(_WORKERS_WAIT_S):
                while len(self.hub.sessions) < self._config.workers:
                    await asyncio.sleep(0.01)
        except TimeoutError:
            pass
        async with self._turn:
            hand_weights = {}
            if self._journal is not None:
                journal = self._journal
                records = await self._on_disk(lambda: self._records.load(journal))
                hand_weights = await self._on_disk(journal.weights)
                for route in self._routes.values():
                    route.adopt(records, await self._on_disk(lambda route=route: route.read(journal)))
            changed = [await self._restart(route) for route in self._routes.values()]
            weights_bp = {
                route.name: route.first_weight_bp(hand_weights.get(route.name), journaled=self._journal is not None)
                for route in self._routes.values()
            }
            await self._executor.publish_first(weights_bp)
            for route in self._routes.values():
                route.first_epoch = self._executor.table.epoch
            for kind, route, reason in [c for c in changed if c is not None]:
                self._announce(route, kind, reason)

    async def _restart(self, route: RouteState) -> tuple[str, RouteState, str] | None:
        """Tell the machine that the control plane came back; its weight is published with the first table."""
        if route.rollout.phase is Phase.IDLE:
            return None
        if not route.concerns_present_backends():
            if route.rollout.phase.terminal:
                route.forget()
                return None
            event: Event = AbortWished(
                self._clock.monotonic_s(), "the configuration", "its stable or canary backend was changed"
            )
        else:
            event = Restarted(self._clock.monotonic_s(), self._live_weight_bp(route.name), route.canary_requests)
        new, commands = step(route.rollout, event)
        if new is route.rollout:
            return None
        route.rollout = new
        await self._journal_late(route, event, None)
        return next((c.kind, route, c.reason) for c in commands if isinstance(c, Notify))

    def _live_weight_bp(self, name: str) -> int | None:
        """The least that a surviving worker gives the canary; None when none remembers a table."""
        live = [s.hello.weights_bp.get(name, 0) for s in self.hub.sessions if s.hello.epoch > 0]
        return min(live, default=None)

    async def stop(self) -> None:
        """Save what the analysis knows, and close the journal."""
        async with self._turn:
            for route in self._routes.values():
                await self._snapshot(route)
            if self._journal is not None:
                await self._on_disk(self._journal.close)
        await self.hub.stop()
        self._disk.shutdown()

    # the way of one decision

    async def tick(self) -> None:
        """Judge every route's evidence once, and act on it."""
        for route in self._routes.values():
            if not route.active:
                continue
            async with self._turn:
                if route.active:
                    await self._judge(route)
        self._observer.forget(self._executor.table.epoch, self._clock.monotonic_s())

    async def _judge(self, route: RouteState) -> None:
        now_s = self._clock.monotonic_s()
        if not any(now_s - session.reported_s < _STALE_S for session in self.hub.sessions):
            return
        evidence = self._observer.evidence(route.name, route.first_epoch, self._executor.table.epoch, now_s)
        assert route.analysis_state is not None  # every active route has one: see RouteState
        route.analysis_state, analysis = judge(route.analysis_state.spec, route.analysis_state, evidence)
        key = (route.name, analysis.verdict.value)
        self._verdicts[key] = self._verdicts.get(key, 0) + 1
        changed = route.analysis is None or route.analysis.verdict is not analysis.verdict
        route.analysis = analysis
        event = Analysed(now_s, analysis.verdict, analysis.reason, analysis.causes, analysis.canary_requests)
        try:
            await self._apply(route, event, analysis)
        except JournalError as error:
            self._alarm("journal", f"the rollout of {route.name} holds: {error}")
        if changed or now_s - route.announced_s >= _ANALYSIS_EVENT_EVERY_S:
            route.announced_s = now_s
            self._announce(route, "analysis", analysis.reason)
        if now_s - route.snapshot_s >= _SNAPSHOT_EVERY_S:
            route.snapshot_s = now_s
            await self._snapshot(route)

    async def _apply(self, route: RouteState, event: Event, analysis: Analysis | None) -> None:
        """One event through the machine: journal and publish in the order that keeps users safe."""
        new, commands = step(route.rollout, event)
        if new is route.rollout:
            return
        if raises_exposure(route.rollout, new):
            await self._append(event, new, analysis)
            route.rollout = new
            await self._execute(route, commands)
        else:
            route.rollout = new
            for command in commands:
                if isinstance(command, SetWeight):
                    await self._executor.set_weight(command.route, command.weight_bp)
            await self._journal_late(route, event, analysis)
            await self._execute(route, tuple(c for c in commands if not isinstance(c, SetWeight)))

    async def _execute(self, route: RouteState, commands: tuple[SetWeight | Notify, ...]) -> None:
        for command in commands:
            if isinstance(command, SetWeight):
                await self._executor.set_weight(command.route, command.weight_bp)
            else:
                self._announce(route, command.kind, command.reason)

    async def _append(self, event: Event, new: Any, analysis: Analysis | None) -> None:
        if self._journal is None:
            raise JournalError(self._alarms["journal"])
        journal, wall_s = self._journal, self._clock.wall_s()
        await self._on_disk(lambda: journal.append(new.rollout_id, event, new, analysis, wall_s))
        self._records.put(new, analysis, wall_s)

    async def _journal_late(self, route: RouteState, event: Event, analysis: Analysis | None) -> None:
        try:
            await self._append(event, route.rollout, analysis)
        except JournalError as error:
            self._records.put(route.rollout, analysis, self._clock.wall_s())
            self._alarm("journal", f"applied, but not journaled: {route.rollout.reason}: {error}")

    async def _snapshot(self, route: RouteState) -> None:
        journal, state = self._journal, route.analysis_state
        if journal is None or journal.broken or state is None or not route.active:
            return
        rollout_id, body, wall_s = route.rollout.rollout_id, msgspec.json.encode(state), self._clock.wall_s()
        evidence = msgspec.json.encode(route.analysis)
        try:
            await self._on_disk(lambda: journal.save_snapshot(rollout_id, body, evidence, wall_s))
        except JournalError as error:
            self._alarm("journal", f"evidence of {route.name} is not being saved: {error}")

    async def _on_disk(self, work: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._disk, work)

    # wishes

    async def start(self, route: str, by: str, plan: Plan | None = None) -> RolloutView:
        """Start a rollout of the route's canary; returns when every worker routes by its first weight."""
        state = self._route(route)
        canary = state.config.canary
        if canary is None:
            raise ConflictError(f"route {route} has no canary backend: name one in the configuration")
        rollout_id = f"{route}-{secrets.token_hex(4)}"
        async with self._turn:
            before = (state.analysis_state, state.analysis, state.first_epoch)
            event = Started(
                rollout_id, route, state.config.stable, canary, plan or state.plan, self._clock.monotonic_s(), by
            )
            # The evidence begins with the epoch that the start itself publishes.
            step(state.rollout, event)
            state.analysis_state = AnalysisState.fresh(state.spec)
            state.analysis = None
            state.first_epoch = self._executor.table.epoch + 1
            try:
                await self._apply(state, event, None)
            except BaseException:
                state.analysis_state, state.analysis, state.first_epoch = before
                raise
        return self.rollout(rollout_id)

    async def set_weight(self, route: str, weight_bp: int, by: str) -> RouteView:
        """Set a weight by hand; during a rollout this suspends its automation."""
        state = self._route(route)
        if weight_bp and state.config.canary is None:
            raise ConflictError(f"route {route} has no canary backend to send {weight_bp / 100:g} % to")
        async with self._turn:
            if state.active:
                await self._apply(state, WeightWished(self._clock.monotonic_s(), by, weight_bp), None)
            elif weight_bp > self._executor.table.route(route).weight_bp:
                await self._journal_weight(route, weight_bp, by)
                await self._executor.set_weight(route, weight_bp)
            else:
                await self._executor.set_weight(route, weight_bp)
                try:
                    await self._journal_weight(route, weight_bp, by)
                except JournalError as error:
                    self._alarm("journal", f"weight of {route} lowered, but not journaled: {error}")
        return self.route(route)

    async def _journal_weight(self, route: str, weight_bp: int, by: str) -> None:
        if self._journal is None:
            raise JournalError(self._alarms["journal"])
        journal, wall_s = self._journal, self._clock.wall_s()
        await self._on_disk(lambda: journal.set_weight(route, weight_bp, by, wall_s))

    async def pause(self, rollout_id: str, by: str, reason: str = "") -> RolloutView:
        """Hold the weight where it is."""
        return await self._wish(rollout_id, lambda at_s, _: PauseWished(at_s, by, reason))

    async def resume(self, rollout_id: str, by: str) -> RolloutView:
        """Let automation go on."""
        return await self._wish(rollout_id, lambda at_s, requests: ResumeWished(at_s, by, requests))

    async def promote(self, rollout_id: str, by: str, reason: str = "") -> RolloutView:
        """Promote by hand."""
        return await self._wish(rollout_id, lambda at_s, _: PromoteWished(at_s, by, reason))

    async def abort(self, rollout_id: str, by: str, reason: str = "") -> RolloutView:
        """Roll back by hand."""
        return await self._wish(rollout_id, lambda at_s, _: AbortWished(at_s, by, reason))

    async def _wish(self, rollout_id: str, make: Any) -> RolloutView:
        record = self._records.get(rollout_id)
        route = self._routes.get(record.rollout.route)
        if route is None or route.rollout.rollout_id != rollout_id:
            raise ConflictError(f"rollout {rollout_id} is over: a newer one has taken its route")
        async with self._turn:
            if route.rollout.rollout_id != rollout_id:
                raise ConflictError(f"rollout {rollout_id} is over: a newer one has taken its route")
            await self._apply(route, make(self._clock.monotonic_s(), route.canary_requests), route.analysis)
        return self.rollout(rollout_id)

    # views

    def routes(self) -> list[RouteView]:
        """All routes, in the order of the configuration."""
        return [self.route(name) for name in self._routes]

    def route(self, name: str) -> RouteView:
        """One route, or NotFoundError."""
        state = self._route(name)
        table = self._executor.table
        served = table.route(name)
        names = {served.stable, served.canary}
        return RouteView(
            name=name,
            path_prefix=served.path_prefix,
            hosts=served.hosts,
            stable=served.stable,
            canary=served.canary,
            canary_percent=percent_from_weight_bp(served.weight_bp),
            epoch=table.epoch,
            workers=len(self.hub.sessions),
            workers_applied=self.hub.applied(table.epoch),
            endpoints=tuple(_endpoint_view(h) for h in self.prober.health if h.backend in names),
            rollout_id=state.rollout.rollout_id or None,
            phase=state.rollout.phase.value,
        )

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
        if state is not None and state.rollout.rollout_id == record.rollout.rollout_id:
            return record.view(state.rollout, state.analysis or record.analysis, state.canary_requests)
        return record.view(record.rollout, record.analysis, None)

    def events(self, after_id: int | None = None) -> AsyncIterator[ControlEvent]:
        """The stream of events."""
        return self._events.listen(after_id)

    def traffic(self) -> Merged:
        """The merged totals, for metrics."""
        return self._observer.merged()

    def verdict_counts(self) -> dict[tuple[str, str], int]:
        """How many analyses ended in each verdict."""
        return dict(self._verdicts)

    def readiness(self) -> Readiness:
        """Ready when all workers route by the table in force and nothing has raised an alarm."""
        sessions = self.hub.sessions
        reasons = list(self._alarms.values())
        epoch = self._executor.table.epoch
        if len(sessions) < self._config.workers:
            reasons.append(f"{len(sessions)} of {self._config.workers} workers are connected")
        elif self.hub.applied(epoch) < len(sessions):
            reasons.append(f"{self.hub.applied(epoch)} of {len(sessions)} workers route by table {epoch}")
        return Readiness(not reasons, len(sessions), tuple(reasons))

    def _route(self, name: str) -> RouteState:
        try:
            return self._routes[name]
        except KeyError:
            known = ", ".join(sorted(self._routes))
            raise NotFoundError(f"no route is named {name!r}; there are: {known}") from None

    # what happens

    def _announce(self, route: RouteState, kind: str, reason: str) -> None:
        view = self.rollout(route.rollout.rollout_id)
        data = msgspec.to_builtins(view)
        if kind != "analysis":
            _log.warning("rollout %s %s: %s", view.id, kind, reason)
        self._events.publish(kind, data, route=route.name, rollout_id=view.id)

    def _alarm(self, what: str, reason: str) -> None:
        if self._alarms.get(what) != reason:
            self._alarms[what] = reason
            _log.error("alarm: %s", reason)
            self._events.publish("alarm", {"what": what, "reason": reason})

    def _worker_changed(self, how: str, hello: wire.Hello) -> None:
        self._events.publish("worker", {"index": hello.index, "pid": hello.pid, "state": how})
        if hello.epoch > self._executor.table.epoch:
            self._outbidding = asyncio.get_running_loop().create_task(self._executor.outbid(hello.epoch))

    def _endpoint_turned(self, health: Health) -> None:
        _log.warning("endpoint %s of %s is %s", health.endpoint.url, health.backend, "up" if health.up else "down")
        self.hub.publish_health(self.prober.down)
        self._events.publish("health", msgspec.to_builtins(_endpoint_view(health)))


def _endpoint_view(health: Health) -> EndpointView:
    return EndpointView(health.backend, health.endpoint.url, health.up)
