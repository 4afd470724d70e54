"""OpenAI's API, which most servers of language models speak: chat completions, completions, embeddings, responses.

Rules:

1. Which of the four an answer is says its form: ``choices``, a list of ``embedding`` in ``data``, or ``output``.
2. An answer without any choice, output or vector is a model error, and so is one that came to its end (`stop`) without
   a text, a call, a refusal or a sound. An answer that was cut short by its limit of tokens may be empty.
3. Extracted are, of the first choice: ``text``, ``tool`` (the first one's name), ``finish_reason``, ``refused``; of all
   ``prompt_tokens`` and ``completion_tokens``. Of embeddings the vectors, one for each input. They are ``plain``: what
   a text is about only its user knows, so that by itself it is no class (layout.py, rule 6).
4. Events of `messages` (Anthropic) are read as well, since gateways in front of models pass them on.
"""

from __future__ import annotations

import binascii
import struct
from collections.abc import Iterable
from typing import Any

import msgspec

from gateway.core.predictions.outputs import Output, UndecodableError, Value, WholeAnswer, flat
from gateway.core.predictions.protocols.adapter import AnswerClass, EventKind, StreamEvent, ToolCall
from gateway.core.predictions.protocols.errors import class_of_answer
from gateway.core.predictions.protocols.stream_events import count_of, list_of, object_of, read_event, text_of
from gateway.core.predictions.protocols.tables import json_of

_CHOICES_MAX, _CALLS_MAX = 16, 64
# Reasons that say that the model came to its end by itself.
_STOPPED = frozenset(("stop", "end_turn", "completed"))


class OpenAi:
    """The adapter."""

    def classify(self, answer: WholeAnswer) -> AnswerClass:
        """What an answer is."""
        return class_of_answer(answer, is_empty)

    def extract(self, answer: WholeAnswer) -> list[Output]:
        """Text, tool, reason of the end and tokens; or vectors. Raises UndecodableError."""
        found = outputs_of(json_of(answer))
        if found is None:
            raise UndecodableError("it has no `choices`, no `output` and no embeddings in `data`")
        return found

    def stream(self, data: bytes, name: bytes = b"") -> StreamEvent:
        """What one chunk is."""
        return read_event(data, name, read)


def outputs_of(tree: object) -> list[Output] | None:
    """The outputs of an answer; None for what is none of this API. Raises UndecodableError."""
    if not isinstance(tree, dict):
        return None
    if is_embeddings(tree):
        return _vectors(tree["data"])
    if not isinstance(tree.get("choices"), list) and not isinstance(tree.get("output"), list):
        return None
    said = whole_answer(tree)
    if said is None:
        return []
    outputs = [_one("text", said.text)] if said.text or not said.tools else []
    if said.tools:
        outputs.append(_one("tool", said.tools[0].name))
    if said.finish:
        outputs.append(_one("finish_reason", said.finish))
    outputs.append(_one("refused", bool(said.refusal)))
    counts = (("prompt_tokens", said.prompt_tokens), ("completion_tokens", said.completion_tokens))
    return [*outputs, *(_one(name, tokens) for name, tokens in counts if tokens is not None)]


def is_answer(tree: object) -> bool:
    """Whether a JSON value is an answer of this API."""
    if not isinstance(tree, dict):
        return False
    choices = tree.get("choices")
    if isinstance(choices, list):
        known = ("message", "text", "finish_reason")
        return all(isinstance(one, dict) and any(key in one for key in known) for one in choices)
    if tree.get("object") == "response":
        return isinstance(tree.get("output"), list)
    return is_embeddings(tree) or (tree.get("object") == "list" and tree.get("data") == [] and "usage" in tree)


def is_embeddings(tree: dict[str, Any]) -> bool:
    """Whether it is a list of vectors."""
    data = tree.get("data")
    return isinstance(data, list) and bool(data) and isinstance(data[0], dict) and "embedding" in data[0]


def whole_answer(tree: dict[str, Any]) -> StreamEvent | None:
    """What a whole answer says, as if it were one event; None for one without a choice."""
    if isinstance(tree.get("output"), list):
        said = _responded(tree)
    else:
        choices = [_said(one) for one in list_of(tree.get("choices"))[:_CHOICES_MAX] if isinstance(one, dict)]
        if not choices:
            return None
        said = _joined(choices)
    return _counted(msgspec.structs.replace(said, kind=EventKind.END), tree)


