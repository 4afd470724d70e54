"""R with the guard against bursts on: what it costs in requests where failures do not come in bursts.

    python -m loadtests.statistics.guarded [--runs 40] [--seed 1] [--out guarded.jsonl]

The rows of detection.py, failures independent, one metric. The guard looks at time, so R depends on how dense the
traffic is: in sparse traffic failures are single and all of them is believed; in dense traffic cells of 0.3 s pass
before anything can be told apart, which is a matter of seconds (bursts.py has those) and of many requests.

Requests come at random and a look is a third of a cell, or a cell. Where the limit lies beyond `CELLS_MAX` cells, a
look holds limit / `LOOKS` requests: then single failures are far apart, and what the guard sees of clumps, pairs of
failures in the same or in neighbouring cells, is drawn as what it is there: a Poisson number with the mean that the
guard itself expects.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gateway.core.analysis.betting.eprocess import NOT_WORSE, Rates
from gateway.core.analysis.bursts import evidence_cap
from gateway.core.analysis.sizing.limit import requests_at_limit
from loadtests.statistics import detection
from loadtests.statistics.bursts import PAUSE_S, Guard
from loadtests.statistics.detection import Floats
from loadtests.statistics.lines import finish, options, write

TRAFFIC = (2.0, 20.0, 200.0)
CELLS_MAX = 1500
LOOKS = 150
HORIZON = 6.0
START_CELLS = 40


@dataclass(frozen=True)
class Guarded:
    """One row: R as the gateway judges, and by requests alone, of the same rollouts."""

    table: str
    stable: float
    canary: float
    weight: float
    alpha: float
    requests_per_s: float
    runs: int
    ratio: float
    ratio_by_requests: float
    undecided: float


@dataclass(frozen=True)
class Summary:
    """All rows of one alpha and traffic: means, and the row with the largest R."""

    table: str
    alpha: float
    requests_per_s: float
    runs: int
    ratio: float
    ratio_by_requests: float
    worst: float
    worst_stable: float
    worst_canary: float
    worst_weight: float


class Coarse(Guard):
    """The guard where a look is many cells: clumps are drawn instead of counted."""

    def __init__(self, runs: int, rng: np.random.Generator, rates: tuple[float, float]) -> None:
        super().__init__(runs)
        self.rng = rng
        self.rates = rates

    def span(self, counts: Floats, cells: int, per_cell: tuple[float, float]) -> None:
        """One look of ``cells`` cells; ``per_cell`` are the arms' mean requests in one."""
        for index, (arm, rate, mean) in enumerate(zip(self.arms, self.rates, per_cell, strict=True)):
            expected = 3.0 * (rate * mean) ** 2 * cells
            pairs = self.rng.poisson(0.5 * expected, counts.shape[0])
            arm.excess = arm.excess + 2.0 * pairs - expected
            arm.expected = arm.expected + expected
            arm.all_events = arm.all_events + counts[:, 2 * index]
            arm.all_trials = arm.all_trials + counts[:, 2 * index + 1]
        # Single failures, far apart: each is a incident of its own.
        hit, weight = sum(per_cell), self._weight()
        self.neighbours = hit * (self.arms[0].all_trials + self.arms[1].all_trials)
        if hit < evidence_cap.SPARSE:
            one = (np.log(weight) - evidence_cap.SCATTER)[:, None]
        else:
            one, _ = self._log_chances(np.full(counts.shape[0], hit), weight)
            self.single = self.single + counts[:, 2]
        self.log_null = self.log_null + counts[:, 2:3] * one


def detect(
    truth: Rates, weight: float, alpha: float, requests_per_s: float, runs: int, rng: np.random.Generator
) -> Guarded:
    """One row."""
    needed, limit = -math.log(alpha), requests_at_limit(truth, NOT_WORSE, weight, alpha)
    per_cell = requests_per_s * PAUSE_S
    coarse = limit > CELLS_MAX * per_cell
    engine, score = detection.Engine(runs, needed), detection.score(truth, weight)
    ratio, plain = np.zeros(runs), np.zeros(runs)
    active, plainly = np.ones(runs, dtype=bool), np.ones(runs, dtype=bool)
    parts = 3 if per_cell > limit / LOOKS else 1
    guard = Coarse(runs, rng, (truth.stable, truth.canary)) if coarse else Guard(runs, parts)
    cells = max(1, round(limit / LOOKS / per_cell))
    size = per_cell * cells if coarse else per_cell / parts
    for _ in range(math.ceil(HORIZON * limit / size) + math.ceil(10.0 / (weight * size)) + parts * START_CELLS):
        trials = rng.poisson(size, runs)
        canary = rng.binomial(trials, weight)
        events = rng.binomial(trials - canary, truth.stable), rng.binomial(canary, truth.canary)
        counts = np.stack([events[0], trials - canary, events[1], canary], axis=1).astype(np.float64)
        engine.take(counts)
        if isinstance(guard, Coarse):
            guard.span(counts, cells, (per_cell * (1.0 - weight), per_cell * weight))
        else:
            guard.take(counts)
        ratio += np.where(active, counts @ score, 0.0)
        plain += np.where(plainly, counts @ score, 0.0)
        believed = guard.guarded(engine.log_e) if (engine.log_e >= needed).any() else engine.log_e
        active &= believed < needed
        plainly &= engine.log_e < needed
        if not active.any():
            break
    return Guarded(
        "guarded",
        truth.stable,
        truth.canary,
        weight,
        alpha,
        requests_per_s,
        runs,
        float(ratio.mean()) / needed,
        float(plain.mean()) / needed,
        float(active.mean()),
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Print one line for each alpha and traffic."""
    asked = options("R to the information limit with the guard against bursts.", 40).parse_args(arguments)
    found: list[Guarded | Summary] = []
    print("| alpha | requests/s | mean R | worst row | mean R by requests alone |\n|---|---|---|---|---|")
    for a, alpha in enumerate(detection.ALPHAS):
        for b, requests_per_s in enumerate(TRAFFIC):
            rows = [
                detect(
                    truth, weight, alpha, requests_per_s, asked.runs, np.random.default_rng([asked.seed, 71, a, b, i])
                )
                for i, (truth, weight) in enumerate(detection.rows())
            ]
            mean, plain = (float(np.mean(x)) for x in zip(*((r.ratio, r.ratio_by_requests) for r in rows), strict=True))
            worst = max(rows, key=lambda row: row.ratio)
            where = (worst.ratio, worst.stable, worst.canary, worst.weight)
            found.append(Summary("guarded summary", alpha, requests_per_s, asked.runs, mean, plain, *where))
            what = (
                f"{worst.ratio:.2f} ({100 * worst.stable:g} -> {100 * worst.canary:g} %, w = {100 * worst.weight:g} %)"
            )
            print(f"| {alpha:g} | {requests_per_s:g} | {mean:.3f} | {what} | {plain:.3f} |", flush=True)
            found += rows
            write(asked.out, found)
    return finish(asked, found)


if __name__ == "__main__":
    sys.exit(main())
