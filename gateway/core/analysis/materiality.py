"""Differences that are proven and do not matter: two machines of the same version are never quite alike.

With enough requests a test proves any difference, also that one machine fails 1.0 % and another 1.1 %. So a failure
class convicts only if, besides the proof, what was seen matters: the canary's rate is more than `RATIO` times stable's,
or more than `DELTA` above it. Rules:

1. This only ever holds evidence back (E counts as 1 at most), so every promise about false alarms stands as it is.
2. What was seen is counted from where the evidence began: since E was least. A canary that was healthy for an hour and
   then fails twice as often is judged by what came since, not by an hour of health. Rates are standardised (strata.py).
3. It is an estimate, not a proof: that a difference does not matter is not shown with an error probability. Where that
   is wanted, or another limit, a class has a ``tolerance_ratio`` or ``tolerance_delta``: then beyond it is what must be
   proven (more requests: docs/judging.md), and this rule is off for the class.
4. By the time that a difference is proven it is known well enough: what it costs larger effects is measured by
   loadtests/statistics/material.py.
"""

from __future__ import annotations

import functools

import msgspec

from gateway.core.analysis.betting.eprocess import Rates
from gateway.core.analysis.findings import Share
from gateway.core.analysis.metrics.kind import Measure
from gateway.core.analysis.metrics.outcomes import OUTCOMES
from gateway.core.analysis.show.strata import Stratum, by_weight, rated
from gateway.core.analysis.spec import RATE_METRICS, AnalysisSpec
from gateway.core.analysis.state import AnalysisState, Since
from gateway.core.stats.outcomes import FAILURES

RATIO = 1.3
DELTA = 0.005
# E is at its least, give or take what it moves in one look.
_NEAR = 0.7
_BEGINNING = Since()


@functools.lru_cache(maxsize=64)
def classes(spec: AnalysisSpec) -> frozenset[str]:
    """The failure classes that have no tolerance of their own (rule 3)."""
    return frozenset(
        name
        for name, rate in zip(RATE_METRICS, spec.rates, strict=True)
        if name in FAILURES and rate.tolerance_ratio == 1.0 and rate.tolerance_delta == 0.0
    )


def taken(state: AnalysisState) -> AnalysisState:
    """The state after a look, with where each class's evidence begins (rule 2)."""
    seen = {name for one in state.intake.epochs.values() for name in one.canary.outcomes}
    since = state.since
    for metric in sorted(seen & classes(state.spec)):
        log_e, before = OUTCOMES.log_e_bad(state, metric), since.get(metric, _BEGINNING)
        if log_e <= before.log_e + _NEAR:
            counts = {weight_bp: (*one.stable, *one.canary) for weight_bp, one in by_weight(state, metric).items()}
            since = {**since, metric: Since(min(log_e, before.log_e), counts)}
    return state if since is state.since else msgspec.structs.replace(state, since=since)


def baked(state: AnalysisState) -> dict[str, Since]:
    """Where the evidence of a bake begins: with new tests, and what had been counted before."""
    return {
        metric: Since(0.0, {bp: (*one.stable, *one.canary) for bp, one in by_weight(state, metric).items()})
        for metric in classes(state.spec)
    }


def too_small(spec: AnalysisSpec, metric: str, rates: Rates) -> bool:
    """Whether a difference of these rates does not matter."""
    return metric in classes(spec) and rates.canary <= RATIO * rates.stable and rates.canary <= rates.stable + DELTA


def holds_back(state: AnalysisState, metric: str) -> bool:
    """Whether there is evidence against the class that is not counted."""
    return metric in classes(state.spec) and OUTCOMES.log_e_bad(state, metric) > 0.0 and immaterial(state, metric)


def held_back(state: AnalysisState, metric: str, measure: Measure) -> Measure:
    """What a metric says, less what does not matter (rule 1)."""
    if measure.log_e_bad <= 0.0 or not immaterial(state, metric):
        return measure
    return measure._replace(log_e_bad=0.0)


def immaterial(state: AnalysisState, metric: str) -> bool:
    """Whether what was seen of the class since its evidence began does not matter."""
    if metric not in classes(state.spec):
        return False
    since, strata = state.since.get(metric, _BEGINNING), []
    for weight_bp, one in by_weight(state, metric).items():
        before = since.counts.get(weight_bp, (0, 0, 0, 0))
        parts = [now - then for now, then in zip((*one.stable, *one.canary), before, strict=True)]
        if min(parts) < 0:
            # Strata were put together (strata.py, rule 3): nothing is known of the time since then.
            return False
        strata.append(Stratum(Share(parts[0], parts[1]), Share(parts[2], parts[3])))
    seen = rated(strata)
    return seen is not None and too_small(state.spec, metric, Rates(*seen))
