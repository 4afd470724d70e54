"""Promotion: how near PASS comes to its own limit, and how often a canary that is worse by the margin passes.

    python -m loadtests.statistics.promotion [--runs 40] [--wrong-runs 2000] [--seed 1] [--out promotion.jsonl]

The limit of PASS. E_ok refutes "p_c >= max(ratio p_s, p_s + delta)". Whoever does so with error at most alpha has seen,
on average, log(1/alpha) nats against every point of that set, also against the nearest one: a canary as good as stable
brings I(w) = min over the set of (1 - w) KL(p, q_s) + w KL(p, q_c) nats a request (limit.py with worse_by_margin), so
R = E[requests until E_ok >= 1/alpha] I(w) / log(1/alpha) is at least 1 for every test.

The engine's own `rates.bet` on batches that close at `SCARCE_MAX` requests of the scarcer arm, one metric.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gateway.core.analysis import RateSpec, rates, wealth
from gateway.core.analysis.eprocess import Batch, Rates, worse_by_margin
from gateway.core.analysis.limit import requests_at_limit
from loadtests.statistics.lines import upper_bound, write

BASES = (0.001, 0.01, 0.05)
WEIGHTS = (0.01, 0.05, 0.2, 0.5)
MARGINS = ((1.5, 0.01), (2.0, 0.005), (1.0, 0.02), (1.3, 0.0))
ALPHA = 0.05
# A ratio alone at low rates needs tens of thousands of canary requests, too many to be simulated and to be waited for.
CANARY_MAX = 6_000
HORIZON = 8.0
WRONG_WEIGHTS = (0.05, 0.5)
WRONG_BATCHES = 120
WRONG_ALPHAS = (0.05, 0.01)


@dataclass(frozen=True)
class Promotion:
    """R of PASS for a canary as good as stable."""

    table: str
    rate: float
    margin_ratio: float
    margin_delta: float
    weight: float
    alpha: float
    runs: int
    ratio: float
    error: float
    canary_requests: float


@dataclass(frozen=True)
class WrongPass:
    """Canaries exactly as bad as the margin forbids, that were passed at any look."""

    table: str
    stable: float
    canary: float
    weight: float
    alpha: float
    runs: int
    passed: int
    upper: float


def batches(truth: Rates, weight: float, rng: np.random.Generator, count: int) -> list[Batch]:
    """Batches as rates.py closes them: each at `SCARCE_MAX` requests of the scarcer arm."""
    small = min(weight, 1.0 - weight)
    others = rng.negative_binomial(rates.SCARCE_MAX, small, count)
    scarce = np.full(count, rates.SCARCE_MAX)
    stable, canary = (others, scarce) if weight <= 0.5 else (scarce, others)  # the even split
    stable = np.maximum(stable, 1)
    events = rng.binomial(stable, truth.stable), rng.binomial(canary, truth.canary)
    columns = (events[0].tolist(), stable.tolist(), events[1].tolist(), canary.tolist())
    return [Batch(*row) for row in zip(*columns, strict=True)]


def promotion(rate: float, spec: RateSpec, weight: float, runs: int, rng: np.random.Generator) -> Promotion | None:
    """R of one row; None where the limit lies beyond `CANARY_MAX`."""
    truth = Rates(rate, rate)
    limit = requests_at_limit(truth, worse_by_margin(spec.margin_ratio, spec.margin_delta), weight, ALPHA)
    if limit * weight > CANARY_MAX:
        return None
    taken = []
    for _ in range(runs):
        state, requests = rates.fresh().metrics[0], 0
        while requests < HORIZON * limit and wealth.log_e(state.ok) < -math.log(ALPHA):
            for batch in batches(truth, weight, rng, 16):
                state = rates.bet(state, spec, batch)
                requests += batch.stable_trials + batch.canary_trials
                if wealth.log_e(state.ok) >= -math.log(ALPHA):
                    break
        taken.append(requests)
    ratios = np.array(taken) / limit
    return Promotion(
        "promotion",
        rate,
        spec.margin_ratio,
        spec.margin_delta,
        weight,
        ALPHA,
        runs,
        float(ratios.mean()),
        float(ratios.std(ddof=1) / math.sqrt(runs)),
        float(np.mean(taken) * weight),
    )


def wrong(rate: float, weight: float, runs: int, rng: np.random.Generator) -> list[WrongPass]:
    """How often a canary at the margin is passed within `WRONG_BATCHES` looks, at each alpha."""
    spec = RateSpec()
    truth = Rates(rate, max(spec.margin_ratio * rate, rate + spec.margin_delta))
    highest = np.zeros(runs)
    for run in range(runs):
        state = rates.fresh().metrics[0]
        for batch in batches(truth, weight, rng, WRONG_BATCHES):
            state = rates.bet(state, spec, batch)
            highest[run] = max(highest[run], wealth.log_e(state.ok))
    found = []
    for alpha in WRONG_ALPHAS:
        passed = int((highest >= -math.log(alpha)).sum())
        bound = upper_bound(passed, runs)
        found.append(WrongPass("wrong promotions", rate, truth.canary, weight, alpha, runs, passed, bound))
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Both tables; returns 1 when a bound exceeds its alpha."""
    parser = argparse.ArgumentParser(description="R of promotion to its limit, and wrong promotions.")
    parser.add_argument("--runs", type=int, default=40, help="simulated rollouts per row of R")
    parser.add_argument("--wrong-runs", type=int, default=2000, help="simulated rollouts per row of wrong promotions")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, help="a file for one JSON line per row")
    asked = parser.parse_args(arguments)
    since = time.monotonic()
    cells = [(rate, margin, weight) for rate in BASES for margin in MARGINS for weight in WEIGHTS]
    found = [
        row
        for i, (rate, margin, weight) in enumerate(cells)
        if (
            row := promotion(
                rate,
                RateSpec(margin_ratio=margin[0], margin_delta=margin[1]),
                weight,
                asked.runs,
                np.random.default_rng([asked.seed, 41, i]),
            )
        )
    ]
    print("| rate | margin | weight | R | canary requests |\n|---|---|---|---|---|")
    for row in found:
        margin = f"{row.margin_ratio:g} x, + {100 * row.margin_delta:g} points"
        print(
            f"| {100 * row.rate:g} % | {margin} | {100 * row.weight:g} % | {row.ratio:.2f} ± {row.error:.2f} |"
            f" {row.canary_requests:,.0f} |"
        )
    ratios = [row.ratio for row in found]
    print(f"\nalpha {ALPHA:g}: mean R {sum(ratios) / len(ratios):.3f}, worst {max(ratios):.2f}, {len(ratios)} rows\n")
    wrongs = [
        row
        for i, (rate, weight) in enumerate((rate, weight) for rate in BASES for weight in WRONG_WEIGHTS)
        for row in wrong(rate, weight, asked.wrong_runs, np.random.default_rng([asked.seed, 42, i]))
    ]
    print("| stable -> canary | weight | alpha | wrongly passed | 95 % upper bound |\n|---|---|---|---|---|")
    for one in wrongs:
        print(
            f"| {100 * one.stable:g} -> {100 * one.canary:g} % | {100 * one.weight:g} % | {one.alpha:g} |"
            f" {one.passed} of {one.runs} | {100 * one.upper:.2f} % |"
        )
    print(f"\nseed {asked.seed}, {time.monotonic() - since:.0f} s")
    write(asked.out, [*found, *wrongs])
    return int(any(one.upper > one.alpha for one in wrongs))


if __name__ == "__main__":
    sys.exit(main())
