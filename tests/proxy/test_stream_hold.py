"""The beginning of a canary's event stream is held back until it says something; one that fails before is stable's."""

from __future__ import annotations

import asyncio
import contextlib
import itertools

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gateway.core.traffic.table import Hold, Rescue, Route
from gateway.proxy.exchange.stream_hold import CONTENT, FAILED, HELD_BYTES_MAX, HELD_S_MAX, HOLD, StreamHold
from gateway.proxy.exchange.stream_opening import NOTHING_YET, StreamOpening
from tests.support.backend import Backend, Peer, Script, Seen
from tests.support.worker import RunningWorker, table

ROLE = b'data: {"choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}]}\n\n'
TOKEN = b'data: {"choices":[{"index":0,"delta":{"content":"Hi"},"finish_reason":null}]}\n\n'
ERROR = b'data: {"error":{"message":"out of memory","code":500}}\n\n'
DONE = b"data: [DONE]\n\n"
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
STABLE = HEAD + b"".join(b"%x\r\n%b\r\n" % (len(one), one) for one in (ROLE, TOKEN, DONE)) + b"0\r\n\r\n"

BEGINNINGS = [
    (b"", HOLD),
    (b": ping\n\n", HOLD),
    (b"\xef\xbb\xbf" + ROLE, HOLD),
    (ROLE, HOLD),
    (ROLE.replace(b"\n", b"\r\n"), HOLD),
    (ROLE.replace(b"\n", b"\r"), HOLD),
    (DONE, HOLD),
    (b'data: {"choices":[],"usage":null}\n\n', HOLD),
    (b'event: ping\ndata: {"type": "ping"}\n\n', HOLD),
    (b'event: message_start\ndata: {"type":"message_start","message":{}}\n\n', HOLD),
    (b'data: {"type":"response.created","response":{}}\n\n', HOLD),
    (TOKEN, CONTENT),
    (ROLE + TOKEN, CONTENT),
    (b'data: {"choices":[{"text":"Hi"}]}\n\n', CONTENT),
    (b'data: {"choices":[{"delta":{"tool_calls":[{"id":"1"}]}}]}\n\n', CONTENT),
    (b'data: {"choices":[{"delta":{},"finish_reason":"length"}]}\n\n', CONTENT),
    (b'event: content_block_delta\ndata: {"type":"content_block_delta"}\n\n', CONTENT),
    (b"data: 42\n\n", CONTENT),
    (b"id: 1\nretry: 5\nx\n", CONTENT),
    (b"data: tick\n\n", CONTENT),
    (b'data: {"token":{"text":"a"}}\n\n', CONTENT),
    (ERROR, FAILED),
    (ROLE + ERROR, FAILED),
    (b": ping\n\n" + ROLE + b"event: error\ndata: no\n\n", FAILED),
    (b"data: [ERROR] no memory\n\n", FAILED),
    (TOKEN + ERROR, CONTENT),
]


@pytest.mark.parametrize(("stream", "expected"), BEGINNINGS)
@given(cuts=st.lists(st.integers(0, 200), max_size=6))
@example(cuts=list(range(200)))
@example(cuts=[])
@settings(max_examples=25)
def test_what_a_beginning_says_does_not_depend_on_where_it_is_cut(
    stream: bytes, expected: int, cuts: list[int]
) -> None:
    hold, opening, found = StreamHold(0.0), StreamOpening(), HOLD
    places = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    for start, end in itertools.pairwise(places):
        if start < end and found == HOLD:
            found = hold.add(end - start, opening.feed(stream[start:end]), 0.1)
    assert found == expected


def test_no_more_than_so_much_is_held_and_no_longer_than_so_long() -> None:
    hold = StreamHold(10.0)
    assert hold.add(len(ROLE), NOTHING_YET, 10.0 + HELD_S_MAX) == HOLD
    assert hold.add(8, NOTHING_YET, 10.1 + HELD_S_MAX) == CONTENT
    hold, fed = StreamHold(0.0), 0
    while hold.add(len(ROLE), NOTHING_YET, 1.0) == HOLD:
        fed += len(ROLE)
    assert HELD_BYTES_MAX - len(ROLE) <= fed <= HELD_BYTES_MAX


# over sockets


def streaming(*pieces: bytes, cut: bool = False) -> Script:
    """A handler that sends these pieces as chunks; ``cut``: then the connection breaks off."""

    async def handle(seen: Seen, peer: Peer) -> None:
        await peer.send(HEAD)
        for piece in pieces:
            await peer.send(b"%x\r\n%b\r\n" % (len(piece), piece))
            await asyncio.sleep(0.02)
        if cut:
            peer.writer.transport.abort()
        else:
            await peer.send(b"0\r\n\r\n")

    return handle


async def answered(canaries: dict[str, Script], rescue: Rescue | None = None) -> dict[str, tuple[bytes, int]]:
    """By canary what its client gets, and how many requests stable got of it: each on a route of its own."""
    found = {}
    async with contextlib.AsyncExitStack() as stack:
        a = await stack.enter_async_context(Backend(streaming(ROLE, TOKEN, DONE)))
        ports = {name: (await stack.enter_async_context(Backend(one))).port for name, one in canaries.items()}
        routes = [
            Route(name, f"/{name}", stable="a", canary=name, weight_bp=10_000, rescue=rescue or Rescue())
            for name in canaries
        ]
        w = await stack.enter_async_context(RunningWorker(table(*routes, a=a.port, **ports)))
        for name in canaries:
            before = len(a.seen)
            head = f"POST /{name} HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{{}}"
            found[name] = await w.raw(head.encode()), len(a.seen) - before
    return found


@pytest.mark.anyio
async def test_a_stream_that_fails_before_its_first_content_is_answered_by_stable() -> None:
    canaries = {
        "error": streaming(ERROR),
        "role-error": streaming(ROLE, ERROR, DONE),
        "ping-role-error": streaming(b": ping\n\n", ROLE, b"event: error\ndata: no\n\n"),
        "no-content": streaming(ROLE, DONE),
        "empty": streaming(),
        "cut": streaming(ROLE, cut=True),
    }
    for name, (got, by_stable) in (await answered(canaries)).items():
        assert b"x-gateway-rescued: true" in got and by_stable == 1, name
        assert got.count(b"HTTP/1.1") == 1 and got.count(b'"Hi"') == 1 and b"error" not in got, name
        assert got.endswith(b"0\r\n\r\n"), name


@pytest.mark.anyio
async def test_from_the_first_content_on_nothing_is_hidden() -> None:
    canaries = {
        "good": streaming(ROLE, TOKEN, DONE),
        "error-later": streaming(ROLE, TOKEN, ERROR),
        "cut-later": streaming(ROLE, TOKEN, cut=True),
    }
    for name, (got, by_stable) in (await answered(canaries)).items():
        assert by_stable == 0 and b"x-gateway-variant: canary" in got, name
        assert ROLE in got and TOKEN in got, name


@pytest.mark.anyio
@pytest.mark.parametrize("rescue", [Rescue(hold=Hold.OFF), Rescue(budget_percent=0.0, budget_burst=0)])
async def test_without_a_rescue_the_client_gets_the_stream_as_it_is(rescue: Rescue) -> None:
    got, by_stable = (await answered({"failing": streaming(ROLE, ERROR)}, rescue))["failing"]
    assert by_stable == 0 and ROLE in got and ERROR in got and got.endswith(b"0\r\n\r\n")
