"""The Mann-Whitney test as Kayenta's judge uses it: an estimate of the shift between two samples, with its bounds.

1. The shift is the Hodges-Lehmann estimate: the median of all differences x - y.
2. Its confidence limits invert the rank test: the shifts d at which the test of (x - d) against y, in the normal
   approximation with correction for ties and continuity, is just significant (R's wilcox.test with conf.int, exact
   off). Where even the largest shift is not significant, the limit is the smallest difference, as there.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Sample = NDArray[np.float64]


class Shift(NamedTuple):
    """How much larger the first sample is than the second."""

    low: float
    estimate: float
    high: float


def shift(xs: list[float], ys: list[float], confidence: float) -> Shift:
    """The shift of ``xs`` against ``ys`` (neither empty) with its two-sided confidence limits."""
    from scipy.special import ndtri  # noqa: PLC0415  # scipy is for this rule alone, which not each replay has

    x, y = np.array(xs), np.array(ys)
    differences = (x[:, None] - y[None, :]).ravel()
    lowest, highest = float(differences.min()), float(differences.max())
    z = float(ndtri(0.5 + confidence / 2.0))
    low = _limit(x, y, z, lowest, highest)
    high = -_limit(-x, -y, z, -highest, -lowest)
    return Shift(low, float(np.median(differences)), high)


def _limit(x: Sample, y: Sample, z: float, low: float, high: float) -> float:
    """The largest shift d in [low, high] at which x - d is still significantly above y; ``low`` if there is none."""
    from scipy.optimize import bisect  # noqa: PLC0415  # as above

    def beyond(d: float) -> float:
        return _score(x - d, y) - z

    return low if beyond(low) <= 0.0 else float(bisect(beyond, low, high))


def _score(x: Sample, y: Sample) -> float:
    """The standardised statistic of "x above y": positive when x is larger.

    It is that of `scipy.stats.mannwhitneyu`, which a test compares it with; that function takes several times as long,
    and a limit takes some forty values.
    """
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
