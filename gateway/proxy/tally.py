"""What a worker counts: evidence for verdicts and totals for metrics, as plain increments on the request path.

Evidence is kept per (route, epoch) so that an event is always tested under the weight that assigned it. An epoch is
forgotten once it is no longer in force, no exchange of it is open, and control has acknowledged a report that held
its final counts; so what is kept stays bounded, and nothing is lost when control is away.
"""

from __future__ import annotations

from gateway.core.stats.counts import Counts, EpochCounts
from gateway.core.stats.histogram import bucket_of
from gateway.core.traffic.table import Route
from gateway.core.types import Variant
from gateway.runtime.wire import Report, RouteTotals


class RouteTally:
    """The counters of one route under one table: looked up once per exchange, incremented by attribute."""

    __slots__ = ("arms", "evidence", "final_seq", "open", "route", "totals")

    def __init__(self, route: Route, epoch: int, totals: tuple[RouteTotals, RouteTotals]) -> None:
        self.route = route
        self.evidence = EpochCounts(route.name, epoch, route.weight_bp)
        self.arms: tuple[Counts, Counts] = (self.evidence.stable, self.evidence.canary)
        self.totals = totals
        self.open = 0
        self.final_seq: int | None = None

    def count(self, variant: Variant, kind: str, latency_us: int, duration_us: int) -> None:
        """Enter one outcome of an assigned (not forced) request into the evidence.

        ``kind`` is ``ok`` or the failure class; latencies in microseconds from dispatch.
        """
        counts = self.arms[variant]
        counts.requests += 1
        if kind == "errors":
            counts.errors += 1
        elif kind == "client_errors":
            counts.client_errors += 1
        elif kind == "overload":
            counts.overload += 1
        bucket = bucket_of(latency_us)
        counts.latency[bucket] = counts.latency.get(bucket, 0) + 1
        bucket = bucket_of(duration_us)
        counts.duration[bucket] = counts.duration.get(bucket, 0) + 1


class Tally:
    """All counters of one worker."""

    def __init__(self, boot: str) -> None:
        self.boot = boot
        self.seq = 0
        self.faults: dict[str, int] = {}
        self.aborted = 0
        self._lags_us = (0, 0)
        self._totals: dict[str, tuple[RouteTotals, RouteTotals]] = {}
        self._current: dict[str, RouteTally] = {}
        self._retired: list[RouteTally] = []

    def enter_table(self, epoch: int, routes: tuple[Route, ...]) -> dict[str, RouteTally]:
        """Start counting under a new epoch; returns the tallies by route name."""
        self._retired += self._current.values()
        self._current = {route.name: RouteTally(route, epoch, self._totals_of(route.name)) for route in routes}
        return self._current

    def fault(self, reason: str) -> None:
        """Count an answer that the gateway made itself."""
        self.faults[reason] = self.faults.get(reason, 0) + 1

    def lagged(self, lag_us: int, *, next_window: bool) -> None:
        """The loop came late. What is reported is the worst of the window under way and the one before it."""
        before, current = self._lags_us
        self._lags_us = (current, lag_us) if next_window else (before, max(current, lag_us))

    def report(self, epoch: int, in_flight: int, connections: int, upstream_connections: int) -> Report:
        """Everything counted since the boot, as one message. The caller sends it at once (it is not a copy)."""
        self.seq += 1
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
        )

    def acknowledged(self, seq: int) -> None:
        """Control has taken in report ``seq``: forget the epochs whose final counts it held."""
        self._retired = [t for t in self._retired if t.final_seq is None or t.final_seq > seq]

    def _totals_of(self, name: str) -> tuple[RouteTotals, RouteTotals]:
        if name not in self._totals:
            self._totals[name] = (RouteTotals(name, Variant.STABLE), RouteTotals(name, Variant.CANARY))
        return self._totals[name]
