"""The bake: a promoted version that turns bad is found at once, a healthy one is left alone for the whole time."""

from __future__ import annotations

import itertools
import math
import random

import msgspec
import pytest

from gateway.core.analysis import (
    AnalysisSpec,
    EventSpec,
    Evidence,
    GuardrailSpec,
    LatencySpec,
    bake,
    budget,
    fresh_state,
    judge,
    restore,
)
from gateway.core.analysis.betting import wealth
from gateway.core.analysis.metrics.guardrails import GUARDRAILS
from gateway.core.analysis.metrics.latencies import LATENCIES
from gateway.core.analysis.metrics.outcomes import OUTCOMES
from gateway.core.analysis.spec import Unit
from gateway.core.analysis.types import Analysis
from gateway.core.errors import InvalidValueError
from gateway.core.stats import Counts, EpochCounts, bucket_of

PRIORS = (0.4, 0.6)
STEPS = ((math.log(1.8), math.log(0.2)), (math.log(1.2), math.log(0.8)))


def test_stopped_anywhere_in_the_bake_the_mean_is_at_most_one() -> None:
    """Every path of ten fair bets, stopped at the first value at or over a level or at the end of the horizon."""
    horizon = 10
    for level in (0.15, 0.25, 0.4, 1.0):
        mean = 0.0
        for path in itertools.product((0, 1), repeat=horizon):
            state = wealth.watch(PRIORS, horizon)
            for outcome in path:
                state = wealth.grow(state, [step[outcome] for step in STEPS], PRIORS)
                if wealth.log_e(state) >= math.log(level):
                    break
            mean += math.exp(wealth.log_e(state)) / 2**horizon
        assert mean <= 1 + 1e-12, level


def test_the_mean_time_to_a_false_alarm_is_at_least_the_level() -> None:
    """M_t = max(M_{t-1}, 1) e_t with fair bets: the mean time until M >= h is at least h bets."""
    for h in (5.0, 20.0):
        rng, times = random.Random(1), []
        for _ in range(300):
            state, bets = wealth.watch(PRIORS, 1), 0
            while wealth.log_e(state) < math.log(h):
                outcome = rng.random() < 0.5
                state, bets = wealth.grow(state, [step[outcome] for step in STEPS], PRIORS), bets + 1
            times.append(bets)
        assert sum(times) / len(times) >= h


def test_it_is_the_cusum_of_every_guess_over_the_horizon() -> None:
    rng, horizon, sums = random.Random(4), 30, [1.0, 1.0]
    state = wealth.watch(PRIORS, horizon)
    for _ in range(horizon):
        gains = [rng.gauss(0.0, 0.5) for _ in PRIORS]
        state = wealth.grow(state, gains, PRIORS)
        sums = [max(one, 1.0) * math.exp(gain) for one, gain in zip(sums, gains, strict=True)]
        mean = math.fsum(prior * one for prior, one in zip(PRIORS, sums, strict=True))
        assert wealth.log_e(state) == pytest.approx(math.log(mean / horizon), abs=1e-9)


def test_what_was_lost_while_healthy_is_forgotten() -> None:
    state = wealth.watch(PRIORS, 100)
    for _ in range(1_000):
        state = wealth.grow(state, [-0.5, -0.1], PRIORS)
    bets = 0
    while wealth.log_e(state) < math.log(100):
        state, bets = wealth.grow(state, [math.log(1.8), math.log(1.2)], PRIORS), bets + 1
    assert bets <= math.log(100 * 100 / 0.4) / math.log(1.8) + 2


class Holdout:
    """A promoted canary with 5 % left to stable, in ticks of a tenth of a second with 40 requests."""

    def __init__(self, seed: int, spec: AnalysisSpec, bake_s: float) -> None:
        self.random, self.spec, self.epoch = random.Random(seed), budget.for_bake(spec, bake_s), 0
        self.state, self.at_s = fresh_state(self.spec), 0.0
        self.entry = EpochCounts("r", 0, 0)
        self.set_weight(2_000)
        self.run(50, (0.01, 0.01), 0)
        self.state = bake(self.state, bake_s)
        self.set_weight(9_500)

    def set_weight(self, weight_bp: int) -> None:
        self.epoch += 1
        self.entry = EpochCounts("r", self.epoch, weight_bp)

    def run(self, ticks: int, rates: tuple[float, float], added_us: int) -> Analysis:
        for _ in range(ticks):
            for _ in range(40):
                canary = self.random.random() * 10_000 < self.entry.weight_bp
                counts = self.entry.canary if canary else self.entry.stable
                event = self.random.random() < rates[canary]
                bucket = bucket_of(int(2_000 * math.exp(0.4 * self.random.gauss(0, 1))) + added_us * canary)
                counts.assigned += 1
                counts.requests += 1
                counts.enter("errors", event)
                counts.label("by_request", event)
                counts.label("by_slice", event)
                counts.latency[bucket] = counts.latency.get(bucket, 0) + 1
            self.at_s += 0.1
            self.state, analysis = judge(self.spec, self.state, Evidence(self.at_s, (self.entry,)))
            if analysis.verdict == "FAIL":
                break
        return analysis


