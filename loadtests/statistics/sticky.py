"""Sticky routes: false alarms of healthy canaries when requests, and when sessions, are the unit of evidence.

    python -m loadtests.statistics.sticky [--runs 2000] [--seed 1] [--out sticky.jsonl]

Every session makes 4 requests a second for 5 seconds, all to one variant. One in 200 sends something that always fails,
on either variant alike. What the data plane would enter (proxy/units.py) is counted: a failing session at once, another
when its window ends. Two minutes, a look each second, convicted at ANY look.

The engine's arithmetic (rates.py with the conditional bets of hypergeometric.py) is repeated over arrays, one row of an
array per rollout; tests/statistics proves that both agree.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import gammaln, logsumexp

from gateway.core.analysis.metrics import rates
from loadtests.statistics.detection import LOG_RATIOS
from loadtests.statistics.lines import finish, options, upper_bound
from loadtests.statistics.metrics import Floats, Tests, Which

TICK_S = 1.0
TICKS = 120
WINDOW_TICKS = 5
REQUESTS_PER_TICK = 4
SESSIONS_PER_S = 20.0
BAD_SESSIONS = 0.005
WEIGHTS = (0.05, 0.2, 0.5)
ALPHAS = (0.05, 0.01)


class Sessions(Tests):
    """`rates.advance` of sessions over arrays: the bets are conditional on a batch's totals."""

    __test__ = False

    def __init__(self, runs: int, needed: float) -> None:
        super().__init__(runs, needed, rates.FAILURES_PRIOR, (False,))

    def _gains(self, which: Which, batch: Floats, mirrored: bool) -> Floats:
        return conditional_gains(batch)


def conditional_gains(batch: Floats) -> Floats:
    """`hypergeometric.log_gain` over arrays: [runs, (stable events, its trials, canary events, its trials)] in."""
    x_s, n_s, y, n_c = batch.T
    events = x_s + y
    most = int(np.minimum(n_c, events).max(initial=0))
    k = np.arange(most + 1.0)[None, :]
    inside = (k <= n_c[:, None]) & (k <= events[:, None]) & (events[:, None] - k <= n_s[:, None])
    terms = np.where(inside, _log_choose(n_c[:, None], k) + _log_choose(n_s[:, None], events[:, None] - k), -np.inf)
    sums = logsumexp(terms[None, :, :] + k[None, :, :] * LOG_RATIOS[:, :, None], axis=2)
    return np.asarray(y * LOG_RATIOS + logsumexp(terms, axis=1) - sums)


def _log_choose(n: Floats, k: Floats) -> Floats:
    with np.errstate(invalid="ignore"):
        return np.asarray(gammaln(n + 1.0) - gammaln(k + 1.0) - gammaln(n - k + 1.0))


@dataclass(frozen=True)
class Sticky:
    """One row: healthy canaries (or ones whose share of failing sessions is ``canary``) that were convicted."""

    table: str
    weight: float
    canary: float
    alpha: float
    runs: int
    by_sessions: int
    upper: float
    by_requests: int


def simulate(weight: float, canary: float, alpha: float, runs: int, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """The highest log E_bad that each rollout ever had: by sessions, by requests."""
    shares, bad = (1.0 - weight, weight), (BAD_SESSIONS, canary)
    # [tick, run] of each arm: sessions that begin, and those of them that always fail.
    begin = [rng.poisson(SESSIONS_PER_S * TICK_S * share, (TICKS, runs)) for share in shares]
    failing = [rng.binomial(sessions, rate) for sessions, rate in zip(begin, bad, strict=True)]
    needed = -math.log(alpha)
    tests = Sessions(runs, needed), Tests(runs, needed, rates.FAILURES_PRIOR, (False,))
    highest = np.zeros(runs), np.zeros(runs)
    for tick in range(TICKS):
        done, since = tick - WINDOW_TICKS, max(0, tick - WINDOW_TICKS + 1)
        by_session, by_request = [], []
        for sessions, broken in zip(begin, failing, strict=True):
            good = sessions[done] - broken[done] if done >= 0 else 0
            by_session += [broken[tick], good + broken[tick]]
            by_request += [x[since : tick + 1].sum(axis=0) * REQUESTS_PER_TICK for x in (broken, sessions)]
        for test, counts, high in zip(tests, (by_session, by_request), highest, strict=True):
            test.take(np.stack(counts, axis=1).astype(np.float64))
            np.maximum(high, test.log_e, out=high)
    return highest


def row(weight: float, canary: float, alpha: float, runs: int, rng: np.random.Generator) -> Sticky:
    """Many rollouts of one kind."""
    sessions, requests = (
        int((highest >= -math.log(alpha)).sum()) for highest in simulate(weight, canary, alpha, runs, rng)
    )
    return Sticky("sticky", weight, canary, alpha, runs, sessions, upper_bound(sessions, runs), requests)


def main(arguments: Sequence[str] | None = None) -> int:
    """The table; returns 1 when a bound of the false alarms by sessions exceeds its alpha."""
    asked = options("Sessions and requests as the unit of evidence on sticky routes.", 2000).parse_args(arguments)
    kinds = [(BAD_SESSIONS, weight, alpha) for weight in WEIGHTS for alpha in ALPHAS]
    kinds += [(10 * BAD_SESSIONS, weight, 0.01) for weight in WEIGHTS]
    print("| failing sessions, stable -> canary | weight | alpha | by sessions | 95 % upper bound | by requests |")
    print("|---|---|---|---|---|---|")
    found = []
    for i, (canary, weight, alpha) in enumerate(kinds):
        one = row(weight, canary, alpha, asked.runs, np.random.default_rng([asked.seed, 31, i]))
        found.append(one)
        print(
            f"| {100 * BAD_SESSIONS:g} -> {100 * one.canary:g} % | {100 * one.weight:g} % | {one.alpha:g} |"
            f" {one.by_sessions} of {one.runs} | {100 * one.upper:.2f} % |"
            f" {100 * one.by_requests / one.runs:.1f} % |"
        )
    return finish(asked, found, (one for one in found if one.canary == BAD_SESSIONS))


if __name__ == "__main__":
    sys.exit(main())
