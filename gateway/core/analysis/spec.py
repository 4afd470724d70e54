"""What is asked of an analysis: its metrics, their tolerances and margins, and the error probabilities that they share.

Words. A metric's *tolerance* is where "worse" begins: beyond it the canary is rolled back on proof. Its *margin* is
what "good enough" means: the canary is passed on proof that it lies within. Both are a ratio and a difference, and
the wider of the two counts, because a ratio alone is unprovable at low rates and a difference alone means nothing at
high ones. ``budget.py`` says how the metrics share the error probabilities.
"""

from __future__ import annotations

import enum
import functools
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec

from gateway.core.errors import InvalidValueError
from gateway.core.stats import outcomes
from gateway.core.stats.counts import PER_REQUEST

QUANTILES_MAX = 16
EVENTS_MAX = 128
BURST_MAX_S = 10.0
RATE_METRICS = outcomes.NAMES
"""The outcome classes, as metrics: each is a rate of the same requests."""
LATENCY_METRICS = PER_REQUEST
_EVENT_NAME = re.compile(r"[a-z][a-z0-9_.:-]{0,63}")
_CHECKS = ("evidence", "sample_ratio", "guardrails", "missing_outcomes", "returning_sessions")
_RESERVED = frozenset((*RATE_METRICS, *LATENCY_METRICS, *_CHECKS))


def _within(name: str, value: Any, low: float, high: float) -> None:
    # Comparisons with NaN are false; what is no number at all cannot be compared.
    if not isinstance(value, (int, float)) or not low <= value <= high:
        raise InvalidValueError(f"{name} must be from {low:g} to {high:g}, not {value!r}")


class Mode(enum.StrEnum):
    """Whether a metric decides, is reported only (it never decides), or is not looked at.

    ``auto`` is for what only some routes have, event streams say: it decides as soon as either version has data for it,
    and is silent on a route that never has any. Its share of alpha_rollback is reserved from the start, so that nothing
    depends on when the data appear. Data of one version alone are not silence: then promotion waits. Data in which
    there is nothing to compare are (report.py, rules 5 and 6).
    """

    DECIDE = "decide"
    AUTO = "auto"
    ADVISE = "advise"
    OFF = "off"

    @property
    def may_decide(self) -> bool:
        """Whether a metric of this mode has a share of alpha_rollback."""
        return self is Mode.DECIDE or self is Mode.AUTO


class Worse(enum.StrEnum):
    """Which way of differing from stable is worse: more events, fewer, or either."""

    HIGHER = "higher"
    LOWER = "lower"
    DIFFERENT = "different"


class Unit(enum.StrEnum):
    """What counts as one vote: a request (neighbours are independent) or a slice of time (whatever happens in it)."""

    REQUEST = "request"
    SLICE = "slice"


class RateSpec(msgspec.Struct, frozen=True, cache_hash=True):
    """How an outcome class is judged.

    Rolled back on proof that the canary's rate lies above ``max(tolerance_ratio * p_s, p_s + tolerance_delta)``; passed
    on proof that it lies below ``max(margin_ratio * p_s, p_s + margin_delta)``.
    """

    mode: Mode = Mode.DECIDE
    margin_ratio: float = 1.5
    margin_delta: float = 0.01
    tolerance_ratio: float = 1.0
    tolerance_delta: float = 0.0

    def __post_init__(self) -> None:
        """Raise InvalidValueError for margins outside their domain."""
        _check_margins(self)

    @property
    def decides(self) -> bool:
        """Whether it takes part in the verdict (in mode ``auto``: once there are data)."""
        return self.mode.may_decide


# The group of the events that say how a model's answers are distributed.
ANSWERS = "answers"


