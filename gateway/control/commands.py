"""What operators, pipelines and gates may wish of the control plane, and what another configuration means to it."""

from __future__ import annotations

import secrets
from abc import ABC, abstractmethod
from collections.abc import Callable

from gateway.config.schema import GatewayConfig, RouteConfig
from gateway.control.alarms import Alarms
from gateway.control.decide.pipeline import Decisions
from gateway.control.decide.rollout_records import Records
from gateway.control.decide.routes import RouteState
from gateway.control.health.conditions import canary_endpoints_up
from gateway.control.health.prober import Prober
from gateway.control.journal.store import Journal
from gateway.control.journal.writer import JournalWriter
from gateway.control.show.decision_history import Decision, story
from gateway.control.views import RolloutView, RouteView
from gateway.control.workers.table_keeper import TableKeeper
from gateway.control.workers.table_publisher import Served, TablePublisher
from gateway.core.errors import ConflictError
from gateway.core.rollout import (
    AbortRequested,
    ApproveRequested,
    Event,
    GateAnswered,
    OnNewCanary,
    PauseRequested,
    Plan,
    PromoteRequested,
    ResumeRequested,
    Started,
    WeightRequested,
    Withdrawn,
)
from gateway.core.traffic.table import RoutingTable
from gateway.runtime.clock import Clock


