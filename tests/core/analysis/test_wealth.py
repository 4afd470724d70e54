"""Wealth: nothing is created, a late start is cheap, and logarithms stay finite."""

from __future__ import annotations

import itertools
import math

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.analysis.betting import wealth
from gateway.core.analysis.betting.wealth import Wealth

PRIORS = (0.25, 0.75)
# Two bets on a fair coin: factors for heads and tails, with mean 1.
FACTORS = ((1.8, 0.2), (1.1, 0.9))


@pytest.mark.parametrize("held_back", [0.0, 0.2, 0.9])
def test_fair_bets_keep_the_mean_at_one(held_back: float) -> None:
    mean = 0.0
    for flips in itertools.product((0, 1), repeat=8):
        held = wealth.fresh(PRIORS, held_back)
        for flip in flips:
            held = wealth.grow(held, [math.log(bet[flip]) for bet in FACTORS], PRIORS)
        mean += math.exp(wealth.log_e(held)) / 2**8
    assert mean == pytest.approx(1.0, abs=1e-12)


def test_a_late_winning_streak_shows_at_once_after_a_long_loss() -> None:
    held, remembering = wealth.fresh(PRIORS, wealth.HELD_BACK), wealth.fresh(PRIORS)
    for _ in range(100_000):
        held = wealth.grow(held, [-0.5, -0.5], PRIORS)
        remembering = wealth.grow(remembering, [-0.5, -0.5], PRIORS)
    for _ in range(20):
        held = wealth.grow(held, [2.0, 2.0], PRIORS)
        remembering = wealth.grow(remembering, [2.0, 2.0], PRIORS)
    assert wealth.log_e(held) > math.log(100)
    assert wealth.log_e(remembering) < -40_000


@given(st.lists(st.floats(-1e9, 1e9), min_size=1, max_size=20))
def test_sums_of_logs_are_finite_and_at_least_the_largest(logs: list[float]) -> None:
    total = wealth.sum_logs(logs)
    assert math.isfinite(total)
    assert max(logs) <= total <= max(logs) + math.log(len(logs)) + 1e-6
    assert wealth.mean_logs(logs) <= max(logs) + 1e-6


@given(st.lists(st.tuples(st.floats(-1e9, 1e9), st.floats(-1e9, 1e9)), max_size=20), st.sampled_from([0.0, 0.2]))
def test_any_history_stays_finite_and_survives_json_bit_for_bit(
    history: list[tuple[float, float]], held_back: float
) -> None:
    held = wealth.fresh(PRIORS, held_back)
    for gains in history:
        held = wealth.grow(held, gains, PRIORS)
        assert math.isfinite(wealth.log_e(held))
    assert msgspec.json.decode(msgspec.json.encode(held), type=Wealth) == held
