"""The metrics of stable's bad moments, and of the endpoints at which requests fail."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from prometheus_client.metrics_core import Metric

from gateway.control.show.families import counter, gauge
from gateway.control.views import RouteView
from gateway.core.stats.outcomes import FAILURES
from gateway.core.types import Variant
from gateway.runtime.wire import RouteTotals


def stable_metrics(routes: list[RouteView]) -> Iterator[Metric]:
    """How long stable has been watched, its bad moments, and the longest of them."""
    known = {(route.name, one.metric): one for route in routes for one in route.bad_moments}
    labels = [(route.name, metric) for route in routes for metric in FAILURES]
    yield gauge(
        "gateway_stable_known_seconds",
        "Time for which the failures of the route's stable version have been watched; older time counts half.",
        ("route",),
        (((route.name,), route.stable_known_s) for route in routes),
    )
    yield gauge(
        "gateway_stable_bad_moments",
        "Bad moments of stable in that time: stretches in which it failed far more than usual.",
        ("route", "metric"),
        ((key, known[key].moments if key in known else 0.0) for key in labels),
    )
    yield gauge(
        "gateway_stable_bad_moment_longest_seconds",
        "How long the longest of them lasted, but for one in a hundred.",
        ("route", "metric"),
        ((key, known[key].longest_s if key in known else 0.0) for key in labels),
    )


def endpoint_failures(totals: Iterable[RouteTotals], routes: Iterable[RouteView]) -> Metric:
    """At which endpoints requests failed that count as evidence."""
    failed: dict[tuple[str, str, str], int] = {}
    for route in routes:
        for one in route.endpoints:
            for variant, backend in ((Variant.STABLE, route.stable), (Variant.CANARY, route.canary)):
                if one.backend == backend:
                    failed[route.name, variant.label, one.url] = 0
    for part in totals:
        label = Variant(part.variant).label
        for url, classes in part.failed_at.items():
            key = (part.route, label, url)
            failed[key] = failed.get(key, 0) + sum(n for name, n in classes.items() if name in FAILURES)
    return counter(
        "gateway_endpoint_failures_total",
        "Failed requests that count as evidence, by the endpoint that failed them.",
        ("route", "variant", "endpoint"),
        sorted(failed.items()),
    )
