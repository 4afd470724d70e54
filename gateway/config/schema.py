"""The configuration's shape: every key, its type, its bounds and its default.

Rules:

1. Nothing is guessed: unknown keys, numbers in quotes and infinite numbers are errors.
2. A default that the core has too is read from the core's struct, so that there is one of each.
3. Only what concerns one key is said here; several keys: `cross_checks`; the machine: `host_checks`.
4. What each key means to a user is in docs/configuration.md; a test holds it and this file together.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import msgspec
from pydantic import Field, model_validator

from gateway.config.admin import AdminConfig
from gateway.config.analysis import AnalysisConfig, LatencyConfig, RateConfig
from gateway.config.edge import BackendTlsConfig, PassiveConfig, ProxyProtocolConfig, TlsConfig
from gateway.config.hooks import HOOKS_MAX, GateConfig, HookConfig
from gateway.config.plan import PlanConfig
from gateway.config.section import (
    DEFAULT_ADMIN,
    DEFAULT_LISTEN,
    YEAR_S,
    BackendName,
    Bytes,
    Cidr,
    CookieName,
    Count,
    CountOrNone,
    EndpointUrl,
    FilePath,
    HeaderName,
    ListenAddress,
    PathPrefix,
    Percentage,
    ProbePath,
    RouteHost,
    RouteName,
    Seconds,
    Section,
)
from gateway.config.shape import Noun
from gateway.config.traffic import (
    HOST_HEADER,
    LLM_TIMEOUTS,
    AccessLogConfig,
    FailedStatus,
    HeadersConfig,
    HostHeader,
    OnHalfClose,
    Protocol,
    TimeoutsProfile,
)
from gateway.core.rollout.types import Plan, Step
from gateway.core.traffic.table import Backend, Rescue, Retry, Route, Timeouts

__all__ = [
    "DEFAULT_ADMIN",
    "DEFAULT_LISTEN",
    "YEAR_S",
    "AdminConfig",
    "AnalysisConfig",
    "BackendConfig",
    "GateConfig",
    "GatewayConfig",
    "HookConfig",
    "LatencyConfig",
    "LimitsConfig",
    "MatchConfig",
    "PlanConfig",
    "ProbeConfig",
    "RateConfig",
    "RescueConfig",
    "RetryConfig",
    "RouteConfig",
    "Section",
    "StickyConfig",
    "TimeoutsConfig",
]

_GIB = 1 << 30
_BACKEND = Backend(name="", endpoints=())
_TIMEOUTS = Timeouts()
_RESCUE = Rescue()
_RETRY = Retry()
_ROUTE = Route(name="", path_prefix="/", stable="")
_STEP = Step(weight_bp=1)
_PLAN = Plan(steps=())


class LimitsConfig(Section):
    """What one client, and all of them together, may take."""

    head_bytes_max: Annotated[int, Field(ge=1024, le=1 << 20), Noun("a number of bytes")] = 32_768
    header_fields_max: Annotated[int, Field(ge=1, le=10_000)] = 100
    line_bytes_max: Annotated[int, Field(ge=256, le=1 << 20), Noun("a number of bytes")] = 8_192
    body_bytes_max: Bytes | None = None
    connections_max: Count = 10_000
    head_timeout_s: Seconds = 10.0
    keepalive_s: Seconds = 75.0
    drain_timeout_s: Seconds = 30.0
    connections_per_client_max: Count | None = None
    body_rate_min: Annotated[int, Field(ge=0, le=_GIB), Noun("a number of bytes")] = 500
    drain_grace_s: Annotated[float, Field(ge=0, le=YEAR_S), Noun("a number of seconds")] = 0.0
    hang_timeout_s: Annotated[float, Field(ge=0, le=YEAR_S), Noun("a number of seconds")] = 10.0
    body_memory_bytes: Annotated[int, Field(ge=1 << 20, le=1 << 40), Noun("a number of bytes")] = 64 << 20
    body_disk_bytes: Annotated[int, Field(ge=0, le=1 << 40), Noun("a number of bytes")] = 256 << 20
    body_directory: FilePath | None = None


class ProbeConfig(Section):
    """How an endpoint's readiness is asked for: ``rise`` answers in a row make it ready, ``fall`` failures unready."""

    path: ProbePath = "/v2/health/ready"
    interval_s: Seconds = 1.0
    timeout_s: Seconds = 1.0
    rise: Annotated[int, Field(ge=1, le=100)] = 2
    fall: Annotated[int, Field(ge=1, le=100)] = 3


