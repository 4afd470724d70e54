"""The counters of one route under one table: plain increments on the request path.

What is sent are msgspec's structures, whose attributes are slow to look at. So what happens in every request is entered
through `VariantCounters`: into the structures' own histograms, and into numbers that are added to them when a report is
made. The ordinary request (answered well by the variant that it was assigned to) has one entry, by its status and the
buckets of its two latencies: from it a report makes the six that an outcome has.
"""

from __future__ import annotations

from time import time
from typing import Final

from gateway.core.stats.counts import Counts, EpochCounts
from gateway.core.stats.histogram import bucket_of, size_class
from gateway.core.stats.outcomes import ABANDONED, OK
from gateway.core.traffic.table import Route
from gateway.core.types import Variant
from gateway.runtime.wire import Exemplar, RouteTotals

# A look at an enumeration's member costs a search through its classes.
_CANARY: Final = Variant.CANARY


# Bits of a latency's bucket in an entry of `VariantCounters.answered_well`.
_BUCKET_BITS: Final = 12
_BUCKET_MASK: Final = (1 << _BUCKET_BITS) - 1
# Bits of a size's class in an entry of `VariantCounters.sized`.
_SIZE_BITS: Final = 8
_SIZE_MASK: Final = (1 << _SIZE_BITS) - 1
_BOTH_SIZES_MASK: Final = (1 << 2 * _SIZE_BITS) - 1


def _add(counts: dict[int, int], key: int, times: int) -> None:
    counts[key] = counts.get(key, 0) + times


def add_one(counts: dict[str, int], key: str) -> None:
    """Count one more under this key."""
    counts[key] = counts.get(key, 0) + 1


