"""The configuration's shape: every key, its type, its bounds and its default.

Rules:

1. Nothing is guessed: unknown keys, numbers in quotes and infinite numbers are mistakes.
2. A default that the core has too is read from the core's struct, so that there is one of each.
3. Only what concerns one key is said here; what concerns several is in `relations`, the machine's part in `world`.
4. What each key means to a user is in docs/configuration.md; a test holds it and this file together.
"""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Annotated

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    InstanceOf,
    ValidationInfo,
)

from gateway.config import grammar
from gateway.config.grammar import Address, Network
from gateway.config.mistakes import BadValue, show
from gateway.config.shape import Noun
from gateway.core.analysis.types import AnalysisSpec, LatencySpec, RateSpec
from gateway.core.errors import InvalidValueError
from gateway.core.rollout.types import OnDeadline, Plan, Step
from gateway.core.traffic.table import Backend, Endpoint, Rescue, Timeouts
from gateway.core.types import weight_bp_from_percent

DEFAULT_LISTEN = Address("127.0.0.1", 8080)
DEFAULT_ADMIN = Address("127.0.0.1", 9900)
YEAR_S = 31_536_000
_GIB = 1 << 30
_BACKEND = Backend(name="", endpoints=())
_TIMEOUTS = Timeouts()
_RESCUE = Rescue()
_ANALYSIS = AnalysisSpec()
_RATE = RateSpec()
_LATENCY = LatencySpec()
_STEP = Step(weight_bp=1)
_PLAN = Plan(steps=())


def _in_basis_points(percent: float) -> float:
    try:
        weight_bp_from_percent(percent)
    except InvalidValueError:
        raise BadValue(f"{show(percent)} is finer than 0.01", f"write {max(percent, 0.01):.2f}") from None
    return percent


def _beside_the_file(value: object, info: ValidationInfo) -> Path:
    """A path relative to the configuration file, whose directory is the validation's context."""
    if isinstance(value, Path):
        value = str(value)
    if not isinstance(value, str):
        raise BadValue(f"{show(value)} is not text", "give a path, absolute or relative to this file")
    return Path(info.context or "") / grammar.file_path(value)


Seconds = Annotated[float, Field(gt=0, le=YEAR_S), Noun("a number of seconds")]
Milliseconds = Annotated[float, Field(ge=0, le=YEAR_S), Noun("a number of milliseconds")]
Percentage = Annotated[float, Field(ge=0, le=100), AfterValidator(_in_basis_points), Noun("a percentage")]
StepPercentage = Annotated[float, Field(gt=0, le=100), AfterValidator(_in_basis_points), Noun("a percentage")]
Probability = Annotated[float, Field(gt=0, lt=1), Noun("a probability")]
Share = Annotated[float, Field(ge=0, le=1), Noun("a share")]
Ratio = Annotated[float, Field(ge=1, le=1000), Noun("a ratio")]
Bytes = Annotated[int, Field(ge=1, le=1 << 40), Noun("a number of bytes")]
Count = Annotated[int, Field(ge=1, le=1_000_000)]
CountOrNone = Annotated[int, Field(ge=0, le=1_000_000)]

ListenAddress = Annotated[
    InstanceOf[Address], BeforeValidator(grammar.parsed_by(grammar.address, Address)), Noun("host:port")
]
EndpointUrl = Annotated[
    InstanceOf[Endpoint], BeforeValidator(grammar.parsed_by(grammar.endpoint, Endpoint)), Noun("an http(s) URL")
]
Cidr = Annotated[
    Network, BeforeValidator(grammar.parsed_by(grammar.network, IPv4Network, IPv6Network)), Noun("an address range")
]
FilePath = Annotated[Path, BeforeValidator(_beside_the_file), Noun("a path")]
EnvironmentName = Annotated[str, AfterValidator(grammar.environment_name), Noun("an environment variable's name")]
RouteName = Annotated[str, AfterValidator(grammar.route_name), Noun("a name of a-z, 0-9 and hyphens")]
BackendName = Annotated[str, AfterValidator(grammar.backend_name), Noun("a backend's name")]
PathPrefix = Annotated[str, AfterValidator(grammar.path_prefix), Noun("a path")]
ProbePath = Annotated[str, AfterValidator(grammar.probe_path), Noun("a path")]
RouteHost = Annotated[str, AfterValidator(grammar.route_host), Noun("a host name")]
HeaderName = Annotated[str, AfterValidator(grammar.header_name), Noun("a header's name")]
CookieName = Annotated[str, AfterValidator(grammar.cookie_name), Noun("a cookie's name")]


