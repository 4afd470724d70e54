"""Whose turn it is, and for how long: a pure table of phase, body and blockage to seconds and error. One caller.

Rules:

1. As long as the request's body is not whole, it is the client's turn (``idle_s`` since it last sent something); unless
   the backend takes no more of it (*blocked*): then the wait is the backend's.
2. A backend that has the whole request has to send its first byte by the attempt's own limit, and each further byte
   within ``idle_s``.
3. A request that waits for a connection does so by a clock of its own: ``connect_s`` and ``first_byte_s`` together.
   That this runs out says nothing about the backend.
4. Two waits end in no error: for the backend's leave to send the body, and before the only endpoint is asked again.

How long the whole exchange and one attempt may take (``total_s``, ``try_s``) is bounded besides.
"""

from __future__ import annotations

from typing import Final

from gateway.proxy.heads import gateway_errors
from gateway.proxy.heads.gateway_errors import Fault

# The phases that have a deadline.
GATHER: Final = 0  # the body is held until it is whole or flows
CONNECT: Final = 1  # a connection is waited for
CONTINUE: Final = 2  # leave to send the body is waited for
PAUSE: Final = 3  # the only endpoint is asked again after a moment
SEND: Final = 4  # the request is on its way, or its answer is waited for
RELAY: Final = 5  # the answer comes

# Which time it is that runs out.
IDLE: Final = 0
FIRST_BYTE: Final = 1
QUEUE: Final = 2
LEAVE: Final = 3
MOMENT: Final = 4

CONTINUE_S: Final = 0.5
"""How long a client waits for leave to send its body that its backend does not give."""
MOMENT_S: Final = 0.05


class Deadline:
    """A row of the table: which time it is (a name above), and what is the matter when it is over."""

    __slots__ = ("fault", "time")

    def __init__(self, time: int, fault: Fault) -> None:
        self.time = time
        self.fault = fault

    def after_s(self, idle_s: float, first_byte_s: float, connect_s: float, limit_s: float) -> float:
        """So long from now; ``limit_s`` is the present attempt's for its first byte."""
        time = self.time
        if time == IDLE:
            return idle_s
        if time == FIRST_BYTE:
            return limit_s
        if time == QUEUE:
            return connect_s + first_byte_s
        return MOMENT_S if time == MOMENT else min(CONTINUE_S, first_byte_s)


_BODY: Final = Deadline(IDLE, gateway_errors.BODY_TIMEOUT)
_STALLED: Final = Deadline(IDLE, gateway_errors.IDLE_TIMEOUT)
_LEAVE: Final = Deadline(LEAVE, gateway_errors.BODY_TIMEOUT)
_MOMENT: Final = Deadline(MOMENT, gateway_errors.CONNECT_FAILED)
_QUEUE: Final = Deadline(QUEUE, gateway_errors.QUEUE_TIMEOUT)

# By phase: (the client's turn, blocked, the body is whole). Its type keeps it one object: a tuple of known length is
# copied by compiled code, row by row.
_TABLE: Final[tuple[tuple[Deadline, ...], ...]] = (
    (_BODY, _BODY, _BODY),
    # Blocked, before there is a connection: no more of the body can be held, and other uploads are waited for.
    (_BODY, Deadline(QUEUE, gateway_errors.BODY_BUFFERS_FULL), _QUEUE),
    (_LEAVE, _LEAVE, _LEAVE),
    (_MOMENT, _MOMENT, _MOMENT),
    (
        _BODY,
        Deadline(IDLE, gateway_errors.FIRST_BYTE_TIMEOUT),
        Deadline(FIRST_BYTE, gateway_errors.FIRST_BYTE_TIMEOUT),
    ),
    (_BODY, _STALLED, _STALLED),
)
FIRST: Final = _BODY
"""Of an exchange that is not waiting for anything yet."""


def deadline(phase: int, *, whole: bool, blocked: bool) -> Deadline:
    """What is waited for in this phase. ``whole``: all of the body has come, and was sent if there is a connection."""
    return _TABLE[phase][2 if whole else 1 if blocked else 0]
