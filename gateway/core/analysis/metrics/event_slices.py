"""Labelled events with the slice of time as unit: whatever happens together inside a slice is one observation.

The sibling of time_slices.py for plain events. A slice has the shares C (canary) and S (stable) of trials with the
event; only the means of what follows are assumed, so events may come in bursts.

Rules:

1. Against "worse than max(r p_s, p_s + d)" (E_ok) both C - r S and C - S - d have means >= 0, and every bet against
   either is fair: half of the wealth bets on each. Factors are 1 + lambda (r S - C), lambda < 1, and
   1 + lambda (d + S - C), lambda < 1 / (1 - d).
2. "At most max(r p_s, p_s + d)" (E_bad) is a union: C - r S has a mean <= 0, or C - S - d has. A slice's factor is the
   lesser of 1 + lambda (C - r S), lambda < 1 / r, and 1 + lambda (C - S - d), lambda < 1 / (1 + d).
3. Directions, averages and minima are those of rates.py, rule 5. Slices close on time, at the first tick past
   ``slice_s`` at which some epoch has trials of both arms; epochs are compared apart and averaged with weights
   n_c n_s / (n_c + n_s), as in time_slices.py.
"""

from __future__ import annotations

import math

import msgspec

from gateway.core.analysis.betting import wealth
from gateway.core.analysis.betting.wealth import Wealth
from gateway.core.analysis.evidence.intake import Arrival
from gateway.core.analysis.evidence.trials import PooledTrials, labelled, pooled
from gateway.core.analysis.metrics.rates import PairSpec, directions_of
from gateway.core.analysis.spec import EventSpec, RateSpec

LAMBDAS = (0.1, 0.3, 0.6, 0.9, 0.99)
BAD_PRIORS = (0.1, 0.15, 0.2, 0.2, 0.35)
_OK_SHARES = (0.2, 0.5, 0.95)
# The first half bets on the ratio, the second on the difference.
OK_PRIORS = (0.125, 0.125, 0.25, 0.125, 0.125, 0.25)


class DirectionState(msgspec.Struct, frozen=True):
    """Two e-processes of one direction."""

    bad: Wealth
    ok: Wealth


class EventSlicesState(msgspec.Struct, frozen=True):
    """One event's tests, its open slice by epoch and when that opened, and totals for the report."""

    tests: tuple[DirectionState, ...]
    since_s: float = 0.0
    parts: dict[int, PooledTrials] = msgspec.field(default_factory=dict)
    slices: int = 0
    stable: int = 0
    canary: int = 0
    stable_events: int = 0
    canary_events: int = 0


def fresh(spec: EventSpec) -> EventSlicesState:
    """Nothing seen, one unit of wealth in every test."""
    one = DirectionState(wealth.fresh(BAD_PRIORS, wealth.HELD_BACK), wealth.fresh(OK_PRIORS))
    return EventSlicesState(tuple(one for _ in directions_of(spec)))


def baked(state: EventSlicesState, horizon: int) -> EventSlicesState:
    """The state at promotion: the tests begin anew as CUSUMs."""
    one = DirectionState(wealth.watch(BAD_PRIORS, horizon), wealth.fresh(OK_PRIORS))
    return msgspec.structs.replace(state, tests=tuple(one for _ in state.tests), parts={}, slices=0)


def log_e_bad(state: EventSlicesState) -> float:
    """log of E against "not worse": the average over directions."""
    return wealth.mean_logs([wealth.log_e(test.bad) for test in state.tests])


def log_e_ok(state: EventSlicesState) -> float:
    """log of E against "worse by the margin": the least of the directions."""
    return min(wealth.log_e(test.ok) for test in state.tests)


def take(
    state: EventSlicesState, spec: EventSpec, arrivals: list[Arrival], live: list[int], at_s: float
) -> EventSlicesState:
    """The state after one tick's arrivals. ``live`` are the experiment's epochs still in evidence."""
    parts = {epoch: part for epoch, part in state.parts.items() if epoch in live}
    since_s = min(state.since_s, at_s) if parts else at_s
    new = {arrival.epoch: labelled(arrival, spec.name) for arrival in arrivals}
    for epoch, part in new.items():
        if part.stable or part.canary:
            parts[epoch] = pooled(parts[epoch], part) if epoch in parts else part
    state = EventSlicesState(
        state.tests,
        since_s,
        parts,
        state.slices,
        state.stable + sum(part.stable for part in new.values()),
        state.canary + sum(part.canary for part in new.values()),
        state.stable_events + sum(part.stable_events[0] for part in new.values()),
        state.canary_events + sum(part.canary_events[0] for part in new.values()),
    )
    whole = [part for part in parts.values() if part.stable and part.canary]
    if at_s - since_s < spec.slice_s or not whole:
        return state
    tests = tuple(_bet(one, test, whole) for one, test in zip(state.tests, directions_of(spec), strict=True))
    return msgspec.structs.replace(state, tests=tests, parts={}, since_s=at_s, slices=state.slices + 1)


def bad_gains(spec: RateSpec, stable: float, canary: float) -> list[float]:
    """log factors of E_bad, one for each lambda, for a slice with these shares (rule 2)."""
    ratio, delta = spec.tolerance_ratio, spec.tolerance_delta
    by_ratio, by_delta = (canary - ratio * stable) / ratio, (canary - stable - delta) / (1.0 + delta)
    worst = by_delta if ratio == 1.0 else by_ratio if delta == 0.0 else min(by_ratio, by_delta)
    return [math.log1p(share * worst) for share in LAMBDAS]


def ok_gains(spec: RateSpec, stable: float, canary: float) -> list[float]:
    """log factors of E_ok, in the order of OK_PRIORS, for a slice with these shares (rule 1)."""
    ratio, delta = spec.margin_ratio, spec.margin_delta
    by_ratio, by_delta = ratio * stable - canary, (delta + stable - canary) / (1.0 - delta)
    return [math.log1p(share * by) for by in (by_ratio, by_delta) for share in _OK_SHARES]


def _bet(state: DirectionState, test: PairSpec, parts: list[PooledTrials]) -> DirectionState:
    stable, canary = _shares(parts)
    if test.mirrored:
        stable, canary = canary, stable
    return DirectionState(
        wealth.grow(state.bad, bad_gains(test.spec, stable, canary), BAD_PRIORS),
        wealth.grow(state.ok, ok_gains(test.spec, stable, canary), OK_PRIORS),
    )


def _shares(parts: list[PooledTrials]) -> tuple[float, float]:
    """Each arm's share of events: the mean over epochs, with the same weights for both arms."""
    weights = [part.stable * part.canary / (part.stable + part.canary) for part in parts]
    whole = math.fsum(weights)
    stable = math.fsum(w * part.stable_events[0] / part.stable for w, part in zip(weights, parts, strict=True)) / whole
    canary = math.fsum(w * part.canary_events[0] / part.canary for w, part in zip(weights, parts, strict=True)) / whole
    return min(stable, 1.0), min(canary, 1.0)
