"""Whether the intervals that are shown hold what is true, at every look, on ladders and under drift.

    python -m loadtests.statistics.intervals [--runs 400] [--seed 1] [--out intervals.jsonl]

A rollout of 160 s at 200 requests/s on the weights 1, 5, 25 and 50 %, looked at every 8 s: the 95 % intervals of the
ratio and of the difference, as `gateway status` shows them, and for comparison the ratio of what was counted over the
whole rollout, in one stratum. A rollout counts as missed when any of its looks missed the truth, so the share of
missed ones may be 5 % at most.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from gateway.core.analysis.findings import Share
from gateway.core.analysis.show.intervals import effect
from gateway.core.analysis.show.strata import Stratum, mantel_haenszel
from loadtests.statistics.lines import finish, options, upper_bound

LADDER = ((0.01, 40), (0.05, 40), (0.25, 40), (0.5, 40))
SECONDS = sum(length for _, length in LADDER)
PER_S = 200
LOOK_EVERY_S = 8
ALPHA = 0.05


def steady(_: int) -> float:
    """2 % all the time."""
    return 0.02


def rising(second: int) -> float:
    """From 0.2 to 2 %."""
    return float(0.002 * 10.0 ** (second / SECONDS))


def outages(second: int) -> float:
    """Both versions fail 60 % of their requests for three seconds, now and then."""
    return 0.6 if second % 53 in (11, 12, 13) else 0.005


WORLDS: dict[str, Callable[[int], float]] = {"steady": steady, "rising": rising, "shared outages": outages}


@dataclass(frozen=True)
class IntervalsRow:
    """One row: how many rollouts missed the ratio, the difference, and the ratio of one stratum.

    ``upper`` bounds the larger share of the first two.
    """

    table: str
    world: str
    ratio: float
    runs: int
    missed_ratio: int
    missed_difference: int
    missed_pooled: int
    upper: float
    alpha: float


def missed(world: Callable[[int], float], ratio: float, rng: np.random.Generator) -> tuple[bool, bool, bool]:
    """Whether the ratio, the difference, and the ratio in one stratum were missed at any look."""
    strata: dict[float, list[int]] = {}
    rates: dict[float, list[float]] = {}
    out, second = [False, False, False], 0
    for weight, length in LADDER:
        counts, seen = strata.setdefault(weight, [0, 0, 0, 0]), rates.setdefault(weight, [])
        for _ in range(length):
            rate, second = world(second), second + 1
            seen.append(rate)
            n_c = int(rng.binomial(PER_S, weight))
            new = (rng.binomial(PER_S - n_c, rate), PER_S - n_c, rng.binomial(n_c, min(ratio * rate, 1.0)), n_c)
            counts[:] = [old + int(n) for old, n in zip(counts, new, strict=True)]
            if second % LOOK_EVERY_S:
                continue
            found = effect(tuple(_stratum(one) for one in strata.values()), ALPHA)
            pooled = effect((_stratum([sum(column) for column in zip(*strata.values(), strict=True)]),), ALPHA)
            weights = [mantel_haenszel(one[1], one[3]) for one in strata.values()]
            means = [sum(one) / len(one) for one in rates.values()]
            level = sum(g * mean for g, mean in zip(weights, means, strict=True)) / sum(weights)
            out[0] |= not found.ratio.low <= ratio <= found.ratio.high
            out[1] |= not found.difference.low <= (ratio - 1.0) * level <= found.difference.high
            out[2] |= not pooled.ratio.low <= ratio <= pooled.ratio.high
    return out[0], out[1], out[2]


def _stratum(counts: Sequence[int]) -> Stratum:
    stable_events, stable, canary_events, canary = counts
    return Stratum(Share(stable_events, stable), Share(canary_events, canary))


def rows(runs: int, seed: int) -> list[IntervalsRow]:
    """All rows of the table."""
    out = []
    for index, (name, world) in enumerate(WORLDS.items()):
        for ratio in (1.0, 1.5):
            rng = np.random.default_rng((seed, index, int(2 * ratio)))
            found = [missed(world, ratio, rng) for _ in range(runs)]
            ratios, differences, pooled = (sum(column) for column in zip(*found, strict=True))
            bound = upper_bound(max(ratios, differences), runs)
            out.append(IntervalsRow("intervals", name, ratio, runs, ratios, differences, pooled, bound, ALPHA))
    return out


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table, and write its rows to ``--out``; exit 1 where more than 5 % may be missed."""
    asked = options(__doc__ or "", 400).parse_args(arguments)
    table = rows(asked.runs, asked.seed)
    print(
        "| rates | true ratio | ratio missed | difference missed | ratio of one stratum missed |\n|---|---|---|---|---|"
    )
    for row in table:
        missed_by = (row.missed_ratio, row.missed_difference, row.missed_pooled)
        print(f"| {row.world} | {row.ratio:g} | {' | '.join(f'{many} of {row.runs}' for many in missed_by)} |")
    return finish(asked, table, table)


if __name__ == "__main__":
    sys.exit(main())
