"""From a configuration to the values of the core: routing table, analysis spec, plan."""

from __future__ import annotations

from collections.abc import Collection, Iterable

import msgspec

from gateway.config.schema import BackendConfig, GatewayConfig, RouteConfig
from gateway.config.traffic import OnHalfClose
from gateway.config.watching import answer_events, prediction_events, tap
from gateway.core.analysis.types import AnalysisSpec
from gateway.core.rollout.types import Plan
from gateway.core.traffic.addresses import AllowedBackend
from gateway.core.traffic.table import (
    HALF_CLOSE_S,
    AddressGuard,
    Backend,
    Endpoint,
    Passive,
    Rescue,
    Retry,
    Route,
    RoutingTable,
    Sticky,
    Timeouts,
)
from gateway.core.types import weight_bp_from_percent

# How late after its request a client may end its sending side and still want its answer; no request lasts 30 years.
_HALF_CLOSE_S = {OnHalfClose.AUTO: HALF_CLOSE_S, OnHalfClose.SERVE: 1e9, OnHalfClose.ABORT: 0.0}


def routing_table(config: GatewayConfig, epoch: int = 1) -> RoutingTable:
    """The table that serves when nothing is journaled: every route at its ``canary_percent``."""
    backends = {name: _backend(name, backend) for name, backend in config.backends.items()}
    return RoutingTable(epoch, tuple(_route(route) for route in config.routes), backends)


def endpoints_of(config: GatewayConfig) -> set[Endpoint]:
    """All endpoints that a configuration names."""
    return {endpoint for backend in config.backends.values() for endpoint in backend.endpoints}


def guarded(table: RoutingTable, trusted: Collection[Endpoint], allowed: Iterable[AllowedBackend]) -> RoutingTable:
    """The table in which endpoints that are not trusted may lead to allowed addresses alone."""
    allow = tuple(str(rule) for rule in allowed)
    backends = {}
    for name, backend in table.backends.items():
        urls = tuple(endpoint.url for endpoint in backend.endpoints if endpoint not in trusted)
        backends[name] = msgspec.structs.replace(backend, guard=AddressGuard(allow, urls) if urls else None)
    return msgspec.structs.replace(table, backends=backends)


def analysis_spec(route: RouteConfig) -> AnalysisSpec:
    """What a verdict on this route promises and looks at."""
    # With a sticky key a session is one throw of the coin, however many requests it sends.
    spec = route.analysis.spec(one_by_one=route.sticky is None)
    return msgspec.structs.replace(spec, events=(*spec.events, *prediction_events(route), *answer_events(route)))


def plan(route: RouteConfig) -> Plan:
    """The ladder that a rollout on this route climbs."""
    return route.plan.plan()


def _backend(name: str, backend: BackendConfig) -> Backend:
    return Backend(
        name=name,
        endpoints=tuple(backend.endpoints),
        connections_max=backend.connections_max,
        queue_max=backend.queue_max,
        keepalive_s=backend.keepalive_s,
        tls=None if backend.tls is None else backend.tls.table(),
        passive=Passive(**backend.passive.model_dump()),
        resolve_s=backend.resolve_s,
        resolve_max_age_s=backend.resolve_max_age_s,
        host_header=backend.host_header,
        panic_percent=backend.panic_percent,
    )


def _route(route: RouteConfig) -> Route:
    sticky = route.sticky
    return Route(
        name=route.name,
        path_prefix=route.match.path_prefix,
        stable=route.stable or "",
        canary=route.canary,
        weight_bp=weight_bp_from_percent(route.canary_percent),
        hosts=tuple(route.match.hosts),
        forced_header=route.forced_variant_header,
        sticky=None if sticky is None else Sticky(header=sticky.header, cookie=sticky.cookie),
        # The route's own name: routes split independently of each other, and the same after a restart.
        salt=route.name,
        timeouts=Timeouts(**route.timeouts.model_dump(exclude={"profile"})),
        rescue=msgspec.convert(route.rescue.model_dump(), Rescue),
        retry=msgspec.convert(route.retry.model_dump(), Retry),
        tap=tap(route),
        upgrades=tuple(route.upgrades),
        streams_requests=route.stream_requests,
        exempt_statuses=tuple(sorted(route.analysis.exempt_statuses)),
        half_close_s=_HALF_CLOSE_S[route.on_half_close],
    )
