"""A histogram in order: how many lie at or above a bucket, and which bucket holds a quantile, for many of either.

One sort serves every question; each is then a search by halves.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from itertools import accumulate


class Ranks:
    """The buckets of one histogram in ascending order, with the counts up to each."""

    __slots__ = ("_buckets", "_upto", "total")

    def __init__(self, histogram: Mapping[int, int]) -> None:
        self._buckets = sorted(histogram)
        self._upto = list(accumulate(map(histogram.__getitem__, self._buckets), initial=0))
        self.total = self._upto[-1]

    def at_or_above(self, bucket: int) -> int:
        """How many latencies fall into ``bucket`` or beyond."""
        return self.total - self._upto[bisect_left(self._buckets, bucket)]

    def quantile_bucket(self, q: float) -> int | None:
        """The bucket that holds the q-quantile (0 < q <= 1), or None for an empty histogram."""
        if not self.total:
            return None
        index = bisect_left(self._upto, q * self.total, 1)
        return self._buckets[min(index, len(self._buckets)) - 1]
