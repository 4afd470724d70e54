"""The configuration's shape: every key, its type, its bounds, its default and its meaning.

Rules:

1. A key is declared once, here or in the module of its section. The file, the API's bodies, the JSON Schema, the tables
   of docs/configuration.md and the core's values come from that declaration (docs/decisions/0032-one-declaration.md).
2. Nothing is guessed: unknown keys, numbers in quotes and infinite numbers are errors.
3. A default that the core has too is read from the core's struct, so that there is one of each.
4. A section says what concerns one key. Several keys: `cross_checks`. The machine: `host_checks`, `tls_checks`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from gateway.config.actuators import ACTUATORS_MAX, ActuatorConfig
from gateway.config.admin import AdminConfig
from gateway.config.backends import BackendConfig
from gateway.config.features import FeatureStoreConfig
from gateway.config.hooks import HOOKS_MAX, GateConfig, HookConfig
from gateway.config.limits import LimitsConfig
from gateway.config.listener import ProxyProtocolConfig, TlsConfig
from gateway.config.routes import RouteConfig
from gateway.config.section import DEFAULT_LISTEN, BackendName, Cidr, FilePath, ListenAddress, Section
from gateway.config.shape import Doc
from gateway.config.sources import SOURCES_MAX, SourceConfig
from gateway.config.tracing import TracingConfig
from gateway.config.traffic import AccessLogConfig, HeadersConfig, LogFormat
from gateway.config.validators import VALIDATORS_MAX, ValidatorConfig

# What cannot change while the gateway runs.
RESTART_KEYS = ("listen", "workers", "state_dir", "admin", "tracing", "log_format")


class GatewayConfig(Section):
    """The whole file."""

    listen: Annotated[
        ListenAddress,
        Doc(
            "The address that requests are accepted on: IP address or host name, and port. IPv6 in brackets "
            "(`[::1]:8080`), port 0 for any free one. Must differ from `admin.listen`."
        ),
    ] = DEFAULT_LISTEN
    workers: Annotated[
        int,
        Field(ge=1, le=64),
        Doc("Processes that serve requests, each with one event loop. All listen on the same port."),
    ] = 1
    state_dir: Annotated[
        FilePath,
        Doc(
            "Directory of what has to outlive the processes: `state.sqlite3` (rollouts, a configuration given over the "
            "API, the audit trail) and `table.json` (the last table in force). Created when it does not exist. "
            "Relative to the configuration file."
        ),
    ] = Field(default=Path("state"), validate_default=True)
    admin: Annotated[AdminConfig, Doc("The control plane's own listener: API, metrics, health.")] = AdminConfig()
    limits: Annotated[LimitsConfig, Doc("Limits for clients.")] = LimitsConfig()
    trusted_proxies: Annotated[
        list[Cidr],
        Doc(
            "Address ranges (CIDR) of proxies in front of this one. `X-Forwarded-*` headers are accepted from these "
            "and replaced from all others."
        ),
    ] = []
    tls: Annotated[TlsConfig | None, Doc("TLS on the listener for requests. `null`: plain HTTP.")] = None
    proxy_protocol: Annotated[
        ProxyProtocolConfig | None,
        Doc(
            "Every connection begins with a PROXY header, version 1 or 2; those that do not are closed. TLS, if any, "
            "follows on it."
        ),
    ] = None
    headers: Annotated[HeadersConfig, Doc("What is done with certain header fields.")] = HeadersConfig()
    access_log: Annotated[
        AccessLogConfig, Doc("One JSON line for each request; docs/data-plane.md lists its fields.")
    ] = AccessLogConfig()
    log_format: Annotated[
        LogFormat,
        Field(strict=False),
        Doc(
            "How the gateway's own processes log to standard error: `text`, or `json`, one object a line with the "
            "trace id of the request that it is about. A change needs a restart."
        ),
    ] = LogFormat.TEXT
    tracing: Annotated[
        TracingConfig | None,
        Doc("OpenTelemetry traces of requests and their attempts. `null`: none; `traceparent` is passed on or made."),
    ] = None
    backends: Annotated[
        dict[BackendName, BackendConfig],
        Field(min_length=1),
        Doc("The deployed model versions by name: 1 to 63 letters, digits and, inside, `.` `_` `-`."),
    ]
    routes: Annotated[
        list[RouteConfig],
        Field(min_length=1),
        Doc(
            "Which requests go where, at least one route. Routes that name the request's host come first, then the "
            "longest prefix wins."
        ),
    ]
    feature_stores: Annotated[
        dict[BackendName, FeatureStoreConfig], Doc("Feast servers by name, for `routes[].features`; docs/feast.md.")
    ] = {}
    hooks: Annotated[
        list[HookConfig],
        Field(max_length=HOOKS_MAX),
        Doc("Receivers of transitions. Each gets every transition at least once, in order, also across a restart."),
    ] = []
    gates: Annotated[
        list[GateConfig],
        Field(max_length=HOOKS_MAX),
        Doc(
            "Who is asked whether a rollout may go on, where a plan names the gate (`plan.steps[].gate`, "
            "`plan.promotion_gate`)."
        ),
    ] = []
    validators: Annotated[
        list[ValidatorConfig],
        Field(max_length=VALIDATORS_MAX),
        Doc("Programs that judge windows of live requests and answers, where a route's `data_checks` name them."),
    ] = []
    sources: Annotated[
        list[SourceConfig],
        Field(max_length=SOURCES_MAX),
        Doc("Model registries that start rollouts by themselves, at most one for each route."),
    ] = []
    actuators: Annotated[
        list[ActuatorConfig],
        Field(max_length=ACTUATORS_MAX),
        Doc("Routes that something else splits as their rollouts say, at most one for each route; docs/kserve.md."),
    ] = []