class VariantCounters:
    """What every request on one variant of a route enters. The dictionaries are those of the structures themselves."""

    __slots__ = (
        "_answered",
        "_assigned",
        "_counts",
        "_counts_duration",
        "_duration",
        "_duration_us",
        "_exemplars",
        "_first_byte",
        "_first_byte_us",
        "_lasted_us",
        "_latency",
        "_ok",
        "_request_bytes",
        "_response_bytes",
        "_sizes",
        "_slowest_us",
        "_totals",
        "_tries",
        "_well",
    )

    def __init__(self, counts: Counts, totals: RouteTotals) -> None:
        self._counts = counts
        self._latency = counts.latency
        self._counts_duration = counts.duration
        self._totals = totals
        self._answered = totals.answered
        self._tries = totals.tries
        self._first_byte = totals.first_byte
        self._duration = totals.duration
        self._assigned = self._ok = self._first_byte_us = self._duration_us = self._lasted_us = 0
        # Requests by status and buckets of the first byte and of the whole answer (see `answered_well`).
        self._well: dict[int, int] = {}
        # Answered requests by the classes of both bodies' sizes.
        self._sizes: dict[int, int] = {}
        self._request_bytes = self._response_bytes = 0
        # Since the last report: how long the slowest attempt took, and one attempt of each result to be shown.
        self._slowest_us = 0
        self._exemplars: dict[str, Exemplar] = {}

    def assigned(self) -> None:
        """A request was assigned to this variant."""
        self._assigned += 1

    def answered(self, status: int) -> None:
        """A client was answered with this status on this variant's behalf."""
        answered = self._answered
        answered[status] = answered.get(status, 0) + 1

    def tried(self, kind: str, first_byte_us: int, duration_us: int) -> bool:
        """Enter a try's end and its latencies into the totals for metrics; whether it is one to be shown."""
        tries = self._tries
        tries[kind] = tries.get(kind, 0) + 1
        bucket = bucket_of(first_byte_us)
        histogram = self._first_byte
        histogram[bucket] = histogram.get(bucket, 0) + 1
        self._first_byte_us += first_byte_us
        bucket = bucket_of(duration_us)
        histogram = self._duration
        histogram[bucket] = histogram.get(bucket, 0) + 1
        self._duration_us += duration_us
        return duration_us > self._slowest_us or (kind != OK and kind not in self._exemplars)

    def show(self, kind: str, duration_us: int, trace_id: bytes) -> None:
        """Keep an attempt as an exemplar of its result, until the next report."""
        self._slowest_us = max(self._slowest_us, duration_us)
        totals = self._totals
        trace = trace_id.decode()
        self._exemplars[kind] = Exemplar(totals.route, totals.variant, kind, duration_us, trace, time())

    def take_exemplars(self, into: list[Exemplar]) -> None:
        """Add what was kept since the last time, and begin anew."""
        if self._exemplars:
            into.extend(self._exemplars.values())
            self._exemplars = {}
        self._slowest_us = 0

    def sized(self, request_bytes: int, response_bytes: int) -> None:
        """Enter the sizes of an answered request's bodies."""
        entry = (size_class(request_bytes) << _SIZE_BITS) + size_class(response_bytes)
        sizes = self._sizes
        sizes[entry] = sizes.get(entry, 0) + 1
        self._request_bytes += request_bytes
        self._response_bytes += response_bytes

    def queued(self, wait_us: int) -> None:
        """An attempt had to wait so long for its connection."""
        _enter(self._totals.queued, wait_us)
        self._totals.queued_us_sum += wait_us

    def count(self, kind: str, first_byte_us: int, duration_us: int) -> None:
        """Enter one outcome of an assigned (not forced) request into the evidence: its class."""
        if kind == OK:
            self._ok += 1
        else:
            self._counts.requests += 1
            self._counts.enter(kind)
        bucket = bucket_of(first_byte_us)
        histogram = self._latency
        histogram[bucket] = histogram.get(bucket, 0) + 1
        bucket = bucket_of(duration_us)
        histogram = self._counts_duration
        histogram[bucket] = histogram.get(bucket, 0) + 1
        self._lasted_us += duration_us

    def failed_at(self, url: str, kind: str) -> None:
        """The outcome that `count` has entered is not ok, and came from this endpoint."""
        classes = self._totals.failed_at.get(url)
        if classes is None:
            classes = self._totals.failed_at[url] = {}
        add_one(classes, kind)

    def answered_well(
        self, status: int, first_byte_us: int, duration_us: int, request_bytes: int, response_bytes: int
    ) -> bool:
        """Enter all of an ordinary request: `answered`, `sized`, `tried` and `count` of class ok, with its latencies.

        Returns what `tried` does.
        """
        entry = ((status << _BUCKET_BITS) + bucket_of(first_byte_us) << _BUCKET_BITS) + bucket_of(duration_us)
        entry = ((entry << _SIZE_BITS) + size_class(request_bytes) << _SIZE_BITS) + size_class(response_bytes)
        self._request_bytes += request_bytes
        self._response_bytes += response_bytes
        well = self._well
        well[entry] = well.get(entry, 0) + 1
        self._first_byte_us += first_byte_us
        self._duration_us += duration_us
        self._lasted_us += duration_us
        return duration_us > self._slowest_us

    def settle(self) -> None:
        """Add what was entered here to the structures: they are about to be sent."""
        if self._well:
            for sized, times in self._well.items():
                sizes, entry = sized & _BOTH_SIZES_MASK, sized >> 2 * _SIZE_BITS
                self._sizes[sizes] = self._sizes.get(sizes, 0) + times
                _add(self._answered, entry >> 2 * _BUCKET_BITS, times)
                self._ok += times
                bucket = entry >> _BUCKET_BITS & _BUCKET_MASK
                _add(self._first_byte, bucket, times)
                _add(self._latency, bucket, times)
                bucket = entry & _BUCKET_MASK
                _add(self._duration, bucket, times)
                _add(self._counts_duration, bucket, times)
            self._tries[OK] = self._tries.get(OK, 0) + sum(self._well.values())
            self._well.clear()
        if self._assigned or self._ok:
            self._counts.assigned += self._assigned
            self._counts.requests += self._ok
            self._assigned = self._ok = 0
        if self._lasted_us:
            self._counts.lasted_us += self._lasted_us
            self._lasted_us = 0
        if self._duration_us or self._first_byte_us:
            self._totals.duration_us_sum += self._duration_us
            self._totals.first_byte_us_sum += self._first_byte_us
            self._duration_us = self._first_byte_us = 0
        if self._sizes:
            for entry, times in self._sizes.items():
                _add(self._totals.request_sizes, entry >> _SIZE_BITS, times)
                _add(self._totals.response_sizes, entry & _SIZE_MASK, times)
            self._sizes.clear()
            self._totals.request_bytes_sum += self._request_bytes
            self._totals.response_bytes_sum += self._response_bytes
            self._request_bytes = self._response_bytes = 0


