"""Yes/no rates with the request as unit: how requests become batches, what is guessed, what two e-processes learn.

Outcome classes (all of the same requests) and labelled events (each of its own trials) come here alike.

Rules:

1. Requests of one epoch are pooled into a batch until BOTH arms have answered (see eprocess.py). A batch loses
   information because its realised share of the canary is not the true one, the more the smaller it is (at one canary
   request, 0.58 nats of a dead canary's failure); a large one answers late. So a batch closes as soon as it COULD
   convict: if all its canary requests had failed and no stable one. Before that, closing it could change nothing but
   what it loses. `SCARCE_MAX` requests of the scarcer arm close it in any case. That looks at sizes, and at outcomes of
   EARLIER batches only, so the batch is an e-variable given everything before it. What an epoch that is not the newest
   still brings is bet on at once, under the share that the canary has of all of the epoch's requests (eprocess.py, 6):
   a failure that comes when the weight has risen is worth what it would have been in time, with or without a request
   of stable's beside it. Given a batch's totals (rule 9) requests of one arm say nothing: sessions wait for both.
2. Guesses come from stable's past alone, before the batch: (events + 0.3) / (trials + 70), of a labelled event
   (events + 0.5) / (trials + 2), with a past that is halved when it grows long, so that yesterday's rate does not
   speak for today's. A low guess at the start harms little where events are rare: then only the ratio of the guesses
   matters, and the canary's guess moves along. A labelled event may have any rate, and a guess from nothing, held
   against hundreds of stable trials at a small weight, would lose hundreds of nats of E_ok. So its first batch, when
   `FIRST_STABLE` stable trials come before the canary's `SCARCE_MAX`, closes at once, and is learnt without a bet.
3. E_bad tests "p_c <= max(ratio * p_s, p_s + delta)" with the tolerances, by default "p_c <= p_s". Its alternatives
   are odds ratios to the stable guess (moved to the edge of the tolerance), spaced so that the logarithm of one
   is 1.3 to 2 times the one before: at the moment of conviction the evidence does not distinguish closer ones, and each
   further guess only thins the prior. The largest stands for a dead canary: with rare events a failure is worth
   log(1 / w) for every ratio far above 1 / w, so absolute rates beside the ratios earned nothing. Large effects have
   more of the prior because they are decided by few failures, each a large step. It may start late (wealth.py, rule 2).
4. E_ok tests "p_c >= max(ratio * p_s, p_s + delta)". Its alternatives lie between that boundary and well below the
   stable rate, in log-odds. It never starts late: to be passed, the whole history must be good enough.
5. Where FEWER events are worse the same tests see the arms exchanged ("p_s <= max(ratio * p_c, p_c + delta)"); the
   guesses still start from stable's past. A two-sided metric has both tests: E_bad is their average (each is
   valid under the smaller common null), E_ok the lesser (both must be proven). Of a success class (trials.py) each
   direction is a test of its own events.
6. In a bake (wealth.py, rule 3) batches close at most once in ``every_s``: that bounds the number of bets.
7. Failures of one arm that come together count as one incident (guard.py): what is believed of E_bad is `log_bad`,
   of E_ok `log_ok`. Labelled events are not guarded so: where they come in bursts, their unit is the slice
   (event_slices.py). Nor are successes, which no pause or restart brings about. Where stable's past is known, it says
   what of E_bad is believed (trimmed.py) in the guard's place; E_ok has the guard's discount all the same.
8. Tests in the same state that see the same batch are asked once: classes that never occur are all alike and cost what
   one of them costs.
9. On a sticky route the unit is the session (proxy/units.py): its trials and events come as labels, and E_bad is
   conditional on each batch's totals (hypergeometric.py), the odds ratios being the guesses. A tolerance is no odds
   ratio: with one, E_bad is that of rule 3, of sessions.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import msgspec

from gateway.core.analysis.betting import hypergeometric, wealth
from gateway.core.analysis.betting.eprocess import (
    Pair,
    TrialBatch,
    clip,
    log_gains,
    log_gains_beyond,
    log_odds,
    rates_at,
    within_tolerance,
    worse_by_margin,
)
from gateway.core.analysis.betting.wealth import Wealth
from gateway.core.analysis.bursts import guard, trimmed
from gateway.core.analysis.bursts.guard import BurstState, Tolerance
from gateway.core.analysis.bursts.trimmed import Trimmed
from gateway.core.analysis.evidence.trials import CLASS_TESTS, PooledTrials, pooled, summed
from gateway.core.analysis.findings import MetricFinding, RateClaim, Share
from gateway.core.analysis.metrics.kind import Standing
from gateway.core.analysis.spec import EventSpec, Mode, RateSpec, Worse

ODDS_RATIOS = (1.55, 2.4, 4.3, 9.0, 20.0, 55.0, 300.0)
BAD_PRIORS = (0.165, 0.135, 0.125, 0.14, 0.165, 0.195, 0.075)
_LOG_ODDS_RATIOS = tuple(math.log(ratio) for ratio in ODDS_RATIOS)

# 1 is the stable rate itself (when the margin is wider than _GAP_MIN), smaller lies nearer to the boundary.
OK_GAPS = (0.4, 0.7, 1.0, 1.6, 3.0)
OK_PRIORS = (0.15, 0.2, 0.3, 0.2, 0.15)
_GAP_MIN = 0.3

PAST_MAX = 20_000.0

SCARCE_MAX = 8
FIRST_STABLE = 20

_DEFAULT = RateSpec()


class PairSpec(NamedTuple):
    """One pair of e-processes: tolerances and margins, which of a batch's events, and how they are tested.

    ``mirrored``: arms are exchanged (rule 5); ``conditional``: given the batch's totals (rule 9).
    """

    spec: RateSpec
    event: int = 0
    mirrored: bool = False
    conditional: bool = False


class Prior(msgspec.Struct, frozen=True):
    """What is taken to have been seen of stable before anything was: so many events in so many trials."""

    events: float
    trials: float


# Failures are rare. A labelled event may have any rate: a guess of 0.4 % for a class that half of the answers have
# would lose tens of nats before stable's past corrects it, and two trials' worth of prior costs rare events nothing.
FAILURES_PRIOR = Prior(guard.PRIOR_EVENTS, guard.PRIOR_TRIALS)
LABELLED_PRIOR = Prior(0.5, 2.0)


class RateState(msgspec.Struct, frozen=True):
    """What is known about one rate: two e-processes, stable's past, and totals for the report."""

    bad: Wealth
    ok: Wealth
    past_events: float = 0.0
    past_trials: float = 0.0
    stable_events: int = 0
    canary_events: int = 0
    bursts: BurstState = BurstState()
    prior: Prior = FAILURES_PRIOR
    # None where stable's past is not known: then the guard says what is believed.
    trimmed: Trimmed | None = None


