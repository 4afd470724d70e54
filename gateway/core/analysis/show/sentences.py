"""Findings in sentences: what was seen, what it weighs, what it would need.

Rules:

1. Every reason carries both versions' numbers, and what there is evidence of: E itself, not its logarithm, and the E
   that is needed.
2. Nothing here decides, and nothing is computed but words: a sentence is made of `MetricFinding` alone.
3. What is claimed has its words here, one function for each of findings.py's claims; a metric that makes none of them
   is written by `_plain`.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence

from gateway.core.analysis.findings import (
    LatencyClaim,
    LimitClaim,
    MeanClaim,
    MetricFinding,
    MissingClaim,
    RateClaim,
    ReturningClaim,
    SplitClaim,
    Warming,
)
from gateway.core.analysis.show import bad_moments
from gateway.core.analysis.spec import Worse
from gateway.core.analysis.types import Finding, Verdict
from gateway.core.numbers import counted, e_value, milliseconds, percent, points, share
from gateway.core.stats.histogram import quantile_us, total
from gateway.core.types import Unjudged

# A sentence that names more metrics than this names the first few.
_NAMES_MAX, _NAMES_SAID = 6, 4

# What is needed stays the same from look to look.
_known = functools.lru_cache(maxsize=256)(e_value)


def finding_of(numbers: MetricFinding) -> Finding:
    """The finding as people read it, and as the API and the journal have it."""
    needed = {"log_e_bad_needed": numbers.needed.bad}
    if isinstance(numbers.claim, (RateClaim, MeanClaim, LatencyClaim)) or numbers.claim is None:
        needed["log_e_ok_needed"] = numbers.needed.ok
    return Finding(
        metric=numbers.metric,
        verdict=numbers.verdict,
        reason=reason(numbers),
        decides=numbers.decides,
        log_e_bad=numbers.log_e_bad,
        log_e_ok=numbers.log_e_ok,
        stable_events=numbers.stable.events,
        stable_trials=numbers.stable.trials,
        canary_events=numbers.canary.events,
        canary_trials=numbers.canary.trials,
        details={**needed, **_rates(numbers), **numbers.details},
    )


def _rates(numbers: MetricFinding) -> dict[str, float]:
    of = "mean" if isinstance(numbers.claim, MeanClaim) else "rate"
    return {} if numbers.rated is None else dict(zip((f"stable_{of}", f"canary_{of}"), numbers.rated, strict=True))


def reason(numbers: MetricFinding) -> str:
    """Why a metric's finding is what it is."""
    if numbers.unjudged:
        return f"{numbers.metric} cannot be judged: {numbers.unjudged}"
    match numbers.claim:
        case RateClaim() as claim:
            return _rate(numbers, claim)
        case MeanClaim() as claim:
            return _mean(numbers, claim)
        case LatencyClaim() as claim:
            return _latency(numbers, claim)
        case LimitClaim() as claim:
            return _limit(numbers, claim)
        case SplitClaim() as claim:
            return _split(numbers, claim)
        case ReturningClaim():
            return _returning(numbers)
        case MissingClaim() as claim:
            return _missing_outcomes(numbers, claim)
        case None:
            return _plain(numbers)


# --- the verdict ---

NOTHING_DECIDES = "no metric decides: all of them are set to advise or off"
ONLY_LIMITS = "only guardrails decide: they can roll back, but a promotion needs a metric that compares with stable"


def blame(guilty: Sequence[MetricFinding]) -> str:
    """Why a canary is rolled back: worse than stable, or beyond an absolute limit."""
    worse = "; ".join(reason(one) for one in guilty if not isinstance(one.claim, LimitClaim))
    beyond = "; ".join(reason(one) for one in guilty if isinstance(one.claim, LimitClaim))
    parts = (f"worse than stable: {worse}" if worse else "", f"beyond its limit: {beyond}" if beyond else "")
    return "; ".join(part for part in parts if part)


def nothing_yet(outside: int) -> str:
    """Why there is no verdict at all; ``outside`` canary requests were no part of the experiment."""
    if not outside:
        return "no canary request of the experiment has been answered yet"
    return (
        f"nothing to compare with stable yet: {outside:,} canary requests were answered, all of them forced or at a"
        " weight of 0 or 100 %"
    )


def proven(names: Sequence[str], canary_requests: int) -> str:
    """Why a canary passes."""
    return f"proven within the margin with {canary_requests} canary requests: {some(names)}"