class EpochCounters:
    """The counters of one route under one table.

    ``variants`` are stable's and the canary's as requests enter them; ``arms`` and ``totals`` are what is sent of them.
    ``open`` counts what may still enter something: exchanges, and sessions whose window has not ended.
    """

    __slots__ = ("arms", "evidence", "final_seq", "open", "route", "totals", "variants")

    def __init__(self, route: Route, epoch: int, totals: tuple[RouteTotals, RouteTotals]) -> None:
        self.route = route
        self.evidence = EpochCounts(route.name, epoch, route.weight_bp)
        self.arms: tuple[Counts, Counts] = (self.evidence.stable, self.evidence.canary)
        self.totals = totals
        self.variants = (
            VariantCounters(self.arms[0], totals[0]),
            VariantCounters(self.arms[1], totals[1]),
        )
        self.open = 0
        self.final_seq: int | None = None

    def of(self, variant: Variant) -> VariantCounters:
        """What a request on this variant enters. Compiled code would copy the pair to look a variant up in it."""
        return self.variants[1] if variant is _CANARY else self.variants[0]

    def rescue_refused(self, reason: str) -> None:
        """Count a failure of the canary that stable did not answer."""
        add_one(self.totals[Variant.CANARY].rescues_refused, reason)

    def retried(self, variant: Variant, reason: str) -> None:
        """Count a failed try (by its reason) that the same backend was given once more."""
        add_one(self.totals[variant].retries, reason)

    def retry_refused(self, reason: str) -> None:
        """Count a failed try of stable's that nobody was given once more."""
        add_one(self.totals[Variant.STABLE].retries_refused, reason)

    def unserved(self, variant: Variant, reason: str) -> None:
        """Count a request that could not be tried for a want of the gateway's: nobody's failure."""
        add_one(self.totals[variant].unserved, reason)

    def streamed(self, variant: Variant, gap_s: float, time_per_event_s: float, *, left: bool) -> None:
        """Enter the pauses of a counted event stream; ``left``: its client did not wait for its end."""
        counts = self.arms[variant]
        if gap_s:
            _enter(counts.gap_left if left else counts.gap, int(gap_s * 1e6))
        if time_per_event_s:
            totals, per_event_us = self.totals[variant], int(time_per_event_s * 1e6)
            _enter(counts.time_per_event, per_event_us)
            _enter(totals.per_token, per_event_us)
            totals.per_token_us_sum += per_event_us

    def first_token(self, variant: Variant, lasted_us: int, *, left: bool) -> None:
        """Enter when a stream's first content came; ``left``: so long it had not."""
        counts = self.arms[variant]
        if left:
            _enter(counts.first_token_left, lasted_us)
            return
        totals = self.totals[variant]
        _enter(counts.first_token, lasted_us)
        _enter(totals.first_token, lasted_us)
        totals.first_token_us_sum += lasted_us

    def abandoned(self, variant: Variant, latency_us: int, lasted_us: int) -> None:
        """Enter a request whose client left before the answer was whole.

        ``lasted_us`` is how long the answer had lasted by then; -1: so far ``latency_us`` had passed, and was not over.
        """
        counts = self.arms[variant]
        counts.requests += 1
        counts.lasted_us += max(latency_us, lasted_us)
        counts.enter(ABANDONED)
        if lasted_us < 0:
            _enter(counts.aborted, latency_us)
        else:
            _enter(counts.latency, latency_us)
            _enter(counts.duration_left, lasted_us)


def _enter(histogram: dict[int, int], time_us: int) -> None:
    bucket = bucket_of(time_us)
    histogram[bucket] = histogram.get(bucket, 0) + 1
