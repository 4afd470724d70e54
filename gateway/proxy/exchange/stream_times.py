"""The times of an answer whose length its head does not give: when its first event came, and how the others followed.

Rules:

1. An answer with a Content-Length has none of this: its latency ends with its head. Of any other the head says nothing
   about when the model had something to say, so its latency ends with the first piece of the body.
2. Pauses are kept of event streams alone: of the content types below. Other answers of unknown length (a JSON document
   in chunks) come in pieces by their size, not by their model.
3. A comment of text/event-stream (a line that begins with a colon) and blank lines are how servers keep a silent stream
   open. They are no events and end no pause.
4. Events are counted where their end can be seen (a blank line, in JSON lines a line's end), because a network joins
   and cuts pieces as it likes; elsewhere, and in a coded body, a piece is an event.
5. What the client makes the stream wait (backpressure) is no pause of the backend.
6. Of event streams and JSON lines that are not coded the beginning is read (stream_opening.py). Until it has content
   there are no pauses: that time is the first token's.
"""

from __future__ import annotations

import re
from typing import Final

from gateway.proxy.exchange.stream_opening import CONTENT, NOTHING_YET, StreamOpening

_TYPE: Final = re.compile(rb"(?:^|\n)content-type:[ \t]*([^;\r\n]*)", re.IGNORECASE)
_CODED: Final = re.compile(rb"(?:^|\n)content-encoding:", re.IGNORECASE)
_SSE: Final = b"text/event-stream"
# Other streams of events; generated text and speech are streams by habit, and come without a type from some frameworks.
_LINES: Final = (
    b"application/x-ndjson",
    b"application/ndjson",
    b"application/jsonl",
    b"application/x-jsonl",
    b"application/jsonlines",
    b"application/x-jsonlines",
    b"application/json-lines",
    b"application/stream+json",
    b"application/x-json-stream",
    b"application/json-seq",
)
_PIECES: Final = (
    b"",
    b"text/plain",
    b"multipart/x-mixed-replace",
    b"application/vnd.amazon.eventstream",
    b"application/grpc-web",
    b"application/grpc-web+proto",
    b"application/grpc-web-text",
)
_COLON: Final = 0x3A
_LF: Final = 0x0A
_CR: Final = 0x0D
_AUDIO: Final = b"audio/"


class StreamTimes:
    """When the pieces of one answer came. ``first_s`` is 0 before the first; ``gap_s`` is the longest pause so far.

    ``event_stream``: it is text/event-stream that can be read as it comes. ``content_s`` is when the first event with
    content came; 0 before that. ``opening`` reads the beginning; None where nothing does.
    """

    __slots__ = (
        "_end",
        "_events",
        "_idle_s",
        "_last_s",
        "_pieces",
        "_rest_s",
        "_since_s",
        "_sse",
        "_stopped_s",
        "content_s",
        "event_stream",
        "events",
        "first_s",
        "gap_s",
        "opening",
    )

    def __init__(self, lines: list[bytes]) -> None:
        """``lines`` together are the fields of the answer's head."""
        fields = b"".join(lines)
        found = _TYPE.search(fields)
        content_type = b"" if found is None else found.group(1).strip().lower()
        self._sse = content_type == _SSE
        by_line = content_type in _LINES
        self.events = self._sse or by_line or content_type in _PIECES or content_type.startswith(_AUDIO)
        coded = _CODED.search(fields) is not None
        self.event_stream = self._sse and not coded
        self._end = b"" if coded else b"\n\n" if self._sse else b"\n" if by_line else b""
        self.opening: StreamOpening | None = StreamOpening(by_line=by_line) if self._end else None
        self.first_s = self.content_s = self.gap_s = 0.0
        # Pauses are counted from this moment on.
        self._since_s = 0.0
        self._last_s = self._rest_s = self._stopped_s = self._idle_s = 0.0
        self._pieces = self._events = 0

    def piece(self, data: bytes, now_s: float) -> None:
        """A piece of the body has come; it is not empty."""
        if self.opening is not None and self.opening.found == NOTHING_YET:
            found = self.opening.feed(data)
            if self.first_s == 0.0 and (not self._sse or not _keeps_open(data)):
                self.first_s = now_s
            if found != NOTHING_YET:
                self._since_s = self._last_s = now_s
                if found == CONTENT:
                    self.content_s = now_s
            return
        if self._sse:
            first = data[0]
            if first in (_COLON, _LF, _CR) and _keeps_open(data):
                return
        if self.first_s == 0.0:
            self.first_s = self._since_s = self._last_s = now_s
            return
        if self.events:
            self._pieces += 1
            if self._end:
                ends = data.count(self._end)
                if not ends and self._sse:
                    ends = data.count(b"\r\n\r\n")
                self._events += ends
            since_s = self._last_s if self._last_s >= self._rest_s else self._rest_s  # noqa: FURB136  # for each event
            if now_s - since_s > self.gap_s and self._stopped_s == 0.0:
                self.gap_s = now_s - since_s
            self._last_s = now_s

    def ended(self, now_s: float) -> None:
        """The answer is over, or broke off: what came since the last event was a pause too."""
        if self._last_s and self.events:
            self._paused(now_s)

    def _paused(self, now_s: float) -> None:
        pause_s = now_s - max(self._last_s, self._rest_s)
        if pause_s > self.gap_s and not self._stopped_s:
            self.gap_s = pause_s

    def stopped(self, now_s: float) -> None:
        """The client takes no more for now."""
        self._stopped_s = now_s

    def resumed(self, now_s: float) -> None:
        """The client takes more: pauses begin anew, and the mean leaves out what it took."""
        if self._stopped_s:
            if self._since_s:
                self._idle_s += now_s - max(self._stopped_s, self._last_s)
            self._stopped_s = 0.0
        self._rest_s = now_s

    @property
    def time_per_event_s(self) -> float:
        """The mean time between two events so far; 0 before the second."""
        events = self._events or self._pieces
        return (self._last_s - self._since_s - self._idle_s) / events if events else 0.0

    @property
    def awaits_content(self) -> bool:
        """Whether its beginning is read, and has neither content nor an error or an end."""
        return self.opening is not None and self.opening.found == NOTHING_YET


def _keeps_open(data: bytes) -> bool:
    r"""Whether there is nothing in it but comments and blank lines.

    >>> _keeps_open(b": ping\n\n"), _keeps_open(b"\n"), _keeps_open(b": ping\n\ndata: x\n\n")
    (True, True, False)
    """
    return all(line[:1] in (b"", b":") for line in data.splitlines())
