"""Streamed answers read as they come: event streams (text/event-stream) and JSON lines, in bounded memory.

Rules:

1. Lines end with CR, LF or CRLF, wherever the pieces are cut; a byte order mark at the start is skipped; lines that
   begin with a colon are comments; several ``data`` lines are joined by LF (WHATWG HTML, 9.2.6).
2. At most `LINE_BYTES_MAX` bytes of a line and as many of an event's data are kept. Of what is longer the beginning is
   read.
3. An event is an error when it is named so (`ERROR_EVENTS`) or when its data are an error object (failures.py).
   Of a stream the first error is its example; what follows is not read.
4. Only a stream that came to its end can lack one: *cut* is one that ends within an event or a line, *no_events* one
   without any event, *no_results* one with no event but its end mark, *unfinished* one without any of the signs that
   the model came to an end (`_ENDING`).
5. Most events of a stream say nothing of an error or an end. Where no word of those is in a window of the bytes, only
   the events that its borders cut are taken apart.
   Where a stream's text is read (rule 7) every event is.
6. The form of an event stream is that of its first event (form.py): JSON objects with these members, or other data.
7. The text of a language model is read event by event (text_answers.py), in streams whose first events are of a form
   that a protocol's adapter knows.
"""

from __future__ import annotations

import re

from gateway.core.predictions.failures import (
    CUT,
    ERROR,
    EVENTS,
    INVALID,
    LINES,
    NO_EVENTS,
    NOTHING,
    UNFINISHED,
    ReadAnswer,
    excerpt,
    head_is_error,
    msgspec_json,
    problem,
)
from gateway.core.predictions.form import Form, stream_form
from gateway.core.predictions.protocols.adapter import EventKind, StreamEvent
from gateway.core.predictions.protocols.plain_json import read_any
from gateway.core.predictions.protocols.stream_events import DONE, ERROR_EVENTS, LAST_EVENTS
from gateway.core.predictions.text_answers import TextFacts, TextReader

LINE_BYTES_MAX = 16 * 1024
# What is as long as this may have been cut.
_LONG_BYTES = LINE_BYTES_MAX // 2
_WINDOW_BYTES = 2048
_BOM = b"\xef\xbb\xbf"
# Without one of these words, data need not be parsed to know that they are no error. Each is looked for by itself: that
# takes a tenth of the time of one expression for all.
_SUSPECT = (b"rror", b"RROR", b"xception", b"NaN", b"Infinity", b"ailed", b"FAILED", b"failure", b"success")
_ENDING = (DONE, b'eason":"', b'eason": "', b'eason" :', b'"done', b'"is_final', b'"finished', b'"generated_text')
_NAMED = re.compile(
    rb"event: ?(?:error|exception|failed|response\.|done|end|complete|message_stop|close)", re.IGNORECASE
)
_FINISHED = re.compile(
    rb'"(?:finish_reason|stop_reason|finishReason|done_reason)"\s*:\s*"|"(?:done|is_final|finished|generated_text)"\s*:\s*(?:true|")'
)
_CONTENT = re.compile(rb'"content": ?"((?:[^"\\]|\\.)*)"')
_OTHER_CHOICE = re.compile(rb'"index": ?[1-9]')
# What a chunk may have beside its text.
_MORE_THAN_TEXT = (b"tool", b"function", b"refusal", b"reasoning", b'"usage": {', b'"usage":{', b"event:")
_FINISHED_WRONG = re.compile(rb'"finish_?[rR]eason"\s*:\s*"error"')


def _content_of(events: bytes) -> str | None:
    """The text that whole events add, if each is a chunk of a chat with one choice and text alone; else None.

    Most events of a text are, and are read so at a tenth of the cost.
    """
    chunks = events.count(b"data:")
    texts = _CONTENT.findall(events)
    alike = len(texts) == chunks == events.count(b'"choices"')
    if not alike or _has(events, _MORE_THAN_TEXT) or _OTHER_CHOICE.search(events):
        return None
    read = msgspec_json(b'"%b"' % b"".join(texts))
    return read[0] if read is not None and isinstance(read[0], str) else None


