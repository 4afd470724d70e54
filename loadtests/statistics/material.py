"""Differences that are proven and do not matter: how often they roll back, and what it costs where they do.

    python -m loadtests.statistics.material [--runs 50] [--seed 1] [--out material.jsonl]

The engine itself looks once a second, with the default settings. Other machines: each version's rate is 1 % give or
take a tenth, for two minutes at 10,000 requests/s, half of them the canary's. Regressions: until the verdict, at 200
requests/s; "late" ones begin after a healthy minute. Beside each is the same traffic without the rule of
materiality.py.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from unittest import mock

import numpy as np

from gateway.core.analysis import AnalysisSpec, Evidence, Verdict, fresh_state, look, materiality
from gateway.core.stats import EpochCounts
from loadtests.statistics.lines import finish, options

LOOK_S = 1.0


@dataclass(frozen=True)
class World:
    """Rates of both versions, requests per second, the canary's share, for how long, and when the difference begins.

    ``machines``: how much either rate differs by chance, as the standard deviation of its logarithm.
    """

    name: str
    stable: float
    canary: float
    per_s: float
    weight: float
    seconds: float
    healthy_s: float = 0.0
    machines: float = 0.0


WORLDS = (
    World("other machines", 0.01, 0.01, 10_000.0, 0.5, 120.0, machines=0.1),
    World("1.5 times", 0.01, 0.015, 200.0, 0.5, 600.0),
    World("twice", 0.01, 0.02, 200.0, 0.5, 300.0),
    World("twice, at 5 %", 0.01, 0.02, 200.0, 0.05, 900.0),
    World("twice, late", 0.01, 0.02, 200.0, 0.5, 360.0, healthy_s=60.0),
)


@dataclass(frozen=True)
class MaterialRow:
    """One row: rollouts that were rolled back, and the mean seconds to it from the beginning of the difference."""

    table: str
    world: str
    rule: bool
    runs: int
    rolled_back: int
    mean_s: float | None


def rollout(world: World, rng: np.random.Generator) -> float | None:
    """When it was rolled back, in seconds since the difference began."""
    spec = AnalysisSpec()
    state, entry = fresh_state(spec), EpochCounts("r", 1, round(1e4 * world.weight))
    by_stable, by_canary = np.exp(world.machines * rng.normal(size=2))
    for number in range(1, round(world.seconds / LOOK_S) + 1):
        at_s = number * LOOK_S
        n = int(rng.poisson(world.per_s * LOOK_S))
        canary = int(rng.binomial(n, world.weight))
        rate = world.canary if at_s > world.healthy_s else world.stable
        for counts, requests, p in (
            (entry.stable, n - canary, by_stable * world.stable),
            (entry.canary, canary, by_canary * rate),
        ):
            counts.assigned += requests
            counts.requests += requests
            counts.enter("errors", int(rng.binomial(requests, p)))
        state, seen = look(spec, state, Evidence(at_s, (entry,)))
        if seen.verdict is Verdict.FAIL:
            return at_s - world.healthy_s
    return None


def row(world: World, rule: bool, runs: int, seed: int) -> MaterialRow:
    """One row of the table; with and without the rule the traffic is the same."""
    off = mock.patch.multiple(materiality, RATIO=0.0, DELTA=-1.0)
    with contextlib.nullcontext() if rule else off:
        found = [rollout(world, np.random.default_rng((seed, n))) for n in range(runs)]
    times = [at_s for at_s in found if at_s is not None]
    return MaterialRow("material", world.name, rule, runs, len(times), float(np.mean(times)) if times else None)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table, and write its rows to ``--out``."""
    asked = options(__doc__ or "", 50).parse_args(arguments)
    table = []
    print("| canary | rolled back | after | without the rule | after |\n|---|---|---|---|---|")
    for world in WORLDS:
        pair = [row(world, rule, asked.runs, asked.seed) for rule in (True, False)]
        table += pair
        cells = [
            f"{one.rolled_back} of {one.runs} | {'-' if one.mean_s is None else f'{one.mean_s:.1f} s'}" for one in pair
        ]
        print(f"| {world.name} | {' | '.join(cells)} |", flush=True)
    return finish(asked, table)


if __name__ == "__main__":
    sys.exit(main())
