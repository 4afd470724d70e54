"""What probes and workers say of the endpoints, put together: for people, alarms and rollouts.

Rules:

1. Probes say whether an endpoint is up; workers, which have its traffic, say where they use it all the same: because it
   answers requests (*kept*), or because too few endpoints of its backend look well (*panic*).
2. An endpoint that is down, a backend in panic and undecided probes are warnings, which do not affect readiness:
   traffic does not suffer from them, or no longer than it takes a request to find out.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime

from gateway.control.alarms import Alarms
from gateway.control.health.prober import EndpointState, Prober
from gateway.control.views import EndpointView, ProbeCounts
from gateway.control.workers.report_aggregator import ReportAggregator
from gateway.core.traffic.table import RoutingTable

# Probes that stay undecided for longer than this are an alarm.
_UNKNOWN_ALARM_S = 5.0
_NAMED_MAX = 3
_PROBES = "probes"


class EndpointHealth:
    """The prober's findings beside the workers' newest reports."""

    def __init__(self, prober: Prober, aggregator: ReportAggregator, alarms: Alarms) -> None:
        self._prober = prober
        self._aggregator = aggregator
        self._alarms = alarms
        self._panics: frozenset[str] = frozenset()
        self._alarmed: set[str] = set()

    @property
    def endpoints(self) -> list[EndpointState]:
        """All endpoints of all backends."""
        return self._prober.endpoints

    def panics(self, backend: str) -> bool:
        """Whether a worker uses all endpoints of that backend, because too few of them look well."""
        return backend in self._panics

    def counts(self) -> ProbeCounts:
        """For metrics."""
        probed = {one.backend: one.backend in self._panics for one in self._prober.endpoints if one.probe is not None}
        return ProbeCounts(dict(self._prober.unknown), probed)

    def take_reports(self) -> None:
        """Take in what the workers reported last."""
        kept, self._panics = self._aggregator.despite_probes()
        for one in self._prober.endpoints:
            one.kept = one.up is False and (one.backend, one.endpoint.url) in kept

    def sound_alarms(self, wall_s: float) -> None:
        """Raise and clear alarms by the endpoints' state."""
        down: dict[str, list[EndpointState]] = {}
        for one in self._prober.down:
            down.setdefault(one.backend, []).append(one)
        for backend in self._alarmed - down.keys():
            self._alarms.clear(f"backend {backend}")
        self._alarmed = set(down)
        for backend, those in down.items():
            of = sum(one.backend == backend for one in self._prober.endpoints)
            used = ", so requests go to all of them" if backend in self._panics else ""
            reason = f"{len(those)} of {of} endpoints of backend {backend} are down{used}: {_listed(those)}"
            self._alarms.sound(f"backend {backend}", reason, warning=True)
        undecided = self._prober.undecided
        if undecided and wall_s - undecided[0].unknown_since_s >= _UNKNOWN_ALARM_S:
            first = undecided[0]
            reason = f"probes cannot tell whether {first.endpoint.url} of backend {first.backend} is up"
            others = " (or some others)" if len(undecided) > 1 else ""
            self._alarms.sound(_PROBES, f"{reason}{others}, it keeps its state: {first.unknown}", warning=True)
        elif not undecided:
            self._alarms.clear(_PROBES)


def view(one: EndpointState) -> EndpointView:
    """The view of one endpoint."""
    since = None if one.since_s is None else datetime.fromtimestamp(one.since_s, UTC).isoformat(timespec="seconds")
    return EndpointView(
        one.backend, one.endpoint.url, one.up, why=one.last_answer, since=since, unknown=one.unknown, kept=one.kept
    )


def unserved(table: RoutingTable, health: Iterable[EndpointState]) -> list[str]:
    """For each route whose stable backend has no endpoint that looks well, a sentence that says why."""
    well: dict[str, bool] = {}
    down: dict[str, list[EndpointState]] = {}
    for one in health:
        well[one.backend] = well.get(one.backend, False) or one.up is not False or one.kept
        if one.up is False:
            down.setdefault(one.backend, []).append(one)
    return [
        f"every endpoint of route {route.name}'s stable backend {route.stable} is down: {_listed(down[route.stable])}"
        for route in table.routes
        if not well.get(route.stable, True)
    ]


def _listed(those: list[EndpointState]) -> str:
    named = [f"{one.endpoint.url} {one.last_answer}{', and is kept in use' * one.kept}" for one in those[:_NAMED_MAX]]
    more = len(those) - len(named)
    return "; ".join(named) + (f"; and {more} more" if more > 0 else "")
