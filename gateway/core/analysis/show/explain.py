"""What people want to see beside a verdict: how large the effect is, with intervals, and what is still needed.

Rules:

1. Intervals hold at every moment together with probability 1 - alpha, alpha = `ALPHA` (intervals.py), whatever the
   weights and the rates did, as long as both versions had the same traffic. The details have ``ratio``, ``difference``
   and the versions' standardised rates (strata.py), each with ``_low`` and ``_high``; an open end is left out.
   Latencies have ``stable_p95_us``, ``canary_p95_us`` and ``p95_difference_us`` and the like, each with its ends.
   ``margin_low`` and ``margin_high`` are the differences beyond which a canary would not pass, as the rates look now.
2. What is still needed is computed at the information limit (limit.py) from the rates as they look now: the nats that
   are missing, over the nats that a request brings under the weight in force, less what the guard against bursts takes
   of a proof. It is an average, not a promise.
3. Of failures it is said in what they are counted, and what was known of stable's bad moments (bad_moments.py).
4. Nothing here decides, and a tick does not need it. A rollout that is over, or baking, has no forecast.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec

from gateway.core.analysis.betting.eprocess import Null, Rates, within_tolerance, worse_by_margin
from gateway.core.analysis.findings import (
    LatencyClaim,
    LimitClaim,
    MeanClaim,
    MetricFinding,
    Moments,
    RateClaim,
    SplitClaim,
    Traffic,
)
from gateway.core.analysis.show import bad_moments, intervals, strata
from gateway.core.analysis.show.intervals import Bounds, Histograms
from gateway.core.analysis.show.strata import Stratum
from gateway.core.analysis.sizing.limit import information
from gateway.core.analysis.spec import Worse
from gateway.core.analysis.state import AnalysisState
from gateway.core.analysis.types import Finding, Verdict
from gateway.core.numbers import about, duration

ALPHA = 0.05
QUANTILES = (0.5, 0.95, 0.99)
# Information is a difference of logarithms; less than this has no digits left.
_NATS_MIN = 1e-11
_REQUESTS_MAX = 1e9


def explained(state: AnalysisState, finding: Finding, numbers: MetricFinding, traffic: Traffic | None) -> Finding:
    """The finding with its effect, intervals and, where there is ``traffic`` to forecast from, what is still needed.

    ``numbers`` are the metric's as ``state`` has them.
    """
    details, reason = dict(finding.details), finding.reason
    match numbers.claim:
        case LatencyClaim() as claim:
            details |= _quantiles(strata.of_latency(state, finding.metric, claim))
            details |= _latency_margin(claim, details)
            if traffic is not None:
                reason += _slices_needed(finding, claim, details)
        case MeanClaim():
            details |= _means(strata.of_mean(state, finding.metric))
        case LimitClaim():
            seen = intervals.rate_interval(finding.canary_events, finding.canary_trials, ALPHA)
            details |= _ends("canary_rate", finding.canary_rate, seen)
        case SplitClaim():
            pass
        case claim:
            believed = claim.believed if isinstance(claim, RateClaim) else 1.0
            details |= _effect(finding, strata.of_metric(state, numbers), believed)
            if isinstance(claim, RateClaim):
                details |= _margins(finding, claim)
            if isinstance(claim, RateClaim) and claim.per_request and traffic is not None:
                reason += _need(finding, numbers, claim, traffic, details)
    if numbers.weather is not None:
        details |= bad_moments.numbers(numbers.weather)
        if finding.verdict is Verdict.UNDECIDED and finding.canary_events:
            reason += f"; {bad_moments.judged(numbers.weather, numbers.burst_s, numbers.excused_s)}"
    return msgspec.structs.replace(finding, reason=reason, details=details)


def _ends(name: str, value: float | None, interval: Bounds) -> dict[str, float]:
    ends = {} if value is None else {name: value}
    for end, bound in (("low", interval.low), ("high", interval.high)):
        if math.isfinite(bound):
            ends[f"{name}_{end}"] = bound
    return ends


def _effect(finding: Finding, seen: tuple[Stratum, ...], believed: float) -> dict[str, float]:
    found = intervals.effect(seen, ALPHA, believed)
    stable, canary = strata.rated(seen) or (finding.stable_rate, finding.canary_rate)
    difference = canary - stable if stable is not None and canary is not None else None
    ratio = canary / stable if stable and canary is not None else None
    return {
        **_ends("stable_rate", stable, found.stable),
        **_ends("canary_rate", canary, found.canary),
        **_ends("difference", difference, found.difference),
        **_ends("ratio", ratio, found.ratio),
    }


def _means(seen: Sequence[tuple[Moments, Moments]]) -> dict[str, float]:
    found, mean = intervals.mean_effect(seen, ALPHA), strata.mean_of(seen)
    if found is None or mean is None:
        return {}
    return {
        **_ends("stable_mean", mean.stable, found.stable),
        **_ends("canary_mean", mean.canary, found.canary),
        **_ends("mean_difference", mean.canary - mean.stable, found.difference),
    }


def _quantiles(seen: Sequence[Histograms]) -> dict[str, float]:
    out: dict[str, float] = {}
    stable, canary = intervals.standardised(seen)
    for q in QUANTILES:
        s, c = intervals.quantile_us(stable, q), intervals.quantile_us(canary, q)
        name = f"p{100 * q:g}"
        for arm, value, histogram in (("stable", s, stable), ("canary", c, canary)):
            found = intervals.quantile_interval(histogram, q, ALPHA / 2.0)
            if found is not None:
                out |= _ends(f"{arm}_{name}_us", value, found)
        both = intervals.quantile_effect(seen, q, ALPHA)
        if both is not None and s is not None and c is not None:
            out |= _ends(f"{name}_difference_us", c - s, both.difference)
    return out


def _latency_margin(claim: LatencyClaim, seen: dict[str, float]) -> dict[str, float]:
    """Of the 95th percentiles' difference."""
    stable = seen.get("stable_p95_us")
    return {} if stable is None else {"margin_high": (claim.margin_ratio - 1.0) * stable + claim.margin_us}


