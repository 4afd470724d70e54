"""What a worker counts: evidence for verdicts and totals for metrics.

Evidence is kept per (route, epoch) so that an event is always tested under the weight that assigned it. An epoch is
forgotten once it is no longer in force, no exchange of it is open, and control has acknowledged a report that held
its final counts; so what is kept stays bounded, and nothing is lost when control is away.
"""

from __future__ import annotations

from gateway.core.traffic.table import Route
from gateway.core.types import Variant
from gateway.proxy.counting.epoch_counters import EpochCounters
from gateway.proxy.counting.recent_answers import RecentAnswers
from gateway.proxy.counting.sticky_sessions import StickySessions
from gateway.runtime.wire import Exemplar, Report, RouteTotals

# Of a thousand routes not each needs an exemplar in each report.
_EXEMPLARS_MAX = 200


class WorkerCounters:
    """All counters of one worker."""

    def __init__(self, boot: str, place: tuple[int, int] = (0, 1)) -> None:
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
        self._current: dict[str, EpochCounters] = {}
        self._retired: list[EpochCounters] = []
        # By route, under the table in force: the sessions of sticky routes during an experiment, and what was answered.
        self.sessions: dict[str, StickySessions] = {}
        self.recent: dict[str, RecentAnswers] = {}
        # Of which backends (stable, canary) a route's recent answers are.
        self._backends: dict[str, tuple[str | None, str | None]] = {}

    def enter_table(self, epoch: int, routes: tuple[Route, ...]) -> dict[str, EpochCounters]:
        """Start counting under a new epoch; returns the counters by route name."""
        self._retired += self._current.values()
        self._current = {route.name: EpochCounters(route, epoch, self._totals_of(route.name)) for route in routes}
        self.recent = {route.name: self._recent_of(route) for route in routes}
        self._backends = {route.name: (route.stable, route.canary) for route in routes}
        before, self.sessions = self.sessions, {}
        for route in routes:
            if route.sticky is not None and route.weight_bp:
                self.sessions[route.name] = before.pop(route.name, StickySessions(*self._place))
        for sessions in before.values():
            sessions.end()
        return self._current

    def sweep_sessions(self, now_s: float) -> None:
        """Enter the sessions whose window has ended."""
        for sessions in self.sessions.values():
            sessions.sweep(now_s)

    def fault(self, reason: str) -> None:
        """Count an answer that the gateway made itself."""
        self.faults[reason] = self.faults.get(reason, 0) + 1

    def move_on(self) -> None:
        """Let go of what is no longer recent (now and then)."""
        for name, counters in self._current.items():
            if counters.route.weight_bp:
                self.recent[name].move_on()

    def lagged(self, lag_us: int, *, next_window: bool) -> None:
        """The loop came late. What is reported is the worst of the window under way and the one before it."""
        before, current = self._lags_us
        self._lags_us = (current, lag_us) if next_window else (before, max(current, lag_us))

    def report(self, epoch: int, in_flight: int, connections: int, upstream_connections: int) -> Report:
        """Everything counted since the boot, as one message. The caller sends it at once (it is not a copy)."""
        self.seq += 1
        exemplars: list[Exemplar] = []
        for counters in (*self._retired, *self._current.values()):
            for variant in counters.variants:
                variant.settle()
                variant.take_exemplars(exemplars)
        for counters in self._retired:
            if counters.final_seq is None and not counters.open:
                counters.final_seq = self.seq
        return Report(
            boot=self.boot,
            seq=self.seq,
            epoch=epoch,
            evidence=[counters.evidence for counters in (*self._retired, *self._current.values())],
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
            },
            stalls=self.stalls,
            accept_pauses=self.accept_pauses,
            tls_not_after_s=self.tls_not_after_s,
            exemplars=exemplars[:_EXEMPLARS_MAX],
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
        if self._backends.get(route.name) == (route.stable, route.canary):
            return self.recent[route.name]
        stable, canary = self._totals_of(route.name)
        return RecentAnswers(stable.tries, canary.tries)
