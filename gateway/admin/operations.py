"""The table of operations: each path and method once. The router and the API's description are both made from it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from gateway.admin import api, configuring, long_poll, problems, request_schemas, schemas, sse
from gateway.config.admin import Scope
from gateway.config.backends import BackendConfig
from gateway.config.routes import RouteConfig
from gateway.config.schema import GatewayConfig
from gateway.control.views import (
    EVENT_KINDS,
    BackendView,
    LatencyDistributions,
    Readiness,
    RolloutDataResults,
    RolloutSeries,
    RouteView,
)


class Operation(NamedTuple):
    """One method on one path.

    ``handler`` is a method of `Api` or `ConfigApi`. ``answer`` is the type of the JSON body, or the media type of
    another one. ``body`` is the type of the request's body, ``body_required`` whether there must be one. ``problems``
    are the slugs that are peculiar to the operation. ``scope`` is what a token needs; ``open`` operations need none.
    ``repeated``: 200 instead of 201 for what is under way already. ``tagged``: the answer has an ETag that ``If-None-
    Match`` may name. ``conditional``: ``If-Match`` is honoured.
    """

    method: str
    path: str
    handler: str
    tag: str
    summary: str
    answer: Any
    status: int = 200
    body: Any = None
    body_required: bool = False
    problems: tuple[str, ...] = ()
    query: tuple[str, ...] = ()
    open: bool = False
    scope: Scope = Scope.READ
    tagged: bool = False
    conditional: bool = False
    created: bool = False
    repeated: bool = False

    @property
    def slugs(self) -> tuple[str, ...]:
        """The names of all problems that it may be answered with, in the order of their statuses."""
        found = [*self.problems, "internal"]
        found += [] if self.open else ["unauthorized", "cross-origin", "forbidden", "too-many-failures"]
        found += ["precondition-failed", "invalid-value"] if self.conditional else []
        found += ["invalid-value"] if self.query or self.tagged else []
        found += ["idempotency-key-reused", "body-too-large", "invalid-value"] if self.method == "POST" else []
        return tuple(slug for slug in problems.KINDS if slug in found)


_LOOKED_UP = ("not-found",)
_ASKED = (
    *("malformed-body", "not-found", "conflict", "body-too-large", "unsupported-media-type", "invalid-value"),
    "journal-unavailable",
)
_CONFIGURED = (*_ASKED, "restart-required", "invalid-configuration", "address-not-allowed")
_REMOVED = ("not-found", "conflict", "restart-required", "invalid-configuration", "journal-unavailable")


def _verb(verb: str, summary: str, body: Any = request_schemas.ActionRequest) -> Operation:
    return Operation(
        "POST",
        f"/api/v1/rollouts/{{rollout_id}}/{verb}",
        f"{verb}_rollout",
        "rollouts",
        summary,
        schemas.RolloutBody,
        body=body,
        problems=_ASKED,
        scope=Scope.OPERATE,
        conditional=True,
    )


_ROUTES = (
    Operation(
        "GET",
        "/api/v1/routes",
        "list_routes",
        "routes",
        "All routes, or a page of those that match",
        schemas.RouteList,
        query=("search", "route_limit", "offset"),
    ),
    Operation(
        "GET",
        "/api/v1/routes/{route}",
        "show_route",
        "routes",
        "One route",
        RouteView,
        problems=_LOOKED_UP,
        tagged=True,
    ),
    Operation(
        "PUT",
        "/api/v1/routes/{route}",
        "put_route",
        "routes",
        "Add a route, or replace what is configured of it",
        configuring.Change,
        body=RouteConfig,
        body_required=True,
        problems=_CONFIGURED,
        scope=Scope.ADMIN,
        conditional=True,
        created=True,
    ),
    Operation(
        "DELETE",
        "/api/v1/routes/{route}",
        "delete_route",
        "routes",
        "Remove a route; requests under way are finished",
        configuring.Change,
        problems=_REMOVED,
        scope=Scope.ADMIN,
        conditional=True,
    ),
    Operation(
        "GET",
        "/api/v1/routes/{route}/config",
        "show_route_config",
        "routes",
        "What the configuration says of a route",
        RouteConfig,
        problems=_LOOKED_UP,
        tagged=True,
    ),
    Operation(
        "PUT",
        "/api/v1/routes/{route}/weight",
        "set_weight",
        "routes",
        "Set the canary's share by hand; during a rollout this pauses it",
        RouteView,
        body=request_schemas.WeightRequest,
        body_required=True,
        problems=_ASKED,
        scope=Scope.OPERATE,
        conditional=True,
    ),
    Operation(
        "POST",
        "/api/v1/routes/{route}/rollouts",
        "start_rollout",
        "rollouts",
        "Start a rollout of the route's canary, or of a version given here",
        schemas.RolloutBody,
        status=201,
        repeated=True,
        body=request_schemas.StartRequest,
        problems=_CONFIGURED,
        scope=Scope.OPERATE,
        conditional=True,
    ),
)
_LABELS = (
    Operation(
        "POST",
        "/api/v1/routes/{route}/events",
        "take_labels",
        "routes",
        "Report what became known of requests after their answers: clicks, right or wrong",
        schemas.LabelsTaken,
        status=202,
        body=request_schemas.LabelsRequest,
        body_required=True,
        problems=tuple(slug for slug in _ASKED if slug != "journal-unavailable"),
        scope=Scope.OPERATE,
    ),
)
_ROLLOUTS = (
    Operation(
        "GET",
        "/api/v1/rollouts",
        "list_rollouts",
        "rollouts",
        "Rollouts, newest first",
        schemas.RolloutList,
        query=("route", "limit", "before_rollout", "search"),
        problems=("not-found",),
    ),
    Operation(
        "GET",
        "/api/v1/rollouts/{rollout_id}",
        "show_rollout",
        "rollouts",
        "One rollout, now or when it changes",
        schemas.RolloutBody,
        query=("wait_s",),
        problems=("not-found", "too-many-waits"),
        tagged=True,
    ),
    Operation(
        "GET",
        "/api/v1/rollouts/{rollout_id}/story",
        "tell_story",
        "rollouts",
        "What was decided on it and why, from the journal",
        schemas.StoryBody,
        problems=("not-found", "journal-unavailable"),
    ),
    Operation(
        "GET",
        "/api/v1/rollouts/{rollout_id}/series",
        "show_series",
        "rollouts",
        "Its evidence over time, for charts",
        RolloutSeries,
        problems=_LOOKED_UP,
    ),
    Operation(
        "GET",
        "/api/v1/rollouts/{rollout_id}/data-results",
        "show_data_results",
        "rollouts",
        "What validators said of its windows of data",
        RolloutDataResults,
        problems=_LOOKED_UP,
    ),
    Operation(
        "GET",
        "/api/v1/rollouts/{rollout_id}/latencies",
        "show_latencies",
        "rollouts",
        "Both versions' latencies, as distributions",
        LatencyDistributions,
        problems=("not-found", "journal-unavailable"),
    ),
    Operation(
        "GET",
        "/api/v1/rollouts/{rollout_id}/report",
        "show_report",
        "rollouts",
        "A report to send around: a page of its own, or Markdown",
        "text/html",
        query=("format",),
        problems=("not-found", "journal-unavailable"),
    ),
    _verb("pause", "Hold the weight where it is"),
    _verb("resume", "Let automation go on"),
    _verb("approve", "Open the gate that the rollout waits for"),
    _verb("promote", "Promote by hand: all the way, or to the next step", request_schemas.PromoteRequest),
    _verb("abort", "Roll back by hand: all requests go to stable"),
)
_BACKENDS = (
    Operation("GET", "/api/v1/backends", "list_backends", "backends", "All backends", schemas.BackendList),
    Operation(
        "GET",
        "/api/v1/backends/{backend}",
        "show_backend",
        "backends",
        "One backend with its endpoints' health",
        BackendView,
        problems=_LOOKED_UP,
        tagged=True,
    ),
    Operation(
        "PUT",
        "/api/v1/backends/{backend}",
        "put_backend",
        "backends",
        "Add a backend, or replace what is configured of it",
        configuring.Change,
        body=BackendConfig,
        body_required=True,
        problems=_CONFIGURED,
        scope=Scope.ADMIN,
        conditional=True,
        created=True,
    ),
    Operation(
        "DELETE",
        "/api/v1/backends/{backend}",
        "delete_backend",
        "backends",
        "Drain a backend and remove it; no route may name it",
        configuring.Change,
        problems=_REMOVED,
        scope=Scope.ADMIN,
        conditional=True,
    ),
    Operation(
        "GET",
        "/api/v1/backends/{backend}/config",
        "show_backend_config",
        "backends",
        "What the configuration says of a backend",
        BackendConfig,
        problems=_LOOKED_UP,
        tagged=True,
    ),
)
_CONFIG = (
    Operation(
        "GET",
        "/api/v1/config",
        "show_config",
        "configuration",
        "The configuration in force, without secrets",
        GatewayConfig,
        query=("defaults",),
        tagged=True,
    ),
    Operation(
        "PUT",
        "/api/v1/config",
        "replace_config",
        "configuration",
        "Replace the configuration",
        configuring.Change,
        body=GatewayConfig,
        body_required=True,
        query=("dry_run",),
        problems=_CONFIGURED,
        scope=Scope.ADMIN,
        conditional=True,
    ),
    Operation(
        "DELETE",
        "/api/v1/config",
        "drop_config",
        "configuration",
        "Go back to what the file said when the gateway was started",
        configuring.Change,
        query=("dry_run",),
        problems=_REMOVED,
        scope=Scope.ADMIN,
        conditional=True,
    ),
    Operation(
        "POST",
        "/api/v1/config/reload",
        "reload_config",
        "configuration",
        "Replace the configuration by what the file says now",
        configuring.Change,
        query=("dry_run",),
        problems=_REMOVED,
        scope=Scope.ADMIN,
        conditional=True,
    ),
    Operation(
        "GET",
        "/api/v1/config/source",
        "show_config_source",
        "configuration",
        "Where the configuration in force comes from",
        configuring.Source,
    ),
)
_STATE = (
    Operation("GET", "/api/v1/workers", "list_workers", "operations", "The connected workers", schemas.WorkerList),
    Operation(
        "GET",
        "/api/v1/state",
        "show_state",
        "operations",
        "How the gateway itself is doing: readiness, journal, hooks",
        schemas.GatewayState,
    ),
    Operation("GET", "/api/v1/alarms", "list_alarms", "operations", "What is wrong right now", schemas.AlarmList),
    Operation(
        "GET",
        "/api/v1/audit",
        "list_audit",
        "operations",
        "Who did what, newest first",
        schemas.AuditList,
        query=("limit", "before_entry"),
        scope=Scope.ADMIN,
    ),
    Operation(
        "GET",
        "/api/v1/backup",
        "download_backup",
        "operations",
        "A backup of the whole state, as the file that a gateway starts from",
        "application/vnd.sqlite3",
        problems=("journal-unavailable",),
        scope=Scope.ADMIN,
    ),
    Operation(
        "GET",
        "/api/v1/events",
        "stream_events",
        "events",
        "What happens, as server-sent events",
        sse.MEDIA_TYPE,
        query=("kinds", "rollout"),
        problems=("invalid-value",),
    ),
    Operation(
        "POST",
        "/api/v1/webhooks/mlflow",
        "take_mlflow_webhook",
        "sources",
        "Take a webhook of an MLflow server: look at its aliases now",
        schemas.WebhookTaken,
        problems=("invalid-signature",),
        scope=Scope.OPERATE,
        open=True,
    ),
    Operation(
        "GET", "/metrics", "show_metrics", "operations", "Metrics in Prometheus's text format", "text/plain", open=True
    ),
    Operation("GET", "/healthz", "show_health", "operations", "Whether the process lives", schemas.Health, open=True),
    Operation(
        "GET", "/readyz", "show_readiness", "operations", "Whether the gateway can do its work", Readiness, open=True
    ),
    Operation("GET", "/openapi.json", "show_openapi", "operations", "This description", "application/json"),
)

OPERATIONS: tuple[Operation, ...] = (*_ROUTES, *_LABELS, *_ROLLOUTS, *_BACKENDS, *_CONFIG, *_STATE)

_BOOLEAN = {"type": "boolean", "default": False}
# By the name in the table: the name in the query, what it means, its schema.
QUERY: Mapping[str, tuple[str, str, Mapping[str, Any]]] = {
    "route": ("route", "Only rollouts of this route.", {"type": "string"}),
    "limit": (
        "limit",
        "How many.",
        {"type": "integer", "minimum": 1, "maximum": api.PAGE_MAX, "default": api.PAGE_DEFAULT},
    ),
    "search": (
        "search",
        "Only those that have all of these words in their names, versions, phase, reason or person.",
        {"type": "string", "maxLength": api.SEARCH_MAX},
    ),
    "route_limit": (
        "limit",
        "How many.",
        {"type": "integer", "minimum": 1, "maximum": api.ROUTES_MAX, "default": api.ROUTES_MAX},
    ),
    "offset": ("offset", "How many to leave out before.", {"type": "integer", "minimum": 0, "maximum": api.ROUTES_MAX}),
    "format": ("format", "How it is written.", {"type": "string", "enum": [*api.REPORT_FORMATS], "default": "html"}),
    "kinds": (
        "kinds",
        f"Only events of these kinds, with commas between them: {', '.join(EVENT_KINDS)}.",
        {"type": "string"},
    ),
    "rollout": (
        "rollout",
        "No events of other rollouts than the one with this id; those that belong to none are sent all the same.",
        {"type": "string"},
    ),
    "before_rollout": ("before", "Only rollouts that began before the one with this id.", {"type": "string"}),
    "before_entry": ("before", "Only entries before the one with this id.", {"type": "integer", "minimum": 1}),
    "wait_s": (
        "wait_s",
        "Answer when something was decided, or after so many seconds; with `If-None-Match`, when that tag is outdated.",
        {"type": "number", "minimum": 0, "maximum": long_poll.WAIT_S_MAX, "default": 0},
    ),
    "dry_run": ("dry_run", "Check everything and say what would change, but change nothing.", _BOOLEAN),
    "defaults": ("defaults", "Also show the keys that were not given.", _BOOLEAN),
}
