"""Confidence sequences for the report: intervals that hold at every moment together, however often one looks.

Theory. k of n trials with the event, rate p. With a Beta(a, b) prior over the alternative, the mixture likelihood ratio

    M_n(p) = B(a + k, b + n - k) / B(a, b) / (p^k (1 - p)^(n - k))

is a martingale with mean 1 under p (Robbins, 1970; "beta-binomial mixture" in Howard, Ramdas, McAuliffe, Sekhon, 2021),
so {p : M_n(p) < 1 / alpha} holds the true rate at all n at once with probability 1 - alpha. M is unimodal in p with its
least value at k / n: the set is an interval, and each end is a root (Brent's method).

Two versions (Lindon and Malek, 2022). Given that a request of stratum e (all requests under one weight, strata.py) had
the event, it was the canary's with probability q_e(r) = w_e r / (w_e r + 1 - w_e), where r = p_c / p_s, whatever the
rates themselves did meanwhile. So with any prior over log r

    M(r) = integral of L(r') dF(r') / L(r),   L(r) = product over e of q_e(r)^c_e (1 - q_e(r))^s_e

is a martingale under r for any drift that both versions share, under any sequence of weights: {r : M(r) < 1 / alpha}
is the interval of the ratio. It agrees with a verdict, which compares within a weight as well. The ratio is taken to be
constant. w_e is the realised share of the stratum's trials: given that, c_e scatters less than a binomial does.

The standardised rates follow from r and from how often the event occurred in both versions together, T_e of N_e:

    P_s(r) = sum of g_e t_e / (1 - w_e + w_e r),   P_c = r P_s,   t_e = T_e / N_e,   g_e as in strata.py

P_s falls with r, P_c and P_c - P_s rise, so the ends belong to the ends of r and of the common level, whose
interval is that of one rate with as many trials as the weighted sum is worth. r has `_RATIO_PART` of alpha, the level
the rest; all four intervals hold together. Where more than half of all trials have the event, it is "no event" that is
counted, and the ends change places.

``believed`` below 1: so much of a trial counts where events come in bursts (it weakens likelihoods, as it weakens E).

Quantiles (Howard and Ramdas, 2022): at the true q-quantile x the trials "at most x" have rate q (or more; just below
x, no more), so the ranks k with M_n(q) < 1 / alpha bound it: from the k_low-th to the (k_high + 1)-th value of the
sample, rounded outwards to the histogram's buckets. Its prior is centred at q. Of several strata the histograms are
added with the weights of strata.py, and n is what that sum is worth, (sum w)^2 / sum w^2. A difference of quantiles
takes both versions' intervals (a union bound).

Means (Waudby-Smith, Arbour, Sinha, Kennedy, Ramdas, 2021): the asymptotic confidence sequence, the normal mixture
with the values' own variance in the place of the true one. Values are bounded, so their sums become normal.

This module needs scipy, which takes longer to load than control takes to start: import it where something is shown.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import betaln

from gateway.core.analysis.findings import Moments, Share
from gateway.core.analysis.show.strata import Stratum, mantel_haenszel, mean_of, rated
from gateway.core.errors import InvalidValueError
from gateway.core.stats.histogram import lower_us, total, upper_us

Floats = NDArray[np.float64]
Histograms = tuple[Mapping[int, int], Mapping[int, int]]

_PRIOR = 0.5
# A prior as heavy as a hundred requests: narrowest for rollouts of about a thousand.
_QUANTILE_PRIOR = 100.0
_EDGE = 1e-15
# Of a rate's end, relatively: ends are moved outwards by so much, so that rounding never makes an interval too narrow.
_TOLERANCE = 1e-15
_RANK_TOLERANCE = 1e-3
# The level is known from both versions' requests, so most of alpha is the ratio's.
_RATIO_PART = 0.8
# Of means: before so many values the central limit has not set in; and the prior's width, narrowest at some 500 values.
_MEAN_MIN = 30
_MEAN_PRIOR = 0.02
# Log ratios beyond this are 0 and infinity.
_LOG_RATIO_MAX = 60.0
# The mixture is summed where its density is above exp(-this) of its highest.
_DEPTH = 40.0
_POINTS = 801


class Bounds(NamedTuple):
    """From ``low`` to ``high``, both ends included."""

    low: float
    high: float


class Effect(NamedTuple):
    """Two versions compared: each rate, the difference (canary minus stable) and the ratio (canary over stable)."""

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


def rate_interval(events: float, trials: float, alpha: float) -> Bounds:
    """Where the rate lies; all of [0, 1] without trials. Raises InvalidValueError for what is no alpha or no counts."""
    level = _level(alpha)
    _check(events, trials)
    if not trials:
        return Bounds(0.0, 1.0)
    seen = events / trials
    low = 0.0 if not events else _edge(events, trials, level, 0.0, seen)
    high = 1.0 if events == trials else _edge(events, trials, level, 1.0, seen)
    return Bounds(low, high)


# --- two versions ---


class _Part(NamedTuple):
    """One stratum: log odds of a trial to be the canary's, its part g of the standard, events of both, all trials."""

    log_odds: float
    part: float
    stable: int
    canary: int
    trials: int


