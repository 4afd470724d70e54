"""One event of a stream, as far as all protocols have it alike: errors, end marks, what only opens or keeps alive.

Rules:

1. An event is an error when it is named so (`ERROR_EVENTS`), when its data are an error object (failures.py) or begin
   with ``[ERROR]``.
2. ``[DONE]`` and events of the names `LAST_EVENTS` are an END, those of the names `OPENING_EVENTS` (also as the data's
   ``type``) and events without data are OTHER.
3. JSON objects are read by the protocol; an object of which nothing is known, other JSON and plain text are a TOKEN:
   who waits for the first content has to be told of it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import msgspec

from gateway.core.predictions.failures import ERROR, excerpt, is_error, msgspec_json, problem
from gateway.core.predictions.protocols.adapter import EventKind, StreamEvent

ERROR_EVENTS: Final = frozenset((b"error", b"exception", b"failed", b"response.failed", b"response.error"))
LAST_EVENTS: Final = frozenset(
    (b"done", b"end", b"complete", b"completed", b"message_stop", b"response.completed", b"close")
)
OPENING_EVENTS: Final = frozenset(
    (
        "ping",
        "heartbeat",
        "keep-alive",
        "keepalive",
        "message_start",
        "content_block_start",
        "response.created",
        "response.queued",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
    )
)
DONE: Final = b"[DONE]"
_TEXT_CHARS_MAX: Final = 64 * 1024

ReadObject = Callable[[dict[str, Any], str], StreamEvent | None]
"""A protocol's own reading of an event's object, given the event's name; None for an object that it does not know."""


def read_event(data: bytes, name: bytes, read: ReadObject) -> StreamEvent:
    """What one event is."""
    name = name.lower()
    if name in ERROR_EVENTS:
        return StreamEvent(EventKind.ERROR, error=excerpt(b"event: %b data: %b" % (name, data)))
    text = data.strip()
    if text == DONE:
        return StreamEvent(EventKind.END)
    if text.startswith(b"[ERROR]"):
        return StreamEvent(EventKind.ERROR, error=excerpt(text))
    word = name.decode("latin-1")
    value = msgspec_json(text) if text[:1] in (b"{", b"[") else None
    if value is None:
        return _plain(text, word)
    if is_error(value[0]):
        return StreamEvent(EventKind.ERROR, error=excerpt(text))
    if not isinstance(value[0], dict):
        return StreamEvent(EventKind.TOKEN, text=text.decode("utf-8", "replace")[:_TEXT_CHARS_MAX])
    found = read(value[0], word)
    if found is None:
        opens = word in OPENING_EVENTS or text_of(value[0].get("type")) in OPENING_EVENTS
        found = StreamEvent(EventKind.OTHER if opens else EventKind.TOKEN)
    if found.kind is not EventKind.ERROR and name in LAST_EVENTS:
        return msgspec.structs.replace(found, kind=EventKind.END)
    return found


def text_of(value: object) -> str:
    """A text, or none where something else stands."""
    return value[:_TEXT_CHARS_MAX] if isinstance(value, str) else ""


def object_of(value: object) -> dict[str, Any]:
    """An object, or an empty one where something else stands."""
    return value if isinstance(value, dict) else {}


def list_of(value: object) -> list[Any]:
    """A list, or an empty one where something else stands."""
    return value if isinstance(value, list) else []


def count_of(value: object) -> int | None:
    """A count of tokens; None where something else stands."""
    return value if type(value) is int and 0 <= value < 1 << 53 else None


def _plain(text: bytes, name: str) -> StreamEvent:
    """Data that are no JSON object or list."""
    if name.encode("latin-1") in LAST_EVENTS:
        return StreamEvent(EventKind.END, text=text.decode("utf-8", "replace")[:_TEXT_CHARS_MAX])
    if not text or name in OPENING_EVENTS:
        return StreamEvent(EventKind.OTHER)
    found = problem(text)  # JSON that only a lenient reader takes
    if found is not None and found[0] == ERROR:
        return StreamEvent(EventKind.ERROR, error=found[1])
    return StreamEvent(EventKind.TOKEN, text=text.decode("utf-8", "replace")[:_TEXT_CHARS_MAX])
