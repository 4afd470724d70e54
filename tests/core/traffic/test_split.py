"""The split: unbiased, sticky, monotone in weight, independent between salts."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest, chisquare

from gateway.core.traffic.split import bucket_of_key, variant_for
from gateway.core.types import WEIGHT_BP_MAX, Variant

weights = st.integers(0, WEIGHT_BP_MAX)
keys = st.binary(min_size=1, max_size=64)
# Wrong with probability 1e-6 per test, on fixed seeds: a failure is a bias.
P_MIN = 1e-6


@given(keys, st.text(max_size=20))
def test_a_key_has_one_point_and_it_is_in_range(key: bytes, salt: str) -> None:
    point = bucket_of_key(key, salt)
    assert point == bucket_of_key(key, salt)
    assert 0 <= point < WEIGHT_BP_MAX


@given(keys, weights, weights)
def test_raising_the_weight_only_moves_keys_to_the_canary(key: bytes, a: int, b: int) -> None:
    low, high = sorted((a, b))
    point = bucket_of_key(key, "r")
    assert variant_for(point, low) <= variant_for(point, high)


@given(st.floats(0, WEIGHT_BP_MAX, exclude_max=True))
def test_zero_is_nobody_and_all_is_everybody(point: float) -> None:
    assert variant_for(point, 0) is Variant.STABLE
    assert variant_for(point, WEIGHT_BP_MAX) is Variant.CANARY


def test_sticky_keys_spread_evenly() -> None:
    counts = [0] * 100
    for i in range(100_000):
        counts[int(bucket_of_key(b"user-%d" % i, "route") * 100 / WEIGHT_BP_MAX)] += 1
    assert chisquare(counts).pvalue > P_MIN


def test_random_draws_reach_the_weight_to_the_basis_point() -> None:
    draw = random.Random(20261123).random
    for weight_bp in (1, 100, 1250, 5000, 9999):
        n = 200_000
        canary = sum(variant_for(draw() * WEIGHT_BP_MAX, weight_bp) for _ in range(n))
        assert binomtest(canary, n, weight_bp / WEIGHT_BP_MAX).pvalue > P_MIN, weight_bp


def test_salts_split_independently() -> None:
    n = 20_000
    both = sum(bucket_of_key(b"%d" % i, "a") < 5000 and bucket_of_key(b"%d" % i, "b") < 5000 for i in range(n))
    assert binomtest(both, n, 0.25).pvalue > P_MIN
