"""Trimmed evidence: what is left of log E when a healthy canary's bad moments are taken out of it.

An arm fails for a moment, by itself: a restart, a pause. Such a moment is no evidence, but it cannot be told from a bad
version while it lasts. What can be known is how often stable has moments and how long they last (past.py). So evidence
is believed as far as it outlasts the moments that this canary may have had.

Theory. Time is cut into cells. For each guess the wealth is W_j = (W_{j-1} + pi_j) e_j, with e_j the product of the
e-variables of the cell's batches and pi_j what starts then of a stake that was held back (it is spent by the clock).

1. Under the null the mean of e_j, given everything before, is at most 1 in a cell that no moment of the canary touches;
   in the others nothing is known of it. So for the set S of the cells that its moments touched, W^S, which skips them,
   plus the unspent rest is an e-process.
2. S is not known. But W^S rises with W^S before: the least of all W^S over the sets of at most n stretches, each no
   longer than `stretch_s` and `apart_s` from the next one, comes from a dynamic program over cells, exactly.
3. Let moments begin at stable's rate or more rarely; of that rate so many moments in so many seconds of stable are
   known, from before the rollout and in it, beside a prior of `PRIOR_MOMENTS` in `PRIOR_S`. Then
   exp(c(n, t)) = 1 - `MORE` + `MORE` times the mean over `TIMES` of the likelihood ratio of a canary that has so many
   times as many moments, n of them in t seconds, is an e-process, too, and so is its product with that of 1.
4. log E is therefore believed as min over n of (log of the least W with n stretches, + c(n, t)), guess by guess: it is
   never above the logarithm of 1 times 3 for the true S. Rare moments cost what they hide, less c; frequent ones wear
   the evidence down but do not convict; a dead canary is convicted by outlasting `stretch_s`, a flapping one by c.
5. By Ville c(n, t) is ever above `CEILING` with probability exp(-CEILING), so no more stretches are looked at. One is
   worth at most `WORTH_MAX`: a first moment soon after the start must not convict by being the first.
6. What is assumed: moments last no longer than `stretch_s` (twice the longest that stable had), are `apart_s` apart (a
   quarter of the shortest time between two, at least half a stretch), and come to the canary as they came to stable.
7. Where moments come so often that there may have been more than `LEVELS_MAX`, the count begins anew, with the least
   wealth of all and the least that c can be.
8. Where a stretch meets fewer than `SPARSE` requests of the canary a moment shows as single failures, and a batch lasts
   longer than a stretch: there the guard says what is believed (`sparse`).
9. In a bake wealth is a CUSUM, max(W, prior) e, which rises with W as well; its level counts cells (wealth.py, rule 3).
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Sequence
from math import exp, log, log1p

import msgspec

from gateway.core.analysis.betting import wealth
from gateway.core.analysis.betting.eprocess import TrialBatch
from gateway.core.analysis.bursts import past
from gateway.core.analysis.bursts.past import LENGTHS, StablePast, Weather
from gateway.core.analysis.spec import AnalysisSpec

PRIOR_MOMENTS, PRIOR_S = 0.5, 10.0
STRETCH_MIN_S = 0.6
STRETCHES = 2.0
CELLS = 4
TIMES = (2.0, 4.0, 8.0, 16.0, 64.0, 256.0)
MORE = 0.25
CEILING = 12.0
WORTH_MAX = 3.0
LEVELS_MAX = 100
SPARSE = 2.0
KNOWN_MIN_S = 300.0
ROUNDING_S = 0.0005
NOTHING = 1e-300
_LOG_TIMES = tuple(map(math.log, TIMES))
_EXPONENT_MAX = 600.0

Logs = tuple[float, ...]
Levels = tuple[Logs, ...]


class TrimmingRule(msgspec.Struct, frozen=True):
    """What a canary is excused, chosen before its evidence is looked at.

    So many ``moments`` were known in ``known_s`` seconds of stable, the prior's included.
    """

    stretch_s: float = STRETCH_MIN_S
    apart_s: float = STRETCH_MIN_S
    moments: float = PRIOR_MOMENTS
    known_s: float = PRIOR_S

    @property
    def cell_s(self) -> float:
        """How long a cell is at least."""
        return self.stretch_s / CELLS

    @property
    def reach_s(self) -> float:
        """Less than this lies between the first cell of a stretch and its last one."""
        return self.stretch_s - 2.0 * self.cell_s


def rule(weather: Weather) -> TrimmingRule | None:
    """The rule for a canary beside a stable version with such weather; None where too little is known of it."""
    if weather.known_s < KNOWN_MIN_S:
        return None
    stretch_s = max(STRETCHES * weather.longest_s, STRETCH_MIN_S)
    # Two that are nearer to each other than half a stretch are within one.
    apart_s = min(max(weather.apart_s / 4.0, 0.5 * stretch_s), stretch_s) if weather.apart_s else stretch_s
    return TrimmingRule(stretch_s, apart_s, weather.moments + PRIOR_MOMENTS, weather.known_s + PRIOR_S)


def rule_for(weather: Weather | None, spec: AnalysisSpec) -> TrimmingRule | None:
    """What a canary is excused under these settings; None where the guard says what is believed."""
    return rule(weather) if weather is not None and spec.learn_bursts and spec.burst_s else None


class Trimmed(msgspec.Struct, frozen=True):
    """The dynamic program: by level (how many stretches at most) and guess, the least log-wealth.

    ``free``: no stretch is open, another one may begin. ``resting``: one has ended, another may begin at that time.
    ``before``: what was free before each recent cell, with the time of that cell's end. ``gains`` are those of the open
    cell, which began at ``since_s`` (``gained``: some came). ``stable`` goes on to learn of stable's moments;
    ``canary`` is how many requests the canary had since ``begin_s``.
    """

    rule: TrimmingRule
    begin_s: float
    since_s: float
    at_s: float
    free: Levels
    gains: Logs
    gained: bool = False
    stable: StablePast = StablePast()
    canary: int = 0
    resting: tuple[tuple[float, Levels], ...] = ()
    before: tuple[tuple[float, Levels], ...] = ()
    held_back: float = 0.0
    horizon: int = 0


def fresh(rule: TrimmingRule, at_s: float, priors: Sequence[float], held_back: float) -> Trimmed:
    """One unit of wealth from ``at_s`` on."""
    free = (tuple(log((1.0 - held_back) * prior) for prior in priors),)
    return Trimmed(rule, at_s, at_s, at_s, free, (0.0,) * len(priors), held_back=held_back)


def baked(state: Trimmed, priors: Sequence[float], horizon: int) -> Trimmed:
    """CUSUMs from now on, for a bake with at most so many cells; what is known of stable stays."""
    after = _begun_anew(state, tuple(map(log, priors)), state.at_s, state.stable)
    return msgspec.structs.replace(after, held_back=0.0, horizon=horizon)


def gain(state: Trimmed, gains: Sequence[float]) -> Trimmed:
    """With a batch's log e-variables, by guess."""
    return msgspec.structs.replace(state, gains=tuple(map(operator.add, state.gains, gains)), gained=True)


