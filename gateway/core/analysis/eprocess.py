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

Guesses are clipped to [RATE_MIN, 1 - RATE_MIN]. Plain floats, no arrays: at ten guesses the interpreter is faster than
an array library's call.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from math import log, log1p
from typing import NamedTuple

RATE_MIN = 1e-7
_EDGE = 1e-15
_ROOT_STEPS = 100
_RELATIVE = 2e-16


class Rates(NamedTuple):
    """A pair of event rates, each in (0, 1)."""

    stable: float
    canary: float


class Batch(NamedTuple):
    """The events and trials of both arms in one batch; each arm has at least one trial."""

    stable_events: int
    stable_trials: int
    canary_events: int
    canary_trials: int

    @property
    def weight(self) -> float:
        """The canary's realised share of the batch."""
        return self.canary_trials / (self.stable_trials + self.canary_trials)


def clip(rate: float) -> float:
    """The rate moved into the open interval in which logarithms live."""
    return RATE_MIN if rate < RATE_MIN else min(rate, 1.0 - RATE_MIN)


def log_odds(rate: float) -> float:
    """log(rate / (1 - rate)) for a rate in (0, 1)."""
    return log(rate) - log1p(-rate)


def from_log_odds(value: float) -> float:
    """The clipped rate with these log-odds."""
    if value >= 0:
        return clip(1.0 / (1.0 + math.exp(-value)))
    power = math.exp(value)
    return clip(power / (1.0 + power))


class Null(NamedTuple):
    """A convex set of rate pairs: how to project a guess onto it (given w), and the corners of the polygon."""

    project: Callable[[Rates, float], Rates]
    corners: tuple[Rates, ...]


def log_gain(guess: Rates, null: Null, batch: Batch) -> float:
    """log e of a batch for a guess made before it; 0 for a guess inside the null."""
    s_events, s_trials, c_events, c_trials = batch
    trials = s_trials + c_trials
    weight = c_trials / trials
    nearest = null.project(guess, weight)
    if nearest == guess:
        return 0.0
    s, c = guess
    q_s, q_c = nearest
    if not _EDGE <= q_s <= 1.0 - _EDGE:
        q_s = min(max(q_s, _EDGE), 1.0 - _EDGE)
    if not _EDGE <= q_c <= 1.0 - _EDGE:
        q_c = min(max(q_c, _EDGE), 1.0 - _EDGE)
    # One request's factor for an event and for none, in each arm.
    s_yes, s_no, c_yes, c_no = s / q_s, (1.0 - s) / (1.0 - q_s), c / q_c, (1.0 - c) / (1.0 - q_c)
    # (1 - w) E_s + w E_c is base + by_s p_s + by_c p_c.
    by_s, by_c = (1.0 - weight) * (s_yes - s_no), weight * (c_yes - c_no)
    base = (1.0 - weight) * s_no + weight * c_no
    largest = base + max([by_s * p_s + by_c * p_c for p_s, p_c in null.corners])
    gain = (s_trials - s_events) * log(s_no) + (c_trials - c_events) * log(c_no)
    if s_events:
        gain += s_events * log(s_yes)
    if c_events:
        gain += c_events * log(c_yes)
    return gain - trials * log(largest) if largest > 1.0 else gain


def log_gains_not_worse(stable: float, canaries: Sequence[float], batch: Batch) -> list[float]:
    """`log_gain` against `NOT_WORSE` for guesses (stable, c), c in ``canaries``: the common case, written out."""
    s_events, s_trials, c_events, c_trials = batch
    trials = s_trials + c_trials
    weight = c_trials / trials
    rest, s_none, c_none = 1.0 - weight, s_trials - s_events, c_trials - c_events
    by_stable, not_stable = rest * stable, 1.0 - stable
    gains = []
    for canary in canaries:
        if canary <= stable:
            gains.append(0.0)
            continue
        q = by_stable + weight * canary
        if q < _EDGE or q > 1.0 - _EDGE:
            q = min(max(q, _EDGE), 1.0 - _EDGE)
        s_yes, s_no, c_yes, c_no = stable / q, not_stable / (1.0 - q), canary / q, (1.0 - canary) / (1.0 - q)
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


