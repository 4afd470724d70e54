"""Nobody's bytes become somebody else's message: early answers, torn framing, interim answers, bounded oddities."""

from __future__ import annotations

import asyncio
import contextlib

import msgspec
import pytest

from gateway.core.traffic.table import Route, Timeouts
from gateway.runtime.settings import Limits
from tests.support.backend import Backend, Peer, Seen, answer, raw
from tests.support.rawbackend import RawBackend, Wire
from tests.support.worker import RunningWorker, eventually, table

pytestmark = pytest.mark.anyio
ROUTE = Route("r", "/", stable="a")
ALL_CANARY = Route(
    "r", "/", stable="a", canary="b", weight_bp=10_000, timeouts=Timeouts(connect_s=0.5, first_byte_s=1.0)
)
GET = b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"


def _answers_after_the_head(status: bytes, body: bytes = b"early") -> RawBackend:
    async def talk(wire: Wire) -> None:
        await wire.until(b"\r\n\r\n")
        await wire.send(b"HTTP/1.1 %b\r\ncontent-length: %d\r\n\r\n%b" % (status, len(body), body))
        await wire.rest()

    return RawBackend(talk)


def _streams(route: Route) -> Route:
    """The same, for backends that answer before a request is whole."""
    return msgspec.structs.replace(route, streams_requests=True)


async def test_a_backend_that_answered_before_the_body_was_whole_is_not_sent_another_request() -> None:
    async with _answers_after_the_head(b"200 OK") as a, RunningWorker(table(_streams(ROUTE), a=a.port)) as w:
        reader, writer = await asyncio.open_connection("127.0.0.1", w.port)
        writer.write(b"POST /one HTTP/1.1\r\nHost: h\r\nContent-Length: 100\r\n\r\nabc")
        got = await reader.read()
        assert got.startswith(b"HTTP/1.1 200 ") and got.endswith(b"early")
        assert b"\r\nconnection: close\r\n" in got
        writer.close()
        assert (await w.raw(b"GET /two HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")).endswith(b"early")
        assert len(a.wires) == 2, "the torn connection was reused"
        assert b"/two" not in a.wires[0].got


async def test_a_rescue_while_the_client_still_sends_replays_exactly_and_drops_the_torn_connection() -> None:
    async with Backend(answer(body=b"saved")) as a, _answers_after_the_head(b"500 X") as b:
        async with RunningWorker(table(_streams(ALL_CANARY), a=a.port, b=b.port)) as w:
            for head, pieces, tail in (
                (b"Transfer-Encoding: chunked", [b"5\r\nhello\r\n", b"6\r\n world\r\n"], b"1\r\n!\r\n0\r\n\r\n"),
                (b"Content-Length: 12", [b"hello", b" world"], b"!"),
            ):
                before = len(b.wires)
                reader, writer = await asyncio.open_connection("127.0.0.1", w.port)
                writer.write(b"POST / HTTP/1.1\r\nHost: h\r\n%b\r\n\r\n" % head + pieces[0])
                await eventually(lambda before=before: len(b.wires) > before, "the canary is tried")
                await eventually(lambda: b.wires[-1].ended, "the canary's connection is closed")
                writer.write(pieces[1])
                await asyncio.sleep(0.02)
                writer.write(tail)
                assert (await reader.readuntil(b"saved")).startswith(b"HTTP/1.1 200 ")
                writer.close()
                assert bytes(a.seen[-1].body) == b"hello world!"
            await eventually(lambda: w.counts() == (0, 0, 2, 2), f"two failures of the canary, not {w.counts()}")
            assert w.totals(1).rescued == 2


async def test_a_failed_answer_with_broken_framing_is_rescued_once() -> None:
    torn = raw(b"HTTP/1.1 500 X\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n")
    async with Backend(answer(body=b"saved")) as a, Backend(torn) as b:
        async with RunningWorker(table(ALL_CANARY, a=a.port, b=b.port)) as w:
            got = await w.raw(GET)
            assert got.startswith(b"HTTP/1.1 200 ") and got.endswith(b"saved")
            await eventually(lambda: w.counts() == (0, 0, 1, 1), "one failure")
            assert len(a.seen) == 1
            assert w.totals(1).rescued == 1
            expected = ({"ok": 1}, {"errors": 1})
            await eventually(lambda: (w.totals(0).tries, w.totals(1).tries) == expected, "both tries")


