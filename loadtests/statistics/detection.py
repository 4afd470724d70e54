"""How near the verdict engine comes to the information limit, and how often it errs on equal arms.

    python -m loadtests.statistics.detection [--runs 200] [--aa-runs 8000] [--seed 1] [--out detection.jsonl]

One JSON line per row goes to the file, Markdown tables to standard output. The engine's arithmetic (rates.bet with its
closing rule, and wealth) is repeated here over arrays, one row of an array per simulated rollout, with the engine's own
constants; tests/statistics proves that both agree. Time is in ticks; a tick holds one request, or limit / TICKS of them
where the limit is long, so that waiting for a tick costs less than half a percent.

R = E[requests until FAIL] I(w) / log(1 / alpha). By Wald's identity E[requests] I(w) is the mean log likelihood ratio
of the true rates to the nearest equal ones at the moment of FAIL, which varies far less than the number of requests
does: that is what is averaged. Rollouts without an end within HORIZON limits count with what they had; the largest
share of them is reported.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gateway.core.analysis import AnalysisSpec, budget
from gateway.core.analysis.betting import wealth
from gateway.core.analysis.betting.eprocess import NOT_WORSE, RATE_MIN, Rates
from gateway.core.analysis.metrics import rates
from gateway.core.analysis.sizing.limit import requests_at_limit
from loadtests.statistics.lines import alarms_in, finish, options, upper_bound

Floats = npt.NDArray[np.float64]

BASES = (0.001, 0.003, 0.01, 0.05)
EFFECTS = (1.5, 2.0, 4.0, 10.0, 50.0)
WEIGHTS = (0.01, 0.05, 0.2, 0.5)
ALPHAS = (0.01, 0.001)
RATE_TOP = 0.6
# What `errors` has of alpha_rollback among the default metrics.
ERRORS_SHARE = math.exp(budget.log_shares(AnalysisSpec())["errors"])
# Zero has no logarithm.
NOTHING = 1e-12
TICKS = 200
HORIZON = 8.0
# Arrays are [guess, rollout]: long rows are what arrays are quick with.
LOG_RATIOS = np.log(np.array(rates.ODDS_RATIOS))[:, None]
LOG_PRIORS = np.log(np.array(rates.BAD_PRIORS))[:, None]


class Engine:
    """Many rollouts of one metric side by side: what rates.take does to E_bad, over arrays."""

    def __init__(self, runs: int, needed: float, held_back: float = wealth.HELD_BACK) -> None:
        self.needed = needed
        self.held_back = held_back
        self.logs = np.tile(LOG_PRIORS + math.log1p(-held_back), (1, runs))
        self.log_e = np.zeros(runs)
        self.bets = np.zeros(runs)
        self.past = np.zeros((runs, 2))
        self.open = np.zeros((runs, 4))

    def take(self, counts: Floats) -> npt.NDArray[np.bool_]:
        """Add one tick's [runs, (stable events, stable trials, canary events, canary trials)]; which runs closed."""
        self.open += counts
        trials_s, trials_c = self.open[:, 1], self.open[:, 3]
        scarce = np.minimum(trials_s, trials_c)
        closes = scarce >= rates.SCARCE_MAX
        # No guess gains more than (1 / w)^n_c (1 / (1 - w))^n_s: where that does not do, there is nothing to try.
        trials = np.maximum(trials_s + trials_c, 1.0)
        most = sum(each * np.log(trials / np.maximum(each, 1.0)) for each in (trials_s, trials_c))
        unsure = np.flatnonzero((scarce > 0) & ~closes & (self.log_e + most > self.needed - 1e-6))
        if unsure.size:
            best = self.open[unsure].copy()
            best[:, 0], best[:, 2] = 0.0, best[:, 3]
            closes[unsure] = self._grown(unsure, best)[1] >= self.needed
        done = np.flatnonzero(closes)
        if done.size:
            batch = self.open[done]
            self._closing(done, batch)
            self.logs[:, done], self.log_e[done] = self._grown(done, batch)
            self.bets[done] += 1
            past = self.past[done] + batch[:, :2]
            long = past[:, 1] > rates.PAST_MAX
            past[long] *= (0.5 * rates.PAST_MAX / past[long, 1])[:, None]
            self.past[done] = past
            self.open[done] = 0.0
        return closes

    def _gains(self, stable: Floats, batch: Floats) -> Floats:
        return gains(stable, LOG_RATIOS, batch)

    def _closing(self, which: npt.NDArray[np.intp], batch: Floats) -> None:
        """For other bets on the same batches: called before stable's past learns them."""

    def _stable_guess(self, which: npt.NDArray[np.intp]) -> Floats:
        """`rates.stable_guess` of some runs."""
        past, prior = self.past[which], rates.FAILURES_PRIOR
        return np.clip((past[:, 0] + prior.events) / (past[:, 1] + prior.trials), RATE_MIN, 1.0 - RATE_MIN)

    def _grown(self, which: npt.NDArray[np.intp], batch: Floats) -> tuple[Floats, Floats]:
        """The log-wealths and log E_bad of some runs after a batch each."""
        bets = self.bets[which]
        gain = self._gains(self._stable_guess(which), batch)
        before, after = (self.held_back / np.log2(count + 2.0) for count in (bets, bets + 1.0))
        return grown(self.logs[:, which], np.log(before - after) + LOG_PRIORS, gain, np.log(after))


