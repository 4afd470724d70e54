"""The two-arm e-variable: what one batch of yes/no events says against a null about two rates.

Theory. A batch holds n_s stable and n_c canary requests, w = n_c / (n_s + n_c). For a guess theta = (theta_s, theta_c)
made before the batch and a CONVEX null H0 about (p_s, p_c), let

    q = argmin over H0 of (1 - w) KL(theta_s || q_s) + w KL(theta_c || q_c)
    e = product over the batch's requests of f(theta_A, Y) / f(q_A, Y),     f(t, 1) = t,  f(t, 0) = 1 - t

1. Optimality of q over a convex H0 means (1 - w) E_s + w E_c <= 1 for every rate pair in H0, where E_a is the mean of
   one request's factor in arm a (Turner, Ly, Gruenwald, arXiv 2106.02693; the request-level form with a coin of
   probability w is the same inequality).
2. By the inequality of arithmetic and geometric means E[e] = E_s^n_s E_c^n_c <= ((1 - w) E_s + w E_c)^n <= 1: the
   batch is an e-variable GIVEN how many requests each arm answered. That is why w is the batch's own share and not
   the configured weight: a slow canary's answers are still in flight while stable's are already counted, and under
   the configured weight every stable success would then weigh as if the canary had had its share of the traffic. A
   canary that merely answers later would be convicted of failing.
3. A batch in which only one arm answered says nothing; the caller waits until both did.
4. Products of batches and averages over guesses stay e-processes; everything is kept as logarithms.
5. Validity does not hang on the projection's rounding: (1 - w) E_s + w E_c is linear in (p_s, p_c), so its largest
   value over a null that is a polygon lies at a corner, and a batch is divided by that value when it exceeds 1.
   Rounding in q costs power (in corners where both rates are almost 1), never the promise.
6. What answers after its epoch is over is no batch of its own: those that take longest often are the failures, of one
   arm alone, and their own share would make them worth nothing. They are bet on under the share that the canary has of
   ALL of the epoch's requests that have an outcome. By 1 that is an e-variable of requests that were assigned by
   that coin, if being late has nothing to do with the arm; where the canary alone is late, the factors of stable's
   requests, entered before, were too large by as much as the late ones' are too small while p is at most q.

Guesses are clipped to [RATE_MIN, 1 - RATE_MIN]. Plain floats, no arrays: at ten guesses the interpreter is faster than
an array library's call.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Sequence
from math import exp, log, log1p, sqrt
from typing import NamedTuple

RATE_MIN = 1e-7
_RATE_MAX = 1.0 - RATE_MIN
_EDGE = 1e-15
_EDGE_HIGH = 1.0 - _EDGE
_ROOT_STEPS = 100
_RELATIVE = 2e-16


class Rates(NamedTuple):
    """A pair of event rates, each in (0, 1)."""

    stable: float
    canary: float


# Rates as plain numbers, (stable, canary): guesses come by the dozen.
Pair = tuple[float, float]


class TrialBatch(NamedTuple):
    """The events and trials of both arms in one batch; each arm has at least one trial, unless ``share`` is given.

    ``share`` is the canary's share of the requests that these are the late ones of (theory, 6); 0: the batch's own.
    """

    stable_events: int
    stable_trials: int
    canary_events: int
    canary_trials: int
    share: float = 0.0

    @property
    def weight(self) -> float:
        """The canary's share: of what these are the late ones of, else the realised share of the batch."""
        return self.share or self.canary_trials / (self.stable_trials + self.canary_trials)


def clip(rate: float) -> float:
    """The rate moved into the open interval in which logarithms live."""
    return RATE_MIN if rate < RATE_MIN else min(rate, _RATE_MAX)


def log_odds(rate: float) -> float:
    """log(rate / (1 - rate)) for a rate in (0, 1)."""
    return log(rate) - log1p(-rate)


def from_log_odds(value: float) -> float:
    """The clipped rate with these log-odds."""
    return rates_at((value,))[0]


def rates_at(values: Iterable[float]) -> list[float]:
    """The clipped rates with these log-odds."""
    found = []
    for value in values:
        if value >= 0.0:
            rate = 1.0 / (1.0 + exp(-value))
        else:
            power = exp(value)
            rate = power / (1.0 + power)
        found.append(RATE_MIN if rate < RATE_MIN else min(rate, _RATE_MAX))
    return found


class Null(NamedTuple):
    """A convex set of rate pairs: how to project a guess onto it (given w), and the corners of the polygon."""

    project: Callable[[Pair, float], Pair]
    corners: tuple[Rates, ...]


