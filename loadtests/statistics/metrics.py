"""False alarms of everything but the failure classes: labelled events, latencies, guardrails, the split; and the bake.

    python -m loadtests.statistics.metrics [--runs 8000] [--seed 1] [--out metrics.jsonl]

Each row is one metric that alone may use all of alpha, on arms without a difference (a guardrail: on a canary exactly
at its limit, which is the hardest to spare), convicted at ANY look; a quarter of the runs for latency and the bake of
errors, which take longest:

events      labelled events with the request as unit, each direction that can be worse: 1,000 looks at 20 requests
votes       labelled events with the slice as unit: 300 slices of a second, each arm pausing for 300 ms now and then
latency     quantiles of stable's past, without the default tolerance: 120 slices, the same pauses; and latencies of
            requests and of event streams whose clients leave (impatience.py)
guardrail   of failures (1,000 looks at 5 canary requests) and of a latency (300 slices)
split       requests that are routed as the weight says, while that rises: 1,000 looks at 20 requests
bake        CUSUMs in the minutes after promotion, 95 % of traffic with the canary: errors (independent, drifting, and
            in bursts with the guard of bursts.py), latency and guardrails

Where the engine's own functions would take hours their arithmetic is repeated over arrays, one row of an array per
rollout; tests/statistics proves that both agree. Latency is the engine's own code.
"""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gateway.core.analysis import LatencySpec
from gateway.core.analysis.betting import wealth
from gateway.core.analysis.betting.eprocess import RATE_MIN
from gateway.core.analysis.evidence.intake import Arrival
from gateway.core.analysis.metrics import event_slices, guardrails, rates, sample_ratio, time_slices
from gateway.core.analysis.metrics.kind import TICK_S
from gateway.core.analysis.metrics.rates import Prior
from gateway.core.stats import Counts, bucket_of
from loadtests.statistics import bursts, detection, impatience
from loadtests.statistics.detection import LOG_RATIOS, grown
from loadtests.statistics.lines import alarms_in, finish, options, upper_bound

Floats = npt.NDArray[np.float64]
Which = npt.NDArray[np.intp]
Schedule = Callable[[float], float]

ALPHAS = (0.05, 0.01)
LOOKS = 1000
LOOK_REQUESTS = 20
SLICES = 300
LATENCY_SLICES = 120
BAKE_S = 300.0
# The horizon of judge.bake for that time.
HORIZON = math.ceil(BAKE_S / TICK_S) + 8
HOLDOUT = 0.05
DIRECTIONS = {"higher": (False,), "lower": (True,), "different": (False, True)}


class Wealths:
    """`wealth.Wealth` over arrays: log-wealths as [guess, rollout]."""

    def __init__(self, runs: int, priors: Sequence[float], held_back: float, horizon: int = 0) -> None:
        self.priors = np.log(np.array(priors))[:, None]
        self.held_back = 0.0 if horizon else held_back
        self.horizon = horizon
        self.logs = np.tile(self.priors + math.log1p(-self.held_back), (1, runs))
        self.bets = np.zeros(runs)

    def after(self, which: Which, gains: Floats) -> tuple[Floats, Floats]:
        """The log-wealths and log E of some rollouts after one more bet each."""
        logs, bets = self.logs[:, which], self.bets[which]
        if self.horizon:
            logs = np.maximum(logs, self.priors) + gains
            return logs, np.logaddexp.reduce(logs, axis=0) - math.log(self.horizon)
        before, left = (self.held_back / np.log2(count + 2.0) for count in (bets, bets + 1.0))
        return grown(logs, np.log(before - left) + self.priors, gains, np.log(left))

    def grow(self, which: Which, gains: Floats) -> Floats:
        """Bet, and say log E of these rollouts."""
        self.logs[:, which], log_e = self.after(which, gains)
        self.bets[which] += 1.0
        return log_e


