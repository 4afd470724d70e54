"""What people ask the control plane: its routes and rollouts, workers and backends, as they are at this moment."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from gateway.config.core_values import core_value
from gateway.config.schema import GatewayConfig
from gateway.control.decide.rollout_records import RolloutRecord, RolloutRecords
from gateway.control.decide.routes import RouteState, find_route
from gateway.control.health.endpoint_health import EndpointHealth, view
from gateway.control.show.rates import RequestRates
from gateway.control.views import BackendView, EndpointView, RolloutView, RouteView, WorkerView
from gateway.control.workers.hub import WorkerHub
from gateway.control.workers.report_aggregator import ReportAggregator
from gateway.control.workers.table_publisher import TablePublisher
from gateway.core.objectives import Objectives
from gateway.core.traffic.table import Route
from gateway.core.types import WEIGHT_BP_MAX, Variant, percent_from_weight_bp
from gateway.runtime.clock import iso


class Queries:
    """Answers from what the other parts hold; it keeps nothing itself."""

    def __init__(
        self,
        *,
        routes: Mapping[str, RouteState],
        records: RolloutRecords,
        publisher: TablePublisher,
        hub: WorkerHub,
        aggregator: ReportAggregator,
        health: EndpointHealth,
        rates: RequestRates,
    ) -> None:
        self._routes = routes
        self._records = records
        self._publisher = publisher
        self._hub = hub
        self._aggregator = aggregator
        self._health = health
        self._rates = rates

    def objectives(self) -> dict[str, Objectives]:
        """What each route promises its users."""
        return {name: core_value(state.config.slo, Objectives) for name, state in self._routes.items()}

    def routes(self) -> list[RouteView]:
        """All routes, in the order of the configuration."""
        return self._route_views(self._routes.values())

    def route_page(self, search: str, offset: int, limit: int) -> tuple[list[RouteView], int]:
        """Some of the routes that have all words of ``search`` in their names and versions, and how many have."""
        words = search.lower().split()
        found = [state for state in self._routes.values() if _has(state, words)]
        return self._route_views(found[offset : offset + limit]), len(found)

    def route(self, name: str) -> RouteView:
        """One route, or NotFoundError."""
        return self._route_views([find_route(self._routes, name)])[0]

    def rollouts(self, route: str | None, limit: int, before: str | None, search: str) -> list[RolloutView]:
        """Rollouts, newest first; NotFoundError for an unknown route."""
        if route is not None:
            find_route(self._routes, route)
        return [self.rollout_view(record) for record in self._records.page(route, limit, before, search)]

    def rollout(self, rollout_id: str) -> RolloutView:
        """One rollout, or NotFoundError."""
        return self.rollout_view(self._records.get(rollout_id))

    def workers(self, now_s: float) -> list[WorkerView]:
        """The connected workers, by their index."""
        reports = {report.boot: report for report in self._aggregator.merged().reports}
        found = []
        for session in self._hub.sessions:
            report = reports.get(session.hello.boot)
            found.append(
                WorkerView(
                    index=session.hello.index,
                    pid=session.hello.pid,
                    epoch=session.epoch,
                    in_flight=report.in_flight if report else 0,
                    connections=report.connections if report else 0,
                    heard_ago_s=round(max(0.0, now_s - session.last_message_s), 3),
                )
            )
        return sorted(found, key=lambda worker: worker.index)

    def backends(self, config: GatewayConfig) -> list[BackendView]:
        """All backends, in the order of the configuration."""
        return [
            BackendView(
                name,
                tuple(view(one) for one in self._health.endpoints if one.backend == name),
                tuple(route.name for route in config.routes if name in (route.stable, route.canary)),
                self._health.panics(name),
                None if backend.model is None else backend.model.value,
            )
            for name, backend in config.backends.items()
        ]

    def rollout_view(self, record: RolloutRecord) -> RolloutView:
        """The view of a rollout that is in memory."""
        state = self._routes.get(record.rollout.route)
        return record.view(record.rollout, record.analysis, None) if state is None else state.view(record)

    def _route_views(self, states: Iterable[RouteState]) -> list[RouteView]:
        table, states = self._publisher.table, list(states)
        names = {state.name for state in states}
        in_table = {route.name: route for route in table.routes if route.name in names}
        backends = {name for route in in_table.values() for name in (route.stable, route.canary)}
        rescues = self._aggregator.rescues()
        endpoints: dict[str, list[EndpointView]] = {}
        for one in self._health.endpoints:
            if one.backend in backends:
                endpoints.setdefault(one.backend, []).append(view(one))
        return [
            self._route_view(state, in_table[state.name], table.epoch, endpoints, rescues.get(state.name, (0, {})))
            for state in states
        ]

    def _route_view(
        self,
        state: RouteState,
        route: Route,
        epoch: int,
        endpoints: Mapping[str, list[EndpointView]],
        rescues: tuple[int, dict[str, int]],
    ) -> RouteView:
        rescued, refused = rescues
        last = self._records.find(state.rollout.rollout_id)
        return RouteView(
            name=route.name,
            path_prefix=route.path_prefix,
            hosts=route.hosts,
            stable=route.stable or None,
            canary=route.canary,
            canary_percent=percent_from_weight_bp(route.weight_bp),
            epoch=epoch,
            workers=len(self._hub.sessions),
            workers_applied=self._hub.applied(epoch),
            endpoints=tuple(one for name in (route.stable, route.canary or "") for one in endpoints.get(name, ())),
            rollout_id=state.rollout.rollout_id or None,
            phase=state.rollout.phase.value,
            configured_stable=state.config.stable,
            warning=weight_warning(route),
            exempt_statuses=route.exempt_statuses,
            rescued=rescued,
            rescues_refused=refused,
            stable_per_s=self._rates.per_s(route.name, Variant.STABLE),
            canary_per_s=self._rates.per_s(route.name, Variant.CANARY),
            stable_known_s=state.stable_known_s,
            bad_moments=state.bad_moments,
            decision=None if last is None else last.rollout.reason,
            decided_at=None if last is None else iso(last.updated_s),
            decided_by=None if last is None else last.rollout.by,
        )


def _has(state: RouteState, words: list[str]) -> bool:
    if not words:
        return True
    config = state.config
    names = (state.name, state.stable, state.canary or "", config.match.path_prefix, state.rollout.phase)
    text = " ".join(names).lower()
    return all(word in text for word in words)


def weight_warning(route: Route) -> str:
    """What an operator should know about a route's weight, in one sentence; empty where there is nothing to say."""
    if route.weight_bp < WEIGHT_BP_MAX:
        return ""
    budget = f"the rescue budget of {route.rescue.budget_percent:g} % of requests"
    rescues = f"only {budget} protects users" if route.rescue.replayable else "nothing protects users"
    return (
        f"stable gets no requests at 100 %, so {route.canary} can neither be judged nor rolled back automatically,"
        f" and {rescues} from its failures"
    )
