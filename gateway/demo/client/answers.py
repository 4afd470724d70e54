"""Which answers are failures to a user, and which label a good one has."""

from __future__ import annotations

import msgspec

from gateway.demo.scenarios import EMPTY, ERROR_EVENT

CHAT = -2
"""In place of a label: the answer is a text, and right if it is whole."""

_ERROR_EVENT = b"event: error\n"


class _Output(msgspec.Struct):
    name: str
    data: list[float]


class _InferenceAnswer(msgspec.Struct):
    outputs: list[_Output]


_decoder = msgspec.json.Decoder(_InferenceAnswer)


def label_of(body: bytes) -> int | None:
    """The label in an answer of the Open Inference Protocol; None for anything that is not one."""
    try:
        outputs = _decoder.decode(body).outputs
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
    labels = [output.data for output in outputs if output.name == "label"]
    return int(labels[0][0]) if len(labels) == 1 and len(labels[0]) == 1 else None


def label_of_stream(body: bytes) -> int | None:
    """The label in the last event of a stream; None without one, and after an error event."""
    events = body.split(b"\n\n")
    if len(events) < 2 or events.pop() or holds_error(body):
        return None
    return label_of(events[-1].removeprefix(b"data: "))


def holds_error(body: bytes) -> bool:
    """Whether an event stream holds an error event."""
    return body.startswith(_ERROR_EVENT) or b"\n" + _ERROR_EVENT in body


def judge_chat(status: int, body: bytes) -> tuple[str | None, int | None]:
    """Why a streamed text is a failure to its user; `CHAT` is the label of one that is not."""
    if status != 200:
        return f"status {status}", None
    if b'data: {"error"' in body:
        return ERROR_EVENT, None
    if not body.endswith(b"data: [DONE]\n\n"):
        return "malformed", None
    said = body.count(b'"delta":{"content":"')
    return (None, CHAT) if said else (EMPTY, None)


def judge(status: int, body: bytes, *, streamed: bool) -> tuple[str | None, int | None]:
    """Why an answer is a failure to its user, and the label of one that is not."""
    if status != 200:
        return f"status {status}", None
    if streamed and holds_error(body):
        return ERROR_EVENT, None
    label = label_of_stream(body) if streamed else label_of(body)
    return ("malformed" if label is None else None), label