class EventSpec(msgspec.Struct, frozen=True, cache_hash=True):
    """How a labelled yes/no event (``Counts.trials`` and ``Counts.events`` under ``name``) is judged.

    ``worse`` is the direction that harms. "higher": rolled back on proof of a rate above ``max(tolerance_ratio * p_s,
    p_s + tolerance_delta)``, passed on proof of one below ``max(margin_ratio * p_s, p_s + margin_delta)``. "lower" is
    the same with the arms exchanged (``p_s`` above ``max(ratio * p_c, p_c + delta)``). "different" convicts either
    way, and passes on proof of both. ``share`` is the metric's part of alpha_rollback, relative to the others'
    (MetricShares). ``unit`` "slice" takes ``slice_s`` seconds as one vote, for events that come in bursts; ``guarded``
    counts those that come together as about one, as failures are counted (guard.py).
    Events of one ``group`` share the answers out among them (silence.py).

    With ``bounds`` it is a number of each request instead, clipped to them, and its mean is compared (means.py); rates
    are means then, and deltas parts of the range. ``of`` names the latency whose mean it is, in milliseconds.
    """

    name: str
    mode: Mode = Mode.DECIDE
    worse: Worse = Worse.HIGHER
    tolerance_ratio: float = 1.0
    tolerance_delta: float = 0.0
    margin_ratio: float = 1.5
    margin_delta: float = 0.01
    share: float = 0.125
    unit: Unit = Unit.REQUEST
    slice_s: float = 1.0
    group: str = ""
    guarded: bool = False
    bounds: tuple[float, float] | None = None
    of: str | None = None

    def __post_init__(self) -> None:
        """Raise InvalidValueError for a name that is invalid or taken, or numbers outside their domain."""
        self._check_bounds()
        if not _EVENT_NAME.fullmatch(self.name):
            raise InvalidValueError(
                f"an event name must be 1 to 64 of a-z, 0-9 and _ . : - and begin with a letter, not {self.name!r}"
            )
        if self.name in _RESERVED or self.name.startswith("guardrail:"):
            raise InvalidValueError(f"{self.name!r} is a built-in metric: choose another name")
        _check_margins(self)
        _within("share", self.share, 1e-6, 1.0)
        _within("slice_s", self.slice_s, 0.01, 3600.0)

    @property
    def decides(self) -> bool:
        """Whether it takes part in the verdict (in mode ``auto``: once there are data)."""
        return self.mode.may_decide

    def _check_bounds(self) -> None:
        if self.of is not None and self.of not in LATENCY_METRICS:
            raise InvalidValueError(f"{self.of!r} is not a latency: use one of {', '.join(LATENCY_METRICS)}")
        if self.bounds is None:
            if self.of is not None:
                raise InvalidValueError(f"the mean of {self.of} needs bounds, in milliseconds")
            return
        low, high = self.bounds
        if not -1e12 <= low < high <= 1e12:
            raise InvalidValueError(f"bounds must be two rising numbers, not [{low:g}, {high:g}]")
        if low < 0.0 and max(self.tolerance_ratio, self.margin_ratio) > 1.0:
            raise InvalidValueError("values that may be negative have no ratio: set both ratios to 1 and use deltas")

    @property
    def rate(self) -> RateSpec:
        """The same tolerances and margins, as an outcome class has them."""
        return _rate_of(self)


@functools.lru_cache(maxsize=256)
def _rate_of(event: EventSpec) -> RateSpec:
    return RateSpec(event.mode, event.margin_ratio, event.margin_delta, event.tolerance_ratio, event.tolerance_delta)


def _check_margins(spec: RateSpec | EventSpec) -> None:
    for name in ("margin", "tolerance"):
        _within(f"{name}_ratio", getattr(spec, f"{name}_ratio"), 1.0, 1e6)
        _within(f"{name}_delta", getattr(spec, f"{name}_delta"), 0.0, 0.99)


class LatencySpec(msgspec.Struct, frozen=True, cache_hash=True):
    """How a latency is judged: exceedance of stable's running quantiles and of fixed objectives, slice by slice.

    The canary may be slower than stable by the factor ``tolerance_ratio`` plus ``tolerance_us`` before it is worse,
    and is passed on proof that it is not slower by ``margin_ratio`` plus ``margin_us`` (with ``margin_delta`` of
    exceedance probability as slack). Beyond each of ``slo_us`` it may not be more often than stable, whatever the
    tolerance.
    """

    mode: Mode = Mode.DECIDE
    quantiles: tuple[float, ...] = (0.5, 0.95, 0.99)
    tolerance_ratio: float = 1.25
    tolerance_us: int = 2_000
    margin_ratio: float = 1.5
    margin_us: int = 5_000
    margin_delta: float = 0.05
    slice_s: float = 1.0
    slo_us: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        """Raise InvalidValueError for quantiles, tolerances or slices outside their domain."""
        if not 1 <= len(self.quantiles) <= QUANTILES_MAX or len(set(self.quantiles)) != len(self.quantiles):
            raise InvalidValueError(f"quantiles must be 1 to {QUANTILES_MAX} different numbers, not {self.quantiles!r}")
        for q in self.quantiles:
            _within("quantiles", q, 0.01, 0.9999)
        if len(self.slo_us) > QUANTILES_MAX or len(set(self.slo_us)) != len(self.slo_us):
            raise InvalidValueError(f"slo_us must be at most {QUANTILES_MAX} different numbers, not {self.slo_us!r}")
        for slo_us in self.slo_us:
            _within("slo_us", slo_us, 1, 10**11)
        _within("tolerance_ratio", self.tolerance_ratio, 1.0, 1e6)
        _within("tolerance_us", self.tolerance_us, 0, 10**11)
        _within("margin_ratio", self.margin_ratio, 1.0, 1e6)
        _within("margin_us", self.margin_us, 0, 10**11)
        _within("margin_delta", self.margin_delta, 0.0, 0.9)
        _within("slice_s", self.slice_s, 0.01, 3600.0)

    @property
    def decides(self) -> bool:
        """Whether it takes part in the verdict (in mode ``auto``: once there are data)."""
        return self.mode.may_decide


