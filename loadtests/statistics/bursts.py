"""Failures that come in bursts: false alarms of healthy canaries, and how soon broken ones are convicted.

    python -m loadtests.statistics.bursts [--runs 2000] [--seed 1] [--out guard.jsonl]

Each arm, by itself, pauses for 300 ms now and then, and everything that it should have answered meanwhile fails; or one
of its two endpoints restarts, and whatever was open there fails at once. The weight decides how many requests a burst
meets, not how often one comes. `errors` among the four default metrics (its share of alpha), default settings, a look
each 100 ms (the default), convicted at ANY look of five minutes. Beside it what the requests alone would have decided.

The engine's arithmetic (rates.py as in detection.py, and guard.py) is repeated over arrays, one row of an array per
rollout; tests/statistics proves that both agree.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import betaln

from gateway.core.analysis.bursts import evidence_cap, guard
from gateway.core.analysis.bursts.guard import Tolerance
from loadtests.statistics import detection
from loadtests.statistics.detection import Floats
from loadtests.statistics.lines import alarms_in, finish, options, upper_bound, write

TICK_S = 0.1
CELL_TICKS = 3
AA_S = 300.0
BASE_RATE = 0.002
PAUSE_S = 0.3
PAUSES_EVERY_S = 20.0
RESTARTS_EVERY_S = 60.0
# What is open at an endpoint when it restarts: the requests of this long, of half the arm.
OPEN_S = 0.05
TRAFFIC = (20.0, 200.0, 2000.0)
WEIGHTS = (0.01, 0.05, 0.2, 0.5)
ALPHAS = (0.05, 0.01)
LOG_DEAD = np.log(np.array(guard.DEAD_PRIORS))

Schedule = Callable[[int], Floats]


class Arms:
    """`guard.Arm` over arrays, one for each arm."""

    def __init__(self, runs: int) -> None:
        names = ("events", "trials", "before_events", "before_trials", "all_events", "all_trials")
        for name in (*names, "recent_events", "recent_trials", "quiet", "excess", "expected"):
            setattr(self, name, np.zeros(runs))

    events: Floats
    trials: Floats
    before_events: Floats
    before_trials: Floats
    all_events: Floats
    all_trials: Floats
    recent_events: Floats
    recent_trials: Floats
    quiet: Floats
    excess: Floats
    expected: Floats

    def pairs(self) -> tuple[Floats, Floats]:
        """Excess and expected pairs, with those of the open cell."""
        x, n = self.events, self.trials
        quiet = np.where(self.quiet > 0, self.quiet, guard.QUIET_CELLS * n)
        overall = (self.all_events - self.before_events) / np.maximum(self.all_trials - self.before_trials + quiet, 1.0)
        rate = np.maximum(self.recent_events / np.maximum(self.recent_trials, 1.0), overall)
        expected = x * rate * (n - 1.0 + 2.0 * self.before_trials)
        excess = self.excess + x * (x - 1.0) + 2.0 * x * self.before_events - expected
        return excess, self.expected + expected

    def clumping(self) -> Floats:
        """phi of every run."""
        excess, expected = self.pairs()
        more = np.maximum(excess - guard.CHANCE * np.sqrt(2.0 * expected), 0.0)
        more /= self.all_events + self.events + guard.PRIOR_EVENTS
        return np.asarray(1.0 + more * more / (more + guard.LITTLE))

    def close(self) -> None:
        """Close the open cell of every run."""
        self.excess, self.expected = self.pairs()
        kept = 1.0 - 1.0 / guard.RECENT_CELLS
        quiet = np.where(self.quiet > 0, self.quiet, guard.QUIET_CELLS * self.trials)
        recent = np.where(self.quiet > 0, self.recent_trials, quiet)
        self.recent_events = kept * self.recent_events + self.events
        self.recent_trials = kept * recent + self.trials
        self.quiet = quiet
        self.all_events, self.all_trials = self.all_events + self.events, self.all_trials + self.trials
        self.before_events, self.before_trials = self.events, self.trials
        self.events, self.trials = np.zeros_like(self.events), np.zeros_like(self.trials)


class Guard:
    """`guard.take` and `guard.guarded` over arrays, a cell closing at every ``cell_ticks``-th look."""

    def __init__(self, runs: int, cell_ticks: int = CELL_TICKS, tolerance: Tolerance = guard.NONE) -> None:
        self.arms = (Arms(runs), Arms(runs))
        self.tolerance = tolerance
        self.odds = np.full(runs, tolerance.odds(guard.PRIOR_EVENTS / guard.PRIOR_TRIALS))
        self.dead = np.tile(LOG_DEAD + math.log1p(-guard.DEAD_HELD_BACK), (runs, 1))
        self.bets = np.zeros(runs)
        self.single, self.several, self.last = np.zeros(runs), np.zeros(runs), np.zeros(runs)
        self.log_null, self.before = (np.zeros((runs, len(evidence_cap.SHARES))) for _ in range(2))
        self.neighbours = np.zeros(runs)
        self.ticks = 0
        self.cell_ticks = cell_ticks

    def take(self, counts: Floats) -> None:
        """Add one look's [runs, (stable events, stable trials, canary events, canary trials)]."""
        for index, arm in enumerate(self.arms):
            arm.events = arm.events + counts[:, 2 * index]
            arm.trials = arm.trials + counts[:, 2 * index + 1]
        self.ticks += 1
        # The first look opens the first cell (its time is the cell's beginning).
        if self.ticks > 1 and (self.ticks - 1) % self.cell_ticks == 0:
            self._bet()
            self.single, self.several, self.log_null, self.last, self.before = self._told()
            self.neighbours = self._crowd()
            for arm in self.arms:
                arm.close()
            always = np.maximum(self._always(), guard.MULTIPLE_OF)
            self.odds = self._edge(always) / always

    def _always(self) -> Floats:
        stable = self.arms[0]
        return (stable.all_events + guard.PRIOR_EVENTS) / (stable.all_trials + guard.PRIOR_TRIALS)

    def _edge(self, rate: Floats) -> Floats:
        return np.maximum(self.tolerance.ratio * rate, rate + self.tolerance.delta)

    def _bet(self) -> None:
        stable, canary = self.arms
        both = (stable.trials > 0) & (canary.trials > 0)
        lost = guard.BURST_SHARE + 3.0 * self._always()
        share_s = stable.events / np.maximum(stable.trials, 1.0)
        share_c = canary.events / np.maximum(canary.trials, 1.0)
        before, after = (guard.DEAD_HELD_BACK / np.log2(b + 2.0) for b in (self.bets, self.bets + 1.0))
        for index, guess in enumerate(guard.DEAD_SHARES):
            null_s = np.minimum(0.5 * (guard.SOUND + guess), lost)
            null_c = np.minimum(self._edge(null_s), guess)
            steep = (guess - null_c) / (null_c * (1.0 - null_c)), (null_s - guard.SOUND) / (null_s * (1.0 - null_s))
            gain = _toss(share_c, guess, null_c) + _toss(share_s, guard.SOUND, null_s)
            gain = np.where(steep[0] >= guard.STEEP * steep[1], gain, 0.0)
            grown = np.logaddexp(self.dead[:, index], np.log(before - after) + LOG_DEAD[index]) + gain
            self.dead[:, index] = np.where(both, grown, self.dead[:, index])
        self.bets += both

    def _told(self) -> tuple[Floats, Floats, Floats, Floats, Floats]:
        """Incidents with those of the open cell: single, several, log_null, last, before."""
        events, hit, weight = self.arms[1].events, self._hit(), self._weight()
        sparse = hit < evidence_cap.SPARSE
        some = (events > 0) & ~sparse
        begins, grows = some & (self.last == 0), some & (self.last == 1)
        one, more = self._log_chances(hit, weight)
        alone, together = begins & (events == 1), begins & (events > 1)
        log_null = self.log_null + np.where(alone[:, None], one, 0.0) + np.where(together[:, None], more, 0.0)
        log_null = np.where(grows[:, None], self.before + more, log_null)
        nats = np.where(sparse, events, 0.0) * (evidence_cap.SCATTER - np.log(weight))
        last, before = np.where(begins, events, 0.0), np.where(alone[:, None], self.log_null, 0.0)
        several = self.several + together + grows
        return self.single + alone - grows, several, log_null - nats[:, None], last, before

    def _log_chances(self, hit: Floats, weight: Floats) -> tuple[Floats, Floats]:
        """[runs, shares]: of a single failure, of several."""
        shares, odds = np.array(evidence_cap.SHARES), self.odds[:, None]
        mean = np.outer(hit * weight, shares)
        one = mean * np.exp(-mean)
        more = 1.0 - np.exp(-mean) - one
        seen = odds * (one + more) + 1.0 - np.exp(-np.outer(hit * (1.0 - weight), shares))
        least = evidence_cap.CHANCE_MIN
        seen = np.log(np.maximum(seen, least))
        chances = np.log(np.maximum(odds * one, least)) - seen, np.log(np.maximum(odds * more, least)) - seen
        return np.asarray(chances[0]), np.asarray(chances[1])

    def _worth(self) -> Floats:
        """The most that the incidents are worth."""
        single, several, log_null, *_ = self._told()
        a, b = 0.5, np.maximum(0.5 * np.minimum(self._hit() * self._weight(), 1.0), evidence_cap.PRIOR_MIN)
        bet = betaln(single + a, several + b) - betaln(a, b)
        bet += betaln(single + several + a + b, evidence_cap.STABLES) - betaln(a + b, evidence_cap.STABLES)
        return np.asarray(np.maximum(bet - log_null.max(axis=1), 0.0))

    def _crowd(self) -> Floats:
        """With the open cell."""
        requests = self.arms[0].trials + self.arms[1].trials
        return np.asarray(self.neighbours + requests * (requests - 1.0))

    def _hit(self) -> Floats:
        """The requests of both arms that a burst meets."""
        trials = sum(arm.all_trials + arm.trials for arm in self.arms)
        return np.asarray(self._crowd() / np.maximum(trials, 1.0))

    def _weight(self) -> Floats:
        trials_s, trials_c = (arm.all_trials + arm.trials for arm in self.arms)
        return np.asarray(np.maximum(trials_c, 1.0) / (np.maximum(trials_c, 1.0) + trials_s))

    def guarded(self, log_e: Floats) -> Floats:
        """What counts of log E."""
        phi = np.maximum(self.arms[0].clumping(), self.arms[1].clumping())
        weight = self._weight()
        single = -np.log(weight * self.odds / (1.0 - weight + weight * self.odds))
        left = log_e / (1.0 + (phi - 1.0) * (1.0 + single / np.log1p(1.0 / self.odds)))
        left = np.minimum(left, self._worth())
        rest = np.log(guard.DEAD_HELD_BACK / np.log2(self.bets + 2.0))
        dead = np.logaddexp(np.logaddexp.reduce(self.dead, axis=1), rest) - math.log(2.0)
        return np.where(log_e <= 0.0, log_e, np.minimum(log_e, np.maximum(left, dead)))

    def guarded_ok(self, log_e: Floats) -> Floats:
        """What counts of log E_ok."""
        weight, (phi_s, phi_c) = self._weight(), (arm.clumping() for arm in self.arms)
        clumps = np.maximum((1.0 - weight) * (phi_c - 1.0), weight * (phi_s - 1.0))
        return np.where(log_e <= 0.0, log_e, log_e / (1.0 + 2.0 * guard.WIDER * clumps))


