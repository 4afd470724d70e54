"""False alarms where a canary MAY be worse: healthy by a tolerance, and exactly at its edge.

    python -m loadtests.statistics.tolerances [--runs 2000] [--seed 1] [--out tolerances.jsonl]

A canary with p_c = max(ratio * p_s, p_s + delta) is the hardest to spare. `errors` among the four default metrics, a
look each 100 ms, convicted at ANY look of five minutes; beside it what the requests alone would have decided.

independent     failures know nothing of each other, and the canary has as many more as it may
pauses          both arms pause, each by itself and equally often (bursts.py); between the pauses the canary has as many
                more as it may
more pauses     the canary pauses as much more as it may
clean stable    stable never fails, and the canary pauses as much as it may

The engine's arithmetic over arrays, as in detection.py and bursts.py; tests/statistics proves that both agree.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gateway.core.analysis.betting.eprocess import RATE_MIN
from gateway.core.analysis.bursts.guard import Tolerance
from loadtests.statistics import bursts, detection
from loadtests.statistics.bursts import BASE_RATE, PAUSE_S, PAUSES_EVERY_S, Guard, Schedule
from loadtests.statistics.detection import LOG_RATIOS, Floats
from loadtests.statistics.lines import finish, options, upper_bound, write
from loadtests.statistics.projections import log_gain, onto_ratio, onto_shift

TOLERANCES = (Tolerance(2.0, 0.0), Tolerance(1.0, 0.01), Tolerance(1.5, 0.005))
WORLDS = ("independent", "pauses", "more pauses", "clean stable")
# Requests per second and weight; of independent failures the time between them does not matter.
CELLS = {
    "independent": ((200.0, 0.05), (200.0, 0.5)),
    "pauses": ((20.0, 0.2), (200.0, 0.05), (2000.0, 0.05)),
    "more pauses": ((20.0, 0.2), (200.0, 0.05), (2000.0, 0.05)),
    "clean stable": ((20.0, 0.2), (200.0, 0.05)),
}


@dataclass(frozen=True)
class AtTheEdge:
    """One row: rollouts at the edge that were convicted."""

    table: str
    tolerance_ratio: float
    tolerance_delta: float
    world: str
    requests_per_s: float
    weight: float
    alpha: float
    runs: int
    alarms: int
    upper: float
    alarms_by_requests: int


class Tolerant(detection.Engine):
    """`detection.Engine` with a tolerance: what rates.bet does to E_bad then, over arrays."""

    def __init__(self, runs: int, needed: float, tolerance: Tolerance) -> None:
        super().__init__(runs, needed)
        self.tolerance = tolerance

    def _gains(self, stable: Floats, batch: Floats) -> Floats:
        ratio, delta = self.tolerance
        edge = np.clip(np.maximum(ratio * stable, stable + delta), RATE_MIN, 1.0 - RATE_MIN)
        canary = np.clip(1.0 / (1.0 + (1.0 - edge) / edge * np.exp(-LOG_RATIOS)), RATE_MIN, 1.0 - RATE_MIN)
        weight, guess = batch[:, 3] / (batch[:, 1] + batch[:, 3]), (stable, canary)
        nulls = []
        if ratio > 1.0:
            q = onto_ratio(stable, canary, weight, ratio)
            nulls.append((q, ratio * q))
        if delta > 0.0:
            q = onto_shift(stable, canary, weight, delta)
            nulls.append((q, q + delta))
        return np.asarray(np.minimum.reduce([log_gain(guess, null, tuple(batch.T)) for null in nulls]))


def schedules(
    world: str, tolerance: Tolerance, runs: int, ticks: int, rng: np.random.Generator
) -> tuple[Schedule, Schedule]:
    """Stable, and a canary exactly at the edge of the tolerance."""
    worse = tolerance.edge(BASE_RATE)
    if world == "independent":
        return lambda _tick: np.full(runs, BASE_RATE), lambda _tick: np.full(runs, worse)
    every_s = PAUSES_EVERY_S
    if world == "clean stable":
        open_c = bursts.windows(rng, runs, ticks, PAUSE_S * (1.0 - tolerance.delta) / tolerance.delta, PAUSE_S)
        return lambda _tick: np.zeros(runs), lambda tick: open_c[tick]
    if world == "more pauses":
        # Of all time the canary may lose what is tolerated beside stable's share; between the pauses it is as stable.
        paused = PAUSE_S / (PAUSE_S + PAUSES_EVERY_S)
        total = tolerance.edge(paused + (1.0 - paused) * BASE_RATE)
        every_s = PAUSE_S * (1.0 - total) / (total - BASE_RATE)
        worse = BASE_RATE
    open_s = bursts.windows(rng, runs, ticks, PAUSES_EVERY_S, PAUSE_S)
    open_c = bursts.windows(rng, runs, ticks, every_s, PAUSE_S)
    return (
        lambda tick: np.where(open_s[tick] > 0, 1.0, BASE_RATE),
        lambda tick: np.where(open_c[tick] > 0, 1.0, worse),
    )


def at_the_edge(
    tolerance: Tolerance, world: str, cell: tuple[float, float], alpha: float, runs: int, rng: np.random.Generator
) -> AtTheEdge:
    """One row; ``cell`` is requests per second and weight."""
    ticks = round(bursts.AA_S / bursts.TICK_S)
    judges = (
        Tolerant(runs, -math.log(alpha * detection.ERRORS_SHARE), tolerance),
        Guard(runs, tolerance=tolerance),
    )
    seconds = bursts.simulate(schedules(world, tolerance, runs, ticks, rng), *cell, ticks, judges, rng)
    guarded, plain = (int(np.isfinite(one).sum()) for one in seconds)
    return AtTheEdge("tolerances", *tolerance, world, *cell, alpha, runs, guarded, upper_bound(guarded, runs), plain)


def main(arguments: Sequence[str] | None = None) -> int:
    """The table; returns 1 when a bound exceeds its alpha."""
    asked = options("False alarms of canaries at the edge of a tolerance.", 2000).parse_args(arguments)
    kinds = [
        (tolerance, world, cell, alpha)
        for tolerance in TOLERANCES
        for world in WORLDS
        # Beside a stable that never fails a ratio tolerates nothing.
        if tolerance.delta or world != "clean stable"
        for cell in CELLS[world]
        for alpha in bursts.ALPHAS
    ]
    print("| tolerance | world | requests/s | weight | alpha | false alarms | 95 % upper bound | by requests alone |")
    print("|---|---|---|---|---|---|---|---|")
    found: list[AtTheEdge] = []
    for i, kind in enumerate(kinds):
        row = at_the_edge(*kind, asked.runs, np.random.default_rng([asked.seed, 81, i]))
        found.append(row)
        print(
            f"| {row.tolerance_ratio:g} x, + {100 * row.tolerance_delta:g} points | {row.world} |"
            f" {row.requests_per_s:g} | {100 * row.weight:g} % | {row.alpha:g} | {row.alarms} of {row.runs} |"
            f" {100 * row.upper:.2f} % | {100 * row.alarms_by_requests / row.runs:.1f} % |",
            flush=True,
        )
        write(asked.out, found)
    return finish(asked, found, found)


if __name__ == "__main__":
    sys.exit(main())
