"""`/metrics`: all metrics for Prometheus, made from the control plane's values at each scrape.

Rules:

1. Prometheus's conventions: base units (seconds, ratios from 0 to 1), ``_total`` on counters, a HELP text on each.
2. Counters come from `TrafficTotals`, which holds what departed workers had counted, so that no restart of a worker
   turns one back. There is no registry and no state here: the same values render to the same bytes.
3. A series whose labels are known beforehand exists from the first scrape on, at 0: `rate()` misses the first event of
   a series that is born with it, and an absent series looks like an absent gateway. (``code`` is not known beforehand.)
4. A number that does not exist (a rate without trials, the logarithm of no evidence, an endpoint that is not probed)
   is left out instead of being written as NaN.

Formats: the text exposition format 0.0.4, and OpenMetrics 1.0 for those who accept it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import InfoMetricFamily, Metric

import gateway
from gateway.control.api import ControlPlane, TrafficTotals
from gateway.control.show.evidence_metrics import evidence_metrics, verdict_metrics
from gateway.control.show.families import gauge, single_counter, single_gauge
from gateway.control.show.feature_metrics import feature_metrics
from gateway.control.show.health_metrics import backend_info, ejection_metrics, health_metrics
from gateway.control.show.inspection_metrics import inspection_metrics
from gateway.control.show.mirror_metrics import mirror_metrics
from gateway.control.show.process_metrics import process_metrics, state_metrics
from gateway.control.show.slo_metrics import slo_metrics
from gateway.control.show.stable_metrics import endpoint_failures, stable_metrics
from gateway.control.show.traffic_metrics import traffic_metrics
from gateway.control.views import Readiness, RolloutView, RouteView
from gateway.core.rollout.types import Phase
from gateway.core.types import Variant
from gateway.runtime.build import data_plane
from gateway.runtime.wire import RouteTotals

_OPENMETRICS = "application/openmetrics-text"


class Scrape:
    """The control plane at one moment, as a prometheus_client collector.

    Made on the control plane's event loop, which takes a few milliseconds for a thousand routes. What takes long,
    merging the workers' counts and rendering, is in `render`, which may run on another thread.
    """

    def __init__(self, control: ControlPlane, more: Iterable[Metric] = ()) -> None:
        self._traffic = control.traffic_later()
        self._routes = control.routes()
        self._objectives = control.objectives()
        self._newest = {route.name: _newest(control, route.name) for route in self._routes}
        self._inspected = control.inspected()
        self._verdicts = control.verdict_counts()
        self._readiness = control.readiness()
        self._probes = control.probes()
        self._notice = control.notice
        self._backends = control.backends()
        self._table_source, self._state_kept = control.table_source, control.state_kept
        self._more = list(more)

    def render(self, *, openmetrics: bool) -> tuple[bytes, str]:
        """The body and the content type."""
        encode, content_type = choose_encoder(f"{_OPENMETRICS}; version=1.0.0" if openmetrics else "")
        return encode(self), content_type

    def collect(self) -> Iterator[Metric]:
        """All families, each read from one set of values."""
        traffic, routes, newest = self._traffic(), self._routes, self._newest
        totals = _complete(traffic.totals, routes)
        yield from traffic_metrics(totals, traffic)
        yield from mirror_metrics(totals)
        yield from inspection_metrics(totals, *self._inspected)
        yield from _exposure(routes, newest)
        yield from verdict_metrics(self._verdicts, routes)
        yield from evidence_metrics(newest)
        yield from stable_metrics(routes)
        yield endpoint_failures(totals, routes)
        yield from slo_metrics(totals, self._objectives)
        yield from health_metrics(routes, self._probes)
        yield backend_info(self._backends)
        yield from ejection_metrics(routes, traffic.reports, traffic.notes)
        yield from _process_tree(traffic, routes, self._readiness)
        yield from process_metrics(traffic.reports, self._notice, traffic.notes)
        yield from feature_metrics(traffic.notes)
        yield from state_metrics(self._table_source, kept=self._state_kept)
        yield from self._more


def _complete(totals: Iterable[RouteTotals], routes: Iterable[RouteView]) -> list[RouteTotals]:
    """Totals of every configured route and variant (zeros before the first report), and of routes that once were."""
    known = {(part.route, int(part.variant)): part for part in totals}
    for route in routes:
        for variant in Variant:
            known.setdefault((route.name, int(variant)), RouteTotals(route.name, variant))
    return [known[key] for key in sorted(known)]


# the rollouts


def _newest(control: ControlPlane, route: str) -> RolloutView | None:
    return next(iter(control.rollouts(route, limit=1)), None)


def _exposure(routes: list[RouteView], newest: Mapping[str, RolloutView | None]) -> Iterator[Metric]:
    yield gauge(
        "gateway_canary_weight_ratio",
        "Share of the route's requests that is assigned to the canary.",
        ("route",),
        (((route.name,), route.canary_percent / 100) for route in routes),
    )
    yield gauge(
        "gateway_rollout_phase",
        "1 for the phase that the route's newest rollout is in, 0 for the others.",
        ("route", "phase"),
        (((route.name, phase.value), route.phase == phase) for route in routes for phase in Phase),
    )
    yield gauge(
        "gateway_rollout_step",
        "Step of its plan that the route's newest rollout has reached, from 1; 0 without a rollout.",
        ("route",),
        (((name,), rollout.step if rollout else 0) for name, rollout in newest.items()),
    )


# the gateway itself


def _process_tree(traffic: TrafficTotals, routes: list[RouteView], readiness: Readiness) -> Iterator[Metric]:
    reports = traffic.reports
    gauges: tuple[tuple[str, str, float], ...] = (
        ("gateway_in_flight_requests", "Requests under way.", sum(r.in_flight for r in reports)),
        ("gateway_downstream_connections", "Open connections of clients.", sum(r.connections for r in reports)),
        (
            "gateway_upstream_connections",
            "Open connections to upstream endpoints.",
            sum(r.upstream_connections for r in reports),
        ),
        (
            "gateway_event_loop_lag_seconds",
            "Largest delay of a worker's event loop, in the newest reports.",
            max((r.loop_lag_us_max for r in reports), default=0) / 1e6,
        ),
        ("gateway_ready", "1 when the gateway is ready.", readiness.ready),
        ("gateway_workers", "Workers that are connected to the control plane.", readiness.workers),
        (
            "gateway_workers_applied",
            "Workers that route by the newest table.",
            min((route.workers_applied for route in routes), default=0),
        ),
        (
            "gateway_table_epoch",
            "Number of the newest published routing table.",
            max((route.epoch for route in routes), default=0),
        ),
    )
    for name, text, value in gauges:
        yield single_gauge(name, text, value)
    starts = "Connections that workers made to the control plane: starts, restarts and reconnections."
    yield single_counter("gateway_worker_starts_total", starts, traffic.worker_starts)
    rejected = "Invalid reports of workers, which were not counted."
    yield single_counter("gateway_rejected_reports_total", rejected, traffic.rejected_reports)
    yield InfoMetricFamily(
        "gateway_build",
        "The gateway's version, and whether its data plane is compiled or interpreted.",
        {"version": gateway.__version__, "data_plane": data_plane()},
    )
