"""Failures inside of answers (`model_errors`): false alarms of two equal versions, and how soon a bad one is convicted.

    python -m loadtests.statistics.answers [--runs 2000] [--seed 1] [--out answers.jsonl]

Each row: 120 s of 50 answers a second that are read, a look each 100 ms, `model_errors` alone with all of alpha and
default settings (labelled event, guarded against bursts), convicted at ANY look. Both versions answer alike, in worlds
of:

constant shares   error bodies, 0.5 % or 10 %; drifting with a ramp of weights; in waves
bursts            each version by itself, for 300 ms every 20 s, answers with nothing but error bodies (as bursts.py)
switching kinds   what counts by stable's past (usual.py): no end marks anywhere, a share that crosses 90 % or 1 %, or
                  stays there; each answer is judged, then learnt, in the order in which they come
bouts             400 requests within the first 200 ms of each second, more than are read, and error bodies towards the
                  end of each bout; with the budgets of proxy/response_sampler.py, and with a budget for each version as
                  a contrast

The arithmetic is that of metrics.py (`Tests`), bursts.py (`Guard`), usual.py (`Switch`) and response_sampler.py
(`Budgets`), over arrays, one row of an array per rollout; tests/statistics proves that they agree with the engine's.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from gateway.config import build
from gateway.config.routes import MatchConfig, RouteConfig
from gateway.core.analysis import budget
from gateway.core.analysis.metrics import rates
from gateway.core.predictions.failures import ERROR, INVALID, MODEL_ERRORS, UNFINISHED
from gateway.core.predictions.form import PAST_MAX, RARE, WARM_UP
from gateway.core.predictions.usual import USUAL
from gateway.proxy.counting import response_sampler
from loadtests.statistics import bursts
from loadtests.statistics.lines import alarms_in, finish, options, upper_bound
from loadtests.statistics.metrics import ALPHAS, Schedule, Tests

Floats = npt.NDArray[np.float64]
Whole = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

SECONDS = 120
LOOKS_PER_S = round(1.0 / bursts.TICK_S)
PER_S = 50.0
BOUT = 400
BOUT_S = 0.2


def _ramp(t: float) -> float:
    return (0.01, 0.05, 0.25, 0.5)[min(int(4.0 * t), 3)]


def constant(value: float) -> Schedule:
    """The same all the time."""
    return lambda _: value


class World(NamedTuple):
    """A kind of failure, the share of answers that have it at a share of the rollout, and the canary's weight."""

    kind: str
    share: Schedule
    weight: Schedule = lambda _: 0.1


WORLDS = {
    "error bodies, 0.5 %": World(ERROR, lambda _: 0.005),
    "error bodies, 10 %": World(ERROR, lambda _: 0.1),
    "error bodies, 0.5 to 30 %, ramp": World(ERROR, lambda t: 0.005 + 0.295 * t, _ramp),
    "error bodies, in waves, 0 to 20 %": World(ERROR, lambda t: 0.2 * math.sin(9.0 * t) ** 2, lambda _: 0.3),
    "no end marks": World(UNFINISHED, lambda _: 1.0),
    "no end marks in 1 %": World(UNFINISHED, lambda _: RARE),
    "no end marks, 0.1 to 3 %": World(UNFINISHED, lambda t: 0.001 + 0.029 * t, _ramp),
    "no end marks, 3 to 0.1 %": World(UNFINISHED, lambda t: 0.03 - 0.029 * t, _ramp),
    "broken JSON in 90 %": World(INVALID, lambda _: USUAL),
    "broken JSON, 60 to 100 %": World(INVALID, lambda t: 0.6 + 0.4 * t, _ramp),
    "broken JSON, 100 to 60 %": World(INVALID, lambda t: 1.0 - 0.4 * t, _ramp),
}
BURSTS = {"bursts of error bodies, 5 %": 0.05, "bursts of error bodies, 50 %": 0.5}
BOUTS = {"bouts, canary 1 %": 0.01, "bouts, canary 5 %": 0.05, "bouts, canary 30 %": 0.3}


class Judge:
    """`rates.take_event` of the default `model_errors`, and what is believed of it."""

    def __init__(self, runs: int, alpha: float) -> None:
        self._needed = -math.log(alpha)
        self._tests = Tests(runs, self._needed, rates.LABELLED_PRIOR, (False,))
        self._guard = bursts.Guard(runs)
        self.convicted_s = np.full(runs, np.inf)
        self.read = np.zeros(runs)
        self._looks = 0

    def take(self, counts: Floats) -> None:
        """One look's [runs, (stable events, stable trials, canary events, canary trials)]."""
        self._looks += 1
        self.read += np.where(np.isinf(self.convicted_s), counts[:, 1] + counts[:, 3], 0.0)
        self._tests.take(counts)
        self._guard.take(counts)
        now = (self.log_e() >= self._needed) & np.isinf(self.convicted_s)
        self.convicted_s[now] = self._looks * bursts.TICK_S

    def log_e(self) -> Floats:
        """What is believed of log E."""
        return self._guard.guarded(self._tests.log_e)


