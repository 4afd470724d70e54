"""Odd framing and odd endings, in both directions: what is ambiguous is refused, what broke off is not completed."""

from __future__ import annotations

import asyncio
import contextlib
import gzip

import httpx
import msgspec
import pytest

from gateway.core.traffic.table import Route, Sticky, Timeouts
from tests.support.backend import Backend, Peer, Seen, answer, raw
from tests.support.rawbackend import RawBackend, Wire
from tests.support.worker import RunningWorker, eventually, table

pytestmark = pytest.mark.anyio
ROUTE = Route("r", "/", stable="a")
GET = b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"

ODD_LENGTHS = (b"+5", b"5,5", b"5, 5", b"", b"-0", b"0x5", b"5_0", b"9223372036854775808", b"1" * 40, b"5 5", b"\xb2")
ODD_CHUNKS = (
    *(b"+3\r\nabc", b"-3\r\nabc", b"0x3\r\nabc", b"3_\r\nabc", b" 3\r\nabc", b"3 3\r\nabc", b"g\r\nabc", b"\r\nabc"),
    *(
        b"%b3\r\nabc" % (b"0" * 20),
        b"fffffffffffffffff\r\nabc",
        b"3\nabc",
        b"3\r\nabcd",
        b"3;a=\n1\r\nabc",
        b"3;\x00\r\nabc",
    ),
)
ODD_HOSTS = (
    b"",
    b"a/b",
    b"a, b",
    b"a b",
    b"u@a",
    b"a:port",
    b"a:123456",
    b"http://a",
    b"[::1",
    b"a?b",
    b"a#b",
    b"a\\b",
    b"\xe9",
)