class Tests:
    """`rates.advance` for one metric over arrays: batches, their closing rule, and a test per direction."""

    __test__ = False

    def __init__(self, runs: int, needed: float, prior: Prior, mirrored: Sequence[bool], horizon: int = 0) -> None:
        self.needed, self.prior, self.mirrored = needed, prior, mirrored
        self.labelled = prior == rates.LABELLED_PRIOR
        self.bad = [Wealths(runs, rates.BAD_PRIORS, wealth.HELD_BACK, horizon) for _ in mirrored]
        start = -math.log(horizon) if horizon else 0.0
        self.each = np.full((runs, len(mirrored)), start)
        self.past = np.zeros((runs, 2))
        self.open = np.zeros((runs, 4))

    def take(self, counts: Floats, may_close: bool = True) -> None:
        """Add one look's [runs, (stable events, stable trials, canary events, canary trials)]."""
        self.open += counts
        if not may_close:
            return
        scarce = np.minimum(self.open[:, 1], self.open[:, 3])
        first = (self.past[:, 1] == 0.0) & (self.open[:, 1] >= rates.FIRST_STABLE) & (self.open[:, 3] > 0)
        learns = first if self.labelled else np.zeros_like(first)
        closes = (scarce >= rates.SCARCE_MAX) | learns
        unsure = np.flatnonzero((scarce > 0) & ~closes)
        for mirrored, bad in zip(self.mirrored, self.bad, strict=True):
            worst = self.open[unsure].copy()
            worst[:, 0], worst[:, 2] = (worst[:, 1], 0.0) if mirrored else (0.0, worst[:, 3])
            closes[unsure] |= bad.after(unsure, self._gains(unsure, worst, mirrored))[1] >= self.needed
        done = np.flatnonzero(closes)
        if not done.size:
            return
        batch = self.open[done]
        bets = done[~learns[done]]
        for index, (mirrored, bad) in enumerate(zip(self.mirrored, self.bad, strict=True)):
            self.each[bets, index] = bad.grow(bets, self._gains(bets, self.open[bets], mirrored))
        past = self.past[done] + batch[:, :2]
        long = past[:, 1] > rates.PAST_MAX
        past[long] *= (0.5 * rates.PAST_MAX / past[long, 1])[:, None]
        self.past[done] = past
        self.open[done] = 0.0

    @property
    def log_e(self) -> Floats:
        """The average over directions."""
        return np.asarray(np.logaddexp.reduce(self.each, axis=1) - math.log(len(self.mirrored)))

    def _gains(self, which: Which, batch: Floats, mirrored: bool) -> Floats:
        past = self.past[which]
        guess = (past[:, 0] + self.prior.events) / (past[:, 1] + self.prior.trials)
        stable = np.clip(guess, RATE_MIN, 1.0 - RATE_MIN)
        return detection.gains(stable, -LOG_RATIOS if mirrored else LOG_RATIOS, batch)


@dataclass(frozen=True)
class Alarms:
    """One metric in one world: rollouts that were ever convicted, and the 95 % upper bound of their share."""

    table: str
    metric: str
    world: str
    alpha: float
    runs: int
    alarms: int
    upper: float


def _row(metric: str, world: str, alpha: float, highest: Floats) -> Alarms:
    alarms, runs = int((highest >= -math.log(alpha)).sum()), len(highest)
    return Alarms("metrics", metric, world, alpha, runs, alarms, upper_bound(alarms, runs))


def _draw(rng: np.random.Generator, rate: Floats | float, weight: float, requests: int, runs: int) -> Floats:
    trials_c = rng.binomial(requests, weight, runs)
    trials_s = requests - trials_c
    events = rng.binomial(trials_s, rate), rng.binomial(trials_c, rate)
    return np.stack([events[0], trials_s, events[1], trials_c], axis=1).astype(np.float64)


def _ramp(t: float) -> float:
    return (0.01, 0.05, 0.25, 0.5)[min(int(4.0 * t), 3)]


# The common rate, and the canary's weight, at a share of the rollout.
WORLDS: dict[str, tuple[Schedule, Schedule]] = {
    "30 %": (lambda _: 0.3, lambda _: 0.1),
    "5 to 60 %, ramp": (lambda t: 0.05 + 0.55 * t, _ramp),
}