def _toss(share: Floats, guess: float, null: Floats) -> Floats:
    return np.asarray(np.log(share * guess / null + (1.0 - share) * (1.0 - guess) / (1.0 - null)))


@dataclass(frozen=True)
class World:
    """How an arm's failure rate goes with time: rates of one arm per run at a tick, built anew for each arm."""

    name: str
    build: Callable[[np.random.Generator, int, int], Schedule]


def windows(rng: np.random.Generator, runs: int, ticks: int, every_s: float, length_s: float) -> Floats:
    """[ticks, runs]: 1 while a window is open; gaps between windows are exponential."""
    out = np.zeros((ticks, runs))
    length = max(1, round(length_s / TICK_S))
    start = rng.exponential(every_s / TICK_S, runs).astype(int)
    while (start < ticks).any():
        for step in range(length):
            inside = np.flatnonzero(start + step < ticks)
            out[start[inside] + step, inside] = 1.0
        start = start + length + rng.exponential(every_s / TICK_S, runs).astype(int)
    return out


def pauses(rng: np.random.Generator, runs: int, ticks: int) -> Schedule:
    """300 ms in which every request fails, every 20 s on average."""
    open_ = windows(rng, runs, ticks, PAUSES_EVERY_S, PAUSE_S)
    return lambda tick: np.where(open_[tick] > 0, 1.0, BASE_RATE)


