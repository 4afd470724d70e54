"""What people ask the control plane besides its rollouts: workers and backends."""

from __future__ import annotations

from gateway.config.schema import GatewayConfig
from gateway.control.endpoint_health import EndpointHealth, view
from gateway.control.hub import WorkerHub
from gateway.control.observer import Observer
from gateway.control.views import BackendView, WorkerView
from gateway.core.traffic.table import Route
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