def log_gain(guess: Pair, null: Null, batch: TrialBatch) -> float:
    """log e of a batch for a guess made before it; 0 for a guess inside the null."""
    return log_gains((guess,), null, batch)[0]


def log_gains(guesses: Iterable[Pair], null: Null, batch: TrialBatch) -> list[float]:
    """`log_gain` for each of the guesses."""
    s_events, s_trials, c_events, c_trials, share = batch
    trials, s_none, c_none = s_trials + c_trials, s_trials - s_events, c_trials - c_events
    weight = share or c_trials / trials
    rest = 1.0 - weight
    project, corners = null
    gains = []
    for guess in guesses:
        nearest = project(guess, weight)
        if nearest == guess:
            gains.append(0.0)
            continue
        s, c = guess
        q_s, q_c = nearest
        if not _EDGE <= q_s <= _EDGE_HIGH:
            q_s = min(max(q_s, _EDGE), _EDGE_HIGH)
        if not _EDGE <= q_c <= _EDGE_HIGH:
            q_c = min(max(q_c, _EDGE), _EDGE_HIGH)
        # One request's factor for an event and for none, in each arm.
        s_yes, s_no, c_yes, c_no = s / q_s, (1.0 - s) / (1.0 - q_s), c / q_c, (1.0 - c) / (1.0 - q_c)
        # (1 - w) E_s + w E_c is base + by_s p_s + by_c p_c.
        by_s, by_c = rest * (s_yes - s_no), weight * (c_yes - c_no)
        base = rest * s_no + weight * c_no
        highest = -math.inf
        for p_s, p_c in corners:
            height = by_s * p_s + by_c * p_c
            if height > highest:  # noqa: PLR1730  # a call of max() takes as long as all the rest of the loop
                highest = height
        largest = base + highest
        gain = s_none * log(s_no) + c_none * log(c_no)
        if s_events:
            gain += s_events * log(s_yes)
        if c_events:
            gain += c_events * log(c_yes)
        gains.append(gain - trials * log(largest) if largest > 1.0 else gain)
    return gains


def log_gains_not_worse(guesses: Iterable[Pair], batch: TrialBatch) -> list[float]:
    """`log_gains` against `NOT_WORSE`: the common case, written out."""
    s_events, s_trials, c_events, c_trials, share = batch
    trials, s_none, c_none = s_trials + c_trials, s_trials - s_events, c_trials - c_events
    weight = share or c_trials / trials
    rest = 1.0 - weight
    gains = []
    for stable, canary in guesses:
        if canary <= stable:
            gains.append(0.0)
            continue
        q = rest * stable + weight * canary
        if not _EDGE <= q <= _EDGE_HIGH:
            q = min(max(q, _EDGE), _EDGE_HIGH)
        none = 1.0 - q
        s_yes, s_no, c_yes, c_no = stable / q, (1.0 - stable) / none, canary / q, (1.0 - canary) / none
        base, by_s, by_c = rest * s_no + weight * c_no, rest * (s_yes - s_no), weight * (c_yes - c_no)
        # The corners are (0, 0), (1, 1) and (1, 0), and by_c is positive: the last is never the largest.
        largest = base + (by_s + by_c) if by_s + by_c > 0.0 else base
        gain = s_none * log(s_no) + c_none * log(c_no)
        if s_events:
            gain += s_events * log(s_yes)
        if c_events:
            gain += c_events * log(c_yes)
        gains.append(gain - trials * log(largest) if largest > 1.0 else gain)
    return gains


def log_gains_beyond(guesses: Sequence[Pair], nulls: tuple[Null, ...], batch: TrialBatch) -> list[float]:
    """log e of a batch against a UNION of nulls: the least of their e-variables, an e-variable under each of them."""
    if nulls == _ONLY_NOT_WORSE:
        return log_gains_not_worse(guesses, batch)
    return list(map(min, zip(*(log_gains(guesses, null, batch) for null in nulls), strict=True)))


def _project_not_worse(guess: Pair, weight: float) -> Pair:
    stable, canary = guess
    if canary <= stable:
        return guess
    pooled = (1.0 - weight) * stable + weight * canary
    return pooled, pooled


NOT_WORSE = Null(_project_not_worse, (Rates(0.0, 0.0), Rates(1.0, 1.0), Rates(1.0, 0.0)))
"""{p_c <= p_s}"""
_ONLY_NOT_WORSE = (NOT_WORSE,)


def at_most_ratio(ratio: float) -> Null:
    """{p_c <= ratio * p_s}, ratio >= 1."""

    def project(guess: Pair, weight: float) -> Pair:
        if guess[1] <= ratio * guess[0]:
            return guess
        q = _ratio_line(guess, weight, ratio)
        return q, ratio * q

    return Null(project, (Rates(0.0, 0.0), Rates(1.0 / ratio, 1.0), Rates(1.0, 1.0), Rates(1.0, 0.0)))