class Switch:
    """`usual.Usual` for answers that may have one kind of failure."""

    def __init__(self, kind: str, runs: int) -> None:
        self._kind = kind
        self._answers, self._had = np.zeros(runs), np.zeros(runs)

    def counts(self) -> Flags:
        """Whether this kind is a failure now."""
        if self._kind == ERROR:
            return np.ones(len(self._had), dtype=bool)
        share = self._had / np.maximum(self._answers, 1.0)
        warm = self._answers >= WARM_UP
        found = ~warm | (share < USUAL) if self._kind == INVALID else warm & (share <= RARE)
        return np.asarray(found)

    def learn(self, which: Flags, had: Flags) -> None:
        """Answers of stable's, after they were judged."""
        long = which & (self._answers >= PAST_MAX)
        for past in (self._answers, self._had):
            past[long] /= 2.0
        self._answers += which
        self._had += which & had


class Budgets:
    """`response_sampler.Sampler` over arrays: ``common`` is how it is, False a budget for each version alone."""

    def __init__(self, runs: int, rate: float, weight: float, *, common: bool = True) -> None:
        self._common = common
        self._rate = 2.0 * rate if common else rate
        self._full = max(1.0, self._rate * response_sampler.SAVED_S)
        self._tokens = np.full((runs, 1 if common else 2), self._full)
        self._short = np.zeros(runs, dtype=bool)
        ratio = response_sampler.RATIO
        self._keep = np.array([min(1.0, ratio * weight / (1.0 - weight)), min(1.0, ratio * (1.0 - weight) / weight)])

    def refill(self, seconds: float) -> None:
        """So much time goes by."""
        self._tokens = np.minimum(self._tokens + seconds * self._rate, self._full)

    def take(self, arms: Whole, draws: Floats) -> Flags:
        """Whether the next answer, of these versions, is read."""
        rows = np.arange(len(arms))
        keep = np.where(self._short & self._common, self._keep[arms], 1.0)
        asked = draws < keep
        at = np.zeros_like(arms) if self._common else arms
        taken = asked & (self._tokens[rows, at] > 0.0)
        self._tokens[rows, at] += np.where(taken, np.log1p(-np.minimum(draws / keep, 1.0 - 1e-16)), 0.0)
        self._short |= asked & ~taken
        return np.asarray(taken)


def steady(world: World, alpha: float, runs: int, rng: np.random.Generator, canary: World | None = None) -> Judge:
    """Rollouts whose answers are all read; ``canary`` has its own share when it is bad."""
    judge, switch = Judge(runs, alpha), Switch(world.kind, runs)
    looks = SECONDS * LOOKS_PER_S
    for look in range(looks):
        t = look / looks
        weight, shares = world.weight(t), (world.share(t), (canary or world).share(t))
        per_look = PER_S * bursts.TICK_S
        stable, both = rng.poisson(per_look * (1.0 - weight), runs), rng.poisson(per_look * weight, runs)
        both = both + stable
        if world.kind == ERROR:
            trials = stable, both - stable
            events = tuple(rng.binomial(n, share) for n, share in zip(trials, shares, strict=True))
            judge.take(np.stack([events[0], trials[0], events[1], trials[1]], axis=1).astype(np.float64))
        else:
            judge.take(_in_order(switch, stable, both, shares, rng))
        if np.isfinite(judge.convicted_s).all():
            break
    return judge


def _in_order(
    switch: Switch, stable: Whole, both: Whole, shares: tuple[float, float], rng: np.random.Generator
) -> Floats:
    """One look's answers one by one, in random order: judged, then learnt."""
    runs, left = len(stable), stable.copy()
    counts = np.zeros((runs, 4))
    for slot in range(int(both.max(initial=0))):
        here = slot < both
        ours = here & (rng.random(runs) * np.maximum(both - slot, 1) < left)
        left = left - ours
        had = rng.random(runs) < np.where(ours, *shares)
        failed = here & had & switch.counts()
        counts += np.stack([failed & ours, ours, failed & ~ours, here & ~ours], axis=1)
        switch.learn(ours, had)
    return counts


def in_bursts(weight: float, alpha: float, runs: int, rng: np.random.Generator) -> Judge:
    """Each version by itself answers with error bodies for 300 ms now and then."""
    judge, looks = Judge(runs, alpha), SECONDS * LOOKS_PER_S
    arms = [bursts.pauses(rng, runs, looks) for _ in range(2)]
    for look in range(looks):
        trials = [rng.poisson(PER_S * bursts.TICK_S * share, runs) for share in (1.0 - weight, weight)]
        events = [rng.binomial(n, arm(look)) for n, arm in zip(trials, arms, strict=True)]
        judge.take(np.stack([events[0], trials[0], events[1], trials[1]], axis=1).astype(np.float64))
    return judge


