"""Everyday weather: both arms alike, with bad moments of seconds or traffic in bouts; and dense traffic.

    python -m loadtests.statistics.weather [--runs 100] [--seed 1] [--out weather.jsonl]

Three judges look at the same rollouts, ten times a second: `errors` among the default metrics, with what an hour of
stable's past says of its bad moments (trimmed.py); the same where nothing is known of stable (guard.py); and requests
alone. The trimming is the engine's own code, given the batches of the array engine of detection.py; tests/statistics
holds both equal to the engine. Nothing here is promised to be below alpha: the tables say what is.

The dense rows need no bad moments: how long a canary that is worse from its first request on lives, beside the
information limit for all of alpha.
"""

from __future__ import annotations

import functools
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gateway.core.analysis.betting import wealth
from gateway.core.analysis.betting.eprocess import NOT_WORSE, Rates, TrialBatch
from gateway.core.analysis.bursts import past, trimmed
from gateway.core.analysis.bursts.past import StablePast, Weather
from gateway.core.analysis.metrics import rates
from gateway.core.analysis.sizing.limit import requests_at_limit
from loadtests.statistics import detection
from loadtests.statistics.bursts import BASE_RATE, TICK_S, Guard, Schedule
from loadtests.statistics.detection import Floats
from loadtests.statistics.lines import finish, options, upper_bound, write

PAST_S = 3600.0
# So many pasts of stable are drawn for each world, and shared by its rollouts.
PASTS = 20
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
        if math.isinf(self.between_s):
            return []
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
QUIET = World("none", math.inf, 0.0, 0.0)
DENSE: tuple[tuple[World, Rates, float, float, float], ...] = (
    (QUIET, Rates(0.01, 0.015), 10_000.0, 0.5, 0.0),
    (QUIET, Rates(0.01, 0.02), 10_000.0, 0.05, 0.0),
    (QUIET, Rates(0.05, 0.075), 2_000.0, 0.5, 0.0),
    (QUIET, Rates(0.002, 0.02), 200.0, 0.5, HEALTHY_S),
    (QUIET, Rates(0.002, 0.02), 200.0, 0.05, 0.0),
    (QUIET, Rates(0.002, 0.02), 20.0, 0.2, 0.0),
    (QUIET, Rates(0.002, 1.0), 2_000.0, 0.05, 0.0),
    (QUIET, Rates(0.002, 1.0), 2_000.0, 0.05, HEALTHY_S),
    (QUIET, Rates(0.002, 1.0), 20.0, 0.2, 0.0),
    (QUIET, Rates(0.002, 1.0), 2.0, 0.2, 0.0),
    (SECONDS, Rates(0.002, 0.02), 200.0, 0.05, 0.0),
    (SECONDS, Rates(0.002, 1.0), 200.0, 0.05, 0.0),
    (World("0.3 s every 5 s", 5.0, 0.3, 0.3), Rates(0.002, 1.0), 200.0, 0.05, 0.0),
)


@dataclass(frozen=True)
class Alarms:
    """Healthy canaries that were convicted: with stable's past known, unknown, and by requests alone."""

    table: str
    world: str
    requests_per_s: float
    weight: float
    alpha: float
    runs: int
    alarms: int
    upper: float
    alarms_unknown: int
    alarms_by_requests: int


@dataclass(frozen=True)
class Conviction:
    """Mean seconds to FAIL, from the first bad request on, beside the limit; `DENSE_S` counts for what had none."""

    table: str
    world: str
    stable: float
    canary: float
    requests_per_s: float
    weight: float
    healthy_s: float
    alpha: float
    runs: int
    limit_s: float
    mean_s: float
    mean_s_unknown: float
    mean_s_by_requests: float


