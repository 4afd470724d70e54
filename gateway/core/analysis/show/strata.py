"""Rates that can be compared: both versions' counts kept apart by weight, and standardised.

Rules:

1. A stratum is all that was counted under one weight. Within it a coin assigned the requests, so both versions had the
   same traffic, whatever the rates did meanwhile. Between strata they had not: on a ladder the canary has most of its
   requests late and stable most of them early, so shares over the whole rollout compare two times of the day.
2. What is shown as a rate is standardised: the mean of a version's rates over the strata with the same weights
   n_s n_c / (n_s + n_c) for both versions (Mantel and Haenszel, 1959). The difference and the ratio of these are the
   classic stratified ones. With one stratum they are the plain shares.
3. Epochs that leave the evidence are added up by weight (`folded`); those in it are read where they are. Beyond
   `STRATA_MAX` weights, as in a rollout that is set by hand a hundred times, a new one joins the nearest.
4. Where the strata do not add up to what the metric's tests have seen (an event that has come to mean something else
   is counted anew), the metric's own totals are one stratum.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import NamedTuple

import msgspec

from gateway.core.analysis.evidence.intake import Consumed, Intake
from gateway.core.analysis.findings import (
    LatencyClaim,
    LimitClaim,
    MeanClaim,
    MetricFinding,
    Moments,
    Share,
    SplitClaim,
)
from gateway.core.analysis.metrics import means
from gateway.core.analysis.spec import RATE_METRICS
from gateway.core.analysis.state import AnalysisState
from gateway.core.stats.counts import SESSION_EVENTS, Counts, merge

STRATA_MAX = 64


class Stratum(NamedTuple):
    """Both versions' events and trials under one weight."""

    stable: Share
    canary: Share

    @property
    def compared(self) -> bool:
        """Whether there is something to compare: trials of both versions."""
        return self.stable.trials > 0 and self.canary.trials > 0


_NONE = Stratum(Share(), Share())


class Rated(NamedTuple):
    """Both versions' standardised rates (rule 2)."""

    stable: float
    canary: float


def folded(before: dict[int, Consumed], old: Intake, new: Intake) -> dict[int, Consumed]:
    """The counts by weight of the epochs that have left the evidence, with those that left it just now (rule 3)."""
    gone = old.epochs.keys() - new.epochs.keys()
    if not gone:
        return before
    after = dict(before)
    for epoch in sorted(gone):
        left = old.epochs[epoch]
        weight_bp = left.weight_bp
        if weight_bp not in after and len(after) >= STRATA_MAX:
            weight_bp = min(after, key=lambda known: abs(known - left.weight_bp))
        known = after.get(weight_bp)
        parts = [(left.stable, left.canary)] + ([] if known is None else [(known.stable, known.canary)])
        stable, canary = (_shown(merge(arm)) for arm in zip(*parts, strict=True))
        after[weight_bp] = Consumed(weight_bp, stable, canary)
    return after


def _shown(counts: Counts) -> Counts:
    """Without the histograms that nothing is shown of."""
    return msgspec.structs.replace(counts, aborted={}, duration_left={}, gap_left={}, first_token_left={})


def of_metric(state: AnalysisState, numbers: MetricFinding) -> tuple[Stratum, ...]:
    """The metric's trials and events by weight (rule 4); nothing for a metric that compares no rates."""
    if isinstance(numbers.claim, (LatencyClaim, LimitClaim, MeanClaim, SplitClaim)):
        return ()
    strata = tuple(Stratum(*shares) for _, shares in sorted(by_weight(state, numbers.metric).items()))
    return strata if _total(strata) == (numbers.stable, numbers.canary) else (Stratum(numbers.stable, numbers.canary),)


def by_weight(state: AnalysisState, metric: str) -> dict[int, Stratum]:
    """What was counted of a class or an event under each weight."""
    read = _reader(metric, sticky=state.spec.sticky)
    sums: dict[int, Stratum] = {}
    for one in _parts(state):
        (s_events, s_trials), (c_events, c_trials) = read(one.stable), read(one.canary)
        if s_trials or c_trials:
            stable, canary = sums.get(one.weight_bp, _NONE)
            sums[one.weight_bp] = Stratum(
                Share(stable.events + s_events, stable.trials + s_trials),
                Share(canary.events + c_events, canary.trials + c_trials),
            )
    return sums


