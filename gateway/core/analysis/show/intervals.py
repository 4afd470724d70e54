"""Confidence sequences for the report: intervals that hold at every moment together, however often one looks.

Theory. k of n trials with the event, rate p. With a Beta(a, b) prior over the alternative, the mixture likelihood ratio

    M_n(p) = B(a + k, b + n - k) / B(a, b) / (p^k (1 - p)^(n - k))

is a martingale with mean 1 under p (Robbins, 1970; "beta-binomial mixture" in Howard, Ramdas, McAuliffe, Sekhon, 2021),
so {p : M_n(p) < 1 / alpha} holds the true rate at all n at once with probability 1 - alpha. M is unimodal in p with its
least value at k / n: the set is an interval, and each end is a root (Brent's method).

Quantiles (Howard and Ramdas, 2022): at the true q-quantile x the trials "at most x" have rate q (or more; just below
x, no more), so the ranks k with M_n(q) < 1 / alpha bound it: from the k_low-th to the (k_high + 1)-th value of the
sample, rounded outwards to the histogram's buckets. Its prior is centred at q.

Differences and ratios of two arms take both intervals at alpha / 2 (a union bound): a little wide, always right. All of
it takes rates as constant over the rollout; verdicts do not (they come from e-processes, not from here).

This module needs scipy, which takes longer to load than control takes to start: import it where something is shown.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from typing import NamedTuple

from scipy.optimize import brentq
from scipy.special import betaln

from gateway.core.errors import InvalidValueError
from gateway.core.stats.histogram import lower_us, total, upper_us

_PRIOR = 0.5
# A prior as heavy as a hundred requests: narrowest for rollouts of about a thousand.
_QUANTILE_PRIOR = 100.0
_EDGE = 1e-15
# Of a rate's end, relatively: ends are moved outwards by so much, so that rounding never makes an interval too narrow.
_TOLERANCE = 1e-15
_RANK_TOLERANCE = 1e-3


class Bounds(NamedTuple):
    """From ``low`` to ``high``, both ends included."""

    low: float
    high: float


class Effect(NamedTuple):
    """Two arms compared: each rate, the difference (canary minus stable) and the ratio (canary over stable)."""

    stable: Bounds
    canary: Bounds
    difference: Bounds
    ratio: Bounds


def log_mixture(events: int, trials: int, rate: float, a: float = _PRIOR, b: float = _PRIOR) -> float:
    """log M_n(rate) for a Beta(a, b) prior; infinite where the rate excludes what was seen."""
    misses = trials - events
    if (rate <= 0.0 and events) or (rate >= 1.0 and misses):
        return math.inf
    likelihood = (events * math.log(rate) if events else 0.0) + (misses * math.log1p(-rate) if misses else 0.0)
    return float(betaln(a + events, b + misses) - betaln(a, b)) - likelihood


def rate_interval(events: int, trials: int, alpha: float) -> Bounds:
    """Where the rate lies; all of [0, 1] without trials. Raises InvalidValueError for what is no alpha or no counts."""
    level = _level(alpha)
    if not 0 <= events <= trials:
        raise InvalidValueError(f"{events!r} events of {trials!r} trials cannot be")
    if not trials:
        return Bounds(0.0, 1.0)
    seen = events / trials
    low = 0.0 if not events else _edge(events, trials, level, 0.0, seen)
    high = 1.0 if events == trials else _edge(events, trials, level, 1.0, seen)
    return Bounds(low, high)


@functools.lru_cache(maxsize=64)
def effect(stable: tuple[int, int], canary: tuple[int, int], alpha: float) -> Effect:
    """Both arms' (events, trials) compared; the ratio's upper end is infinite while stable's rate may be 0.

    Raises InvalidValueError as `rate_interval` does.
    """
    s, c = rate_interval(*stable, alpha / 2.0), rate_interval(*canary, alpha / 2.0)
    ratio = Bounds(c.low / s.high if s.high else 0.0, c.high / s.low if s.low else math.inf)
    return Effect(s, c, Bounds(c.low - s.high, c.high - s.low), ratio)


def quantile_interval(histogram: Mapping[int, int], q: float, alpha: float) -> Bounds | None:
    """Where the q-quantile of latencies lies, in microseconds; None without any. An open end is 0 or infinite.

    Raises InvalidValueError for what is no alpha or no quantile.
    """
    _level(alpha)
    if not 0.0 < q < 1.0:
        raise InvalidValueError(f"a quantile lies between 0 and 1, not {q!r}")
    n = total(histogram)
    if not n:
        return None
    low, high = _ranks(n, q, alpha)
    seen, lower, upper = 0, 0.0, math.inf
    for bucket in sorted(histogram):
        before, seen = seen, seen + histogram[bucket]
        if before < low <= seen:
            lower = float(lower_us(bucket))
        if before < high + 1 <= seen:
            upper = float(upper_us(bucket))
    return Bounds(lower, upper)


def _level(alpha: float) -> float:
    """The logarithm that the mixture has to stay under."""
    if not 0.0 < alpha < 1.0:
        raise InvalidValueError(f"alpha must lie between 0 and 1, not {alpha!r}")
    return -math.log(alpha)


def _ranks(n: int, q: float, alpha: float) -> tuple[int, int]:
    """The least and the greatest number of values at most the q-quantile that are still plausible."""
    level, a, b = _level(alpha), _QUANTILE_PRIOR * q, _QUANTILE_PRIOR * (1.0 - q)
    whole, yes, no = float(betaln(a, b)) + level, math.log(q), math.log1p(-q)

    def excess(k: float) -> float:
        return float(betaln(a + k, b + n - k)) - whole - k * yes - (n - k) * no

    middle = min(max(q * n, 0.0), float(n))
    low = 0 if excess(0.0) < 0.0 else math.ceil(brentq(excess, 0.0, middle, xtol=_RANK_TOLERANCE))
    high = n if excess(float(n)) < 0.0 else math.floor(brentq(excess, middle, float(n), xtol=_RANK_TOLERANCE))
    # One rank outwards where rounding left it open which side of the root a rank lies on.
    return low - (low > 0 and excess(low - 1.0) < 0.0), high + (high < n and excess(high + 1.0) < 0.0)


def _edge(events: int, trials: int, level: float, outside: float, inside: float) -> float:
    """The end of the interval between a rate outside and the one that was seen."""
    misses = trials - events
    whole = float(betaln(_PRIOR + events, _PRIOR + misses) - betaln(_PRIOR, _PRIOR)) - level

    def excess(rate: float) -> float:
        return whole - events * math.log(rate) - misses * math.log1p(-rate)

    limit = min(max(outside, _EDGE), 1.0 - _EDGE)
    inside = min(max(inside, _EDGE), 1.0 - _EDGE)
    if excess(limit) < 0.0 or excess(inside) >= 0.0:
        return outside
    end: float = brentq(excess, limit, inside, xtol=_EDGE, rtol=_TOLERANCE)
    return max(end * (1.0 - _TOLERANCE), 0.0) if outside < inside else min(end * (1.0 + _TOLERANCE), 1.0)
