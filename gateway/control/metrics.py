"""`/metrics`: all that the gateway tells Prometheus, made anew from the control plane's values at each scrape.

Rules:

1. Prometheus's conventions: base units (seconds, ratios from 0 to 1), ``_total`` on counters, a HELP text on each.
2. Counters come from `TrafficTotals`, which holds what departed workers had counted, so that no restart of a worker
   turns one back. There is no registry and no state here: the same values render to the same bytes.
3. A series whose labels are known beforehand exists from the first scrape on, at 0: `rate()` misses the first event of
   a series that is born with it, and an absent series looks like an absent gateway. (``code`` is not known beforehand.)
4. A number that does not exist (a rate without trials, the logarithm of no evidence, an endpoint that is not probed)
   is left out instead of being written as NaN.

Latencies are kept in log-linear buckets (core.stats.histogram) and leave as the fixed ``le`` bounds of `BOUNDS_US`. A
log-linear bucket counts under ``le`` only if its upper edge is not beyond ``le``: the gateway never claims that a
request was faster than it was. What lies within one bucket width below ``le`` (at most 1/32 of it) is thus counted one
bound higher. ``_sum`` does not suffer from this: it is kept beside the histogram.

Formats: the text exposition format 0.0.4, and OpenMetrics 1.0 for those who accept it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.exposition import choose_encoder

import gateway
from gateway.control.api import ControlPlane, TrafficTotals
from gateway.control.ejections import ejection_metrics
from gateway.control.health_metrics import health_metrics
from gateway.control.inspection_metrics import observed
from gateway.control.process_metrics import process_metrics, state_metrics
from gateway.control.views import Readiness, RolloutView, RouteView
from gateway.core.analysis.types import Analysis, Verdict
from gateway.core.rollout.types import Phase
from gateway.core.stats.histogram import bucket_of
from gateway.core.stats.outcomes import NAMES, OK
from gateway.core.types import Variant
from gateway.runtime.build import data_plane
from gateway.runtime.wire import BODY_NOT_KEPT, RouteTotals

BOUNDS_US: Final = (
    *(500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000),
    *(250_000, 500_000, 1_000_000, 2_500_000, 5_000_000, 10_000_000),
)
RESULTS: Final = (OK, *NAMES, "stale", "trial")
# Of proxy.retry, which this plane may not import either.
RETRY_REFUSALS: Final = ("answer_begun", "body_not_kept", "budget", "no_endpoint", "no_time", "not_replayable")
RESCUE_REFUSALS: Final = (*RETRY_REFUSALS, "no_stable")
RETRIED: Final = (
    "bad_response",
    "connect_failed",
    "connect_timeout",
    "first_byte_timeout",
    "reset",
    "status",
    "truncated",
)
UNSERVED: Final = ("body_buffers_full", "no_healthy_endpoint", "queue_full", "queue_timeout", "too_many_connections")
# The data plane's reasons (proxy.faults), which this plane may not import; a test holds the two together.
REASONS: Final = (
    *("bad_request", "bad_host", "bad_framing", "bad_target", "head_too_large", "target_too_long", "body_too_large"),
    *("head_timeout", "body_timeout", "method_not_allowed", "http2_unsupported", "expectation_failed", "no_route"),
    "nothing_deployed",
    *("loop", "connect_failed", "connect_timeout", "reset", "truncated", "bad_response", "first_byte_timeout"),
    *("idle_timeout", "no_healthy_endpoint", "stale_connection", "queue_full", "total_timeout", "try_timeout"),
    *("queue_timeout", "body_buffers_full", "body_lost"),
    *("bad_field_name", "method_unknown", "version_unsupported"),
    *("last_recipient", "no_continue"),
    *("too_many_connections", "too_many_from_client", "body_too_slow", "bad_proxy_header", "tls_handshake"),
)

_BOUNDS: Final = tuple((repr(us / 1e6), bucket_of(us)) for us in BOUNDS_US)
_OPENMETRICS: Final = "application/openmetrics-text"

Samples = Iterable[tuple[Sequence[str], float]]


def render(control: ControlPlane, accept: str = "", more: Iterable[Metric] = ()) -> tuple[bytes, str]:
    """The body and the content type of an answer to ``GET /metrics``; ``accept`` is the request's Accept header.

    ``more`` are families that others tell.
    """
    return Scrape(control, more).render(openmetrics=takes_openmetrics(accept))


def cumulative(histogram: Mapping[int, int]) -> list[tuple[str, float]]:
    """A log-linear histogram (bucket -> count) as (``le`` in seconds, count up to it), ending with ``+Inf``."""
    # The buckets below bucket_of(le) are just those whose (exclusive) upper edge is not beyond le.
    out = [(le, float(sum(n for bucket, n in histogram.items() if bucket < first))) for le, first in _BOUNDS]
    return [*out, ("+Inf", float(sum(histogram.values())))]


def takes_openmetrics(accept: str) -> bool:
    """Whether an Accept header asks for OpenMetrics in a version that is spoken here."""
    for offer in accept.lower().split(","):
        kind, *parameters = (part.strip() for part in offer.split(";"))
        versions = [p for p in parameters if p.startswith("version=")]
        if kind == _OPENMETRICS and versions in ([], ["version=1.0.0"]) and "q=0" not in parameters:
            return True
    return False


class Scrape:
    """The control plane at one moment, as a prometheus_client collector.

    Made on the control plane's event loop, which takes a few milliseconds for a thousand routes. What takes long,
    merging the workers' counts and rendering, is in `render`, which may run on another thread.
    """

    def __init__(self, control: ControlPlane, more: Iterable[Metric] = ()) -> None:
        self._traffic = control.traffic_later()
        self._routes = control.routes()
        self._newest = {route.name: _newest(control, route.name) for route in self._routes}
        self._inspected = control.inspected()
        self._verdicts = control.verdict_counts()
        self._readiness = control.readiness()
        self._probes = control.probes()
        self._notice = control.notice
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
        yield from _answers(totals)
        yield from _latencies(totals)
        yield from _rescues(totals)
        yield from observed(totals, *self._inspected)
        yield from _gateway_made(traffic)
        yield from _notes(traffic)
        yield from _exposure(routes, newest)
        yield from _verdicts(self._verdicts, routes)
        yield from _evidence(newest)
        yield from health_metrics(routes, self._probes)
        yield from ejection_metrics(routes, traffic.reports, traffic.notes)
        yield from _process_tree(traffic, routes, self._readiness)
        yield from process_metrics(traffic.reports, self._notice)
        yield from state_metrics(self._table_source, kept=self._state_kept)
        yield from self._more


# what the workers counted


def _complete(totals: Iterable[RouteTotals], routes: Iterable[RouteView]) -> list[RouteTotals]:
    """Totals of every configured route and variant (zeros before the first report), and of routes that once were."""
    known = {(part.route, int(part.variant)): part for part in totals}
    for route in routes:
        for variant in Variant:
            known.setdefault((route.name, int(variant)), RouteTotals(route.name, variant))
    return [known[key] for key in sorted(known)]


def _arm(totals: RouteTotals) -> tuple[str, str]:
    return totals.route, Variant(totals.variant).label


def _answers(totals: list[RouteTotals]) -> Iterator[Metric]:
    yield _counter(
        "gateway_requests_total",
        "Responses to clients by status code and by the variant that produced them.",
        ("route", "variant", "code"),
        (((*_arm(t), str(code)), n) for t in totals for code, n in sorted(t.answered.items())),
    )
    yield _counter(
        "gateway_upstream_tries_total",
        "Tries of upstream endpoints by what came of them; a rescued request has tries on both variants.",
        ("route", "variant", "result"),
        (((*_arm(t), result), n) for t in totals for result, n in _with_zeros(t.tries, RESULTS)),
    )
    yield _counter(
        "gateway_forced_requests_total",
        "Requests whose client chose the variant by header; they are no evidence.",
        ("route", "variant"),
        ((_arm(t), t.forced) for t in totals),
    )


def _latencies(totals: list[RouteTotals]) -> Iterator[Metric]:
    duration = HistogramMetricFamily(
        "gateway_request_duration_seconds",
        "Time from a request's start to the end of each of its upstream tries;"
        " a rescue's holds the time that the canary took.",
        labels=("route", "variant"),
    )
    first_byte = HistogramMetricFamily(
        "gateway_upstream_first_byte_seconds",
        "Time from the dispatch of each upstream try to its response's first byte, or to its failure.",
        labels=("route", "variant"),
    )
    for t in totals:
        duration.add_metric(_arm(t), cumulative(t.duration), t.duration_us_sum / 1e6)
        first_byte.add_metric(_arm(t), cumulative(t.first_byte), t.first_byte_us_sum / 1e6)
    yield duration
    yield first_byte


def _rescues(totals: list[RouteTotals]) -> Iterator[Metric]:
    rescued: dict[str, int] = {}
    for t in totals:
        rescued[t.route] = rescued.get(t.route, 0) + t.rescued
    yield _counter(
        "gateway_rescues_total",
        "Requests that the canary failed and that were given to stable in the same exchange.",
        ("route",),
        (((route,), n) for route, n in rescued.items()),
    )
    yield _counter(
        "gateway_rescues_denied_total",
        "Failed canary requests that stable did not answer, by why it did not.",
        ("route", "reason"),
        (
            ((t.route, reason), n)
            for t in totals
            if t.variant == Variant.CANARY
            for reason, n in _with_zeros(t.rescues_refused, RESCUE_REFUSALS)
        ),
    )
    yield _counter(
        "gateway_retries_total",
        "Failed tries that another endpoint of the same backend was given, or the same one once more, by the failure.",
        ("route", "variant", "reason"),
        (((*_arm(t), reason), n) for t in totals for reason, n in _with_zeros(t.retries, RETRIED)),
    )
    yield _counter(
        "gateway_retries_denied_total",
        "Failed tries of stable's that were not tried again, by why.",
        ("route", "reason"),
        (
            ((t.route, reason), n)
            for t in totals
            if t.variant == Variant.STABLE
            for reason, n in _with_zeros(t.retries_refused, RETRY_REFUSALS)
        ),
    )
    yield _counter(
        "gateway_unserved_requests_total",
        "Requests that no endpoint was tried for, by what the gateway had no more of; nobody's errors.",
        ("route", "variant", "reason"),
        (((*_arm(t), reason), n) for t in totals for reason, n in _with_zeros(t.unserved, UNSERVED)),
    )


def _gateway_made(traffic: TrafficTotals) -> Iterator[Metric]:
    yield _counter(
        "gateway_errors_total",
        "Answers that the gateway made itself, by reason.",
        ("reason",),
        (((reason,), n) for reason, n in _with_zeros(traffic.faults, REASONS)),
    )
    yield _counter(
        "gateway_aborted_requests_total",
        "Requests whose client went away before the response was whole.",
        (),
        [((), traffic.aborted)],
    )


def _notes(traffic: TrafficTotals) -> Iterator[Metric]:
    notes = traffic.notes
    yield _counter(
        "gateway_tunnels_total",
        "Connections that switched to another protocol, such as WebSocket.",
        (),
        [((), notes.get("tunnels", 0))],
    )
    yield _gauge(
        "gateway_open_tunnels",
        "Tunnels that are open.",
        (),
        [((), sum(report.tunnels_open for report in traffic.reports))],
    )
    yield _counter(
        "gateway_trailer_fields_total",
        "Trailer fields by what became of them.",
        ("fate",),
        (((fate,), notes.get(f"trailers_{fate}", 0)) for fate in ("passed", "dropped")),
    )
    yield _counter(
        "gateway_access_log_lines_total",
        "Lines of the access log that were due.",
        (),
        [((), notes.get("log_lines", 0))],
    )
    yield _counter(
        "gateway_access_log_dropped_total",
        "Lines of the access log that were not written: the queue was full, or the file could not be written.",
        (),
        [((), notes.get("log_dropped", 0))],
    )
    yield _counter(
        "gateway_request_bodies_not_kept_total",
        "Request bodies that could not be kept for another try, by reason.",
        ("reason",),
        (((reason,), notes.get(f"body_not_kept:{reason}", 0)) for reason in BODY_NOT_KEPT),
    )
    yield _gauge(
        "gateway_request_body_bytes",
        "What is held of request bodies, in memory and in temporary files.",
        ("place",),
        [
            (("memory",), sum(report.body_memory_bytes for report in traffic.reports)),
            (("disk",), sum(report.body_disk_bytes for report in traffic.reports)),
        ],
    )


# the rollouts


def _newest(control: ControlPlane, route: str) -> RolloutView | None:
    return next(iter(control.rollouts(route, limit=1)), None)


def _exposure(routes: list[RouteView], newest: Mapping[str, RolloutView | None]) -> Iterator[Metric]:
    yield _gauge(
        "gateway_canary_weight_ratio",
        "Share of the route's requests that is assigned to the canary.",
        ("route",),
        (((route.name,), route.canary_percent / 100) for route in routes),
    )
    yield _gauge(
        "gateway_rollout_phase",
        "1 for the phase that the route's newest rollout is in, 0 for the others.",
        ("route", "phase"),
        (((route.name, phase.value), route.phase == phase) for route in routes for phase in Phase),
    )
    yield _gauge(
        "gateway_rollout_step",
        "Rung of its plan that the route's newest rollout has reached, from 1; 0 without a rollout.",
        ("route",),
        (((name,), rollout.step if rollout else 0) for name, rollout in newest.items()),
    )


def _verdicts(counts: Mapping[tuple[str, str], int], routes: list[RouteView]) -> Iterator[Metric]:
    known = {(route.name, verdict.value): 0 for route in routes for verdict in Verdict}
    yield _counter(
        "gateway_verdicts_total",
        "Analyses by the verdict they ended in.",
        ("route", "verdict"),
        sorted({**known, **counts}.items()),
    )


def _evidence(newest: Mapping[str, RolloutView | None]) -> Iterator[Metric]:
    analyses = {
        name: rollout.analysis
        for name, rollout in newest.items()
        # An analysis that refused its evidence claims nothing, so it has no numbers either.
        if rollout is not None and rollout.analysis is not None and rollout.analysis.verdict is not Verdict.ERROR
    }
    yield _gauge(
        "gateway_evidence_log",
        "Natural logarithm of one metric's e-value: bad against 'not worse', ok against 'worse by the margin'.",
        ("route", "metric", "test"),
        _finite(
            ((name, f.metric, test), log_e)
            for name, analysis in analyses.items()
            for f in analysis.findings
            for test, log_e in (("bad", f.log_e_bad), ("ok", f.log_e_ok))
        ),
    )
    yield _gauge(
        "gateway_evidence_joint_log",
        "The evidence that decides: bad of all deciding metrics together, ok of the metric with the least.",
        ("route", "test"),
        _finite(((name, test), log_e) for name, a in analyses.items() for test, log_e in _joint(a)),
    )
    yield _gauge(
        "gateway_evidence_needed_log",
        "Where the joint evidence decides: bad rolls back, ok lets the rollout advance.",
        ("route", "test"),
        _finite(
            ((name, test), needed)
            for name, a in analyses.items()
            for test, needed in (("bad", a.log_e_bad_needed), ("ok", a.log_e_ok_needed))
        ),
    )
    yield _gauge(
        "gateway_finding_ratio",
        "Share of requests with the metric's event in the evidence of the newest rollout.",
        ("route", "metric", "variant"),
        (
            ((name, f.metric, variant.label), rate)
            for name, analysis in analyses.items()
            for f in analysis.findings
            for variant, rate in ((Variant.STABLE, f.stable_rate), (Variant.CANARY, f.canary_rate))
            if rate is not None
        ),
    )


def _joint(analysis: Analysis) -> Iterator[tuple[str, float]]:
    yield "bad", analysis.log_e_bad
    yield "ok", min((f.log_e_ok for f in analysis.findings if f.must_pass), default=math.nan)


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
            "How late the latest event loop of all workers was in its newest report.",
            max((r.loop_lag_us_max for r in reports), default=0) / 1e6,
        ),
        ("gateway_ready", "1 when the gateway can do its work.", readiness.ready),
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
        yield _gauge(name, text, (), [((), value)])
    starts = "Workers that have introduced themselves: starts and restarts, and reconnections to a new control plane."
    yield _counter("gateway_worker_starts_total", starts, (), [((), traffic.worker_starts)])
    rejected = "Workers' reports that could not be true and were not counted."
    yield _counter("gateway_rejected_reports_total", rejected, (), [((), traffic.rejected_reports)])
    yield InfoMetricFamily(
        "gateway_build",
        "The gateway's version, and whether its data plane is compiled or interpreted.",
        {"version": gateway.__version__, "data_plane": data_plane()},
    )


# families


def _counter(name: str, text: str, labels: Sequence[str], samples: Samples) -> Metric:
    family = CounterMetricFamily(name, text, labels=labels)
    for values, value in samples:
        family.add_metric(values, float(value))
    return family


def _gauge(name: str, text: str, labels: Sequence[str], samples: Samples) -> Metric:
    family = GaugeMetricFamily(name, text, labels=labels)
    for values, value in samples:
        family.add_metric(values, float(value))
    return family


def _finite(samples: Samples) -> Samples:
    return (sample for sample in samples if math.isfinite(sample[1]))


def _with_zeros(counts: Mapping[str, int], known: Sequence[str]) -> list[tuple[str, int]]:
    return sorted({**dict.fromkeys(known, 0), **counts}.items())
