"""The metrics of what the workers counted: answers, tries, latencies, rescues and retries, and what the gateway made.

Latencies are kept in log-linear buckets (core.stats.histogram) and leave as the fixed ``le`` bounds of `BOUNDS_US`. A
log-linear bucket counts under ``le`` only if its upper edge is not beyond ``le``: the gateway never claims that a
request was faster than it was. What lies within one bucket width below ``le`` (at most 1/32 of it) is thus counted one
bound higher. ``_sum`` does not suffer from this: it is kept beside the histogram.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from prometheus_client.metrics_core import HistogramMetricFamily, Metric

from gateway.control.api import TrafficTotals
from gateway.control.show.families import counter, counter_by, gauge_by, single_counter, single_gauge, with_zeros
from gateway.core.stats.histogram import bucket_of
from gateway.core.stats.outcomes import NAMES, OK
from gateway.core.types import Variant
from gateway.runtime.wire import BODY_NOT_KEPT, RouteTotals

BOUNDS_US: Final = (
    *(500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000),
    *(250_000, 500_000, 1_000_000, 2_500_000, 5_000_000, 10_000_000),
)
RESULTS: Final = (OK, *NAMES, "stale", "trial")
# Of proxy.retry and proxy.faults, which this plane may not import; a test holds them together.
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
    "try_timeout",
)
UNSERVED: Final = ("body_buffers_full", "no_healthy_endpoint", "queue_full", "queue_timeout", "too_many_connections")
# The reasons of proxy/heads/gateway_errors.py, which control may not import; a test compares the two.
REASONS: Final = (
    *("bad_request", "bad_host", "bad_framing", "bad_target", "head_too_large", "target_too_long", "body_too_large"),
    *("head_timeout", "body_timeout", "method_not_allowed", "http2_unsupported", "expectation_failed", "no_route"),
    "nothing_deployed",
    *("loop", "connect_failed", "connect_timeout", "reset", "truncated", "bad_response", "first_byte_timeout"),
    *("idle_timeout", "no_healthy_endpoint", "stale_connection", "queue_full", "total_timeout", "try_timeout"),
    *("queue_timeout", "body_buffers_full", "body_lost"),
    *("bad_field_name", "method_unknown", "version_unsupported"),
    "last_recipient",
    *("too_many_connections", "too_many_from_client", "body_too_slow", "bad_proxy_header", "tls_handshake"),
)

_BOUNDS: Final = tuple((repr(us / 1e6), bucket_of(us)) for us in BOUNDS_US)


def traffic_metrics(totals: list[RouteTotals], traffic: TrafficTotals) -> Iterator[Metric]:
    """One family each; ``totals`` are complete (every configured route and variant has them)."""
    yield from _answers(totals)
    yield from _latencies(totals)
    yield from _rescues(totals)
    yield from _gateway_made(traffic)
    yield from _notes(traffic)


def cumulative(histogram: Mapping[int, int]) -> list[tuple[str, float]]:
    """A log-linear histogram (bucket -> count) as (``le`` in seconds, count up to it), ending with ``+Inf``."""
    # The buckets below bucket_of(le) are just those whose (exclusive) upper edge is not beyond le.
    out = [(le, float(sum(n for bucket, n in histogram.items() if bucket < first))) for le, first in _BOUNDS]
    return [*out, ("+Inf", float(sum(histogram.values())))]


def _arm(totals: RouteTotals) -> tuple[str, str]:
    return totals.route, Variant(totals.variant).label


def _answers(totals: list[RouteTotals]) -> Iterator[Metric]:
    yield counter(
        "gateway_requests_total",
        "Responses to clients by status code and by the variant that produced them.",
        ("route", "variant", "code"),
        (((*_arm(t), str(code)), n) for t in totals for code, n in sorted(t.answered.items())),
    )
    yield counter(
        "gateway_upstream_tries_total",
        "Attempts on upstream endpoints, by result; a rescued request has attempts on both variants.",
        ("route", "variant", "result"),
        (((*_arm(t), result), n) for t in totals for result, n in with_zeros(t.tries, RESULTS)),
    )
    yield counter(
        "gateway_forced_requests_total",
        "Requests whose client chose the variant by header; they are not evidence.",
        ("route", "variant"),
        ((_arm(t), t.forced) for t in totals),
    )


def _latencies(totals: list[RouteTotals]) -> Iterator[Metric]:
    duration = HistogramMetricFamily(
        "gateway_request_duration_seconds",
        "Time from a request's start to the end of each upstream attempt; that of a rescue includes the canary's time.",
        labels=("route", "variant"),
    )
    first_byte = HistogramMetricFamily(
        "gateway_upstream_first_byte_seconds",
        "Time from the dispatch of each upstream attempt to the first byte of its response, or to its failure.",
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
    yield counter(
        "gateway_rescues_total",
        "Requests that failed on the canary and were sent to stable in the same exchange.",
        ("route",),
        (((route,), n) for route, n in rescued.items()),
    )
    yield counter(
        "gateway_rescues_denied_total",
        "Failed canary requests that were not rescued by stable, by reason.",
        ("route", "reason"),
        (
            ((t.route, reason), n)
            for t in totals
            if t.variant == Variant.CANARY
            for reason, n in with_zeros(t.rescues_refused, RESCUE_REFUSALS)
        ),
    )
    yield counter(
        "gateway_retries_total",
        "Retries on the same backend, by the failure before them.",
        ("route", "variant", "reason"),
        (((*_arm(t), reason), n) for t in totals for reason, n in with_zeros(t.retries, RETRIED)),
    )
    yield counter(
        "gateway_retries_denied_total",
        "Failed attempts on stable that were not retried, by reason.",
        ("route", "reason"),
        (
            ((t.route, reason), n)
            for t in totals
            if t.variant == Variant.STABLE
            for reason, n in with_zeros(t.retries_refused, RETRY_REFUSALS)
        ),
    )
    yield counter(
        "gateway_unserved_requests_total",
        "Requests refused for want of a resource of the gateway, by resource; no version's errors.",
        ("route", "variant", "reason"),
        (((*_arm(t), reason), n) for t in totals for reason, n in with_zeros(t.unserved, UNSERVED)),
    )


def _gateway_made(traffic: TrafficTotals) -> Iterator[Metric]:
    yield counter_by(
        "gateway_errors_total",
        "Answers generated by the gateway, by reason.",
        "reason",
        dict(with_zeros(traffic.faults, REASONS)),
    )
    yield single_counter(
        "gateway_aborted_requests_total",
        "Requests whose client went away before the response was whole.",
        traffic.aborted,
    )


def _notes(traffic: TrafficTotals) -> Iterator[Metric]:
    notes = traffic.notes
    tunnels = "Connections that switched to another protocol, such as WebSocket."
    yield single_counter("gateway_tunnels_total", tunnels, notes.get("tunnels", 0))
    open_tunnels = sum(report.tunnels_open for report in traffic.reports)
    yield single_gauge("gateway_open_tunnels", "Open tunnels.", open_tunnels)
    yield counter_by(
        "gateway_trailer_fields_total",
        "Trailer fields, by result.",
        "fate",
        {fate: notes.get(f"trailers_{fate}", 0) for fate in ("passed", "dropped")},
    )
    lines = "Access log lines, written or dropped."
    yield single_counter("gateway_access_log_lines_total", lines, notes.get("log_lines", 0))
    yield single_counter(
        "gateway_access_log_dropped_total",
        "Access log lines that were not written: the queue was full, or the file could not be written.",
        notes.get("log_dropped", 0),
    )
    yield counter_by(
        "gateway_request_bodies_not_kept_total",
        "Request bodies that could not be buffered for another attempt, by reason.",
        "reason",
        {reason: notes.get(f"body_not_kept:{reason}", 0) for reason in BODY_NOT_KEPT},
    )
    yield gauge_by(
        "gateway_request_body_bytes",
        "Buffered request bodies, in memory and in temporary files.",
        "place",
        {
            "memory": sum(report.body_memory_bytes for report in traffic.reports),
            "disk": sum(report.body_disk_bytes for report in traffic.reports),
        },
    )
