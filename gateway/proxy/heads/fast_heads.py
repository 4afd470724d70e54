"""Heads that are plain: read in one go, without a call per field. All others are llhttp's.

A head is plain when it is whole, of ordinary size, and made of nothing but a usual first line and fields that bend
neither the framing nor the connection (but it may say that it is the last on it); its body, if it has one, has a
single Content-Length. Nearly all are.

Rules:

1. What is accepted here llhttp, in its strict mode, accepts as well, with the same method, target, status, reason and
   fields. What is not recognised is left alone and goes to llhttp from its first byte on; nothing is refused here.
   So llhttp stays the judge of all that is odd, and no head becomes valid by this module.
2. Lines are looked up before they are parsed: most lines of most heads came a moment ago with the same bytes. What is
   remembered is bounded in number and in length.
3. A connection mostly says the same fields each time, but for the body's length: they are compared as a whole with
   those that it said last (`LastHead`), and then neither split nor looked up. A connection that says something new each
   time is soon looked at more seldom, so that it does not pay for what it does not gain.
"""

from __future__ import annotations

import re
from typing import Final

from gateway.core.traffic.table import Route
from gateway.proxy.heads.passed_heads import PassedRequest, PassedResponse

_LINES_MAX: Final = 1024
_LINE_BYTES_MAX: Final = 256
_BLOCKS_MAX: Final = 512
_BLOCK_BYTES_MAX: Final = 1024
# Of a connection whose fields are always new, one head in so many is made ready to be recognised.
_LOOK_EVERY: Final = 16
_ZERO: Final = 48
# Larger heads are rare; none that is taken here may be over a limit, of a head or of one line.
BYTES_MAX: Final = 4096

# The characters of RFC 3986 without '#', which no request target has.
_REQUEST_LINE: Final = re.compile(
    rb"(GET|HEAD|POST|PUT|PATCH|DELETE|OPTIONS) (/[A-Za-z0-9._~:/?@!$&'()*+,;=%-]*) HTTP/1\.1"
)
# Three digits only (RFC 9110, 15); interim responses are messages of another kind, 204 and 304 have no body.
_STATUS_LINE: Final = re.compile(
    rb"HTTP/1\.1 (20[0-3]|20[5-9]|2[1-9][0-9]|30[0-3]|30[5-9]|3[1-9][0-9]|[45][0-9]{2}) ([ -~]*)"
)
_FIELD: Final = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+): ?([!-~](?:[\t -~]*[!-~])?)")
_DIGITS: Final = re.compile(rb"[0-9]{1,18}")
# What these say about framing or the connection is left to llhttp.
_NOT_PLAIN: Final = frozenset(
    (b"transfer-encoding", b"upgrade", b"expect", b"te", b"trailer", b"proxy-connection", b"http2-settings")
)


class CachedHead:
    """A head that was recognised. ``end`` is the place of the first byte after it, ``length`` that of its body."""

    __slots__ = (
        *("block", "end", "fields", "first", "keep_alive", "length", "length_line", "line", "lines", "path", "second"),
        "status",
    )

    def __init__(
        self, first: FirstLine, end: int, length: int, fields: list[tuple[bytes, bytes]], lines: list[bytes]
    ) -> None:
        self.end = end
        self.line = first
        """The first line."""
        self.first = first.first
        """The method of a request, nothing in a response."""
        self.second = first.second
        """The target of a request, the reason phrase of a response."""
        self.status = first.status
        self.path = first.path
        """Of a request: the target without its query."""
        self.length = length
        """Of the body; -1 where the head says nothing of it."""
        self.length_line = b""
        """The Content-Length as it is written."""
        self.fields = fields
        self.lines = lines
        """The fields once more, each as a line that can be passed on (but Content-Length: see ``length_line``)."""
        self.keep_alive = True
        """Whether the connection may go on afterwards."""
        self.block: FieldBlock | None = None
        """The fields as they were recognised as a whole."""


class FirstLine:
    """A first line. ``line`` has its end with it; ``opening`` is how a request with it begins when it is passed on.

    Which route it took last, under which table and for which host, is kept here by the exchange.
    """

    __slots__ = ("epoch", "first", "host", "line", "opening", "path", "route", "second", "status")

    def __init__(self, line: bytes, first: bytes, second: bytes, status: int, path: bytes) -> None:
        self.line = line + b"\r\n"
        self.first = first
        self.second = second
        self.status = status
        self.path = path
        self.opening = b"" if status else b"%b %b HTTP/1.1\r\nhost: " % (first, second)
        self.host = b""
        self.epoch = -1
        self.route: Route | None = None


