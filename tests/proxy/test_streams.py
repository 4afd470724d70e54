"""What a worker counts of an event stream, and of clients that leave: when the first event came, and the pauses."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable

import msgspec
import pytest

from gateway.core.stats import Counts
from gateway.core.stats.histogram import lower_us
from gateway.core.traffic.table import Route
from gateway.proxy.exchange.stream_times import StreamTimes
from tests.support.backend import Backend, Peer, Script, Seen
from tests.support.worker import RunningWorker, eventually, table

pytestmark = pytest.mark.anyio
ROUTE = Route("r", "/", stable="a", canary="b", weight_bp=10_000)
GET = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: %b\r\ntransfer-encoding: chunked\r\n\r\n"
TYPES = [b"text/event-stream", b"text/event-stream; charset=utf-8", b"Application/X-NDJSON", b"text/plain"]


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def stream(*steps: float | bytes, content_type: bytes = b"text/event-stream") -> Script:
    """A head at once, then pieces and pauses; an endless pause ends when the gateway closes the connection."""

    async def script(_: Seen, peer: Peer) -> None:
        await peer.send(HEAD % content_type)
        for step in steps:
            if isinstance(step, bytes):
                await peer.send(chunk(step))
            elif step < 60:
                await asyncio.sleep(step)
            else:
                await peer.reader.read(1)
                peer.close()
                return
        await peer.send(b"0\r\n\r\n")

    return script


async def counted(
    script: Script, client: Callable[[RunningWorker], object], ready: Callable[[Counts], object], route: Route = ROUTE
) -> Counts:
    """What the canary's counts are after one client, once they are ready."""
    found = Counts()

    def seen() -> object:
        nonlocal found
        (found,) = [e.canary for e in w.evidence() if e.canary.assigned] or [Counts()]
        return ready(found)

    async with Backend() as a, Backend(script) as b, RunningWorker(table(route, a=a.port, b=b.port)) as w:
        await client(w)  # type: ignore[misc]  # a coroutine function
        await eventually(seen, "it is counted")
    return found


async def waits(w: RunningWorker) -> None:
    assert (await w.raw(GET)).endswith(b"0\r\n\r\n")


async def closes(w: RunningWorker) -> None:
    """Closes in order after 0.4 s: a FIN, which comes too late for a half-close."""
    _, writer = await asyncio.open_connection("127.0.0.1", w.port)
    writer.write(GET)
    await asyncio.sleep(0.4)
    writer.close()


async def resets(w: RunningWorker) -> None:
    """Resets the connection after 0.4 s."""
    _, writer = await asyncio.open_connection("127.0.0.1", w.port)
    writer.write(GET)
    await asyncio.sleep(0.4)
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


def us(histogram: dict[int, int]) -> int:
    """The one time in it, or 0."""
    assert sum(histogram.values()) <= 1
    return lower_us(next(iter(histogram))) if histogram else 0


@pytest.mark.parametrize("content_type", TYPES)
async def test_the_latency_of_a_stream_ends_with_its_first_event_and_its_pauses_are_kept(content_type: bytes) -> None:
    script = stream(0.1, b"x\n", 0.01, b"x\n", 0.4, b"x\n", content_type=content_type)
    seen = await counted(script, waits, lambda c: c.requests)
    assert us(seen.latency) >= 95_000, "not the head, which came at once"
    assert us(seen.gap) >= 200_000
    assert 100_000 <= us(seen.time_per_event) < us(seen.gap)
    assert not seen.gap_left and not seen.aborted and not seen.duration_left


ROLE = b'data: {"choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}]}\n\n'
TOKEN = b'data: {"choices":[{"index":0,"delta":{"content":"Hi"},"finish_reason":null}]}\n\n'
STOP = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
OLLAMA = b'{"model":"m","message":{"role":"assistant","content":"%b"},"done":%b}\n'


@pytest.mark.parametrize(
    ("opening", "token", "content_type"),
    [
        (ROLE + b": ping\n\n", TOKEN, b"text/event-stream"),
        (OLLAMA % (b"", b"false"), OLLAMA % (b"Hi", b"false"), b"application/x-ndjson"),
    ],
)
async def test_the_first_token_is_the_first_event_with_content_and_pauses_begin_with_it(
    opening: bytes, token: bytes, content_type: bytes
) -> None:
    script = stream(opening, 0.4, token, 0.01, token, 0.01, token, content_type=content_type)
    seen = await counted(script, waits, lambda c: c.requests)
    assert us(seen.first_token) >= 350_000 > us(seen.latency), "the role chunk came at once"
    assert us(seen.gap) < 350_000, "the wait for the first token is no pause between two"
    assert us(seen.time_per_event) < us(seen.first_token) and not seen.first_token_left


