"""Counts: what one arm of an experiment has seen, cumulative and mergeable.

Rules:

1. Cumulative, never deltas: a lost, repeated or reordered message harms nothing, the newest one says it all.
2. A request is counted exactly once, under the epoch of the table that assigned it.
3. Failures are told apart by class (see docs: `errors`, `client_errors`, `overload`); every class is a subset of
   ``requests`` and is compared with stable on the same traffic.
4. Requests that the experiment must not see (forced variants, client aborts, the gateway's own faults) never enter.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from gateway.core.errors import EvidenceError
from gateway.core.stats.histogram import BUCKET_MAX


class Counts(msgspec.Struct):
    """Counts of one variant under one epoch. All fields are events since the counter's birth.

    ``latency`` is a histogram of the time from dispatch to the response's first byte, or to the failure, in
    microseconds (see histogram.py); ``duration`` to its last byte.
    """

    requests: int = 0
    errors: int = 0
    client_errors: int = 0
    overload: int = 0
    latency: dict[int, int] = msgspec.field(default_factory=dict)
    duration: dict[int, int] = msgspec.field(default_factory=dict)

    def copy(self) -> Counts:
        """A snapshot that later increments do not touch."""
        return Counts(
            self.requests, self.errors, self.client_errors, self.overload, dict(self.latency), dict(self.duration)
        )


class EpochCounts(msgspec.Struct):
    """Both variants' counts on one route under one epoch, with the weight that assigned them."""

    route: str
    epoch: int
    weight_bp: int
    stable: Counts = msgspec.field(default_factory=Counts)
    canary: Counts = msgspec.field(default_factory=Counts)


def merge(parts: Iterable[Counts]) -> Counts:
    """The sum of counts from many workers (associative, commutative, empty sum is zero)."""
    out = Counts()
    for part in parts:
        out.requests += part.requests
        out.errors += part.errors
        out.client_errors += part.client_errors
        out.overload += part.overload
        _add(out.latency, part.latency)
        _add(out.duration, part.duration)
    return out


def delta(new: Counts, old: Counts) -> Counts:
    """What was added between two cumulative counts of the same source.

    Raises EvidenceError when any counter went backwards.
    """
    out = Counts(
        new.requests - old.requests,
        new.errors - old.errors,
        new.client_errors - old.client_errors,
        new.overload - old.overload,
        _minus(new.latency, old.latency),
        _minus(new.duration, old.duration),
    )
    if min(out.requests, out.errors, out.client_errors, out.overload) < 0:
        raise EvidenceError(f"counts went backwards: {old.requests} requests before, {new.requests} now")
    return out


def check(counts: Counts) -> None:
    """Raise EvidenceError for counts that cannot be true: negative, more events than requests, alien buckets."""
    for name in ("requests", "errors", "client_errors", "overload"):
        value = getattr(counts, name)
        if value < 0 or value > counts.requests:
            raise EvidenceError(f"{name} is {value} of {counts.requests} requests")
    for name in ("latency", "duration"):
        histogram: dict[int, int] = getattr(counts, name)
        if any(n < 0 or not 0 <= b <= BUCKET_MAX for b, n in histogram.items()):
            raise EvidenceError(f"{name} histogram has a negative count or a bucket outside 0..{BUCKET_MAX}")
        if sum(histogram.values()) > counts.requests:
            raise EvidenceError(f"{name} histogram holds more entries than the {counts.requests} requests")


def _add(into: dict[int, int], part: Mapping[int, int]) -> None:
    for bucket, n in part.items():
        into[bucket] = into.get(bucket, 0) + n


def _minus(new: Mapping[int, int], old: Mapping[int, int]) -> dict[int, int]:
    out = {}
    for bucket, n in new.items():
        added = n - old.get(bucket, 0)
        if added < 0:
            raise EvidenceError(f"histogram bucket {bucket} went backwards")
        if added:
            out[bucket] = added
    if len(old.keys() - new.keys()):
        raise EvidenceError("a histogram bucket vanished")
    return out
