"""Mirrored pairs: false convictions and false passes of their tests, and how many requests they need.

    python -m loadtests.statistics.paired_requests [--runs 1000] [--seed 1] [--out paired_requests.jsonl]

The engine's own arithmetic (gateway/core/analysis/paired.py) is driven slice by slice: ten minutes of 40 pairs a
second, a look at each slice, convicted (or passed) at ANY of them. Worlds at the edge of each null: failures that are
independent, that come with the request (both versions fail it), and that come in bursts of a version; latencies whose
middle lies above the bound in half of the slices; outputs.
``limit`` is the information limit of a split at 50 % for the same difference and alpha: no test of unpaired requests
needs fewer (core/analysis/sizing/limit.py).
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from gateway.core.analysis import paired
from gateway.core.analysis.betting.eprocess import Rates, at_most_shift, worse_by_margin
from gateway.core.analysis.paired import PairedTest
from gateway.core.analysis.paired_spec import PairedSpec
from gateway.core.analysis.sizing.limit import requests_at_limit
from loadtests.statistics.lines import finish, options, upper_bound

SPEC = PairedSpec()
PAIRS_PER_S = 40.0
LASTS_S = 600
ALPHAS = (0.05, 0.01)
BURST_EVERY_S, BURST_S = 60.0, 1.0
# Outside of what the test assumes: its bursts last several slices. Shown, and no bound is asked of it.
OUTLASTING = "errors: either version down for 1 s each minute"
# Of speeds: the shares of alpha that errors have in a plan with a mirror step (budget.py), and of promotion.
BAD_ALPHA = 0.005 * paired.SHARES["errors"]
OK_ALPHA = 0.05


@dataclass(frozen=True)
class Alarm:
    """Of ``runs`` rollouts at the edge of the null so many were convicted (or passed), ever."""

    table: str
    world: str
    alpha: float
    runs: int
    alarms: int
    upper: float


@dataclass(frozen=True)
class Speed:
    """Requests until the answer: the median of pairs, and what a split at 50 % needs at the least."""

    table: str
    stable: float
    canary: float
    shared: float
    answer: str
    runs: int
    pairs: float
    limit: float


Step = tuple[PairedTest, int]


def outcomes(
    rng: np.random.Generator, stable: float, canary: float, *, shared: float = 0.0, bursts: bool = False
) -> Iterator[Step]:
    """The test after each slice, and the pairs by then. ``shared`` requests fail on both versions alike."""
    test, pairs = paired.fresh(SPEC).tests["errors"], 0
    slices = int(LASTS_S / paired.SLICE_S)
    down = np.zeros((2, slices), dtype=bool)
    if bursts:
        for arm in range(2):
            for start in rng.uniform(0, LASTS_S, rng.poisson(LASTS_S / BURST_EVERY_S)):
                down[arm, int(start / paired.SLICE_S) : int((start + BURST_S) / paired.SLICE_S)] = True
    for index, n in enumerate(rng.poisson(PAIRS_PER_S * paired.SLICE_S, slices)):
        if not n:
            continue
        own = n - rng.binomial(n, shared)
        alone = rng.multinomial(own, [stable * canary, stable * (1 - canary), canary * (1 - stable), 1.0])[1:3]
        if down[:, index].any():
            alone = np.where(down[:, index], n, 0) * (not down[:, index].all())
        test = paired.outcome(test, SPEC, int(n), int(alone[1]), int(alone[0]))
        pairs += int(n)
        yield test, pairs


def latencies(rng: np.random.Generator, ratio: float) -> Iterator[Step]:
    """Slices whose median ratio lies above ``ratio`` in half of them."""
    test, pairs = paired.fresh(SPEC).tests["latency"], 0
    for _ in range(int(LASTS_S / paired.LATENCY_SLICE_S)):
        n = int(PAIRS_PER_S)
        above = bool(rng.random() < 0.5)
        test = paired.slower(test, SPEC, [(ratio * (1.1 if above else 0.9), n)])
        pairs += n
        yield test, pairs


def outputs(rng: np.random.Generator, rate: float) -> Iterator[Step]:
    """Outputs that differ with this probability."""
    test, pairs = paired.fresh(SPEC).tests["disagreement"], 0
    for n in rng.poisson(PAIRS_PER_S * paired.SLICE_S, int(LASTS_S / paired.SLICE_S)):
        if n:
            test = paired.disagreement(test, SPEC, int(n), int(rng.binomial(n, rate)))
            pairs += int(n)
            yield test, pairs


def highest(steps: Iterator[Step], kind: str) -> float:
    """The most evidence that there ever was."""
    return max(paired.log_e(getattr(test, kind)) for test, _ in steps)


def pairs_until(steps: Iterator[Step], kind: str, alpha: float) -> float:
    """How many pairs had come at the answer; infinite without one."""
    return next((float(n) for test, n in steps if paired.log_e(getattr(test, kind)) >= -math.log(alpha)), math.inf)


def worlds(rng: np.random.Generator) -> dict[str, tuple[str, Iterator[Step]]]:
    """At the edges of the nulls: what is counted there, and the slices."""
    low, high = SPEC.tolerance_delta, SPEC.margin_delta
    return {
        "errors: 1 % on either version, independent": ("bad", outcomes(rng, 0.01, 0.01 + low)),
        "errors: stable never, canary at the tolerance": ("bad", outcomes(rng, 0.0, low)),
        "errors: 5 % come with the request": ("bad", outcomes(rng, 0.01, 0.01 + low, shared=0.05)),
        OUTLASTING: ("bad", outcomes(rng, 0.01, 0.01, bursts=True)),
        "latency: at the tolerance": ("bad", latencies(rng, SPEC.latency_tolerance_ratio)),
        "outputs: at the tolerance": ("bad", outputs(rng, SPEC.disagreement_tolerance)),
        "PASS, errors: canary at the margin": ("ok", outcomes(rng, 0.0, high)),
        "PASS, errors: 1 %, canary at the margin": ("ok", outcomes(rng, 0.01, 0.01 + high)),
        "PASS, latency: at the margin": ("ok", latencies(rng, SPEC.latency_margin_ratio)),
        "PASS, outputs: at the margin": ("ok", outputs(rng, SPEC.disagreement_margin)),
    }


def alarms(runs: int, seed: int) -> Iterator[Alarm]:
    """The table of false answers."""
    names = list(worlds(np.random.default_rng(0)))
    for number, name in enumerate(names):
        reached = []
        for run in range(runs):
            kind, steps = worlds(np.random.default_rng([seed, number, run]))[name]
            reached.append(highest(steps, kind))
        for alpha in ALPHAS:
            count = sum(most >= -math.log(alpha) for most in reached)
            yield Alarm("paired_alarms", name, alpha, runs, count, upper_bound(count, runs))


def speeds(runs: int, seed: int) -> Iterator[Speed]:
    """The table of speeds: convictions of regressions, and passes of canaries that are as good."""
    cases = [(0.0, 0.01, 0.0), (0.01, 0.03, 0.0), (0.001, 0.06, 0.0), (0.0, 0.02, 0.05), (0.0, 0.02, 0.2)]
    for number, (stable, canary, shared) in enumerate(cases):
        rngs = [np.random.default_rng([seed, 100 + number, run]) for run in range(runs)]
        found = [pairs_until(outcomes(rng, stable, canary, shared=shared), "bad", BAD_ALPHA) for rng in rngs]
        truth = Rates(shared + (1 - shared) * stable, shared + (1 - shared) * canary)
        limit = requests_at_limit(truth, at_most_shift(SPEC.tolerance_delta), 0.5, BAD_ALPHA)
        yield Speed("paired_speed", stable, canary, shared, "FAIL", runs, float(np.median(found)), limit)
    for number, (rate, shared) in enumerate([(0.0001, 0.0), (0.01, 0.0), (0.0001, 0.05), (0.0001, 0.2)]):
        rngs = [np.random.default_rng([seed, 200 + number, run]) for run in range(runs)]
        found = [pairs_until(outcomes(rng, rate, rate, shared=shared), "ok", OK_ALPHA) for rng in rngs]
        truth = Rates(shared + (1 - shared) * rate, shared + (1 - shared) * rate)
        limit = requests_at_limit(truth, worse_by_margin(1.0, SPEC.margin_delta), 0.5, OK_ALPHA)
        yield Speed("paired_speed", rate, rate, shared, "PASS", runs, float(np.median(found)), limit)


def main(arguments: Sequence[str] | None = None) -> int:
    """Both tables; returns 1 when a bound of the false answers exceeds its alpha."""
    asked = options("Tests of mirrored pairs: validity and speed.", 1000).parse_args(arguments)
    print("| at the edge of the null | alpha | ever | 95 % upper bound |\n|---|---|---|---|")
    wrong = []
    for one in alarms(asked.runs, asked.seed):
        wrong.append(one)
        print(f"| {one.world} | {one.alpha:g} | {one.alarms} of {one.runs} | {100 * one.upper:.2f} % |", flush=True)
    print("\n| stable | canary | with the request | answer | pairs | limit of a split |\n|---|---|---|---|---|---|")
    quick = []
    for speed in speeds(max(20, asked.runs // 10), asked.seed):
        quick.append(speed)
        rates = f"| {speed.stable:.2%} | {speed.canary:.2%} | {speed.shared:.0%} |"
        print(f"{rates} {speed.answer} | {speed.pairs:.0f} | {speed.limit:.0f} |", flush=True)
    return finish(asked, [*wrong, *quick], [one for one in wrong if one.world != OUTLASTING])


if __name__ == "__main__":
    sys.exit(main())
