"""The information limit: how soon ANY valid sequential test can answer, and so how good this engine is.

Theory. A test that stops at any time with error at most alpha has seen on average log(1 / alpha) nats of
evidence against every point of the null, also against the nearest one (Wald's identity with the data-processing
inequality). A request assigned to the canary with probability w brings

    I(w) = min over H0 of (1 - w) KL(p_s || q_s) + w KL(p_c || q_c)

so that E[sum of I(w_i)] >= log(1 / alpha) over the requests before the answer. The minimum is the projection that the
engine bets on (eprocess.py), which is why the growth of a bet with the right guess EQUALS the limit. Everything above
it (R in docs/statistics.md) is the price of not knowing the rates, of batches and of the last step past 1 / alpha.

All of it is per request of BOTH arms together; the canary's part is w times as many.
"""

from __future__ import annotations

import math

from gateway.core.analysis.betting.eprocess import Null, Rates
from gateway.core.errors import InvalidValueError


def information(truth: Rates, null: Null, weight: float) -> float:
    """I(w): nats per request against the null when these are the true rates; 0 for rates inside the null.

    Rates may be 0 or 1. Raises InvalidValueError for a rate outside [0, 1] or a weight outside (0, 1).
    """
    for name, rate in zip(("stable", "canary"), truth, strict=True):
        if not 0.0 <= rate <= 1.0:
            raise InvalidValueError(f"the {name} rate must be from 0 to 1, not {rate!r}")
    if not 0.0 < weight < 1.0:
        raise InvalidValueError(f"the canary's weight must lie between 0 and 1, not {weight!r}")
    nearest = Rates(*null.project(truth, weight))
    bits = (1.0 - weight) * divergence(truth.stable, nearest.stable)
    return max(bits + weight * divergence(truth.canary, nearest.canary), 0.0)


def requests_at_limit(truth: Rates, null: Null, weight: float, alpha: float) -> float:
    """Requests of both arms, on average, before any test of error ``alpha`` can answer; infinite inside the null."""
    if not 0.0 < alpha < 1.0:
        raise InvalidValueError(f"alpha must lie between 0 and 1, not {alpha!r}")
    per_request = information(truth, null, weight)
    return -math.log(alpha) / per_request if per_request > 0.0 else math.inf


def divergence(p: float, q: float) -> float:
    """KL(p || q) of two yes/no rates in nats; infinite when q excludes what p allows."""
    return _part(p, q) + _part(1.0 - p, 1.0 - q)


def _part(p: float, q: float) -> float:
    if p <= 0.0:
        return 0.0
    return p * math.log(p / q) if q > 0.0 else math.inf
