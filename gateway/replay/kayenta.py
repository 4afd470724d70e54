"""The rule of Kayenta's default judge (NetflixACAJudge), on recorded traffic.

The rule, from Spinnaker's documentation (spinnaker.io: "How canary judgment works", "Best practices for configuring
canary") and the judge's published constants:

1. A metric is a series of points for each arm, one for each ``step_s``: the error rate, and the p99 latency if it was
   recorded. Points without data are removed; a metric without points is no data, and no part of the score.
2. The canary's points are compared with stable's by a Mann-Whitney test at ``confidence`` 0.98. A metric is High when
   the lower confidence limit of the shift exceeds ``tolerance`` 0.25 of the shift's own estimate, and the mean has
   grown by ``allowed_increase`` at least (1: any growth). Equal series pass; two constant series differ by any
   difference (the judge adds a noise of 1e-5 to them).
3. The score is the share of metrics (groups of equal weight) that are not High, from 0 to 100.
4. A run is judged every ``interval_s`` on all points since the beginning (no lookback). A run that does not score above
   ``score_marginal`` fails the canary. The last run, at ``lifetime_s``, must score ``score_pass`` to promote it.
5. "At least 50 pieces of time series data per metric": a run with fewer points than ``points_min`` is not judged; were
   it the last one, nothing was decided.

The defaults are the documentation's: 3 hours with a run each hour, scores 75 and 95, points of one minute.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from gateway.core.stats.counts import Counts
from gateway.core.stats.histogram import quantile_us
from gateway.core.stats.outcomes import ERRORS
from gateway.replay.intervals import DecisionKind, RecordedInterval, RuleDecision, windows
from gateway.replay.mann_whitney import shift
from gateway.replay.parameters import Confidence, Count, Factor, Positive

# Points of one arm: what a run compares is every pair of them.
_POINTS_MAX = 2_000


class KayentaParams(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The judge's constants, and the canary stage's settings."""

    confidence: Confidence = 0.98
    tolerance: Factor = 0.25
    allowed_increase: Factor = 1.0
    step_s: Positive = 60.0
    interval_s: Positive = 3_600.0
    lifetime_s: Positive = 10_800.0
    score_marginal: Factor = 75.0
    score_pass: Factor = 95.0
    points_min: Count = 50


class Series:
    """One metric's points: ``control`` is stable, ``experiment`` the canary."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.control: list[float] = []
        self.experiment: list[float] = []

    def add(self, stable: float | None, canary: float | None) -> None:
        """One point of each arm; None has no data. Only the newest points are kept, however many there are."""
        for points, value in ((self.control, stable), (self.experiment, canary)):
            if value is not None:
                points.append(value)
                del points[:-_POINTS_MAX]

    @property
    def points(self) -> int:
        """How many points a run can compare."""
        return min(len(self.control), len(self.experiment))

    def points_text(self) -> str:
        """The same in words, with the version that lacks points."""
        if bool(self.control) == bool(self.experiment):
            return f"{self.points} points"
        return f"{len(self.control)} points of stable and {len(self.experiment)} of the canary"


def decide(intervals: Iterable[RecordedInterval], params: KayentaParams) -> RuleDecision:
    """What the canary stage decides, and at which run. Reads no further than that."""
    errors, latency = Series("errors"), Series("latency p99")
    began_s, due, finding = None, 1, "no run was due"
    for window in windows(intervals, params.step_s):
        began_s = window.since_s if began_s is None else began_s
        errors.add(_error_rate(window.stable), _error_rate(window.canary))
        latency.add(quantile_us(window.stable.latency, 0.99), quantile_us(window.canary.latency, 0.99))
        passed_s = window.at_s - began_s + 1e-6 * params.step_s
        last = passed_s >= params.lifetime_s
        if passed_s < due * params.interval_s and not last:
            continue
        due = int(passed_s / params.interval_s) + 1
        if errors.points < params.points_min:
            finding = f"the last run had {errors.points_text()}, {params.points_min} are required"
            if last:
                break
            continue
        score, finding = judgement([errors, latency], params)
        if score <= params.score_marginal:
            return RuleDecision(DecisionKind.ROLLBACK, window.at_s, f"{finding}: not above {params.score_marginal:g}")
        if last:
            kind = DecisionKind.PROMOTE if score >= params.score_pass else DecisionKind.ROLLBACK
            how = "at least" if kind is DecisionKind.PROMOTE else "below"
            return RuleDecision(kind, window.at_s, f"{finding} in the last run: {how} {params.score_pass:g}")
    undecided = f"{finding}; {errors.points_text()}, a run every {params.interval_s:g} s"
    return RuleDecision(DecisionKind.UNDECIDED, None, undecided)


def judgement(metrics: list[Series], params: KayentaParams) -> tuple[float, str]:
    """The score of a run, and its sentence."""
    judged = [metric for metric in metrics if metric.control and metric.experiment]
    high = [metric.name for metric in judged if is_high(metric, params)]
    score = 100.0 * (len(judged) - len(high)) / len(judged) if judged else 100.0
    points = metrics[0].points
    found = f"{', '.join(high)} High" if high else f"{', '.join(metric.name for metric in judged)} Pass"
    return score, f"score {score:g} on {points} points ({found})"


def is_high(metric: Series, params: KayentaParams) -> bool:
    """Whether the canary's points are classified as High against stable's."""
    control, experiment = metric.control, metric.experiment
    if sorted(control) == sorted(experiment):
        return False
    mean_control, mean_experiment = sum(control) / len(control), sum(experiment) / len(experiment)
    grown = 1.0 if mean_control == 0.0 else mean_experiment / mean_control
    if grown < params.allowed_increase:
        return False
    if len(set(control)) == 1 and len(set(experiment)) == 1:
        return experiment[0] > control[0]
    found = shift(experiment, control, params.confidence)
    return found.low > params.tolerance * abs(found.estimate)


def _error_rate(counts: Counts) -> float | None:
    return counts.of(ERRORS) / counts.requests if counts.requests else None