def in_bouts(weight: float, alpha: float, runs: int, rng: np.random.Generator, *, common: bool = True) -> Judge:
    """Bouts of more traffic than is read; 40 % of the second half of each bout are error bodies."""
    judge, budgets = Judge(runs, alpha), Budgets(runs, PER_S, weight, common=common)
    for look in range(SECONDS * LOOKS_PER_S):
        counts = np.zeros((runs, 4))
        half = look % LOOKS_PER_S
        if half * bursts.TICK_S >= BOUT_S:
            budgets.refill(bursts.TICK_S)
            judge.take(counts)
            continue
        requests = round(BOUT * bursts.TICK_S / BOUT_S)
        for _ in range(requests):
            budgets.refill(bursts.TICK_S / requests)
            arms = (rng.random(runs) < weight).astype(np.int64)
            read = budgets.take(arms, rng.random(runs))
            failed = read & (rng.random(runs) < (0.4 if half else 0.0))
            canary = arms == 1
            counts += np.stack([failed & ~canary, read & ~canary, failed & canary, read & canary], axis=1)
        judge.take(counts)
    return judge


@dataclass(frozen=True)
class Alarms:
    """Equal versions in one world: rollouts that were ever convicted, and the 95 % upper bound of their share."""

    table: str
    world: str
    alpha: float
    runs: int
    alarms: int
    upper: float


@dataclass(frozen=True)
class Contrast:
    """The same bouts with a budget for each version: what the common one is for."""

    table: str
    world: str
    alpha: float
    runs: int
    alarms: int


@dataclass(frozen=True)
class Conviction:
    """A canary with error bodies beside a stable without: medians until FAIL; None: not within the time."""

    table: str
    canary: float
    weight: float
    alpha: float
    runs: int
    median_s: float
    median_read: float


BAD = (0.05, 0.2, 1.0)
BAD_WEIGHTS = (0.05, 0.2, 0.5)


def all_alarms(runs: int, seed: int) -> Iterator[Alarms]:
    """Every row of equal versions."""
    names = [*WORLDS, *BURSTS, *BOUTS]
    for i, name in enumerate(names):
        for a, alpha in enumerate(ALPHAS):
            rng = np.random.default_rng([seed, 97, i, a])
            if name in WORLDS:
                judge = steady(WORLDS[name], alpha, runs, rng)
            elif name in BURSTS:
                judge = in_bursts(BURSTS[name], alpha, runs, rng)
            else:
                judge = in_bouts(BOUTS[name], alpha, runs, rng)
            alarms = int(np.isfinite(judge.convicted_s).sum())
            yield Alarms("answers", name, alpha, runs, alarms, upper_bound(alarms, runs))


def contrasts(runs: int, seed: int) -> Iterator[Contrast]:
    """Bouts with a budget for each version."""
    for i, (name, weight) in enumerate(BOUTS.items()):
        judge = in_bouts(weight, 0.01, runs, np.random.default_rng([seed, 98, i]), common=False)
        yield Contrast("answers contrast", name, 0.01, runs, int(np.isfinite(judge.convicted_s).sum()))


def convictions(runs: int, seed: int) -> Iterator[Conviction]:
    """Canaries with error bodies, as one of the default metrics: its share of alpha."""
    alpha = 0.01
    route = build.analysis_spec(RouteConfig(name="any", match=MatchConfig(path_prefix="/"), stable="any"))
    part = math.exp(budget.log_shares(route)[MODEL_ERRORS])
    for i, share in enumerate(BAD):
        for j, weight in enumerate(BAD_WEIGHTS):
            clean = World(ERROR, constant(0.0), constant(weight))
            bad = World(ERROR, constant(share))
            rng = np.random.default_rng([seed, 99, i, j])
            judge = steady(clean, alpha * part, runs, rng, bad)
            medians = float(np.median(judge.convicted_s)), float(np.median(judge.read))
            yield Conviction("answers convictions", share, weight, alpha, runs, *medians)


def main(arguments: Sequence[str] | None = None) -> int:
    """The tables; returns 1 when a bound exceeds its alpha."""
    asked = options("False alarms and convictions by failures inside of answers.", 2000).parse_args(arguments)
    found: list[Alarms] = []
    print("| world | alpha | false alarms | 95 % upper bound |\n|---|---|---|---|")
    for row in all_alarms(asked.runs, asked.seed):
        found.append(row)
        print(f"| {row.world} | {row.alpha:g} | {alarms_in(row)} |", flush=True)
    few = max(asked.runs // 10, 5)
    apart = list(contrasts(few, asked.seed))
    print("\n| with a budget for each version | alpha | false alarms |\n|---|---|---|")
    for one in apart:
        print(f"| {one.world} | {one.alpha:g} | {one.alarms} of {one.runs} |")
    convicted = list(convictions(few, asked.seed))
    print("\n| error bodies of the canary | weight | median time | answers read |\n|---|---|---|---|")
    for bad in convicted:
        print(f"| {100 * bad.canary:g} % | {100 * bad.weight:g} % | {bad.median_s:.1f} s | {bad.median_read:.0f} |")
    return finish(asked, [*found, *apart, *convicted], found)


if __name__ == "__main__":
    sys.exit(main())
