"""How large a bake's holdout has to be: how soon a version that turns bad late is found, and what users saw until then.

    python -m loadtests.statistics.bake [--runs 20] [--seed 1] [--out bake.jsonl]

The engine itself looks ten times a second, with the default settings: a minute of a healthy canary at 50 %, then a bake
of an hour, and a minute into it the promoted version turns bad. "Bad answers" are its failures between then and the
verdict, before stable rescues any. The last column is what the holdout costs: the share of users that keep the old
version during the bake.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gateway.core.analysis import AnalysisSpec, Evidence, Verdict, bake, budget, fresh_state, look
from gateway.core.stats import EpochCounts
from loadtests.statistics.lines import finish, options

REQUESTS_PER_S = 200.0
HOLDOUTS = (0.01, 0.02, 0.05, 0.1, 0.2)
BASE_RATE = 0.003
TURNS = {"dead": 1.0, "+2 points": BASE_RATE + 0.02}
BAKE_S = 3600.0
LOOK_S = 0.1
_HEALTHY_S = 60.0
_LONGEST_S = 900.0


@dataclass(frozen=True)
class BakeRow:
    """One row: mean seconds and bad answers until the verdict, and the rollouts without one within `_LONGEST_S`."""

    table: str
    turn: str
    holdout: float
    runs: int
    mean_s: float
    bad_answers: float
    unseen: int


def found(holdout: float, rate: float, rng: np.random.Generator) -> tuple[float | None, int]:
    """Seconds from the turn to FAIL (None: not within `_LONGEST_S`), and the version's failures until then."""
    spec = budget.for_bake(AnalysisSpec(), BAKE_S)
    state, at_s = fresh_state(spec), 0.0
    climb, baking = EpochCounts("r", 1, 5_000), EpochCounts("r", 2, round(1e4 * (1.0 - holdout)))

    def count(entry: EpochCounts, canary_rate: float) -> int:
        n = int(rng.poisson(REQUESTS_PER_S * LOOK_S))
        canary = int(rng.binomial(n, entry.weight_bp / 1e4))
        failed = int(rng.binomial(canary, canary_rate))
        for counts, requests, errors in (
            (entry.stable, n - canary, int(rng.binomial(n - canary, BASE_RATE))),
            (entry.canary, canary, failed),
        ):
            counts.assigned += requests
            counts.requests += requests
            counts.enter("errors", errors)
        return failed

    for _ in range(round(_HEALTHY_S / LOOK_S)):
        at_s += LOOK_S
        count(climb, BASE_RATE)
        state, _seen = look(spec, state, Evidence(at_s, (climb,)))
    state = bake(state, BAKE_S)
    bad, turned_s = 0, at_s + _HEALTHY_S
    for _ in range(round((_HEALTHY_S + _LONGEST_S) / LOOK_S)):
        at_s += LOOK_S
        is_bad = at_s > turned_s + 0.5 * LOOK_S
        failed = count(baking, rate if is_bad else BASE_RATE)
        bad += failed if is_bad else 0
        state, seen = look(spec, state, Evidence(at_s, (climb, baking)))
        if seen.verdict is Verdict.FAIL:
            return at_s - turned_s, bad
    return None, bad


def rows(runs: int, seed: int) -> list[BakeRow]:
    """All rows of the table."""
    out = []
    for turn, rate in TURNS.items():
        for index, holdout in enumerate(HOLDOUTS):
            rng = np.random.default_rng((seed, index, len(turn)))
            results = [found(holdout, rate, rng) for _ in range(runs)]
            times = [_LONGEST_S if at_s is None else at_s for at_s, _ in results]
            mean_bad = float(np.mean([bad for _, bad in results]))
            unseen = sum(at_s is None for at_s, _ in results)
            out.append(BakeRow("bake", turn, holdout, runs, float(np.mean(times)), mean_bad, unseen))
    return out


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table, and write its rows to ``--out``."""
    asked = options(__doc__ or "", 20).parse_args(arguments)
    table = rows(asked.runs, asked.seed)
    print("| turns | holdout | found after | bad answers | not within 15 min |\n|---|---|---|---|---|")
    for row in table:
        print(
            f"| {row.turn} | {100 * row.holdout:g} % | {row.mean_s:.1f} s | {row.bad_answers:,.0f} |"
            f" {row.unseen} of {row.runs} |"
        )
    return finish(asked, table)


if __name__ == "__main__":
    sys.exit(main())