def partial(rng: np.random.Generator, runs: int, ticks: int) -> Schedule:
    """300 ms in which a share of the requests fails, from none to all of them alike, every 20 s on average."""
    open_ = windows(rng, runs, ticks, PAUSES_EVERY_S, PAUSE_S)
    begins = open_ > np.concatenate([np.zeros((1, runs)), open_[:-1]])
    began = np.maximum.accumulate(np.where(begins, np.arange(ticks)[:, None], 0))
    shares = np.take_along_axis(rng.random((ticks, runs)), began, axis=0)
    return lambda tick: np.where(open_[tick] > 0, np.maximum(shares[tick], BASE_RATE), BASE_RATE)


def restarts(rng: np.random.Generator, runs: int, ticks: int) -> Schedule:
    """What is open at one of two endpoints fails, every 60 s on average; then the other one answers."""
    open_ = windows(rng, runs, ticks, RESTARTS_EVERY_S, TICK_S)
    return lambda tick: np.where(open_[tick] > 0, BASE_RATE + 0.5 * OPEN_S / TICK_S, BASE_RATE)


def independent(_rng: np.random.Generator, runs: int, _ticks: int) -> Schedule:
    """Failures know nothing of each other."""
    return lambda _tick: np.full(runs, BASE_RATE)


WORLDS = (
    World("pauses", pauses),
    World("restarts", restarts),
    World("independent", independent),
    World("partial pauses", partial),
)