async def test_odd_lengths_chunks_and_hosts_of_a_request_are_refused(subtests: pytest.Subtests) -> None:
    head = b"POST / HTTP/1.1\r\nHost: h\r\n"
    odd = {b"length " + value: head + b"Content-Length: %b\r\n\r\nabcde" % value for value in ODD_LENGTHS}
    odd |= {b"chunk " + c: head + b"Transfer-Encoding: chunked\r\n\r\n%b\r\n0\r\n\r\n" % c for c in ODD_CHUNKS}
    odd |= {b"host " + value: b"GET / HTTP/1.1\r\nHost: %b\r\n\r\n" % value for value in ODD_HOSTS}
    # Leading zeros alone are ugly, but they are digits (RFC 9112, 7.1): who takes them must take them for what they
    # are, and pass on none.
    async with Backend() as a, RunningWorker(table(ROUTE, a=a.port)) as w:
        for name, request in odd.items():
            with subtests.test(name=repr(name)):
                a.seen.clear()
                got = await w.raw(request + b"GET /smuggled HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
                if b"0" * 20 in name and got.startswith(b"HTTP/1.1 200"):
                    assert a.seen[0].body == b"abc"
                    continue
                assert got.startswith(b"HTTP/1.1 400 ") and got.count(b"HTTP/1.1 ") == 1, got
                assert not any(seen.complete for seen in a.seen)


async def test_odd_lengths_and_chunks_of_an_answer_are_the_backends_failure(subtests: pytest.Subtests) -> None:
    odd = [b"HTTP/1.1 200 OK\r\nContent-Length: %b\r\n\r\nabcde" % value for value in ODD_LENGTHS]
    odd += [
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%b\r\n" % c for c in ODD_CHUNKS if b"0" * 20 not in c
    ]
    odd += [
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nabcde",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nX: a\r\n b\r\n\r\n",
        b"HTTP/1.1 200 OK\nContent-Length: 0\n\n",
        b"HTTP/1.1 200 OK\r\nX: a\x00b\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 O\x00K\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 O\x1b[2JK\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 103 \x7f\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n%bContent-Length: 0\r\n\r\n" % (b"X: %b\r\n" % (b"x" * 7000) * 10),
    ]
    async with Backend() as a, RunningWorker(table(ROUTE, a=a.port)) as w:
        for count, reply in enumerate(odd, 1):
            with subtests.test(reply=repr(reply[:80])):
                a.script = raw(reply, close=True)
                got = await w.raw(GET)
                whole = got.endswith(b"\r\n0\r\n\r\n") or (got.startswith(b"HTTP/1.1 2") and b"content-length" in got)
                assert got.startswith(b"HTTP/1.1 502 ") or not whole, got
                await eventually(lambda n=count: w.counts()[1] == n, "it is counted to the version")


@pytest.mark.parametrize("framing", [b"content-length: 10", b"transfer-encoding: chunked"])
@pytest.mark.parametrize("reset", [False, True], ids=["FIN", "RST"])
async def test_an_answer_that_breaks_off_is_cut_whatever_its_framing(framing: bytes, reset: bool) -> None:
    async def torn(wire: Wire) -> None:
        await wire.until(b"\r\n\r\n")
        piece = b"4\r\npart\r\n" if b"chunked" in framing else b"part"
        await wire.send(b"HTTP/1.1 200 OK\r\n%b\r\n\r\n%b" % (framing, piece))
        await asyncio.sleep(0.1)
        if reset:
            wire.reset()

    async with RawBackend(torn) as a, RunningWorker(table(ROUTE, a=a.port)) as w:
        reader, writer = await asyncio.open_connection("127.0.0.1", w.port)
        writer.write(GET)
        got = await asyncio.wait_for(reader.read(), 20)
        writer.close()
        # The framing shows the cut: six bytes are missing, or the last chunk is.
        assert got.partition(b"\r\n\r\n")[2].rstrip(b"\r\n").endswith(b"part"), "what came before the cut is delivered"
        assert not got.endswith(b"0\r\n\r\n"), "no end is made up"
        await eventually(lambda: w.counts() == (1, 1, 0, 0), "a failure")


async def test_an_answers_fields_keep_order_case_and_number_and_lose_what_is_of_the_hop() -> None:
    fields = (
        b"X-First: 1\r\nset-cookie: a=1; Path=/\r\nConnection: keep-alive, x-hop\r\nX-Hop: gone\r\n"
        b"Keep-Alive: timeout=5\r\nProxy-Authenticate: Basic\r\nSet-Cookie: b=2\r\nSET-COOKIE: c=3\r\n"
        b"Proxy-Connection: x\r\n"
        b"Date: Thu, 01 Jan 1970 00:00:00 GMT\r\nServer: s/1\r\nX-Empty:\r\nX-Last: \xe9\r\n"
    )
    async with Backend(answer(headers=fields)) as a, RunningWorker(table(ROUTE, a=a.port)) as w:
        got = await w.raw(GET)
    lines = got.partition(b"\r\n\r\n")[0].split(b"\r\n")
    kept = [b"X-First: 1", b"set-cookie: a=1; Path=/", b"Set-Cookie: b=2", b"SET-COOKIE: c=3"]
    kept += [b"Date: Thu, 01 Jan 1970 00:00:00 GMT", b"Server: s/1", b"X-Empty: ", b"X-Last: \xe9"]
    own = (b"x-gateway-variant", b"x-request-id")
    ours = [line for line in lines if line.lower().startswith((b"x-", b"set-cookie", b"date", b"server"))]
    assert [line for line in ours if not line.startswith(own)] == kept
    for gone in (b"gone", b"keep-alive", b"proxy-auth", b"proxy-conn"):
        assert gone not in got.lower().replace(b"connection: keep-alive", b""), gone


async def test_bodies_are_never_decoded_nor_asked_for_in_a_coding() -> None:
    packed = gzip.compress(b"x" * 10_000)
    async with Backend(answer(body=packed, headers=b"content-encoding: gzip\r\n")) as a:
        async with RunningWorker(table(ROUTE, a=a.port)) as w:
            got = await w.raw(GET)
    assert got.endswith(packed) and b"content-encoding: gzip" in got
    assert a.seen[0].all(b"accept-encoding") == []


@pytest.mark.parametrize(
    ("target", "arrives"),
    [
        (b"/a%2fb/%41?x=%00%zz&y=/../", None),
        (b"/%7e//x/./y;p=1?", b"/%7e//x/./y;p=1?"),
        (b"/a?b=\xc3\xa9", None),
        (b"/a%2Fb%5cc?q=%20+", b"/a%2Fb%5cc?q=%20+"),
        (b"HTTP://Other.Example:80?q", b"/?q"),
        (b"http://other.example/p#f", None),
        (b"ftp://other.example/", None),
        (b"other.example:443", None),
        (b"a", None),
        (b"/\x7f", None),
    ],
)
async def test_a_targets_bytes_arrive_as_they_were_or_not_at_all(target: bytes, arrives: bytes | None) -> None:
    async with Backend() as a, RunningWorker(table(ROUTE, a=a.port)) as w:
        got = await w.raw(b"GET %b HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n" % target)
        if arrives is None and got.startswith(b"HTTP/1.1 200"):
            arrives = target  # lawful for a lenient reader: then untouched
        assert [seen.target for seen in a.seen] == ([] if arrives is None else [arrives]), got
        assert got.startswith(b"HTTP/1.1 200 " if arrives is not None else b"HTTP/1.1 400 "), got


async def test_nobody_chooses_a_variant_where_the_route_does_not_allow_it() -> None:
    route = Route("r", "/", stable="a", canary="b", weight_bp=0)
    async with Backend() as a, Backend() as b, RunningWorker(table(route, a=a.port, b=b.port)) as w:
        for name in (b"X-Gateway-Variant", b"X-Variant", b"X-Canary"):
            got = await w.raw(b"GET / HTTP/1.1\r\nHost: h\r\n%b: canary\r\nConnection: close\r\n\r\n" % name)
            assert b"x-gateway-variant: stable" in got
        await eventually(lambda: w.counts() == (3, 0, 0, 0), "they are evidence like any other")
        assert a.seen[0].all(b"x-gateway-variant") == [], "nor does the backend get it"
    assert not b.seen


async def test_a_sticky_key_is_the_keys_own_doing_and_no_address_steers_it() -> None:
    route = Route("r", "/", stable="a", canary="b", weight_bp=5_000, sticky=Sticky(header="x-user"), salt="r")
    async with Backend() as a, Backend() as b, RunningWorker(table(route, a=a.port, b=b.port)) as w:
        answers = []
        for address in (b"1.2.3.4", b"5.6.7.8", b"9.9.9.9"):
            got = await w.raw(
                b"GET / HTTP/1.1\r\nHost: h\r\nX-User: u7\r\nX-Forwarded-For: %b\r\nForwarded: for=%b\r\n"
                b"X-Real-IP: %b\r\nConnection: close\r\n\r\n" % (address, address, address)
            )
            answers.append(b"variant: canary" in got)
        assert len(set(answers)) == 1
        for seen in (*a.seen, *b.seen):
            assert seen.all(b"x-forwarded-for") == [b"127.0.0.1"] and not seen.all(b"x-real-ip")


async def test_with_both_backends_dead_the_answer_is_quick_and_honest() -> None:
    # Whatever waited for a deadline would outlast its client's patience.
    timeouts = Timeouts(connect_s=300, first_byte_s=300)
    route = Route("r", "/", stable="a", canary="b", weight_bp=5_000, timeouts=timeouts)
    async with Backend() as a, Backend() as b:
        await a.stop()
        await b.stop()
        async with RunningWorker(table(route, a=a.port, b=b.port)) as w:
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{w.port}", timeout=20) as client:
                replies = [await client.get("/") for _ in range(40)]
            assert {reply.status_code for reply in replies} <= {502, 503}
            assert all(reply.headers["x-gateway-error"] for reply in replies)


async def test_a_canary_that_answers_after_its_rescue_is_ignored() -> None:
    wake = asyncio.Event()

    async def late(seen: Seen, peer: Peer) -> None:
        await wake.wait()
        with contextlib.suppress(OSError):
            await answer(body=b"late")(seen, peer)

    route = Route("r", "/", stable="a", canary="b", weight_bp=10_000, timeouts=Timeouts(connect_s=20, first_byte_s=1.0))
    async with Backend(answer(body=b"saved")) as a, Backend(late) as b:
        async with RunningWorker(table(route, a=a.port, b=b.port)) as w:
            reader, writer = await asyncio.open_connection("127.0.0.1", w.port)
            for _ in range(2):
                writer.write(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
                assert (await reader.readuntil(b"saved")).count(b"HTTP/1.1 ") == 1
                wake.set()
                await asyncio.sleep(0.05)
                wake.clear()
            writer.close()
            await eventually(lambda: w.counts() == (0, 0, 2, 2), "two failures, each counted once")


async def test_an_answer_that_trickles_is_bounded_by_total_and_a_stream_by_idle_alone() -> None:
    async def trickle(seen: Seen, peer: Peer) -> None:
        await peer.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        for _ in range(45):
            await peer.send(b"1\r\nx\r\n")
            await asyncio.sleep(0.05)
        await peer.send(b"0\r\n\r\n")

    for timeouts, whole in ((Timeouts(total_s=1.0), False), (Timeouts(idle_s=2.0), True)):
        async with (
            Backend(trickle) as a,
            RunningWorker(table(msgspec.structs.replace(ROUTE, timeouts=timeouts), a=a.port)) as w,
        ):
            got = await w.raw(GET)
            assert b"\r\nx" in got and got.endswith(b"0\r\n\r\n") is whole