def log_gain_beyond(guess: Rates, nulls: tuple[Null, ...], batch: Batch) -> float:
    """log e of a batch against a UNION of nulls: the least of their e-variables, an e-variable under each of them."""
    if len(nulls) == 1:
        return log_gain(guess, nulls[0], batch)
    return min(log_gain(guess, null, batch) for null in nulls)


def _project_not_worse(guess: Rates, weight: float) -> Rates:
    if guess.canary <= guess.stable:
        return guess
    pooled = (1.0 - weight) * guess.stable + weight * guess.canary
    return Rates(pooled, pooled)


NOT_WORSE = Null(_project_not_worse, (Rates(0.0, 0.0), Rates(1.0, 1.0), Rates(1.0, 0.0)))
"""{p_c <= p_s}"""


def at_most_ratio(ratio: float) -> Null:
    """{p_c <= ratio * p_s}, ratio >= 1."""

    def project(guess: Rates, weight: float) -> Rates:
        return guess if guess.canary <= ratio * guess.stable else _ratio_line(guess, weight, ratio)

    return Null(project, (Rates(0.0, 0.0), Rates(1.0 / ratio, 1.0), Rates(1.0, 1.0), Rates(1.0, 0.0)))


def at_most_shift(shift: float) -> Null:
    """{p_c <= p_s + shift}, 0 <= shift < 1."""

    def project(guess: Rates, weight: float) -> Rates:
        return guess if guess.canary <= guess.stable + shift else _shift_line(guess, weight, shift)

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

    def project(guess: Rates, weight: float) -> Rates:
        if guess.canary >= max(ratio * guess.stable, guess.stable + shift):
            return guess
        # The ratio first: it costs a square root, the shift a search.
        by_ratio = guess if guess.canary >= ratio * guess.stable else _ratio_line(guess, weight, ratio)
        if by_ratio.stable >= vertex:
            return by_ratio
        by_shift = guess if guess.canary >= guess.stable + shift else _shift_line(guess, weight, shift)
        return by_shift if by_shift.stable <= vertex else both

    return Null(project, tuple(corners))


def _ratio_line(guess: Rates, weight: float, ratio: float) -> Rates:
    """The nearest point with q_c = ratio * q_s: the smaller root of a quadratic, in its form without cancellation."""
    s, c = guess
    constant = (1.0 - weight) * s + weight * c
    linear = (1.0 - weight) * (1.0 + ratio * s) + weight * (ratio + c)
    root = math.sqrt(max(linear * linear - 4.0 * ratio * constant, 0.0))
    q = 2.0 * constant / (linear + root)
    return Rates(q, ratio * q)


def _shift_line(guess: Rates, weight: float, shift: float) -> Rates:
    """The nearest point with q_c = q_s + shift.

    The derivative along the line, multiplied by its positive denominators, is a cubic with one root between stable's
    guess and the canary's guess moved down by the shift; Newton's method, kept inside that bracket by bisection.
    """
    s, c = guess
    if shift == 0.0:
        pooled = (1.0 - weight) * s + weight * c
        return Rates(pooled, pooled)
    low, high = sorted((s, c - shift))
    low, high = max(low, 0.0), min(high, 1.0 - shift)
    q = low + (high - low) * (weight if low == s else 1.0 - weight)
    rest = 1.0 - weight
    for _ in range(_ROOT_STEPS):
        above = q + shift
        variance_s, variance_c = q * (1.0 - q), above * (1.0 - above)
        value = rest * (q - s) * variance_c + weight * (above - c) * variance_s
        slope_s = variance_c + (q - s) * (1.0 - 2.0 * above)
        slope_c = variance_s + (above - c) * (1.0 - 2.0 * q)
        slope = rest * slope_s + weight * slope_c
        if abs(value) <= _RELATIVE * q * slope:
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
    return Rates(q, q + shift)