@dataclass(frozen=True)
class Alarms:
    """Healthy canaries that were convicted in five minutes: as the gateway judges, and by requests alone."""

    table: str
    world: str
    requests_per_s: float
    weight: float
    alpha: float
    runs: int
    alarms: int
    upper: float
    alarms_by_requests: int


@dataclass(frozen=True)
class Conviction:
    """A broken canary: median seconds from its first bad request to FAIL, with the guard and by requests alone."""

    table: str
    canary: str
    requests_per_s: float
    weight: float
    alpha: float
    runs: int
    median_s: float
    median_s_by_requests: float


def simulate(
    rates: tuple[Schedule, Schedule],
    requests_per_s: float,
    weight: float,
    ticks: int,
    judges: tuple[detection.Engine, Guard],
    rng: np.random.Generator,
) -> tuple[Floats, Floats]:
    """Seconds to FAIL of each run (infinite: never), as the gateway judges and by requests alone."""
    engine, guard = judges
    runs, needed = len(engine.log_e), engine.needed
    guarded_s, plain_s = np.full(runs, np.inf), np.full(runs, np.inf)
    per_tick = requests_per_s * TICK_S
    for tick in range(ticks):
        trials_s, trials_c = rng.poisson(per_tick * (1.0 - weight), runs), rng.poisson(per_tick * weight, runs)
        events = rng.binomial(trials_s, rates[0](tick)), rng.binomial(trials_c, rates[1](tick))
        counts = np.stack([events[0], trials_s, events[1], trials_c], axis=1).astype(np.float64)
        engine.take(counts)
        guard.take(counts)
        # What is believed is never more than log E.
        believed = guard.guarded(engine.log_e) if (engine.log_e >= needed).any() else engine.log_e
        for value, first_s in ((believed, guarded_s), (engine.log_e, plain_s)):
            first_s[(value >= needed) & np.isinf(first_s)] = (tick + 1) * TICK_S
        if not np.isinf(guarded_s).any():
            break
    return guarded_s, plain_s