@functools.cache
def weathers(world: World, requests_per_s: float, base: float) -> tuple[Weather, ...]:
    """What was learnt of stable in an hour, `PASTS` times."""
    found, ticks = [], round(PAST_S / TICK_S)
    rng = np.random.default_rng([7, round(requests_per_s)])
    traffic = np.array([world.traffic(tick) for tick in range(ticks)]) * requests_per_s * TICK_S
    for _ in range(PASTS):
        schedule, known = world.schedule(rng, 1, ticks), StablePast(at_s=0.0)
        trials = rng.poisson(traffic)
        failures = rng.binomial(trials, np.maximum([schedule(tick)[0] for tick in range(ticks)], base))
        for tick, (requests, failed) in enumerate(zip(trials.tolist(), failures.tolist(), strict=True)):
            known = past.add(known, (tick + 1) * TICK_S, requests, failed)
        found.append(past.weather(known))
    return tuple(found)


class Trimming(detection.Engine):
    """The array engine, and beside it `trimmed.Trimmed` of each rollout, which gets the same batches."""

    def __init__(self, needed: float, known: Sequence[Weather], begin_s: float = TICK_S) -> None:
        super().__init__(len(known), needed)
        rules = [trimmed.rule(one) or trimmed.TrimmingRule() for one in known]
        self.states = [trimmed.fresh(one, begin_s, rates.BAD_PRIORS, wealth.HELD_BACK) for one in rules]
        self.convicted_s = np.full(len(known), np.inf)
        self._fed: set[int] = set()

    def _closing(self, which: npt.NDArray[np.intp], batch: Floats) -> None:
        gains = self._gains(self._stable_guess(which), batch)
        for run, gain in zip(which.tolist(), gains.T.tolist(), strict=True):
            self.states[run] = trimmed.gain(self.states[run], gain)
            self._fed.add(run)

    def look(self, counts: Floats, at_s: float, guard: Guard) -> None:
        """One look at every rollout that was not convicted yet; ``guard`` has seen it already."""
        self._fed.clear()
        self.take(counts)
        guarded = guard.guarded(self.log_e)
        for run in np.flatnonzero(np.isinf(self.convicted_s)).tolist():
            seen = TrialBatch(*map(int, counts[run]))
            state = self.states[run] = trimmed.take(self.states[run], seen, at_s, rates.BAD_PRIORS)
            if trimmed.sparse(state):
                if guarded[run] >= self.needed:
                    self.convicted_s[run] = at_s
            elif run in self._fed:
                # Never above what is left with no stretch.
                most = wealth.sum_logs([a + b for a, b in zip(state.free[0], state.gains, strict=True)])
                if most >= self.needed - 1.0 and trimmed.log_e(state, rates.BAD_PRIORS) >= self.needed:
                    self.convicted_s[run] = at_s


def simulate(
    arms: tuple[Schedule, Schedule],
    requests_per_s: float,
    weight: float,
    seconds: float,
    known: Sequence[Weather],
    rng: np.random.Generator,
    traffic: Callable[[int], float] = lambda _tick: 1.0,
) -> tuple[Floats, Floats, Floats]:
    """Seconds to FAIL of each rollout (infinite: never): stable's past known, unknown, and by requests alone."""
    needed, per_tick, runs = -math.log(ALPHA * detection.ERRORS_SHARE), requests_per_s * TICK_S, len(known)
    engine, guard = Trimming(needed, known), Guard(runs)
    unknown_s, plain_s = np.full(runs, np.inf), np.full(runs, np.inf)
    for tick in range(round(seconds / TICK_S)):
        trials = rng.poisson(np.array([[1.0 - weight], [weight]]) * per_tick * traffic(tick), (2, runs))
        events = [rng.binomial(n, arm(tick)) for n, arm in zip(trials, arms, strict=True)]
        counts = np.stack([events[0], trials[0], events[1], trials[1]], axis=1).astype(np.float64)
        at_s = (tick + 1) * TICK_S
        guard.take(counts)
        engine.look(counts, at_s, guard)
        believed = guard.guarded(engine.log_e)
        for first_s, log_e in ((unknown_s, believed), (plain_s, engine.log_e)):
            first_s[(log_e >= needed) & np.isinf(first_s)] = at_s
        if np.isfinite([engine.convicted_s, unknown_s, plain_s]).all():
            break
    return engine.convicted_s, unknown_s, plain_s