def _margins(finding: Finding, claim: RateClaim) -> dict[str, float]:
    s = finding.stable_rate
    if s is None:
        return {}
    found = {}
    if claim.worse is not Worse.LOWER:
        found["margin_high"] = max((claim.margin_ratio - 1.0) * s, claim.margin_delta)
    if claim.worse is not Worse.HIGHER:
        found["margin_low"] = -max(s - s / claim.margin_ratio, claim.margin_delta)
    return found


# --- what is still needed ---


def _need(
    finding: Finding, numbers: MetricFinding, claim: RateClaim, traffic: Traffic, details: dict[str, float]
) -> str:
    """The sentence about proof that is still missing, and its numbers among the details."""
    if finding.verdict is not Verdict.UNDECIDED or not finding.stable_trials or not finding.canary_trials:
        return ""
    weight, truth = traffic.weight, likely(finding)
    ok, bad = claim.believed * _nats_to_pass(claim, truth, weight), _nats_to_fail(claim, truth, weight)
    prove = _canary_requests(finding.log_e_ok, numbers.needed.ok, ok, weight)
    convict = _canary_requests(finding.log_e_bad, numbers.needed.bad, bad, weight)
    trials, what = min((prove, "be proven"), (convict, "be convicted"))
    if trials > _REQUESTS_MAX:
        return "; too close to the margin to be decided at this effect"
    details["canary_needed"] = float(math.ceil(trials))
    said = f"; about {about(trials)} canary {numbers.units} more at this effect to {what}"
    if traffic.canary_per_s <= 0.0:
        return said
    details["needed_s"] = trials / (traffic.canary_per_s * finding.canary_trials / traffic.canary_requests)
    return f"{said}: {duration(details['needed_s'])} at this weight"


def likely(finding: Finding) -> Rates:
    """The rates as they look now; one more trial at the common rate keeps one that has shown no event off zero."""
    stable, canary = finding.stable_trials, finding.canary_trials
    stable_events, canary_events = (finding.stable_rate or 0.0) * stable, (finding.canary_rate or 0.0) * canary
    common = (stable_events + canary_events + 0.5) / (stable + canary + 1.0)
    return Rates((stable_events + common) / (stable + 1.0), (canary_events + common) / (canary + 1.0))


def _canary_requests(log_e: float, needed: float, nats: float, weight: float) -> float:
    return weight * max(needed - log_e, 0.0) / nats if nats > _NATS_MIN else math.inf


def _nats_to_pass(claim: RateClaim, truth: Rates, weight: float) -> float:
    null = worse_by_margin(claim.margin_ratio, claim.margin_delta)
    return min(_nats(truth, (null,), weight, mirrored=mirrored) for mirrored in _directions(claim.worse))


def _nats_to_fail(claim: RateClaim, truth: Rates, weight: float) -> float:
    nulls = within_tolerance(claim.tolerance_ratio, claim.tolerance_delta)
    return max(_nats(truth, nulls, weight, mirrored=mirrored) for mirrored in _directions(claim.worse))


def _directions(worse: Worse) -> tuple[bool, ...]:
    return {Worse.HIGHER: (False,), Worse.LOWER: (True,), Worse.DIFFERENT: (False, True)}[worse]


def _nats(truth: Rates, nulls: tuple[Null, ...], weight: float, *, mirrored: bool) -> float:
    if mirrored:
        truth, weight = Rates(truth.canary, truth.stable), 1.0 - weight
    return min(information(truth, null, weight) for null in nulls)


def _slices_needed(finding: Finding, claim: LatencyClaim, details: dict[str, float]) -> str:
    """At the pace so far: slices are bets of a bounded size, so their number gives the time."""
    ok, needed = finding.log_e_ok, finding.details["log_e_ok_needed"]
    if finding.verdict is not Verdict.UNDECIDED or not claim.slices or ok <= 0.0:
        return ""
    more = math.ceil(claim.slices * (needed / ok - 1.0))
    details["needed_s"] = more * claim.slice_s
    return f"; about {about(more)} more slices at this pace: {duration(more * claim.slice_s)} or longer"
