"""When a stream says something for the first time: the events of its beginning are read until one has content.

Rules:

1. Content is every event but these: those that only open a stream (`OPENING_EVENTS`, by name or the data's ``type``), a
   chunk whose choices have no text and no tool call (the role alone), comments, and the end mark. An unknown form of
   events is content, and so is what is no event at all.
2. A stream has failed when its first event that is not an opening is an error (core/predictions/event_stream.py says
   what an error is). It is empty when it says that it has come to its end (a reason for it, or an event of `_CLOSING`)
   before any content.
3. JSON lines are read in the same way, a line as an event.
4. At most `BYTES_MAX` are read, and `_LINES_MAX` lines of an event: what is still undecided then is content. Nothing is
   read after the decision.
"""

from __future__ import annotations

from typing import Any, Final

from gateway.core.predictions.event_stream import StreamLines
from gateway.core.predictions.failures import ERROR, is_error, msgspec_json, problem
from gateway.core.predictions.protocols.stream_events import ERROR_EVENTS, OPENING_EVENTS

NOTHING_YET: Final = 0
CONTENT: Final = 1
FAILED: Final = 2
EMPTY: Final = 3

BYTES_MAX: Final = 64 * 1024
# Of one event: some servers end none of theirs.
_LINES_MAX: Final = 32
_CLOSING: Final = frozenset(("content_block_stop", "message_delta", "message_stop", "response.completed"))
_FIELDS: Final = frozenset((b"", b"data", b"event", b"id", b"retry"))
_SAID: Final = ("content", "reasoning_content", "reasoning", "refusal", "tool_calls", "function_call", "audio", "text")


class StreamOpening:
    """The beginning of one stream: `feed` it until ``found`` is no longer NOTHING_YET."""

    __slots__ = ("_bytes", "_by_line", "_data", "_lines", "_name", "found")

    def __init__(self, *, by_line: bool = False) -> None:
        self.found = NOTHING_YET
        self._by_line = by_line
        self._lines = StreamLines()
        self._bytes = 0
        self._name = b""
        self._data: list[bytes] = []

    def feed(self, piece: bytes) -> int:
        """What the stream has come to with this piece."""
        if self.found == NOTHING_YET:
            self._bytes += len(piece)
            for line in self._lines.feed(piece):
                self.found = self._line(line)
                if self.found != NOTHING_YET:
                    return self.found
            if self._bytes > BYTES_MAX:
                self.found = CONTENT
        return self.found

    def _line(self, line: bytes) -> int:
        if self._by_line:
            return _judged("", line) if line.strip() else NOTHING_YET
        if line:
            field, _, value = line.partition(b":")
            if field == b"data":
                self._data.append(value.removeprefix(b" "))
                if len(self._data) > _LINES_MAX:
                    return CONTENT
            elif field == b"event":
                self._name = value.removeprefix(b" ")
            return NOTHING_YET if field in _FIELDS else CONTENT
        if not self._name and not self._data:
            return NOTHING_YET
        found = _judged(self._name.decode("latin-1").lower(), b"\n".join(self._data))
        self._name, self._data = b"", []
        return found


def _judged(name: str, data: bytes) -> int:
    """What one event is."""
    if name.encode("latin-1") in ERROR_EVENTS or data.startswith(b"[ERROR]"):
        return FAILED
    if data.strip() in (b"", b"[DONE]"):
        return NOTHING_YET
    read: tuple[Any] | None = msgspec_json(data)
    if data[:1] in (b"{", b"[") and (_lenient_error(data) if read is None else is_error(read[0])):
        return FAILED
    if name in OPENING_EVENTS:
        return NOTHING_YET
    if name in _CLOSING:
        return EMPTY
    return _chunk(read[0]) if read is not None and isinstance(read[0], dict) else CONTENT


def _lenient_error(data: bytes) -> bool:
    """Whether JSON that only a lenient reader takes (NaN) reports an error."""
    found = problem(data)
    return found is not None and found[0] == ERROR


def _chunk(chunk: dict[str, Any]) -> int:
    """What a chunk is that is no error."""
    kind = chunk.get("type")
    if isinstance(kind, str) and (kind in OPENING_EVENTS or kind in _CLOSING):
        return NOTHING_YET if kind in OPENING_EVENTS else EMPTY
    choices = chunk.get("choices")
    if isinstance(choices, list):
        said, ends = False, False
        for one in choices:
            if not isinstance(one, dict):
                return CONTENT
            said = said or _says(one)
            ends = ends or bool(one.get("finish_reason"))
        return CONTENT if said else EMPTY if ends else NOTHING_YET
    message = chunk.get("message")
    if "done" in chunk and (isinstance(message, dict) or isinstance(chunk.get("response"), str)):
        if chunk.get("response") or (isinstance(message, dict) and _says(message)):
            return CONTENT
        return EMPTY if chunk["done"] is True else NOTHING_YET
    return CONTENT


def _says(choice: dict[str, Any]) -> bool:
    """Whether a choice of a chunk has anything to say."""
    delta = choice.get("delta")
    parts = (choice, delta) if isinstance(delta, dict) else (choice,)
    return any(part.get(key) for part in parts for key in _SAID)
