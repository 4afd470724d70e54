"""Heads in, heads out: strict checks on what a client or a backend sent, fresh framing on what is passed on.

Rules:

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

from gateway.proxy import faults
from gateway.proxy.faults import Fault

RawHeaders = Sequence[tuple[bytes, bytes]]

VIA_NAME = b"canary-gateway"
VARIANT_HEADER = b"x-gateway-variant"
RESCUED_HEADER = b"x-gateway-rescued"
# A request that bears our own Via this often is going in circles.
VIA_PASSES_MAX = 3

_HOST = re.compile(rb"(?:[A-Za-z0-9._~-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?\Z")
_DIGITS = re.compile(rb"[0-9]{1,18}\Z")

_DROPPED_BY_REQUEST = {
    b"keep-alive",
    b"proxy-connection",
    b"te",
    b"trailer",
    b"upgrade",
    b"http2-settings",
    b"proxy-authorization",
    VARIANT_HEADER,
    RESCUED_HEADER,
    faults.ERROR_HEADER,
}
_FORWARDED = {
    b"x-forwarded-for",
    b"x-forwarded-proto",
    b"x-forwarded-host",
    b"x-forwarded-port",
    b"forwarded",
    b"x-real-ip",
}
_READ_BY_REQUEST = {
    b"host",
    b"connection",
    b"content-length",
    b"transfer-encoding",
    b"expect",
    b"via",
    b"cookie",
}
_SPECIAL_IN_REQUEST = _DROPPED_BY_REQUEST | _FORWARDED | _READ_BY_REQUEST
_SPECIAL_IN_RESPONSE = {
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
    faults.ERROR_HEADER,
}
# Connection may not nominate these away (rule 2).
_PROTECTED = {
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
}


class RequestHead:
    """What the gateway read from a request's head, and the lines it passes on (without framing and Host)."""

    __slots__ = ("chunked", "content_length", "cookies", "expects_continue", "fields", "host", "lines", "wants_close")

    def __init__(self) -> None:
        self.host = b""
        self.content_length: int | None = None
        self.chunked = False
        self.expects_continue = False
        self.wants_close = False
        self.cookies: list[bytes] = []
        self.lines: list[bytes] = []
        # The raw pairs, for look-ups by name that only some routes need (forced variant, sticky header).
        self.fields: RawHeaders = ()

    def first(self, name: bytes) -> bytes | None:
        """The first value of a field by lower-case name."""
        for field, value in self.fields:
            if field.lower() == name:
                return value
        return None


def read_request(
    fields: RawHeaders, version: str, peer: bytes, trusted: bool, tls: bool, authority: bytes | None = None
) -> RequestHead | Fault:
    """Check a request's header fields and prepare the lines to forward.

    ``peer`` is the client's address; ``authority``, that of an absolute target, takes the place of Host.
    """
    if version not in ("1.1", "1.0"):
        return faults.BAD_REQUEST
    head = RequestHead()
    head.fields = fields
    lines = head.lines
    nominated: set[bytes] | None = None
    forwarded_for: list[bytes] = []
    via: list[bytes] = []
    has_host = has_proto = has_forwarded_host = False
    for name, value in fields:
        low = name.lower()
        if low not in _SPECIAL_IN_REQUEST:
            if b"_" in low:
                return faults.BAD_REQUEST
            lines += (name, b": ", value, b"\r\n")
        elif low == b"host":
            if has_host or not _HOST.match(value):
                return faults.BAD_HOST
            has_host = True
            head.host = value
        elif low == b"content-length":
            if head.content_length is not None or not _DIGITS.match(value):
                return faults.BAD_FRAMING
            head.content_length = int(value)
        elif low == b"transfer-encoding":
            if head.chunked or value.strip(b" \t").lower() != b"chunked" or version == "1.0":
                return faults.BAD_FRAMING
            head.chunked = True
        elif low == b"cookie":
            head.cookies.append(value)
            lines += (name, b": ", value, b"\r\n")
        elif low == b"connection":
            tokens = {token.strip().lower() for token in value.split(b",")}
            head.wants_close = head.wants_close or b"close" in tokens
            extra = tokens - {b"close", b"keep-alive", b"upgrade", b"te", b""} - _PROTECTED
            if extra:
                nominated = (nominated or set()) | extra
        elif low == b"expect":
            if value.strip().lower() != b"100-continue":
                return faults.EXPECTATION_FAILED
            head.expects_continue = version == "1.1"
        elif low == b"via":
            via.append(value)
        elif low in _FORWARDED and trusted:
            if low == b"x-forwarded-for":
                forwarded_for.append(value)
            else:
                has_proto = has_proto or low == b"x-forwarded-proto"
                has_forwarded_host = has_forwarded_host or low == b"x-forwarded-host"
                lines += (name, b": ", value, b"\r\n")
    if not has_host and version == "1.1":
        return faults.BAD_HOST
    if head.chunked and head.content_length is not None:
        return faults.BAD_FRAMING
    if authority is not None:
        head.host = authority
    if via and sum(v.count(VIA_NAME) for v in via) >= VIA_PASSES_MAX:
        return faults.LOOP
    if nominated:
        head.lines = lines = _without(lines, nominated)
    via.append(b"%b %b" % (version.encode(), VIA_NAME))
    lines += (b"via: ", b", ".join(via), b"\r\n")
    if peer:
        forwarded_for.append(peer)
        lines += (b"x-forwarded-for: ", b", ".join(forwarded_for), b"\r\n")
    if not has_proto:
        lines.append(b"x-forwarded-proto: https\r\n" if tls else b"x-forwarded-proto: http\r\n")
    if head.host and not has_forwarded_host:
        lines += (b"x-forwarded-host: ", head.host, b"\r\n")
    return head