def gains(stable: Floats, log_ratios: Floats, batch: Floats) -> Floats:
    """`eprocess.log_gain` against `NOT_WORSE`, [guess, rollout]: guesses at these odds ratios to stable's."""
    canary = np.clip(1.0 / (1.0 + (1.0 - stable) / stable * np.exp(-log_ratios)), RATE_MIN, 1.0 - RATE_MIN)
    events_s, trials_s, events_c, trials_c = np.ascontiguousarray(batch.T)
    weight = trials_c / (trials_s + trials_c)
    pooled = (1.0 - weight) * stable + weight * canary
    log_yes, log_no = np.log(pooled), np.log(1.0 - pooled)
    gain = events_s * np.log(stable) + (trials_s - events_s) * np.log(1.0 - stable)
    gain = gain + events_c * np.log(canary) + (trials_c - events_c) * np.log(1.0 - canary)
    gain -= (events_s + events_c) * log_yes + (trials_s + trials_c - events_s - events_c) * log_no
    return np.asarray(np.where(canary == stable, 0.0, gain))


def grown(logs: Floats, late: Floats, gain: Floats, rest: Floats) -> tuple[Floats, Floats]:
    """log of (exp(logs) + exp(late)) exp(gain), and of its sum over guesses and ``rest``; logaddexp is much slower."""
    top = np.maximum(logs.max(axis=0), late.max(axis=0))
    with np.errstate(divide="ignore"):  # what is 1e-300 of the largest is nothing
        after = np.log(np.exp(logs - top) + np.exp(late - top)) + top + gain
    top = np.maximum(after.max(axis=0), rest)
    total = np.exp(after - top).sum(axis=0) + np.exp(rest - top)
    return after, np.log(total) + top


@dataclass(frozen=True)
class Detection:
    """One row: R, its standard error, the mean requests to FAIL and the share that had none within the horizon.

    ``share`` is the metric's part of alpha: 1 alone, 1/2 for `errors` among all four metrics; ``held_back`` the part of
    the stake that starts late.
    """

    table: str
    stable: float
    canary: float
    weight: float
    alpha: float
    share: float
    held_back: float
    runs: int
    ratio: float
    error: float
    requests: float
    undecided: float


@dataclass(frozen=True)
class FalseAlarms:
    """One world without a difference: rollouts that were ever convicted, and the 95 % upper bound of their share."""

    table: str
    world: str
    alpha: float
    runs: int
    alarms: int
    upper: float


def detect(
    truth: Rates,
    weight: float,
    alpha: float,
    runs: int,
    rng: np.random.Generator,
    share: float = 1.0,
    held_back: float = wealth.HELD_BACK,
) -> Detection:
    """R of one row; the limit stays that of a single metric whatever its share."""
    limit = requests_at_limit(truth, NOT_WORSE, weight, alpha)
    needed = -math.log(alpha * share)
    size = max(1, round(limit / TICKS))
    engine = Engine(runs, needed, held_back)
    ratio, taken = np.zeros(runs), np.zeros(runs)
    active = np.ones(runs, dtype=bool)
    by_count = score(truth, weight)
    for _ in range(math.ceil(HORIZON * limit / size) + math.ceil(10.0 / (weight * size))):
        counts = _draw(rng, truth.stable, truth.canary, weight, size, runs)
        engine.take(counts)
        ratio += np.where(active, counts @ by_count, 0.0)
        taken += np.where(active, size, 0)
        active &= engine.log_e < needed
        if not active.any():
            break
    scaled = ratio / -math.log(alpha)
    return Detection(
        "detection",
        truth.stable,
        truth.canary,
        weight,
        alpha,
        share,
        held_back,
        runs,
        float(scaled.mean()),
        float(scaled.std(ddof=1) / math.sqrt(runs)),
        float(taken.mean()),
        float(active.mean()),
    )


def score(truth: Rates, weight: float) -> Floats:
    """Log likelihood ratio per event and per trial of each arm, truth against the nearest equal rates."""
    q, _ = NOT_WORSE.project(truth, weight)
    out = []
    for rate in truth:
        none = math.log((1.0 - rate) / (1.0 - q))
        out += [math.log(rate / q) - none, none]
    return np.array(out)


def _draw(rng: np.random.Generator, stable: float, canary: float, weight: float, size: int, runs: int) -> Floats:
    trials_c = rng.binomial(size, weight, runs)
    trials_s = size - trials_c
    events = rng.binomial(trials_s, stable), rng.binomial(trials_c, canary)
    return np.stack([events[0], trials_s, events[1], trials_c], axis=1).astype(np.float64)