def of_latency(
    state: AnalysisState, metric: str, claim: LatencyClaim
) -> tuple[tuple[dict[int, int], dict[int, int]], ...]:
    """Both versions' histograms of a latency by weight (rule 4)."""
    by_weight: dict[int, list[tuple[Counts, Counts]]] = {}
    for one in _parts(state):
        by_weight.setdefault(one.weight_bp, []).append((one.stable, one.canary))
    strata = []
    for _, parts in sorted(by_weight.items()):
        stable, canary = (_histogram(arm, metric) for arm in zip(*parts, strict=True))
        if stable or canary:
            strata.append((stable, canary))
    seen = tuple(_added(arm) for arm in zip(*strata, strict=True)) if strata else ({}, {})
    return (
        tuple(strata) if seen == (claim.stable_seen, claim.canary_seen) else ((claim.stable_seen, claim.canary_seen),)
    )


def of_mean(state: AnalysisState, metric: str) -> tuple[tuple[Moments, Moments], ...]:
    """Both versions' values under each weight that has some of both."""
    spec = means.spec_of(state.spec, metric)
    sums: dict[int, tuple[means.Values, means.Values]] = {}
    for one in _parts(state):
        stable, canary = sums.setdefault(one.weight_bp, ({}, {}))
        for into, new in ((stable, means.values(one.stable, spec)), (canary, means.values(one.canary, spec))):
            for y, n in new.items():
                into[y] = into.get(y, 0) + n
    bounds = means.bounds_of(spec)
    return tuple(
        (means.moments(stable, bounds), means.moments(canary, bounds))
        for _, (stable, canary) in sorted(sums.items())
        if stable and canary
    )


def mean_of(strata: Iterable[tuple[Moments, Moments]]) -> Rated | None:
    """The standardised means (rule 2)."""
    weighed = [(mantel_haenszel(s.values, c.values), s.mean, c.mean) for s, c in strata]
    whole = math.fsum(weight for weight, _, _ in weighed)
    if not whole:
        return None
    return Rated(
        math.fsum(weight * stable for weight, stable, _ in weighed) / whole,
        math.fsum(weight * canary for weight, _, canary in weighed) / whole,
    )


def rated(strata: Iterable[Stratum]) -> Rated | None:
    """The standardised rates (rule 2); None where nothing can be compared."""
    compared = [(one, mantel_haenszel(one.stable.trials, one.canary.trials)) for one in strata if one.compared]
    whole = math.fsum(weight for _, weight in compared)
    if not whole:
        return None
    return Rated(
        math.fsum(weight * one.stable.events / one.stable.trials for one, weight in compared) / whole,
        math.fsum(weight * one.canary.events / one.canary.trials for one, weight in compared) / whole,
    )


def mantel_haenszel(stable: float, canary: float) -> float:
    """What a stratum with so many trials of both versions weighs in a comparison."""
    return stable * canary / (stable + canary)


def with_rates(state: AnalysisState, numbers: MetricFinding) -> MetricFinding:
    """The finding with its standardised rates, where they may differ from the plain shares."""
    if isinstance(numbers.claim, MeanClaim):
        mean = mean_of(of_mean(state, numbers.metric))
        return numbers if mean is None else msgspec.structs.replace(numbers, rated=tuple(mean))
    strata = of_metric(state, numbers)
    found = rated(strata) if sum(one.compared for one in strata) > 1 else None
    return numbers if found is None else msgspec.structs.replace(numbers, rated=tuple(found))


def _parts(state: AnalysisState) -> Iterable[Consumed]:
    yield from state.folded.values()
    yield from state.intake.epochs.values()


def _reader(metric: str, *, sticky: bool) -> Callable[[Counts], tuple[int, int]]:
    """What reads the metric's events and trials from counts."""
    if metric in RATE_METRICS and not sticky:
        return lambda counts: (counts.of(metric), counts.requests)
    label = SESSION_EVENTS[metric] if metric in RATE_METRICS else metric
    return lambda counts: (counts.events.get(label, 0), counts.trials.get(label, 0))


def _total(strata: Iterable[Stratum]) -> tuple[Share, Share]:
    stable, canary = Share(), Share()
    for one in strata:
        stable = Share(stable.events + one.stable.events, stable.trials + one.stable.trials)
        canary = Share(canary.events + one.canary.events, canary.trials + one.canary.trials)
    return stable, canary


def _histogram(parts: Iterable[Counts], metric: str) -> dict[int, int]:
    return _added(getattr(counts, metric) for counts in parts)


def _added(histograms: Iterable[dict[int, int]]) -> dict[int, int]:
    out: dict[int, int] = {}
    for histogram in histograms:
        for bucket, n in histogram.items():
            out[bucket] = out.get(bucket, 0) + n
    return out