class RatesState(msgspec.Struct, frozen=True):
    """Tests of the same trials, their pending batches by epoch, how many have closed and when, and the trials seen."""

    metrics: tuple[RateState, ...]
    pending: dict[int, PooledTrials]
    batches: int = 0
    closed_s: float = 0.0
    stable: int = 0
    canary: int = 0
    # Trials of both arms by epoch, those that wait included: the shares of late ones (rule 1).
    by_epoch: dict[int, tuple[int, int]] = {}


def fresh(tests: int = len(CLASS_TESTS), prior: Prior = FAILURES_PRIOR) -> RatesState:
    """Nothing seen, one unit of wealth in every test."""
    one = _fresh_test(prior)
    return RatesState(tuple(one for _ in range(tests)), {})


@functools.lru_cache(maxsize=16)
def _fresh_test(prior: Prior) -> RateState:
    """A test that has seen nothing: one object for all of them, so that twins are found by their identity."""
    return RateState(wealth.fresh(BAD_PRIORS, wealth.HELD_BACK), wealth.fresh(OK_PRIORS), prior=prior)


def with_new_events(state: RatesState) -> RatesState:
    """The state when an event has come to mean something else: nothing is proven of it and nothing seen.

    What speaks against the canary stays: another beginning at full wealth would be another chance of a false alarm.
    """
    metrics = tuple(RateState(m.bad, wealth.fresh(OK_PRIORS), bursts=m.bursts, prior=m.prior) for m in state.metrics)
    return RatesState(metrics, {}, state.batches, state.closed_s)


def baked(state: RatesState, horizon: int) -> RatesState:
    """The state at promotion: what was learnt about stable stays, the tests begin anew as CUSUMs."""
    metrics = tuple(
        msgspec.structs.replace(
            m,
            bad=wealth.watch(BAD_PRIORS, horizon),
            ok=wealth.fresh(OK_PRIORS),
            trimmed=None if m.trimmed is None else trimmed.baked(m.trimmed, BAD_PRIORS, horizon),
        )
        for m in state.metrics
    )
    return msgspec.structs.replace(state, metrics=metrics, pending={})


