"""KServe's protocol V1 and TensorFlow Serving's REST API: ``:predict``, and ``:classify`` and ``:regress``.

Rules:

1. `:predict` answers ``{"predictions": [...]}`` by rows, or ``{"outputs": {...}}`` by columns (of one output without
   its name); `:classify` and `:regress` answer ``{"results": [...]}``.
2. An answer without any of these, and one without a row, is a model error.
"""

from __future__ import annotations

from gateway.core.predictions.outputs import Output, UndecodableError, WholeAnswer
from gateway.core.predictions.protocols.adapter import AnswerClass, StreamEvent
from gateway.core.predictions.protocols.errors import class_of_answer
from gateway.core.predictions.protocols.stream_events import read_event
from gateway.core.predictions.protocols.tables import TABLES, json_of, refuse_error, table_of


class KserveV1:
    """The adapter."""

    def classify(self, answer: WholeAnswer) -> AnswerClass:
        """What an answer is."""
        return class_of_answer(answer, without_rows)

    def extract(self, answer: WholeAnswer) -> list[Output]:
        """The outputs, by row or by column. Raises UndecodableError."""
        tree = json_of(answer)
        refuse_error(tree)
        found = table_of(tree)
        if found is None:
            raise UndecodableError("it has no `predictions`, `outputs` or `results`")
        return found

    def stream(self, data: bytes, name: bytes = b"") -> StreamEvent:
        """What one event is: the protocol has no streams, so that each is content."""
        return read_event(data, name, lambda _, __: None)


def without_rows(tree: object) -> bool:
    """Whether a table is there and has no row, or none is there."""
    if not isinstance(tree, dict):
        return not tree
    found = [tree[key] for key in TABLES if key in tree]
    return not found or all(one in ([], {}, None, "") for one in found)