def at_most_shift(shift: float) -> Null:
    """{p_c <= p_s + shift}, 0 <= shift < 1."""

    def project(guess: Pair, weight: float) -> Pair:
        if guess[1] <= guess[0] + shift:
            return guess
        q = _shift_line(guess, weight, shift)
        return q, q + shift

    corners = (Rates(0.0, 0.0), Rates(0.0, shift), Rates(1.0 - shift, 1.0), Rates(1.0, 1.0), Rates(1.0, 0.0))
    return Null(project, corners)


@functools.lru_cache(maxsize=256)
def within_tolerance(ratio: float, shift: float) -> tuple[Null, ...]:
    """{p_c <= max(ratio * p_s, p_s + shift)}, ratio >= 1, 0 <= shift < 1, as convex sets whose union it is.

    The set itself is not convex, and its hull would add up the two tolerances.
    """
    if ratio == 1.0:
        return (NOT_WORSE,) if shift == 0.0 else (at_most_shift(shift),)
    return (at_most_ratio(ratio),) if shift == 0.0 else (at_most_ratio(ratio), at_most_shift(shift))


@functools.lru_cache(maxsize=256)
def worse_by_margin(ratio: float, shift: float) -> Null:
    """{p_c >= max(ratio * p_s, p_s + shift)}, ratio >= 1, 0 <= shift < 1.

    The set is the intersection of two half-planes. A projection onto one of them that lies in the other is the answer;
    if neither does, both constraints bind: the vertex. Ratio 1 or shift 0 leave a single line.
    """
    vertex = 0.0 if shift == 0.0 else shift / (ratio - 1.0) if ratio > 1.0 else math.inf
    both = Rates(vertex, vertex + shift)
    corners = [Rates(0.0, 1.0), Rates(0.0, shift), Rates(min(1.0 / ratio, 1.0 - shift), 1.0)]
    if both.canary <= 1.0:
        corners.append(both)

    def project(guess: Pair, weight: float) -> Pair:
        stable, canary = guess
        by_ratio, by_shift = canary >= ratio * stable, canary >= stable + shift
        if by_ratio and by_shift:
            return guess
        # The ratio first: it costs a square root, the shift a search.
        q = stable if by_ratio else _ratio_line(guess, weight, ratio)
        if q >= vertex:
            return guess if by_ratio else (q, ratio * q)
        q = stable if by_shift else _shift_line(guess, weight, shift)
        if q > vertex:
            return both
        return guess if by_shift else (q, q + shift)

    return Null(project, tuple(corners))


def _ratio_line(guess: Pair, weight: float, ratio: float) -> float:
    """q_s of the nearest point with q_c = ratio * q_s: the smaller root of a quadratic, without cancellation."""
    s, c = guess
    rest = 1.0 - weight
    constant = rest * s + weight * c
    linear = rest * (1.0 + ratio * s) + weight * (ratio + c)
    square = linear * linear - 4.0 * ratio * constant
    return 2.0 * constant / (linear + sqrt(max(0.0, square)))


def _shift_line(guess: Pair, weight: float, shift: float) -> float:
    """q_s of the nearest point with q_c = q_s + shift.

    The derivative along the line, multiplied by its positive denominators, is a cubic with one root between stable's
    guess and the canary's guess moved down by the shift; Newton's method, kept inside that bracket by bisection.
    """
    s, c = guess
    rest, moved = 1.0 - weight, c - shift
    if shift == 0.0:
        return rest * s + weight * c
    if s <= moved:
        low, high = s, min(moved, 1.0 - shift)
        q = low + (high - low) * weight
    else:
        low, high = max(moved, 0.0), min(s, 1.0 - shift)
        q = low + (high - low) * rest
    for _ in range(_ROOT_STEPS):
        above = q + shift
        off_s, off_c = q - s, above - c
        variance_s, variance_c = q * (1.0 - q), above * (1.0 - above)
        value = rest * off_s * variance_c + weight * off_c * variance_s
        slope_s, slope_c = variance_c + off_s * (1.0 - 2.0 * above), variance_s + off_c * (1.0 - 2.0 * q)
        slope = rest * slope_s + weight * slope_c
        near = _RELATIVE * q * slope
        if -near <= value <= near:
            break
        if value > 0.0:
            high = q
        else:
            low = q
        step = q - value / slope if slope > 0.0 else low
        if not low < step < high:
            step = 0.5 * (low + high)
            if not low < step < high:
                break
        q = step
    return q
