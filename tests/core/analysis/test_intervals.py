"""Confidence sequences: the exact martingale, coverage at every moment together, quantiles, and large counts."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from gateway.core.analysis.show.intervals import effect, log_mixture, quantile_interval, rate_interval
from gateway.core.stats import bucket_of
from gateway.core.stats.histogram import lower_us, upper_us


@pytest.mark.parametrize("rate", [1e-6, 0.01, 0.3, 0.5, 0.99])
def test_the_mixture_has_a_mean_of_one(rate: float) -> None:
    for n in (1, 5, 40):
        terms = (
            math.comb(n, k) * rate**k * (1 - rate) ** (n - k) * math.exp(log_mixture(k, n, rate)) for k in range(n + 1)
        )
        assert math.fsum(terms) == pytest.approx(1.0, abs=1e-9)


def test_the_mixture_is_scipys_beta_binomial_over_the_binomial() -> None:
    for k, n, rate in ((0, 10, 0.2), (7, 90, 0.05), (500, 1000, 0.51)):
        expected = stats.betabinom.logpmf(k, n, 0.5, 0.5) - stats.binom.logpmf(k, n, rate)
        assert log_mixture(k, n, rate) == pytest.approx(expected, rel=1e-9, abs=1e-9)


@given(st.integers(0, 10**9), st.integers(0, 10**9))
def test_an_interval_holds_what_was_seen_and_stays_inside(events: int, more: int) -> None:
    trials = events + more
    low, high = rate_interval(events, trials, 0.05)
    assert 0.0 <= low <= high <= 1.0
    if trials:
        assert low <= events / trials <= high


@pytest.mark.parametrize(("events", "trials"), [(1, 50), (50, 1_000), (999, 1_000), (0, 40), (40, 40)])
def test_the_ends_are_where_the_mixture_reaches_the_level(events: int, trials: int) -> None:
    level, ends = math.log(1 / 0.05), rate_interval(events, trials, 0.05)
    for end, open_end in zip(ends, (0.0, 1.0), strict=True):
        if end != open_end:
            assert log_mixture(events, trials, end) == pytest.approx(level, abs=1e-6)
    assert (ends.low == 0.0) is (events == 0) and (ends.high == 1.0) is (events == trials)


@pytest.mark.parametrize("rate", [0.002, 0.05, 0.5])
def test_the_rate_is_inside_at_every_moment_together(rate: float) -> None:
    runs, missed = 120, 0
    for seed in range(runs):
        rng, events = random.Random(seed), 0
        for n in range(1, 400):
            events += rng.random() < rate
            if log_mixture(events, n, rate) >= math.log(1 / 0.1):
                missed += 1
                break
    # 10 % of 120 is 12; more than 22 would happen less than once in 200.
    assert missed <= 22, f"{missed} of {runs} missed, seeds 0..{runs - 1}"


def test_an_effect_has_both_arms_the_difference_and_the_ratio() -> None:
    found = effect((50, 10_000), (60, 1_000), 0.05)
    assert found.stable.low < 0.005 < found.stable.high
    assert found.difference.low > 0.0 and found.difference.low < 0.055 < found.difference.high
    assert found.ratio.low > 1.0 and found.ratio.low < 12.0 < found.ratio.high
    assert effect((0, 100), (5, 100), 0.05).ratio.high == math.inf
    assert effect((0, 0), (0, 0), 0.05).difference == (-1.0, 1.0)


def test_a_quantile_is_inside_at_every_moment_together() -> None:
    runs, missed, q = 80, 0, 0.9
    true_us = 2_000 * math.exp(0.4 * stats.norm.ppf(q))
    for seed in range(runs):
        rng, seen = random.Random(seed), dict[int, int]()
        for n in range(1, 301):
            bucket = bucket_of(int(2_000 * math.exp(0.4 * rng.gauss(0, 1))))
            seen[bucket] = seen.get(bucket, 0) + 1
            if n % 10 == 0:
                found = quantile_interval(seen, q, 0.1)
                assert found is not None
                if not found.low <= true_us <= found.high:
                    missed += 1
                    break
    assert missed <= 16, f"{missed} of {runs} missed, seeds 0..{runs - 1}"


def test_a_quantile_becomes_narrow_and_its_ends_are_buckets() -> None:
    rng, seen = random.Random(1), dict[int, int]()
    assert quantile_interval({}, 0.5, 0.05) is None
    for _ in range(50_000):
        bucket = bucket_of(int(2_000 * math.exp(0.4 * rng.gauss(0, 1))))
        seen[bucket] = seen.get(bucket, 0) + 1
    for q in (0.5, 0.95, 0.99):
        found, true_us = quantile_interval(seen, q, 0.05), 2_000 * math.exp(0.4 * stats.norm.ppf(q))
        assert found is not None and found.low <= true_us <= found.high
        assert found.high / found.low < 1.2
        assert found.low in {lower_us(b) for b in seen} and found.high in {upper_us(b) for b in seen}


def test_few_values_leave_an_end_open() -> None:
    found = quantile_interval({bucket_of(5_000): 3}, 0.99, 0.05)
    assert found is not None and found.high == math.inf


def test_a_billion_values_are_no_trouble() -> None:
    low, high = rate_interval(10**6, 10**9, 0.05)
    assert 0.0009 < low < 0.001 < high < 0.0011
    assert quantile_interval({300: 10**9, 400: 10**9}, 0.99, 0.05) is not None