def take(state: Trimmed, batch: TrialBatch, at_s: float, priors: Sequence[float]) -> Trimmed:
    """The state after a look at ``at_s``, whose batches have been gained; ``batch`` is what it brought."""
    if at_s < state.at_s:  # another process's clock: cells begin anew, what was earned stays
        begin_s = at_s - max(state.since_s - state.begin_s, 0.0)
        state = msgspec.structs.replace(state, begin_s=begin_s, since_s=at_s, at_s=at_s, resting=(), before=())
    stable = past.add(state.stable, at_s, batch.stable_trials, batch.stable_events)
    if not state.gained or at_s - state.since_s < state.rule.cell_s - ROUNDING_S:
        return msgspec.structs.replace(state, at_s=at_s, stable=stable, canary=state.canary + batch.canary_trials)
    rule = state.rule
    free, resting, inside = _advanced(state, at_s, priors)
    if rule.apart_s >= rule.cell_s:
        resting = (*resting, (at_s + rule.apart_s, inside))
    else:
        free = _least(free, inside)
    free, resting = _rested(free, resting, at_s)
    before = (*state.before, (at_s, state.free))
    free = _raised(free, at_s - state.begin_s, rule, stable.moments)
    if len(free) > LEVELS_MAX:
        return _begun_anew(state, free[-1], at_s, stable)
    return Trimmed(
        rule,
        state.begin_s,
        at_s,
        at_s,
        free,
        (0.0,) * len(state.gains),
        stable=stable,
        canary=state.canary + batch.canary_trials,
        resting=resting,
        before=tuple(one for one in before if at_s - one[0] < rule.reach_s - ROUNDING_S),
        held_back=state.held_back,
        horizon=state.horizon,
    )


def sparse(state: Trimmed) -> bool:
    """Whether so few requests of the canary come that the guard knows better (theory, 8)."""
    return state.canary * state.rule.stretch_s < SPARSE * max(state.at_s - state.begin_s, state.rule.stretch_s)


def log_e(state: Trimmed, priors: Sequence[float]) -> float:
    """log E as far as it is believed (theory, 4); what is 0 or less is not trimmed: there is nothing to believe."""
    lasted_s = max(state.at_s - state.begin_s, 0.0)
    rest = _unspent(state.held_back, lasted_s) if state.held_back else 0.0
    most = _total(state, tuple(map(operator.add, state.free[0], state.gains)), rest)
    if most <= 0.0:
        return most
    free, resting, inside = _advanced(state, state.at_s, priors)
    levels = inside
    for each in (free, *(one for _, one in resting)):
        levels = _least(levels, each)
    every = worths(len(levels), lasted_s, state.rule, state.stable.moments)
    worth = [min(one, WORTH_MAX * n) for n, one in enumerate(every)]
    best = [min(map(operator.add, of_guess, worth)) for of_guess in zip(*levels, strict=True)]
    return min(_total(state, best, rest), most)


