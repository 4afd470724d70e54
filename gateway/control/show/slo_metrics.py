"""Service level objectives as counters: what an alert on the burn rate of an error budget divides (docs/metrics.md).

Rules:

1. Users count, not versions: availability is of the answers that clients got, whichever variant gave them.
2. Latency is that of the metric ``latency``, from dispatch to the first byte, of each attempt. An attempt is fast when
   its whole bucket lies within the objective (traffic_metrics.py); it is never called faster than it was.
3. All three series of an objective exist from the start on, and only where there is one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from prometheus_client.metrics_core import Metric

from gateway.control.show.families import counter, gauge
from gateway.core.objectives import Objectives
from gateway.core.stats.histogram import bucket_of
from gateway.runtime.wire import RouteTotals

_LABELS = ("route", "slo")
_SERVER_ERROR = 500


def slo_metrics(totals: Iterable[RouteTotals], objectives: Mapping[str, Objectives]) -> Iterator[Metric]:
    """One family each: requests, those that failed the objective, and the objective."""
    parts: dict[str, list[RouteTotals]] = {}
    for part in totals:
        parts.setdefault(part.route, []).append(part)
    rows = [
        ((name, slo), found)
        for name, promised in objectives.items()
        for slo, found in _objectives(promised, parts.get(name, []))
    ]
    yield counter(
        "gateway_slo_requests_total",
        "Requests that count for a service level objective.",
        _LABELS,
        ((labels, requests) for labels, (requests, _, _) in rows),
    )
    yield counter(
        "gateway_slo_failures_total",
        "Requests that failed a service level objective: answered with 5xx, or later than it allows.",
        _LABELS,
        ((labels, failed) for labels, (_, failed, _) in rows),
    )
    yield gauge(
        "gateway_slo_objective_ratio",
        "Share of requests that is to meet the service level objective.",
        _LABELS,
        ((labels, objective) for labels, (_, _, objective) in rows),
    )


def _objectives(slo: Objectives, parts: list[RouteTotals]) -> Iterator[tuple[str, tuple[int, int, float]]]:
    answered = [(code, n) for part in parts for code, n in part.answered.items()]
    failed = sum(n for code, n in answered if code >= _SERVER_ERROR)
    yield "availability", (sum(n for _, n in answered), failed, slo.availability_percent / 100)
    if slo.latency_ms is not None:
        first_beyond = bucket_of(int(slo.latency_ms * 1000))
        seen = [(bucket, n) for part in parts for bucket, n in part.first_byte.items()]
        late = sum(n for bucket, n in seen if bucket >= first_beyond)
        yield "latency", (sum(n for _, n in seen), late, slo.latency_percent / 100)
