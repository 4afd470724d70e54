"""What people ask the control plane besides its rollouts: workers, backends, alarms, and routes that nobody serves."""

from __future__ import annotations

from collections.abc import Iterable

from gateway.config.schema import GatewayConfig
from gateway.control.hub import WorkerHub
from gateway.control.observer import Observer
from gateway.control.prober import Health
from gateway.control.views import BackendView, EndpointView, WorkerView
from gateway.core.traffic.table import Route, RoutingTable
from gateway.core.types import WEIGHT_BP_MAX


def workers(hub: WorkerHub, observer: Observer, now_s: float) -> list[WorkerView]:
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


def backends(config: GatewayConfig, health: Iterable[Health]) -> list[BackendView]:
    """All backends, in the order of the configuration."""
    known = list(health)
    return [
        BackendView(
            name,
            tuple(EndpointView(name, one.endpoint.url, one.up) for one in known if one.backend == name),
            tuple(route.name for route in config.routes if name in (route.stable, route.canary)),
        )
        for name in config.backends
    ]


def unserved(table: RoutingTable, health: Iterable[Health]) -> list[str]:
    """For each route whose stable backend has been found down, every endpoint of it, a sentence."""
    up: dict[str, bool] = {}
    for one in health:
        up[one.backend] = up.get(one.backend, False) or one.up is not False
    return [
        f"route {route.name} cannot be served: every endpoint of its stable backend {route.stable} is down"
        for route in table.routes
        if not up.get(route.stable, True)
    ]


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
