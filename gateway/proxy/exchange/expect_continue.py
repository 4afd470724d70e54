"""A client that waits for leave to send its body: ``Expect: 100-continue`` (RFC 9110, 10.1.1).

Rules:

1. The expectation is passed on; the backend's 100 is the client's leave. Until then its head `expects_continue`.
2. A backend that says nothing does not know the expectation: after a moment (deadlines.py) the gateway gives the leave
   itself.
3. A final answer instead is passed on, and the connection ends.
4. A client that does not wait needs no leave.
"""

from __future__ import annotations

from typing import Final

from gateway.proxy.exchange.request_body import RequestBody
from gateway.proxy.heads.message_head import RequestHead

LINE: Final = b"expect: 100-continue\r\n"


def awaits_leave(head: RequestHead, body: RequestBody) -> bool:
    """Whether the client waits: it said so, and nothing of its body has come."""
    return head.expects_continue and not body.received and not body.complete


def end_wait(head: RequestHead, body: RequestBody) -> bool:
    """The backend agreed; True when the client is to get its 100."""
    waited = awaits_leave(head, body)
    head.expects_continue = False
    return waited
