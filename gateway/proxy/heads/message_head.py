"""What was read from a head: its framing, what it says of the connection, and the lines that are passed on.

Values only. request_head.py and response_head.py fill them in; the rules are in headers.py.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from gateway.proxy.compiled import mypyc_attr

RawHeaders = Sequence[tuple[bytes, bytes]]

_DIGITS: Final = re.compile(rb"[0-9]{1,18}\Z")

# Connection may not nominate these away: its own tokens, and what rule 2 protects.
_NOT_NOMINATED: Final = {
    b"",
    b"close",
    b"keep-alive",
    b"te",
    b"upgrade",
    b"host",
    b"content-length",
    b"transfer-encoding",
    b"authorization",
    b"cookie",
    b"x-forwarded-for",
    b"x-forwarded-proto",
    b"x-forwarded-host",
    b"forwarded",
    b"via",
    b"traceparent",
    b"tracestate",
}


class MessageHead:
    """What both directions read of framing and connection, and the lines that are passed on (without framing)."""

    __slots__ = ("chunked", "content_length", "length_line", "lines", "wants_close")

    def __init__(self) -> None:
        self.content_length: int | None = None
        self.length_line = b""
        self.chunked = False
        self.wants_close = False
        self.lines: list[bytes] = []

    def take_known_length(self, length: int, line: bytes) -> None:
        """Take a Content-Length that is known already, and the line that passes it on."""
        self.content_length = length
        self.length_line = line

    def lengthen(self, more: int) -> None:
        """The body has so many bytes more than Content-Length says, if anything says so."""
        if self.content_length is not None:
            length = self.content_length + more
            self.take_known_length(length, b"content-length: %d\r\n" % length)

    def take_length(self, value: bytes) -> bool:
        """Read Content-Length; False when it is invalid, or the second one."""
        value = value.strip(b" \t")  # blanks around a value are no part of it (RFC 9110, 5.5)
        if self.content_length is not None or not _DIGITS.match(value):
            return False
        self.content_length = int(value)
        self.length_line = b"content-length: %d\r\n" % self.content_length
        return True

    def take_coding(self, value: bytes, version: str) -> bool:
        """Read Transfer-Encoding; False where it is anything but ``chunked``, once, in HTTP/1.1."""
        if self.chunked or value.strip(b" \t").lower() != b"chunked" or version == "1.0":
            return False
        self.chunked = True
        return True

    def take_connection(self, value: bytes) -> set[bytes]:
        """Read Connection; returns the fields that are not to be passed on for its sake (rule 2)."""
        tokens = {token.strip().lower() for token in value.split(b",")}
        self.wants_close = self.wants_close or b"close" in tokens
        return tokens - _NOT_NOMINATED

    def drop(self, names: set[bytes]) -> None:
        """Take out the lines (name, colon, value, end: four parts each) of these fields (lower case)."""
        kept: list[bytes] = []
        for i in range(0, len(self.lines), 4):
            if self.lines[i].lower() not in names:
                kept += self.lines[i : i + 4]
        self.lines = kept


class RareFields:
    """What few requests say: made for those alone. ``upgrade`` and ``te`` are the fields' raw values."""

    __slots__ = ("max_forwards", "request_id", "te", "traceparents", "tracestates", "trailer", "upgrade")

    def __init__(self) -> None:
        self.upgrade: list[bytes] = []
        self.te: list[bytes] = []
        self.trailer: list[bytes] = []
        self.max_forwards: bytes | None = None
        self.request_id: bytes | None = None
        self.traceparents: list[bytes] = []
        self.tracestates: list[bytes] = []


@mypyc_attr(free_list_len=1)
class RequestHead(MessageHead):
    """What the gateway read from a request's head; Host is not among the lines either."""

    __slots__ = (
        "cookies",
        "expects_continue",
        "fields",
        "host",
        "id_line",
        "rare",
        "trace_id",
    )

    def __init__(self) -> None:
        super().__init__()
        self.host = b""
        self.expects_continue = False
        self.cookies: list[bytes] = []
        # The raw pairs, for look-ups by name that only some routes need (forced variant, sticky header).
        self.fields: RawHeaders = ()
        self.rare: RareFields | None = None
        # The line that names the request, for the backend and for the client; empty where it has no name.
        self.id_line = self.trace_id = b""

    def with_lines(self, lines: list[bytes]) -> RequestHead:
        """The same head with other lines; its framing can be changed apart from this one's."""
        other = RequestHead()
        other.content_length, other.length_line = self.content_length, self.length_line
        other.chunked, other.wants_close = self.chunked, self.wants_close
        other.lines = lines
        other.host, other.expects_continue, other.cookies = self.host, self.expects_continue, self.cookies
        other.fields, other.rare = self.fields, self.rare
        other.id_line, other.trace_id = self.id_line, self.trace_id
        return other

    def first(self, name: bytes) -> bytes | None:
        """The first value of a field by lower-case name."""
        for field, value in self.fields:
            if field.lower() == name:
                return value.strip(b" \t")  # llhttp leaves the blanks behind a value
        return None


class ResponseHead(MessageHead):
    """What the gateway read from an answer's head."""

    __slots__ = ("trailer", "upgrade")

    def __init__(self) -> None:
        super().__init__()
        # The protocols that it offers: a 426 has to name them (RFC 9110, 15.5.22).
        self.upgrade: Sequence[bytes] = ()
        # The values of Trailer: passed on only to those who take trailers.
        self.trailer: Sequence[bytes] = ()

    def apart(self) -> ResponseHead:
        """The same head, whose framing can be changed: heads that are equal are shared by answers."""
        other = ResponseHead()
        other.content_length, other.length_line = self.content_length, self.length_line
        other.chunked, other.wants_close, other.lines = self.chunked, self.wants_close, self.lines
        other.upgrade, other.trailer = self.upgrade, self.trailer
        return other

    def lines_of_426(self) -> list[bytes]:
        """The lines with the protocols that the backend requires; of other answers they stop here (hop by hop)."""
        return [*self.lines, *(b"connection: upgrade\r\nupgrade: %b\r\n" % value for value in self.upgrade)]
