"""The metrics of endpoints' health: what probes find, what they cannot find out, and where they are not heeded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric

from gateway.control.health.probe import REASONS
from gateway.control.views import ProbeCounts, RouteView


def health_metrics(routes: Iterable[RouteView], counts: ProbeCounts) -> Iterator[Metric]:
    """One family each."""
    endpoints = {(e.backend, e.url): e for route in routes for e in route.endpoints if e.healthy is not None}
    up = GaugeMetricFamily(
        "gateway_endpoint_up",
        "1 for endpoints that active probes find up, 0 for those they find down.",
        labels=("backend", "endpoint"),
    )
    kept = GaugeMetricFamily(
        "gateway_endpoint_kept",
        "1 for endpoints that are used although probes get no answer, because they answer requests.",
        labels=("backend", "endpoint"),
    )
    for labels, endpoint in sorted(endpoints.items()):
        up.add_metric(labels, float(endpoint.healthy is True))
        kept.add_metric(labels, float(endpoint.kept))
    yield up
    yield kept
    panic = GaugeMetricFamily(
        "gateway_backend_panic",
        "1 while so few endpoints of the backend look well that requests go to all of them, whatever probes say.",
        labels=("backend",),
    )
    for backend, panics in sorted(counts.panics.items()):
        panic.add_metric((backend,), float(panics))
    yield panic
    unknown = CounterMetricFamily(
        "gateway_probe_unknown",
        "Probes that found out nothing for a reason of the gateway's own; the endpoint keeps its state.",
        labels=("reason",),
    )
    for reason in REASONS:
        unknown.add_metric((reason,), float(counts.unknown.get(reason, 0)))
    yield unknown
