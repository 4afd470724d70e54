"""From a configuration to the values of the core: routing table, analysis spec, plan."""

from __future__ import annotations

from gateway.config.schema import BackendConfig, GatewayConfig, RouteConfig
from gateway.core.analysis.types import AnalysisSpec
from gateway.core.rollout.types import Plan, Step
from gateway.core.traffic.table import (
    Backend,
    Rescue,
    Route,
    RoutingTable,
    Sticky,
    Timeouts,
)
from gateway.core.types import weight_bp_from_percent


def routing_table(config: GatewayConfig, epoch: int = 1) -> RoutingTable:
    """The table that serves when nothing is journaled: every route at its ``canary_percent``."""
    backends = {name: _backend(name, backend) for name, backend in config.backends.items()}
    return RoutingTable(epoch, tuple(_route(route) for route in config.routes), backends)


def analysis_spec(route: RouteConfig) -> AnalysisSpec:
    """What a verdict on this route promises and looks at."""
    analysis = route.analysis
    return AnalysisSpec(
        alpha_rollback=analysis.alpha_rollback,
        alpha_promote=analysis.alpha_promote,
        errors=analysis.errors.spec(),
        client_errors=analysis.client_errors.spec(),
        overload=analysis.overload.spec(),
        latency=analysis.latency.spec(),
    )


def plan(route: RouteConfig) -> Plan:
    """The ladder that a rollout on this route climbs."""
    steps = tuple(
        Step(weight_bp_from_percent(step.percent), step.min_time_s, step.min_requests) for step in route.plan.steps
    )
    return Plan(steps, route.plan.deadline_s, route.plan.on_deadline)


def _backend(name: str, backend: BackendConfig) -> Backend:
    return Backend(
        name=name,
        endpoints=tuple(backend.endpoints),
        connections_max=backend.connections_max,
        queue_max=backend.queue_max,
        keepalive_s=backend.keepalive_s,
    )


def _route(route: RouteConfig) -> Route:
    sticky = route.sticky
    return Route(
        name=route.name,
        path_prefix=route.match.path_prefix,
        stable=route.stable,
        canary=route.canary,
        weight_bp=weight_bp_from_percent(route.canary_percent),
        hosts=tuple(route.match.hosts),
        forced_header=route.forced_variant_header,
        sticky=None if sticky is None else Sticky(header=sticky.header, cookie=sticky.cookie),
        # The route's own name: routes split independently of each other, and the same after a restart.
        salt=route.name,
        timeouts=Timeouts(**route.timeouts.model_dump()),
        rescue=Rescue(**route.rescue.model_dump()),
    )
