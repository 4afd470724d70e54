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

from typing import Final

from gateway.proxy.heads import gateway_errors
from gateway.proxy.heads.field_policy import FieldPolicy
from gateway.runtime.settings import HeaderPolicy

VARIANT_HEADER: Final = b"x-gateway-variant"
RESCUED_HEADER: Final = b"x-gateway-rescued"
# Marks a copy of a request for the backend: no client may say so.
MIRROR_HEADER: Final = b"x-gateway-mirror"

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
    MIRROR_HEADER,
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


def field_policy(policy: HeaderPolicy) -> FieldPolicy:
    """The configured policy, ready for use."""
    return FieldPolicy(policy, _SPECIAL_IN_REQUEST, frozenset(_SPECIAL_IN_RESPONSE))