def events(direction: str, world: str, alpha: float, runs: int, rng: np.random.Generator) -> Floats:
    """The highest log E of labelled events with the request as unit."""
    rate_at, weight_at = WORLDS[world]
    tests = Tests(runs, -math.log(alpha), rates.LABELLED_PRIOR, DIRECTIONS[direction])
    highest = np.zeros(runs)
    for look in range(LOOKS):
        t = look / LOOKS
        tests.take(_draw(rng, rate_at(t), weight_at(t), LOOK_REQUESTS, runs))
        np.maximum(highest, tests.log_e, out=highest)
    return highest


def paused(rng: np.random.Generator, rate: float, requests: Floats, share: float = 0.3) -> Floats:
    """Events of slices of a second: each has a pause with probability 1 / 20, which meets ``share`` of its requests."""
    pause = rng.random(requests.shape) < 1.0 / bursts.PAUSES_EVERY_S
    whole = requests.astype(np.int64)
    met = np.where(pause, rng.binomial(whole, share), 0)
    return np.asarray(met + rng.binomial(whole - met, rate), dtype=np.float64)


def voted(weight: float, runs: int, rng: np.random.Generator, slices_n: int = SLICES) -> Floats:
    """The highest log E of labelled events with the slice as unit, 200 requests per second, under pauses."""
    bad, everyone, highest = Wealths(runs, event_slices.BAD_PRIORS, wealth.HELD_BACK), np.arange(runs), np.zeros(runs)
    for _ in range(slices_n):
        trials = [np.maximum(rng.poisson(200.0 * share, runs), 1).astype(float) for share in (1.0 - weight, weight)]
        stable, canary = (paused(rng, 0.02, n) / n for n in trials)
        np.maximum(highest, bad.grow(everyone, vote_gains(stable, canary)), out=highest)
    return highest


def vote_gains(stable: Floats, canary: Floats) -> Floats:
    """`event_slices.bad_gains` without tolerances, over arrays."""
    return np.asarray(np.log1p(np.array(event_slices.LAMBDAS)[:, None] * (canary - stable)))


# Latencies in 20 shares of buckets; a pause moves everything that it meets beyond them.
_BUCKETS = [bucket_of(int(us)) for us in 40_000 * np.exp(0.35 * np.linspace(-2.0, 2.0, 20))]
_SHARES = np.exp(-0.5 * np.linspace(-2.0, 2.0, 20) ** 2)
_SHARES /= _SHARES.sum()
_PAUSED = bucket_of(340_000)
SHARP = LatencySpec(tolerance_ratio=1.0, tolerance_us=0)


def latency(weight: float, runs: int, rng: np.random.Generator, horizon: int = 0) -> Floats:
    """The highest log E of latency (engine's own code), 100 requests per second."""
    highest = np.zeros(runs)
    for run in range(runs):
        counts = [
            _latencies(rng, np.maximum(rng.poisson(100.0 * share, LATENCY_SLICES), 1))
            for share in (1.0 - weight, weight)
        ]
        state = time_slices.fresh(SHARP)
        if horizon:
            state = time_slices.baked(state, horizon)
        for second, arms in enumerate(zip(*counts, strict=True)):
            state = time_slices.take(state, SHARP, [Arrival(1, arms[0], arms[1])], [1], float(second))
            highest[run] = max(highest[run], time_slices.log_e_bad(state))
    return highest


def _latencies(rng: np.random.Generator, requests: npt.NDArray[np.int64]) -> list[Counts]:
    met = rng.binomial(requests, 0.3) * (rng.random(len(requests)) < 1.0 / bursts.PAUSES_EVERY_S)
    found = rng.multinomial(requests - met, _SHARES).tolist()
    out = []
    for trials, slow, row in zip(requests.tolist(), met.tolist(), found, strict=True):
        histogram: dict[int, int] = {_PAUSED: slow} if slow else {}
        for bucket, n in zip(_BUCKETS, row, strict=True):
            if n:
                histogram[bucket] = histogram.get(bucket, 0) + n
        out.append(Counts(trials, latency=histogram))
    return out