class GuardrailSpec(msgspec.Struct, frozen=True, cache_hash=True):
    """An absolute limit on the canary, whatever stable does: rolled back on proof that its rate lies above ``limit``.

    ``metric`` is an outcome class or a labelled event; with ``threshold_us`` it is a latency, and the event is "slower
    than this": a p99 of at most 200 ms is ``metric="latency", threshold_us=200_000, limit=0.01``. ``share`` is its
    part of alpha_rollback, relative to the others'.
    """

    metric: str
    limit: float
    threshold_us: int | None = None
    mode: Mode = Mode.DECIDE
    share: float = 0.125
    slice_s: float = 1.0

    def __post_init__(self) -> None:
        """Raise InvalidValueError for a limit that cannot be crossed, or a threshold without a latency."""
        _within("limit", self.limit, 1e-6, 0.99)
        _within("share", self.share, 1e-6, 1.0)
        _within("slice_s", self.slice_s, 0.01, 3600.0)
        if (self.metric in LATENCY_METRICS) != (self.threshold_us is not None):
            raise InvalidValueError(
                f"a guardrail needs threshold_us if, and only if, its metric is one of {', '.join(LATENCY_METRICS)};"
                f" this one is of {self.metric!r}"
            )
        if self.threshold_us is not None:
            _within("threshold_us", self.threshold_us, 1, 10**11)
        elif self.metric not in RATE_METRICS and not _EVENT_NAME.fullmatch(self.metric):
            raise InvalidValueError(f"{self.metric!r} is neither an outcome class nor the name of an event")

    @property
    def name(self) -> str:
        """``guardrail:errors``, ``guardrail:latency>200ms``."""
        return _guardrail_name(self.metric, self.threshold_us)

    @property
    def decides(self) -> bool:
        """Whether it takes part in the verdict (in mode ``auto``: once there are data)."""
        return self.mode.may_decide


@functools.lru_cache(maxsize=256)
def _guardrail_name(metric: str, threshold_us: int | None) -> str:
    slow = "" if threshold_us is None else f">{threshold_us / 1000:g}ms"
    return f"guardrail:{metric}{slow}"


class MetricShares(msgspec.Struct, frozen=True, cache_hash=True):
    """How the metrics share ``alpha_rollback``: positive, renormalised over those that decide (budget.py).

    A metric's E counts with its share v, so that alone it must reach 1 / (alpha v). Failures come first because they
    hurt at once and are the commonest regression: `errors` has half of all by default, and pays log 2. A canary of the
    wrong name or key fails all its requests: to be found with a small share takes it one or two requests more.
    """

    errors: float = 0.6
    client_errors: float = 0.125
    overload: float = 0.125
    latency: float = 0.25
    duration: float = 0.125
    gap: float = 0.0625
    time_per_event: float = 0.0625
    first_token: float = 0.0625
    unauthorized: float = 0.01
    not_found: float = 0.01
    redirects: float = 0.01
    empty_body: float = 0.01
    abandoned: float = 0.04
    no_content: float = 0.01
    other_success: float = 0.01

    def __post_init__(self) -> None:
        """Raise InvalidValueError for an invalid share."""
        for name in self.__struct_fields__:
            _within(f"the share of {name}", getattr(self, name), 1e-6, 1.0)


class WarmUpSpec(NamedTuple):
    """How long the canary warms up at least, in time and in answers, and at most (evidence/warmup.py)."""

    least_s: float
    requests: int
    most_s: float