def _of(pasts: Sequence[Weather], runs: int) -> list[Weather]:
    return [pasts[run % len(pasts)] for run in range(runs)]


def healthy(world: World, requests_per_s: float, weight: float, runs: int, rng: np.random.Generator) -> Alarms:
    """One row of healthy canaries."""
    ticks = round(LENGTH_S / TICK_S)
    arms = world.schedule(rng, runs, ticks), world.schedule(rng, runs, ticks)
    known = _of(weathers(world, requests_per_s, BASE_RATE), runs)
    found = simulate(arms, requests_per_s, weight, LENGTH_S, known, rng, world.traffic)
    ours, unknown, plain = (int(np.isfinite(one).sum()) for one in found)
    where = (world.name, requests_per_s, weight, ALPHA, runs)
    return Alarms("weather", *where, ours, upper_bound(ours, runs), unknown, plain)


def worse(
    world: World,
    truth: Rates,
    requests_per_s: float,
    weight: float,
    healthy_s: float,
    runs: int,
    rng: np.random.Generator,
) -> Conviction:
    """One row of bad canaries."""
    since, seconds = round(healthy_s / TICK_S), healthy_s + DENSE_S
    moments = [world.schedule(rng, runs, round(seconds / TICK_S)) for _ in range(2)]

    def stable(tick: int) -> Floats:
        return np.maximum(moments[0](tick), truth.stable)

    def canary(tick: int) -> Floats:
        return np.maximum(moments[1](tick), truth.canary if tick >= since else truth.stable)

    known = _of(weathers(world, requests_per_s, truth.stable), runs)
    found = simulate((stable, canary), requests_per_s, weight, seconds, known, rng, world.traffic)
    means = [float(np.mean(np.minimum(one - healthy_s, DENSE_S))) for one in found]
    limit_s = requests_at_limit(truth, NOT_WORSE, weight, ALPHA) / requests_per_s if truth.canary < 1.0 else 0.0
    where = (world.name, *truth, requests_per_s, weight, healthy_s, ALPHA, runs)
    return Conviction("dense", *where, limit_s, *means)


def main(arguments: Sequence[str] | None = None) -> int:
    """Both tables. Returns 0: no row is a promise."""
    asked = options("False alarms in everyday weather, and how fast dense traffic is judged.", 100).parse_args(
        arguments
    )
    found: list[Alarms | Conviction] = []
    print("| bad moments | stable -> canary | requests/s | weight | healthy | limit | mean | unknown | by requests |")
    print("|---|---|---|---|---|---|---|---|---|")
    for i, kind in enumerate(DENSE):
        one = worse(*kind, min(asked.runs, DENSE_RUNS), np.random.default_rng([asked.seed, 102, i]))
        found.append(one)
        print(
            f"| {one.world} | {100 * one.stable:g} -> {100 * one.canary:g} % | {one.requests_per_s:g} |"
            f" {100 * one.weight:g} % | {one.healthy_s:g} s | {one.limit_s:.1f} s | {one.mean_s:.1f} s |"
            f" {one.mean_s_unknown:.1f} s | {one.mean_s_by_requests:.1f} s |",
            flush=True,
        )
        write(asked.out, found)
    print("\n| world | requests/s | weight | convicted (bound) | unknown | by requests |\n|---|---|---|---|---|---|")
    for i, (world, *where) in enumerate(ROWS):
        row = healthy(world, where[0], where[1], asked.runs, np.random.default_rng([asked.seed, 101, i]))
        found.append(row)
        print(
            f"| {row.world} | {row.requests_per_s:g} | {100 * row.weight:g} % | {row.alarms} of {row.runs}"
            f" ({100 * row.upper:.2f} %) | {row.alarms_unknown} | {row.alarms_by_requests} |",
            flush=True,
        )
        write(asked.out, found)
    return finish(asked, found)


if __name__ == "__main__":
    sys.exit(main())
