"""Whose turn it is, and for how long, as a table: no socket, no clock."""

from __future__ import annotations

import pytest

from gateway.proxy.exchange import deadlines
from gateway.proxy.exchange.deadlines import CONNECT, CONTINUE, GATHER, PAUSE, RELAY, SEND, deadline

IDLE_S, FIRST_BYTE_S, CONNECT_S, LIMIT_S = 15.0, 60.0, 2.0, 7.0

# (phase, the body is whole, blocked) -> seconds, and what is the matter when they are over
TABLE: dict[str, tuple[int, bool, bool, float, str]] = {
    "a body that is held until it flows": (GATHER, False, False, IDLE_S, "body_timeout"),
    "a whole request waits for a connection": (CONNECT, True, False, CONNECT_S + FIRST_BYTE_S, "queue_timeout"),
    "one that was sent in a full buffer, too": (CONNECT, True, True, CONNECT_S + FIRST_BYTE_S, "queue_timeout"),
    "one that no more can be held of": (CONNECT, False, True, CONNECT_S + FIRST_BYTE_S, "body_buffers_full"),
    "one that is still coming is its client's to bring": (CONNECT, False, False, IDLE_S, "body_timeout"),
    "the client sends": (SEND, False, False, IDLE_S, "body_timeout"),
    "the backend does not read": (SEND, False, True, IDLE_S, "first_byte_timeout"),
    "the backend thinks": (SEND, True, False, LIMIT_S, "first_byte_timeout"),
    "the backend thinks, with the last bytes unread": (SEND, True, True, LIMIT_S, "first_byte_timeout"),
    "an answer that comes": (RELAY, True, False, IDLE_S, "idle_timeout"),
    "an answer before the body is whole": (RELAY, False, False, IDLE_S, "body_timeout"),
    "an answer, and the body is not read": (RELAY, False, True, IDLE_S, "idle_timeout"),
}


@pytest.mark.parametrize("case", TABLE)
def test_each_wait_has_its_time_and_its_fault(case: str) -> None:
    phase, whole, blocked, seconds, reason = TABLE[case]
    row = deadline(phase, whole=whole, blocked=blocked)
    assert (row.after_s(IDLE_S, FIRST_BYTE_S, CONNECT_S, LIMIT_S), row.fault.reason) == (seconds, reason)


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("blocked", [False, True])
def test_two_waits_end_in_no_error_whatever_becomes_of_the_body(whole: bool, blocked: bool) -> None:
    leave, moment = deadline(CONTINUE, whole=whole, blocked=blocked), deadline(PAUSE, whole=whole, blocked=blocked)
    assert (leave.time, moment.time) == (deadlines.LEAVE, deadlines.MOMENT)
    assert leave.after_s(IDLE_S, FIRST_BYTE_S, CONNECT_S, LIMIT_S) == deadlines.CONTINUE_S
    assert leave.after_s(IDLE_S, 0.1, CONNECT_S, LIMIT_S) == 0.1, "no longer than the backend may take"
    assert moment.after_s(IDLE_S, FIRST_BYTE_S, CONNECT_S, LIMIT_S) == deadlines.MOMENT_S
