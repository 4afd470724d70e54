"""The latency histogram: bounded relative error, order kept, quantiles that bracket the exact ones."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from gateway.core.stats.histogram import (
    BUCKET_MAX,
    LATENCY_US_MAX,
    SUB_BITS,
    bucket_of,
    lower_us,
    quantile_us,
    total,
    upper_us,
)
from gateway.core.stats.ranks import Ranks

latencies = st.integers(0, LATENCY_US_MAX) | st.integers(0, 5000)


def histogram_of(values: list[int]) -> dict[int, int]:
    out: dict[int, int] = {}
    for value in values:
        bucket = bucket_of(value)
        out[bucket] = out.get(bucket, 0) + 1
    return out


@given(latencies)
def test_a_latency_lies_inside_its_bucket(latency_us: int) -> None:
    bucket = bucket_of(latency_us)
    assert lower_us(bucket) <= latency_us < upper_us(bucket)


@given(st.integers(0, BUCKET_MAX))
def test_buckets_tile_the_axis_with_bounded_relative_width(bucket: int) -> None:
    low, high = lower_us(bucket), upper_us(bucket)
    assert bucket_of(low) == bucket == bucket_of(high - 1)
    assert high - low <= max(1, low >> SUB_BITS)


@given(latencies, latencies)
def test_buckets_keep_the_order_of_latencies(a: int, b: int) -> None:
    low, high = sorted((a, b))
    assert bucket_of(low) <= bucket_of(high)


@given(st.integers(max_value=-1), st.integers(min_value=LATENCY_US_MAX))
def test_alien_latencies_stay_inside_the_histogram(negative: int, huge: int) -> None:
    assert bucket_of(negative) == 0
    assert bucket_of(huge) == BUCKET_MAX


@given(st.lists(latencies, min_size=1, max_size=60), st.floats(0.01, 1.0))
def test_a_quantile_falls_into_the_bucket_of_the_exact_one(values: list[int], q: float) -> None:
    exact = sorted(values)[min(len(values), max(1, math.ceil(q * len(values)))) - 1]
    histogram = histogram_of(values)
    assert Ranks(histogram).quantile_bucket(q) == bucket_of(exact)
    middle = quantile_us(histogram, q)
    assert middle is not None and abs(middle - exact) <= max(0.5, exact / 2 ** (SUB_BITS + 1))


@given(st.lists(latencies, max_size=60), st.integers(0, BUCKET_MAX))
def test_counts_at_or_above_a_bucket_are_exact(values: list[int], bucket: int) -> None:
    histogram = histogram_of(values)
    assert total(histogram) == Ranks(histogram).total == len(values)
    assert Ranks(histogram).at_or_above(bucket) == sum(value >= lower_us(bucket) for value in values)


def test_an_empty_histogram_has_no_quantile() -> None:
    assert Ranks({}).quantile_bucket(0.5) is None
    assert Ranks({}).at_or_above(0) == 0
    assert quantile_us({}, 0.5) is None
