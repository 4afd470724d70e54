"""The answers that the gateway makes itself: each with a stable reason, the smallest honest status, and its blame.

A fault is a value, not an exception: it travels along the exchange's phases and ends in `problem`, an RFC 9457
document marked by the header ``x-gateway-error``, so that it is not mistaken for the model's own answer.
"""

from __future__ import annotations

from typing import Final

import msgspec

from gateway.core.errors import Blame

ERROR_HEADER: Final = b"x-gateway-error"
TYPE_PREFIX: Final = "urn:canary-gateway:problem:"


class Fault:
    """Why an exchange failed. ``close``: the connection's framing is in doubt, or it must end for another reason.

    ``detail`` says what it was in this very request; empty where the title says it all.
    """

    __slots__ = ("blame", "close", "detail", "reason", "status", "title")

    def __init__(
        self, reason: str, status: int, blame: Blame, title: str, *, close: bool = False, detail: str = ""
    ) -> None:
        self.reason = reason
        self.status = status
        self.blame = blame
        self.title = title
        self.close = close
        self.detail = detail

    def because(self, detail: str) -> Fault:
        """The same fault with what it was in one request. It is another object: compare by ``reason``."""
        return Fault(self.reason, self.status, self.blame, self.title, close=self.close, detail=detail)


def _downstream(reason: str, status: int, title: str, *, close: bool = True) -> Fault:
    return Fault(reason, status, Blame.DOWNSTREAM, title, close=close)


def _upstream(reason: str, status: int, title: str) -> Fault:
    return Fault(reason, status, Blame.UPSTREAM, title)


# The client's doing. Where framing is in doubt the connection is closed.
BAD_REQUEST: Final = _downstream("bad_request", 400, "the request is malformed")
BAD_FIELD_NAME: Final = _downstream("bad_field_name", 400, "invalid name of a header field")
BAD_HOST: Final = _downstream("bad_host", 400, "the Host header is missing, repeated or malformed")
BAD_FRAMING: Final = _downstream("bad_framing", 400, "the request's body length is ambiguous")
BAD_TARGET: Final = _downstream("bad_target", 400, "the request target is malformed")
HEAD_TOO_LARGE: Final = _downstream("head_too_large", 431, "the request head is over the limit")
TARGET_TOO_LONG: Final = _downstream("target_too_long", 414, "the request target is over the limit")
BODY_TOO_LARGE: Final = _downstream("body_too_large", 413, "the request body is over the limit")
HEAD_TIMEOUT: Final = _downstream("head_timeout", 408, "timed out waiting for the request head")
BODY_TIMEOUT: Final = _downstream("body_timeout", 408, "timed out waiting for the request body")
METHOD_NOT_ALLOWED: Final = _downstream("method_not_allowed", 405, "CONNECT and TRACE are not supported")
METHOD_UNKNOWN: Final = _downstream("method_unknown", 501, "unknown request method")
EXPECTATION_FAILED: Final = _downstream(
    "expectation_failed", 417, "the only supported expectation is 100-continue", close=False
)
TOO_MANY_FROM_CLIENT: Final = _downstream("too_many_from_client", 429, "this client has too many connections")
BODY_TOO_SLOW: Final = _downstream("body_too_slow", 408, "the request body arrived too slowly")
# Closed without an answer: such a client would not understand one.
BAD_PROXY_HEADER: Final = _downstream("bad_proxy_header", 400, "the connection does not begin with a PROXY header")
TLS_HANDSHAKE: Final = _downstream("tls_handshake", 400, "the TLS handshake failed or timed out")
VERSION_UNSUPPORTED: Final = _downstream("version_unsupported", 505, "unsupported HTTP version: use HTTP/1.1")
HTTP2_UNSUPPORTED: Final = _downstream("http2_unsupported", 505, "HTTP/2 is not supported: use HTTP/1.1")
NO_ROUTE: Final = _downstream("no_route", 404, "no route matches this host and path", close=False)
FEATURES_MISSING: Final = Fault(
    "features_missing", 503, Blame.NONE, "the features of this request's entity are not known (features.on_missing)"
)
LOOP: Final = Fault("loop", 508, Blame.INTERNAL, "the request has passed this gateway before")

# The model's doing. Only these count against a variant.
CONNECT_FAILED: Final = _upstream("connect_failed", 502, "the backend refused the connection")
CONNECT_TIMEOUT: Final = _upstream("connect_timeout", 504, "connecting to the backend timed out")
RESET: Final = _upstream("reset", 502, "the backend closed the connection without a response")
TRUNCATED: Final = _upstream("truncated", 502, "the backend's response was cut short")
BAD_RESPONSE: Final = _upstream("bad_response", 502, "the backend's response is malformed")
FIRST_BYTE_TIMEOUT: Final = _upstream("first_byte_timeout", 504, "timed out waiting for the backend's response")
TRY_TIMEOUT: Final = _upstream(
    "try_timeout", 504, "the backend's response took longer than one try may take (timeouts.try_s)"
)
IDLE_TIMEOUT: Final = _upstream("idle_timeout", 504, "the backend's response stalled")

