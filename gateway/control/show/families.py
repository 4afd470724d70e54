"""Families of metrics from samples: what the modules of `/metrics` share, here and in the rooms above."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric

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


def counter_by(name: str, text: str, label: str, counts: Mapping[str, float]) -> Metric:
    """A counter with one label, such as the reason, from counts by its value."""
    return counter(name, text, (label,), (((value,), n) for value, n in counts.items()))


def gauge_by(name: str, text: str, label: str, values: Mapping[str, float]) -> Metric:
    """A gauge with one label from values by its value."""
    return gauge(name, text, (label,), (((key,), value) for key, value in values.items()))


def single_counter(name: str, text: str, value: float) -> Metric:
    """A counter without labels."""
    return counter(name, text, (), [((), value)])


def single_gauge(name: str, text: str, value: float | None) -> Metric:
    """A gauge without labels; None: without a sample."""
    return gauge(name, text, (), [] if value is None else [((), value)])


def finite(samples: Samples) -> Samples:
    """The samples that are numbers."""
    return (sample for sample in samples if math.isfinite(sample[1]))


def with_zeros(counts: Mapping[str, int], known: Sequence[str]) -> list[tuple[str, int]]:
    """Counts by label in the labels' order, with the known ones that were never counted."""
    return sorted({**dict.fromkeys(known, 0), **counts}.items())