class _Corner(NamedTuple):
    """Both standardised rates under one end of the ratio."""

    stable: Bounds
    canary: Bounds


@functools.lru_cache(maxsize=64)
def effect(strata: tuple[Stratum, ...], alpha: float, believed: float = 1.0) -> Effect:
    """Both versions compared; the ratio's upper end is infinite while stable's rate may be 0.

    Raises InvalidValueError as `rate_interval` does.
    """
    _level(alpha)
    for share in (share for one in strata for share in one):
        _check(share.events, share.trials)
    compared = [one for one in strata if one.compared]
    if not compared:
        return _apart(strata, alpha)
    trials = sum(share.trials for one in compared for share in one)
    mirrored = 2 * sum(share.events for one in compared for share in one) > trials
    whole = math.fsum(mantel_haenszel(one.stable.trials, one.canary.trials) for one in compared)
    parts = [_part(_without_event(one) if mirrored else one, whole) for one in compared]
    ratio = _ratio(parts, alpha * _RATIO_PART, believed)
    low, high = (_corner(parts, r, alpha * (1.0 - _RATIO_PART), believed) for r in ratio)
    found = _mirrored(ratio, low, high) if mirrored else _effect(ratio, low, high)
    return _around(found, strata)


def _apart(strata: Sequence[Stratum], alpha: float) -> Effect:
    """Without a stratum that has trials of both versions: what is known of each by itself."""
    sums = [[sum(counts) for counts in zip(*arm, strict=True)] for arm in zip(*strata, strict=True)] or [[0, 0]] * 2
    s, c = (rate_interval(events, trials, alpha / 2.0) for events, trials in sums)
    ratio = Bounds(c.low / s.high if s.high else 0.0, c.high / s.low if s.low else math.inf)
    return Effect(s, c, Bounds(c.low - s.high, c.high - s.low), ratio)


def _without_event(one: Stratum) -> Stratum:
    return Stratum(*(Share(share.trials - share.events, share.trials) for share in one))


def _part(one: Stratum, whole: float) -> _Part:
    (s_events, s_trials), (c_events, c_trials) = one
    part = mantel_haenszel(s_trials, c_trials) / whole
    return _Part(math.log(c_trials / s_trials), part, s_events, c_events, s_trials + c_trials)


def _ratio(parts: Sequence[_Part], alpha: float, believed: float) -> Bounds:
    """The interval of the ratio: where the mixture's likelihood ratio has not reached 1 / alpha."""
    stable, canary = sum(one.stable for one in parts), sum(one.canary for one in parts)
    if not stable and not canary:
        return Bounds(0.0, math.inf)
    level = _log_mixture(parts, believed) - _level(alpha)

    def excess(log_ratio: float) -> float:
        return believed * _log_likelihood(parts, log_ratio) - level

    # Concave: it rises to the likeliest ratio and falls from there.
    best = _LOG_RATIO_MAX if not stable else -_LOG_RATIO_MAX
    if stable and canary:
        best = _root(lambda log_ratio: _slope(parts, log_ratio))
    low = 0.0 if excess(-_LOG_RATIO_MAX) >= 0.0 else math.exp(brentq(excess, -_LOG_RATIO_MAX, best))
    high = math.inf if excess(_LOG_RATIO_MAX) >= 0.0 else math.exp(brentq(excess, best, _LOG_RATIO_MAX))
    return Bounds(low, high)


