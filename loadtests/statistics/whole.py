"""The whole judge under bursts: healthy canaries that the default settings convict, all metrics together.

    python -m loadtests.statistics.whole [--runs 2000] [--seed 1] [--out whole.jsonl]

The other programs simulate one metric each, over arrays. Here the engine itself looks ten times a second for two
minutes (`judge`, default settings, alpha 1 %) at cumulative counts as the workers report them: failures of all classes
and latencies. Each arm, by itself, pauses for 300 ms every 20 s on average: what it should have answered meanwhile
fails (half of it as errors, half as overload) or, for three of ten, waits for the end of the pause. Latencies are
log-normal around 20 ms in both arms. Convicted at ANY look, and by which metric.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gateway.core.analysis import AnalysisSpec, Evidence, Verdict, fresh_state, judge
from gateway.core.stats import Counts, EpochCounts, bucket_of
from loadtests.statistics import bursts
from loadtests.statistics.bursts import BASE_RATE, PAUSE_S, PAUSES_EVERY_S, TICK_S
from loadtests.statistics.lines import finish, options, upper_bound, write

CELLS = ((20.0, 0.2), (200.0, 0.05))
LENGTH_S = 120.0
_WAITS = 0.3
_MEDIAN_US = 20_000
_SPREAD = 0.5


@dataclass(frozen=True)
class Whole:
    """One row: rollouts that were convicted, and what was named as the cause, with how often."""

    table: str
    requests_per_s: float
    weight: float
    alpha: float
    runs: int
    alarms: int
    upper: float
    causes: dict[str, int]


def rollout(requests_per_s: float, weight: float, rng: np.random.Generator) -> tuple[str, ...] | None:
    """What a healthy canary was convicted of within `LENGTH_S`; None: it never was."""
    spec, ticks = AnalysisSpec(), round(LENGTH_S / TICK_S)
    paused = [bursts.windows(rng, 1, ticks, PAUSES_EVERY_S, PAUSE_S)[:, 0] for _ in range(2)]
    state, entry = fresh_state(spec), EpochCounts("r", 1, round(1e4 * weight))
    shares = 1.0 - weight, weight
    for tick in range(ticks):
        for counts, share, pauses in zip((entry.stable, entry.canary), shares, paused, strict=True):
            add(counts, int(rng.poisson(requests_per_s * TICK_S * share)), bool(pauses[tick]), rng)
        state, analysis = judge(spec, state, Evidence((tick + 1) * TICK_S, (entry,)))
        if analysis.verdict is Verdict.FAIL:
            return tuple(finding.metric for finding in analysis.findings if finding.verdict is Verdict.FAIL)
    return None


def add(counts: Counts, requests: int, paused: bool, rng: np.random.Generator) -> None:
    """One look's requests of one arm, answered."""
    waits = rng.random(requests) < (_WAITS if paused else 0.0)
    fails = ~waits & (rng.random(requests) < (1.0 if paused else BASE_RATE))
    latencies_us = _MEDIAN_US * np.exp(_SPREAD * rng.standard_normal(requests))
    latencies_us += np.where(waits, 1e6 * PAUSE_S * rng.random(requests), 0.0)
    counts.assigned += requests
    counts.requests += requests
    overload = int((fails & (rng.random(requests) < 0.5)).sum())
    counts.enter("overload", overload)
    counts.enter("errors", int(fails.sum()) - overload)
    for latency_us in latencies_us.tolist():
        bucket = bucket_of(int(latency_us))
        counts.latency[bucket] = counts.latency.get(bucket, 0) + 1


def row(requests_per_s: float, weight: float, runs: int, seed: Sequence[int]) -> Whole:
    """One row; a rollout's stream is its own, so that one can be run again."""
    found = [rollout(requests_per_s, weight, np.random.default_rng([*seed, run])) for run in range(runs)]
    convicted = [metrics for metrics in found if metrics is not None]
    causes = Counter(metric for metrics in convicted for metric in metrics)
    alarms, alpha = len(convicted), AnalysisSpec().alpha_rollback
    return Whole(
        "whole", requests_per_s, weight, alpha, runs, alarms, upper_bound(alarms, runs), dict(sorted(causes.items()))
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """The table; returns 1 when a bound exceeds its alpha."""
    asked = options("False alarms of the whole judge when both arms pause.", 2000).parse_args(arguments)
    print("| requests/s | weight | alpha | false alarms | 95 % upper bound | named |\n|---|---|---|---|---|---|")
    found: list[Whole] = []
    for i, cell in enumerate(CELLS):
        found.append(row(*cell, asked.runs, (asked.seed, 91, i)))
        one = found[-1]
        named = ", ".join(f"{metric} {count}" for metric, count in one.causes.items()) or "-"
        print(
            f"| {one.requests_per_s:g} | {100 * one.weight:g} % | {one.alpha:g} | {one.alarms} of {one.runs} |"
            f" {100 * one.upper:.2f} % | {named} |",
            flush=True,
        )
        write(asked.out, found)
    return finish(asked, found, found)


if __name__ == "__main__":
    sys.exit(main())