@functools.lru_cache(maxsize=256)
def directions_of(spec: EventSpec) -> tuple[PairSpec, ...]:
    """A labelled event's tests: one for each direction that is worse."""
    directions = {Worse.HIGHER: (False,), Worse.LOWER: (True,), Worse.DIFFERENT: (False, True)}[spec.worse]
    return tuple(PairSpec(spec.rate, 0, mirrored) for mirrored in directions)


@functools.lru_cache(maxsize=256)
def tolerance_of(spec: RateSpec) -> Tolerance:
    """The metric's input to the burst guard."""
    return Tolerance(spec.tolerance_ratio, spec.tolerance_delta)


def advance(
    state: RatesState,
    tests: Sequence[PairSpec],
    parts: Mapping[int, PooledTrials],
    live: list[int],
    needed: Sequence[float],
    at_s: float,
    every_s: float,
) -> RatesState:
    """The state after one look's new trials, ``parts`` by epoch.

    ``needed`` is by test the log E_bad at which its metric convicts by itself; ``live`` are the experiment's epochs
    still in evidence, ascending; ``every_s`` is the least time between two bets of a bake (0: not baking).
    """
    pending = {epoch: part for epoch, part in state.pending.items() if epoch in live}
    by_epoch = {epoch: seen for epoch, seen in state.by_epoch.items() if epoch in live}
    metrics, batches, stable, canary = state.metrics, state.batches, state.stable, state.canary
    for epoch, part in parts.items():
        if part.stable or part.canary:
            pending[epoch] = pooled(pending[epoch], part) if epoch in pending else part
            stable, canary = stable + part.stable, canary + part.canary
            before = by_epoch.get(epoch, (0, 0))
            by_epoch[epoch] = before[0] + part.stable, before[1] + part.canary
    if parts:
        metrics = _count(metrics, tests, summed(parts))
    # A clock that went backwards (a restart) makes the wait no longer than it would be from now.
    closed_s = min(state.closed_s, at_s)
    if every_s and at_s - closed_s < every_s:
        return RatesState(metrics, pending, batches, closed_s, stable, canary, by_epoch)
    for epoch in sorted(pending):
        part, late = pending[epoch], epoch != live[-1]
        if late and not any(test.conditional for test in tests):
            seen = by_epoch[epoch]
            if not min(seen):
                continue
            part = msgspec.structs.replace(part, share=seen[1] / sum(seen))
        elif not _due(metrics, tests, part, not late, needed):
            continue
        metrics = _bet_on(metrics, tests, part)
        batches, closed_s = batches + 1, at_s
        del pending[epoch]
    return RatesState(metrics, pending, batches, closed_s, stable, canary, by_epoch)


def bet(
    state: RateState, spec: RateSpec, batch: TrialBatch, mirrored: bool = False, conditional: bool = False
) -> RateState:
    """One closed batch: bet on it with guesses from before it, then let stable's past learn it."""
    events = state.past_events + batch.stable_events
    trials = state.past_trials + batch.stable_trials
    scale = min(1.0, 0.5 * PAST_MAX / trials) if trials > PAST_MAX else 1.0
    if _learns(state, batch.stable_trials, batch.canary_trials):
        return msgspec.structs.replace(state, past_events=events * scale, past_trials=trials * scale)
    worse = worse_by_margin(spec.margin_ratio, spec.margin_delta)
    seen = _exchanged(batch) if mirrored else batch
    ok = log_gains(ok_guesses(stable_guess(state), spec, mirrored), worse, seen)
    bad = bad_gains(state, spec, batch, mirrored, conditional)
    return RateState(
        wealth.grow(state.bad, bad, BAD_PRIORS),
        wealth.grow(state.ok, ok, OK_PRIORS),
        events * scale,
        trials * scale,
        state.stable_events,
        state.canary_events,
        state.bursts,
        state.prior,
        None if state.trimmed is None else trimmed.gain(state.trimmed, bad),
    )


def _learns(state: RateState, stable: int, canary: int) -> bool:
    """Whether a batch of this size teaches a labelled event's rate, and no more (rule 2)."""
    first = state.past_trials == 0.0 and state.prior == LABELLED_PRIOR
    return first and canary > 0 and stable >= FIRST_STABLE


