"""``gateway plan ROUTE``: what a running gateway knows of a route, its traffic, its stable version and its settings."""

from __future__ import annotations

from typing import Any, NamedTuple

import pydantic

from gateway.client import Client, RouteView
from gateway.config.routes import RouteConfig
from gateway.core.analysis.bursts.past import Weather
from gateway.core.errors import InvalidValueError

_REQUESTS_MIN = 1000.0


class LiveRoute(NamedTuple):
    """A route as it is being served. The numbers are None where the gateway does not know them (yet)."""

    config: RouteConfig
    requests_per_s: float | None
    base_rate: float | None
    weather: Weather


def live_route(client: Client, name: str, metric: str) -> LiveRoute:
    """Ask the gateway. Raises ApiError, also where it has no such route."""
    view = client.route(name)
    weather = next(
        (
            Weather(one.known_s, one.moments, one.mean_s, one.longest_s)
            for one in view.bad_moments
            if one.metric == metric
        ),
        Weather(view.stable_known_s),
    )
    return LiveRoute(_configured(client, name), _per_s(view), _base_rate(view, metric), weather)


def _per_s(view: RouteView) -> float | None:
    if view.stable_per_s is None:
        return None
    return view.stable_per_s + (view.canary_per_s or 0.0)


def _base_rate(view: RouteView, metric: str) -> float | None:
    """Stable's usual rate; where it never failed so, as if the next request did."""
    for one in view.bad_moments:
        if one.metric == metric:
            return one.usual_rate
    requests = (view.stable_per_s or 0.0) * view.stable_known_s
    return 1.0 / max(requests, _REQUESTS_MIN) if requests else None


def _configured(client: Client, name: str) -> RouteConfig:
    found: Any = client.call("GET", "/config")
    for route in found.get("routes", ()):
        if route.get("name") == name:
            try:
                return RouteConfig.model_validate(route)
            except pydantic.ValidationError as error:
                raise InvalidValueError(
                    f"the configuration of route {name} cannot be read by this version: give --config ({error})"
                ) from None
    raise InvalidValueError(f"the gateway's configuration has no route {name!r}: give --config")