def _counted(said: StreamEvent, value: dict[str, Any]) -> StreamEvent:
    """With the counts of tokens that stand beside it."""
    prompt, completion = _usage(value)
    return msgspec.structs.replace(said, prompt_tokens=prompt, completion_tokens=completion)


def _one(name: str, value: Value) -> Output:
    return Output(name, (1,), [value], plain=True)


def _vectors(data: list[Any]) -> list[Output]:
    rows = [_vector(object_of(one).get("embedding")) for one in data]
    shape, values = flat(rows)
    return [Output("embedding", shape, values, plain=True)]


def _vector(embedding: object) -> object:
    """A list of numbers, or what `encoding_format: base64` makes of one."""
    if not isinstance(embedding, str):
        return embedding
    try:
        raw = binascii.a2b_base64(embedding, strict_mode=True)
    except (binascii.Error, ValueError):
        raise UndecodableError("an embedding is a text that is not base64") from None
    if len(raw) % 4:
        raise UndecodableError("an embedding in base64 is no list of floats")
    return list(struct.unpack(f"<{len(raw) // 4}f", raw))


def is_empty(tree: object) -> bool:
    """Whether it is an answer of this API that holds nothing, though it should (rule 2)."""
    if not isinstance(tree, dict):
        return False
    choices, output, data = tree.get("choices"), tree.get("output"), tree.get("data")
    if isinstance(choices, list):
        said = [_said(one) for one in choices[:_CHOICES_MAX] if isinstance(one, dict)]
        return not said or (all(map(_says_nothing, said)) and not any(_sounds(one) for one in choices))
    if isinstance(output, list) and tree.get("object") == "response":
        return tree.get("status") in (None, "completed") and not output
    if isinstance(data, list) and tree.get("object") == "list" and "usage" in tree:
        return not data or any(object_of(one).get("embedding", 0) in ([], "", None) for one in data)
    return False


def _says_nothing(said: StreamEvent) -> bool:
    return said.finish in _STOPPED and not (said.text or said.reasoning or said.refusal or said.tools)


def _sounds(choice: object) -> bool:
    return bool(object_of(object_of(choice).get("message")).get("audio"))


# What one event, or one choice of a whole answer, adds.


def read(value: dict[str, Any], name: str) -> StreamEvent | None:
    """One event's object; None for one of no form of this API."""
    kind = name or text_of(value.get("type"))
    if isinstance(value.get("choices"), list):
        choices = [_said(one) for one in value["choices"][:_CHOICES_MAX] if isinstance(one, dict)]
        return _counted(_joined(choices), value)
    if kind.startswith("response."):
        return _response_event(value, kind)
    if kind.startswith(("message_", "content_block_")):
        return _message_event(value, kind)
    return None


def _said(choice: dict[str, Any]) -> StreamEvent:
    """One choice: of a chunk (`delta`), of a whole chat (`message`), of a completion (`text`)."""
    part = object_of(choice.get("delta")) or object_of(choice.get("message"))
    text = text_of(part.get("content")) or _texts(part.get("content")) or text_of(choice.get("text"))
    reasoning = text_of(part.get("reasoning_content")) or text_of(part.get("reasoning"))
    tools = list(_calls(list_of(part.get("tool_calls"))))
    if called := object_of(part.get("function_call")):
        tools.append(ToolCall(0, text_of(called.get("name")), text_of(called.get("arguments"))))
    finish, refusal = text_of(choice.get("finish_reason")), text_of(part.get("refusal"))
    if finish == "error":
        return StreamEvent(EventKind.ERROR, text, error="finish_reason is error", finish=finish)
    adds = bool(text or reasoning or refusal or tools or part.get("audio"))
    kind = EventKind.END if finish else EventKind.TOKEN if adds else EventKind.OTHER
    return StreamEvent(kind, text, reasoning, refusal, tuple(tools), finish)


def _calls(calls: list[Any]) -> Iterable[ToolCall]:
    for position, call in enumerate(calls[:_CALLS_MAX]):
        if isinstance(call, dict):
            function, index = object_of(call.get("function")), count_of(call.get("index"))
            yield ToolCall(
                position if index is None else index, text_of(function.get("name")), text_of(function.get("arguments"))
            )


