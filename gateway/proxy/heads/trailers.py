"""Trailer fields: what may follow a chunked body, in either direction.

Rules (RFC 9110, 6.5; RFC 9112, 7.1.2):

1. They are passed on only where the client said ``TE: trailers`` and the message that goes out is chunked; the gateway
   then says the same to the backend. Otherwise they are dropped, and counted.
2. A field that frames, routes, authenticates or describes the content must not come after it: a recipient that merges
   trailers into the head would act on it too late, or be fooled. Such fields are dropped, and counted.
3. No more of them than of a head: the connections bound their bytes and their number.
"""

from __future__ import annotations

from collections.abc import Sequence

from gateway.proxy.heads import gateway_errors

RawFields = Sequence[tuple[bytes, bytes]]

_FORBIDDEN = frozenset(
    {
        # framing and connection
        *(
            b"transfer-encoding",
            b"content-length",
            b"connection",
            b"keep-alive",
            b"proxy-connection",
            b"te",
            b"trailer",
        ),
        *(b"upgrade", b"http2-settings"),
        # routing and identity
        *(b"host", b"forwarded", b"via", b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-proto"),
        *(b"x-forwarded-port", b"x-real-ip", b"x-request-id", b"traceparent", b"tracestate"),
        # authentication and cookies
        *(b"authorization", b"proxy-authorization", b"proxy-authenticate", b"proxy-authentication-info"),
        *(b"www-authenticate", b"authentication-info", b"cookie", b"set-cookie"),
        # controls and conditions of requests, controls of responses
        *(b"cache-control", b"expect", b"max-forwards", b"pragma", b"range", b"if-match", b"if-none-match"),
        *(b"if-modified-since", b"if-unmodified-since", b"if-range", b"age", b"date", b"expires", b"location"),
        *(b"retry-after", b"vary", b"warning"),
        # how to read the content
        *(b"content-encoding", b"content-type", b"content-range", b"content-language", b"content-location"),
        # the gateway's own words
        *(b"x-gateway-variant", b"x-gateway-rescued", b"x-gateway-mirror", gateway_errors.ERROR_HEADER),
    }
)


def permitted(fields: RawFields) -> list[bytes]:
    """The lines of those fields that may be passed on, in their order; each is one item."""
    return [b"%b: %b\r\n" % (name, value) for name, value in fields if _may_follow(name)]


def last_chunk(lines: Sequence[bytes]) -> bytes:
    """The end of a chunked body with these trailer lines."""
    return b"0\r\n%b\r\n" % b"".join(lines)


def _may_follow(name: bytes) -> bool:
    low = name.lower()
    # An underscore can be read as a hyphen by what is behind us: the rule of the head's fields.
    return low not in _FORBIDDEN and b"_" not in low