def unproven(names: Sequence[str], why: str) -> str:
    """Why a canary does not pass yet."""
    return f"not proven yet: {some(names)}; {why}"


def watched(names: Sequence[str]) -> str:
    """What a bake says while there is no regression."""
    return f"no regression since promotion; watched: {some(names)}"


def unjudged(silent: Mapping[str, Unjudged]) -> str:
    """Which metrics cannot be judged and why, each reason once; empty without metrics."""
    reasons: dict[str, list[str]] = {}
    for name, one in silent.items():
        reasons.setdefault(one.reason, []).append(name)
    return "; ".join(f"{some(names)} cannot be judged: {why}" for why, names in reasons.items())


def some(names: Sequence[str]) -> str:
    """Names in a sentence, the first few of many: the findings name them all.

    >>> some(["errors", "overload"]), some([f"class_{n}" for n in range(9)])
    ('errors, overload', 'class_0, class_1, class_2, class_3 and 5 more')
    """
    if len(names) <= _NAMES_MAX:
        return ", ".join(names)
    return f"{', '.join(names[:_NAMES_SAID])} and {len(names) - _NAMES_SAID} more"


# --- what is claimed, in words ---


def _plain(numbers: MetricFinding) -> str:
    return _compared(numbers, _both(numbers), ("worse", "within its margin"))


def _rate(numbers: MetricFinding, claim: RateClaim) -> str:
    return _compared(numbers, _both(numbers), (_worse(claim), _good_enough(claim)))


def _mean(numbers: MetricFinding, claim: MeanClaim) -> str:
    stable, canary = numbers.stable.trials, numbers.canary.trials
    of_stable, of_canary = counted(stable, "value"), counted(canary, "value")
    seen = f"canary {numbers.metric}, {of_canary} against stable's {of_stable}"
    if numbers.rated is not None:
        mean_s, mean_c = (f"{mean:.4g}" for mean in numbers.rated)
        seen = f"canary {numbers.metric} {mean_c} on average ({of_canary}) against stable {mean_s} ({of_stable})"
    return _compared(numbers, seen, (_worse_mean(claim), _good_mean(claim)))


def _worse_mean(claim: MeanClaim) -> str:
    """What convicts, in words.

    >>> _worse_mean(MeanClaim(Worse.HIGHER, 1.05, 0.0, 1.2, 0.5, (0.0, 10.0)))
    'higher by more than 1.05 x'
    """
    direction = {Worse.HIGHER: "higher", Worse.LOWER: "lower", Worse.DIFFERENT: "different"}[claim.worse]
    parts = [f"{claim.tolerance_ratio:g} x"] if claim.tolerance_ratio > 1.0 else []
    parts += [f"{claim.tolerance_delta:g}"] if claim.tolerance_delta > 0.0 else []
    return f"{direction} by more than {' or '.join(parts)}" if parts else direction


def _good_mean(claim: MeanClaim) -> str:
    """What passes, in words.

    >>> _good_mean(MeanClaim(Worse.LOWER, 1.0, 0.0, 1.2, 0.5, (0.0, 10.0)))
    'at least stable / 1.2 or stable - 0.5'
    """
    by, ratio = f"{claim.margin_delta:g}", f"{claim.margin_ratio:g}"
    by_ratio = claim.margin_ratio > 1.0
    if claim.worse is Worse.HIGHER:
        return f"at most {f'{ratio} x stable or ' * by_ratio}stable + {by}"
    if claim.worse is Worse.LOWER:
        return f"at least {f'stable / {ratio} or ' * by_ratio}stable - {by}"
    return f"within {f'{ratio} x or ' * by_ratio}{by} of stable"


def _latency(numbers: MetricFinding, claim: LatencyClaim) -> str:
    if claim.slices:
        tolerance, edge, margin = _thresholds(claim)
        seen = (
            f"canary {numbers.metric} beyond {tolerance} in {share(*numbers.canary)} requests against stable"
            f" beyond {edge} in {share(*numbers.stable)}, {claim.slices} slices{_left_text(claim)}"
        )
        said = _compared(numbers, seen, ("slower", margin))
    else:
        said = _waiting(numbers.metric, claim)
    if claim.minor_below is not None:
        least = percent(claim.minor_below)
        said += f"; does not hold up promotion while less than {least} of either version's requests have one"
    return said