async def test_a_failed_answer_that_never_ends_frees_its_connection() -> None:
    async def half(_: Seen, peer: Peer) -> None:
        await peer.send(b"HTTP/1.1 500 X\r\ncontent-length: 100\r\n\r\nhalf")
        await peer.reader.read()
        peer.close()

    async with Backend(answer(body=b"saved")) as a, Backend(half) as b:
        async with RunningWorker(table(ALL_CANARY, a=a.port, b=b.port)) as w:
            for _ in range(3):
                assert (await w.raw(GET)).endswith(b"saved")
            await eventually(lambda: b.open == 0, "what was left of the answers is not waited for without end")


@pytest.mark.parametrize(
    "reply",
    [
        b"HTTP/1.1 150 X\r\nContent-Length: 37\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 099 X\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n",
    ],
    ids=["interim with a body", "below 100", "chunked in 1.0", "another version"],
)
async def test_an_answer_whose_framing_is_in_doubt_is_the_backends_failure(reply: bytes) -> None:
    async with Backend(raw(reply)) as a, RunningWorker(table(ROUTE, a=a.port)) as w:
        got = await w.raw(GET)
        assert got.startswith(b"HTTP/1.1 502 "), got
        assert b"x-gateway-error: bad_response" in got
        await eventually(lambda: w.counts() == (1, 1, 0, 0), "it is counted")


async def test_a_connection_whose_trailer_says_close_is_not_kept() -> None:
    """llhttp refuses whatever follows: the next request would fail for nothing that it did."""
    closes = raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nConnection: close\r\n\r\n")
    async with Backend(closes) as a, RunningWorker(table(ROUTE, a=a.port)) as w:
        for _ in range(3):
            assert (await w.raw(GET)).endswith(b"\r\nok\r\n0\r\n\r\n")
        assert a.connections == 3


async def test_close_is_believed_also_beside_keep_alive() -> None:
    async with Backend() as a, RunningWorker(table(ROUTE, a=a.port)) as w:
        got = await w.raw(
            b"GET /one HTTP/1.0\r\nConnection: keep-alive, close\r\n\r\nGET /two HTTP/1.0\r\nHost: h\r\n\r\n",
            timeout_s=20,
        )
        assert got.count(b"HTTP/1.1 200 ") == 1 and b"connection: close" in got
        assert [seen.target for seen in a.seen] == [b"/one"]


@pytest.mark.parametrize("field", [b"close", b"Close", b"close, x-a"], ids=["plain", "in-capitals", "for-llhttp"])
@pytest.mark.parametrize("body", [b"", b"abc"], ids=["no-body", "body"])
async def test_nothing_behind_a_request_that_closes_is_taken_for_a_request(field: bytes, body: bytes) -> None:
    last = b"POST /one HTTP/1.1\r\nHost: h\r\nConnection: %b\r\nContent-Length: %d\r\n\r\n%b" % (field, len(body), body)
    behind = b"GET /two HTTP/1.1\r\nHost: h\r\n\r\n"
    sent = asyncio.Event()

    async def late(seen: Seen, peer: Peer) -> None:
        await sent.wait()  # what comes behind an answer that closes meets a closed socket
        await answer()(seen, peer)

    async with Backend(late) as a, RunningWorker(table(ROUTE, a=a.port)) as w:
        for pieces in ([last + behind], [last, behind], [last, b"\r\n", behind[:5], behind[5:]], [last, b"\r\n"]):
            a.seen.clear()
            sent.clear()
            reader, writer = await asyncio.open_connection("127.0.0.1", w.port)
            for piece in pieces:
                writer.write(piece)
                await asyncio.sleep(0.002)  # so that pieces arrive apart; if they do not, the others cover it
            sent.set()
            got = await reader.read()
            writer.close()
            assert got.count(b"HTTP/1.1 ") == 1 and got.startswith(b"HTTP/1.1 200 "), (pieces, got)
            assert b"\r\nconnection: close\r\n" in got
            assert [(seen.target, seen.body) for seen in a.seen] == [(b"/one", body)]


