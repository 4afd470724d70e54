"""A request's target and head: checked strictly, and made into the lines that a backend gets (headers.py)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from gateway.proxy.heads import gateway_errors
from gateway.proxy.heads.fast_heads import CachedHead, FieldBlock
from gateway.proxy.heads.field_policy import FieldPolicy, forwarded_element
from gateway.proxy.heads.gateway_errors import Fault
from gateway.proxy.heads.headers import FORWARDED
from gateway.proxy.heads.message_head import RareFields, RawHeaders, RequestHead
from gateway.proxy.heads.passed_heads import PassedRequest

# A request that bears our own Via this often is going in circles.
VIA_PASSES_MAX: Final = 3
# Of a name that is refused so much is shown to who sent it.
_SHOWN_MAX: Final = 100

# uri-host [ ":" port ] (RFC 9110, 7.2); the port may be empty (RFC 3986, 3.2.3) and is at most 65535.
_PORT: Final = rb"0{0,16}(?:[0-9]{0,4}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])"
_HOST: Final = re.compile(rb"(?:[A-Za-z0-9._~-]+|\[[0-9A-Fa-f:.]+\])(?::" + _PORT + rb")?\Z")


def read_request(
    fields: RawHeaders,
    version: str,
    peer: bytes,
    trusted: bool,
    tls: bool,
    authority: bytes | None,
    policy: FieldPolicy,
    plain: CachedHead | None = None,
) -> RequestHead | Fault:
    """Check a request's header fields and prepare the lines to forward.

    ``peer`` is the client's address; ``authority``, that of an absolute target, takes the place of Host; ``plain`` is
    what fast_heads.py has read already.
    """
    if plain is not None and plain.block is not None:
        passed = plain.block.request or _passed_request(plain.block, policy)
        if passed.known:
            return _known_request(plain, passed, peer, tls, policy)
    if version not in ("1.1", "1.0"):
        return gateway_errors.VERSION_UNSUPPORTED
    head = RequestHead()
    head.fields = fields
    lines = head.lines
    nominated: set[bytes] | None = None
    forwarded_for: list[bytes] = []
    forwarded: list[bytes] = []
    via: list[bytes] = []
    has_host = has_proto = has_forwarded_host = False
    for i, (name, value) in enumerate(fields):
        low = policy.name_in(name)
        if not low:
            if plain is not None:
                lines.append(plain.lines[i])
            else:
                lines += (name, b": ", value, b"\r\n")
        elif low == b"host":
            host = value.strip(b" \t")  # llhttp leaves the blanks behind a value
            if has_host or (host != policy.host_seen and not _HOST.match(host)):
                return gateway_errors.BAD_HOST
            has_host = True
            head.host = policy.host_seen = host
        elif low == b"content-length":
            if plain is not None:
                head.take_known_length(plain.length, plain.length_line)
            elif not head.take_length(value):
                return gateway_errors.BAD_FRAMING
        elif low == b"transfer-encoding":
            if not head.take_coding(value, version):
                return gateway_errors.BAD_FRAMING
        elif low == b"cookie":
            head.cookies.append(value)
            lines += (name, b": ", value, b"\r\n")
        elif low == b"connection":
            if value != b"keep-alive" and (named := head.take_connection(value)):
                nominated = named | (nominated or set())
        elif low == b"expect":
            if value.strip().lower() != b"100-continue":
                return gateway_errors.EXPECTATION_FAILED
            head.expects_continue = version == "1.1"
        elif low == b"via":
            via.append(value)
        elif low in FORWARDED and trusted:
            if low == b"x-forwarded-for":
                forwarded_for.append(value)
            elif low == b"forwarded":
                forwarded.append(value)
            else:
                has_proto = has_proto or low == b"x-forwarded-proto"
                has_forwarded_host = has_forwarded_host or low == b"x-forwarded-host"
                lines += (name, b": ", value, b"\r\n")
        elif low not in policy.special_in_request:  # then it has an underscore
            if policy.rejects_underscores:
                return gateway_errors.BAD_FIELD_NAME.because(_underscored(name))
            if not policy.drops_underscores:
                lines += (name, b": ", value, b"\r\n")
        else:
            rare = head.rare
            if rare is None:
                rare = head.rare = RareFields()
            _read_rare(rare, low, value, trusted, policy)
    if not has_host and version == "1.1":
        return gateway_errors.BAD_HOST
    if head.chunked and head.content_length is not None:
        return gateway_errors.BAD_FRAMING
    if authority is not None:
        head.host = authority
    if via and policy.passes(via) >= VIA_PASSES_MAX:
        return gateway_errors.LOOP
    if nominated:
        head.drop(nominated)
        lines = head.lines
    if policy.via is not None:
        if not via and version == "1.1":
            lines.append(policy.via_line_11)
        else:
            via.append(policy.via_11 if version == "1.1" else policy.via_10)
    if via:
        lines += (b"via: ", b", ".join(via), b"\r\n")
    if policy.forwarded:
        forwarded.append(forwarded_element(peer, head.host, tls=tls))
    if forwarded:
        lines += (b"forwarded: ", b", ".join(forwarded), b"\r\n")
    if head.rare is None:
        head.id_line, head.trace_id = policy.name(lines, None, (), ())
    else:
        rare = head.rare
        head.id_line, head.trace_id = policy.name(lines, rare.request_id, rare.traceparents, rare.tracestates)
    if peer:
        forwarded_for.append(peer)
        known = forwarded_for[0] if len(forwarded_for) == 1 else b", ".join(forwarded_for)
        lines += (b"x-forwarded-for: ", known, b"\r\n")
    if not has_proto:
        lines.append(b"x-forwarded-proto: https\r\n" if tls else b"x-forwarded-proto: http\r\n")
    if head.host and not has_forwarded_host:
        lines += (b"x-forwarded-host: ", head.host, b"\r\n")
    return head


def _passed_request(block: FieldBlock, policy: FieldPolicy) -> PassedRequest:
    """What becomes of a block of fields that say nothing but what most requests say (else it is not ``known``)."""
    host: bytes | None = None
    cookies: list[bytes] = []
    lines: list[bytes] = []
    known = True
    for i, (name, value) in enumerate(block.fields):
        low = policy.name_in(name)
        if not low:
            lines.append(block.lines[i])
        elif low == b"host" and host is None and _HOST.match(value):
            host = value
        elif low == b"cookie":
            cookies.append(value)
            lines += (name, b": ", value, b"\r\n")
        elif low not in (b"content-length", b"connection"):  # the latter says keep-alive or close, or it were not plain
            known = False
    if policy.via is not None:
        lines.append(policy.via_line_11)
    passed = PassedRequest(host or b"", cookies, b"".join(lines), known=known and host is not None)
    block.request = passed
    return passed


def _known_request(
    plain: CachedHead, passed: PassedRequest, peer: bytes, tls: bool, policy: FieldPolicy
) -> RequestHead:
    """What `read_request` finds in fields that it has read before."""
    head = RequestHead()
    head.fields = plain.fields
    head.host = passed.host
    head.wants_close = not plain.keep_alive
    head.cookies = passed.cookies
    if plain.length >= 0:
        head.content_length = plain.length
        head.length_line = plain.length_line
    lines = head.lines
    lines.append(passed.lines)
    if policy.forwarded:
        lines += (b"forwarded: ", forwarded_element(peer, passed.host, tls=tls), b"\r\n")
    head.id_line, head.trace_id = policy.name(lines, None, (), ())
    if peer:
        lines.append(b"x-forwarded-for: ")
        lines.append(peer)
        lines.append(passed.rest[1 if tls else 0])
    else:
        lines.append(passed.rest[1 if tls else 0][2:])
    return head


def _read_rare(rare: RareFields, low: bytes, value: bytes, trusted: bool, policy: FieldPolicy) -> None:
    """Take note of a field that few requests have; what is not wanted here is dropped."""
    value = value.strip(b" \t")  # llhttp leaves the blanks behind a value
    if low == b"upgrade":
        rare.upgrade.append(value)
    elif low == b"te":
        rare.te.append(value)
    elif low == b"trailer":
        rare.trailer.append(value)
    elif low == b"max-forwards":
        # A repeated field is as malformed as one without a number: `b""` is not one.
        rare.max_forwards = value if rare.max_forwards is None else b""
    elif low == b"traceparent":
        rare.traceparents.append(value)
    elif low == b"tracestate":
        rare.tracestates.append(value)
    elif low == policy.request_id and trusted and rare.request_id is None:
        rare.request_id = value


def _underscored(name: bytes) -> str:
    return (
        f"the header field {name[:_SHOWN_MAX].decode('latin-1')} has an underscore in its name, which some servers read"
        " as a hyphen; rename it, or set headers.underscores to drop or pass"
    )


def read_target(target: bytes, method: bytes) -> tuple[bytes, bytes, bytes | None] | Fault:
    """Split a request target into (origin-form to forward, path to route on, authority of an absolute form).

    RFC 9112, 3.2: origin-form is forwarded byte for byte; absolute-form is reduced to it, and its authority takes
    the place of Host; ``*`` is for OPTIONS alone.
    """
    authority: bytes | None = None
    if not target.startswith(b"/"):
        if target == b"*":
            return (target, b"/", None) if method == b"OPTIONS" else gateway_errors.BAD_TARGET
        scheme, separator, rest = target.partition(b"://")
        if not separator or scheme.lower() not in (b"http", b"https"):
            return gateway_errors.BAD_TARGET
        cut = next((i for i, byte in enumerate(rest) if byte in b"/?"), len(rest))
        authority, target = rest[:cut], rest[cut:]
        if not _HOST.match(authority):
            return gateway_errors.BAD_TARGET
        if not target and method == b"OPTIONS":
            return b"*", b"/", authority  # of the server itself (RFC 9112, 3.2.4)
        if not target.startswith(b"/"):
            target = b"/" + target
    if target.find(b"#") >= 0 or target.find(b"%00") >= 0:
        return gateway_errors.BAD_TARGET
    return target, target.partition(b"?")[0], authority


def cookie_value(cookies: Sequence[bytes], name: bytes) -> bytes | None:
    """The value of a cookie by name, from the raw Cookie fields (RFC 6265, 4.2)."""
    for field in cookies:
        for pair in field.split(b";"):
            key, _, value = pair.strip().partition(b"=")
            if key == name:
                return value
    return None
