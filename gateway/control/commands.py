"""What operators, pipelines and gates may request: start, steer and end rollouts, set weights.

Every command raises NotFoundError, TransitionError or ConflictError for what cannot be, and JournalError for more
exposure that is not on the disk in time; nothing was changed then. It returns when every worker routes by what follows.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping

from gateway.control.alarms import Alarms
from gateway.control.decide.pipeline import DecisionPipeline
from gateway.control.decide.rollout_records import RolloutRecords
from gateway.control.decide.routes import RouteState, find_route
from gateway.control.health.conditions import canary_endpoints_up
from gateway.control.health.prober import Prober
from gateway.control.journal.writer import JournalWriter
from gateway.control.show.queries import Queries
from gateway.control.views import RolloutView, RouteView
from gateway.control.workers.table_publisher import TablePublisher
from gateway.core.errors import ConflictError, InvalidValueError
from gateway.core.model_version import ModelVersion
from gateway.core.rollout import (
    AbortRequested,
    ApproveRequested,
    Event,
    GateAnswered,
    PauseRequested,
    Phase,
    Plan,
    PromoteRequested,
    ResumeRequested,
    Rollout,
    Started,
    WeightRequested,
    Withdrawn,
)
from gateway.runtime.clock import Clock


class Commands:
    """All commands; `control.api.RolloutCommands` says what each one does. ``routes`` are those in force.

    ``model_of`` says what a backend serves, where the configuration says so.
    """

    def __init__(
        self,
        *,
        routes: Mapping[str, RouteState],
        records: RolloutRecords,
        pipeline: DecisionPipeline,
        publisher: TablePublisher,
        prober: Prober,
        alarms: Alarms,
        queries: Queries,
        clock: Clock,
        journal_writer: JournalWriter,
        model_of: Callable[[str], ModelVersion | None],
    ) -> None:
        self._model_of = model_of
        self._routes = routes
        self._records = records
        self._pipeline = pipeline
        self._publisher = publisher
        self._prober = prober
        self._alarms = alarms
        self._queries = queries
        self._clock = clock
        self._journal_writer = journal_writer

    async def start(
        self, route: str, by: str, plan: Plan | None = None, *, retry: bool = False, reason: str = ""
    ) -> RolloutView:
        """Start a rollout of the route's canary. One that was rolled back on this route before needs ``retry``.

        Raises InvalidValueError for a plan that this route cannot follow, too.
        """
        state = find_route(self._routes, route)
        canary, rollout_id = state.canary, f"{route}-{secrets.token_hex(4)}"
        if canary is None and state.promoted is not None:
            raise ConflictError(
                f"route {route} has no canary to roll out: {state.stable} was promoted to stable;"
                " name another canary in the configuration"
            )
        if canary is None:
            raise ConflictError(f"route {route} has no canary backend: name one in the configuration")
        before = await self._last_rollout(route, canary)
        if before is not None and before.phase is Phase.ROLLED_BACK and not retry:
            raise ConflictError(
                f"{canary} was rolled back on route {route} ({before.reason});"
                " ask for a retry (--retry) to try the same version again"
            )

        def make() -> Event:
            if state.canary != canary:
                raise ConflictError(f"the canary of route {route} is no longer {canary}")
            up = canary_endpoints_up(self._prober.endpoints, canary, state.stable)
            by_plan = plan or state.plan
            if by_plan.mirror is not None and self._publisher.table.route(route).external:
                raise InvalidValueError(
                    f"plan.mirror: an actuator splits the requests of route {route}, and none of them comes here to be"
                    " copied: start it by a plan without mirror"
                )
            now_s, models = self._clock.monotonic_s(), (self._model_of(canary), self._model_of(state.stable))
            return Started(rollout_id, route, state.stable, canary, by_plan, now_s, by, retry, up, reason, *models)

        await self._pipeline.execute(state, make)
        # If the journal of its last rollout was damaged: that rollout is history now.
        self._alarms.clear(f"route {route}")
        return self._queries.rollout(rollout_id)

    async def _last_rollout(self, route: str, canary: str) -> Rollout | None:
        """The last rollout of this canary on this route that had begun, however long ago."""
        known = self._records.last_rollout(route, canary)
        if known is not None or not self._records.archived:
            return known
        past = await self._journal_writer.read(lambda journal: journal.archive.last_rollout(route, canary))
        return None if past is None else past.rollout

    async def set_weight(self, route: str, weight_bp: int, by: str, reason: str = "") -> RouteView:
        """Set a weight by hand; during a rollout this suspends its automation."""
        state = find_route(self._routes, route)
        if weight_bp and state.canary is None:
            raise ConflictError(f"route {route} has no canary backend to send {weight_bp / 100:g} % to")
        if weight_bp and not state.stable:
            raise ConflictError(
                f"nothing is deployed on route {route} yet, so its canary cannot get traffic: start a rollout of it"
            )
        if state.active:
            await self._pipeline.execute(
                state, lambda: WeightRequested(self._clock.monotonic_s(), by, weight_bp, reason)
            )
            return self._queries.route(route)
        if state.deciding and weight_bp <= self._publisher.weight_bp(route):
            # A start waits for the disk, and a lower weight must not: the start is taken back.
            why = "its weight was lowered before it began"
            await self._pipeline.execute(state, lambda: Withdrawn(self._clock.monotonic_s(), by, why))
        await self._pipeline.set_weight(state, weight_bp, by)
        return self._queries.route(route)

    async def pause(self, rollout_id: str, by: str, reason: str = "") -> RolloutView:
        """Hold the weight where it is."""
        return await self._execute(rollout_id, lambda at_s, _: PauseRequested(at_s, by, reason))

    async def resume(self, rollout_id: str, by: str, reason: str = "") -> RolloutView:
        """Let automation go on."""
        return await self._execute(rollout_id, lambda at_s, requests: ResumeRequested(at_s, by, requests, reason))

    async def promote(self, rollout_id: str, by: str, reason: str = "", *, next_step: bool = False) -> RolloutView:
        """Promote by hand: to the next step, or all the way (over the bake, if the plan has one)."""
        return await self._execute(
            rollout_id, lambda at_s, requests: PromoteRequested(at_s, by, reason, next_step, requests)
        )

    async def approve(self, rollout_id: str, by: str, reason: str = "") -> RolloutView:
        """Open the gate that the rollout waits for."""
        return await self._execute(rollout_id, lambda at_s, requests: ApproveRequested(at_s, by, reason, requests))

    async def answer_gate(self, rollout_id: str, gate: str, passed: bool, reason: str, by: str) -> RolloutView:
        """Take in a gate's final answer; the answer of another gate than the one in force is ignored."""
        return await self._execute(
            rollout_id, lambda at_s, requests: GateAnswered(at_s, gate, passed, reason, by, requests)
        )

    async def abort(self, rollout_id: str, by: str, reason: str = "") -> RolloutView:
        """Roll back by hand."""
        return await self._execute(rollout_id, lambda at_s, _: AbortRequested(at_s, by, reason))

    async def _execute(self, rollout_id: str, make_event: Callable[[float, int], Event]) -> RolloutView:
        name = self._records.get(rollout_id).rollout.route
        route = self._routes.get(name)
        if route is None:
            raise ConflictError(f"rollout {rollout_id} has ended: the configuration no longer has route {name}")

        def make() -> Event:
            if route.decided.rollout_id != rollout_id:
                raise ConflictError(f"rollout {rollout_id} has ended: it no longer controls route {name}")
            return make_event(self._clock.monotonic_s(), route.canary_requests)

        await self._pipeline.execute(route, make)
        return self._queries.rollout(rollout_id)