def _has(text: bytes, words: tuple[bytes, ...]) -> bool:
    return any(word in text for word in words)


class StreamLines:
    """Bytes in pieces to lines."""

    def __init__(self) -> None:
        self._rest = b""
        self._after_cr = False
        self._begun = False
        self.long = False

    def feed(self, piece: bytes) -> list[bytes]:
        """The lines that this piece completes."""
        if self._after_cr and piece:
            self._after_cr = False
            piece = piece.removeprefix(b"\n")
        if not piece:
            return []
        whole = piece.endswith((b"\n", b"\r"))
        self._after_cr = piece.endswith(b"\r")
        lines = piece.splitlines()
        lines[0] = (self._rest + lines[0])[:LINE_BYTES_MAX] if self._rest else lines[0]
        if not self._begun and (len(lines) > 1 or whole or len(lines[0]) >= len(_BOM)):
            self._begun = True
            lines[0] = lines[0].removeprefix(_BOM)
        self._rest = b"" if whole else lines.pop()[:LINE_BYTES_MAX]
        return lines

    @property
    def rest(self) -> bytes:
        """What came after the last end of a line."""
        return self._rest


class StreamReader:
    """One streamed answer: `feed` it, then `seen` says what is in it."""

    family = ""

    def __init__(self) -> None:
        self._lines = StreamLines()
        self._units = 0
        self._first: bytes | None = None
        self._finished = False
        self._kind = self._example = ""
        # None where the stream is no text.
        self._text: TextReader | None = TextReader()

    @property
    def facts(self) -> TextFacts | None:
        """What a language model said in it; None for another stream, and for one that failed."""
        return None if self._text is None or self._kind else self._text.facts()

    def feed(self, piece: bytes) -> None:
        """The next piece."""
        if self._kind != ERROR:
            self._feed(piece)

    def _feed(self, piece: bytes) -> None:
        for line in self._lines.feed(piece):
            self._line(line)

    def seen(self, *, ended: bool) -> ReadAnswer:
        """The result so far; ``ended``: the stream is complete, and all of it was read."""
        if self._kind == ERROR:
            return ReadAnswer(self.family, frozenset((ERROR,)), self._example)
        if ended:
            self._end()
        kinds = {self._kind} if self._kind else set()
        if ended and not kinds:
            kinds = self._ending()
        some = ended and bool(self._units)
        return ReadAnswer(self.family, frozenset(kinds), self._example, results=some, ends=some, form=self._form())

    def _form(self) -> Form | None:
        return None

    def _line(self, line: bytes) -> None:
        raise NotImplementedError

    def _end(self) -> None:
        """The last line may have no end."""

    def _ending(self) -> set[str]:
        raise NotImplementedError

    def _wrong(self, kind: str, example: str) -> None:
        if not self._kind or kind == ERROR:
            self._kind, self._example = kind, example

    def _read_text(self, data: bytes, name: str) -> None:
        """What one event adds to the text."""
        text = data.strip()
        if self._text is None or not text or text == DONE:
            return
        value = msgspec_json(text) if text[:1] == b"{" else None
        event = read_any(value[0], name) if value is not None and isinstance(value[0], dict) else None
        if event is not None and event.kind is not EventKind.ERROR:
            self._text.add(event)
        elif self._units <= 1:
            self._text = None

    def _read_data(self, text: bytes) -> None:
        """The data of one event, or one line."""
        if text.startswith(b"[ERROR]"):
            self._wrong(ERROR, excerpt(text))
        elif text[:1] in (b"{", b"[") and _has(text, _SUSPECT):
            cut = len(text) >= _LONG_BYTES
            if found := problem(text):
                self._wrong(*found)
            elif (cut and head_is_error(text)) or (_FINISHED_WRONG.search(text) and msgspec_json(text)):
                self._wrong(ERROR, excerpt(text))
        if not self._finished and _has(text, _ENDING):
            self._finished = text.strip() == DONE or _FINISHED.search(text) is not None