def guarded(limit: float, runs: int, rng: np.random.Generator, horizon: int = 0) -> Floats:
    """The highest log E of a guardrail on failures whose canary fails exactly as often as the limit says."""
    bad, everyone, highest = (
        Wealths(runs, guardrails.PRIORS, wealth.HELD_BACK, horizon),
        np.arange(runs),
        np.zeros(runs),
    )
    for _ in range(HORIZON - 8 if horizon else LOOKS):
        trials = rng.poisson(5.0, runs)
        which = everyone[trials > 0]
        log_e = bad.grow(which, guard_gains(limit, rng.binomial(trials, limit)[which], trials[which]))
        highest[which] = np.maximum(highest[which], log_e)
    return highest


def guard_gains(limit: float, seen: npt.NDArray[np.int64], trials: npt.NDArray[np.int64]) -> Floats:
    """`guardrails.request_gains` over arrays."""
    yes, no = np.array(guardrails.request_gains(limit, 1, 1)), np.array(guardrails.request_gains(limit, 0, 1))
    return np.asarray(seen * yes[:, None] + (trials - seen) * no[:, None])


def guarded_slices(limit: float, runs: int, rng: np.random.Generator, horizon: int = 0) -> Floats:
    """The same of a latency, by slices: pauses make one in twenty slices slow by 30 %, the rest comes by itself."""
    bad, everyone, highest = (
        Wealths(runs, guardrails.PRIORS, wealth.HELD_BACK, horizon),
        np.arange(runs),
        np.zeros(runs),
    )
    share = 0.3 / bursts.PAUSES_EVERY_S
    alone = (limit - share) / (1.0 - share)
    for _ in range(SLICES):
        trials = np.maximum(rng.poisson(20.0, runs), 1).astype(float)
        slow = paused(rng, alone, trials) / trials
        np.maximum(highest, bad.grow(everyone, guard_slice_gains(limit, slow)), out=highest)
    return highest


def guard_slice_gains(limit: float, share: Floats) -> Floats:
    """`guardrails.slice_gains` over arrays."""
    return np.asarray(np.log1p(np.array(guardrails.LAMBDAS)[:, None] * ((share - limit) / limit)))


def routed(runs: int, rng: np.random.Generator) -> Floats:
    """The highest log E of the check of the split."""
    bad, everyone, highest = Wealths(runs, sample_ratio.PRIORS, wealth.HELD_BACK), np.arange(runs), np.zeros(runs)
    for look in range(LOOKS):
        weight = _ramp(look / LOOKS)
        canary = rng.binomial(LOOK_REQUESTS, weight, runs)
        gains = split_gains(weight, LOOK_REQUESTS - canary, canary)
        np.maximum(highest, bad.grow(everyone, gains), out=highest)
    return highest


def split_gains(weight: float, stable: npt.NDArray[np.int64], canary: npt.NDArray[np.int64]) -> Floats:
    """`sample_ratio.gains` over arrays."""
    one_s, one_c = np.array(sample_ratio.gains(weight, 1, 0)), np.array(sample_ratio.gains(weight, 0, 1))
    return np.asarray(stable * one_s[:, None] + canary * one_c[:, None])