class Wishes(ABC):
    """The wishing half of the controller.

    All raise NotFoundError, TransitionError or ConflictError for what cannot be, and JournalError for more exposure
    that is not on the disk in time; nothing was changed then.
    """

    _config: GatewayConfig
    _routes: dict[str, RouteState]
    _records: Records
    _decisions: Decisions
    _executor: TablePublisher
    _scribe: JournalWriter
    _alarms: Alarms
    _clock: Clock
    _keeper: TableKeeper
    prober: Prober

    @abstractmethod
    def route(self, name: str) -> RouteView:
        """One route, or NotFoundError."""

    @abstractmethod
    def rollout(self, rollout_id: str) -> RolloutView:
        """One rollout, or NotFoundError."""

    @abstractmethod
    def _route(self, name: str) -> RouteState:
        """One route's state, or NotFoundError."""

    async def start(
        self, route: str, by: str, plan: Plan | None = None, *, retry: bool = False, reason: str = ""
    ) -> RolloutView:
        """Start a rollout of the route's canary; returns when every worker routes by its first weight.

        A canary that was rolled back on this route before needs ``retry``.
        """
        state = self._route(route)
        canary, rollout_id = state.canary, f"{route}-{secrets.token_hex(4)}"
        if canary is None and state.promoted is not None:
            raise ConflictError(
                f"route {route} has no canary to try: {state.stable} was promoted to stable;"
                " name another canary in the configuration"
            )
        if canary is None:
            raise ConflictError(f"route {route} has no canary backend: name one in the configuration")
        before = self._records.rolled_back(route, canary)
        if before is not None and not retry:
            raise ConflictError(
                f"{canary} was rolled back on route {route} ({before.reason});"
                " ask for a retry (--retry) to try the same version again"
            )

        def made() -> Event:
            if state.canary != canary:
                raise ConflictError(f"the canary of route {route} is not {canary} any more")
            up = canary_endpoints_up(self.prober.health, canary, state.stable)
            ladder = plan or state.plan
            return Started(
                rollout_id, route, state.stable, canary, ladder, self._clock.monotonic_s(), by, retry, up, reason
            )

        await self._decisions.wish(state, made)
        # If its last rollout could not be believed: it is history now.
        self._alarms.clear(f"route {route}")
        return self.rollout(rollout_id)

    async def set_weight(self, route: str, weight_bp: int, by: str, reason: str = "") -> RouteView:
        """Set a weight by hand; during a rollout this suspends its automation."""
        state = self._route(route)
        if weight_bp and state.canary is None:
            raise ConflictError(f"route {route} has no canary backend to send {weight_bp / 100:g} % to")
        if weight_bp and not state.stable:
            raise ConflictError(
                f"nothing is deployed on route {route} yet, so its canary can have no share: start a rollout of it"
            )
        if state.active:
            await self._decisions.wish(state, lambda: WeightRequested(self._clock.monotonic_s(), by, weight_bp, reason))
            return self.route(route)
        if state.deciding and weight_bp <= self._executor.weight_bp(route):
            # A start waits for the disk, and a lower weight must not: the start is taken back.
            why = "its weight was lowered before it began"
            await self._decisions.wish(state, lambda: Withdrawn(self._clock.monotonic_s(), by, why))
        await self._decisions.weigh(state, weight_bp, by)
        return self.route(route)

    async def pause(self, rollout_id: str, by: str, reason: str = "") -> RolloutView:
        """Hold the weight where it is."""
        return await self._wish(rollout_id, lambda at_s, _: PauseRequested(at_s, by, reason))

    async def resume(self, rollout_id: str, by: str, reason: str = "") -> RolloutView:
        """Let automation go on."""
        return await self._wish(rollout_id, lambda at_s, requests: ResumeRequested(at_s, by, requests, reason))

    async def promote(self, rollout_id: str, by: str, reason: str = "", *, next_step: bool = False) -> RolloutView:
        """Promote by hand: to the next step, or all the way (over the bake, if the plan has one)."""
        return await self._wish(
            rollout_id, lambda at_s, requests: PromoteRequested(at_s, by, reason, next_step, requests)
        )

    async def approve(self, rollout_id: str, by: str, reason: str = "") -> RolloutView:
        """Open the gate before which the rollout waits."""
        return await self._wish(rollout_id, lambda at_s, requests: ApproveRequested(at_s, by, reason, requests))

    async def answer_gate(self, rollout_id: str, gate: str, passed: bool, reason: str, by: str) -> RolloutView:
        """Take in the last word of what a gate asks; of another gate than the one in force it is ignored."""
        return await self._wish(
            rollout_id, lambda at_s, requests: GateAnswered(at_s, gate, passed, reason, by, requests)
        )

    async def abort(self, rollout_id: str, by: str, reason: str = "") -> RolloutView:
        """Roll back by hand."""
        return await self._wish(rollout_id, lambda at_s, _: AbortRequested(at_s, by, reason))

    async def _wish(self, rollout_id: str, make: Callable[[float, int], Event]) -> RolloutView:
        name = self._records.get(rollout_id).rollout.route
        route = self._routes.get(name)
        if route is None:
            raise ConflictError(f"rollout {rollout_id} is over: the configuration has no route {name} any more")

        def made() -> Event:
            if route.decided.rollout_id != rollout_id:
                raise ConflictError(f"rollout {rollout_id} is over: route {name} is not under its control any more")
            return make(self._clock.monotonic_s(), route.canary_requests)

        await self._decisions.wish(route, made)
        return self.rollout(rollout_id)

    async def story(self, rollout_id: str) -> list[Decision]:
        """All decisions of a rollout with their reasons and numbers, as the journal has them."""

        def read(journal: Journal) -> list[Decision]:
            return story(journal.events(rollout_id))

        return await self._scribe.read(read)

    # another configuration

    async def reconfigure(
        self,
        config: GatewayConfig,
        table: RoutingTable,
        by: str = "the configuration",
        *,
        file_sha256: str | None = None,
    ) -> None:
        """Serve by another configuration; ``table`` is made of it, its weights count for new routes only.

        ``file_sha256`` names the text of the configuration file, where that has changed.

        A rollout goes on when its route still names its backends, by the plan that it was started with. Raises
        ConflictError (nothing was changed) when a rollout under way would lose its backends and its plan refuses that.
        Returns when the workers know.
        """
        wanted = {route.name: route for route in config.routes}
        # A first version's start is a promotion, which may wait for the journal.
        states = self._routes.values()
        under_way = [state for state in states if state.active or state.decided is not state.rollout]
        lost = [state for state in under_way if not _goes_on(state, wanted, config)]
        for state in lost:
            if state.decided is not state.rollout:
                raise ConflictError(
                    f"route {state.name} would lose its backends while a decision waits for the journal:"
                    f" {state.decided.reason}; try again"
                )
            if state.decided.plan.on_new_canary is OnNewCanary.REFUSE:
                where = f"rollout {state.decided.rollout_id} on route {state.name} is {state.decided.phase}"
                raise ConflictError(
                    f"{where} and would lose its backends:"
                    " promote or abort it first, or let the plan say on_new_canary: supersede"
                )
        for state in lost:
            self._decisions.withdraw(state, by, "superseded: the route's stable or canary backend was changed")
        self._config = config
        if file_sha256 is not None:
            self._keeper.config_sha256 = file_sha256
        served = self._adopt(wanted, config)
        self.prober.guard(table.backends)
        self.prober.watch(config.backends)
        self._executor.replace(table, served)
        for state in self._routes.values():
            if not state.active:
                state.first_epoch = self._executor.table.epoch
        await self._executor.settled()

    def _adopt(self, wanted: dict[str, RouteConfig], config: GatewayConfig) -> dict[str, Served]:
        """Make the routes those of the new configuration; returns how each is to be served."""
        served: dict[str, Served] = {}
        routes: dict[str, RouteState] = {}
        for name, route in wanted.items():
            state = self._routes.get(name)
            if state is None:
                routes[name] = state = RouteState(route)
                served[name] = Served(state.stable, state.canary, state.first_weight_bp(None, None))
                continue
            before, weight_bp = (state.stable, state.canary), self._executor.weight_bp(name)
            routes[name] = state
            if state.configure(route, config.backends):
                self._scribe.write(lambda journal, name=name: journal.drop_roles(name))  # type: ignore[misc]  # mypy cannot infer a lambda with a default
            if (state.stable, state.canary) != before:
                weight_bp = state.first_weight_bp(None, None)
            served[name] = Served(state.stable, state.canary, weight_bp)
        self._routes.clear()
        self._routes.update(routes)
        return served


def _goes_on(state: RouteState, wanted: dict[str, RouteConfig], config: GatewayConfig) -> bool:
    """Whether a rollout keeps its object under another configuration."""
    route = wanted.get(state.name)
    named = {name for name in (state.decided.stable, state.decided.canary) if name}
    if route is None or not named <= config.backends.keys():
        return False
    configured = route.stable or ""
    promoted = state.promoted if state.promoted is not None and state.promoted.configured == configured else None
    stable = configured if promoted is None else promoted.stable
    return (stable, route.canary) == (state.decided.stable, state.decided.canary)