EVERYTHING = AnalysisSpec(
    latency=LatencySpec(slice_s=0.5),
    events=(EventSpec("by_request"), EventSpec("by_slice", unit=Unit.SLICE, slice_s=0.5)),
    guardrails=(GuardrailSpec("errors", 0.1), GuardrailSpec("latency", 0.2, threshold_us=50_000, slice_s=0.5)),
)


def test_a_version_that_turns_bad_in_the_bake_is_found() -> None:
    for rates, added_us in (((0.01, 0.5), 0), ((0.01, 0.01), 60_000)):
        world = Holdout(3, EVERYTHING, 60.0)
        assert world.run(200, (0.01, 0.01), 0).verdict == "UNDECIDED"
        analysis = world.run(250, rates, added_us)
        assert analysis.verdict == "FAIL", analysis.reason
        assert world.at_s < 50.0


def test_a_healthy_version_is_never_passed_nor_convicted_in_the_bake() -> None:
    for seed in range(2):
        world = Holdout(seed, EVERYTHING, 30.0)
        analysis = world.run(300, (0.02, 0.02), 0)
        assert analysis.verdict == "UNDECIDED", (seed, analysis.reason)
        assert "since promotion" in analysis.reason


def test_a_rate_bets_at_most_once_a_second() -> None:
    world = Holdout(1, EVERYTHING, 30.0)
    before = OUTCOMES.own(world.state).batches
    world.run(100, (0.01, 0.01), 0)
    assert 5 <= OUTCOMES.own(world.state).batches - before <= 11
    assert GUARDRAILS.own(world.state)["guardrail:errors"].bad.bets <= 11


def test_the_budget_is_shared_between_the_climb_and_the_bake() -> None:
    spec = budget.for_bake(AnalysisSpec(), 60.0)
    climb, baking = (math.exp(budget.log_alpha(spec, baking=part)) for part in (False, True))
    assert climb + baking == pytest.approx(spec.alpha_rollback) and baking > 0
    assert budget.for_bake(spec, 0.0) == AnalysisSpec()


def test_a_bake_survives_a_snapshot_bit_for_bit() -> None:
    world = Holdout(2, EVERYTHING, 60.0)
    world.run(35, (0.05, 0.1), 0)
    restored = restore(msgspec.json.encode(world.state))
    assert restored == world.state and restored.baking
    evidence = Evidence(world.at_s + 1.0, (world.entry,))
    assert judge(world.spec, restored, evidence) == judge(world.spec, world.state, evidence)


@pytest.mark.parametrize("bake_s", [0.0, -1.0, math.nan, math.inf])
def test_a_time_that_is_none_is_refused(bake_s: float) -> None:
    with pytest.raises(InvalidValueError, match="bake"):
        bake(fresh_state(AnalysisSpec()), bake_s)


def test_what_was_learnt_about_stable_stays() -> None:
    entry = EpochCounts(
        "r", 1, 500, Counts(900, {"errors": 90}, latency={300: 900}), Counts(100, {"errors": 10}, latency={300: 100})
    )
    state, _ = judge(AnalysisSpec(), fresh_state(AnalysisSpec()), Evidence(0.0, (entry,)))
    baked = bake(state, 10.0)
    assert LATENCIES.own(baked)["latency"].past == LATENCIES.own(state)["latency"].past and baked.intake == state.intake
    assert [m.past_events for m in OUTCOMES.own(baked).metrics] == [m.past_events for m in OUTCOMES.own(state).metrics]
    assert (baked.stable_requests, baked.canary_requests) == (900, 100)
