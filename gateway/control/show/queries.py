"""What people ask the control plane besides its rollouts: routes, workers and backends."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from gateway.config.schema import GatewayConfig
from gateway.control.decide.routes import RouteState
from gateway.control.health.endpoint_health import EndpointHealth, view
from gateway.control.health.prober import Health
from gateway.control.views import BackendView, EndpointView, RouteView, WorkerView
from gateway.control.workers.hub import WorkerHub
from gateway.control.workers.report_aggregator import ReportAggregator
from gateway.core.traffic.table import Route, RoutingTable
from gateway.core.types import WEIGHT_BP_MAX, percent_from_weight_bp


def workers(hub: WorkerHub, observer: ReportAggregator, now_s: float) -> list[WorkerView]:
    """The connected workers, by their index."""
    reports = {report.boot: report for report in observer.merged().reports}
    found = []
    for session in hub.sessions:
        report = reports.get(session.hello.boot)
        found.append(
            WorkerView(
                index=session.hello.index,
                pid=session.hello.pid,
                epoch=session.epoch,
                in_flight=report.in_flight if report else 0,
                connections=report.connections if report else 0,
                heard_ago_s=round(max(0.0, now_s - session.heard_s), 3),
            )
        )
    return sorted(found, key=lambda worker: worker.index)


def backends(config: GatewayConfig, health: EndpointHealth) -> list[BackendView]:
    """All backends, in the order of the configuration."""
    return [
        BackendView(
            name,
            tuple(view(one) for one in health.endpoints if one.backend == name),
            tuple(route.name for route in config.routes if name in (route.stable, route.canary)),
            health.panics(name),
        )
        for name in config.backends
    ]


class Routes:
    """What is shown of the routes at one moment."""

    def __init__(
        self,
        table: RoutingTable,
        hub: WorkerHub,
        health: Iterable[Health],
        rescues: Mapping[str, tuple[int, dict[str, int]]],
    ) -> None:
        self._epoch = table.epoch
        self._served = {route.name: route for route in table.routes}
        self._hub = hub
        self._rescues = rescues
        self._endpoints: dict[str, list[EndpointView]] = {}
        for one in health:
            self._endpoints.setdefault(one.backend, []).append(view(one))

    def view(self, state: RouteState) -> RouteView:
        """One route, as it is served."""
        served = self._served[state.name]
        rescued, refused = self._rescues.get(served.name, (0, {}))
        variants = [served.stable, served.canary or ""]
        return RouteView(
            name=served.name,
            path_prefix=served.path_prefix,
            hosts=served.hosts,
            stable=served.stable or None,
            canary=served.canary,
            canary_percent=percent_from_weight_bp(served.weight_bp),
            epoch=self._epoch,
            workers=len(self._hub.sessions),
            workers_applied=self._hub.applied(self._epoch),
            endpoints=tuple(one for backend in variants for one in self._endpoints.get(backend, ())),
            rollout_id=state.rollout.rollout_id or None,
            phase=state.rollout.phase.value,
            configured_stable=state.config.stable,
            warning=weight_warning(served),
            exempt_statuses=served.exempt_statuses,
            rescued=rescued,
            rescues_refused=refused,
        )


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