def _total(state: Trimmed, logs: Sequence[float], rest: float) -> float:
    total = wealth.sum_logs(logs)
    if state.horizon:
        return total - log(state.horizon)
    return wealth.add_logs(total, log(rest)) if rest else total


def _begun_anew(state: Trimmed, logs: Logs, at_s: float, stable: StablePast) -> Trimmed:
    """With this wealth, as if nothing had been excused yet; what stable did meanwhile is known before (theory, 7)."""
    known = state.rule
    known_s = known.known_s + max(at_s - state.begin_s, 0.0)
    rule = msgspec.structs.replace(known, moments=known.moments + stable.moments, known_s=known_s)
    stable = msgspec.structs.replace(stable, lengths=(0.0,) * LENGTHS)
    unspent = _unspent(state.held_back, at_s - state.begin_s) if state.held_back else 0.0
    return Trimmed(
        rule,
        at_s,
        at_s,
        at_s,
        (tuple(one + math.log1p(-MORE) for one in logs),),
        (0.0,) * len(logs),
        stable=stable,
        held_back=unspent,
        horizon=state.horizon,
    )


def worths(many: int, lasted_s: float, rule: TrimmingRule, stable: float) -> list[float]:
    """c(n, t) of the theory, 3, for n below ``many``: what so many moments of the canary say by themselves."""
    known_s, count = rule.known_s + 2.0 * lasted_s, rule.moments + stable
    falls = [log((rule.known_s + (1.0 + times) * lasted_s) / known_s) for times in TIMES]
    ratios = [-count * fall for fall in falls]
    each = [more - fall for more, fall in zip(_LOG_TIMES, falls, strict=True)]
    found = []
    for _ in range(many):
        top = max(ratios)
        mean = top + log(sum([exp(one - top) for one in ratios]) / len(ratios))
        found.append(log(1.0 - MORE + MORE * exp(min(mean, _EXPONENT_MAX))))
        ratios = [one + step for one, step in zip(ratios, each, strict=True)]
    return found


def _advanced(
    state: Trimmed, at_s: float, priors: Sequence[float]
) -> tuple[Levels, tuple[tuple[float, Levels], ...], Levels]:
    """After the open cell, if it ended now: free, resting, and in a stretch that includes it."""
    bake = state.horizon > 0
    if bake:
        starts = tuple(map(log, priors))
    else:
        spent_s = state.since_s - state.begin_s
        part = _unspent(state.held_back, spent_s) - _unspent(state.held_back, at_s - state.begin_s)
        starts = tuple(log(max(part * prior, NOTHING)) for prior in priors)
    free = _played(state.free, state.gains, starts, bake=bake)
    resting = tuple((end_s, _played(levels, state.gains, starts, bake=bake)) for end_s, levels in state.resting)
    inside = state.free
    for _, levels in state.before:
        inside = _least(inside, levels)
    # A stretch more than before it; level 0 has none.
    return free, resting, (free[0], *inside)


def _played(levels: Levels, gains: Logs, starts: Logs, *, bake: bool) -> Levels:
    if bake:
        return tuple(
            tuple([max(a, b) + gain for a, b, gain in zip(logs, starts, gains, strict=True)]) for logs in levels
        )
    return tuple(
        tuple(
            [
                (a + log1p(exp(b - a)) if a >= b else b + log1p(exp(a - b))) + gain
                for a, b, gain in zip(logs, starts, gains, strict=True)
            ]
        )
        for logs in levels
    )


def _least(one: Levels, other: Levels) -> Levels:
    """The least of both, level by level; what has no such level has it from the one below."""
    many = max(len(one), len(other))
    return tuple(tuple(map(min, one[min(n, len(one) - 1)], other[min(n, len(other) - 1)])) for n in range(many))


def _rested(
    free: Levels, resting: tuple[tuple[float, Levels], ...], at_s: float
) -> tuple[Levels, tuple[tuple[float, Levels], ...]]:
    """With those that rested long enough among the free."""
    waiting = []
    for end_s, levels in resting:
        if end_s <= at_s + ROUNDING_S:
            free = _least(free, levels)
        else:
            waiting.append((end_s, levels))
    return free, tuple(waiting)


def _raised(free: Levels, lasted_s: float, rule: TrimmingRule, stable: float) -> Levels:
    """With as many levels as the canary may have had moments (rule 5), and none beyond."""
    levels = [free[0]]
    # At most one more than there were: a moment begins in a cell.
    for n, worth in enumerate(worths(len(free) + 1, lasted_s, rule, stable)[1:], 1):
        if worth >= CEILING:
            break
        levels.append(tuple(map(min, free[n], levels[-1])) if n < len(free) else levels[-1])
    return tuple(levels)


@functools.lru_cache(maxsize=1024)
def _unspent(held_back: float, lasted_s: float) -> float:
    return held_back / math.log2(lasted_s + 2.0)