def baked(world: str, alpha: float, runs: int, rng: np.random.Generator) -> Floats:
    """The highest log E of `errors` in a bake, 200 requests per second, a look each 100 ms."""
    ticks = round(BAKE_S / bursts.TICK_S)
    tests = Tests(runs, -math.log(alpha), rates.FAILURES_PRIOR, (False,), HORIZON)
    guard = bursts.Guard(runs)
    highest, closed = np.zeros(runs), 0
    if world == "pauses":
        arms = [bursts.pauses(rng, runs, ticks) for _ in (0, 1)]
    else:
        arms = [lambda tick: np.full(runs, 0.002 + (0.05 * tick / ticks if world == "drift" else 0.0))] * 2
    per_tick = 200.0 * bursts.TICK_S
    per_bet = round(TICK_S / bursts.TICK_S)
    for tick in range(ticks):
        trials = [rng.poisson(per_tick * share, runs) for share in (HOLDOUT, 1.0 - HOLDOUT)]
        seen = [rng.binomial(n, arm(tick)) for n, arm in zip(trials, arms, strict=True)]
        counts = np.stack([seen[0], trials[0], seen[1], trials[1]], axis=1).astype(np.float64)
        # Every rollout closes a batch when a second is over, if it may: rarer than judge.py's clock of its own.
        may_close = tick - closed >= per_bet
        closed = tick if may_close else closed
        tests.take(counts, may_close)
        guard.take(counts)
        np.maximum(highest, guard.guarded(tests.log_e), out=highest)
    return highest


def all_rows(runs: int, seed: int) -> Iterator[Alarms]:
    """Every row; those without an alpha of their own are judged at each alpha on the same rollouts."""

    def rng(*kind: int) -> np.random.Generator:
        return np.random.default_rng([seed, 71, *kind])

    few = max(runs // 4, 1)
    for i, direction in enumerate(DIRECTIONS):
        for j, world in enumerate(WORLDS):
            for a, alpha in enumerate(ALPHAS):
                yield _row(f"event, {direction}", world, alpha, events(direction, world, alpha, runs, rng(0, i, j, a)))
    shared: list[tuple[str, str, Callable[[np.random.Generator], Floats]]] = [
        ("event by slices", "pauses, 5 %", lambda r: voted(0.05, runs, r)),
        ("event by slices", "pauses, 50 %", lambda r: voted(0.5, runs, r)),
        ("latency", "pauses, 5 %", lambda r: latency(0.05, few, r)),
        ("latency", "pauses, 50 %", lambda r: latency(0.5, few, r)),
        ("guardrail of errors", "at 1 %", lambda r: guarded(0.01, runs, r)),
        ("guardrail of errors", "at 10 %", lambda r: guarded(0.1, runs, r)),
        ("guardrail of latency", "pauses, at 5 %", lambda r: guarded_slices(0.05, runs, r)),
        ("split", "ramp", lambda r: routed(runs, r)),
        ("bake: latency", "pauses, 95 %", lambda r: latency(1.0 - HOLDOUT, few, r, LATENCY_SLICES + 8)),
        ("bake: guardrail of errors", "at 1 %", lambda r: guarded(0.01, runs, r, HORIZON)),
        ("bake: guardrail of latency", "pauses, at 5 %", lambda r: guarded_slices(0.05, runs, r, SLICES + 8)),
    ]
    for i, (metric, world, simulate) in enumerate(shared):
        highest = simulate(rng(1, i))
        yield from (_row(metric, world, alpha, highest) for alpha in ALPHAS)
    for i, (metric, world) in enumerate(itertools.product(("latency", "gap"), impatience.WORLDS)):
        highest = impatience.equal(metric, world, few, rng(3, i))
        yield from (_row(f"{metric}, clients leave", f"patience: {world}", alpha, highest) for alpha in ALPHAS)
    for i, world in enumerate(("independent", "drift", "pauses")):
        for a, alpha in enumerate(ALPHAS):
            yield _row("bake: errors", world, alpha, baked(world, alpha, few, rng(2, i, a)))


def main(arguments: Sequence[str] | None = None) -> int:
    """The table; returns 1 when a bound exceeds its alpha."""
    asked = options("False alarms of the metrics beside failures, and of the bake.", 8000).parse_args(arguments)
    found = []
    print("| metric | world | alpha | false alarms | 95 % upper bound |\n|---|---|---|---|---|")
    for row in all_rows(asked.runs, asked.seed):
        found.append(row)
        share = f"{alarms_in(row)}"
        print(f"| {row.metric} | {row.world} | {row.alpha:g} | {share} |", flush=True)
    return finish(asked, found, found)


if __name__ == "__main__":
    sys.exit(main())