def _joined(choices: list[StreamEvent]) -> StreamEvent:
    """Several choices as one: the first of them speaks, what any of them is counts."""
    if not choices:
        return StreamEvent(EventKind.OTHER)
    if len(choices) == 1:
        return choices[0]
    kinds = {one.kind for one in choices}
    kind = next(kind for kind in (EventKind.ERROR, EventKind.END, EventKind.TOKEN, EventKind.OTHER) if kind in kinds)
    return next(one for one in choices if one.kind is kind)


def _usage(value: dict[str, Any]) -> tuple[int | None, int | None]:
    usage = object_of(value.get("usage"))
    prompt, completion = usage.get("prompt_tokens"), usage.get("completion_tokens")
    if prompt is None and completion is None:
        prompt, completion = usage.get("input_tokens"), usage.get("output_tokens")
    return count_of(prompt), count_of(completion)


def _texts(parts: object) -> str:
    """The text of a list of parts."""
    return "".join(text_of(part.get("text")) for part in list_of(parts)[:_CALLS_MAX] if isinstance(part, dict))


def _responded(tree: dict[str, Any]) -> StreamEvent:
    """A whole answer of `responses`."""
    items = [one for one in tree["output"][:_CALLS_MAX] if isinstance(one, dict)]
    parts = [part for one in items for part in list_of(one.get("content"))[:_CALLS_MAX] if isinstance(part, dict)]
    text = "".join(text_of(part.get("text")) for part in parts)
    refusal = "".join(text_of(part.get("refusal")) for part in parts)
    called = [one for one in items if text_of(one.get("type")).endswith("_call")]
    tools = [
        ToolCall(index, text_of(one.get("name")), text_of(one.get("arguments"))) for index, one in enumerate(called)
    ]
    return StreamEvent(EventKind.END, text, refusal=refusal, tools=tuple(tools), finish=_status(tree))


def _status(response: dict[str, Any]) -> str:
    """The reason of the end: that of a response that is incomplete, or its status."""
    why = text_of(object_of(response.get("incomplete_details")).get("reason"))
    return why or text_of(response.get("status"))


def _response_event(value: dict[str, Any], kind: str) -> StreamEvent | None:
    delta = text_of(value.get("delta"))
    index = count_of(value.get("output_index")) or 0
    if kind == "response.output_text.delta":
        return StreamEvent(EventKind.TOKEN, text=delta)
    if kind == "response.refusal.delta":
        return StreamEvent(EventKind.TOKEN, refusal=delta)
    if kind.startswith("response.reasoning") and kind.endswith(".delta"):
        return StreamEvent(EventKind.TOKEN, reasoning=delta)
    if kind == "response.function_call_arguments.delta":
        return StreamEvent(EventKind.TOKEN, tools=(ToolCall(index, "", delta),))
    if kind == "response.output_item.added":
        item = object_of(value.get("item"))
        if item.get("type") == "function_call":
            return StreamEvent(EventKind.TOKEN, tools=(ToolCall(index, text_of(item.get("name"))),))
        return StreamEvent(EventKind.OTHER)
    if kind in ("response.completed", "response.incomplete"):
        response = object_of(value.get("response"))
        prompt, completion = _usage(response)
        return StreamEvent(EventKind.END, finish=_status(response), prompt_tokens=prompt, completion_tokens=completion)
    if kind.endswith(".delta"):
        return StreamEvent(EventKind.TOKEN)  # sound, code and what else may come
    return StreamEvent(EventKind.OTHER)


def _message_event(value: dict[str, Any], kind: str) -> StreamEvent | None:
    delta, index = object_of(value.get("delta")), count_of(value.get("index")) or 0
    if kind == "content_block_delta":
        tools = (ToolCall(index, "", text_of(delta.get("partial_json"))),) if "partial_json" in delta else ()
        return StreamEvent(EventKind.TOKEN, text_of(delta.get("text")), text_of(delta.get("thinking")), tools=tools)
    if kind == "content_block_start":
        block = object_of(value.get("content_block"))
        if block.get("type") == "tool_use":
            return StreamEvent(EventKind.TOKEN, tools=(ToolCall(index, text_of(block.get("name"))),))
        return StreamEvent(EventKind.OTHER)
    prompt, completion = _usage(object_of(value.get("message")) or value)
    finish = text_of(delta.get("stop_reason"))
    kind_of = EventKind.END if finish or kind == "message_stop" else EventKind.OTHER
    return StreamEvent(kind_of, finish=finish, prompt_tokens=prompt, completion_tokens=completion)
