"""Sticky routes: false alarms of healthy canaries when requests, and when sessions, are the unit of evidence.

    python -m loadtests.statistics.sticky [--runs 2000] [--seed 1] [--out sticky.jsonl]

Every session makes 4 requests a second for 5 seconds, all to one variant. One in 200 sends something that always fails,
on either variant alike. What the data plane would enter (proxy/units.py) goes into the engine's own `rates.take`: a
failing session at once, another when its window ends. Two minutes, a look each second, convicted at ANY look.
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

from gateway.core.analysis import Mode, RateSpec, rates
from gateway.core.analysis.intake import Arrival
from gateway.core.stats.counts import UNIT_EVENTS, Counts
from loadtests.statistics.lines import upper_bound, write

TICK_S = 1.0
TICKS = 120
WINDOW_TICKS = 5
REQUESTS_PER_TICK = 4
SESSIONS_PER_S = 20.0
BAD_SESSIONS = 0.005
WEIGHTS = (0.05, 0.2, 0.5)
ALPHAS = (0.05, 0.01)
_SPECS = (RateSpec(), RateSpec(mode=Mode.OFF), RateSpec(mode=Mode.OFF))
_LABELS = tuple(UNIT_EVENTS.values())


@dataclass(frozen=True)
class Sticky:
    """One row: healthy canaries (or ones whose share of failing sessions is ``canary``) that were convicted."""

    table: str
    weight: float
    canary: float
    alpha: float
    runs: int
    by_sessions: int
    by_sessions_upper: float
    by_requests: int


def simulate(weight: float, canary: float, rng: np.random.Generator) -> tuple[float, float]:
    """The highest log E_bad that one rollout ever had: by sessions, by requests."""
    needed = (-math.log(min(ALPHAS)), math.inf, math.inf)
    bad = (BAD_SESSIONS, canary)
    shares = (1.0 - weight, weight)
    # [arm, tick]: sessions that begin, and those of them that always fail.
    begin = np.stack([rng.poisson(SESSIONS_PER_S * TICK_S * share, TICKS) for share in shares])
    failing = np.stack([rng.binomial(begin[arm], bad[arm]) for arm in (0, 1)])
    states, highest = [rates.fresh(), rates.fresh()], [0.0, 0.0]
    for tick in range(TICKS):
        since = max(0, tick - WINDOW_TICKS + 1)
        by_session, by_request = [], []
        for arm in (0, 1):
            done = tick - WINDOW_TICKS
            good = int(begin[arm, done] - failing[arm, done]) if done >= 0 else 0
            events = int(failing[arm, tick])
            counts = Counts(trials=dict.fromkeys(_LABELS, good + events), events={_LABELS[0]: events})
            by_session.append(counts)
            active, broken = (int(x[arm, since : tick + 1].sum()) * REQUESTS_PER_TICK for x in (begin, failing))
            by_request.append(Counts(active, broken))
        for unit, arms in enumerate((by_session, by_request)):
            if highest[unit] < needed[0]:
                arrival = [Arrival(1, *arms)]
                states[unit] = rates.take(states[unit], _SPECS, arrival, [1], needed, tick * TICK_S, sticky=unit == 0)
                highest[unit] = max(highest[unit], rates.log_bad(states[unit].metrics[0]))
    return highest[0], highest[1]


def rows(weight: float, canary: float, alphas: Sequence[float], runs: int, rng: np.random.Generator) -> list[Sticky]:
    """Many rollouts of one kind, at several alphas."""
    highest = np.array([simulate(weight, canary, rng) for _ in range(runs)])
    found = []
    for alpha in alphas:
        sessions, requests = (int(n) for n in (highest >= -math.log(alpha)).sum(axis=0))
        bound = upper_bound(sessions, runs)
        found.append(Sticky("sticky", weight, canary, alpha, runs, sessions, bound, requests))
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """The table; returns 1 when a bound of the false alarms by sessions exceeds its alpha."""
    parser = argparse.ArgumentParser(description="Sessions and requests as the unit of evidence on sticky routes.")
    parser.add_argument("--runs", type=int, default=2000, help="simulated rollouts per row")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, help="a file for one JSON line per row")
    asked = parser.parse_args(arguments)
    since = time.monotonic()
    healthy, worse = [], []
    for w, weight in enumerate(WEIGHTS):
        seed = np.random.default_rng([asked.seed, 31, w])
        healthy += rows(weight, BAD_SESSIONS, ALPHAS, asked.runs, seed)
        worse += rows(weight, 10 * BAD_SESSIONS, (0.01,), max(asked.runs // 20, 5), seed)
    print("| weight | failing sessions, stable -> canary | alpha | by sessions | 95 % upper bound | by requests |")
    print("|---|---|---|---|---|---|")
    for one in (*healthy, *worse):
        print(
            f"| {100 * one.weight:g} % | {100 * BAD_SESSIONS:g} -> {100 * one.canary:g} % | {one.alpha:g} |"
            f" {one.by_sessions} of {one.runs} | {100 * one.by_sessions_upper:.2f} % |"
            f" {100 * one.by_requests / one.runs:.1f} % |"
        )
    print(f"\nseed {asked.seed}, {time.monotonic() - since:.0f} s")
    write(asked.out, [*healthy, *worse])
    return int(any(one.by_sessions_upper > one.alpha for one in healthy))


if __name__ == "__main__":
    sys.exit(main())