def judging(runs: int, alpha: float) -> tuple[detection.Engine, Guard]:
    """`errors` among the four default metrics, default settings, of so many rollouts."""
    return detection.Engine(runs, -math.log(alpha * detection.ERRORS_SHARE)), Guard(runs)


def alarms(
    world: World, requests_per_s: float, weight: float, alpha: float, runs: int, rng: np.random.Generator
) -> Alarms:
    """One row of healthy canaries."""
    ticks = round(AA_S / TICK_S)
    rates = world.build(rng, runs, ticks), world.build(rng, runs, ticks)
    guarded_s, plain_s = simulate(rates, requests_per_s, weight, ticks, judging(runs, alpha), rng)
    found = int(np.isfinite(guarded_s).sum())
    return Alarms(
        "bursts",
        world.name,
        requests_per_s,
        weight,
        alpha,
        runs,
        found,
        upper_bound(found, runs),
        int(np.isfinite(plain_s).sum()),
    )


LATE_S = 30.0
BROKEN: dict[str, tuple[float, float]] = {
    # name: failure rate, from when on
    "dead": (1.0, 0.0),
    "dead after 30 s": (1.0, LATE_S),
    "half fails": (0.5, 0.0),
    "2 % instead of 0.2 %": (0.02, 0.0),
}


def conviction(
    name: str, requests_per_s: float, weight: float, alpha: float, runs: int, rng: np.random.Generator
) -> Conviction:
    """One row of broken canaries, failures independent."""
    rate, since_s = BROKEN[name]

    def canary(tick: int) -> Floats:
        return np.full(runs, rate if tick * TICK_S >= since_s else BASE_RATE)

    rates = independent(rng, runs, 0), canary
    seconds = simulate(rates, requests_per_s, weight, round(240.0 / TICK_S), judging(runs, alpha), rng)
    median, plain = (float(np.median(np.maximum(s - since_s, 0.0))) for s in seconds)
    return Conviction("convictions", name, requests_per_s, weight, alpha, runs, median, plain)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run both tables; returns 1 when a bound of the guarded test exceeds its alpha."""
    asked = options("False alarms and convictions when failures come in bursts.", 2000).parse_args(arguments)
    rows = [(rps, weight) for rps in TRAFFIC for weight in WEIGHTS]
    kinds = [
        (a, i, j)
        for i, world in enumerate(WORLDS)
        for a in range(len(ALPHAS))
        for j, row in enumerate(rows)
        # Of independent failures one traffic will do: detection.py has more of them.
        if world.build is not independent or row[0] == TRAFFIC[1]
    ]
    print("| world | requests/s | weight | alpha | false alarms | 95 % upper bound | by requests alone |")
    print("|---|---|---|---|---|---|---|")
    found: list[Alarms] = []
    for a, i, j in kinds:
        rng = np.random.default_rng([asked.seed, 21, a, i, j])
        row = alarms(WORLDS[i], *rows[j], ALPHAS[a], asked.runs, rng)
        found.append(row)
        plain = f"{100 * row.alarms_by_requests / row.runs:.1f} %"
        print(
            f"| {row.world} | {row.requests_per_s:g} | {100 * row.weight:g} % | {row.alpha:g} |"
            f" {alarms_in(row)} | {plain} |",
            flush=True,
        )
        write(asked.out, found)
    runs = max(asked.runs // 10, 5)
    convicted = [
        conviction(name, *cell, 0.01, runs, np.random.default_rng([asked.seed, 22, i, j]))
        for i, name in enumerate(BROKEN)
        for j, cell in enumerate(rows)
    ]
    print("\n| canary | requests/s | weight | median time to FAIL | by requests alone |\n|---|---|---|---|---|")
    for one in convicted:
        print(
            f"| {one.canary} | {one.requests_per_s:g} | {100 * one.weight:g} % | {_seconds(one.median_s)} |"
            f" {_seconds(one.median_s_by_requests)} |"
        )
    return finish(asked, [*found, *convicted], found)


def _seconds(value: float) -> str:
    return f"{value:.1f} s" if math.isfinite(value) else "more than 240 s"


if __name__ == "__main__":
    sys.exit(main())
