"""The metrics of endpoints' health: what probes find and cannot find out, where they are ignored, ejections."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from prometheus_client.metrics_core import Metric

from gateway.control.health.probe import REASONS
from gateway.control.show.families import counter, counter_by, gauge, gauge_by
from gateway.control.views import BackendView, ProbeCounts, RouteView
from gateway.core.model_version import ModelVersion
from gateway.runtime.wire import Report

_ENDPOINT = ("backend", "endpoint")
# How a worker's report names what it counts (wire.Report.notes): this, backend, URL and reason.
_EJECTED_NOTE = "ejected"


def health_metrics(routes: Iterable[RouteView], counts: ProbeCounts) -> Iterator[Metric]:
    """One family each."""
    probed = {(e.backend, e.url): e for route in routes for e in route.endpoints if e.healthy is not None}
    endpoints = sorted(probed.items())
    yield gauge(
        "gateway_endpoint_up",
        "1 for endpoints that active probes find up, 0 for those they find down.",
        _ENDPOINT,
        ((labels, endpoint.healthy is True) for labels, endpoint in endpoints),
    )
    yield gauge(
        "gateway_endpoint_kept",
        "1 for endpoints that are used although probes get no answer, because they answer requests.",
        _ENDPOINT,
        ((labels, endpoint.kept) for labels, endpoint in endpoints),
    )
    yield gauge_by(
        "gateway_backend_panic",
        "1 while so few endpoints of the backend are healthy that requests go to all of them.",
        "backend",
        dict(sorted(counts.panics.items())),
    )
    yield counter_by(
        "gateway_probe_unknown",
        "Probes without a result for a reason in the gateway itself; the endpoint keeps its state.",
        "reason",
        {reason: counts.unknown.get(reason, 0) for reason in REASONS},
    )


def backend_info(backends: Iterable[BackendView]) -> Metric:
    """What each backend serves."""
    models = [(backend.name, backend.model or ModelVersion()) for backend in backends]
    return gauge(
        "gateway_backend_info",
        "1 for each backend, with the model version that it serves as far as the configuration says so.",
        ("backend", "model", "version", "digest"),
        (((name, model.name, model.version, model.digest), 1) for name, model in models),
    )


def ejection_metrics(
    routes: Iterable[RouteView], reports: Iterable[Report], notes: Mapping[str, int]
) -> Iterator[Metric]:
    """One family each; ``notes`` are merged over the workers' lives."""
    workers = {(endpoint.backend, endpoint.url): 0 for route in routes for endpoint in route.endpoints}
    for report in reports:
        for one in report.ejected:
            workers[one.backend, one.url] = workers.get((one.backend, one.url), 0) + 1
    yield gauge(
        "gateway_endpoint_ejected",
        "Workers whose own traffic keeps the endpoint out of rotation.",
        _ENDPOINT,
        sorted(workers.items()),
    )
    named = sorted((note.split(" "), number) for note, number in notes.items())
    yield counter(
        "gateway_endpoint_ejections",
        "Ejections of the endpoint by live traffic, by the failure that completed the streak.",
        (*_ENDPOINT, "reason"),
        ((labels, number) for (kind, *labels), number in named if kind == _EJECTED_NOTE),
    )
