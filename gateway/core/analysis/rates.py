"""Failure classes: how requests become batches, what is guessed about them, and what two e-processes learn.

Rules:

1. Requests of one epoch are pooled into a batch until BOTH arms have answered (see eprocess.py). The first batches
   close at one request of the scarcer arm, later ones at up to `_SCARCE_MAX`, because a batch's realised share of the
   canary is then closer to the true one and less information is lost. Closing looks at counts of requests only,
   never at outcomes. An epoch that is not the newest closes its last batch at one request per arm.
2. Guesses come from stable's past alone, before the batch: (events + 0.5) / (trials + 50), with a past that is halved
   when it grows long, so that yesterday's rate does not speak for today's.
3. E_bad tests "p_c <= p_s". Its alternatives are odds ratios to the stable guess and two absolute rates: a dead canary
   differs from a clean stable by more than any ratio. It may start late (wealth.py, rule 2).
4. E_ok tests "p_c >= max(ratio * p_s, p_s + delta)". Its alternatives lie between that boundary and well below the
   stable rate, in log-odds. It never starts late: to be passed, the whole history must be good enough.
"""

from __future__ import annotations

import math

import msgspec

from gateway.core.analysis import wealth
from gateway.core.analysis.eprocess import (
    NOT_WORSE,
    Batch,
    Rates,
    clip,
    from_log_odds,
    log_gain,
    log_odds,
    worse_by_margin,
)
from gateway.core.analysis.intake import Arrival
from gateway.core.analysis.types import RateSpec
from gateway.core.analysis.wealth import Wealth
from gateway.core.stats.counts import Counts

RATE_METRICS = ("errors", "client_errors", "overload")

ODDS_RATIOS = (1.5, 2.3, 3.5, 6.0, 11.0, 22.0, 50.0, 120.0)
ABSOLUTE_ODDS = (1.0, 30.0)
BAD_PRIORS = (0.09,) * len(ODDS_RATIOS) + (0.1, 0.18)

# 1 is the stable rate itself (when the margin is wider than _GAP_MIN), smaller lies nearer to the boundary.
OK_GAPS = (0.4, 0.7, 1.0, 1.6, 3.0)
OK_PRIORS = (0.15, 0.2, 0.3, 0.2, 0.15)
_GAP_MIN = 0.3

PRIOR_EVENTS = 0.5
PRIOR_TRIALS = 50.0
_PAST_MAX = 20_000.0

_SCARCE_MAX = 4
_BATCHES_PER_SCARCE = 4


class Pending(msgspec.Struct, frozen=True):
    """Requests of one epoch that wait for their batch to close; events in the order of RATE_METRICS."""

    stable: int = 0
    canary: int = 0
    stable_events: tuple[int, ...] = (0,) * len(RATE_METRICS)
    canary_events: tuple[int, ...] = (0,) * len(RATE_METRICS)


class RateState(msgspec.Struct, frozen=True):
    """What is known about one failure class: two e-processes, stable's past, and totals for the report."""

    bad: Wealth
    ok: Wealth
    past_events: float = 0.0
    past_trials: float = 0.0
    stable_events: int = 0
    canary_events: int = 0


class RatesState(msgspec.Struct, frozen=True):
    """All failure classes in the order of RATE_METRICS, their pending batches by epoch, and how many have closed."""

    metrics: tuple[RateState, ...]
    pending: dict[int, Pending]
    batches: int = 0


def fresh() -> RatesState:
    """Nothing seen, one unit of wealth in every test."""
    one = RateState(wealth.fresh(BAD_PRIORS, wealth.HELD_BACK), wealth.fresh(OK_PRIORS))
    return RatesState(tuple(one for _ in RATE_METRICS), {})


def take(state: RatesState, specs: tuple[RateSpec, ...], arrivals: list[Arrival], live: list[int]) -> RatesState:
    """The state after one tick's arrivals. ``live`` are the experiment's epochs still in evidence, ascending."""
    pending = {epoch: part for epoch, part in state.pending.items() if epoch in live}
    for arrival in arrivals:
        pending[arrival.epoch] = _pool(pending.get(arrival.epoch, Pending()), arrival)
    metrics, batches = state.metrics, state.batches
    if arrivals:
        metrics = tuple(_count(metric, i, arrivals) for i, metric in enumerate(metrics))
    for epoch in sorted(pending):
        part = pending[epoch]
        scarce = min(_SCARCE_MAX, 1 + batches // _BATCHES_PER_SCARCE) if epoch == live[-1] else 1
        if min(part.stable, part.canary) < scarce:
            continue
        metrics = tuple(
            bet(metric, spec, Batch(part.stable_events[i], part.stable, part.canary_events[i], part.canary))
            for i, (metric, spec) in enumerate(zip(metrics, specs, strict=True))
        )
        batches += 1
        del pending[epoch]
    return RatesState(metrics, pending, batches)


def bet(state: RateState, spec: RateSpec, batch: Batch) -> RateState:
    """One closed batch: bet on it with guesses from before it, then let stable's past learn it."""
    stable = stable_guess(state)
    worse = worse_by_margin(spec.margin_ratio, spec.margin_delta)
    bad = [log_gain(guess, NOT_WORSE, batch) for guess in bad_guesses(stable)]
    ok = [log_gain(guess, worse, batch) for guess in ok_guesses(stable, spec)]
    events = state.past_events + batch.stable_events
    trials = state.past_trials + batch.stable_trials
    scale = min(1.0, 0.5 * _PAST_MAX / trials) if trials > _PAST_MAX else 1.0
    return msgspec.structs.replace(
        state,
        bad=wealth.grow(state.bad, bad, BAD_PRIORS),
        ok=wealth.grow(state.ok, ok, OK_PRIORS),
        past_events=events * scale,
        past_trials=trials * scale,
    )


def stable_guess(state: RateState) -> float:
    """Stable's rate as guessed from its past, shrunken towards 1 %."""
    return clip((state.past_events + PRIOR_EVENTS) / (state.past_trials + PRIOR_TRIALS))


def bad_guesses(stable: float) -> list[Rates]:
    """Alternatives in which the canary is worse than the stable guess."""
    odds = log_odds(stable)
    guesses = [Rates(stable, from_log_odds(odds + math.log(ratio))) for ratio in ODDS_RATIOS]
    return guesses + [Rates(stable, from_log_odds(math.log(absolute))) for absolute in ABSOLUTE_ODDS]


def ok_guesses(stable: float, spec: RateSpec) -> list[Rates]:
    """Alternatives in which the canary is better than the margin."""
    boundary = clip(max(spec.margin_ratio * stable, stable + spec.margin_delta))
    top = log_odds(boundary)
    gap = max(top - log_odds(stable), _GAP_MIN)
    return [Rates(stable, from_log_odds(top - share * gap)) for share in OK_GAPS]


def _pool(part: Pending, arrival: Arrival) -> Pending:
    return Pending(
        part.stable + arrival.stable.requests,
        part.canary + arrival.canary.requests,
        tuple(a + b for a, b in zip(part.stable_events, _events(arrival.stable), strict=True)),
        tuple(a + b for a, b in zip(part.canary_events, _events(arrival.canary), strict=True)),
    )


def _events(counts: Counts) -> tuple[int, ...]:
    return (counts.errors, counts.client_errors, counts.overload)


def _count(metric: RateState, index: int, arrivals: list[Arrival]) -> RateState:
    return msgspec.structs.replace(
        metric,
        stable_events=metric.stable_events + sum(_events(a.stable)[index] for a in arrivals),
        canary_events=metric.canary_events + sum(_events(a.canary)[index] for a in arrivals),
    )
