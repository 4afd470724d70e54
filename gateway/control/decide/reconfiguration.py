"""Another configuration comes into force: which rollouts go on, which are withdrawn, and the table that follows.

Rules:

1. A rollout goes on when its route still names its backends, by the plan that it was started with.
2. One that would lose its backends is withdrawn, unless its plan refuses that: then nothing is changed.
3. Weights in force stay; those of the new configuration count for new routes, and where the pair of backends changed.
"""

from __future__ import annotations

from collections.abc import Mapping

from gateway.config.routes import RouteConfig
from gateway.config.schema import GatewayConfig
from gateway.control.decide.pipeline import DecisionPipeline
from gateway.control.decide.routes import RouteState
from gateway.control.health.prober import Prober
from gateway.control.journal.writer import JournalWriter
from gateway.control.workers.table_keeper import TableKeeper
from gateway.control.workers.table_publisher import RouteAssignment, TablePublisher
from gateway.core.errors import ConflictError
from gateway.core.rollout import OnNewCanary
from gateway.core.traffic.table import RoutingTable


class Reconfiguration:
    """Changes ``routes`` in place, as all parts of the control plane share them."""

    def __init__(
        self,
        *,
        routes: dict[str, RouteState],
        pipeline: DecisionPipeline,
        publisher: TablePublisher,
        journal_writer: JournalWriter,
        prober: Prober,
        keeper: TableKeeper,
    ) -> None:
        self._routes = routes
        self._pipeline = pipeline
        self._publisher = publisher
        self._journal_writer = journal_writer
        self._prober = prober
        self._keeper = keeper

    def apply(self, config: GatewayConfig, table: RoutingTable, by: str, file_sha256: str | None) -> None:
        """Publish the table of another configuration. Never waits; raises ConflictError (nothing was changed)."""
        configured = {route.name: route for route in config.routes}
        # A first version's start is a promotion, which may wait for the journal.
        states = self._routes.values()
        under_way = [state for state in states if state.active or state.decided is not state.rollout]
        lost = [state for state in under_way if not _goes_on(state, configured, config)]
        for state in lost:
            _check_may_lose(state)
        for state in lost:
            self._pipeline.withdraw(state, by, "superseded: the route's stable or canary backend was changed")
        if file_sha256 is not None:
            self._keeper.config_sha256 = file_sha256
        assignments = self._configure_routes(configured, config)
        self._prober.restrict(table.backends)
        self._prober.watch(config.backends)
        self._publisher.replace(table, assignments)
        for state in self._routes.values():
            if not state.active:
                state.first_epoch = self._publisher.table.epoch

    def _configure_routes(
        self, configured: Mapping[str, RouteConfig], config: GatewayConfig
    ) -> dict[str, RouteAssignment]:
        """Make the routes those of the new configuration; returns how each is to be served."""
        assignments: dict[str, RouteAssignment] = {}
        routes: dict[str, RouteState] = {}
        for name, route in configured.items():
            state = self._routes.get(name)
            if state is None:
                routes[name] = state = RouteState(route)
                assignments[name] = state.assignment(state.first_weight_bp(None, None))
                continue
            before, weight_bp = (state.stable, state.canary), self._publisher.weight_bp(name)
            routes[name] = state
            if state.configure(route, config.backends):
                self._journal_writer.write(lambda journal, name=name: journal.drop_roles(name))  # type: ignore[misc]  # mypy cannot infer a lambda with a default
            if (state.stable, state.canary) != before:
                weight_bp = state.first_weight_bp(None, None)
            assignments[name] = state.assignment(weight_bp)
        self._routes.clear()
        self._routes.update(routes)
        return assignments


def _check_may_lose(state: RouteState) -> None:
    """Raise ConflictError where the rollout of a route may not lose its backends."""
    if state.decided is not state.rollout:
        raise ConflictError(
            f"route {state.name} would lose its backends while a decision waits for the journal:"
            f" {state.decided.reason}; try again"
        )
    if state.decided.plan.on_new_canary is OnNewCanary.REFUSE:
        raise ConflictError(
            f"rollout {state.decided.rollout_id} on route {state.name} is {state.decided.phase} and would lose its"
            " backends: promote or abort it first, or let the plan say on_new_canary: supersede"
        )


def _goes_on(state: RouteState, configured: Mapping[str, RouteConfig], config: GatewayConfig) -> bool:
    """Whether a rollout keeps its backends under another configuration."""
    route = configured.get(state.name)
    named = {name for name in (state.decided.stable, state.decided.canary) if name}
    if route is None or not named <= config.backends.keys():
        return False
    configured_stable = route.stable or ""
    same = state.promoted is not None and state.promoted.configured == configured_stable
    stable = state.promoted.stable if state.promoted is not None and same else configured_stable
    return (stable, route.canary) == (state.decided.stable, state.decided.canary)
