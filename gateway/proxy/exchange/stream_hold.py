"""How long the beginning of a canary's event stream is held back: until it has said something, or has failed.

Rules:

1. A stream that fails before its first content can still be answered by stable: the client has seen nothing, and gets
   one clean stream. From the first content on nothing is held back or hidden.
2. Content is every event but these: those that only open a stream (`_OPENING`, by name or by the data's ``type``), a
   chunk whose choices have no text, no tool call and no reason for their end (the role alone), comments, and the end
   mark. An unknown form of events is content, and so is what is no event at all: neither is held back.
3. A stream has failed when its first event that is not an opening is an error (core/predictions/event_stream.py says
   what an error is), or when it ends before any content.
4. At most `HELD_BYTES_MAX` are held, and only events within `HELD_S_MAX` of the head: whoever keeps a stream open with
   pings while a model thinks does so to show the client that it lives.
"""

from __future__ import annotations

from typing import Any, Final

from gateway.core.predictions.event_stream import ERROR_EVENTS, StreamLines
from gateway.core.predictions.failures import ERROR, is_error, msgspec_json, problem

HOLD: Final = 0
CONTENT: Final = 1
FAILED: Final = 2

HELD_BYTES_MAX: Final = 64 * 1024
HELD_S_MAX: Final = 5.0
_OPENING: Final = frozenset(
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
_FIELDS: Final = frozenset((b"", b"data", b"event", b"id", b"retry"))
_SAID: Final = ("content", "reasoning_content", "reasoning", "refusal", "tool_calls", "function_call", "audio", "text")


class StreamHold:
    """The beginning of one event stream; ``since_s`` is when its head came."""

    __slots__ = ("_bytes", "_data", "_lines", "_name", "_since_s")

    def __init__(self, since_s: float) -> None:
        self._since_s = since_s
        self._lines = StreamLines()
        self._bytes = 0
        self._name = b""
        self._data: list[bytes] = []

    def feed(self, piece: bytes, now_s: float) -> int:
        """What the stream has come to with this piece: HOLD, CONTENT or FAILED."""
        self._bytes += len(piece)
        for line in self._lines.feed(piece):
            if line:
                if not self._field(line):
                    return CONTENT
            elif self._name or self._data:
                found = _judged(self._name.decode("latin-1").lower(), b"\n".join(self._data))
                self._name, self._data = b"", []
                if found != HOLD:
                    return found
        return CONTENT if self._bytes > HELD_BYTES_MAX or now_s - self._since_s > HELD_S_MAX else HOLD

    def _field(self, line: bytes) -> bool:
        """Take one line of an event; False for one that no event has."""
        field, _, value = line.partition(b":")
        if field == b"data":
            self._data.append(value.removeprefix(b" "))
        elif field == b"event":
            self._name = value.removeprefix(b" ")
        return field in _FIELDS


def _judged(name: str, data: bytes) -> int:
    """What one event is."""
    if name.encode("latin-1") in ERROR_EVENTS or data.startswith(b"[ERROR]"):
        return FAILED
    if data.strip() in (b"", b"[DONE]"):
        return HOLD
    read: tuple[Any] | None = msgspec_json(data)
    if data[:1] in (b"{", b"[") and (_lenient_error(data) if read is None else is_error(read[0])):
        return FAILED
    if name in _OPENING:
        return HOLD
    return HOLD if read is not None and isinstance(read[0], dict) and _opens(read[0]) else CONTENT


def _lenient_error(data: bytes) -> bool:
    """Whether JSON that only a lenient reader takes (NaN) reports an error."""
    found = problem(data)
    return found is not None and found[0] == ERROR


def _opens(chunk: dict[str, Any]) -> bool:
    """Whether a chunk only opens a stream."""
    if chunk.get("type") in _OPENING:
        return True
    choices = chunk.get("choices")
    return isinstance(choices, list) and all(isinstance(one, dict) and not _says(one) for one in choices)


def _says(choice: dict[str, Any]) -> bool:
    """Whether a choice of a chunk has anything to say, or has come to its end."""
    delta = choice.get("delta")
    parts = (choice, delta) if isinstance(delta, dict) else (choice,)
    return bool(choice.get("finish_reason")) or any(part.get(key) for part in parts for key in _SAID)