def _bet_on(metrics: tuple[RateState, ...], tests: Sequence[PairSpec], part: PooledTrials) -> tuple[RateState, ...]:
    """Every test's state after this batch; twins stay twins, as classes without an event do (rule 8)."""
    if len(metrics) == 1:
        (state,), (test,) = metrics, tests
        if test.spec.mode is Mode.OFF:
            return metrics
        return (bet(state, test.spec, part.batch(test.event), test.mirrored, test.conditional),)
    after: list[RateState] = []
    # Each state by its identity first: twins are one object, but for those that were read from a snapshot.
    known: dict[tuple[int, PairSpec, TrialBatch], RateState] = {}
    asked: list[tuple[RateState, PairSpec, TrialBatch, RateState]] = []
    for state, (spec, event, mirrored, conditional) in zip(metrics, tests, strict=True):
        if spec.mode is Mode.OFF:
            after.append(state)
            continue
        test, batch = PairSpec(spec, 0, mirrored, conditional), part.batch(event)
        key = id(state), test, batch
        answer = known.get(key)
        if answer is None:
            twins = (known_state for s, t, b, known_state in asked if b == batch and t == test and s == state)
            answer = known[key] = next(twins, None) or bet(state, spec, batch, mirrored, conditional)
            asked.append((state, test, batch, answer))
        after.append(answer)
    return tuple(after)


def could_convict(
    state: RateState,
    stable: int,
    canary: int,
    needed: float,
    spec: RateSpec = _DEFAULT,
    mirrored: bool = False,
    conditional: bool = False,
) -> bool:
    """Whether a batch of this size would reach log E_bad ``needed`` with the worst canary there can be."""
    worst = TrialBatch(stable, stable, 0, canary) if mirrored else TrialBatch(0, stable, canary, canary)
    return (
        wealth.log_e(wealth.grow(state.bad, bad_gains(state, spec, worst, mirrored, conditional), BAD_PRIORS)) >= needed
    )


def stable_guess(state: RateState) -> float:
    """Stable's rate as guessed from its past, shrunken towards the prior's."""
    return clip((state.past_events + state.prior.events) / (state.past_trials + state.prior.trials))


def bad_guesses(stable: float, spec: RateSpec = _DEFAULT, mirrored: bool = False) -> list[Pair]:
    """Alternatives in which the canary is worse than the tolerance; mirrored ones as (canary, stable)."""
    ratio, delta = spec.tolerance_ratio, spec.tolerance_delta
    if mirrored:
        odds = log_odds(clip(min(stable / ratio, stable - delta)))
        return [(canary, stable) for canary in rates_at([odds - by for by in _LOG_ODDS_RATIOS])]
    odds = log_odds(clip(max(ratio * stable, stable + delta)))
    return [(stable, canary) for canary in rates_at([odds + by for by in _LOG_ODDS_RATIOS])]


def ok_guesses(stable: float, spec: RateSpec, mirrored: bool = False) -> list[Pair]:
    """Alternatives in which the canary is better than the margin; mirrored ones as (canary, stable)."""
    ratio, delta = spec.margin_ratio, spec.margin_delta
    if mirrored:
        edge = log_odds(clip(min(stable / ratio, stable - delta)))
        gap = max(log_odds(stable) - edge, _GAP_MIN)
        return [(canary, stable) for canary in rates_at([edge + share * gap for share in OK_GAPS])]
    edge = log_odds(clip(max(ratio * stable, stable + delta)))
    gap = max(edge - log_odds(stable), _GAP_MIN)
    return [(stable, canary) for canary in rates_at([edge - share * gap for share in OK_GAPS])]


def log_e_bad(tests: Sequence[RateState]) -> float:
    """log of E of one metric against "not worse" in any direction that counts: the average over its tests."""
    return wealth.mean_logs([log_bad(test) for test in tests])


def log_bad(state: RateState) -> float:
    """log E of one test against "not worse", as far as it is believed (rule 7)."""
    if state.trimmed is not None and not trimmed.sparse(state.trimmed):
        return trimmed.log_e(state.trimmed, BAD_PRIORS)
    return guard.guarded(wealth.log_e(state.bad), state.bursts)