def _log_likelihood(parts: Sequence[_Part], log_ratio: float) -> float:
    """log L of the theory above."""
    total = 0.0
    for odds, _, stable, canary, _ in parts:
        x = odds + log_ratio
        tail = math.log1p(math.exp(-abs(x)))
        total -= stable * (max(x, 0.0) + tail) + canary * (max(-x, 0.0) + tail)
    return total


def _slope(parts: Sequence[_Part], log_ratio: float) -> float:
    """Its derivative."""
    return sum(canary - (stable + canary) * _logistic(odds + log_ratio) for odds, _, stable, canary, _ in parts)


def _logistic(x: float) -> float:
    return 1.0 / (1.0 + math.exp(-x))


def _root(slope: Callable[[float], float]) -> float:
    return float(brentq(slope, -_LOG_RATIO_MAX, _LOG_RATIO_MAX))


def _log_mixture(parts: Sequence[_Part], believed: float) -> float:
    """log of the integral of L dF, with F the law of log r under which an even split's share is Beta(1/2, 1/2)."""
    odds, stable, canary = (
        np.array(row, dtype=float) for row in zip(*((p[0], p[2], p[3]) for p in parts), strict=True)
    )

    def log_density(log_ratios: Floats) -> Floats:
        x = odds + log_ratios[:, None]
        tail = np.log1p(np.exp(-np.abs(x)))
        likelihood = (np.maximum(x, 0.0) + tail) @ stable + (np.maximum(-x, 0.0) + tail) @ canary
        prior = np.abs(log_ratios) + 2.0 * np.log1p(np.exp(-np.abs(log_ratios)))
        found: Floats = -believed * likelihood - _PRIOR * prior - float(betaln(_PRIOR, _PRIOR))
        return found

    def slope(log_ratio: float) -> float:
        return believed * _slope(parts, log_ratio) + _PRIOR * (1.0 - 2.0 * _logistic(log_ratio))

    middle = _root(slope)
    shares = [_logistic(one.log_odds + middle) for one in parts]
    bend = sum(believed * (p.stable + p.canary) * share * (1.0 - share) for p, share in zip(parts, shares, strict=True))
    at = _logistic(middle)
    width = 1.0 / math.sqrt(bend + 2.0 * _PRIOR * at * (1.0 - at))
    # Beyond sixteen times the width at the top, or where the prior alone has become nothing, there is nothing to sum.
    reach = min(16.0 * width, 2.0 * _LOG_RATIO_MAX)
    top = float(log_density(np.array([middle]))[0])
    while top - float(log_density(np.array([middle - reach, middle + reach])).max()) < _DEPTH:
        reach *= 2.0
    points = np.linspace(middle - reach, middle + reach, _POINTS)
    return top + math.log(float(np.trapezoid(np.exp(log_density(points) - top), points)))


def _corner(parts: Sequence[_Part], ratio: float, alpha: float, believed: float) -> _Corner:
    """Both rates if this were the ratio: what is left open is how often the event occurs at all."""
    weights = [_logistic(one.log_odds) for one in parts]
    if ratio == math.inf:
        worth = [one.part / (one.trials * w) for one, w in zip(parts, weights, strict=True)]
    else:
        worth = [one.part / (one.trials * (1.0 - w + w * ratio)) for one, w in zip(parts, weights, strict=True)]
    pairs = list(zip(worth, parts, strict=True))
    whole = math.fsum(a * one.trials for a, one in pairs)
    trials = whole * whole / math.fsum(a * a * one.trials for a, one in pairs)
    level = min(math.fsum(a * (one.stable + one.canary) for a, one in pairs) / whole, 1.0)
    found = rate_interval(believed * trials * level, believed * trials, alpha)
    ends = Bounds(min(whole * found.low, 1.0), min(whole * found.high, 1.0))
    if ratio == math.inf:
        return _Corner(Bounds(0.0, 0.0), ends)
    return _Corner(ends, Bounds(min(ratio * ends.low, 1.0), min(ratio * ends.high, 1.0)))


