"""Requests that the gateway answers itself: smallest honest status, marked, nothing passed upstream."""

from __future__ import annotations

import asyncio
import contextlib
import json

import pytest

from gateway.core.traffic.table import Route
from gateway.runtime.settings import Limits
from tests.support.backend import Backend
from tests.support.worker import RunningWorker, eventually, table

pytestmark = pytest.mark.anyio
ROUTE = Route("r", "/model", stable="a")

MALFORMED = {
    "no host": b"GET /model HTTP/1.1\r\n\r\n",
    "two hosts": b"GET /model HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
    "host with userinfo": b"GET /model HTTP/1.1\r\nHost: u@a\r\n\r\n",
    "length and chunked": b"POST /model HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
    "two lengths": b"POST /model HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabc",
    "same length twice": b"POST /model HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nabc",
    "signed length": b"POST /model HTTP/1.1\r\nHost: a\r\nContent-Length: +3\r\n\r\nabc",
    "coding other than chunked": b"POST /model HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
    "chunked in 1.0": b"POST /model HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "bad chunk": b"POST /model HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0x3\r\nabc\r\n0\r\n\r\n",
    "folded header": b"GET /model HTTP/1.1\r\nHost: a\r\nX: 1\r\n 2\r\n\r\n",
    "space before colon": b"GET /model HTTP/1.1\r\nHost : a\r\n\r\n",
    "bare LF": b"GET /model HTTP/1.1\nHost: a\n\n",
    "NUL in value": b"GET /model HTTP/1.1\r\nHost: a\r\nX: \x00\r\n\r\n",
    "underscore in name": b"GET /model HTTP/1.1\r\nHost: a\r\nX_Y: 1\r\n\r\n",
    "encoded NUL in target": b"GET /model%00 HTTP/1.1\r\nHost: a\r\n\r\n",
    "fragment in target": b"GET /model#x HTTP/1.1\r\nHost: a\r\n\r\n",
    "RTSP": b"GET /model RTSP/1.0\r\nHost: a\r\n\r\n",
    "a method of RTSP": b"SETUP /model RTSP/1.0\r\nHost: a\r\n\r\n",
    "ICE": b"SOURCE /model ICE/1.0\r\nHost: a\r\n\r\n",
    "garbage": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
}


