"""What a request and its answer look like after they have passed the gateway."""

from __future__ import annotations

import asyncio
import socket
import struct

import httpx
import pytest

from gateway.core.traffic.table import Route
from tests.support.backend import Backend, Peer, Seen, answer, raw
from tests.support.worker import RunningWorker, eventually, table

pytestmark = pytest.mark.anyio
ROUTE = Route("r", "/", stable="a")


async def test_a_request_arrives_with_its_bytes_and_fresh_framing() -> None:
    async with Backend() as a, RunningWorker(table(ROUTE, a=a.port)) as w:
        reply = await w.raw(
            b"POST /v2/m%2Fx/infer?a=1&b=%20 HTTP/1.1\r\nHost: model.example:99\r\nX-One: 1\r\nX-Two: a\r\nx-two: b\r\n"
            b"Content-Length: 4\r\nConnection: close, x-one\r\nKeep-Alive: 5\r\nTE: trailers\r\n\r\nbody"
        )
    (seen,) = a.seen
    assert reply.startswith(b"HTTP/1.1 200")
    assert (seen.method, seen.target, seen.body) == (b"POST", b"/v2/m%2Fx/infer?a=1&b=%20", b"body")
    assert seen.all(b"host") == [b"model.example:99"]
    assert seen.all(b"content-length") == [b"4"]
    assert seen.all(b"x-two") == [b"a", b"b"], "duplicates keep their order"
    for gone in (b"x-one", b"keep-alive", b"transfer-encoding"):
        assert seen.all(gone) == [], gone
    assert seen.all(b"te") == [b"trailers"] and seen.all(b"connection") == [b"te"], "what the gateway itself accepts"
    assert seen.all(b"via") == [b"1.1 canary-gateway"]
    assert seen.all(b"x-forwarded-for") == [b"127.0.0.1"]


async def test_connection_cannot_nominate_what_protects_the_backend() -> None:
    async with Backend() as a, RunningWorker(table(ROUTE, a=a.port)) as w:
        await w.raw(
            b"GET / HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer x\r\nCookie: c=1\r\n"
            b"Connection: close, authorization, cookie, host, x-forwarded-for\r\n\r\n"
        )
    (seen,) = a.seen
    assert seen.all(b"authorization") == [b"Bearer x"]
    assert seen.all(b"cookie") == [b"c=1"]
    assert seen.all(b"host") == [b"h"]
    assert seen.all(b"x-forwarded-for") == [b"127.0.0.1"]


@pytest.mark.parametrize(("trusted", "expected"), [((), b"127.0.0.1"), (("127.0.0.0/8",), b"9.9.9.9, 127.0.0.1")])
async def test_forwarded_addresses_are_believed_only_from_trusted_peers(
    trusted: tuple[str, ...], expected: bytes
) -> None:
    async with Backend() as a, RunningWorker(table(ROUTE, a=a.port), trusted=trusted) as w:
        await w.raw(b"GET / HTTP/1.1\r\nHost: h\r\nX-Forwarded-For: 9.9.9.9\r\nConnection: close\r\n\r\n")
    assert a.seen[0].all(b"x-forwarded-for") == [expected]


async def test_an_absolute_target_becomes_origin_form_and_its_authority_the_host() -> None:
    async with Backend() as a, RunningWorker(table(ROUTE, a=a.port)) as w:
        await w.raw(b"GET http://real.example/p?q HTTP/1.1\r\nHost: fake\r\nConnection: close\r\n\r\n")
    assert a.seen[0].target == b"/p?q"
    assert a.seen[0].all(b"host") == [b"real.example"]