class EventReader(StreamReader):
    """text/event-stream."""

    family = EVENTS

    def __init__(self) -> None:
        super().__init__()
        self._name = b""
        self._data: list[bytes] = []
        self._data_bytes = 0

    def _line(self, line: bytes) -> None:
        if not line:
            self._dispatch()
            return
        field, _, value = line.partition(b":")
        if field == b"data":
            value = value.removeprefix(b" ")
            if self._data_bytes < LINE_BYTES_MAX:
                self._data.append(value[: LINE_BYTES_MAX - self._data_bytes])
            self._data_bytes += len(value) + 1
        elif field == b"event":
            self._name = value.removeprefix(b" ")[:100]

    def _feed(self, piece: bytes) -> None:
        """As above; events in the middle of a window that has no notable word are passed over (rule 5)."""
        for start in range(0, len(piece), _WINDOW_BYTES):
            window = piece[start : start + _WINDOW_BYTES]
            blank = b"\n\n" if b"\n\n" in window else b"\r\n\r\n"
            first, last = window.find(blank), window.rfind(blank)
            if first < last and not (_has(window, _SUSPECT) or _has(window, _ENDING) or _NAMED.search(window)):
                middle = window[first + len(blank) : last + len(blank)]
                text = "" if self._text is None else _content_of(middle)
                if text is not None:
                    super()._feed(window[: first + len(blank)])
                    self._units += b"data" in middle
                    if self._text is not None:
                        self._text.add(StreamEvent(EventKind.TOKEN, text))
                    window = window[last + len(blank) :]
            super()._feed(window)

    def _dispatch(self) -> None:
        name, data = self._name, b"\n".join(self._data)
        if self._data or name:
            self._units += 1
            if name.lower() in ERROR_EVENTS:
                self._wrong(ERROR, excerpt(b"event: %b data: %b" % (name, data)))
            else:
                if self._first is None and data.strip() != DONE:
                    self._first = data
                self._read_data(data)
                self._read_text(data, name.decode("latin-1"))
                self._finished = self._finished or name.lower() in LAST_EVENTS
        self._name, self._data, self._data_bytes = b"", [], 0

    def _ending(self) -> set[str]:
        data, rest = b"\n".join(self._data), self._lines.rest
        if rest.partition(b":")[2].strip() == DONE or data.strip() == DONE:
            self._finished, self._units, rest, data = True, self._units + 1, b"", b""
            self._data = []
        if rest.strip() or self._data:
            self._example = f"it ends inside an event: {excerpt(data + rest)}"
            return {CUT}
        if not self._units:
            self._example = "a stream without any event"
            return {NO_EVENTS}
        if not self._finished:
            self._example = "an event stream without an end mark such as [DONE]"
            return {UNFINISHED}
        if self._first is None:
            self._example = "a stream with an end mark but no event"
            return {NOTHING}
        return set()

    def _form(self) -> Form | None:
        return None if self._first is None else stream_form(self._first)


class LinesReader(StreamReader):
    """JSON lines."""

    family = LINES

    def _line(self, line: bytes) -> None:
        text = line.strip()
        if not text:
            return
        self._units += 1
        if len(text) < _LONG_BYTES and text[:1] in (b"{", b"[") and not text.endswith((b"}", b"]")):
            self._wrong(INVALID, excerpt(text))
        self._read_data(text)
        self._read_text(text, "")

    def _ending(self) -> set[str]:
        rest = self._lines.rest.strip()
        if rest and len(rest) < _LONG_BYTES:
            if msgspec_json(rest) is None:
                self._example = f"it ends inside a line: {excerpt(rest)}"
                return {CUT}
            self._line(rest)
            if self._kind:
                return {self._kind}
        if not self._units:
            self._example = "a stream without any line"
            return {NO_EVENTS}
        if not self._finished:
            self._example = f'{self._units} lines without an end mark such as {{"done": true}}'
            return {UNFINISHED}
        return set()


def reader_of(family: str) -> StreamReader | None:
    """What reads a streamed answer of this family; None for answers that are read whole."""
    return EventReader() if family == EVENTS else LinesReader() if family == LINES else None