def measured(tests: Sequence[RateState], known: dict[int, tuple[float, float]]) -> tuple[float, float]:
    """`log_e_bad` and `log_e_ok` of one metric; ``known`` are the tests of this look, for twins (rule 8)."""
    each = []
    for test in tests:
        found = known.get(id(test))
        if found is None:
            found = known[id(test)] = log_bad(test), log_ok(test)
        each.append(found)
    if len(each) == 1:
        return each[0]
    return wealth.mean_logs([bad for bad, _ in each]), min([ok for _, ok in each])


def log_e_ok(tests: Sequence[RateState]) -> float:
    """log of E of one metric against "worse by the margin": the least of its tests."""
    return min(log_ok(test) for test in tests)


def log_ok(state: RateState) -> float:
    """log E of one test against "worse by the margin", as far as it is believed (rule 7)."""
    return guard.guarded_ok(wealth.log_e(state.ok), state.bursts)


def finding(
    standing: Standing,
    spec: RateSpec,
    worse: Worse,
    shares: tuple[Share, Share],
    units: str,
    *,
    believed: float = 1.0,
    guess: float | None = None,
    per_request: bool = True,
) -> MetricFinding:
    """What is found of a rate, in numbers; ``shares`` are stable's and the canary's, ``guess`` stable's next rate."""
    return standing.finding(
        stable=shares[0],
        canary=shares[1],
        units=units,
        claim=RateClaim(
            worse,
            spec.tolerance_ratio,
            spec.tolerance_delta,
            spec.margin_ratio,
            spec.margin_delta,
            per_request,
            believed,
        ),
        details={
            "margin_ratio": spec.margin_ratio,
            "margin_delta": spec.margin_delta,
            "tolerance_ratio": spec.tolerance_ratio,
            "tolerance_delta": spec.tolerance_delta,
            **({} if guess is None else {"stable_rate_guess": guess}),
        },
    )


def bad_gains(state: RateState, spec: RateSpec, batch: TrialBatch, mirrored: bool, conditional: bool) -> list[float]:
    """log e-variables of a batch against "not worse", by guess."""
    if conditional and spec.tolerance_ratio == 1.0 and spec.tolerance_delta == 0.0:
        return [hypergeometric.log_gain(odds, batch) for odds in ODDS_RATIOS]
    nulls = within_tolerance(spec.tolerance_ratio, spec.tolerance_delta)
    seen = _exchanged(batch) if mirrored else batch
    return log_gains_beyond(bad_guesses(stable_guess(state), spec, mirrored), nulls, seen)


def _exchanged(batch: TrialBatch) -> TrialBatch:
    return TrialBatch(
        batch.canary_events,
        batch.canary_trials,
        batch.stable_events,
        batch.stable_trials,
        1.0 - batch.share if batch.share else 0.0,
    )


def _due(
    metrics: tuple[RateState, ...], tests: Sequence[PairSpec], part: PooledTrials, newest: bool, needed: Sequence[float]
) -> bool:
    """Whether a batch closes now (rule 1)."""
    scarce = min(part.stable, part.canary)
    if not scarce or not newest or scarce >= SCARCE_MAX:
        return scarce > 0
    if any(_learns(metric, part.stable, part.canary) for metric in metrics):
        return True
    # Twins are asked once, for the least that convicts one of them (rule 8).
    asked: list[tuple[tuple[RateState, RateSpec, bool, bool], float]] = []
    for metric, test, need in zip(metrics, tests, needed, strict=True):
        asking = (metric, test.spec, test.mirrored, test.conditional)
        if test.spec.mode is Mode.OFF or any(known == asking and least <= need for known, least in asked):
            continue
        if could_convict(metric, part.stable, part.canary, need, *asking[1:]):
            return True
        asked.append((asking, need))
    return False


def _count(metrics: tuple[RateState, ...], tests: Sequence[PairSpec], new: PooledTrials) -> tuple[RateState, ...]:
    """With this look's events added to the totals of the report."""
    if not any(new.stable_events) and not any(new.canary_events):
        return metrics
    counted = []
    for metric, test in zip(metrics, tests, strict=True):
        stable, canary = metric.stable_events + new.stable_events[test.event], metric.canary_events
        canary += new.canary_events[test.event]
        same = (stable, canary) == (metric.stable_events, metric.canary_events)
        counted.append(metric if same else msgspec.structs.replace(metric, stable_events=stable, canary_events=canary))
    return tuple(counted)