# Nobody's variant is to blame.
NOTHING_DEPLOYED: Final = Fault("nothing_deployed", 503, Blame.NONE, "nothing is deployed on this route yet")
LAST_RECIPIENT: Final = Fault(
    "last_recipient", 200, Blame.NONE, "Max-Forwards is 0: the request is not forwarded further"
)
NO_ENDPOINT: Final = Fault("no_healthy_endpoint", 503, Blame.NONE, "the backend has no healthy endpoint")
STALE: Final = Fault(
    "stale_connection", 502, Blame.INTERNAL, "the backend closed a kept-alive connection as the request was sent on it"
)
QUEUE_FULL: Final = Fault("queue_full", 503, Blame.INTERNAL, "the queue for the backend is full")
QUEUE_TIMEOUT: Final = Fault(
    "queue_timeout", 503, Blame.INTERNAL, "timed out waiting for a free connection to the backend"
)
BODY_BUFFERS_FULL: Final = Fault(
    "body_buffers_full", 503, Blame.INTERNAL, "too many slow request bodies are being received", close=True
)
BODY_LOST: Final = Fault("body_lost", 500, Blame.INTERNAL, "the request body's temporary file could not be read")
TOTAL_TIMEOUT: Final = Fault(
    "total_timeout", 504, Blame.INTERNAL, "the request took longer than the route allows (timeouts.total_s)"
)
TOO_MANY_CONNECTIONS: Final = Fault("too_many_connections", 503, Blame.INTERNAL, "too many connections", close=True)

# What says that a backend is short of room, though it never saw the request.
OF_OVERLOAD: Final = (QUEUE_FULL, QUEUE_TIMEOUT)

# What an endpoint did to a try that it had accepted (a connection that never came about is its pool's to count).
OF_AN_ENDPOINT: Final = (RESET, TRUNCATED, BAD_RESPONSE, FIRST_BYTE_TIMEOUT, IDLE_TIMEOUT, TRY_TIMEOUT)

# What took too long.
OF_TIME: Final = (CONNECT_TIMEOUT, FIRST_BYTE_TIMEOUT, IDLE_TIMEOUT, TRY_TIMEOUT, TOTAL_TIMEOUT)

# The gateway had nothing to send the request with or to: the request was never tried.
OF_THE_GATEWAY: Final = (NO_ENDPOINT, QUEUE_FULL, QUEUE_TIMEOUT, BODY_BUFFERS_FULL, TOO_MANY_CONNECTIONS)


def problem(fault: Fault, detail: str = "") -> bytes:
    """The fault as an ``application/problem+json`` document."""
    type_ = TYPE_PREFIX + fault.reason.replace("_", "-")
    return msgspec.json.encode(
        {
            "type": type_,
            "title": fault.title,
            "status": fault.status,
            "detail": detail or fault.detail or fault.title,
            "reason": fault.reason,
        }
    )


def response(
    fault: Fault, *, keep: bool = False, head_only: bool = False, detail: str = "", lines: bytes = b""
) -> bytes:
    """The whole answer, or its head. ``lines`` are further ones of it; ``keep`` says that the connection goes on."""
    body = problem(fault, detail)
    head = b"HTTP/1.1 %d %b\r\ncontent-type: application/problem+json\r\ncontent-length: %d\r\n%b: %b\r\n" % (
        fault.status,
        _REASONS.get(fault.status, b"Error"),
        len(body),
        ERROR_HEADER,
        fault.reason.encode(),
    )
    lines = head + lines
    if fault.status in (429, 503):
        lines += b"retry-after: 1\r\n"
    if fault.status == 405 or fault is LAST_RECIPIENT:
        lines += b"allow: GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS\r\n"
    lines += b"\r\n" if keep else b"connection: close\r\n\r\n"
    return lines if head_only else lines + body


_REASONS: Final = {
    200: b"OK",
    400: b"Bad Request",
    404: b"Not Found",
    405: b"Method Not Allowed",
    408: b"Request Timeout",
    413: b"Content Too Large",
    414: b"URI Too Long",
    417: b"Expectation Failed",
    429: b"Too Many Requests",
    431: b"Request Header Fields Too Large",
    500: b"Internal Server Error",
    501: b"Not Implemented",
    502: b"Bad Gateway",
    503: b"Service Unavailable",
    504: b"Gateway Timeout",
    505: b"HTTP Version Not Supported",
    508: b"Loop Detected",
}