class FieldBlock:
    """All fields of a head, recognised as a whole: ``raw`` to the end of the head, in which a length may vary.

    What the header rules make of them, whatever their sender, is kept here as well (request_head.py), once it was asked
    for.
    """

    __slots__ = (
        *("after", "before", "fields", "keep_alive", "length", "length_at"),
        *("length_line", "lines", "raw", "request", "response"),
    )

    def __init__(self, raw: bytes, head: CachedHead) -> None:
        fields, lines, length = head.fields, head.lines, head.length
        self.raw = raw
        self.fields = fields
        self.lines = lines
        self.length = length
        self.keep_alive = head.keep_alive
        self.length_at = -1
        self.length_line = b""
        self.before = self.after = b""
        self.request: PassedRequest | None = None
        self.response: PassedResponse | None = None
        at = 0
        for i, (name, value) in enumerate(fields):
            size = raw.index(b"\r\n", at) + 2 - at
            if length >= 0 and name.lower() == b"content-length":
                self.length_at = i
                self.length_line = lines[i]
                end = at + size - 2
                self.before, self.after = raw[: end - len(value)], raw[end:]
            at += size


class LastHead:
    """What one connection said last; ``misses`` counts the heads since that were others."""

    __slots__ = ("block", "first", "head", "misses")

    def __init__(self) -> None:
        self.first: FirstLine | None = None
        self.block: FieldBlock | None = None
        self.head: CachedHead | None = None
        self.misses = 0


class _FieldLine:
    """A field line that was seen before. ``length`` is that of a Content-Length, -1 of any other field.

    ``closes``: it is a Connection that says `close`.
    """

    __slots__ = ("closes", "length", "line", "pair")

    def __init__(self, pair: tuple[bytes, bytes], length: int, *, closes: bool) -> None:
        self.pair = pair
        self.closes = closes
        self.line = pair[0] + b": " + pair[1] + b"\r\n" if length < 0 else b"content-length: %d\r\n" % length
        self.length = length


