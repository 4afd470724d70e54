"""The table of operations: each path and method once. The router and the API's description are both made from it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from gateway.admin import api, bodies, stream
from gateway.control.views import Readiness, RouteView


class Operation(NamedTuple):
    """One method on one path.

    ``handler`` is a method of `Api`. ``answer`` is the type of the JSON body, or the media type of another one.
    ``wish`` is the type of the request's body, ``wish_required`` whether there must be one. ``problems`` are the
    slugs that are peculiar to the operation.
    """

    method: str
    path: str
    handler: str
    tag: str
    summary: str
    answer: Any
    status: int = 200
    wish: Any = None
    wish_required: bool = False
    problems: tuple[str, ...] = ()
    query: tuple[str, ...] = ()
    open: bool = False


_LOOKED_UP = ("not-found",)
_WISHED = (
    *("malformed-body", "not-found", "conflict", "body-too-large", "unsupported-media-type", "invalid-value"),
    "journal-unavailable",
)


def _verb(verb: str, summary: str) -> Operation:
    path = f"/api/v1/rollouts/{{rollout_id}}/{verb}"
    return Operation(
        "POST", path, f"{verb}_rollout", "rollouts", summary, bodies.RolloutBody, wish=bodies.VerbWish, problems=_WISHED
    )


OPERATIONS: tuple[Operation, ...] = (
    Operation("GET", "/api/v1/routes", "list_routes", "routes", "All routes", bodies.RouteList),
    Operation("GET", "/api/v1/routes/{route}", "show_route", "routes", "One route", RouteView, problems=_LOOKED_UP),
    Operation(
        "PUT",
        "/api/v1/routes/{route}/weight",
        "set_weight",
        "routes",
        "Set the canary's share by hand; during a rollout this pauses it",
        RouteView,
        wish=bodies.WeightWish,
        wish_required=True,
        problems=_WISHED,
    ),
    Operation(
        "POST",
        "/api/v1/routes/{route}/rollouts",
        "start_rollout",
        "rollouts",
        "Start a rollout of the route's canary",
        bodies.RolloutBody,
        status=201,
        wish=bodies.StartWish,
        problems=_WISHED,
    ),
    Operation(
        "GET",
        "/api/v1/rollouts",
        "list_rollouts",
        "rollouts",
        "Rollouts, newest first",
        bodies.RolloutList,
        query=("route", "limit", "before"),
        problems=("not-found", "invalid-value"),
    ),
    Operation(
        "GET",
        "/api/v1/rollouts/{rollout_id}",
        "show_rollout",
        "rollouts",
        "One rollout",
        bodies.RolloutBody,
        problems=_LOOKED_UP,
    ),
    _verb("pause", "Hold the weight where it is"),
    _verb("resume", "Let automation go on"),
    _verb("promote", "Promote by hand: all requests go to the canary"),
    _verb("abort", "Roll back by hand: all requests go to stable"),
    Operation(
        "GET",
        "/api/v1/events",
        "stream_events",
        "events",
        "What happens, as server-sent events",
        stream.MEDIA_TYPE,
        problems=("invalid-value",),
    ),
    Operation(
        "GET", "/metrics", "show_metrics", "operations", "Metrics in Prometheus's text format", "text/plain", open=True
    ),
    Operation("GET", "/healthz", "show_health", "operations", "Whether the process lives", bodies.Health, open=True),
    Operation(
        "GET", "/readyz", "show_readiness", "operations", "Whether the gateway can do its work", Readiness, open=True
    ),
    Operation("GET", "/openapi.json", "", "operations", "This description", "application/json"),
)

QUERY: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "route": ("Only rollouts of this route.", {"type": "string"}),
    "limit": (
        "How many.",
        {"type": "integer", "minimum": 1, "maximum": api.PAGE_MAX, "default": api.PAGE_DEFAULT},
    ),
    "before": ("Only rollouts that began before the one with this id.", {"type": "string"}),
}
