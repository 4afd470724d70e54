"""From a configuration to the values of the core: routing table, analysis spec, plan."""

from __future__ import annotations

from collections.abc import Collection, Iterable

import msgspec

from gateway.config.core_values import core_value
from gateway.config.features import features_of
from gateway.config.routes import RouteConfig
from gateway.config.schema import GatewayConfig
from gateway.config.traffic import OnHalfClose
from gateway.config.watching import answer_events, data_events, prediction_events, tap
from gateway.core.analysis.types import AnalysisSpec
from gateway.core.rollout.types import Plan
from gateway.core.traffic.addresses import AllowedBackend
from gateway.core.traffic.table import (
    HALF_CLOSE_S,
    AddressGuard,
    Backend,
    Endpoint,
    Features,
    Route,
    RoutingTable,
)

# How late after its request a client may end its sending side and still want its answer; no request lasts 30 years.
_HALF_CLOSE_S = {OnHalfClose.AUTO: HALF_CLOSE_S, OnHalfClose.SERVE: 1e9, OnHalfClose.ABORT: 0.0}


def routing_table(config: GatewayConfig, epoch: int = 1) -> RoutingTable:
    """The table that serves when nothing is journaled: every route at its ``canary_percent``."""
    backends = {name: core_value(backend, Backend, name=name) for name, backend in config.backends.items()}
    external = {actuator.route for actuator in config.actuators}
    stores = config.feature_stores
    routes = tuple(
        _route(route, external=route.name in external, features=features_of(route.features, stores))
        for route in config.routes
    )
    return RoutingTable(epoch, routes, backends)


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
    return msgspec.structs.replace(
        spec, events=(*spec.events, *prediction_events(route), *answer_events(route), *data_events(route))
    )


def plan(route: RouteConfig) -> Plan:
    """The plan of a rollout on this route."""
    return core_value(route.plan, Plan)


def _route(route: RouteConfig, *, external: bool, features: Features | None) -> Route:
    return core_value(
        route,
        Route,
        # The route's own name: routes split independently of each other, and the same after a restart.
        salt=route.name,
        tap=tap(route),
        half_close_s=_HALF_CLOSE_S[route.on_half_close],
        external=external,
        features=features,
    )