async def test_a_stream_without_content_has_no_first_token() -> None:
    seen = await counted(stream(ROLE, 0.01, STOP), waits, lambda c: c.requests)
    assert seen.latency and not seen.first_token and not seen.first_token_left


@pytest.mark.parametrize("leaves", [closes, resets])
async def test_who_leaves_before_the_first_token_has_waited_at_least_so_long(leaves: Callable[..., object]) -> None:
    seen = await counted(stream(ROLE, 99.0), leaves, lambda c: c.first_token_left)
    assert us(seen.first_token_left) >= 100_000 and us(seen.latency) and not seen.first_token


async def test_an_answer_of_a_known_length_and_a_document_in_chunks_have_no_pauses() -> None:
    async def known(_: Seen, peer: Peer) -> None:
        await peer.send(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: 2\r\n\r\na")
        await asyncio.sleep(0.1)
        await peer.send(b"b")

    async def ask(w: RunningWorker) -> None:
        assert (await w.raw(GET)).endswith(b"ab")

    seen = await counted(known, ask, lambda c: c.requests)
    assert us(seen.latency) < us(seen.duration) and not seen.gap and not seen.time_per_event
    document = stream(0.1, b"[1,", 0.05, b"2]", content_type=b"application/json")
    seen = await counted(document, waits, lambda c: c.requests)
    assert us(seen.latency) >= 95_000 and not seen.gap, "what it has to say came late, in pieces of any size"


@pytest.mark.parametrize("leaves", [closes, resets])
async def test_a_client_that_leaves_in_the_middle_leaves_what_is_known(leaves: Callable[..., object]) -> None:
    seen = await counted(stream(b"x\n", 0.01, b"x\n", 99.0), leaves, lambda c: c.gap_left)
    assert seen.outcomes == {"abandoned": 1} and not seen.gap and not seen.aborted
    assert 0 < us(seen.latency) < us(seen.duration_left), "its first event came, whatever happened later"
    assert us(seen.gap_left) >= 100_000, "the pause was open when it left"
    assert 0 < us(seen.time_per_event) < us(seen.gap_left), "of what came"


@pytest.mark.parametrize("leaves", [closes, resets])
@pytest.mark.parametrize("steps", [(99.0,), (b": ping\n\n", 0.02, b": ping\n\n", 99.0)])
async def test_a_client_that_leaves_before_the_first_event_has_waited(
    leaves: Callable[..., object], steps: tuple[float | bytes, ...]
) -> None:
    seen = await counted(stream(*steps), leaves, lambda c: c.aborted)
    assert us(seen.aborted) >= 100_000, "a head, and comments that keep the connection open, are no event"
    assert not seen.latency and not seen.gap_left and not seen.duration_left


async def test_a_client_that_leaves_while_it_sends_says_nothing() -> None:
    async def sending(w: RunningWorker) -> None:
        _, writer = await asyncio.open_connection("127.0.0.1", w.port)
        writer.write(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nsome")
        await eventually(lambda: any(e.canary.assigned for e in w.evidence()), "it is assigned")
        await asyncio.sleep(0.05)
        writer.close()
        await eventually(lambda: w.observer.merged().aborted, "it has left")

    async def reads(_: Seen, peer: Peer) -> None:
        await peer.reader.read(1)
        peer.close()

    route = msgspec.structs.replace(ROUTE, streams_requests=True)
    seen = await counted(reads, sending, lambda c: c.assigned, route)
    assert not seen.aborted and not seen.latency and not seen.requests


def test_events_are_counted_by_their_ends_and_the_clients_own_pauses_left_out() -> None:
    times = StreamTimes([b"content-type: text/event-stream\r\n"])
    times.piece(b"data: 1\n\n", 1.0)
    times.piece(b": ping\n\n", 4.0)
    times.piece(b"data: 2\n\nda", 5.0)
    times.piece(b"ta: 3\n\ndata: 4\n\n", 6.0)
    assert (times.first_s, times.gap_s) == (1.0, 4.0), "a comment ends no pause"
    assert times.time_per_event_s == pytest.approx(5 / 3)
    times.stopped(6.5)
    times.resumed(16.5)
    times.piece(b"data: 5\n\n", 17.0)
    assert times.gap_s == 4.0 and times.time_per_event_s == pytest.approx(6 / 4)
    times.ended(27.0)
    assert times.gap_s == 10.0, "also the last pause, to the end"


def test_events_of_a_coded_stream_are_its_pieces() -> None:
    times = StreamTimes([b"Content-Type: application/jsonl\r\ncontent-encoding: gzip\r\n"])
    for at_s in (1.0, 2.0, 3.0):
        times.piece(b"\n\n\n\n", at_s)
    assert times.time_per_event_s == pytest.approx(1.0)