@pytest.mark.parametrize("version", [b"2.0", b"0.9"])
async def test_another_version_of_http_is_refused(version: bytes) -> None:
    async with Backend() as a, RunningWorker(table(ROUTE, a=a.port)) as w:
        got = await w.raw(b"POST / HTTP/%b\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" % version)
    assert got.startswith(b"HTTP/1.1 505 "), got
    assert not a.seen


async def test_what_follows_a_body_over_the_limit_is_not_taken_for_a_request() -> None:
    async with Backend() as a, RunningWorker(table(ROUTE, a=a.port), limits=Limits(body_bytes_max=10)) as w:
        await w.raw(GET)  # from now on a connection is at hand, and nothing takes a moment
        a.seen.clear()
        got = await w.raw(
            b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n14\r\n%b\r\n0\r\n\r\n" % (b"x" * 20)
            + b"GET /after HTTP/1.1\r\nHost: h\r\n\r\n"
        )
        assert got.startswith(b"HTTP/1.1 413 ")
        assert got.count(b"HTTP/1.1 ") == 1
        await eventually(lambda: w.observer.merged().reports[0].in_flight == 0, "nothing is left in flight")
    assert not any(seen.complete for seen in a.seen)


async def test_endless_trailers_are_cut_off_in_bounded_memory() -> None:
    async with Backend() as a, RunningWorker(table(ROUTE, a=a.port)) as w:
        before_kib = w.rss_kib
        reader, writer = await asyncio.open_connection("127.0.0.1", w.port)
        writer.write(b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\nT: ")
        await _pour(writer, 16 << 20)
        with contextlib.suppress(ConnectionResetError):
            assert (await reader.read()).startswith(b"HTTP/1.1 431 ")
        assert w.rss_kib - before_kib < 4 * 1024
        assert not any(seen.complete for seen in a.seen)
        writer.close()


async def test_endless_trailers_of_an_answer_are_the_backends_failure() -> None:
    async def endless(_: Seen, peer: Peer) -> None:
        await peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nT: ")
        await _pour(peer.writer, 16 << 20)

    async with Backend(endless) as a, RunningWorker(table(ROUTE, a=a.port)) as w:
        before_kib = w.rss_kib
        got = await w.raw(GET)
        assert got.endswith(b"2\r\nok\r\n"), "cut, not completed"
        await eventually(lambda: w.counts() == (1, 1, 0, 0), "it is counted")
        assert w.rss_kib - before_kib < 4 * 1024


async def test_a_malformed_head_behind_a_slow_request_is_not_buffered() -> None:
    go_on = asyncio.Event()

    async def slow(seen: Seen, peer: Peer) -> None:
        await go_on.wait()
        await answer()(seen, peer)

    async with Backend(slow) as a, RunningWorker(table(ROUTE, a=a.port)) as w:
        before_kib = w.rss_kib
        reader, writer = await asyncio.open_connection("127.0.0.1", w.port)
        writer.write(b"GET / HTTP/1.1\r\nHost: h\r\n\r\nGET /")
        await _pour(writer, 16 << 20)
        assert w.rss_kib - before_kib < 4 * 1024
        go_on.set()
        got = await reader.read()
        assert got.startswith(b"HTTP/1.1 200 ")
        assert b"HTTP/1.1 414 " in got
        writer.close()


async def _pour(writer: asyncio.StreamWriter, size: int) -> None:
    piece = b"y" * (1 << 16)
    with contextlib.suppress(OSError):
        for _ in range(size // len(piece)):
            writer.write(piece)
            async with asyncio.timeout(5):
                await writer.drain()


async def test_a_head_answer_that_failed_is_rescued_and_its_connection_is_sound() -> None:
    async with Backend(raw(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n")) as a:
        async with Backend(raw(b"HTTP/1.1 500 X\r\ncontent-length: 9\r\n\r\n")) as b:
            async with RunningWorker(table(ALL_CANARY, a=a.port, b=b.port)) as w:
                for _ in range(3):
                    got = await w.raw(b"HEAD / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
                    assert got.startswith(b"HTTP/1.1 200 ")
                    assert got.endswith(b"\r\n\r\n")
                await eventually(lambda: w.counts() == (0, 0, 3, 3), "three failures")
            assert (a.connections, b.connections) == (1, 1)


async def test_an_answer_with_bytes_after_it_is_passed_on_and_the_connection_dropped() -> None:
    async with Backend(raw(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nokHTTP/1.1 200 OK\r\n\r\n")) as a:
        async with RunningWorker(table(ROUTE, a=a.port)) as w:
            for _ in range(3):
                got = await w.raw(GET)
                assert got.endswith(b"\r\n\r\nok")
                assert got.count(b"HTTP/1.1") == 1
            assert a.connections == 3


async def test_a_rescue_after_an_interim_answer() -> None:
    reply = raw(b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\nHTTP/1.1 500 X\r\ncontent-length: 4\r\n\r\nboom")
    async with Backend(answer(body=b"saved")) as a, Backend(reply) as b:
        async with RunningWorker(table(ALL_CANARY, a=a.port, b=b.port)) as w:
            got = await w.raw(GET)
            assert got.startswith(b"HTTP/1.1 103 ")
            assert b"\r\n\r\nHTTP/1.1 200 " in got and got.endswith(b"saved")
            assert b"boom" not in got


async def test_a_10_client_notices_an_answer_that_broke_off() -> None:
    async def torn(_: Seen, peer: Peer) -> None:
        await peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
        await asyncio.sleep(0.1)
        peer.close()

    async with Backend(torn) as a, RunningWorker(table(ROUTE, a=a.port)) as w:
        reader, writer = await asyncio.open_connection("127.0.0.1", w.port)
        writer.write(b"GET / HTTP/1.0\r\n\r\n")
        await reader.readuntil(b"hello")
        with pytest.raises(ConnectionResetError):
            await reader.read()
        writer.close()


async def test_the_host_that_is_reported_is_the_one_that_was_routed_on() -> None:
    route = msgspec.structs.replace(ROUTE, hosts=("real.example",))
    async with Backend() as a, RunningWorker(table(route, a=a.port)) as w:
        await w.raw(b"GET http://real.example/ HTTP/1.1\r\nHost: fake\r\nConnection: close\r\n\r\n")
    assert a.seen[0].all(b"x-forwarded-host") == [b"real.example"]


@pytest.mark.parametrize("cut", [0, 4, 20], ids=["at once", "torn in the method", "torn in the version"])
@pytest.mark.parametrize("framing", [b"Transfer-Encoding: chunked", b"X: \xff\r\nContent-Length: 35"])
async def test_a_body_is_never_read_as_a_request_of_a_later_version(framing: bytes, cut: int) -> None:
    """A head that llhttp refuses for its version is parsed anew, but not together with the body that came before it."""
    body = b"GET /body HTTP/1.2\r\nHost: h\r\nX: 1\r\n\r\n"[:35]
    chunked = framing.endswith(b"chunked")
    async with Backend() as a, RunningWorker(table(ROUTE, a=a.port)) as w:
        reader, writer = await asyncio.open_connection("127.0.0.1", w.port)
        writer.write(b"POST /outer HTTP/1.1\r\nHost: h\r\n%b\r\n\r\n" % framing + b"%x\r\n" % len(body) * chunked)
        await asyncio.sleep(0.05)
        rest = body + b"\r\n0\r\n\r\n" * chunked
        next_one = b"GET /next HTTP/1.2\r\nHost: h\r\nConnection: close\r\n\r\n"
        writer.write(rest + next_one[:cut] if cut else rest + next_one)
        if cut:
            await asyncio.sleep(0.05)
            writer.write(next_one[cut:])
        got = await reader.read()
        writer.close()
        assert got.startswith(b"HTTP/1.1 200 ") and got.count(b"HTTP/1.1 ") == 2, got
        assert bytes(a.seen[0].target) == b"/outer" and a.seen[0].body == body
        assert {bytes(seen.target) for seen in a.seen} <= {b"/outer", b"/next"}


async def test_the_method_of_an_answered_request_is_not_called_unknown() -> None:
    async with Backend() as a, RunningWorker(table(ROUTE, a=a.port)) as w:
        post = b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
        got = await w.raw(post + b"BREW / HTTP/1.1\r\nHost: h\r\n\r\n")
        assert got.startswith(b"HTTP/1.1 200 ") and b"HTTP/1.1 400 " in got and b"POST" not in got, got