class BackendConfig(Section):
    """One deployed model version."""

    endpoints: Annotated[list[EndpointUrl], Field(min_length=1)]
    connections_max: Count = _BACKEND.connections_max
    queue_max: CountOrNone = _BACKEND.queue_max
    keepalive_s: Seconds = _BACKEND.keepalive_s
    host_header: HostHeader = HOST_HEADER
    probe: ProbeConfig | None = ProbeConfig()
    tls: BackendTlsConfig | None = None
    passive: PassiveConfig = PassiveConfig()
    resolve_s: Seconds = _BACKEND.resolve_s
    resolve_max_age_s: Seconds = _BACKEND.resolve_max_age_s
    panic_percent: Percentage = _BACKEND.panic_percent


class MatchConfig(Section):
    """Which requests a route takes."""

    path_prefix: PathPrefix
    hosts: list[RouteHost] = []


class StickyConfig(Section):
    """Where a request's sticky key is found: exactly one of the two."""

    header: HeaderName | None = None
    cookie: CookieName | None = None


class TimeoutsConfig(Section):
    """The deadlines of an exchange."""

    profile: Annotated[TimeoutsProfile, Field(strict=False)] = TimeoutsProfile.STANDARD
    connect_s: Seconds = _TIMEOUTS.connect_s
    first_byte_s: Seconds = _TIMEOUTS.first_byte_s
    idle_s: Seconds = _TIMEOUTS.idle_s
    total_s: Seconds = _TIMEOUTS.total_s
    try_s: Seconds | None = _TIMEOUTS.try_s
    tunnel_idle_s: Seconds = _TIMEOUTS.tunnel_idle_s

    @model_validator(mode="before")
    @classmethod
    def _of_the_profile(cls, given: Any) -> Any:
        """Where the profile is another, its values are the defaults."""
        if isinstance(given, dict) and given.get("profile") == TimeoutsProfile.LLM:
            return msgspec.structs.asdict(LLM_TIMEOUTS) | given
        return given


class RescueConfig(Section):
    """Whether and how much stable answers for a failing canary."""

    replayable: bool = _RESCUE.replayable
    body_bytes_max: Annotated[int, Field(ge=0, le=_GIB), Noun("a number of bytes")] = _RESCUE.body_bytes_max
    file_bytes_max: Annotated[int, Field(ge=0, le=1 << 40), Noun("a number of bytes")] = _RESCUE.file_bytes_max
    budget_percent: Annotated[float, Field(ge=0, le=100), Noun("a percentage")] = _RESCUE.budget_percent
    budget_burst: CountOrNone = _RESCUE.budget_burst
    statuses: list[FailedStatus] = list(_RESCUE.statuses)
    unlike_stable: bool = _RESCUE.unlike_stable


class RetryConfig(Section):
    """How much may be tried again on another endpoint of the same backend."""

    budget_percent: Annotated[float, Field(ge=0, le=100), Noun("a percentage")] = _RETRY.budget_percent
    budget_burst: CountOrNone = _RETRY.budget_burst
    statuses: list[FailedStatus] = list(_RETRY.statuses)


class RouteConfig(Section):
    """Which requests, to which stable and canary backend, judged how."""

    name: RouteName
    match: MatchConfig
    stable: Annotated[str, Noun("a backend's name")] | None = None
    canary: Annotated[str, Noun("a backend's name")] | None = None
    canary_percent: Percentage = 0.0
    forced_variant_header: HeaderName | None = None
    sticky: StickyConfig | None = None
    upgrades: list[Protocol] = list(_ROUTE.upgrades)
    on_half_close: Annotated[OnHalfClose, Field(strict=False)] = OnHalfClose.AUTO
    stream_requests: bool = _ROUTE.streams_requests
    timeouts: TimeoutsConfig = TimeoutsConfig()
    rescue: RescueConfig = RescueConfig()
    retry: RetryConfig = RetryConfig()
    analysis: AnalysisConfig = AnalysisConfig()
    plan: PlanConfig = PlanConfig()


class GatewayConfig(Section):
    """The whole file."""

    listen: ListenAddress = DEFAULT_LISTEN
    workers: Annotated[int, Field(ge=1, le=64)] = 1
    state_dir: FilePath = Field(default=Path("state"), validate_default=True)
    admin: AdminConfig = AdminConfig()
    limits: LimitsConfig = LimitsConfig()
    trusted_proxies: list[Cidr] = []
    tls: TlsConfig | None = None
    proxy_protocol: ProxyProtocolConfig | None = None
    headers: HeadersConfig = HeadersConfig()
    access_log: AccessLogConfig = AccessLogConfig()
    backends: Annotated[dict[BackendName, BackendConfig], Field(min_length=1)]
    routes: Annotated[list[RouteConfig], Field(min_length=1)]
    hooks: Annotated[list[HookConfig], Field(max_length=HOOKS_MAX)] = []
    gates: Annotated[list[GateConfig], Field(max_length=HOOKS_MAX)] = []