async def test_a_chunked_request_is_reframed() -> None:
    async with Backend() as a, RunningWorker(table(ROUTE, a=a.port)) as w:
        await w.raw(
            b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
            b"3;ext=1\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
        )
    assert a.seen[0].body == b"abcde"
    assert a.seen[0].all(b"content-length") == []


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (b"HTTP/1.1 200 Fine\r\nContent-Length: 2\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\n\r\nok", b"\r\n\r\nok"),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;x=y\r\nok\r\n0\r\nT: 1\r\n\r\n",
            b"2\r\nok\r\n0\r\n\r\n",
        ),
        (b"HTTP/1.1 200 OK\r\n\r\nok", b"2\r\nok\r\n0\r\n\r\n"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", b"\r\n\r\n"),
        (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", b"content-length: 5\r\nconnection: close\r\n\r\n"),
    ],
    ids=["length", "chunked", "until-close", "204", "304"],
)
async def test_every_framing_of_a_response_is_passed_on_soundly(reply: bytes, expected: bytes) -> None:
    until_close = b"ength" not in reply and b"hunked" not in reply and b"204" not in reply
    async with Backend(raw(reply, close=until_close)) as a, RunningWorker(table(ROUTE, a=a.port)) as w:
        got = await w.raw(b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
    assert got.endswith(expected), got
    assert got.count(b"Set-Cookie") == reply.count(b"Set-Cookie")
    assert b"x-gateway-variant: stable\r\n" in got
    assert not (b"content-length" in got and b"transfer-encoding" in got)


async def test_a_head_response_keeps_its_length_and_the_connection_lives() -> None:
    async with (
        Backend(raw(b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n")) as a,
        RunningWorker(table(ROUTE, a=a.port)) as w,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{w.port}", timeout=20) as client,
    ):
        for _ in range(3):
            reply = await client.head("/")
            assert (reply.status_code, reply.headers["content-length"]) == (200, "7")
        a.script = answer(body=b"after")
        assert (await client.get("/")).text == "after"
        assert a.connections == 1, "the upstream connection was kept"


async def test_an_http10_client_gets_a_body_it_can_read() -> None:
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
    async with Backend(raw(chunked)) as a, RunningWorker(table(ROUTE, a=a.port)) as w:
        got = await w.raw(b"GET / HTTP/1.0\r\n\r\n")
    head, _, body = got.partition(b"\r\n\r\n")
    assert body == b"hello"
    assert b"chunked" not in head


async def test_pipelined_requests_are_answered_in_order() -> None:
    async def echo(seen: Seen, peer: Peer) -> None:
        await peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(seen.target), seen.target))

    async with Backend(echo) as a, RunningWorker(table(ROUTE, a=a.port)) as w:
        requests = [b"GET /%d HTTP/1.1\r\nHost: h\r\n\r\n" % i for i in range(500)]
        got = await w.raw(b"".join(requests) + b"GET /last HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
    bodies = [part.split(b"HTTP/1.1")[0] for part in got.split(b"\r\n\r\n")[1:]]
    assert bodies == [*(b"/%d" % i for i in range(500)), b"/last"]


async def test_expect_100_continue_is_answered_before_the_body() -> None:
    async with Backend() as a, RunningWorker(table(ROUTE, a=a.port)) as w:
        reader, writer = await asyncio.open_connection("127.0.0.1", w.port)
        writer.write(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n")
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(b"hi")
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
        writer.close()
    assert a.seen[0].body == b"hi"
    assert a.seen[0].all(b"expect") == [b"100-continue"], "and the backend was asked"


async def test_early_hints_pass_and_a_stream_is_not_held_back() -> None:
    go_on = asyncio.Event()

    async def stream(_: Seen, peer: Peer) -> None:
        await peer.send(b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\nHTTP/1.1 200 OK\r\n")
        await peer.send(b"content-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n6\r\ndata:1\r\n")
        await go_on.wait()
        await peer.send(b"6\r\ndata:2\r\n0\r\n\r\n")

    async with Backend(stream) as a, RunningWorker(table(ROUTE, a=a.port)) as w:
        reader, writer = await asyncio.open_connection("127.0.0.1", w.port)
        writer.write(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n"
        assert b" 200 OK" in await reader.readuntil(b"\r\n\r\n")
        assert await reader.readuntil(b"data:1\r\n") == b"6\r\ndata:1\r\n", "the first event comes before the second"
        go_on.set()
        assert await reader.readuntil(b"0\r\n\r\n") == b"6\r\ndata:2\r\n0\r\n\r\n"
        writer.close()


async def test_large_bodies_stream_both_ways_in_bounded_memory() -> None:
    size = 16 << 20

    async def big(_: Seen, peer: Peer) -> None:
        await peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % size)
        for _piece in range(size >> 16):
            await peer.send(bytes(1 << 16))

    async with Backend(big) as a, RunningWorker(table(ROUTE, a=a.port)) as w:
        before_kib = w.rss_kib
        reader, writer = await asyncio.open_connection("127.0.0.1", w.port)
        writer.write(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % size)
        for _ in range(size >> 16):
            writer.write(bytes(1 << 16))
            await writer.drain()
        await asyncio.sleep(0.2)  # a client that reads late: the gateway must not read ahead without bound
        grown_kib = w.rss_kib - before_kib
        got = 0
        await reader.readuntil(b"\r\n\r\n")
        while piece := await reader.read(1 << 20):
            got += len(piece)
        writer.close()
    assert got == size
    assert len(a.seen[0].body) == size
    assert grown_kib < 8 * 1024, f"grew by {grown_kib} KiB"


async def test_a_client_that_leaves_frees_the_upstream_and_blames_nobody() -> None:
    never = asyncio.Event()

    async def wait(_: Seen, peer: Peer) -> None:
        await never.wait()

    async with Backend(wait) as a, RunningWorker(table(ROUTE, a=a.port)) as w:
        _, writer = await asyncio.open_connection("127.0.0.1", w.port)
        writer.write(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        await eventually(lambda: a.seen and a.seen[0].complete, "the request arrives")
        # With SO_LINGER 0 closing sends a reset; a plain FIN could be a client that still wants its answer.
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()
        await eventually(lambda: w.observer.merged().aborted == 1, "the abort is counted")
        await eventually(lambda: w.observer.merged().reports[0].in_flight == 0, "nothing is left")
        assert w.counts() == (1, 0, 0, 0)


async def test_a_half_closed_client_still_gets_its_answer() -> None:
    async def slow(_: Seen, peer: Peer) -> None:
        await asyncio.sleep(0.2)
        await peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")

    async with Backend(slow) as a, RunningWorker(table(ROUTE, a=a.port)) as w:
        reader, writer = await asyncio.open_connection("127.0.0.1", w.port)
        writer.write(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        writer.write_eof()
        assert (await reader.read()).endswith(b"ok")
        writer.close()
