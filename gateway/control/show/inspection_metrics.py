"""The metrics of answers and labels: what workers sampled, what the inspector found, and what became of labels."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from prometheus_client.metrics_core import Metric

from gateway.control.show.families import counter, single_gauge, with_zeros
from gateway.core.predictions.failures import KINDS, UNREAD
from gateway.core.predictions.text_events import COMPLETION_TOKENS, PROMPT_TOKENS
from gateway.core.types import Variant
from gateway.runtime.samples import FOR_PREDICTIONS, HEADER_SEEN, AnswersRead, DataChecked, Inspected
from gateway.runtime.wire import RouteTotals

SAMPLE_RESULTS = ("taken", "dropped", "away", "too_large", "streamed", "without_id", "ids_dropped")
LOST_REASONS = ("busy", "validator", "without_request")
_ARM = ("route", "variant")
# By the words of OpenTelemetry's `gen_ai.token.type`.
_TOKEN_TYPES = ((PROMPT_TOKENS, "input"), (COMPLETION_TOKENS, "output"))


def inspection_metrics(
    totals: Iterable[RouteTotals], inspected: Inspected | None, present: bool | None
) -> Iterator[Metric]:
    """All of them; ``present`` None: no inspector is needed."""
    yield counter(
        "gateway_samples_total",
        "Answers sampled for the inspector, by what became of them.",
        (*_ARM, "result"),
        (
            ((part.route, Variant(part.variant).label, result), n)
            for part in totals
            for result, n in with_zeros(_results_only(part.samples), SAMPLE_RESULTS)
        ),
    )
    results = {} if inspected is None else inspected.results
    yield counter(
        "gateway_inspected_answers_total",
        "Sampled answers that reached the inspector, by result; an answer can be decoded and have NaN.",
        ("route", "result"),
        (((route, result), n) for route, found in sorted(results.items()) for result, n in sorted(found.items())),
    )
    labels = {} if inspected is None else inspected.labels
    yield counter(
        "gateway_labels_total",
        "Labels posted to the admin API, by result.",
        ("route", "event", "result"),
        (
            ((route, event, result), n)
            for route, events in sorted(labels.items())
            for event, found in sorted(events.items())
            for result, n in sorted(found.items())
        ),
    )
    protocols = {} if inspected is None else inspected.protocols
    yield counter(
        "gateway_answer_protocols_total",
        "Sampled answers by the protocol that they were read in, and how it was known.",
        ("route", "protocol", "by"),
        (
            ((route, one.name.value, one.by), n)
            for route, found in sorted(protocols.items())
            for one, n in sorted(found, key=lambda pair: (pair[0].name, pair[0].by))
        ),
    )
    yield from _data({} if inspected is None else inspected.data)
    yield from _answers({} if inspected is None else inspected.answers)
    up = "1 while the inspector reports; absent where none is needed."
    yield single_gauge("gateway_inspector_up", up, present)


def _data(found: Mapping[str, DataChecked]) -> Iterator[Metric]:
    """Windows of data, by what validators said of them, and those that nobody judged."""
    yield counter(
        "gateway_data_windows_total",
        "Windows of requests and answers that a validator has judged, by result.",
        (*_ARM, "result"),
        (
            ((route, variant.label, result), n)
            for route, one in sorted(found.items())
            for variant, judged, failed in zip(Variant, one.judged, one.failed, strict=True)
            for result, n in (("conforming", judged - failed), ("failing", failed))
        ),
    )
    yield counter(
        "gateway_data_lost_total",
        "Windows of data that were not judged, and sampled answers whose request was not in memory, by reason.",
        ("route", "reason"),
        (
            ((route, reason), n)
            for route, one in sorted(found.items())
            for reason, n in with_zeros(one.lost, LOST_REASONS)
        ),
    )


def _answers(found: Mapping[str, tuple[AnswersRead, AnswersRead]]) -> Iterator[Metric]:
    """What was found by reading answers for failures."""
    parts = [
        ((route, variant.label), part)
        for route, pair in sorted(found.items())
        for variant, part in zip(Variant, pair, strict=True)
    ]
    yield counter(
        "gateway_answers_read_total",
        "Sampled answers that were checked for failures in their content.",
        _ARM,
        ((arm, part.read) for arm, part in parts),
    )
    yield counter(
        "gateway_answer_failures_total",
        "Failures found in the content of answers with a 2xx status, by kind.",
        (*_ARM, "kind"),
        (((*arm, kind), n) for arm, part in parts for kind, n in with_zeros(part.failures, KINDS)),
    )
    yield counter(
        "gateway_unread_answers_total",
        "Sampled answers that could not be read, by reason; they are not counted as failures.",
        (*_ARM, "reason"),
        (((*arm, reason), n) for arm, part in parts for reason, n in with_zeros(part.unread, UNREAD)),
    )
    yield counter(
        "gateway_text_answers_total",
        "Sampled answers that were a language model's text and came to their end.",
        _ARM,
        ((arm, part.texts) for arm, part in parts),
    )
    yield counter(
        "gateway_tokens_total",
        "Tokens of those answers as their usage gives them, by type: input (prompt) and output (completion).",
        (*_ARM, "type"),
        (((*arm, kind), part.tokens.get(name, 0)) for arm, part in parts for name, kind in _TOKEN_TYPES),
    )


def _results_only(samples: Mapping[str, int]) -> dict[str, int]:
    """Without what is counted beside what became of a sample."""
    return {key: n for key, n in samples.items() if key != FOR_PREDICTIONS and not key.startswith(HEADER_SEEN)}
