"""The values of an analysis: what is asked (spec), what was seen (evidence), what it means (finding, verdict)."""

from __future__ import annotations

import enum
import math

import msgspec

from gateway.core.errors import InvalidValueError
from gateway.core.stats.counts import EpochCounts

QUANTILES_MAX = 16


def _within(name: str, value: float, low: float, high: float) -> None:
    if not (math.isfinite(value) and low <= value <= high):
        raise InvalidValueError(f"{name} must be from {low:g} to {high:g}, not {value!r}")


class Verdict(enum.StrEnum):
    """One metric's answer, or the whole one. Only PASS advances, only FAIL rolls back, the rest hold."""

    PASS = "PASS"
    UNDECIDED = "UNDECIDED"
    NODATA = "NODATA"
    ERROR = "ERROR"
    FAIL = "FAIL"


class RateSpec(msgspec.Struct, frozen=True):
    """How a failure class is judged.

    Rolled back on proof of "worse than stable"; passed on proof that the canary's rate lies below
    ``max(margin_ratio * p_s, p_s + margin_delta)``. ``decides`` False only reports.
    """

    decides: bool = True
    margin_ratio: float = 1.5
    margin_delta: float = 0.01

    def __post_init__(self) -> None:
        """Raise InvalidValueError for margins outside their domain."""
        _within("margin_ratio", self.margin_ratio, 1.0, 1e6)
        _within("margin_delta", self.margin_delta, 0.0, 0.99)


class LatencySpec(msgspec.Struct, frozen=True):
    """How latency is judged: exceedance of stable's running quantiles, slice by slice.

    The canary may be slower than stable by the factor ``tolerance_ratio`` plus ``tolerance_us`` before it is worse,
    and is passed on proof that it is not slower by ``margin_ratio`` plus ``margin_us`` (with ``margin_delta`` of
    exceedance probability as slack).
    """

    decides: bool = True
    quantiles: tuple[float, ...] = (0.5, 0.95, 0.99)
    tolerance_ratio: float = 1.25
    tolerance_us: int = 2_000
    margin_ratio: float = 1.5
    margin_us: int = 5_000
    margin_delta: float = 0.05
    slice_s: float = 1.0

    def __post_init__(self) -> None:
        """Raise InvalidValueError for quantiles, tolerances or slices outside their domain."""
        if not 1 <= len(self.quantiles) <= QUANTILES_MAX or len(set(self.quantiles)) != len(self.quantiles):
            raise InvalidValueError(f"quantiles must be 1 to {QUANTILES_MAX} different numbers, not {self.quantiles!r}")
        for q in self.quantiles:
            _within("quantiles", q, 0.01, 0.9999)
        _within("tolerance_ratio", self.tolerance_ratio, 1.0, 1e6)
        _within("tolerance_us", self.tolerance_us, 0, 10**10)
        _within("margin_ratio", self.margin_ratio, 1.0, 1e6)
        _within("margin_us", self.margin_us, 0, 10**10)
        _within("margin_delta", self.margin_delta, 0.0, 0.9)
        _within("slice_s", self.slice_s, 0.01, 3600.0)


class MetricShares(msgspec.Struct, frozen=True):
    """How the metrics share ``alpha_rollback``: positive, renormalised over those that decide.

    A metric's E counts with its share v, so that alone it must reach 1 / (alpha v). Failures come first because they
    hurt at once and are the commonest regression: `errors` pays log 2 where four equal shares would cost log 4.
    """

    errors: float = 0.5
    client_errors: float = 0.125
    overload: float = 0.125
    latency: float = 0.25

    def __post_init__(self) -> None:
        """Raise InvalidValueError for a share that is none."""
        for name in ("errors", "client_errors", "overload", "latency"):
            _within(f"the share of {name}", getattr(self, name), 1e-6, 1.0)


class AnalysisSpec(msgspec.Struct, frozen=True):
    """What one rollout's verdict promises: the error probabilities and the metrics that share them."""

    alpha_rollback: float = 0.01
    alpha_promote: float = 0.05
    errors: RateSpec = RateSpec()
    client_errors: RateSpec = RateSpec()
    overload: RateSpec = RateSpec()
    latency: LatencySpec = LatencySpec()
    shares: MetricShares = MetricShares()

    def __post_init__(self) -> None:
        """Raise InvalidValueError for error probabilities that promise nothing."""
        _within("alpha_rollback", self.alpha_rollback, 1e-12, 0.5)
        _within("alpha_promote", self.alpha_promote, 1e-12, 0.5)


class Evidence(msgspec.Struct, frozen=True):
    """All counts of one rollout at one moment: cumulative, merged over workers, one entry per epoch.

    ``at_s`` is monotonic time in seconds of the deciding process.
    """

    at_s: float
    epochs: tuple[EpochCounts, ...]


class Finding(msgspec.Struct, frozen=True):
    """One metric's answer with its numbers.

    ``log_e_bad``: log of the e-process against "not worse"; ``log_e_ok``: against "worse by the margin".
    ``stable_rate``/``canary_rate`` are events per trial (None without trials).
    """

    metric: str
    verdict: Verdict
    reason: str
    decides: bool
    log_e_bad: float
    log_e_ok: float
    stable_events: int
    stable_trials: int
    canary_events: int
    canary_trials: int
    details: dict[str, float] = msgspec.field(default_factory=dict)

    @property
    def stable_rate(self) -> float | None:
        """Stable's share of events, None without trials."""
        return self.stable_events / self.stable_trials if self.stable_trials else None

    @property
    def canary_rate(self) -> float | None:
        """Canary's share of events, None without trials."""
        return self.canary_events / self.canary_trials if self.canary_trials else None


class Analysis(msgspec.Struct, frozen=True):
    """The whole answer at one moment: worst verdict wins, with the metrics named as its cause."""

    verdict: Verdict
    reason: str
    causes: tuple[str, ...]
    findings: tuple[Finding, ...]
    log_e_bad: float
    log_e_bad_needed: float
    log_e_ok_needed: float
    stable_requests: int
    canary_requests: int