REFUSED = [
    (b"GET /other HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", 404, "no_route"),
    (b"GET /modelx HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", 404, "no_route"),
    (b"GET /model/../x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", 404, "no_route"),
    (b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n", 405, "method_not_allowed"),
    (b"TRACE /model HTTP/1.1\r\nHost: a\r\n\r\n", 405, "method_not_allowed"),
    (b"GET /model HTTP/1.1\r\nHost: a\r\nExpect: tea\r\nConnection: close\r\n\r\n", 417, "expectation_failed"),
    (b"GET /%b HTTP/1.1\r\nHost: a\r\n\r\n" % (b"x" * 9000), 414, "target_too_long"),
    (b"GET /model HTTP/1.1\r\nHost: a\r\nX: %b\r\n\r\n" % (b"x" * 9000), 431, "head_too_large"),
    (b"GET /model HTTP/1.1\r\nHost: a\r\n%b\r\n" % (b"X: 1\r\n" * 200), 431, "head_too_large"),
    # In one piece, so that all of it is there before anything could be refused.
    (b"GET /model HTTP/1.1\r\nHost: a\r\n%b\r\n" % (b"X: %b\r\n" % (b"x" * 7000) * 5), 431, "head_too_large"),
    (b"POST /model HTTP/1.1\r\nHost: a\r\nContent-Length: 2000000\r\n\r\n", 413, "body_too_large"),
    (
        b"GET /model HTTP/1.1\r\nHost: a\r\nConnection: close\r\nVia: %b\r\n\r\n"
        % b", ".join([b"1.1 canary-gateway"] * 3),
        508,
        "loop",
    ),
]


async def test_a_malformed_request_gets_400_and_the_connection_closes(subtests: pytest.Subtests) -> None:
    async with Backend() as a, RunningWorker(table(ROUTE, a=a.port)) as w:
        for name, request_bytes in MALFORMED.items():
            with subtests.test(name):
                got = await w.raw(request_bytes + b"GET /model/smuggled HTTP/1.1\r\nHost: a\r\n\r\n")
                assert got.startswith(b"HTTP/1.1 400 "), got
                assert b"\r\nx-gateway-error: " in got
                assert b"\r\nconnection: close\r\n" in got
                assert got.count(b"HTTP/1.1 ") == 1, "nothing after the refusal is answered"
                assert not any(seen.complete for seen in a.seen), "no whole request reached the backend"


async def test_another_protocol_is_known_however_its_line_is_torn() -> None:
    asks = b"GET /model RTSP/1.0\r\nHost: a\r\nX: y\r\n\r\n"
    body = b"POST /model HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, x\r\nContent-Length: %d\r\n\r\n%b" % (
        len(asks),
        asks,
    )
    async with Backend() as a, RunningWorker(table(ROUTE, a=a.port)) as w:
        for at in range(14, len(asks), 4):
            reader, writer = await asyncio.open_connection("127.0.0.1", w.port)
            for piece in (asks[:at], asks[at:]):
                writer.write(piece)
                await asyncio.sleep(0.01)
            assert (await asyncio.wait_for(reader.read(), 20)).startswith(b"HTTP/1.1 400 "), at
            writer.close()
        assert a.seen == []
        reader, writer = await asyncio.open_connection("127.0.0.1", w.port)
        writer.write(body)
        assert (await reader.readline()).startswith(b"HTTP/1.1 200 "), "in a body it means nothing"
        writer.write(asks)
        assert b"HTTP/1.1 400 " in await asyncio.wait_for(reader.read(), 20)
        writer.close()
        assert len(a.seen) == 1


async def test_a_refusal_is_a_marked_problem_document(subtests: pytest.Subtests) -> None:
    limits = Limits(body_bytes_max=1_000_000)
    async with Backend() as a, RunningWorker(table(ROUTE, a=a.port), limits=limits) as w:
        for request_bytes, status, reason in REFUSED:
            with subtests.test(reason, request=request_bytes[:40]):
                before = w.observer.merged().faults.get(reason, 0)
                got = await w.raw(request_bytes)
                await _counted(w, reason, before + 1)
                head, _, body = got.partition(b"\r\n\r\n")
                assert head.startswith(b"HTTP/1.1 %d " % status), head
                assert b"x-gateway-error: " + reason.encode() in head
                assert b"content-type: application/problem+json" in head
                document = json.loads(body)
                assert document["status"] == status
                assert document["type"] == "urn:canary-gateway:problem:" + reason.replace("_", "-")
    assert not any(seen.complete for seen in a.seen)


async def _counted(w: RunningWorker, reason: str, times: int) -> None:
    await eventually(lambda: w.observer.merged().faults.get(reason) == times, f"{reason} is counted {times} times")


async def test_a_streamed_body_over_the_limit_is_cut_off() -> None:
    async with Backend() as a, RunningWorker(table(ROUTE, a=a.port), limits=Limits(body_bytes_max=100_000)) as w:
        chunk = b"%x\r\n%b\r\n" % (60_000, bytes(60_000))
        got = await w.raw(b"POST /model HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk * 3)
        assert got.startswith(b"HTTP/1.1 413 ")
        assert not any(seen.complete for seen in a.seen)


async def test_a_head_that_is_slow_is_cut_at_an_absolute_deadline() -> None:
    async with Backend() as a, RunningWorker(table(ROUTE, a=a.port), limits=Limits(head_timeout_s=0.5)) as w:
        reader, writer = await asyncio.open_connection("127.0.0.1", w.port)
        got = b""
        for byte in b"GET /model HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 1000:
            writer.write(bytes([byte]))
            # Never idle for long: only a deadline that no byte resets can catch it.
            with contextlib.suppress(TimeoutError):
                got = await asyncio.wait_for(reader.read(4096), 0.05)
            if got:
                break
        assert got.startswith(b"HTTP/1.1 408 ")
        writer.close()
        assert not a.seen


async def test_connections_over_the_limit_are_refused_and_the_others_served() -> None:
    async with Backend() as a, RunningWorker(table(ROUTE, a=a.port), limits=Limits(connections_max=2)) as w:
        kept = [await asyncio.open_connection("127.0.0.1", w.port) for _ in range(2)]
        await eventually(lambda: w.observer.merged().reports[0].connections == 2, "both are accepted")
        assert (await w.raw(b"")).startswith(b"HTTP/1.1 503 ")
        reader, writer = kept[0]
        writer.write(b"GET /model HTTP/1.1\r\nHost: a\r\n\r\n")
        assert (await reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 200")
        for _, other in kept:
            other.close()


async def test_the_requests_before_a_malformed_one_are_still_answered() -> None:
    async with Backend() as a, RunningWorker(table(ROUTE, a=a.port)) as w:
        got = await w.raw(b"GET /model HTTP/1.1\r\nHost: a\r\n\r\n" + b"garbage\r\n\r\n")
    assert got.startswith(b"HTTP/1.1 200 ")
    assert b"HTTP/1.1 400 " in got