class FastHeadReader:
    """Recognises plain heads, and remembers lines. One per worker."""

    def __init__(self) -> None:
        self._firsts: dict[bytes, FirstLine] = {}
        self._lines: dict[bytes, _FieldLine] = {}
        # Shared by the connections that say the same.
        self._blocks: dict[bytes, FieldBlock] = {}
        self._newest: FieldBlock | None = None

    def recall(self) -> LastHead:
        """That of a new client's connection: most say what others said."""
        recall = LastHead()
        recall.block = self._newest
        return recall

    def request(self, data: bytes, start: int, bytes_max: int, fields_max: int, recall: LastHead) -> CachedHead | None:
        """The plain request head that begins at ``start``, or None. ``recall`` is the connection's."""
        return self._read(data, start, bytes_max, fields_max, recall, response=False)

    def response(self, data: bytes, recall: LastHead) -> CachedHead | None:
        """The plain response head, of a body with a length, that ``data`` begins with, or None."""
        head = self._read(data, 0, BYTES_MAX, BYTES_MAX, recall, response=True)
        return head if head is not None and head.length >= 0 else None

    def _read(
        self, data: bytes, start: int, bytes_max: int, fields_max: int, recall: LastHead, *, response: bool
    ) -> CachedHead | None:
        first, at = recall.first, 0
        if first is not None:
            at = start + len(first.line)
            if data[start:at] != first.line:
                first = None
        if first is None:
            eol = data.find(b"\r\n", start, start + bytes_max)
            if eol < 0:
                return None
            line = data[start:eol]
            first = self._firsts.get(line) or self._first(line)
            if first is None or (first.status > 0) is not response:
                return None
            recall.first = first
            at = eol + 2
        block = recall.block
        if block is not None:
            head = recall.head
            end = at + len(block.raw)
            if data[at:end] == block.raw:
                if head is None or head.line is not first or head.block is not block or head.end != end:
                    head = recall.head = _same(block, first, end)
            else:
                head = _but_for_the_length(block, first, data, at)
            if head is not None and head.end - start <= bytes_max and len(head.fields) < fields_max:
                recall.misses = 0
                return head
        # From the first line's end on, so that a head without fields is found, too.
        end = data.find(b"\r\n\r\n", at - 2, start + bytes_max)
        return None if end < 0 else self._read_lines(first, data, at, end, fields_max, recall)

    def _read_lines(
        self, first: FirstLine, data: bytes, at: int, end: int, fields_max: int, recall: LastHead
    ) -> CachedHead | None:
        raw = data[at:end].split(b"\r\n") if end > at else []
        if len(raw) >= fields_max:
            return None
        lines = self._lines
        fields: list[tuple[bytes, bytes]] = []
        whole: list[bytes] = []
        length, length_line, keep_alive = -1, b"", True
        for line in raw:
            known = lines.get(line)
            if known is None:
                known = self._field(line)
                if known is None:
                    return None
            if known.length >= 0:
                if length >= 0:
                    return None
                length, length_line = known.length, known.line
            if known.closes:
                keep_alive = False
            fields.append(known.pair)
            whole.append(known.line)
        head = CachedHead(first, end + 4, length, fields, whole)
        head.length_line = length_line
        head.keep_alive = keep_alive
        if recall.misses % _LOOK_EVERY == 0 and end - at <= _BLOCK_BYTES_MAX:
            recall.block = head.block = self._block(data[at : end + 4], head)
            if not first.status:
                self._newest = recall.block
        recall.misses += 1
        return head

    def _block(self, raw: bytes, head: CachedHead) -> FieldBlock:
        block = self._blocks.get(raw)
        if block is None:
            if len(self._blocks) >= _BLOCKS_MAX:
                self._blocks.clear()
            block = self._blocks[raw] = FieldBlock(raw, head)
        return block

    def _first(self, line: bytes) -> FirstLine | None:
        request = _REQUEST_LINE.fullmatch(line)
        if request is not None:
            target: bytes = request[2]
            if target.find(b"%00") >= 0:  # request_head.read_target has something to say about it
                return None
            read = FirstLine(line, request[1], target, 0, target.partition(b"?")[0])
        else:
            response = _STATUS_LINE.fullmatch(line)
            if response is None:
                return None
            read = FirstLine(line, b"", response[2], int(response[1]), b"")
        if len(line) <= _LINE_BYTES_MAX:
            if len(self._firsts) >= _LINES_MAX:
                self._firsts.clear()
            self._firsts[line] = read
        return read

    def _field(self, line: bytes) -> _FieldLine | None:
        found = _FIELD.fullmatch(line)
        if found is None:
            return None
        name, value = found[1], found[2]
        low = name.lower()
        length, option = -1, value.lower() if low == b"connection" else b""
        if low in _NOT_PLAIN or (low == b"connection" and option not in (b"keep-alive", b"close")):
            return None
        if low == b"content-length":
            if _DIGITS.fullmatch(value) is None:
                return None
            length = int(value)
        # A length is written anew, from the number (headers.py, rule 3).
        known = _FieldLine((name, value), length, closes=option == b"close")
        if len(line) <= _LINE_BYTES_MAX:
            if len(self._lines) >= _LINES_MAX:
                self._lines.clear()
            self._lines[line] = known
        return known


def _same(block: FieldBlock, first: FirstLine, end: int) -> CachedHead:
    """The head that ends at ``end`` and whose fields are those of ``block``."""
    head = CachedHead(first, end, block.length, block.fields, block.lines)
    head.length_line = block.length_line
    head.keep_alive = block.keep_alive
    head.block = block
    return head


def _but_for_the_length(block: FieldBlock, first: FirstLine, data: bytes, at: int) -> CachedHead | None:
    """The head whose fields begin at ``at``, if they are those of ``block`` with another length."""
    if block.length < 0:
        return None
    begin = at + len(block.before)
    if data[at:begin] != block.before:
        return None
    length, digits, size = 0, begin, len(data)
    if begin < size and data[begin] == _ZERO:
        return None  # 0, which is rare, or a number that has to be written anew
    while digits < size and digits - begin < 18:
        digit = data[digits] - _ZERO
        if digit < 0 or digit > 9:
            break
        length = 10 * length + digit
        digits += 1
    end = digits + len(block.after)
    if digits == begin or data[digits:end] != block.after:
        return None
    value = data[begin:digits]
    fields = block.fields.copy()
    fields[block.length_at] = (fields[block.length_at][0], value)
    head = CachedHead(first, end, length, fields, block.lines)
    head.length_line = b"content-length: " + value + b"\r\n"
    head.keep_alive = block.keep_alive
    head.block = block
    return head