class ResponseHead:
    """What the gateway read from a response's head, and the lines it passes on (without framing)."""

    __slots__ = ("chunked", "content_length", "lines", "wants_close")

    def __init__(self) -> None:
        self.content_length: int | None = None
        self.chunked = False
        self.wants_close = False
        self.lines: list[bytes] = []


def read_response(fields: RawHeaders, version: str = "1.1") -> ResponseHead | Fault:
    """Check a response's header fields and prepare the lines to pass on."""
    head = ResponseHead()
    lines = head.lines
    nominated: set[bytes] | None = None
    for name, value in fields:
        low = name.lower()
        if low not in _SPECIAL_IN_RESPONSE:
            lines += (name, b": ", value, b"\r\n")
        elif low == b"content-length":
            if head.content_length is not None or not _DIGITS.match(value):
                return faults.BAD_RESPONSE
            head.content_length = int(value)
        elif low == b"transfer-encoding":
            if head.chunked or value.strip(b" \t").lower() != b"chunked" or version == "1.0":
                return faults.BAD_RESPONSE
            head.chunked = True
        elif low == b"connection":
            tokens = {token.strip().lower() for token in value.split(b",")}
            head.wants_close = head.wants_close or b"close" in tokens
            extra = tokens - {b"close", b"keep-alive", b"upgrade", b""} - _PROTECTED
            if extra:
                nominated = (nominated or set()) | extra
    if head.chunked and head.content_length is not None:
        return faults.BAD_RESPONSE
    if nominated:
        head.lines = _without(lines, nominated)
    return head


def read_target(target: bytes, method: bytes) -> tuple[bytes, bytes, bytes | None] | Fault:
    """Split a request target into (origin-form to forward, path to route on, authority of an absolute form).

    RFC 9112, 3.2: origin-form is forwarded byte for byte; absolute-form is reduced to it, and its authority takes
    the place of Host; ``*`` is for OPTIONS alone.
    """
    authority: bytes | None = None
    if not target.startswith(b"/"):
        if target == b"*":
            return (target, b"/", None) if method == b"OPTIONS" else faults.BAD_TARGET
        scheme, separator, rest = target.partition(b"://")
        if not separator or scheme.lower() not in (b"http", b"https"):
            return faults.BAD_TARGET
        cut = next((i for i, byte in enumerate(rest) if byte in b"/?"), len(rest))
        authority, target = rest[:cut], rest[cut:]
        if not _HOST.match(authority):
            return faults.BAD_TARGET
        if not target.startswith(b"/"):
            target = b"/" + target
    if b"#" in target or b"%00" in target:
        return faults.BAD_TARGET
    return target, target.partition(b"?")[0], authority


def cookie_value(cookies: Sequence[bytes], name: bytes) -> bytes | None:
    """The value of a cookie by name, from the raw Cookie fields (RFC 6265, 4.2)."""
    for field in cookies:
        for pair in field.split(b";"):
            key, _, value = pair.strip().partition(b"=")
            if key == name:
                return value
    return None


def _without(lines: list[bytes], names: set[bytes]) -> list[bytes]:
    """The lines (name, colon, value, end: four parts each) whose name is not among ``names`` (lower case)."""
    out: list[bytes] = []
    for i in range(0, len(lines), 4):
        if lines[i].lower() not in names:
            out += lines[i : i + 4]
    return out
