"""The model's name in an answer, given back as the client asked for it, where its backend has another name for it.

Rules:

1. Renamed is the member ``model`` or ``model_name`` of a JSON object, of each event of an event stream and of each of
   JSON lines; also within ``response``, where events of OpenAI's `responses` have it. Nothing else changes by a byte,
   but Content-Length.
2. Only what is read without holding much back: answers with a 2xx status that are not encoded (Content-Encoding) and
   have no digest. Of JSON at most `BEGINNING_BYTES_MAX` are held, until the name is found, with the head, whose length
   depends on it. A name that comes later stays as it is, and so does one in a line of more than `LINE_BYTES_MAX`.
3. Of a stream only the line is held that is not whole yet.
"""

from __future__ import annotations

from typing import Final

from gateway.proxy.compiled import mypyc_attr
from gateway.proxy.heads.message_head import ResponseHead
from gateway.proxy.upstream.request_changes import name_span

BEGINNING_BYTES_MAX: Final = 16 * 1024
LINE_BYTES_MAX: Final = 16 * 1024
_NAMES: Final = (b'"model"', b'"model_name"')
_INNER: Final = b'"response"'
_STREAMS: Final = (b"text/event-stream", b"application/x-ndjson", b"application/jsonl", b"application/stream+json")
_UNTOUCHED: Final = (
    b"content-encoding",
    b"digest",
    b"content-digest",
    b"repr-digest",
    b"content-md5",
    b"content-range",
)


@mypyc_attr(free_list_len=1)
class AnswerNames:
    """What is held of one answer. ``name`` is the client's, as a JSON text with its quotes."""

    __slots__ = ("_by_line", "_long", "_name", "_rest", "head", "holds_head", "reason")

    def __init__(self, name: bytes, reason: bytes, head: ResponseHead, *, by_line: bool) -> None:
        self._name = name
        self._by_line = by_line
        self._rest = b""
        self._long = False
        self.reason = reason
        self.head = head
        # The head is still to be written: its length may change.
        self.holds_head = not by_line

    def feed(self, piece: bytes) -> bytes:
        """What can be passed on now, with the head before it."""
        return self._lines(piece) if self._by_line else self._beginning(piece)

    def end(self) -> bytes:
        """What was held, at the end of the answer."""
        rest, self._rest = self._rest, b""
        if self._by_line:
            return rest if self._long else _renamed_line(rest, self._name)
        self.holds_head = False
        return rest

    def _beginning(self, piece: bytes) -> bytes:
        if not self.holds_head:
            return piece
        held = self._rest = self._rest + piece
        span = name_span(held, _NAMES, _INNER)
        if span is None and len(held) < BEGINNING_BYTES_MAX:
            return b""
        self.holds_head = False
        self._rest = b""
        if span is None:
            return held
        start, end = span
        self.head.lengthen(len(self._name) - (end - start))
        return held[:start] + self._name + held[end:]

    def _lines(self, piece: bytes) -> bytes:
        cut = max(piece.rfind(b"\n"), piece.rfind(b"\r")) + 1
        if not cut:
            if self._long:
                return piece
            self._rest += piece
            if len(self._rest) <= LINE_BYTES_MAX:
                return b""
            self._long = True
            rest, self._rest = self._rest, b""
            return rest
        whole, self._rest = self._rest + piece[:cut], piece[cut:]
        before = b""
        if self._long:
            self._long = False
            first = min(at for at in (whole.find(b"\n"), whole.find(b"\r")) if at >= 0) + 1
            before, whole = whole[:first], whole[first:]
        if b'"model' not in whole:
            return before + whole
        return before + b"".join([_renamed_line(line, self._name) for line in whole.splitlines(keepends=True)])


def names_of_answer(
    name: bytes, status: int, reason: bytes, head: ResponseHead, *, bodyless: bool
) -> AnswerNames | None:
    """What gives the client's name back in this answer; None where nothing can (rule 2)."""
    if bodyless or not 200 <= status < 300 or head.content_length == 0:
        return None
    kind = b""
    for line in b"".join(head.lines).split(b"\r\n"):
        field, _, value = line.partition(b":")
        field = field.lower()
        if field == b"content-type":
            kind = value.partition(b";")[0].strip().lower()
        elif field in _UNTOUCHED and value.strip().lower() != b"identity":
            return None
    if kind in _STREAMS:
        return AnswerNames(name, reason, head, by_line=True) if head.content_length is None else None
    if kind == b"application/json" or kind.endswith(b"+json"):
        return AnswerNames(name, reason, head.apart(), by_line=False)
    return None


def _renamed_line(line: bytes, name: bytes) -> bytes:
    """One line: an event's data, or a JSON object."""
    at = line.find(b"{")
    if at < 0 or line[:at].strip() not in (b"", b"data:"):
        return line
    span = name_span(line[at:], _NAMES, _INNER)
    return line if span is None else line[: at + span[0]] + name + line[at + span[1] :]
