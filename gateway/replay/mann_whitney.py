"""The Mann-Whitney test as Kayenta's judge uses it: an estimate of the shift between two samples, with its bounds.

Rules:

1. The judge follows R's ``wilcox.test(x, y, conf.int = TRUE, exact = FALSE)``, to the last step of its root finder.
   With d the shift, x - d is tested against y by the sum of ranks in the normal approximation, corrected for ties and
   for continuity. The confidence limits are the shifts at which that test is just significant, the estimate the shift
   at which the two samples are level (Hodges and Lehmann); R leaves out the continuity correction there, the judge does
   not. Where even the smallest or the largest difference x - y is on one side only, that difference is the limit.
2. The statistic is a step function of d: between two steps it has no root, and what a root finder returns depends on
   how it searches. In series with many equal values, such as error rates that are mostly 0, whole steps lie at 0, and
   the limit is a little beside it, at a place that only this algorithm finds: Brent's (1973, chapter 4) as Netlib's
   ``zeroin`` has it, begun at the smallest and the largest difference, with a tolerance of 1e-4, R's default.
3. ``tests/replay/test_mann_whitney.py`` holds reference values of R.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Sample = NDArray[np.float64]
# What R's uniroot is called with here, and its largest number of steps.
_TOLERANCE = 1e-4
_STEPS_MAX = 1000
_EPSILON = sys.float_info.epsilon


class Shift(NamedTuple):
    """How much larger the first sample is than the second."""

    low: float
    estimate: float
    high: float


def shift(xs: list[float], ys: list[float], confidence: float) -> Shift:
    """The shift of ``xs`` against ``ys`` with its two-sided confidence limits.

    Neither may be empty, and both together must not be the same value throughout.
    """
    from scipy.special import ndtri  # noqa: PLC0415  # scipy is for this rule alone, which not each replay has

    x, y = np.array(xs), np.array(ys)
    smallest, largest = float(x.min() - y.max()), float(x.max() - y.min())
    z = float(ndtri(0.5 + confidence / 2.0))

    def limit(quantile: float) -> float:
        def beyond(d: float) -> float:
            return score(x - d, y) - quantile

        at_smallest, at_largest = beyond(smallest), beyond(largest)
        if at_smallest <= 0.0:
            return smallest
        if at_largest >= 0.0:
            return largest
        return root(beyond, smallest, largest, at_smallest, at_largest)

    return Shift(limit(z), limit(0.0), limit(-z))


def score(x: Sample, y: Sample) -> float:
    """The standardised statistic of "x above y": positive when x is larger; 0 where all values are the same."""
    m, n = len(x), len(y)
    _, inverse, counts = np.unique(np.concatenate([x, y]), return_inverse=True, return_counts=True)
    ranks = np.cumsum(counts) - (counts - 1) / 2.0
    statistic = float(ranks[inverse[:m]].sum()) - m * (m + 1) / 2.0 - m * n / 2.0
    total = m + n
    ties = float((counts.astype(np.float64) ** 3 - counts).sum()) / (total * (total - 1))
    variance = m * n / 12.0 * (total + 1 - ties)
    if variance <= 0.0:
        return 0.0
    return (statistic - 0.5 * float(np.sign(statistic))) / float(np.sqrt(variance))


def root(f: Callable[[float], float], low: float, high: float, f_low: float, f_high: float) -> float:
    """A place where ``f`` changes its sign, by Brent's method, within `_TOLERANCE`; f_low and f_high differ in sign.

    ``best`` is the nearest place so far, ``opposite`` one at which ``f`` has the other sign, ``last`` the best before.
    """
    last, f_last = low, f_low
    best, f_best = high, f_high
    opposite, f_opposite = low, f_low
    for place, value in ((low, f_low), (high, f_high)):
        if value == 0.0:
            return place
    for _ in range(_STEPS_MAX + 1):
        moved = best - last
        if abs(f_opposite) < abs(f_best):
            last, f_last = best, f_best
            best, f_best = opposite, f_opposite
            opposite, f_opposite = last, f_last
        enough = 2.0 * _EPSILON * abs(best) + _TOLERANCE / 2.0
        step = (opposite - best) / 2.0
        if abs(step) <= enough or f_best == 0.0:
            return best
        if abs(moved) >= enough and abs(f_last) > abs(f_best):
            step = _interpolated(last, best, opposite, (f_last, f_best, f_opposite), moved, enough, step)
        if abs(step) < enough:
            step = enough if step > 0.0 else -enough
        last, f_last = best, f_best
        best += step
        f_best = f(best)
        if (f_best > 0.0) == (f_opposite > 0.0) and (f_best < 0.0) == (f_opposite < 0.0):
            opposite, f_opposite = last, f_last
    return best


def _interpolated(
    last: float,
    best: float,
    opposite: float,
    values: tuple[float, float, float],
    moved: float,
    enough: float,
    bisected: float,
) -> float:
    """The step to the root of a line or of an inverse parabola; ``bisected`` where that leads too far."""
    f_last, f_best, f_opposite = values
    width, by_last = opposite - best, f_best / f_last
    if last == opposite:
        numerator, denominator = width * by_last, 1.0 - by_last
    else:
        between, by_opposite = f_last / f_opposite, f_best / f_opposite
        numerator = by_last * (width * between * (between - by_opposite) - (best - last) * (by_opposite - 1.0))
        denominator = (between - 1.0) * (by_opposite - 1.0) * (by_last - 1.0)
    if numerator > 0.0:
        denominator = -denominator
    else:
        numerator = -numerator
    inside = numerator < 0.75 * width * denominator - abs(enough * denominator) / 2.0
    return numerator / denominator if inside and numerator < abs(moved * denominator / 2.0) else bisected
