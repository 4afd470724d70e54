"""From increments of counters to the evidence of a rollout, by the split that was in force while they arose. Pure.

Rules:

1. An increment counts under the split that was in force from its beginning to its end. One during which the split
   changed, or took effect only just then, counts for neither version and is counted as dropped.
2. An answer's class is that of its status; ``5xx`` and ``5`` stand for 500. A 2xx class counts as 200.
3. A bucket of a latency histogram stands for its upper bound, the last one for twice the bound before. Both versions
   are measured by the same buckets. A histogram is entered when the requests that it is about are counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from gateway.core.stats.counts import Counts
from gateway.core.stats.histogram import bucket_of
from gateway.core.stats.outcomes import OK, PLAIN
from gateway.integrations.prometheus.counters import Increment

SPLITS_MAX = 100
SPLIT_CHANGED, UNKNOWN_STATUS = "split_changed", "unknown_status"


class Split(NamedTuple):
    """How requests were split, from when and (None: still) until when; ``epoch`` names it."""

    epoch: int
    weight_bp: int
    began_s: float
    ended_s: float | None = None


class Splits:
    """The splits of one rollout, in the order of time."""

    def __init__(self) -> None:
        self._splits: list[Split] = []

    def begin(self, epoch: int, weight_bp: int, at_s: float) -> None:
        """Another split takes effect."""
        self.end(at_s)
        self._splits.append(Split(epoch, weight_bp, at_s))
        del self._splits[:-SPLITS_MAX]

    def end(self, at_s: float) -> None:
        """The split in force is about to change."""
        if self._splits and self._splits[-1].ended_s is None:
            self._splits[-1] = self._splits[-1]._replace(ended_s=at_s)

    def of(self, began_s: float, ended_s: float) -> Split | None:
        """The split that was in force from one moment to the other."""
        for split in reversed(self._splits):
            if split.began_s <= began_s and (split.ended_s is None or ended_s <= split.ended_s):
                return split
        return None

    def numbered(self, epoch: int) -> Split | None:
        """The split of this epoch."""
        return next((split for split in self._splits if split.epoch == epoch), None)

    @property
    def now(self) -> Split | None:
        """The split in force."""
        return self._splits[-1] if self._splits and self._splits[-1].ended_s is None else None


class Counted:
    """What one version was counted of, by epoch, since the last `take`."""

    def __init__(self, classes: list[str], status_label: str | None, unit_us: float) -> None:
        """``classes``: the class of each status. ``unit_us``: the unit of latency buckets, in microseconds."""
        self._classes = classes
        self._status_label = status_label
        self._unit_us = unit_us
        self._new: dict[int, Counts] = {}
        self._requests: Counter[int] = Counter()
        self._latencies: dict[int, Counter[int]] = {}
        self.dropped: Counter[str] = Counter()

    def requests(self, increments: Iterable[Increment], splits: Splits) -> None:
        """Enter answered requests."""
        for one in increments:
            split = splits.of(one.began_s, one.ended_s)
            outcome = OK if self._status_label is None else self._outcome(one.label(self._status_label))
            if split is None:
                self.dropped[SPLIT_CHANGED] += one.gained
            elif outcome is None:
                self.dropped[UNKNOWN_STATUS] += one.gained
            else:
                counts = self._new.setdefault(split.epoch, Counts())
                counts.requests += one.gained
                self._requests[split.epoch] += one.gained
                if outcome != OK:
                    counts.enter(outcome, one.gained)

    def latencies(self, increments: Iterable[Increment], splits: Splits) -> None:
        """Enter the buckets of histograms, which are cumulative: each holds those below it."""
        by_target: dict[tuple[frozenset[tuple[str, str]], float, float], dict[float, int]] = {}
        for one in increments:
            target = frozenset(label for label in one.labels if label[0] != "le"), one.began_s, one.ended_s
            by_target.setdefault(target, {})[_bound(one.label("le"))] = one.gained
        for (_, began_s, ended_s), buckets in by_target.items():
            split = splits.of(began_s, ended_s)
            if split is not None:
                self._latencies.setdefault(split.epoch, Counter()).update(self._histogram(buckets))

    def take(self) -> dict[int, Counts]:
        """What is new by epoch; from now on other things are."""
        for epoch, histogram in list(self._latencies.items()):
            if histogram.total() <= self._requests[epoch]:
                self._new.setdefault(epoch, Counts()).latency.update(histogram)
                self._requests[epoch] -= histogram.total()
                del self._latencies[epoch]
        new, self._new = self._new, {}
        return new

    def _outcome(self, status: str) -> str | None:
        digits = status.lower().removesuffix("xx")
        if not digits.isascii() or not digits.isdecimal():
            return None
        number = int(digits)
        if number < 10 and number != 0:
            number = PLAIN if number == PLAIN // 100 else number * 100
        return self._classes[number] if number < len(self._classes) else None

    def _histogram(self, buckets: Mapping[float, int]) -> Counter[int]:
        found: Counter[int] = Counter()
        below, bound_before = 0, 0.0
        for bound in sorted(buckets):
            stands_for = bound if bound != float("inf") else 2 * bound_before
            if (count := buckets[bound] - below) > 0:
                found[bucket_of(round(stands_for * self._unit_us))] += count
                below = buckets[bound]
            bound_before = bound
        return found


def _bound(le: str) -> float:
    try:
        return float(le)
    except ValueError:
        return float("inf")
