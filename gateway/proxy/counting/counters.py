"""What a worker counts: evidence for verdicts and totals for metrics, as plain increments on the request path.

Evidence is kept per (route, epoch) so that an event is always tested under the weight that assigned it. An epoch is
forgotten once it is no longer in force, no exchange of it is open, and control has acknowledged a report that held
its final counts; so what is kept stays bounded, and nothing is lost when control is away.

What is sent are msgspec's structures, whose attributes are slow to look at. So what happens in every request is entered
through an `Arm`: into the structures' own histograms, and into numbers that are added to them when a report is made.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.core.stats.counts import Counts, EpochCounts
from gateway.core.stats.histogram import bucket_of
from gateway.core.stats.outcomes import ABANDONED, OK
from gateway.core.traffic.table import Route
from gateway.core.types import Variant
from gateway.proxy.counting.sticky_sessions import Units
from gateway.proxy.exchange.body_store import BodyStore
from gateway.proxy.routes.recent_answers import RecentAnswers
from gateway.runtime.wire import Report, RouteTotals

if TYPE_CHECKING:
    from gateway.proxy.counting.response_sampler import RouteTap
    from gateway.proxy.routes.route_runtime import RouteRuntime


def _add_one(counts: dict[str, int], key: str) -> None:
    counts[key] = counts.get(key, 0) + 1


class Arm:
    """What every request on one variant of a route enters. The dictionaries are those of the structures themselves."""

    __slots__ = (
        "_answered",
        "_assigned",
        "_counts",
        "_counts_duration",
        "_duration",
        "_duration_us",
        "_first_byte",
        "_first_byte_us",
        "_latency",
        "_ok",
        "_totals",
        "_tries",
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
        self._assigned = self._ok = self._first_byte_us = self._duration_us = 0

    def assigned(self) -> None:
        """A request was assigned to this variant."""
        self._assigned += 1

    def answered(self, status: int) -> None:
        """A client was answered with this status on this variant's behalf."""
        answered = self._answered
        answered[status] = answered.get(status, 0) + 1

    def tried(self, kind: str, first_byte_us: int, duration_us: int) -> None:
        """Enter a try's end and its latencies into the totals for metrics."""
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

    def settle(self) -> None:
        """Add what was entered here to the structures: they are about to be sent."""
        if self._assigned or self._ok:
            self._counts.assigned += self._assigned
            self._counts.requests += self._ok
            self._assigned = self._ok = 0
        if self._duration_us or self._first_byte_us:
            self._totals.duration_us_sum += self._duration_us
            self._totals.first_byte_us_sum += self._first_byte_us
            self._duration_us = self._first_byte_us = 0


class RouteTally:
    """The counters of one route under one table: looked up once per exchange.

    ``hot`` are the two arms as requests enter them, ``arms`` and ``totals`` what is sent of them.
    """

    __slots__ = ("arms", "evidence", "final_seq", "hot", "open", "plan", "recent", "route", "tap", "totals", "units")

    def __init__(
        self, route: Route, epoch: int, totals: tuple[RouteTotals, RouteTotals], recent: RecentAnswers
    ) -> None:
        self.route = route
        self.recent = recent
        self.evidence = EpochCounts(route.name, epoch, route.weight_bp)
        self.arms: tuple[Counts, Counts] = (self.evidence.stable, self.evidence.canary)
        self.totals = totals
        self.hot = (Arm(self.arms[0], totals[0]), Arm(self.arms[1], totals[1]))
        self.open = 0
        self.final_seq: int | None = None
        self.tap: RouteTap | None = None
        self.plan: RouteRuntime = None  # type: ignore[assignment]  # set by the worker, which has the pools
        # The sessions of a sticky route during an experiment.
        self.units: Units | None = None

    def rescue_refused(self, reason: str) -> None:
        """Count a failure of the canary that stable did not answer."""
        _add_one(self.totals[Variant.CANARY].rescues_refused, reason)

    def retried(self, variant: Variant, reason: str) -> None:
        """Count a failed try (by its reason) that the same backend was given once more."""
        _add_one(self.totals[variant].retries, reason)

    def retry_refused(self, reason: str) -> None:
        """Count a failed try of stable's that nobody was given once more."""
        _add_one(self.totals[Variant.STABLE].retries_refused, reason)

    def unserved(self, variant: Variant, reason: str) -> None:
        """Count a request that could not be tried for a want of the gateway's: nobody's failure."""
        _add_one(self.totals[variant].unserved, reason)

    def streamed(self, variant: Variant, gap_s: float, time_per_event_s: float, *, left: bool) -> None:
        """Enter the pauses of a counted event stream; ``left``: its client did not wait for its end."""
        counts = self.arms[variant]
        if gap_s:
            _enter(counts.gap_left if left else counts.gap, int(gap_s * 1e6))
        if time_per_event_s:
            _enter(counts.time_per_event, int(time_per_event_s * 1e6))

    def abandoned(self, variant: Variant, latency_us: int, lasted_us: int) -> None:
        """Enter a request whose client left before the answer was whole.

        ``lasted_us`` is how long the answer had lasted by then; -1: so far ``latency_us`` had passed, and was not over.
        """
        counts = self.arms[variant]
        counts.requests += 1
        counts.enter(ABANDONED)
        if lasted_us < 0:
            _enter(counts.aborted, latency_us)
        else:
            _enter(counts.latency, latency_us)
            _enter(counts.duration_left, lasted_us)


