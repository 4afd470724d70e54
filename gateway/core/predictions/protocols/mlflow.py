"""MLflow's scoring server (`/invocations`): ``{"predictions": ...}`` as a list, a dict of lists, or records.

A model that speaks OpenAI's API (`mlflow.pyfunc.ChatModel`) answers at the same path in that form; it is read so.
"""

from __future__ import annotations

from gateway.core.predictions.outputs import Output, UndecodableError, WholeAnswer
from gateway.core.predictions.protocols import openai
from gateway.core.predictions.protocols.adapter import AnswerClass, StreamEvent
from gateway.core.predictions.protocols.errors import class_of_answer
from gateway.core.predictions.protocols.kserve_v1 import without_rows
from gateway.core.predictions.protocols.tables import json_of, refuse_error, table_of

_chat = openai.OpenAi()


class MlflowScoring:
    """The adapter."""

    def classify(self, answer: WholeAnswer) -> AnswerClass:
        """What an answer is."""
        return class_of_answer(answer, _is_empty)

    def extract(self, answer: WholeAnswer) -> list[Output]:
        """The outputs. Raises UndecodableError."""
        tree = json_of(answer)
        refuse_error(tree)
        found = openai.outputs_of(tree) if openai.is_answer(tree) else table_of(tree)
        if found is None:
            raise UndecodableError("it has no `predictions`")
        return found

    def stream(self, data: bytes, name: bytes = b"") -> StreamEvent:
        """What one event of a model that streams is."""
        return _chat.stream(data, name)


def _is_empty(tree: object) -> bool:
    return openai.is_empty(tree) if openai.is_answer(tree) else without_rows(tree)
