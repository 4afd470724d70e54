"""Triton's generate extension, and what servers of text models without OpenAI's API answer much alike.

Rules:

1. A whole answer is an object with the model's outputs as members: ``model_name``, ``model_version`` and, usually,
   ``text_output``. Members that are texts, numbers or lists of them are outputs.
2. An event of `generate_stream` is the same object, with the text that is added. The stream has no end mark.
3. Read as well: TGI's ``{"token": {"text"}, "generated_text"}``, whose whole answer is ``{"generated_text"}``, and
   Ollama's lines ``{"response" | "message": {"content"}, "done"}``.
"""

from __future__ import annotations

from typing import Any

from gateway.core.predictions.outputs import Output, UndecodableError, WholeAnswer
from gateway.core.predictions.protocols.adapter import AnswerClass, EventKind, StreamEvent
from gateway.core.predictions.protocols.errors import class_of_answer
from gateway.core.predictions.protocols.stream_events import count_of, object_of, read_event, text_of
from gateway.core.predictions.protocols.tables import json_of, records

_TEXTS = ("text_output", "generated_text")


class TritonGenerate:
    """The adapter."""

    def classify(self, answer: WholeAnswer) -> AnswerClass:
        """What an answer is."""
        return class_of_answer(answer, _is_empty)

    def extract(self, answer: WholeAnswer) -> list[Output]:
        """The model's outputs by their names. Raises UndecodableError."""
        found = outputs_of(json_of(answer))
        if found is None:
            raise UndecodableError("it has neither `text_output` nor `model_name` nor `generated_text`")
        return found

    def stream(self, data: bytes, name: bytes = b"") -> StreamEvent:
        """What one event is."""
        return read_event(data, name, read_generated)


def outputs_of(tree: object) -> list[Output] | None:
    """The outputs of a whole answer; None for what is none of this protocol. Raises UndecodableError."""
    one = tree[0] if isinstance(tree, list) and tree else tree
    if not isinstance(one, dict) or not ("model_name" in one or any(key in one for key in _TEXTS)):
        return None
    return records([one])


def is_answer(tree: object) -> bool:
    """Whether a JSON value says by its members that it is of this protocol."""
    one = tree[0] if isinstance(tree, list) and tree else tree
    return isinstance(one, dict) and any(key in one for key in _TEXTS)


def _is_empty(tree: object) -> bool:
    one = object_of(tree[0] if isinstance(tree, list) and tree else tree)
    return not one or any(key in one and one[key] in ("", [], None) for key in _TEXTS)


def read_generated(value: dict[str, Any], _: str) -> StreamEvent | None:
    """One event of the forms of rules 2 and 3; None for any other object."""
    if "text_output" in value:
        return _token(_joined(value["text_output"]))
    token = value.get("token")
    if isinstance(token, dict):
        text = "" if token.get("special") is True else text_of(token.get("text"))
        details = object_of(value.get("details"))
        if value.get("generated_text") is None and not details:
            return _token(text)
        finish = text_of(details.get("finish_reason"))
        return StreamEvent(
            EventKind.END, text, finish=finish, completion_tokens=count_of(details.get("generated_tokens"))
        )
    if "done" in value:
        text = text_of(value.get("response")) or text_of(object_of(value.get("message")).get("content"))
        if value["done"] is not True:
            return _token(text)
        prompt, completion = count_of(value.get("prompt_eval_count")), count_of(value.get("eval_count"))
        finish = text_of(value.get("done_reason"))
        return StreamEvent(EventKind.END, text, finish=finish, prompt_tokens=prompt, completion_tokens=completion)
    return None


def _token(text: str) -> StreamEvent:
    return StreamEvent(EventKind.TOKEN if text else EventKind.OTHER, text)


def _joined(output: object) -> str:
    return "".join(map(text_of, output)) if isinstance(output, list) else text_of(output)