def _enter(histogram: dict[int, int], time_us: int) -> None:
    bucket = bucket_of(time_us)
    histogram[bucket] = histogram.get(bucket, 0) + 1


class Tally:
    """All counters of one worker."""

    def __init__(self, boot: str, place: tuple[int, int] = (0, 1), bodies: BodyStore | None = None) -> None:
        self.bodies = bodies or BodyStore(0, 0, None)
        self.boot = boot
        self._place = place
        self.seq = 0
        self.faults: dict[str, int] = {}
        self.aborted = 0
        self.tunnels = 0
        self.tunnels_open = 0
        self.trailers_passed = 0
        self.trailers_dropped = 0
        self.log_lines = 0
        self.log_dropped = 0
        self.stalls = 0
        self.accept_pauses = 0
        self.tls_not_after_s = 0.0
        self._lags_us = (0, 0)
        self._totals: dict[str, tuple[RouteTotals, RouteTotals]] = {}
        self._current: dict[str, RouteTally] = {}
        self._retired: list[RouteTally] = []
        self._units: dict[str, Units] = {}
        self._recent: dict[str, RecentAnswers] = {}
        # Of which backends (stable, canary) a route's recent answers are.
        self._backends: dict[str, tuple[str | None, str | None]] = {}

    def enter_table(self, epoch: int, routes: tuple[Route, ...]) -> dict[str, RouteTally]:
        """Start counting under a new epoch; returns the tallies by route name."""
        self._retired += self._current.values()
        self._current = {
            route.name: RouteTally(route, epoch, self._totals_of(route.name), self._recent_of(route))
            for route in routes
        }
        before, self._units = self._units, {}
        for route in routes:
            if route.sticky is not None and route.weight_bp:
                units = before.pop(route.name, None) or Units(*self._place)
                self._units[route.name] = self._current[route.name].units = units
        for units in before.values():
            units.end()
        return self._current

    def sweep_units(self, now_s: float) -> None:
        """Enter the sessions whose window has ended."""
        for units in self._units.values():
            units.sweep(now_s)

    def fault(self, reason: str) -> None:
        """Count an answer that the gateway made itself."""
        self.faults[reason] = self.faults.get(reason, 0) + 1

    def move_on(self) -> None:
        """Let go of what is no longer recent (now and then)."""
        for tally in self._current.values():
            if tally.route.weight_bp:
                tally.recent.move_on()

    def lagged(self, lag_us: int, *, next_window: bool) -> None:
        """The loop came late. What is reported is the worst of the window under way and the one before it."""
        before, current = self._lags_us
        self._lags_us = (current, lag_us) if next_window else (before, max(current, lag_us))

    def report(self, epoch: int, in_flight: int, connections: int, upstream_connections: int) -> Report:
        """Everything counted since the boot, as one message. The caller sends it at once (it is not a copy)."""
        self.seq += 1
        for tally in (*self._retired, *self._current.values()):
            tally.hot[0].settle()
            tally.hot[1].settle()
        for tally in self._retired:
            if tally.final_seq is None and not tally.open:
                tally.final_seq = self.seq
        return Report(
            boot=self.boot,
            seq=self.seq,
            epoch=epoch,
            evidence=[tally.evidence for tally in (*self._retired, *self._current.values())],
            totals=[totals for pair in self._totals.values() for totals in pair],
            faults=self.faults,
            in_flight=in_flight,
            connections=connections,
            upstream_connections=upstream_connections,
            aborted=self.aborted,
            loop_lag_us_max=max(self._lags_us),
            tunnels_open=self.tunnels_open,
            notes={
                "tunnels": self.tunnels,
                "trailers_passed": self.trailers_passed,
                "trailers_dropped": self.trailers_dropped,
                "log_lines": self.log_lines,
                "log_dropped": self.log_dropped,
                **{f"body_not_kept:{reason}": n for reason, n in self.bodies.not_kept.items()},
            },
            stalls=self.stalls,
            accept_pauses=self.accept_pauses,
            tls_not_after_s=self.tls_not_after_s,
            body_memory_bytes=self.bodies.memory_bytes,
            body_disk_bytes=self.bodies.disk_bytes,
        )

    def acknowledged(self, seq: int) -> None:
        """Control has taken in report ``seq``: forget the epochs whose final counts it held."""
        self._retired = [t for t in self._retired if t.final_seq is None or t.final_seq > seq]

    def _totals_of(self, name: str) -> tuple[RouteTotals, RouteTotals]:
        if name not in self._totals:
            self._totals[name] = (RouteTotals(name, Variant.STABLE), RouteTotals(name, Variant.CANARY))
        return self._totals[name]

    def _recent_of(self, route: Route) -> RecentAnswers:
        """The route's recent answers; they begin anew when a backend takes another's place."""
        backends = (route.stable, route.canary)
        if self._backends.get(route.name) != backends:
            self._backends[route.name] = backends
            stable, canary = self._totals_of(route.name)
            self._recent[route.name] = RecentAnswers(stable.tries, canary.tries)
        return self._recent[route.name]