class Section(BaseModel):
    """Common to all sections: closed, strict, immutable."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class AdminConfig(Section):
    """The control plane's own listener."""

    listen: ListenAddress = DEFAULT_ADMIN
    token_env: EnvironmentName | None = None
    token_file: FilePath | None = None


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
    probe: ProbeConfig | None = ProbeConfig()


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

    connect_s: Seconds = _TIMEOUTS.connect_s
    first_byte_s: Seconds = _TIMEOUTS.first_byte_s
    idle_s: Seconds = _TIMEOUTS.idle_s
    total_s: Seconds = _TIMEOUTS.total_s


class RescueConfig(Section):
    """Whether and how much stable answers for a failing canary."""

    replayable: bool = _RESCUE.replayable
    body_bytes_max: Annotated[int, Field(ge=0, le=_GIB), Noun("a number of bytes")] = _RESCUE.body_bytes_max
    budget_percent: Annotated[float, Field(ge=0, le=100), Noun("a percentage")] = _RESCUE.budget_percent
    budget_burst: CountOrNone = _RESCUE.budget_burst


class RateConfig(Section):
    """How one class of failures is judged."""

    decides: bool = _RATE.decides
    margin_ratio: Ratio = _RATE.margin_ratio
    margin_delta: Share = _RATE.margin_delta

    def spec(self) -> RateSpec:
        """The same, as the judge wants it."""
        return RateSpec(self.decides, self.margin_ratio, self.margin_delta)


class LatencyConfig(Section):
    """How latency is judged; milliseconds here, microseconds inside."""

    decides: bool = _LATENCY.decides
    quantiles: Annotated[list[Probability], Field(min_length=1, max_length=16)] = list(_LATENCY.quantiles)
    tolerance_ratio: Ratio = _LATENCY.tolerance_ratio
    tolerance_ms: Milliseconds = _LATENCY.tolerance_us / 1000
    margin_ratio: Ratio = _LATENCY.margin_ratio
    margin_ms: Milliseconds = _LATENCY.margin_us / 1000
    margin_delta: Share = _LATENCY.margin_delta
    slice_s: Seconds = _LATENCY.slice_s

    def spec(self) -> LatencySpec:
        """The same, as the judge wants it."""
        return LatencySpec(
            decides=self.decides,
            quantiles=tuple(self.quantiles),
            tolerance_ratio=self.tolerance_ratio,
            tolerance_us=round(self.tolerance_ms * 1000),
            margin_ratio=self.margin_ratio,
            margin_us=round(self.margin_ms * 1000),
            margin_delta=self.margin_delta,
            slice_s=self.slice_s,
        )


class AnalysisConfig(Section):
    """What a verdict promises, how often it is sought, and what it looks at."""

    alpha_rollback: Probability = _ANALYSIS.alpha_rollback
    alpha_promote: Probability = _ANALYSIS.alpha_promote
    interval_s: Seconds = 0.1
    errors: RateConfig = RateConfig()
    client_errors: RateConfig = RateConfig()
    overload: RateConfig = RateConfig()
    latency: LatencyConfig = LatencyConfig()


class StepConfig(Section):
    """One rung of the ladder."""

    percent: StepPercentage
    min_time_s: Annotated[float, Field(ge=0, le=YEAR_S), Noun("a number of seconds")] = _STEP.min_time_s
    min_requests: Annotated[int, Field(ge=0, le=1_000_000_000)] = _STEP.min_requests


class PlanConfig(Section):
    """The ladder of weights that a rollout climbs."""

    steps: Annotated[list[StepConfig], Field(min_length=1, max_length=100)] = [
        StepConfig(percent=percent) for percent in (1, 5, 25, 50)
    ]
    deadline_s: Seconds = _PLAN.deadline_s
    on_deadline: Annotated[OnDeadline, Field(strict=False)] = _PLAN.on_deadline


class RouteConfig(Section):
    """Which requests, to which stable and canary backend, judged how."""

    name: RouteName
    match: MatchConfig
    stable: Annotated[str, Noun("a backend's name")]
    canary: Annotated[str, Noun("a backend's name")] | None = None
    canary_percent: Percentage = 0.0
    forced_variant_header: HeaderName | None = None
    sticky: StickyConfig | None = None
    timeouts: TimeoutsConfig = TimeoutsConfig()
    rescue: RescueConfig = RescueConfig()
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
    backends: Annotated[dict[BackendName, BackendConfig], Field(min_length=1)]
    routes: Annotated[list[RouteConfig], Field(min_length=1)]
