"""What an attempt came to, as a table: no socket, no clock."""

from __future__ import annotations

import pytest

from gateway.core.stats.outcomes import EMPTY, ERRORS, OK, OVERLOAD, by_status
from gateway.proxy.exchange import outcome
from gateway.proxy.exchange.outcome import elapsed_us, kind_of_answer, kind_of_fault, latency_us, waited
from gateway.proxy.exchange.stream_times import StreamTimes
from gateway.proxy.heads import gateway_errors
from gateway.proxy.heads.gateway_errors import Fault

EVENTS = [b"content-type: text/event-stream\r\n"]

# (status, exempt statuses of the route, empty, HEAD) -> class
ANSWERS: dict[str, tuple[int, tuple[int, ...], bool, bool, str]] = {
    "a 200 with a body": (200, (), False, False, OK),
    "a 200 without one": (200, (), True, False, EMPTY),
    "to HEAD none is due": (200, (), True, True, OK),
    "a 201 has nothing to say": (201, (), True, False, "other_success"),
    "a 500": (500, (), False, False, ERRORS),
    "a 500 that this route is used to": (500, (500,), False, False, OK),
    "a 500 of no bytes": (500, (), True, False, ERRORS),
}

# (fault, a trial with less time, endpoints are kept out) -> class
FAULTS: dict[str, tuple[Fault, bool, bool, str]] = {
    "a reset": (gateway_errors.RESET, False, False, ERRORS),
    "a refused connection": (gateway_errors.CONNECT_FAILED, False, False, ERRORS),
    "no first byte": (gateway_errors.FIRST_BYTE_TIMEOUT, False, False, ERRORS),
    "no first byte, with less than the route's time": (gateway_errors.FIRST_BYTE_TIMEOUT, True, False, outcome.TRIAL),
    "a trial's reset is a failure": (gateway_errors.RESET, True, False, ERRORS),
    "a full queue": (gateway_errors.QUEUE_FULL, False, False, OVERLOAD),
    "a full queue, because endpoints are out": (gateway_errors.QUEUE_FULL, False, True, outcome.UNSERVED),
    "a queue too long": (gateway_errors.QUEUE_TIMEOUT, False, False, OVERLOAD),
    "no endpoint": (gateway_errors.NO_ENDPOINT, False, False, outcome.UNSERVED),
    "no descriptors": (gateway_errors.TOO_MANY_CONNECTIONS, False, False, outcome.UNSERVED),
    "no room for bodies": (gateway_errors.BODY_BUFFERS_FULL, False, False, outcome.UNSERVED),
    "the client's slow body": (gateway_errors.BODY_TIMEOUT, False, False, outcome.NOBODYS),
    "a stale connection": (gateway_errors.STALE, False, False, outcome.NOBODYS),
    "all the exchange's time": (gateway_errors.TOTAL_TIMEOUT, False, False, outcome.NOBODYS),
}


@pytest.mark.parametrize("case", ANSWERS)
def test_an_answer_has_the_class_of_its_status_on_this_route(case: str) -> None:
    status, exempt, empty, head_only, kind = ANSWERS[case]
    assert kind_of_answer(by_status(exempt), status, empty=empty, head_only=head_only) == kind


@pytest.mark.parametrize("case", FAULTS)
def test_only_the_backends_doing_is_its_failure(case: str) -> None:
    fault, hurried, short, kind = FAULTS[case]
    assert kind_of_fault(fault, hurried=hurried, short=short) == kind


def test_a_latency_ends_with_the_head() -> None:
    assert latency_us(13.0, since_s=11.0, head_s=11.5, stream=None) == 500_000
    assert not waited(head_s=11.5, stream=None)


def test_what_never_came_has_lasted_until_now() -> None:
    assert latency_us(13.0, since_s=11.0, head_s=0.0, stream=None) == 2_000_000
    assert waited(head_s=0.0, stream=None)


def test_a_streams_latency_ends_with_its_first_event() -> None:
    stream = StreamTimes(EVENTS)
    assert latency_us(12.0, since_s=11.0, head_s=11.25, stream=stream) == 1_000_000, "none has come"
    assert waited(head_s=11.25, stream=stream)
    for at_s in (12.5, 13.0, 14.5):
        stream.piece(b"data: x\n\n", at_s)
    assert latency_us(17.0, since_s=11.0, head_s=11.25, stream=stream) == 1_500_000
    assert not waited(head_s=11.25, stream=stream)


def test_a_clock_that_stood_still_gives_no_negative_time() -> None:
    assert elapsed_us(10.5, 10.0) == 0
    assert latency_us(10.0, since_s=10.5, head_s=10.25, stream=None) == 0
