"""A log-linear latency histogram over integer microseconds.

Each power of two is cut into ``2**SUB_BITS`` equal buckets, so a bucket is at most ``2**-SUB_BITS`` (3.1 %) as wide as
its lower edge, whatever the magnitude: quantiles have a bounded *relative* error, and two histograms merge by adding.
Below ``2**SUB_BITS`` microseconds the buckets are exact. A histogram is a plain ``dict[int, int]`` (bucket -> count):
sparse, so that a report over the wire carries only what was seen.

The layout is that of HdrHistogram (Tene) with an integer index computed from the length in bits instead of a logarithm:

>>> bucket_of(31), bucket_of(32), bucket_of(63), bucket_of(64), bucket_of(65), bucket_of(66)
(31, 32, 63, 64, 64, 65)
>>> [size_class(n) for n in (0, 32, 33, 64, 65, 1024, 1025)]
[0, 0, 1, 1, 2, 5, 6]
>>> all(lower_us(bucket_of(v)) <= v < upper_us(bucket_of(v)) for v in (0, 1, 31, 32, 1000, 123_456, 10**9))
True
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from gateway.core.stats.ranks import Ranks

SUB_BITS: Final = 5
_SUB: Final = 1 << SUB_BITS
# 2**32 us is 71 minutes: longer times are not distinguished, and a hostile clock cannot grow the histogram.
LATENCY_US_MAX: Final = (1 << 32) - 1


def bucket_of(latency_us: int) -> int:
    """The bucket of a latency in microseconds; negative values count as 0, huge ones as the last bucket."""
    if latency_us < _SUB:
        return latency_us if latency_us > 0 else 0
    if latency_us > LATENCY_US_MAX:
        latency_us = LATENCY_US_MAX
    # Not by bit_length: that is a call on an object, and this, compiled, a few steps on a machine word.
    shift, rest = 0, latency_us >> (SUB_BITS + 1)
    if rest >= 1 << 16:
        shift, rest = 16, rest >> 16
    if rest >= 1 << 8:
        shift, rest = shift + 8, rest >> 8
    if rest >= 1 << 4:
        shift, rest = shift + 4, rest >> 4
    while rest:
        shift, rest = shift + 1, rest >> 1
    return (shift << SUB_BITS) + (latency_us >> shift)


def size_class(size_bytes: int) -> int:
    """The class of a size: k for those up to ``32 << k`` bytes that no smaller class holds."""
    return bucket_of(size_bytes - 1) >> SUB_BITS


def lower_us(bucket: int) -> int:
    """The smallest latency (inclusive, microseconds) that falls into ``bucket``."""
    if bucket < _SUB:
        return bucket
    shift = (bucket >> SUB_BITS) - 1
    return (bucket - (shift << SUB_BITS)) << shift


def upper_us(bucket: int) -> int:
    """The smallest latency (microseconds) that falls beyond ``bucket``."""
    return lower_us(bucket + 1)


BUCKET_MAX: Final = bucket_of(LATENCY_US_MAX)


def total(histogram: Mapping[int, int]) -> int:
    """How many latencies the histogram holds."""
    return sum(histogram.values())


def quantile_us(histogram: Mapping[int, int], q: float) -> float | None:
    """The q-quantile in microseconds (its bucket's midpoint: relative error <= 1.6 %), or None when empty."""
    bucket = Ranks(histogram).quantile_bucket(q)
    if bucket is None:
        return None
    return (lower_us(bucket) + upper_us(bucket) - 1) / 2