def _limit(numbers: MetricFinding, claim: LimitClaim) -> str:
    slow = "" if claim.threshold_us is None else f" beyond {milliseconds(claim.threshold_us)}"
    at_most = f"{100 * claim.limit:g} %"
    seen = f"canary {claim.of}{slow} {share(*numbers.canary)} against a limit of {at_most}"
    if not numbers.canary.trials:
        return f"{seen}: no canary trials yet"
    return f"{seen}; evidence that it is beyond the limit: {_evidence_text(numbers.log_e_bad, numbers.needed.bad)}"


def _split(numbers: MetricFinding, claim: SplitClaim) -> str:
    broken = numbers.verdict is Verdict.ERROR
    says = (
        "traffic is not split by the configured weight, so nothing can be judged"
        if broken
        else "traffic is split by the configured weight"
    )
    return (
        f"{says}: canary was assigned {share(*numbers.canary)} of requests, expected"
        f" {percent(claim.expected)}; evidence of a wrong split:"
        f" {_evidence_text(numbers.log_e_bad, numbers.needed.bad)}"
    )


def _returning(numbers: MetricFinding) -> str:
    seen = (
        f"canary sessions that were well and failed when they came back {share(*numbers.canary)} against stable"
        f" {share(*numbers.stable)}"
    )
    if numbers.verdict is Verdict.NODATA:
        return f"{seen}: no {_missing(numbers)} yet"
    return f"{seen}; evidence that it is worse: {_evidence_text(numbers.log_e_bad, numbers.needed.bad)}"


def _missing_outcomes(numbers: MetricFinding, claim: MissingClaim) -> str:
    seen = (
        f"{numbers.canary.events:,} of {numbers.canary.trials:,} canary requests have no outcome yet (open or lost),"
        f" {numbers.stable.events:,} of {numbers.stable.trials:,} of stable's"
    )
    more = f"{claim.beyond:,.0f} more than stable's share"
    if claim.held:
        return (
            f"{seen}: {claim.recent:,.0f} more than stable's share have gone missing among the last"
            f" {claim.recent_assigned:,}, about {claim.window_s:g} s; if they fail, that is beyond the margin of"
            f" {points(claim.margin)}"
        )
    if numbers.log_e_ok < numbers.needed.ok:
        good = _evidence_text(numbers.log_e_ok, numbers.needed.ok)
        return f"{seen}: {more}; evidence that the canary is good enough if these fail: {good}"
    return f"{seen}: {more}, too few to hold a promotion"


@functools.lru_cache(maxsize=256)
def _worse(claim: RateClaim) -> str:
    """What convicts, in words.

    >>> _worse(RateClaim(Worse.HIGHER, 1.0, 0.0, 1.5, 0.01)), _worse(RateClaim(Worse.LOWER, 1.2, 0.01, 1.5, 0.01))
    ('worse', 'lower by more than 1.2 x or 1 point')
    """
    direction = {Worse.HIGHER: "worse", Worse.LOWER: "lower", Worse.DIFFERENT: "different"}[claim.worse]
    parts = []
    if claim.tolerance_ratio > 1.0:
        parts.append(f"{claim.tolerance_ratio:g} x")
    if claim.tolerance_delta > 0.0:
        parts.append(points(claim.tolerance_delta))
    return f"{direction} by more than {' or '.join(parts)}" if parts else direction


@functools.lru_cache(maxsize=256)
def _good_enough(claim: RateClaim) -> str:
    """What passes, in words.

    >>> _good_enough(RateClaim(Worse.HIGHER, 1.0, 0.0, 1.5, 0.01))
    'within 1.5 x stable or stable + 1 point'
    >>> _good_enough(RateClaim(Worse.DIFFERENT, 1.0, 0.0, 1.0, 0.2))
    'within 20 points of stable'
    """
    by, ratio = points(claim.margin_delta), f"{claim.margin_ratio:g}"
    by_ratio = claim.margin_ratio > 1.0
    if claim.worse is Worse.HIGHER:
        return f"within {f'{ratio} x stable or ' * by_ratio}stable + {by}"
    if claim.worse is Worse.LOWER:
        return f"within {f'stable / {ratio} or ' * by_ratio}stable - {by}"
    return f"within {f'{ratio} x or ' * by_ratio}{by} of stable"


