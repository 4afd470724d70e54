"""Failure classes: batches close on counts alone, false alarms stay below alpha, and proof comes near the limit."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import pytest

from gateway.core.analysis import rates, wealth
from gateway.core.analysis.eprocess import Batch
from gateway.core.analysis.intake import Arrival
from gateway.core.analysis.rates import RateState
from gateway.core.analysis.types import RateSpec
from gateway.core.stats import Counts

ALPHA = 0.05
SPEC = RateSpec()


def highest(
    rng: random.Random, weight_at: Callable[[int], float], rate_at: Callable[[int], tuple[float, float]], requests: int
) -> tuple[RateState, float, int]:
    """The test watched after every batch: its state, the highest log E_bad, and the request at which 1/alpha fell."""
    state, batches, top, when = rates.fresh().metrics[0], 0, 0.0, requests
    part = [0, 0, 0, 0]
    for i in range(requests):
        arm = rng.random() < weight_at(i)
        part[2 * arm + 1] += 1
        part[2 * arm] += rng.random() < rate_at(i)[arm]
        if min(part[1], part[3]) < min(4, 1 + batches // 4):
            continue
        state = rates.bet(state, SPEC, Batch(*part))
        batches, part = batches + 1, [0, 0, 0, 0]
        top = max(top, wealth.log_e(state.bad))
        if top >= math.log(1 / ALPHA):
            when = i
            break
    return state, top, when


WORLDS: dict[str, tuple[Callable[[int], float], Callable[[int], float]]] = {
    "steady": (lambda i: 0.1, lambda i: 0.02),
    "ramping weight": (lambda i: (0.01, 0.05, 0.25, 0.5)[i // 200], lambda i: 0.02),
    "drift": (lambda i: 0.2, lambda i: 0.001 + 0.1 * i / 800),
    "outages of both": (lambda i: 0.1, lambda i: 0.9 if i // 40 % 5 == 4 else 0.001),
    "ramp into an outage": (lambda i: 0.05 if i < 400 else 0.5, lambda i: 0.0 if i < 400 else 0.4),
}


@pytest.mark.parametrize("world", WORLDS)
def test_watched_at_every_moment_an_equal_canary_is_convicted_less_often_than_alpha(world: str) -> None:
    weight_at, rate_at = WORLDS[world]
    runs = 150
    alarms = 0
    for seed in range(runs):
        _, top, _ = highest(random.Random(seed), weight_at, lambda i: (rate_at(i), rate_at(i)), 800)
        alarms += top >= math.log(1 / ALPHA)
    # 5 % of 150 is 7.5; 15 would be exceeded by a test that just keeps alpha less than once in 200.
    assert alarms <= 15, f"{alarms} false alarms in {runs} runs, seeds 0..{runs - 1}"


def test_a_canary_at_the_margin_is_passed_less_often_than_alpha() -> None:
    runs, passed = 100, 0
    for seed in range(runs):
        rng, state, best = random.Random(seed), rates.fresh().metrics[0], 0.0
        for _ in range(100):
            batch = Batch(
                sum(rng.random() < 0.02 for _ in range(30)), 30, sum(rng.random() < 0.03 for _ in range(10)), 10
            )
            state = rates.bet(state, SPEC, batch)
            best = max(best, wealth.log_e(state.ok))
        passed += best >= math.log(1 / ALPHA)
    assert passed <= 11, f"{passed} of {runs} passed at the margin itself, seeds 0..{runs - 1}"


def information(p_s: float, p_c: float, w: float) -> float:
    """Nats per request against equal rates: the limit of any test."""
    pooled = (1 - w) * p_s + w * p_c

    def divergence(a: float) -> float:
        return a * math.log(a / pooled) + (1 - a) * math.log((1 - a) / (1 - pooled))

    return (1 - w) * divergence(p_s) + w * divergence(p_c)


@pytest.mark.parametrize(("p_s", "p_c", "w"), [(0.01, 0.05, 0.5), (0.01, 0.5, 0.5), (0.01, 0.5, 0.05)])
def test_conviction_comes_near_the_information_limit(p_s: float, p_c: float, w: float) -> None:
    limit = math.log(1 / ALPHA) / information(p_s, p_c, w)
    runs = 40
    mean = 0.0
    for seed in range(runs):
        mean += highest(random.Random(seed), lambda i: w, lambda i: (p_s, p_c), int(20 * limit))[2] / runs
    assert mean <= 2.3 * limit, f"mean of {mean:.0f} requests, limit {limit:.0f}, seeds 0..{runs - 1}"


def test_a_canary_that_breaks_after_a_long_healthy_life_is_convicted_within_twenty_failures() -> None:
    state = rates.fresh().metrics[0]
    for _ in range(5_000):
        state = rates.bet(state, SPEC, Batch(0, 95, 0, 5))
    failures = 0
    while wealth.log_e(state.bad) < math.log(400):
        state, failures = rates.bet(state, SPEC, Batch(0, 19, 1, 1)), failures + 1
    assert failures <= 20


def arrival(stable: int, canary: int, epoch: int = 1) -> Arrival:
    return Arrival(epoch, Counts(stable), Counts(canary))


def test_a_batch_waits_for_both_arms_and_never_looks_at_outcomes() -> None:
    specs = (SPEC, SPEC, SPEC)
    state = rates.take(rates.fresh(), specs, [arrival(500, 0)], [1])
    assert state.batches == 0
    assert wealth.log_e(state.metrics[0].bad) == pytest.approx(0.0, abs=1e-12)
    state = rates.take(state, specs, [arrival(0, 1)], [1])
    assert (state.batches, state.pending) == (1, {})


def test_later_batches_are_larger_and_an_older_epoch_closes_its_last_one() -> None:
    specs = (SPEC, SPEC, SPEC)
    state = rates.fresh()
    for _ in range(20):
        state = rates.take(state, specs, [arrival(20, 4)], [1])
    state = rates.take(state, specs, [arrival(20, 3)], [1])
    assert state.batches == 20 and state.pending[1].canary == 3
    state = rates.take(state, specs, [arrival(5, 0, epoch=2)], [1, 2])
    assert state.batches == 21 and set(state.pending) == {2}


def test_pending_batches_of_epochs_that_left_are_forgotten() -> None:
    specs = (SPEC, SPEC, SPEC)
    state = rates.take(rates.fresh(), specs, [arrival(5, 0)], [1])
    assert rates.take(state, specs, [], []).pending == {}


def test_the_stable_guess_follows_the_last_traffic() -> None:
    state = rates.fresh().metrics[0]
    for _ in range(50):
        state = rates.bet(state, SPEC, Batch(0, 1000, 0, 10))
    for _ in range(50):
        state = rates.bet(state, SPEC, Batch(100, 1000, 1, 10))
    assert 0.08 < rates.stable_guess(state) < 0.1
    assert state.past_trials <= 20_000