def _effect(ratio: Bounds, low: _Corner, high: _Corner) -> Effect:
    return Effect(
        Bounds(high.stable.low, low.stable.high),
        Bounds(low.canary.low, high.canary.high),
        Bounds(
            min(c - s for s, c in zip(*low, strict=True)),
            max(c - s for s, c in zip(*high, strict=True)),
        ),
        ratio,
    )


def _mirrored(ratio: Bounds, low: _Corner, high: _Corner) -> Effect:
    """The effect on the event, when all that was given is of "no event"."""
    of_none = _effect(ratio, low, high)
    stable, canary = (Bounds(1.0 - arm.high, 1.0 - arm.low) for arm in of_none[:2])
    highest = max(_over(1.0 - c, 1.0 - s) for s, c in zip(*low, strict=True))
    lowest = min(_over(1.0 - c, 1.0 - s) for s, c in zip(*high, strict=True))
    apart = of_none.difference
    return Effect(stable, canary, Bounds(-apart.high, -apart.low), Bounds(lowest, highest))


def _over(canary: float, stable: float) -> float:
    return canary / stable if stable > 0.0 else math.inf


def _around(found: Effect, strata: Sequence[Stratum]) -> Effect:
    """The intervals with what was seen inside: the likeliest ratio is near the standardised one, and not the same."""
    seen = rated(strata)
    if seen is None:
        return found
    values = (seen.stable, seen.canary, seen.canary - seen.stable, _over(seen.canary, seen.stable))
    return Effect(
        *(
            Bounds(min(one.low, value), max(one.high, value)) if math.isfinite(value) else one
            for one, value in zip(found, values, strict=True)
        )
    )


# --- means ---


class MeanEffect(NamedTuple):
    """Both versions' means and their difference (canary minus stable), in the value's own unit."""

    stable: Bounds
    canary: Bounds
    difference: Bounds


def mean_effect(strata: Sequence[tuple[Moments, Moments]], alpha: float) -> MeanEffect | None:
    """The standardised means of values with their intervals; None with fewer than `_MEAN_MIN` values of a version."""
    _level(alpha)
    mean = mean_of(strata)
    sizes = [sum(one[arm].values for one in strata) for arm in (0, 1)]
    if mean is None or min(sizes) < _MEAN_MIN:
        return None
    weights = [mantel_haenszel(s.values, c.values) for s, c in strata]
    whole = math.fsum(weights)
    pairs = list(zip(weights, strata, strict=True))
    errors = [math.sqrt(math.fsum((g / whole) ** 2 * one[arm].error2 for g, one in pairs)) for arm in (0, 1)]
    half = [_mean_width(n, alpha) * error for n, error in zip(sizes, errors, strict=True)]
    apart, both = mean.canary - mean.stable, _mean_width(min(sizes), alpha) * math.hypot(*errors)
    return MeanEffect(
        Bounds(mean.stable - half[0], mean.stable + half[0]),
        Bounds(mean.canary - half[1], mean.canary + half[1]),
        Bounds(apart - both, apart + both),
    )


def _mean_width(n: int, alpha: float) -> float:
    """How many standard errors an interval reaches that holds at every moment, n values in."""
    spread = 1.0 + n * _MEAN_PRIOR
    return math.sqrt(spread / (n * _MEAN_PRIOR) * math.log(spread / alpha**2))


# --- quantiles ---


class QuantileEffect(NamedTuple):
    """One quantile of both versions and their difference (canary minus stable), in microseconds."""

    stable: Bounds
    canary: Bounds
    difference: Bounds


def quantile_effect(strata: Sequence[Histograms], q: float, alpha: float) -> QuantileEffect | None:
    """Both versions' q-quantiles, each with ``alpha`` / 2; None without any of one."""
    stable, canary = (quantile_interval(one, q, alpha / 2.0) for one in standardised(strata))
    if stable is None or canary is None:
        return None
    return QuantileEffect(stable, canary, Bounds(canary.low - stable.high, canary.high - stable.low))


