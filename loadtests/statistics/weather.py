"""Everyday weather: both arms alike, with bad moments of seconds or traffic in bouts; and dense traffic.

    python -m loadtests.statistics.weather [--runs 100] [--seed 1] [--out weather.jsonl]

Three judges look at the same rollouts, ten times a second: the engine (`errors` among the default metrics), requests
alone (the engine without the guard against bursts), and a candidate for the engine, which has watched stable for an
hour before (moments.py). Nothing here is promised: the engine exceeds its alpha in some of these worlds, and the tables
say by how much. All over arrays, as in bursts.py, because a look of the engine takes a thousand times as long.

The dense rows need no bad moments: how long a canary that is worse from its first request on lives, beside the
information limit for all of alpha.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from gateway.core.analysis.betting.eprocess import NOT_WORSE, Rates
from gateway.core.analysis.sizing.limit import requests_at_limit
from loadtests.statistics import detection
from loadtests.statistics.bursts import BASE_RATE, TICK_S, Guard, Schedule
from loadtests.statistics.detection import Floats
from loadtests.statistics.lines import finish, options, upper_bound, write
from loadtests.statistics.moments import Moments, StablePast

PAST_S = 3600.0
LENGTH_S = 300.0
ALPHA = 0.01
DENSE_S, DENSE_RUNS = 120.0, 30
# A healthy minute first, or none.
HEALTHY_S = 60.0


@dataclass(frozen=True)
class World:
    """Each arm's moments: seconds between them on average, how long they last, and the least share that fails.

    ``bout_s``: traffic comes only in the first seconds of every ``bouts_every_s`` (0: always). There a moment begins
    with a bout, one in ``between_s`` / ``bouts_every_s`` times.
    """

    name: str
    between_s: float
    shortest_s: float
    longest_s: float
    share: float = 1.0
    bout_s: float = 0.0
    bouts_every_s: float = 0.0

    def traffic(self, tick: int) -> float:
        """How much of the traffic there is."""
        return float(not self.bout_s or tick * TICK_S % self.bouts_every_s < self.bout_s)

    def schedule(self, rng: np.random.Generator, runs: int, ticks: int) -> Schedule:
        """One arm's failure rate at every tick."""
        lost = np.zeros((ticks, runs), dtype=np.float32)
        for run in range(runs):
            for begin_s in self._beginnings(rng, ticks * TICK_S):
                end_s = begin_s + rng.uniform(self.shortest_s, self.longest_s)
                first, last = int(begin_s / TICK_S), min(int(end_s / TICK_S), ticks - 1)
                met = np.ones(last - first + 1, dtype=np.float32)
                met[0] -= begin_s / TICK_S - first
                met[-1] -= max(0.0, last + 1 - end_s / TICK_S)
                lost[first : last + 1, run] = np.maximum(
                    lost[first : last + 1, run], met * rng.uniform(self.share, 1.0)
                )
        return lambda tick: np.maximum(lost[tick], BASE_RATE)

    def _beginnings(self, rng: np.random.Generator, length_s: float) -> list[float]:
        if self.bout_s:
            starts = np.arange(0.0, length_s, self.bouts_every_s)
            return [float(s) for s in starts[rng.random(len(starts)) < self.bouts_every_s / self.between_s]]
        found, at_s = [], float(rng.exponential(self.between_s))
        while at_s < length_s:
            found.append(at_s)
            at_s += self.longest_s + float(rng.exponential(self.between_s))
        return found


SECONDS = World("1 to 3 s every 300 s", 300.0, 1.0, 3.0)
ROWS: tuple[tuple[World, float, float], ...] = (
    (SECONDS, 200.0, 0.05),
    (SECONDS, 200.0, 0.5),
    (SECONDS, 20.0, 0.05),
    (World("1 to 3 s every 300 s, 30 % of requests and more", 300.0, 1.0, 3.0, 0.3), 200.0, 0.05),
    (World("0.3 s every 5 s", 5.0, 0.3, 0.3), 200.0, 0.05),
    (World("0.6 s every 20 s", 20.0, 0.6, 0.6), 200.0, 0.05),
    (World("0.3 s every 20 s", 20.0, 0.3, 0.3), 20.0, 0.2),
    (World("0.3 s every 20 s", 20.0, 0.3, 0.3), 200.0, 0.05),
    (World("0.3 s every 20 s", 20.0, 0.3, 0.3), 2000.0, 0.05),
    (World("traffic in bouts of 2 s every 20 s, some begin with a pause", 60.0, 0.3, 0.3, 1.0, 2.0, 20.0), 500.0, 0.05),
)
DENSE: tuple[tuple[Rates, float, float, float], ...] = (
    (Rates(0.01, 0.015), 10_000.0, 0.5, 0.0),
    (Rates(0.01, 0.02), 10_000.0, 0.05, 0.0),
    (Rates(0.05, 0.075), 2_000.0, 0.5, 0.0),
    (Rates(0.002, 0.02), 200.0, 0.5, HEALTHY_S),
    (Rates(0.002, 0.02), 200.0, 0.05, 0.0),
    (Rates(0.002, 1.0), 2_000.0, 0.05, 0.0),
    (Rates(0.002, 1.0), 2_000.0, 0.05, HEALTHY_S),
    (Rates(0.002, 1.0), 20.0, 0.2, 0.0),
)


@dataclass(frozen=True)
class Alarms:
    """Healthy canaries that were convicted: by the engine, by requests alone, and by the candidate."""

    table: str
    world: str
    requests_per_s: float
    weight: float
    alpha: float
    runs: int
    alarms: int
    upper: float
    alarms_by_requests: int
    alarms_by_moments: int
    upper_by_moments: float


