"""The metrics of answers and labels: what the taps took, what the inspector made of it, what became of labels."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from gateway.core.predictions.failures import KINDS, UNREAD
from gateway.core.types import Variant
from gateway.runtime.samples import FOR_PREDICTIONS, HEADER_SEEN, AnswersRead, Inspected
from gateway.runtime.wire import RouteTotals

TAPPED = ("taken", "dropped", "away", "too_large", "streamed", "without_id", "ids_dropped")


def observed(totals: Iterable[RouteTotals], inspected: Inspected | None, present: bool | None) -> Iterator[Metric]:
    """All of them; ``present`` None: nobody needs an inspector."""
    samples = CounterMetricFamily(
        "gateway_samples_total",
        "Answers that the taps chose, by what became of them on their way to the inspector.",
        labels=("route", "variant", "result"),
    )
    for part in totals:
        for result, n in _zeros(TAPPED, part.samples):
            samples.add_metric((part.route, Variant(part.variant).label, result), n)
    yield samples
    answers = CounterMetricFamily(
        "gateway_inspected_answers_total",
        "Answers that the inspector was given, by what it found; an answer may have NaN and be decoded.",
        labels=("route", "result"),
    )
    labels = CounterMetricFamily(
        "gateway_labels_total",
        "Labels handed in over the admin API, by what became of them.",
        labels=("route", "event", "result"),
    )
    for route, results in sorted(({} if inspected is None else inspected.results).items()):
        for result, n in sorted(results.items()):
            answers.add_metric((route, result), n)
    for route, events in sorted(({} if inspected is None else inspected.labels).items()):
        for event, results in sorted(events.items()):
            for result, n in sorted(results.items()):
                labels.add_metric((route, event, result), n)
    yield answers
    yield labels
    yield from _answers({} if inspected is None else inspected.answers)
    up = GaugeMetricFamily("gateway_inspector_up", "1 while the inspector is heard of; absent where none is needed.")
    if present is not None:
        up.add_metric((), float(present))
    yield up


def _answers(found: Mapping[str, tuple[AnswersRead, AnswersRead]]) -> Iterator[Metric]:
    """What was found by reading answers for failures."""
    read = CounterMetricFamily(
        "gateway_answers_read_total",
        "Sampled answers that were read for failures inside of them.",
        labels=("route", "variant"),
    )
    failures = CounterMetricFamily(
        "gateway_answer_failures_total",
        "Failures found inside of answers with a 2xx status, by kind.",
        labels=("route", "variant", "kind"),
    )
    unread = CounterMetricFamily(
        "gateway_unread_answers_total",
        "Sampled answers that could not be read, by reason; they convict nobody.",
        labels=("route", "variant", "reason"),
    )
    for route, parts in sorted(found.items()):
        for variant, part in zip(Variant, parts, strict=True):
            read.add_metric((route, variant.label), part.read)
            for kind, n in _zeros(KINDS, part.failures):
                failures.add_metric((route, variant.label, kind), n)
            for reason, n in _zeros(UNREAD, part.unread):
                unread.add_metric((route, variant.label, reason), n)
    yield read
    yield failures
    yield unread


def _zeros(known: tuple[str, ...], counts: Mapping[str, int]) -> list[tuple[str, int]]:
    found = {
        result: n for result, n in counts.items() if result != FOR_PREDICTIONS and not result.startswith(HEADER_SEEN)
    }
    return sorted({**dict.fromkeys(known, 0), **found}.items())
