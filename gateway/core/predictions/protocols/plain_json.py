"""JSON of one's own, such as BentoML's and FastAPI's: places that the configuration names, or every field.

Rules:

1. With pointers (pointers.py) an output is what is found at its place; all else is passed over.
2. Without any, fields are outputs by their names, rows and columns as in tables.py.
3. Nothing but an error object is a failure by itself: what must be there only its owner knows.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gateway.core.predictions.outputs import Output, WholeAnswer
from gateway.core.predictions.protocols import openai
from gateway.core.predictions.protocols.adapter import AnswerClass, StreamEvent
from gateway.core.predictions.protocols.errors import class_of_answer
from gateway.core.predictions.protocols.pointers import Pointers
from gateway.core.predictions.protocols.stream_events import read_event
from gateway.core.predictions.protocols.tables import any_json, json_of
from gateway.core.predictions.protocols.triton_generate import read_generated


class PlainJson:
    """The adapter, for outputs by the name that they are to have, at these places."""

    def __init__(self, places: Mapping[str, str]) -> None:
        self._pointers = Pointers(places) if places else None

    def classify(self, answer: WholeAnswer) -> AnswerClass:
        """What an answer is."""
        return class_of_answer(answer, lambda _: False)

    def extract(self, answer: WholeAnswer) -> list[Output]:
        """The outputs. Raises UndecodableError."""
        tree = json_of(answer)
        return any_json(tree) if self._pointers is None else self._pointers.extract(tree)

    def stream(self, data: bytes, name: bytes = b"") -> StreamEvent:
        """What one event is, in whichever form it is known."""
        return read_event(data, name, read_any)


def read_any(value: dict[str, Any], name: str) -> StreamEvent | None:
    """One event's object of any known form; None for any other."""
    found = openai.read(value, name)
    return read_generated(value, name) if found is None else found
