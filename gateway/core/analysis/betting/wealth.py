"""Wealth: a mixture of bets against one null, kept as logarithms.

Rules:

1. A bet starts with its prior share of one unit of wealth and is multiplied by its e-variable at each bet; the sum of
   all bets is the e-process E. Its mean never exceeds 1 under the null, at any stopping time.
2. A share of the unit is held back and spent in small parts, one before each bet: S_j = (S_{j-1} + pi_j) e_j. A
   canary that was healthy for an hour has burnt the first bets; the late ones let a late regression show at once. With
   pi_j = share * (1 / log2(j + 1) - 1 / log2(j + 2)) the parts sum to the share, and starting at bet j costs about
   log(j log(j)^2 / share): some 20 at a million bets, instead of everything lost while healthy. A
   twentieth is held back: it costs 0.05 nats from the start (a fifth would cost 0.22), and late 1.4 more of about 20.
3. After promotion (the bake) what matters is a version that turns bad at SOME time, so every guess keeps a CUSUM,
   M_t = max(M_{t-1}, 1) e_t: what was lost while healthy is forgotten. M_t is at most the sum over all starts of the
   bets since then (Shiryaev-Roberts), whose mean is at most t: the mean time to a false alarm at M >= h is at least h
   bets, and P(alarm within B bets) <= B / h (an e-detector; Shin, Ramdas, Rinaldo, 2023). E here is M / B, with B the
   bets that the bake has room for, so that the level 1 / alpha bounds the probability of a false alarm in the whole
   bake by alpha, and the mean time to one is at least B / alpha bets. Averages of CUSUMs keep both.
4. Nothing here is ever infinite or NaN: a snapshot is plain finite floats.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from math import exp, fsum, log, log1p

import msgspec

HELD_BACK = 0.05


class Wealth(msgspec.Struct, frozen=True):
    """The mixture after ``bets`` bets: ``logs`` are log-wealths, one per guess, priors included.

    ``held_back`` is the share of the unit that starts later (0 for a test that must remember its whole history).
    ``horizon`` is 0, or the bets that a bake has room for: then these are CUSUMs (rule 3).
    """

    logs: tuple[float, ...]
    bets: int = 0
    held_back: float = 0.0
    horizon: int = 0


def fresh(priors: Sequence[float], held_back: float = 0.0) -> Wealth:
    """One unit of wealth, split over guesses by ``priors`` (positive, sum 1)."""
    return Wealth(tuple(math.log((1.0 - held_back) * prior) for prior in priors), 0, held_back)


def watch(priors: Sequence[float], horizon: int) -> Wealth:
    """The CUSUMs at the beginning of a bake of at most ``horizon`` bets (1 or more)."""
    return Wealth(tuple(math.log(prior) for prior in priors), 0, 0.0, horizon)


def grow(wealth: Wealth, gains: Sequence[float], priors: Sequence[float]) -> Wealth:
    """The wealth after one more bet; ``gains`` are log e-variables, one per guess, in the order of ``priors``."""
    bets = wealth.bets + 1
    logs = wealth.logs
    if wealth.horizon:
        grown = [max(one, log(prior)) + gain for one, prior, gain in zip(logs, priors, gains, strict=True)]
    elif wealth.held_back:
        part = unspent(wealth.held_back, bets - 1) - unspent(wealth.held_back, bets)
        starts = [log(part * prior) for prior in priors]
        grown = [
            (a + log1p(exp(b - a)) if a >= b else b + log1p(exp(a - b))) + gain  # `add_logs`, written out
            for a, b, gain in zip(logs, starts, gains, strict=True)
        ]
    else:
        grown = [one + gain for one, gain in zip(logs, gains, strict=True)]
    return Wealth(tuple(grown), bets, wealth.held_back, wealth.horizon)


@functools.lru_cache(maxsize=256)
def log_e(wealth: Wealth) -> float:
    """log E: every bet and the unit's unspent rest; of CUSUMs their share of the horizon."""
    total = sum_logs(wealth.logs)
    if wealth.horizon:
        return total - math.log(wealth.horizon)
    return add_logs(total, math.log(unspent(wealth.held_back, wealth.bets))) if wealth.held_back else total


def sum_logs(logs: Sequence[float]) -> float:
    """log of the sum of exponentials, for finite logarithms."""
    top = max(logs)
    return top + log(fsum([exp(one - top) for one in logs]))


def mean_logs(logs: Sequence[float]) -> float:
    """log of the mean of exponentials, for finite logarithms."""
    return sum_logs(logs) - math.log(len(logs))


def add_logs(a: float, b: float) -> float:
    """log(exp(a) + exp(b)) for finite logarithms."""
    return a + log1p(exp(b - a)) if a >= b else b + log1p(exp(a - b))


def unspent(held_back: float, bets: int) -> float:
    """What is left after ``bets`` bets of the share that was held back for late starts."""
    return held_back / math.log2(bets + 2)
