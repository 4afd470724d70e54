"""Families of metrics from samples: what the modules of `/metrics` share."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

Samples = Iterable[tuple[Sequence[str], float]]


def counter(name: str, text: str, labels: Sequence[str], samples: Samples) -> Metric:
    """A counter of these samples: labels' values, and how many."""
    family = CounterMetricFamily(name, text, labels=labels)
    for values, value in samples:
        family.add_metric(values, float(value))
    return family


def gauge(name: str, text: str, labels: Sequence[str], samples: Samples) -> Metric:
    """A gauge of these samples."""
    family = GaugeMetricFamily(name, text, labels=labels)
    for values, value in samples:
        family.add_metric(values, float(value))
    return family


def finite(samples: Samples) -> Samples:
    """The samples that are numbers."""
    return (sample for sample in samples if math.isfinite(sample[1]))


def with_zeros(counts: Mapping[str, int], known: Sequence[str]) -> list[tuple[str, int]]:
    """Counts by label in the labels' order, with the known ones that were never counted."""
    return sorted({**dict.fromkeys(known, 0), **counts}.items())
