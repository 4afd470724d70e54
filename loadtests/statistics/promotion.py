"""Promotion: how near PASS comes to its own limit, and how often a canary that is worse by the margin passes.

    python -m loadtests.statistics.promotion [--runs 40] [--wrong-runs 8000] [--seed 1] [--out promotion.jsonl]

The limit of PASS. E_ok refutes "p_c >= max(ratio p_s, p_s + delta)". Whoever does so with error at most alpha has seen,
on average, log(1/alpha) nats against every point of that set, also against the nearest one: a canary as good as stable
brings I(w) = min over the set of (1 - w) KL(p, q_s) + w KL(p, q_c) nats a request (limit.py with worse_by_margin), so
R = E[requests until E_ok >= 1/alpha] I(w) / log(1/alpha) is at least 1 for every test.

The engine's own `rates.bet` on batches that close at `SCARCE_MAX` requests of the scarcer arm, one metric; of canaries
at the margin over arrays (`Passing`; tests/statistics proves that it agrees with the engine).

Under bursts: both arms pause for 300 ms now and then, each by itself (bursts.py), and the canary is worse by the margin
all the same, by failures of its own between the pauses or by pausing more often. Passed at ANY look from the least time
of one step (the default) to five minutes, as the gateway judges (`bursts.guarded_ok`) and by requests alone. There E_ok
is repeated over arrays too.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gateway.core.analysis import RateSpec
from gateway.core.analysis.betting import wealth
from gateway.core.analysis.betting.eprocess import RATE_MIN, Rates, TrialBatch, worse_by_margin
from gateway.core.analysis.metrics import rates
from gateway.core.analysis.sizing.limit import requests_at_limit
from gateway.core.rollout import Step
from loadtests.statistics import bursts, detection
from loadtests.statistics.detection import Floats
from loadtests.statistics.lines import finish, options, upper_bound
from loadtests.statistics.projections import log_gain, onto_ratio, onto_shift

BASES = (0.001, 0.01, 0.05)
WEIGHTS = (0.01, 0.05, 0.2, 0.5)
MARGINS = ((1.5, 0.01), (2.0, 0.005), (1.0, 0.02), (1.3, 0.0))
ALPHA = 0.05
# A ratio alone at low rates needs tens of thousands of canary requests, too many to be simulated and to be waited for.
CANARY_MAX = 6_000
HORIZON = 8.0
WRONG_WEIGHTS = (0.05, 0.5)
# Margins other than the default one, at one rate.
WRONG_RATE = 0.05
WRONG_BATCHES = 120
WRONG_ALPHAS = (0.05, 0.01)
BURST_WORLDS = ("failures between", "more pauses")
BURST_CELLS = ((20.0, 0.2), (200.0, 0.05), (200.0, 0.2), (200.0, 0.5), (2000.0, 0.05))
MIN_TIME_S = Step(0).min_time_s
_DEFAULT = RateSpec()


@dataclass(frozen=True)
class Promotion:
    """R of PASS for a canary as good as stable."""

    table: str
    rate: float
    margin_ratio: float
    margin_delta: float
    weight: float
    alpha: float
    runs: int
    ratio: float
    error: float
    canary_requests: float


@dataclass(frozen=True)
class WrongPass:
    """Canaries exactly as bad as the margin forbids, that were passed at any look."""

    table: str
    stable: float
    canary: float
    margin_ratio: float
    margin_delta: float
    weight: float
    alpha: float
    runs: int
    passed: int
    upper: float


@dataclass(frozen=True)
class WrongPassInBursts:
    """Canaries at the margin, both arms with pauses of their own, that were passed at any look of five minutes."""

    table: str
    world: str
    requests_per_s: float
    weight: float
    alpha: float
    runs: int
    passed: int
    upper: float
    passed_by_requests: int


class Passing(detection.Engine):
    """Many rollouts side by side, with E_ok beside E_bad: what rates.bet does with the default margins, over arrays."""

    def __init__(self, runs: int, needed: float, spec: RateSpec = _DEFAULT) -> None:
        super().__init__(runs, needed)
        self.spec = spec
        self.ok = np.tile(np.log(np.array(rates.OK_PRIORS)), (runs, 1))

    def _closing(self, which: npt.NDArray[np.intp], batch: Floats) -> None:
        stable = self._stable_guess(which)
        ratio, delta = self.spec.margin_ratio, self.spec.margin_delta
        edge = np.log(1.0 / np.clip(np.maximum(ratio * stable, stable + delta), RATE_MIN, 1 - RATE_MIN) - 1.0)
        gap = np.maximum(np.log(1.0 / stable - 1.0) - edge, 0.3)
        guess = 1.0 / (1.0 + np.exp(edge[:, None] + np.array(rates.OK_GAPS) * gap[:, None]))
        self.ok[which] += _gain(stable[:, None], np.clip(guess, RATE_MIN, 1 - RATE_MIN), batch, ratio, delta)

    def log_ok(self) -> Floats:
        """log E_ok of every run."""
        return np.asarray(np.logaddexp.reduce(self.ok, axis=1))


def _gain(stable: Floats, canary: Floats, batch: Floats, ratio: float, delta: float) -> Floats:
    """`eprocess.log_gain` against `worse_by_margin`, guesses outside of it."""
    counts = tuple(column[:, None] for column in batch.T)
    weight = counts[3] / (counts[1] + counts[3])
    # The ratio's line, where it is the nearer one; else the shift's, at most up to where they cross.
    vertex = delta / (ratio - 1.0) if ratio > 1.0 else math.inf
    by_ratio, by_shift = onto_ratio(stable, canary, weight, ratio), onto_shift(stable, canary, weight, delta)
    q_s = np.where(by_ratio >= vertex, by_ratio, np.minimum(by_shift, vertex))
    return log_gain((stable, canary), (q_s, np.maximum(ratio * q_s, q_s + delta)), counts)


def wrong_in_bursts(
    world: str, requests_per_s: float, weight: float, runs: int, rng: np.random.Generator
) -> list[WrongPassInBursts]:
    """How often such a canary is passed, at each alpha; ``world``, one of `BURST_WORLDS`, says what makes it worse."""
    ticks, spec = round(bursts.AA_S / bursts.TICK_S), RateSpec()
    paused = bursts.PAUSE_S / (bursts.PAUSE_S + bursts.PAUSES_EVERY_S)
    stable = paused + (1.0 - paused) * bursts.BASE_RATE
    margin = max(spec.margin_ratio * stable, stable + spec.margin_delta)
    open_s = bursts.windows(rng, runs, ticks, bursts.PAUSES_EVERY_S, bursts.PAUSE_S)
    base_c, every_s = bursts.BASE_RATE, bursts.PAUSES_EVERY_S
    if world == BURST_WORLDS[0]:
        base_c = (margin - paused) / (1.0 - paused)
    else:
        share = (margin - base_c) / (1.0 - base_c)
        every_s = bursts.PAUSE_S * (1.0 - share) / share
    open_c = bursts.windows(rng, runs, ticks, every_s, bursts.PAUSE_S)
    engine, guard = Passing(runs, -math.log(0.01 * detection.ERRORS_SHARE)), bursts.Guard(runs)
    guarded, plain = np.zeros(runs), np.zeros(runs)
    per_tick = requests_per_s * bursts.TICK_S
    for tick in range(ticks):
        trials_s, trials_c = rng.poisson(per_tick * (1.0 - weight), runs), rng.poisson(per_tick * weight, runs)
        events_s = rng.binomial(trials_s, np.where(open_s[tick] > 0, 1.0, bursts.BASE_RATE))
        events_c = rng.binomial(trials_c, np.where(open_c[tick] > 0, 1.0, base_c))
        counts = np.stack([events_s, trials_s, events_c, trials_c], axis=1).astype(np.float64)
        engine.take(counts)
        guard.take(counts)
        if (tick + 1) * bursts.TICK_S < MIN_TIME_S:
            continue
        log_ok = engine.log_ok()
        np.maximum(plain, log_ok, out=plain)
        np.maximum(guarded, guard.guarded_ok(log_ok), out=guarded)
    found = []
    for alpha in WRONG_ALPHAS:
        passed, by_requests = (int((highest >= -math.log(alpha)).sum()) for highest in (guarded, plain))
        bound = upper_bound(passed, runs)
        found.append(
            WrongPassInBursts(
                "wrong promotions in bursts", world, requests_per_s, weight, alpha, runs, passed, bound, by_requests
            )
        )
    return found


def batches(truth: Rates, weight: float, rng: np.random.Generator, count: int) -> list[TrialBatch]:
    """Batches as rates.py closes them: each at `SCARCE_MAX` requests of the scarcer arm."""
    small = min(weight, 1.0 - weight)
    others = rng.negative_binomial(rates.SCARCE_MAX, small, count)
    scarce = np.full(count, rates.SCARCE_MAX)
    stable, canary = (others, scarce) if weight <= 0.5 else (scarce, others)  # the even split
    stable = np.maximum(stable, 1)
    events = rng.binomial(stable, truth.stable), rng.binomial(canary, truth.canary)
    columns = (events[0].tolist(), stable.tolist(), events[1].tolist(), canary.tolist())
    return [TrialBatch(*row) for row in zip(*columns, strict=True)]


def promotion(rate: float, spec: RateSpec, weight: float, runs: int, rng: np.random.Generator) -> Promotion | None:
    """R of one row; None where the limit lies beyond `CANARY_MAX`."""
    truth = Rates(rate, rate)
    limit = requests_at_limit(truth, worse_by_margin(spec.margin_ratio, spec.margin_delta), weight, ALPHA)
    if limit * weight > CANARY_MAX:
        return None
    taken = []
    for _ in range(runs):
        state, requests = rates.fresh().metrics[0], 0
        while requests < HORIZON * limit and wealth.log_e(state.ok) < -math.log(ALPHA):
            for batch in batches(truth, weight, rng, 16):
                state = rates.bet(state, spec, batch)
                requests += batch.stable_trials + batch.canary_trials
                if wealth.log_e(state.ok) >= -math.log(ALPHA):
                    break
        taken.append(requests)
    ratios = np.array(taken) / limit
    return Promotion(
        "promotion",
        rate,
        spec.margin_ratio,
        spec.margin_delta,
        weight,
        ALPHA,
        runs,
        float(ratios.mean()),
        float(ratios.std(ddof=1) / math.sqrt(runs)),
        float(np.mean(taken) * weight),
    )


def wrong(rate: float, spec: RateSpec, weight: float, runs: int, rng: np.random.Generator) -> list[WrongPass]:
    """How often a canary at the margin is passed within `WRONG_BATCHES` looks, at each alpha."""
    truth = Rates(rate, max(spec.margin_ratio * rate, rate + spec.margin_delta))
    engine, highest = Passing(runs, math.inf, spec), np.zeros(runs)
    many = [batches(truth, weight, rng, WRONG_BATCHES) for _ in range(runs)]
    counted = [[batch[:4] for batch in one] for one in many]
    for one in np.array(counted, dtype=np.float64).swapaxes(0, 1):
        engine.take(one)
        np.maximum(highest, engine.log_ok(), out=highest)
    found = []
    for alpha in WRONG_ALPHAS:
        passed = int((highest >= -math.log(alpha)).sum())
        bound = upper_bound(passed, runs)
        margin = spec.margin_ratio, spec.margin_delta
        found.append(WrongPass("wrong promotions", *truth, *margin, weight, alpha, runs, passed, bound))
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """All tables; returns 1 when a bound exceeds its alpha."""
    parser = options("R of promotion to its limit, and wrong promotions.", 40)
    parser.add_argument(
        "--wrong-runs", type=int, default=8000, help="rollouts per row of wrong promotions (in bursts a quarter)"
    )
    asked = parser.parse_args(arguments)
    cells = [(rate, margin, weight) for rate in BASES for margin in MARGINS for weight in WEIGHTS]
    found = [
        row
        for i, (rate, margin, weight) in enumerate(cells)
        if (
            row := promotion(
                rate,
                RateSpec(margin_ratio=margin[0], margin_delta=margin[1]),
                weight,
                asked.runs,
                np.random.default_rng([asked.seed, 41, i]),
            )
        )
    ]
    print("| rate | margin | weight | R | canary requests |\n|---|---|---|---|---|")
    for row in found:
        margin = f"{row.margin_ratio:g} x, + {100 * row.margin_delta:g} points"
        print(
            f"| {100 * row.rate:g} % | {margin} | {100 * row.weight:g} % | {row.ratio:.2f} ± {row.error:.2f} |"
            f" {row.canary_requests:,.0f} |"
        )
    ratios = [row.ratio for row in found]
    print(f"\nalpha {ALPHA:g}: mean R {sum(ratios) / len(ratios):.3f}, worst {max(ratios):.2f}, {len(ratios)} rows\n")
    cases = [(rate, RateSpec()) for rate in BASES]
    cases += [(WRONG_RATE, RateSpec(margin_ratio=ratio, margin_delta=delta)) for ratio, delta in MARGINS[1:]]
    wrongs = [
        row
        for i, (rate, spec, weight) in enumerate((*case, weight) for case in cases for weight in WRONG_WEIGHTS)
        for row in wrong(rate, spec, weight, asked.wrong_runs, np.random.default_rng([asked.seed, 42, i]))
    ]
    print(
        "| margin | stable -> canary | weight | alpha | wrongly passed | 95 % upper bound |\n|---|---|---|---|---|---|"
    )
    for one in wrongs:
        print(
            f"| {one.margin_ratio:g} x, + {100 * one.margin_delta:g} points |"
            f" {100 * one.stable:g} -> {100 * one.canary:g} % | {100 * one.weight:g} % | {one.alpha:g} |"
            f" {one.passed} of {one.runs} | {100 * one.upper:.2f} % |"
        )
    in_bursts = [
        row
        for i, cell in enumerate(BURST_CELLS)
        for j, world in enumerate(BURST_WORLDS)
        for row in wrong_in_bursts(
            world, *cell, max(asked.wrong_runs // 4, 1), np.random.default_rng([asked.seed, 43, i, j])
        )
    ]
    print("\n| canary | requests/s | weight | alpha | wrongly passed | 95 % upper bound | by requests alone |")
    print("|---|---|---|---|---|---|---|")
    for each in in_bursts:
        print(
            f"| {each.world} | {each.requests_per_s:g} | {100 * each.weight:g} % | {each.alpha:g} | {each.passed} of"
            f" {each.runs} | {100 * each.upper:.2f} % | {100 * each.passed_by_requests / each.runs:.1f} % |"
        )
    return finish(asked, [*found, *wrongs, *in_bursts], [*wrongs, *in_bursts])


if __name__ == "__main__":
    sys.exit(main())