class AnalysisSpec(msgspec.Struct, frozen=True, cache_hash=True):
    """What one rollout's verdict promises: the error probabilities and the metrics that share them.

    ``bake_share`` is the part of alpha_rollback that is kept for the time after promotion (0: there is no bake).
    ``alpha_sample_ratio`` bounds the probability that the check of the split ever stops a sound experiment; 0 turns
    it off, as it must be where requests are not assigned one by one (sticky sessions).
    ``burst_s`` is how long a pause or restart makes failures of one arm come together (guard.py; 0: never). With
    ``learn_bursts`` that is taken where stable's past is not known, which says it better (trimmed.py).
    ``sticky``: outcomes are counted by session, not by request.
    The canary's latencies are no evidence before it has answered for ``warmup_s`` and ``warmup_requests`` times, and
    they have stopped falling; ``warmup_max_s`` ends that in any case (evidence/warmup.py).
    """

    alpha_rollback: float = 0.01
    alpha_promote: float = 0.05
    errors: RateSpec = RateSpec()
    client_errors: RateSpec = RateSpec()
    overload: RateSpec = RateSpec()
    latency: LatencySpec = LatencySpec()
    shares: MetricShares = MetricShares()
    duration: LatencySpec = LatencySpec(mode=Mode.OFF)
    gap: LatencySpec = LatencySpec(mode=Mode.OFF)
    time_per_event: LatencySpec = LatencySpec(mode=Mode.OFF)
    first_token: LatencySpec = LatencySpec(mode=Mode.OFF)
    unauthorized: RateSpec = RateSpec()
    not_found: RateSpec = RateSpec()
    redirects: RateSpec = RateSpec()
    empty_body: RateSpec = RateSpec()
    abandoned: RateSpec = RateSpec()
    no_content: RateSpec = RateSpec()
    other_success: RateSpec = RateSpec()
    events: tuple[EventSpec, ...] = ()
    guardrails: tuple[GuardrailSpec, ...] = ()
    alpha_sample_ratio: float = 0.0001
    bake_share: float = 0.0
    burst_s: float = 0.3
    learn_bursts: bool = True
    sticky: bool = False
    warmup_s: float = 0.0
    warmup_requests: int = 0
    warmup_max_s: float = 1800.0

    @property
    def rates(self) -> tuple[RateSpec, ...]:
        """How the outcome classes are judged, in the order of `RATE_METRICS`."""
        return _rates(self)

    @property
    def warmup(self) -> WarmUpSpec:
        """How long the canary's latencies are no evidence."""
        return WarmUpSpec(self.warmup_s, self.warmup_requests, self.warmup_max_s)

    @property
    def latencies(self) -> Mapping[str, LatencySpec]:
        """The latencies that are looked at, by the name of their histogram."""
        return _latencies(self)

    def __post_init__(self) -> None:
        """Raise InvalidValueError for error probabilities that promise nothing and for names that occur twice."""
        _within("alpha_rollback", self.alpha_rollback, 1e-12, 0.5)
        _within("alpha_promote", self.alpha_promote, 1e-12, 0.5)
        _within("alpha_sample_ratio", self.alpha_sample_ratio, 0.0, 0.5)
        _within("bake_share", self.bake_share, 0.0, 0.9)
        _within("burst_s", self.burst_s, 0.0, BURST_MAX_S)
        _within("warmup_s", self.warmup_s, 0.0, 86_400.0)
        _within("warmup_requests", self.warmup_requests, 0, 10**9)
        _within("warmup_max_s", self.warmup_max_s, 0.0, 86_400.0)
        names = [event.name for event in self.events] + [guardrail.name for guardrail in self.guardrails]
        if len(names) > EVENTS_MAX:
            raise InvalidValueError(f"{len(names)} events and guardrails, at most {EVENTS_MAX} are judged")
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise InvalidValueError(f"{twice[0]!r} occurs twice among the events and guardrails")


@functools.lru_cache(maxsize=64)
def _rates(spec: AnalysisSpec) -> tuple[RateSpec, ...]:
    return tuple(getattr(spec, name) for name in RATE_METRICS)


@functools.lru_cache(maxsize=64)
def _latencies(spec: AnalysisSpec) -> Mapping[str, LatencySpec]:
    named = ((name, getattr(spec, name)) for name in LATENCY_METRICS)
    return {name: latency for name, latency in named if latency.mode is not Mode.OFF}


ROUTE_DEFAULT = AnalysisSpec(
    gap=LatencySpec(mode=Mode.AUTO),
    time_per_event=LatencySpec(mode=Mode.AUTO),
    first_token=LatencySpec(mode=Mode.AUTO),
    warmup_s=30.0,
    warmup_requests=300,
)
"""What a route is judged by unless its configuration says otherwise: what every answer has, and what only streams have;
and its canary warms up.

`AnalysisSpec` alone leaves out streams, whose share of alpha_rollback is reserved even where none ever comes, and takes
canaries as warm: so a recording, and a test, are judged from their first request on.
"""
