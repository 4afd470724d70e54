"""Header fields: which stop here, which are passed on, and what both directions check of framing and connection.

request_head.py and response_head.py read the heads themselves. Rules:

1. Header fields travel as a list of raw pairs in their order, case and multiplicity; never through a dict.
2. Hop-by-hop fields (RFC 9110, 7.6.1) stop here, also those that Connection nominates, but a nomination can never
   strip framing, routing or identity (that would let a client disarm a check behind us).
3. Framing is never copied: Content-Length and Transfer-Encoding are read, checked and written anew.
4. X-Forwarded-* of a peer that is not trusted are removed, so nobody can choose the address we report.
5. Whatever is ambiguous is refused: two lengths, a length and a coding, a coding that is not exactly ``chunked``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from gateway.proxy.heads import gateway_errors
from gateway.proxy.heads.fast_heads import CachedHead
from gateway.proxy.heads.field_policy import FieldPolicy
from gateway.runtime.settings import HeaderPolicy

RawHeaders = Sequence[tuple[bytes, bytes]]

VARIANT_HEADER: Final = b"x-gateway-variant"
RESCUED_HEADER: Final = b"x-gateway-rescued"

_DIGITS: Final = re.compile(rb"[0-9]{1,18}\Z")

_DROPPED_BY_REQUEST: Final = {
    b"keep-alive",
    b"proxy-connection",
    b"te",
    b"trailer",
    b"upgrade",
    b"http2-settings",
    b"proxy-authorization",
    VARIANT_HEADER,
    RESCUED_HEADER,
    gateway_errors.ERROR_HEADER,
}
FORWARDED: Final = {
    b"x-forwarded-for",
    b"x-forwarded-proto",
    b"x-forwarded-host",
    b"x-forwarded-port",
    b"forwarded",
    b"x-real-ip",
}
_READ_BY_REQUEST: Final = {
    b"host",
    b"connection",
    b"content-length",
    b"transfer-encoding",
    b"expect",
    b"via",
    b"cookie",
    b"max-forwards",
    b"traceparent",
    b"tracestate",
}
_SPECIAL_IN_REQUEST: Final = frozenset(_DROPPED_BY_REQUEST | FORWARDED | _READ_BY_REQUEST)
_SPECIAL_IN_RESPONSE: Final = {
    b"connection",
    b"keep-alive",
    b"proxy-connection",
    b"proxy-authenticate",
    b"te",
    b"trailer",
    b"upgrade",
    b"content-length",
    b"transfer-encoding",
    VARIANT_HEADER,
    RESCUED_HEADER,
    gateway_errors.ERROR_HEADER,
}
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


def field_policy(policy: HeaderPolicy) -> FieldPolicy:
    """The configured policy, ready for use."""
    return FieldPolicy(policy, _SPECIAL_IN_REQUEST, frozenset(_SPECIAL_IN_RESPONSE))


class MessageHead:
    """What both directions read of framing and connection, and the lines that are passed on (without framing)."""

    __slots__ = ("chunked", "content_length", "length_line", "lines", "wants_close")

    def __init__(self) -> None:
        self.content_length: int | None = None
        self.length_line = b""
        self.chunked = False
        self.wants_close = False
        self.lines: list[bytes] = []

    def take_length(self, value: bytes, plain: CachedHead | None) -> bool:
        """Read Content-Length; False where it is none, or the second one. ``plain`` has read it already."""
        if plain is not None:
            self.content_length = plain.length
            self.length_line = plain.length_line
            return True
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