@dataclass(frozen=True)
class Conviction:
    """Mean seconds to FAIL, from the first bad request on, beside the limit."""

    table: str
    stable: float
    canary: float
    requests_per_s: float
    weight: float
    healthy_s: float
    alpha: float
    runs: int
    limit_s: float
    mean_s: float
    mean_s_by_requests: float
    mean_s_by_moments: float


def simulate(
    arms: tuple[Schedule, Schedule],
    requests_per_s: float,
    weight: float,
    seconds: float,
    runs: int,
    rng: np.random.Generator,
    traffic: Callable[[int], float] = lambda _tick: 1.0,
) -> tuple[Floats, Floats, Floats]:
    """Seconds to FAIL of each rollout (infinite: never): by the engine, by requests alone, by the candidate.

    The schedules begin ``PAST_S`` before the rollout does.
    """
    needed, per_tick, before = (
        -math.log(ALPHA * detection.ERRORS_SHARE),
        requests_per_s * TICK_S,
        round(PAST_S / TICK_S),
    )
    past = StablePast(runs)
    for tick in range(before):
        trials = rng.poisson(per_tick * traffic(tick), runs)
        past.take(trials.astype(float), rng.binomial(trials, arms[0](tick)).astype(float), TICK_S)
    engine, guard, moments = detection.Engine(runs, needed), Guard(runs), Moments(runs, needed, past)
    found = np.full((3, runs), np.inf)
    for tick in range(before, before + round(seconds / TICK_S)):
        trials = rng.poisson(np.array([[1.0 - weight], [weight]]) * per_tick * traffic(tick), (2, runs))
        events = [rng.binomial(n, arm(tick)) for n, arm in zip(trials, arms, strict=True)]
        counts = np.stack([events[0], trials[0], events[1], trials[1]], axis=1).astype(np.float64)
        engine.take(counts)
        guard.take(counts)
        moments.take(counts, TICK_S)
        past.take(counts[:, 1], counts[:, 0], TICK_S)
        believed = guard.guarded(engine.log_e) if (engine.log_e >= needed).any() else engine.log_e
        for first_s, log_e in zip(found, (believed, engine.log_e, moments.log_e), strict=True):
            first_s[(log_e >= needed) & np.isinf(first_s)] = (tick + 1 - before) * TICK_S
        if np.isfinite(found).all():
            break
    return found[0], found[1], found[2]


def healthy(world: World, requests_per_s: float, weight: float, runs: int, rng: np.random.Generator) -> Alarms:
    """One row of healthy canaries."""
    ticks = round((PAST_S + LENGTH_S) / TICK_S)
    arms = world.schedule(rng, runs, ticks), world.schedule(rng, runs, ticks)
    found = simulate(arms, requests_per_s, weight, LENGTH_S, runs, rng, world.traffic)
    engine, plain, moments = (int(np.isfinite(one).sum()) for one in found)
    where = (world.name, requests_per_s, weight, ALPHA, runs)
    return Alarms("weather", *where, engine, upper_bound(engine, runs), plain, moments, upper_bound(moments, runs))


def worse(
    truth: Rates, requests_per_s: float, weight: float, healthy_s: float, runs: int, rng: np.random.Generator
) -> Conviction:
    """One row of bad canaries."""
    since = round((PAST_S + healthy_s) / TICK_S)

    def canary(tick: int) -> Floats:
        return np.full(runs, truth.canary if tick >= since else truth.stable)

    arms = (lambda _tick: np.full(runs, truth.stable)), canary
    found = simulate(arms, requests_per_s, weight, healthy_s + DENSE_S, runs, rng)
    seconds = [float(np.mean(one - healthy_s)) for one in found]
    limit_s = requests_at_limit(truth, NOT_WORSE, weight, ALPHA) / requests_per_s if truth.canary < 1.0 else 0.0
    return Conviction("dense", *truth, requests_per_s, weight, healthy_s, ALPHA, runs, limit_s, *seconds)


def main(arguments: Sequence[str] | None = None) -> int:
    """Both tables. Returns 0: no row is a promise."""
    asked = options("False alarms in everyday weather, and how fast dense traffic is judged.", 100).parse_args(
        arguments
    )
    found: list[Alarms | Conviction] = []
    print("| stable -> canary | requests/s | weight | healthy | limit | engine | by requests alone | candidate |")
    print("|---|---|---|---|---|---|---|---|")
    for i, kind in enumerate(DENSE):
        one = worse(*kind, min(asked.runs, DENSE_RUNS), np.random.default_rng([asked.seed, 102, i]))
        found.append(one)
        print(
            f"| {100 * one.stable:g} -> {100 * one.canary:g} % | {one.requests_per_s:g} | {100 * one.weight:g} % |"
            f" {one.healthy_s:g} s | {one.limit_s:.1f} s | {one.mean_s:.1f} s | {one.mean_s_by_requests:.1f} s |"
            f" {one.mean_s_by_moments:.1f} s |",
            flush=True,
        )
        write(asked.out, found)
    print("\n| world | requests/s | weight | engine | by requests alone | candidate |\n|---|---|---|---|---|---|")
    for i, (world, *where) in enumerate(ROWS):
        row = healthy(world, where[0], where[1], asked.runs, np.random.default_rng([asked.seed, 101, i]))
        found.append(row)
        print(
            f"| {row.world} | {row.requests_per_s:g} | {100 * row.weight:g} % | {row.alarms} of {row.runs} |"
            f" {row.alarms_by_requests} | {row.alarms_by_moments} ({100 * row.upper_by_moments:.2f} %) |",
            flush=True,
        )
        write(asked.out, found)
    return finish(asked, found)


if __name__ == "__main__":
    sys.exit(main())
