"""The values of a replay: what was recorded in one interval, and what a rule made of a recording.

Rules:

1. ``at_s`` is the end of an interval: the moment at which its counts could be read, so the earliest at which a rule
   could act on them. Times are seconds on any clock that only rises.
2. A recording is a one-way stream. A rule reads no further than its decision, so that what was read (`Meter`) is
   what users were exposed to until then.
3. The recorded weights stand, whatever a rule would have set: a replay judges the same traffic by each rule.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator

import msgspec

from gateway.core.stats.counts import Counts, check, merge
from gateway.core.stats.outcomes import ERRORS, FAILURES

# A scrape that comes this share of a window early is on time: clocks and decimal fractions are not exact.
_EARLY = 1e-6


class RecordedInterval(msgspec.Struct, frozen=True):
    """Both arms' counts between ``since_s`` and ``at_s`` (not cumulative), and the weight they were assigned under."""

    since_s: float
    at_s: float
    weight_bp: int
    stable: Counts
    canary: Counts

    def __post_init__(self) -> None:
        """Raise EvidenceError for counts that cannot be true, as control does for a worker's report."""
        check(self.stable)
        check(self.canary)


class DecisionKind(enum.StrEnum):
    """What a rule decided. HOLD: held for an operator, UNDECIDED: still at work, when the recording ended."""

    PROMOTE = "promote"
    ROLLBACK = "rollback"
    HOLD = "hold"
    UNDECIDED = "undecided"


class RuleDecision(msgspec.Struct, frozen=True):
    """A rule's answer, when it fell (None: not within the recording) and why."""

    kind: DecisionKind
    at_s: float | None
    reason: str


class Meter:
    """Intervals as they are read, and how much has been read so far."""

    def __init__(self, intervals: Iterable[RecordedInterval]) -> None:
        self._intervals = iter(intervals)
        self.intervals = 0
        self.covered_s = 0.0
        self.since_s = 0.0
        self.at_s = 0.0
        self.stable_requests = 0
        self.canary_requests = 0
        self.stable_errors = 0
        self.canary_errors = 0
        self.canary_failures = 0

    def __iter__(self) -> Iterator[RecordedInterval]:
        return self

    def __next__(self) -> RecordedInterval:
        interval = next(self._intervals)
        if not self.intervals:
            self.since_s = interval.since_s
        self.intervals += 1
        self.covered_s += interval.at_s - interval.since_s
        self.at_s = interval.at_s
        self.stable_requests += interval.stable.requests
        self.canary_requests += interval.canary.requests
        self.stable_errors += interval.stable.of(ERRORS)
        self.canary_errors += interval.canary.of(ERRORS)
        self.canary_failures += sum(interval.canary.of(name) for name in FAILURES)
        return interval


def windows(intervals: Iterable[RecordedInterval], window_s: float) -> Iterator[RecordedInterval]:
    """The intervals summed up between the checks of a rule that looks every ``window_s``.

    A check falls on the first interval that ends at or after each multiple of ``window_s`` since the beginning; it sees
    all since the check before. What is left at the end is no whole window and is not seen.
    """
    parts: list[RecordedInterval] = []
    began_s, due = 0.0, 1
    for interval in intervals:
        if not parts and due == 1:
            began_s = interval.since_s
        parts.append(interval)
        passed = (interval.at_s - began_s) / window_s + _EARLY
        if passed >= due:
            yield _sum(parts)
            parts, due = [], int(passed) + 1


def _sum(parts: list[RecordedInterval]) -> RecordedInterval:
    first, last = parts[0], parts[-1]
    if first is last:
        return first
    stable, canary = merge(part.stable for part in parts), merge(part.canary for part in parts)
    return RecordedInterval(first.since_s, last.at_s, last.weight_bp, stable, canary)
