"""The metrics of what the workers counted: answers, tries, latencies, rescues and retries, and what the gateway made.

Latencies are kept in log-linear buckets (core.stats.histogram) and leave as the fixed ``le`` bounds of `BOUNDS_US`. A
log-linear bucket counts under ``le`` only if its upper edge is not beyond ``le``: the gateway never claims that a
request was faster than it was. What lies within one bucket width below ``le`` (at most 1/32 of it) is thus counted one
bound higher. ``_sum`` does not suffer from this: it is kept beside the histogram.

Statuses that no standard knows are shown by their class (``5xx``): a backend that makes statuses up makes no series.
Exemplars (OpenMetrics) name the trace of one attempt in each bucket that has had one, and of one of each failure.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from http import HTTPStatus
from typing import Final

from prometheus_client.metrics_core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.samples import Exemplar as ExemplarSample

from gateway.control.api import TrafficTotals
from gateway.control.show.families import counter, counter_by, gauge_by, single_counter, single_gauge, with_zeros
from gateway.core.stats.histogram import bucket_of
from gateway.core.stats.outcomes import NAMES, OK
from gateway.core.types import Variant
from gateway.runtime.wire import BODY_NOT_KEPT, Exemplar, RouteTotals

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
    *("queue_timeout", "body_buffers_full", "body_lost", "features_missing"),
    *("bad_field_name", "method_unknown", "version_unsupported"),
    "last_recipient",
    *("too_many_connections", "too_many_from_client", "body_too_slow", "bad_proxy_header", "tls_handshake"),
)

# Sizes are counted in powers of two; every fourth leaves: 256 bytes, 4 KiB, 64 KiB, 1 MiB, 16 MiB, 256 MiB.
SIZE_BOUNDS: Final = tuple((32 << k, k) for k in range(3, 24, 4))
_STATUSES: Final = frozenset(HTTPStatus) | {499}
_BOUNDS: Final = tuple((repr(us / 1e6), bucket_of(us)) for us in BOUNDS_US)


def traffic_metrics(totals: list[RouteTotals], traffic: TrafficTotals) -> Iterator[Metric]:
    """One family each; ``totals`` are complete (every configured route and variant has them)."""
    yield from _answers(totals, traffic.exemplars)
    yield from _latencies(totals, traffic.exemplars)
    yield from _sizes(totals)
    yield from _rescues(totals)
    yield from _gateway_made(traffic)
    yield from _notes(traffic)


def cumulative(histogram: Mapping[int, int]) -> list[tuple[str, float]]:
    """A log-linear histogram (bucket -> count) as (``le`` in seconds, count up to it), ending with ``+Inf``."""
    # The buckets below bucket_of(le) are just those whose (exclusive) upper edge is not beyond le.
    out = [(le, float(sum(n for bucket, n in histogram.items() if bucket < first))) for le, first in _BOUNDS]
    return [*out, ("+Inf", float(sum(histogram.values())))]


def cumulative_sizes(sizes: Mapping[int, int]) -> list[tuple[str, float]]:
    """Sizes by their class as (``le`` in bytes, count up to it), ending with ``+Inf``."""
    out = [(f"{le}.0", float(sum(n for key, n in sizes.items() if key <= last))) for le, last in SIZE_BOUNDS]
    return [*out, ("+Inf", float(sum(sizes.values())))]


def status_label(code: int) -> str:
    """A status as a label.

    >>> status_label(200), status_label(499), status_label(587)
    ('200', '499', '5xx')
    """
    return str(code) if code in _STATUSES else f"{code // 100}xx"


def _arm(totals: RouteTotals) -> tuple[str, str]:
    return totals.route, Variant(totals.variant).label


def _answers(totals: list[RouteTotals], exemplars: Sequence[Exemplar]) -> Iterator[Metric]:
    yield counter(
        "gateway_requests_total",
        "Responses to clients by status code and by the variant that produced them.",
        ("route", "variant", "code"),
        (((*_arm(t), code), n) for t in totals for code, n in _by_status(t.answered)),
    )
    attempts = CounterMetricFamily(
        "gateway_upstream_tries_total",
        "Attempts on upstream endpoints, by result; a rescued request has attempts on both variants.",
        labels=("route", "variant", "result"),
    )
    failures = {(one.route, one.variant, one.result): one for one in exemplars if one.result != OK}
    for t in totals:
        for result, n in with_zeros(t.tries, RESULTS):
            shown = failures.get((t.route, t.variant, result))
            attempts.add_metric((*_arm(t), result), float(n), exemplar=None if shown is None else _exemplar(shown, 1.0))
    yield attempts
    yield counter(
        "gateway_forced_requests_total",
        "Requests whose client chose the variant by header; they are not evidence.",
        ("route", "variant"),
        ((_arm(t), t.forced) for t in totals),
    )


def _by_status(answered: Mapping[int, int]) -> list[tuple[str, int]]:
    out: dict[str, int] = {}
    for code, n in sorted(answered.items()):
        label = status_label(code)
        out[label] = out.get(label, 0) + n
    return list(out.items())


def _exemplar(one: Exemplar, value: float) -> ExemplarSample:
    return ExemplarSample({"trace_id": one.trace_id}, value, one.at_s)


def _with_exemplars(
    buckets: Sequence[tuple[str, float]], exemplars: Iterable[Exemplar]
) -> list[tuple[str, float] | tuple[str, float, ExemplarSample]]:
    """Each bucket with the newest exemplar that lies in it and in no lower one."""
    newest: dict[int, Exemplar] = {}
    for one in exemplars:
        bucket = bucket_of(one.duration_us)
        newest[next((i for i, (_, first) in enumerate(_BOUNDS) if bucket < first), len(_BOUNDS))] = one
    out: list[tuple[str, float] | tuple[str, float, ExemplarSample]] = []
    for i, (le, n) in enumerate(buckets):
        shown = newest.get(i)
        out.append((le, n) if shown is None else (le, n, _exemplar(shown, shown.duration_us / 1e6)))
    return out


def _latencies(totals: list[RouteTotals], exemplars: Iterable[Exemplar]) -> Iterator[Metric]:
    shown: dict[tuple[str, int], list[Exemplar]] = {}
    for one in exemplars:
        shown.setdefault((one.route, one.variant), []).append(one)
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
    queue = HistogramMetricFamily(
        "gateway_upstream_queue_seconds",
        "Time that attempts waited for a connection, of those that did not get one at once.",
        labels=("route", "variant"),
    )
    for t in totals:
        arm = _arm(t)
        known = shown.get((t.route, t.variant), ())
        duration.add_metric(arm, _with_exemplars(cumulative(t.duration), known), t.duration_us_sum / 1e6)
        first_byte.add_metric(arm, cumulative(t.first_byte), t.first_byte_us_sum / 1e6)
        queue.add_metric(arm, cumulative(t.queued), t.queued_us_sum / 1e6)
    yield duration
    yield first_byte
    yield queue
    yield from _of_streams(totals)


def _of_streams(totals: list[RouteTotals]) -> Iterator[Metric]:
    """By the names of OpenTelemetry's conventions for generative AI, as Prometheus writes them."""
    first_token = HistogramMetricFamily(
        "gen_ai_server_time_to_first_token_seconds",
        "Time from a request's dispatch to the first event of its stream that has content.",
        labels=("route", "variant"),
    )
    per_token = HistogramMetricFamily(
        "gen_ai_server_time_per_output_token_seconds",
        "Mean time between two events of a stream after the first that has content.",
        labels=("route", "variant"),
    )
    for t in totals:
        first_token.add_metric(_arm(t), cumulative(t.first_token), t.first_token_us_sum / 1e6)
        per_token.add_metric(_arm(t), cumulative(t.per_token), t.per_token_us_sum / 1e6)
    yield first_token
    yield per_token


def _sizes(totals: list[RouteTotals]) -> Iterator[Metric]:
    requests = HistogramMetricFamily(
        "gateway_request_size_bytes", "Sizes of the bodies of answered requests.", labels=("route", "variant")
    )
    responses = HistogramMetricFamily(
        "gateway_response_size_bytes",
        "Sizes of the bodies of the answers that clients got from a backend.",
        labels=("route", "variant"),
    )
    for t in totals:
        requests.add_metric(_arm(t), cumulative_sizes(t.request_sizes), float(t.request_bytes_sum))
        responses.add_metric(_arm(t), cumulative_sizes(t.response_sizes), float(t.response_bytes_sum))
    yield requests
    yield responses


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
    yield counter_by(
        "gateway_spans_total",
        "Spans of requests and attempts: exported, failed (the receiver did not take them), dropped (queue full).",
        "result",
        {result: notes.get(f"spans_{result}", 0) for result in ("exported", "failed", "dropped")},
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
