"""The metrics of features that are put into requests: what came of the lookups, how long they took, how old they were.

Counts are of the workers (proxy/features/feature_link.py); only routes that have features have some.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from prometheus_client.metrics_core import Metric

from gateway.control.show.families import counter


def feature_metrics(notes: Mapping[str, int]) -> Iterator[Metric]:
    """One family each; ``notes`` are merged over the workers' lives."""
    found = sorted((note.split(" "), number) for note, number in notes.items() if note.startswith("features"))

    def of(kind: str, scale: float = 1.0) -> list[tuple[list[str], float]]:
        return [(labels, number / scale) for (name, *labels), number in found if name == kind]

    yield counter(
        "gateway_feature_lookups",
        "Requests whose features were looked up, by what came of it: ok, missing, no_key, unreadable, timeout,"
        " unavailable, overload.",
        ("route", "result"),
        of("features"),
    )
    yield counter(
        "gateway_feature_lookup_seconds",
        "How long requests waited for their features, all together.",
        ("route",),
        of("features_us", 1e6),
    )
    yield counter(
        "gateway_feature_age_seconds",
        "How old the oldest feature of each lookup was, all together; see gateway_feature_ages_total.",
        ("route",),
        of("features_age_ms", 1e3),
    )
    yield counter(
        "gateway_feature_ages", "Lookups whose features said how old they are.", ("route",), of("features_aged")
    )