def _thresholds(claim: LatencyClaim) -> tuple[str, str, str]:
    """What the canary may not exceed, what stable is compared at, and what is good enough, of one threshold."""
    if claim.slo_us is not None:
        return milliseconds(claim.slo_us), "it", f"within {points(claim.margin_delta)} of stable's share"
    name = f"p{100 * (claim.quantile or 0.0):g}"
    tolerance = f"{claim.tolerance_ratio:g} x stable's {name} + {milliseconds(claim.tolerance_us)}"
    return tolerance, f"its {name}", f"within {claim.margin_ratio:g} x stable + {milliseconds(claim.margin_us)}"


def _left_text(claim: LatencyClaim) -> str:
    """How many of the requests were not seen to their end."""
    if not claim.stable_left and not claim.canary_left:
        return ""
    return f" (clients left before its end: {claim.canary_left} on canary, {claim.stable_left} on stable)"


def _waiting(name: str, claim: LatencyClaim) -> str:
    """Why no slice has closed yet."""
    if claim.warming is not None:
        return _warming(name, claim, claim.warming)
    canary = total(claim.canary_seen) + claim.canary_left
    if canary and not claim.past:
        return f"{name}: {canary} canary requests have one, stable requests have none: there is nothing to compare"
    if claim.past < claim.past_needed:
        return f"{name}: {claim.past} of the {claim.past_needed} stable requests needed to set its thresholds"
    return f"{name}: the first slice of {claim.slice_s:g} s stays open until both versions have answered in it"


def _warming(name: str, claim: LatencyClaim, warming: Warming) -> str:
    """How far the warm-up has come, and what is shown of it."""
    medians = [quantile_us(seen, 0.5) for seen in (claim.canary_seen, claim.stable_seen)]
    seen = ""
    if medians[0] is not None and medians[1] is not None:
        seen = f" (median {milliseconds(medians[0])} against stable's {milliseconds(medians[1])} so far, not counted)"
    falls = ", and until it stops falling" if warming.falling else ""
    return (
        f"{name}: the canary warms up{seen}: {warming.lasted_s:.0f} of {warming.needed_s:g} s and"
        f" {warming.requests:,} of {warming.requests_needed:,} answers{falls}; at most {warming.most_s:g} s"
    )


# --- the sentence ---


def _both(numbers: MetricFinding) -> str:
    """What was seen of both versions. Percentages of counts under several weights would compare different times."""
    if numbers.rated is None:
        return f"canary {numbers.metric} {share(*numbers.canary)} against stable {share(*numbers.stable)}"
    (stable_events, stable), (canary_events, canary) = numbers.stable, numbers.canary
    stable_rate, canary_rate = (percent(rate) for rate in numbers.rated)
    return (
        f"canary {numbers.metric} {canary_events} of {canary} against stable {stable_events} of {stable}"
        f" (compared within each weight: {canary_rate} against {stable_rate})"
    )


def _compared(numbers: MetricFinding, seen: str, claims: tuple[str, str]) -> str:
    """What was seen, and the evidence of both claims; the first is what the verdict rests on."""
    needed = numbers.needed
    worse = f"it is {claims[0]}: {_evidence_text(numbers.log_e_bad, needed.bad)}"
    good = f"it is {claims[1]}: {_evidence_text(numbers.log_e_ok, needed.ok)}"
    if numbers.verdict is Verdict.FAIL:
        moments = f"; {bad_moments.known(numbers.weather)}" if numbers.weather is not None else ""
        return f"{seen}; evidence that {worse}{moments}"
    if numbers.verdict is Verdict.NODATA:
        return f"{seen}: no {_missing(numbers)} yet"
    if numbers.immaterial:
        worse = "a difference that is too small to matter is not counted against it"
        return f"{seen}; evidence that {good}; {worse}"
    if numbers.verdict is Verdict.PASS:
        return f"{seen}; evidence that {good}; that {worse}"
    return f"{seen}; evidence that {worse}; that {good}"


def _evidence_text(log_e: float, needed: float) -> str:
    """Evidence beside what is needed.

    >>> _evidence_text(5.87, 5.3)
    '354 (needs 200)'
    """
    return f"{e_value(log_e)} (needs {_known(needed)})"


def _missing(numbers: MetricFinding) -> str:
    """What there is none of: both versions' units, or those of the one that is missing."""
    units, stable, canary = numbers.units, numbers.stable.trials, numbers.canary.trials
    if bool(stable) == bool(canary):
        return units if stable else f"{units} of either version"
    return f"{'canary' if stable else 'stable'} {units}"
