"""What people want to see beside a verdict: how large the effect is, with intervals, and what is still needed.

Rules:

1. Intervals hold at every moment together with probability 1 - alpha, alpha = `ALPHA` (intervals.py). The details have
   ``ratio``, ``difference`` and the arms' rates, each with ``_low`` and ``_high``; an open end is left out. Latencies
   have ``stable_p95_us`` and the like, each with its ends.
2. What is still needed is computed at the information limit (limit.py) from the rates as they look now: the nats that
   are missing, over the nats that a request brings under the weight in force, less what the guard against bursts takes
   of a proof. It is an average, not a promise.
3. Nothing here decides, and a tick does not need it. A rollout that is over, or baking, has no forecast.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import msgspec

from gateway.core.analysis.betting.eprocess import Null, Rates, within_tolerance, worse_by_margin
from gateway.core.analysis.bursts import guard
from gateway.core.analysis.metrics import rates
from gateway.core.analysis.metrics.time_slices import LatencyState
from gateway.core.analysis.show import intervals
from gateway.core.analysis.show.intervals import Interval
from gateway.core.analysis.sizing.limit import information
from gateway.core.analysis.spec import RATE_METRICS, EventSpec, LatencySpec, RateSpec, Unit, Worse
from gateway.core.analysis.types import Finding, Verdict
from gateway.core.numbers import about, duration
from gateway.core.stats.histogram import quantile_us
from gateway.core.types import WEIGHT_BP_MAX

if TYPE_CHECKING:
    from gateway.core.analysis.judge import AnalysisState

ALPHA = 0.05
QUANTILES = (0.5, 0.95, 0.99)
# Information is a difference of logarithms; less than this has no digits left.
_NATS_MIN = 1e-11
_REQUESTS_MAX = 1e9


def explained(state: AnalysisState, finding: Finding, *, forecast: bool = True) -> Finding:
    """The finding with its effect, intervals and, with ``forecast``, need."""
    forecast = forecast and not state.baking
    details = dict(finding.details)
    reason = finding.reason
    if finding.metric in state.latencies:
        details |= _quantiles(state.latencies[finding.metric])
        if forecast:
            reason += _slices_needed(getattr(state.spec, finding.metric), finding)
    elif finding.guardrail:
        seen = intervals.rate_interval(finding.canary_events, finding.canary_trials, ALPHA)
        details |= _ends("canary_rate", finding.canary_rate, seen)
    elif finding.metric != "sample_ratio":
        details |= _effect(finding)
        if finding.verdict is Verdict.UNDECIDED and forecast:
            reason += _need(state, finding, details)
    return msgspec.structs.replace(finding, reason=reason, details=details)


def _ends(name: str, value: float | None, interval: Interval) -> dict[str, float]:
    ends = {} if value is None else {name: value}
    for end, bound in (("low", interval.low), ("high", interval.high)):
        if math.isfinite(bound):
            ends[f"{name}_{end}"] = bound
    return ends


def _effect(finding: Finding) -> dict[str, float]:
    s, c = finding.stable_rate, finding.canary_rate
    found = intervals.effect(
        (finding.stable_events, finding.stable_trials), (finding.canary_events, finding.canary_trials), ALPHA
    )
    difference = c - s if s is not None and c is not None else None
    ratio = c / s if s and c is not None else None
    return {
        **_ends("stable_rate", s, found.stable),
        **_ends("canary_rate", c, found.canary),
        **_ends("difference", difference, found.difference),
        **_ends("ratio", ratio, found.ratio),
    }


def _quantiles(state: LatencyState) -> dict[str, float]:
    out: dict[str, float] = {}
    for arm, seen in (("stable", state.stable_seen), ("canary", state.canary_seen)):
        for q in QUANTILES:
            found = intervals.quantile_interval(seen, q, ALPHA / 2.0)
            if found is not None:
                out |= _ends(f"{arm}_p{100 * q:g}_us", quantile_us(seen, q), found)
    return out


# --- what is still needed ---


def _need(state: AnalysisState, finding: Finding, details: dict[str, float]) -> str:
    """The sentence about proof that is still missing, and its numbers among the details."""
    entry = state.intake.epochs.get(state.pace.epoch)
    rate = _rate_spec(state, finding.metric)
    if rate is None or entry is None or not finding.stable_trials or not finding.canary_trials:
        return ""
    weight = entry.weight_bp / WEIGHT_BP_MAX
    truth = likely(finding)
    spec, worse = rate
    ok = _believed(state, finding.metric) * _nats_to_pass(spec, worse, truth, weight)
    bad = _nats_to_fail(spec, worse, truth, weight)
    prove = _canary_requests(finding.log_e_ok, details["log_e_ok_needed"], ok, weight)
    convict = _canary_requests(finding.log_e_bad, details["log_e_bad_needed"], bad, weight)
    trials, what = min((prove, "be proven"), (convict, "be convicted"))
    if trials > _REQUESTS_MAX:
        return "; too close to the margin to be decided at this effect"
    details["canary_needed"] = float(math.ceil(trials))
    unit = "trials" if finding.metric not in RATE_METRICS else "sessions" if state.spec.sticky else "requests"
    said = f"; about {about(trials)} canary {unit} more at this effect to {what}"
    pace = _per_second(state, finding)
    if pace <= 0.0:
        return said
    details["needed_s"] = trials / pace
    return f"{said}: {duration(trials / pace)} at this weight"


def _believed(state: AnalysisState, metric: str) -> float:
    """How much of a nat of E_ok counts where failures clump (guard.py)."""
    if metric not in RATE_METRICS:
        return 1.0
    return guard.guarded_ok(1.0, rates.of_class(state.rates, metric)[0].bursts)


def likely(finding: Finding) -> Rates:
    """The rates as they look now; one more trial at the common rate keeps one that has shown no event off zero."""
    trials = finding.stable_trials + finding.canary_trials
    common = (finding.stable_events + finding.canary_events + 0.5) / (trials + 1.0)
    return Rates(
        (finding.stable_events + common) / (finding.stable_trials + 1.0),
        (finding.canary_events + common) / (finding.canary_trials + 1.0),
    )


def _canary_requests(log_e: float, needed: float, nats: float, weight: float) -> float:
    return weight * max(needed - log_e, 0.0) / nats if nats > _NATS_MIN else math.inf


def _nats_to_pass(spec: RateSpec, worse: Worse, truth: Rates, weight: float) -> float:
    null = worse_by_margin(spec.margin_ratio, spec.margin_delta)
    return min(_nats(truth, (null,), weight, mirrored=mirrored) for mirrored in _directions(worse))


def _nats_to_fail(spec: RateSpec, worse: Worse, truth: Rates, weight: float) -> float:
    nulls = within_tolerance(spec.tolerance_ratio, spec.tolerance_delta)
    return max(_nats(truth, nulls, weight, mirrored=mirrored) for mirrored in _directions(worse))


def _directions(worse: Worse) -> tuple[bool, ...]:
    return {Worse.HIGHER: (False,), Worse.LOWER: (True,), Worse.DIFFERENT: (False, True)}[worse]


def _nats(truth: Rates, nulls: tuple[Null, ...], weight: float, *, mirrored: bool) -> float:
    if mirrored:
        truth, weight = Rates(truth.canary, truth.stable), 1.0 - weight
    return min(information(truth, null, weight) for null in nulls)


def _rate_spec(state: AnalysisState, metric: str) -> tuple[RateSpec, Worse] | None:
    """How a rate is judged by request; None for what is judged by slice."""
    if metric in RATE_METRICS:
        directions = len(rates.tests_of(metric))
        return getattr(state.spec, metric), Worse.HIGHER if directions == 1 else Worse.DIFFERENT
    event: EventSpec | None = next((one for one in state.spec.events if one.name == metric), None)
    return None if event is None or event.unit is Unit.SLICE else (event.rate, event.worse)


def _per_second(state: AnalysisState, finding: Finding) -> float:
    """The canary's trials per second under the weight in force."""
    pace = state.pace
    if pace.at_s <= pace.since_s or not state.canary_requests:
        return 0.0
    requests = (state.canary_requests - pace.canary_before) / (pace.at_s - pace.since_s)
    return requests * finding.canary_trials / state.canary_requests


def _slices_needed(spec: LatencySpec, finding: Finding) -> str:
    """At the pace so far: slices are bets of a bounded size, so their number tells the time."""
    slices, ok, needed = finding.details["slices"], finding.log_e_ok, finding.details["log_e_ok_needed"]
    if finding.verdict is not Verdict.UNDECIDED or not slices or ok <= 0.0:
        return ""
    more = math.ceil(slices * (needed / ok - 1.0))
    return f"; about {about(more)} slices more at this pace: {duration(more * spec.slice_s)} or longer"