# Each world: the weight and the common rate at a share t of the rollout.
WORLDS: dict[str, tuple[Callable[[float], float], Callable[[float], float]]] = {
    "steady": (lambda t: 0.05, lambda t: 0.01),
    "ramp": (lambda t: (0.01, 0.05, 0.25, 0.5)[min(int(4.0 * t), 3)], lambda t: 0.01),
    "drift": (lambda t: 0.1, lambda t: 0.001 + 0.1 * t),
    "waves": (lambda t: 0.1, lambda t: 0.02 + 0.018 * math.sin(60.0 * t)),
    "ramp and outages": (
        lambda t: (0.01, 0.1, 0.5)[min(int(3.0 * t), 2)],
        lambda t: 0.6 if int(40.0 * t) % 8 == 7 else 0.002,
    ),
}
AA_TICKS = 1000
AA_SIZE = 20


def false_alarms(world: str, alpha: float, runs: int, rng: np.random.Generator) -> FalseAlarms:
    """Rollouts of equal arms that were convicted at any of `AA_TICKS` looks."""
    weight_at, rate_at = WORLDS[world]
    needed = -math.log(alpha)
    engine = Engine(runs, needed)
    highest = np.zeros(runs)
    for tick in range(AA_TICKS):
        rate = rate_at(tick / AA_TICKS)
        engine.take(_draw(rng, rate, rate, weight_at(tick / AA_TICKS), AA_SIZE, runs))
        np.maximum(highest, engine.log_e, out=highest)
    alarms = int((highest >= needed).sum())
    return FalseAlarms("false alarms", world, alpha, runs, alarms, upper_bound(alarms, runs))


def rows() -> list[tuple[Rates, float]]:
    """Every base rate, effect and weight of the table."""
    pairs = [Rates(base, base * effect) for base in BASES for effect in EFFECTS if base * effect <= RATE_TOP]
    return [(pair, weight) for pair in pairs for weight in WEIGHTS]


def table(found: Sequence[Detection]) -> str:
    """R as Markdown: one line per pair of rates and alpha, one column per weight, mean and worst at the end."""
    lines = ["| alpha | stable -> canary | " + " | ".join(f"w = {100 * w:g} %" for w in WEIGHTS) + " |"]
    lines.append("|---" * (len(WEIGHTS) + 2) + "|")
    for alpha in ALPHAS:
        mine = [row for row in found if row.alpha == alpha]
        for pair in dict.fromkeys((row.stable, row.canary) for row in mine):
            cells = [f"{r.ratio:.2f} ± {r.error:.2f}" for r in mine if (r.stable, r.canary) == pair]
            lines.append(f"| {alpha:g} | {100 * pair[0]:g} -> {100 * pair[1]:g} % | " + " | ".join(cells) + " |")
    for alpha in ALPHAS:
        mine = [row for row in found if row.alpha == alpha]
        ratios = [row.ratio for row in mine]
        lines.append(f"\nalpha {alpha:g}: mean R {sum(ratios) / len(ratios):.3f}, worst {max(ratios):.2f}")
        lines[-1] += f" (undecided at most {100 * max(row.undecided for row in mine):.1f} %)"
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the command line asks for; returns 1 when a false-alarm bound exceeds its alpha."""
    parser = options("R to the information limit, and false alarms, of the verdict engine.", 200)
    parser.add_argument("--aa-runs", type=int, default=8000, help="simulated rollouts per world without a difference")
    asked = parser.parse_args(arguments)
    found = [
        detect(truth, weight, alpha, asked.runs, np.random.default_rng([asked.seed, a, i]))
        for a, alpha in enumerate(ALPHAS)
        for i, (truth, weight) in enumerate(rows())
    ]
    print(table(found))
    variants = {
        "`errors` among the default metrics (share 1/2)": (ERRORS_SHARE, wealth.HELD_BACK),
        "one of three metrics with equal shares": (1.0 / 3.0, wealth.HELD_BACK),
        "alone, nothing held back for late starts": (1.0, NOTHING),
        "one of three, nothing held back": (1.0 / 3.0, NOTHING),
    }
    others: list[Detection] = []
    for number, (name, (share, held_back)) in enumerate(variants.items()):
        mine = [
            detect(truth, weight, ALPHAS[0], asked.runs, np.random.default_rng([asked.seed, 5, i]), share, held_back)
            for i, (truth, weight) in enumerate(rows())
        ]
        others += mine
        ratios = [row.ratio for row in mine]
        lead = "\n" if not number else ""
        print(f"{lead}alpha {ALPHAS[0]:g}, {name}: mean R {sum(ratios) / len(ratios):.3f}, worst {max(ratios):.2f}")
    alarms = [
        false_alarms(world, alpha, asked.aa_runs, np.random.default_rng([asked.seed, 9, a, i]))
        for a, alpha in enumerate((0.05, 0.01))
        for i, world in enumerate(WORLDS)
    ]
    print("\n| world | alpha | false alarms | 95 % upper bound |\n|---|---|---|---|")
    for alarm in alarms:
        print(f"| {alarm.world} | {alarm.alpha:g} | {alarms_in(alarm)} |")
    return finish(asked, [*found, *others, *alarms], alarms)


if __name__ == "__main__":
    sys.exit(main())
