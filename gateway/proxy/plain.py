"""Heads that are plain: read in one go, without a call per field. All others are llhttp's.

A head is plain when it is whole, of ordinary size, and made of nothing but a usual first line and fields that neither
bend the framing nor the connection; its body, if it has one, has a single Content-Length. Nearly all are.

Rules:

1. What is accepted here llhttp, in its strict mode, accepts as well, with the same method, target, status, reason and
   fields. What is not recognised is left alone and goes to llhttp from its first byte on; nothing is refused here.
   So llhttp stays the judge of all that is odd, and no head becomes valid by this module.
2. Lines are looked up before they are parsed: most lines of most heads came a moment ago with the same bytes. What is
   remembered is bounded in number and in length.
"""

from __future__ import annotations

import re

_LINES_MAX = 1024
_LINE_BYTES_MAX = 256
# Larger heads are rare; none that is taken here may be over a limit, of a head or of one line.
BYTES_MAX = 4096

# The characters of RFC 3986 without '#', which no request target has.
_REQUEST_LINE = re.compile(rb"(GET|HEAD|POST|PUT|PATCH|DELETE|OPTIONS) (/[A-Za-z0-9._~:/?@!$&'()*+,;=%-]*) HTTP/1\.1")
# Three digits only (RFC 9110, 15); interim responses are messages of another kind, 204 and 304 have no body.
_STATUS_LINE = re.compile(rb"HTTP/1\.1 (20[0-3]|20[5-9]|2[1-9][0-9]|30[0-3]|30[5-9]|3[1-9][0-9]|[45][0-9]{2}) ([ -~]*)")
_FIELD = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+): ?([!-~](?:[\t -~]*[!-~])?)")
_DIGITS = re.compile(rb"[0-9]{1,18}")
# What these say about framing or the connection is llhttp's to weigh.
_NOT_PLAIN = frozenset(
    (b"transfer-encoding", b"upgrade", b"expect", b"te", b"trailer", b"proxy-connection", b"http2-settings")
)


class PlainHead:
    """A head that was recognised. ``end`` is the place of the first byte after it, ``length`` that of its body."""

    __slots__ = ("end", "fields", "first", "length", "length_line", "lines", "path", "second", "status")

    def __init__(
        self,
        end: int,
        first: bytes,
        second: bytes,
        status: int,
        length: int,
        fields: list[tuple[bytes, bytes]],
        lines: list[bytes],
    ) -> None:
        self.end = end
        self.first = first
        """The method of a request, nothing in a response."""
        self.second = second
        """The target of a request, the reason phrase of a response."""
        self.status = status
        self.length = length
        """Of the body; -1 where the head says nothing of it."""
        self.length_line = b""
        """The Content-Length as it is written."""
        self.path = b""
        """Of a request: the target without its query."""
        self.fields = fields
        self.lines = lines
        """The fields once more, each as a line that can be passed on."""


class _Line:
    """A field line that was seen before. ``length`` is that of a Content-Length, -1 of any other field."""

    __slots__ = ("length", "line", "pair")

    def __init__(self, pair: tuple[bytes, bytes], length: int) -> None:
        self.pair = pair
        self.line = pair[0] + b": " + pair[1] + b"\r\n" if length < 0 else b"content-length: %d\r\n" % length
        self.length = length


class PlainReader:
    """Recognises plain heads, and remembers lines. One per worker."""

    def __init__(self) -> None:
        self._firsts: dict[bytes, tuple[bytes, bytes, int, bytes]] = {}
        self._lines: dict[bytes, _Line] = {}

    def request(self, data: bytes, start: int, bytes_max: int, fields_max: int) -> PlainHead | None:
        """The plain request head that begins at ``start``, or None."""
        return self._read(data, start, bytes_max, fields_max, response=False)

    def response(self, data: bytes) -> PlainHead | None:
        """The plain response head, of a body with a length, that ``data`` begins with, or None."""
        head = self._read(data, 0, BYTES_MAX, BYTES_MAX, response=True)
        return head if head is not None and head.length >= 0 else None

    def _read(self, data: bytes, start: int, bytes_max: int, fields_max: int, *, response: bool) -> PlainHead | None:
        end = data.find(b"\r\n\r\n", start, start + bytes_max)
        if end < 0:
            return None
        raw = data[start:end].split(b"\r\n")
        if len(raw) > fields_max:
            return None
        line = raw[0]
        first = self._firsts.get(line)
        if first is None:
            first = self._first(line)
            if first is None:
                return None
        if (first[2] > 0) is not response:
            return None
        lines = self._lines
        fields: list[tuple[bytes, bytes]] = []
        whole: list[bytes] = []
        length, length_line = -1, b""
        for i in range(1, len(raw)):
            line = raw[i]
            known = lines.get(line)
            if known is None:
                known = self._field(line)
                if known is None:
                    return None
            if known.length >= 0:
                if length >= 0:
                    return None
                length, length_line = known.length, known.line
            fields.append(known.pair)
            whole.append(known.line)
        head = PlainHead(end + 4, first[0], first[1], first[2], length, fields, whole)
        head.length_line = length_line
        head.path = first[3]
        return head

    def _first(self, line: bytes) -> tuple[bytes, bytes, int, bytes] | None:
        request = _REQUEST_LINE.fullmatch(line)
        if request is not None:
            target: bytes = request[2]
            if target.find(b"%00") >= 0:  # headers.read_target has something to say about it
                return None
            read = (request[1], target, 0, target.partition(b"?")[0])
        else:
            response = _STATUS_LINE.fullmatch(line)
            if response is None:
                return None
            read = (b"", response[2], int(response[1]), b"")
        if len(line) <= _LINE_BYTES_MAX:
            if len(self._firsts) >= _LINES_MAX:
                self._firsts.clear()
            self._firsts[line] = read
        return read

    def _field(self, line: bytes) -> _Line | None:
        found = _FIELD.fullmatch(line)
        if found is None:
            return None
        name, value = found[1], found[2]
        low = name.lower()
        length = -1
        if low in _NOT_PLAIN or (low == b"connection" and value.lower() != b"keep-alive"):
            return None
        if low == b"content-length":
            if _DIGITS.fullmatch(value) is None:
                return None
            length = int(value)
        known = _Line((name, value), length)  # a length is written anew, from the number (headers.py, rule 3)
        if len(line) <= _LINE_BYTES_MAX:
            if len(self._lines) >= _LINES_MAX:
                self._lines.clear()
            self._lines[line] = known
        return known
