"""The Mann-Whitney test as Kayenta's judge uses it: an estimate of the shift between two samples, with its bounds.

1. The shift is the Hodges-Lehmann estimate: the median of all differences x - y.
2. Its confidence limits invert the rank test: the shifts d at which the test of (x - d) against y, in the normal
   approximation with correction for ties and continuity, is just significant (R's wilcox.test with conf.int, exact
   off). Where even the largest shift is not significant, the limit is the smallest difference, as there.
"""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

_HALVINGS = 60

Sample = NDArray[np.float64]


class Shift(NamedTuple):
    """How much larger the first sample is than the second."""

    low: float
    estimate: float
    high: float


def shift(xs: list[float], ys: list[float], confidence: float) -> Shift:
    """The shift of ``xs`` against ``ys`` (neither empty) with its two-sided confidence limits."""
    x, y = np.array(xs), np.array(ys)
    differences = (x[:, None] - y[None, :]).ravel()
    lowest, highest = float(differences.min()), float(differences.max())
    z = NormalDist().inv_cdf(0.5 + confidence / 2.0)
    low = _root(x, y, z, lowest, highest)
    high = -_root(-x, -y, z, -highest, -lowest)
    return Shift(low, float(np.median(differences)), high)


def _root(x: Sample, y: Sample, z: float, low: float, high: float) -> float:
    """The largest shift d in [low, high] at which x - d is still significantly above y; ``low`` if there is none."""
    if _score(x - low, y) <= z:
        return low
    for _ in range(_HALVINGS):
        middle = 0.5 * (low + high)
        if _score(x - middle, y) > z:
            low = middle
        else:
            high = middle
    return low


def _score(x: Sample, y: Sample) -> float:
    """The standardised statistic of "x above y": positive when x is larger."""
    m, n = len(x), len(y)
    _, inverse, counts = np.unique(np.concatenate([x, y]), return_inverse=True, return_counts=True)
    ranks = np.cumsum(counts) - (counts - 1) / 2.0
    statistic = float(ranks[inverse[:m]].sum()) - m * (m + 1) / 2.0 - m * n / 2.0
    total = m + n
    ties = float((counts.astype(np.float64) ** 3 - counts).sum()) / (total * (total - 1))
    variance = m * n / 12.0 * (total + 1 - ties)
    if variance <= 0.0:
        return 0.0
    return (statistic - math.copysign(0.5, statistic)) / math.sqrt(variance) if statistic else 0.0