def standardised(strata: Sequence[Histograms]) -> tuple[Mapping[int, float], Mapping[int, float]]:
    """Both versions' histograms over all strata as they can be compared, with as many values as they are worth."""
    compared = [(one, total(one[0]), total(one[1])) for one in strata if one[0] and one[1]]
    if len(compared) < 2:
        # Nothing to weigh; what only one version has is all that there is.
        return compared[0][0] if compared else (_all(one for one, _ in strata), _all(one for _, one in strata))
    arms = []
    for arm in (0, 1):
        worth = [mantel_haenszel(sizes[0], sizes[1]) / sizes[arm] for _, *sizes in compared]
        out: dict[int, float] = {}
        for weight, (histograms, *_) in zip(worth, compared, strict=True):
            for bucket, n in histograms[arm].items():
                out[bucket] = out.get(bucket, 0.0) + weight * n
        squares = math.fsum(weight * weight * sizes[arm] for weight, (_, *sizes) in zip(worth, compared, strict=True))
        scale = math.fsum(out.values()) / squares
        arms.append({bucket: scale * n for bucket, n in out.items()})
    return arms[0], arms[1]


def _all(histograms: Iterable[Mapping[int, int]]) -> dict[int, float]:
    out: dict[int, float] = {}
    for histogram in histograms:
        for bucket, n in histogram.items():
            out[bucket] = out.get(bucket, 0.0) + n
    return out


def quantile_us(histogram: Mapping[int, float], q: float) -> float | None:
    """The q-quantile of a histogram whose counts may be weights: the midpoint of its bucket, None of an empty one."""
    needed, seen = q * math.fsum(histogram.values()) * (1.0 - _TOLERANCE), 0.0
    for bucket in sorted(histogram):
        seen += histogram[bucket]
        if seen >= needed > 0.0:
            return (lower_us(bucket) + upper_us(bucket) - 1) / 2
    return None


def quantile_interval(histogram: Mapping[int, float], q: float, alpha: float) -> Bounds | None:
    """Where the q-quantile of latencies lies, in microseconds; None without any. An open end is 0 or infinite.

    Raises InvalidValueError for what is no alpha or no quantile.
    """
    _level(alpha)
    if not 0.0 < q < 1.0:
        raise InvalidValueError(f"a quantile lies between 0 and 1, not {q!r}")
    n = math.fsum(histogram.values())
    if not n:
        return None
    low, high = _ranks(n, q, alpha)
    seen, lower, upper = 0.0, 0.0, math.inf
    for bucket in sorted(histogram):
        before, seen = seen, seen + histogram[bucket]
        if before < low <= seen:
            lower = float(lower_us(bucket))
        if before < high + 1 <= seen:
            upper = float(upper_us(bucket))
    return Bounds(lower, upper)


def _check(events: float, trials: float) -> None:
    if not 0 <= events <= trials:
        raise InvalidValueError(f"{events!r} events of {trials!r} trials cannot be")


def _level(alpha: float) -> float:
    """The logarithm that the mixture has to stay under."""
    if not 0.0 < alpha < 1.0:
        raise InvalidValueError(f"alpha must lie between 0 and 1, not {alpha!r}")
    return -math.log(alpha)


def _ranks(n: float, q: float, alpha: float) -> tuple[float, float]:
    """The least and the greatest number of values at most the q-quantile that are still plausible."""
    level, a, b = _level(alpha), _QUANTILE_PRIOR * q, _QUANTILE_PRIOR * (1.0 - q)
    whole, yes, no = float(betaln(a, b)) + level, math.log(q), math.log1p(-q)

    def excess(k: float) -> float:
        return float(betaln(a + k, b + n - k)) - whole - k * yes - (n - k) * no

    middle = min(max(q * n, 0.0), n)
    low = 0.0 if excess(0.0) < 0.0 else math.ceil(brentq(excess, 0.0, middle, xtol=_RANK_TOLERANCE))
    high = n if excess(n) < 0.0 else math.floor(brentq(excess, middle, n, xtol=_RANK_TOLERANCE))
    # One rank outwards where rounding left it open which side of the root a rank lies on.
    return low - (low > 0 and excess(low - 1.0) < 0.0), high + (high < n and excess(min(high + 1.0, n)) < 0.0)


def _edge(events: float, trials: float, level: float, outside: float, inside: float) -> float:
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
