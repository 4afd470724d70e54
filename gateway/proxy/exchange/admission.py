"""Whether a request may be forwarded at all: its method, target and head, checked before a route is looked for.

Rules:

1. CONNECT and TRACE are not served.
2. **Max-Forwards** (RFC 9110, 7.6.2) counts down on OPTIONS; at 0 the gateway is the last recipient and says so.
"""

from __future__ import annotations

import re
from typing import Final

from gateway.proxy.exchange.types import Downstream
from gateway.proxy.heads import gateway_errors
from gateway.proxy.heads.fast_heads import CachedHead
from gateway.proxy.heads.field_policy import FieldPolicy
from gateway.proxy.heads.gateway_errors import Fault
from gateway.proxy.heads.message_head import RawHeaders, RequestHead
from gateway.proxy.heads.request import Request
from gateway.proxy.heads.request_head import read_request, read_target

_NUMBER: Final = re.compile(rb"[0-9]{1,9}\Z")


def admit(
    request: Request,
    target: bytes,
    fields: RawHeaders,
    cached: CachedHead | None,
    downstream: Downstream,
    policy: FieldPolicy,
    body_bytes_max: int | None,
) -> Fault | None:
    """Read the request's target and head into ``request``; a fault where it is refused."""
    method = request.method
    if method in (b"CONNECT", b"TRACE"):
        return gateway_errors.METHOD_NOT_ALLOWED
    authority = None
    if cached is not None:
        request.target, request.path = target, cached.path
        request.line = cached.line
    else:
        split = read_target(target, method)
        if isinstance(split, Fault):
            return split
        request.target, request.path, authority = split
    head = read_request(
        fields,
        request.version,
        downstream.peer,
        downstream.trusted,
        downstream.tls,
        authority,
        policy,
        cached,
    )
    if isinstance(head, Fault):
        return head
    request.head = head
    if head.wants_close:  # also beside a keep-alive (RFC 9112, 9.3)
        request.keep_alive = False
    fault = None
    if head.rare is not None and head.rare.max_forwards is not None:
        fault = _count_down(method, head, head.rare.max_forwards)
    if body_bytes_max is not None and (head.content_length or 0) > body_bytes_max:
        return gateway_errors.BODY_TOO_LARGE
    return fault


def _count_down(method: bytes, head: RequestHead, value: bytes) -> Fault | None:
    """Rule 2."""
    if method != b"OPTIONS":
        head.lines.append(b"max-forwards: %b\r\n" % value)
    elif _NUMBER.match(value) is None:
        return gateway_errors.BAD_REQUEST
    elif int(value) == 0:
        return gateway_errors.LAST_RECIPIENT
    else:
        head.lines.append(b"max-forwards: %d\r\n" % (int(value) - 1))
    return None
