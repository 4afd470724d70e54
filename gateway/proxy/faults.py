"""The answers that the gateway makes itself: each with a stable reason, the smallest honest status, and its blame.

A fault is a value, not an exception: it travels along the exchange's phases and ends in `problem`, an RFC 9457
document marked by the header ``x-gateway-error``, so that nobody mistakes it for the model's own answer.
"""

from __future__ import annotations

import msgspec

from gateway.core.errors import Blame

ERROR_HEADER = b"x-gateway-error"
TYPE_PREFIX = "urn:canary-gateway:problem:"


class Fault(msgspec.Struct, frozen=True):
    """Why an exchange failed. ``close``: the connection's framing is in doubt, or it must end for another reason."""

    reason: str
    status: int
    blame: Blame
    title: str
    close: bool = False


def _downstream(reason: str, status: int, title: str, *, close: bool = True) -> Fault:
    return Fault(reason, status, Blame.DOWNSTREAM, title, close=close)


def _upstream(reason: str, status: int, title: str) -> Fault:
    return Fault(reason, status, Blame.UPSTREAM, title)


# The client's doing. Where framing is in doubt the connection is closed.
BAD_REQUEST = _downstream("bad_request", 400, "the request is malformed")
BAD_HOST = _downstream("bad_host", 400, "the Host header is missing, repeated or malformed")
BAD_FRAMING = _downstream("bad_framing", 400, "the request's body length is ambiguous")
BAD_TARGET = _downstream("bad_target", 400, "the request target is malformed")
HEAD_TOO_LARGE = _downstream("head_too_large", 431, "the request head is over the limit")
TARGET_TOO_LONG = _downstream("target_too_long", 414, "the request target is over the limit")
BODY_TOO_LARGE = _downstream("body_too_large", 413, "the request body is over the limit")
HEAD_TIMEOUT = _downstream("head_timeout", 408, "the request head did not arrive in time")
BODY_TIMEOUT = _downstream("body_timeout", 408, "the request body stalled")
METHOD_NOT_ALLOWED = _downstream("method_not_allowed", 405, "CONNECT and TRACE are not served")
EXPECTATION_FAILED = _downstream("expectation_failed", 417, "only 100-continue can be expected", close=False)
TOO_MANY_FROM_CLIENT = _downstream("too_many_from_client", 429, "this client has too many connections")
BODY_TOO_SLOW = _downstream("body_too_slow", 408, "the request body came more slowly than is allowed")
# Closed without an answer: whoever began so would not understand one.
BAD_PROXY_HEADER = _downstream("bad_proxy_header", 400, "the connection does not begin with a PROXY header")
TLS_HANDSHAKE = _downstream("tls_handshake", 400, "the TLS handshake failed, or was not finished in time")
HTTP2_UNSUPPORTED = _downstream("http2_unsupported", 400, "HTTP/2 is not served here: speak HTTP/1.1")
NO_ROUTE = _downstream("no_route", 404, "no route matches this host and path", close=False)
LOOP = Fault("loop", 508, Blame.INTERNAL, "the request has passed this gateway before")

# The model's doing. Only these count against a variant.
CONNECT_FAILED = _upstream("connect_failed", 502, "the backend refused the connection")
CONNECT_TIMEOUT = _upstream("connect_timeout", 504, "the backend did not accept the connection in time")
RESET = _upstream("reset", 502, "the backend closed the connection before it answered")
TRUNCATED = _upstream("truncated", 502, "the backend's answer broke off")
BAD_RESPONSE = _upstream("bad_response", 502, "the backend's answer is malformed")
FIRST_BYTE_TIMEOUT = _upstream("first_byte_timeout", 504, "the backend did not begin to answer in time")
TRY_TIMEOUT = _upstream("try_timeout", 504, "the backend took longer than a try may take")
IDLE_TIMEOUT = _upstream("idle_timeout", 504, "the backend's answer stalled")
NO_ENDPOINT = _upstream("no_healthy_endpoint", 503, "the backend has no healthy endpoint")

# Nobody's variant is to blame.
LAST_RECIPIENT = Fault("last_recipient", 200, Blame.NONE, "the request was to be forwarded no further")
STALE = Fault("stale_connection", 502, Blame.INTERNAL, "a kept connection was closed under the request")
QUEUE_FULL = Fault("queue_full", 503, Blame.INTERNAL, "too many requests wait for the backend")
TOTAL_TIMEOUT = Fault("total_timeout", 504, Blame.INTERNAL, "the exchange took longer than the route allows")
TOO_MANY_CONNECTIONS = Fault("too_many_connections", 503, Blame.INTERNAL, "too many connections", close=True)

# Never an answer: the deadline at which the gateway lets a client send its body.
NO_CONTINUE = Fault("no_continue", 100, Blame.NONE, "the backend gives no leave to send the body")

# What says that a backend is short of room, though it never saw the request.
OF_OVERLOAD = (QUEUE_FULL,)

# What an endpoint did to a try that it had accepted (a connection that never came about is its pool's to count).
OF_AN_ENDPOINT = (RESET, TRUNCATED, BAD_RESPONSE, FIRST_BYTE_TIMEOUT, IDLE_TIMEOUT, TRY_TIMEOUT)


class _Problem(msgspec.Struct):
    type: str
    title: str
    status: int
    detail: str
    reason: str


def problem(fault: Fault, detail: str = "") -> bytes:
    """The fault as an ``application/problem+json`` document."""
    type_ = TYPE_PREFIX + fault.reason.replace("_", "-")
    return msgspec.json.encode(_Problem(type_, fault.title, fault.status, detail or fault.title, fault.reason))


def response(fault: Fault) -> bytes:
    """The whole answer, for a connection that ends with it and has no exchange."""
    body = problem(fault)
    head = b"HTTP/1.1 %d %b\r\ncontent-type: application/problem+json\r\ncontent-length: %d\r\n%b: %b\r\n"
    values = (fault.status, fault.title.encode(), len(body), ERROR_HEADER, fault.reason.encode())
    return head % values + b"retry-after: 1\r\nconnection: close\r\n\r\n" + body
