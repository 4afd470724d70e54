"""Trailers and interim answers: what comes behind a body, and what comes before an answer."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from gateway.core.traffic.table import Route, Timeouts
from tests.support.backend import Backend, Peer, Seen, answer, hang, raw
from tests.support.rawbackend import RawBackend, Wire
from tests.support.worker import RunningWorker, eventually, table

pytestmark = pytest.mark.anyio
ROUTE = Route("r", "/", stable="a")
CANARY = Route("r", "/", stable="a", canary="b", weight_bp=10_000, timeouts=Timeouts(connect_s=20, first_byte_s=20))
TAKES = b"TE: trailers\r\nConnection: TE, close\r\n"
WITH_TRAILERS = (
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum, Grpc-Status\r\n\r\n2\r\nok\r\n0\r\n"
    b"X-Sum: 42\r\nContent-Type: a/b\r\nSet-Cookie: a=1\r\nHost: evil\r\nX_Y: 1\r\nGrpc-Status: 0\r\nX-Sum: 43\r\n\r\n"
)


async def test_an_answers_trailers_reach_those_who_take_them() -> None:
    async with Backend(raw(WITH_TRAILERS)) as a, RunningWorker(table(ROUTE, a=a.port)) as w:
        got = await w.raw(b"GET / HTTP/1.1\r\nHost: h\r\n%b\r\n" % TAKES)
        assert got.endswith(b"2\r\nok\r\n0\r\nX-Sum: 42\r\nGrpc-Status: 0\r\nX-Sum: 43\r\n\r\n"), got
        assert b"\r\ntrailer: X-Sum, Grpc-Status\r\n" in got
        assert a.seen[0].all(b"te") == [b"trailers"] and a.seen[0].all(b"connection") == [b"te"]
        await eventually(lambda: w.observer.merged().notes["trailers_dropped"] == 4, "the forbidden ones are counted")
        assert w.observer.merged().notes["trailers_passed"] == 3
        await w.raw(b"GET / HTTP/1.1\r\nHost: h\r\n%b\r\n" % TAKES)
        assert a.connections == 1, "the connection is sound after trailers"


@pytest.mark.parametrize(
    "request_head",
    [
        b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: h\r\nTE: gzip, deflate;q=0.5\r\nConnection: close, TE\r\n\r\n",
        b"GET / HTTP/1.0\r\nTE: trailers\r\n\r\n",
    ],
    ids=["silent", "other codings", "1.0"],
)
async def test_nobody_else_gets_them(request_head: bytes) -> None:
    async with Backend(raw(WITH_TRAILERS)) as a, RunningWorker(table(ROUTE, a=a.port)) as w:
        got = await w.raw(request_head)
        assert got.endswith(b"ok" if b"1.0" in request_head else b"2\r\nok\r\n0\r\n\r\n"), got
        assert b"railer" not in got and b"X-Sum" not in got
        assert a.seen[0].all(b"te") == []
        await eventually(lambda: w.observer.merged().notes["trailers_dropped"] == 7, "all are dropped, and counted")


async def test_a_requests_trailers_reach_the_backend_also_by_a_rescue() -> None:
    async def keep(wire: Wire) -> None:
        await wire.until(b"\r\n\r\n", 2)
        await wire.send(
            b"HTTP/1.1 %b\r\ncontent-length: 0\r\n\r\n" % (b"500 X" if wire is failing.wires[-1] else b"200 OK")
        )
        await wire.rest()

    body = b"3\r\nabc\r\n0\r\nX-Sum: 1\r\nAuthorization: x\r\nCookie: y\r\n\r\n"
    async with RawBackend(keep) as a, RawBackend(keep) as failing:
        async with RunningWorker(table(CANARY, a=a.port, b=failing.port)) as w:
            got = await w.raw(
                b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n%b\r\n%b"
                % (TAKES, body)
            )
            assert got.startswith(b"HTTP/1.1 200 ") and b"rescued: true" in got
            for backend in (a, failing):
                assert bytes(backend.wires[0].got).endswith(b"\r\n\r\n3\r\nabc\r\n0\r\nX-Sum: 1\r\n\r\n")
                assert b"\r\ntrailer: X-Sum\r\n" in backend.wires[0].got


async def test_too_many_trailers_are_refused_on_either_side() -> None:
    many = b"".join(b"T-%d: 1\r\n" % i for i in range(150))
    async with Backend(raw(WITH_TRAILERS[:-2] + many + b"\r\n")) as a, RunningWorker(table(ROUTE, a=a.port)) as w:
        got = await w.raw(b"GET / HTTP/1.1\r\nHost: h\r\n%b\r\n" % TAKES)
        assert not got.endswith(b"0\r\n\r\n") and b"T-149" not in got, "cut, not completed"
        got = await w.raw(
            b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n%b\r\n1\r\nx\r\n0\r\n%b\r\n" % (TAKES, many)
        )
        assert got.startswith(b"HTTP/1.1 431 "), got


async def test_trailers_that_would_frame_the_message_anew_never_pass() -> None:
    for field in (b"Content-Length: 9", b"Transfer-Encoding: gzip"):
        bad = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n%b\r\n\r\n" % field
        async with Backend(raw(bad)) as a, RunningWorker(table(ROUTE, a=a.port)) as w:
            got = await w.raw(b"GET / HTTP/1.1\r\nHost: h\r\n%b\r\n" % TAKES)
            assert got.startswith(b"HTTP/1.1 502 ") or got.endswith(b"\r\n\r\n0\r\n\r\n"), got
            a.seen.clear()
            got = await w.raw(
                b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n%b\r\n0\r\n%b\r\n\r\n" % (TAKES, field)
            )
            assert got.startswith(b"HTTP/1.1 400 ")
            assert not any(seen.complete for seen in a.seen)


# interim answers


async def test_interim_answers_pass_in_their_order_and_the_final_one_follows() -> None:
    reply = raw(
        b"HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </a>\r\nkeep-alive: 5\r\n\r\n"
        b"HTTP/1.1 103 Early Hints\r\nlink: </b>\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
    )
    async with Backend(reply) as a, RunningWorker(table(ROUTE, a=a.port)) as w:
        got = await w.raw(b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
        codes = [part[:3] for part in got.split(b"HTTP/1.1 ")[1:]]
        assert codes == [b"102", b"103", b"103", b"200"]
        assert b"keep-alive" not in got
        got = await w.raw(b"GET / HTTP/1.0\r\n\r\n")
        assert got.startswith(b"HTTP/1.1 200 "), "1.0 knows no interim answers"


async def test_a_100_that_nobody_asked_for_is_swallowed() -> None:
    reply = raw(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
    async with Backend(reply) as a, RunningWorker(table(ROUTE, a=a.port)) as w:
        got = await w.raw(b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
    assert got.startswith(b"HTTP/1.1 200 ") and got.count(b"HTTP/1.1") == 1


EXPECTS = b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n"


async def test_the_backend_says_when_the_body_may_come() -> None:
    ready = asyncio.Event()

    async def asks(wire: Wire) -> None:
        await wire.until(b"\r\n\r\n")
        assert b"\r\nexpect: 100-continue\r\n" in wire.got
        await ready.wait()
        await wire.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        await wire.until(b"body")
        await wire.send(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
        await wire.rest()

    async with RawBackend(asks) as a, RunningWorker(table(ROUTE, a=a.port)) as w:
        reader, writer = await asyncio.open_connection("127.0.0.1", w.port)
        writer.write(EXPECTS)
        await eventually(lambda: a.wires and a.wires[0].got, "the head arrives alone")
        ready.set()
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(b"body")
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
        writer.close()


async def test_a_final_answer_instead_of_the_100_ends_the_connection() -> None:
    async def refuse(wire: Wire) -> None:
        await wire.until(b"\r\n\r\n")
        await wire.send(b"HTTP/1.1 413 X\r\ncontent-length: 2\r\n\r\nno")
        await wire.rest()

    async with RawBackend(refuse) as a, RunningWorker(table(ROUTE, a=a.port)) as w:
        reader, writer = await asyncio.open_connection("127.0.0.1", w.port)
        writer.write(EXPECTS)
        got = await reader.read()
        assert got.startswith(b"HTTP/1.1 413 ") and b"\r\nconnection: close\r\n" in got and got.endswith(b"no")
        writer.close()
        await eventually(lambda: a.open == 0, "the upstream connection is not kept")


async def test_a_canary_that_refuses_before_the_body_is_rescued_and_stable_is_asked_too() -> None:
    async def fail(wire: Wire) -> None:
        await wire.until(b"\r\n\r\n")
        await wire.send(b"HTTP/1.1 500 X\r\ncontent-length: 0\r\n\r\n")
        await wire.rest()

    async def take(wire: Wire) -> None:
        await wire.until(b"\r\n\r\n")
        await wire.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        await wire.until(b"body")
        await wire.send(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")

    async with RawBackend(take) as a, RawBackend(fail) as b, RunningWorker(table(CANARY, a=a.port, b=b.port)) as w:
        reader, writer = await asyncio.open_connection("127.0.0.1", w.port)
        writer.write(EXPECTS)
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(b"body")
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
        writer.close()
        await eventually(lambda: w.counts() == (0, 0, 1, 1), "the canary's failure")


async def test_a_canary_that_hangs_over_an_expectation_is_to_blame_and_not_the_client() -> None:
    route = msgspec.structs.replace(CANARY, timeouts=Timeouts(connect_s=20, first_byte_s=1.5))
    async with Backend(answer(body=b"saved")) as a, Backend(hang) as b:
        async with RunningWorker(table(route, a=a.port, b=b.port)) as w:
            reader, writer = await asyncio.open_connection("127.0.0.1", w.port)
            writer.write(EXPECTS)
            assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n", (
                "after a moment, all the same"
            )
            writer.write(b"body")
            assert (await reader.readuntil(b"saved")).startswith(b"HTTP/1.1 200 ")
            writer.close()
            await eventually(lambda: w.counts() == (0, 0, 1, 1), "the canary is to blame")


async def test_a_pause_before_the_only_endpoint_is_asked_again_is_no_wait_for_leave() -> None:
    """A client that waits for 100 is not asked for a body that nothing reads: it gets the answer there is."""

    async def resets(wire: Wire) -> None:
        await wire.until(b"\r\n\r\n")
        wire.reset()

    async with RawBackend(resets) as a, RunningWorker(table(ROUTE, a=a.port)) as w:
        got = await w.raw(EXPECTS)
        assert got.startswith(b"HTTP/1.1 502 "), got
        assert len(a.wires) == 2, "asked once more, after a moment"
        await eventually(lambda: w.totals(0).tries == {"errors": 2}, "both attempts are the backend's failures")


async def test_who_does_not_wait_for_leave_is_not_asked_to() -> None:
    async with Backend() as a, RunningWorker(table(ROUTE, a=a.port)) as w:
        got = await w.raw(EXPECTS.replace(b"Expect", b"Connection: close\r\nExpect") + b"body")
        assert got.startswith(b"HTTP/1.1 200 "), got
        got = await w.raw(b"POST / HTTP/1.0\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\nbody")
        assert got.startswith(b"HTTP/1.1 200 "), "a 1.0 client gets no 100"
    assert [seen.all(b"expect") for seen in a.seen] == [[], []]


async def test_head_204_and_304_have_no_body_whatever_they_say() -> None:
    async def bodyless(seen: Seen, peer: Peer) -> None:
        status = {b"/204": b"204 X", b"/304": b"304 X"}.get(bytes(seen.target), b"200 OK")
        length = b"" if status == b"204 X" else b"content-length: 7\r\n"
        await peer.send(b"HTTP/1.1 %b\r\n%b\r\n" % (status, length))

    async with Backend(bodyless) as a, RunningWorker(table(ROUTE, a=a.port)) as w:
        got = await w.raw(
            b"HEAD / HTTP/1.1\r\nHost: h\r\n\r\nGET /204 HTTP/1.1\r\nHost: h\r\n\r\n"
            b"GET /304 HTTP/1.1\r\nHost: h\r\n\r\n"
            b"HEAD /204 HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n",
        )
        heads = got.split(b"\r\n\r\n")
        assert heads[-1] == b"" and [head.split()[1] for head in heads[:-1]] == [b"200", b"204", b"304", b"204"]
        assert [b"content-length: 7" in head for head in heads[:-1]] == [True, False, True, False]
        assert not any(b"transfer-encoding" in head for head in heads)


async def test_a_route_that_outlasts_a_try_is_convicted_of_it() -> None:
    async def trickle(_: Seen, peer: Peer) -> None:
        await peer.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        for _i in range(100):
            await peer.send(b"1\r\nx\r\n")
            await asyncio.sleep(0.05)

    route = msgspec.structs.replace(CANARY, timeouts=Timeouts(first_byte_s=20, try_s=1.0))
    async with Backend(answer(body=b"saved")) as a, Backend(hang) as b:
        async with RunningWorker(table(route, a=a.port, b=b.port)) as w:
            got = await w.raw(b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
            assert got.endswith(b"saved"), "each try has its own time"
            await eventually(lambda: w.counts() == (0, 0, 1, 1), "the canary's try timed out")
            b.script = trickle
            got = await w.raw(b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
            assert b"\r\nx" in got and not got.endswith(b"0\r\n\r\n"), "one that has begun is cut"
            await eventually(lambda: w.counts() == (0, 0, 2, 2), "and counted")
            await eventually(lambda: w.observer.merged().faults.get("try_timeout") == 1, "under its own name")
