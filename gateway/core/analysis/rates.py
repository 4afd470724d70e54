"""Failure classes: how requests become batches, what is guessed about them, and what two e-processes learn.

Rules:

1. Requests of one epoch are pooled into a batch until BOTH arms have answered (see eprocess.py). A batch loses
   information because its realised share of the canary is not the true one, the more the smaller it is (at one canary
   request, 0.58 nats of a dead canary's failure); a large one answers late. So a batch closes as soon as it COULD
   convict: if all its canary requests had failed and no stable one. Before that, closing it could change nothing but
   what it loses. `SCARCE_MAX` requests of the scarcer arm close it in any case. That looks at sizes, and at outcomes of
   EARLIER batches only, so the batch is an e-variable given everything before it. An epoch that is not the newest
   closes its last batch at one request per arm.
2. Guesses come from stable's past alone, before the batch: (events + 0.3) / (trials + 70), with a past that is halved
   when it grows long, so that yesterday's rate does not speak for today's. A low guess at the start harms little: with
   rare events only the ratio of the guesses matters, and the canary's guess moves along.
3. E_bad tests "p_c <= p_s". Its alternatives are odds ratios to the stable guess, spaced so that the logarithm of one
   is 1.3 to 2 times the one before: at the moment of conviction the evidence tells no closer ones apart, and each
   further guess only thins the prior. The largest stands for a dead canary: with rare events a failure is worth
   log(1 / w) for every ratio far above 1 / w, so absolute rates beside the ratios earned nothing. Large effects have
   more of the prior because they are decided by few failures, each a large step. It may start late (wealth.py, rule 2).
4. E_ok tests "p_c >= max(ratio * p_s, p_s + delta)". Its alternatives lie between that boundary and well below the
   stable rate, in log-odds. It never starts late: to be passed, the whole history must be good enough.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

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

ODDS_RATIOS = (1.6, 2.5, 4.5, 9.0, 20.0, 50.0, 300.0)
BAD_PRIORS = (0.14, 0.13, 0.13, 0.15, 0.17, 0.2, 0.08)

# 1 is the stable rate itself (when the margin is wider than _GAP_MIN), smaller lies nearer to the boundary.
OK_GAPS = (0.4, 0.7, 1.0, 1.6, 3.0)
OK_PRIORS = (0.15, 0.2, 0.3, 0.2, 0.15)
_GAP_MIN = 0.3

PRIOR_EVENTS = 0.3
PRIOR_TRIALS = 70.0
PAST_MAX = 20_000.0

SCARCE_MAX = 8


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


def take(
    state: RatesState,
    specs: tuple[RateSpec, ...],
    arrivals: list[Arrival],
    live: list[int],
    needed: Sequence[float],
) -> RatesState:
    """The state after one tick's arrivals.

    ``live`` are the experiment's epochs still in evidence, ascending; ``needed`` the log E_bad at which each metric
    convicts by itself.
    """
    pending = {epoch: part for epoch, part in state.pending.items() if epoch in live}
    for arrival in arrivals:
        pending[arrival.epoch] = _pool(pending.get(arrival.epoch, Pending()), arrival)
    metrics, batches = state.metrics, state.batches
    if arrivals:
        metrics = tuple(_count(metric, i, arrivals) for i, metric in enumerate(metrics))
    for epoch in sorted(pending):
        part = pending[epoch]
        if not _due(metrics, part, epoch == live[-1], needed):
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
    ok = [log_gain(guess, worse, batch) for guess in ok_guesses(stable, spec)]
    events = state.past_events + batch.stable_events
    trials = state.past_trials + batch.stable_trials
    scale = min(1.0, 0.5 * PAST_MAX / trials) if trials > PAST_MAX else 1.0
    return msgspec.structs.replace(
        state,
        bad=_bad_after(state, batch),
        ok=wealth.grow(state.ok, ok, OK_PRIORS),
        past_events=events * scale,
        past_trials=trials * scale,
    )


def could_convict(state: RateState, stable: int, canary: int, needed: float) -> bool:
    """Whether a batch of this size would reach log E_bad ``needed`` with the worst canary there can be."""
    return wealth.log_e(_bad_after(state, Batch(0, stable, canary, canary))) >= needed


def stable_guess(state: RateState) -> float:
    """Stable's rate as guessed from its past, shrunken towards 1 %."""
    return clip((state.past_events + PRIOR_EVENTS) / (state.past_trials + PRIOR_TRIALS))


def bad_guesses(stable: float) -> list[Rates]:
    """Alternatives in which the canary is worse than the stable guess."""
    odds = log_odds(stable)
    return [Rates(stable, from_log_odds(odds + math.log(ratio))) for ratio in ODDS_RATIOS]


def ok_guesses(stable: float, spec: RateSpec) -> list[Rates]:
    """Alternatives in which the canary is better than the margin."""
    boundary = clip(max(spec.margin_ratio * stable, stable + spec.margin_delta))
    top = log_odds(boundary)
    gap = max(top - log_odds(stable), _GAP_MIN)
    return [Rates(stable, from_log_odds(top - share * gap)) for share in OK_GAPS]


def _bad_after(state: RateState, batch: Batch) -> Wealth:
    gains = [log_gain(guess, NOT_WORSE, batch) for guess in bad_guesses(stable_guess(state))]
    return wealth.grow(state.bad, gains, BAD_PRIORS)


def _due(metrics: tuple[RateState, ...], part: Pending, newest: bool, needed: Sequence[float]) -> bool:
    """Whether a batch closes now (rule 1)."""
    scarce = min(part.stable, part.canary)
    if not scarce or not newest or scarce >= SCARCE_MAX:
        return scarce > 0
    return any(could_convict(m, part.stable, part.canary, need) for m, need in zip(metrics, needed, strict=True))


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
