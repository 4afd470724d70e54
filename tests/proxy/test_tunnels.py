"""Protocol upgrades: a tunnel after the right 101 and at no other time, and its life from there on."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import os
import signal

import msgspec
import pytest

from gateway.core.traffic.table import OutlierEjection, Route, Timeouts
from gateway.runtime.settings import Limits
from tests.support.backend import Backend, Peer, Seen, answer, hang, raw
from tests.support.rawbackend import RawBackend, Wire, reset_on_close
from tests.support.worker import RunningWorker, eventually, table

pytestmark = pytest.mark.anyio
ROUTE = Route("r", "/", stable="a")
CANARY = Route("r", "/", stable="a", canary="b", weight_bp=10_000, timeouts=Timeouts(connect_s=20, first_byte_s=20))
ASKS = b"GET /ws HTTP/1.1\r\nHost: h\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\r\n"
AGREES = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-X: y\r\n\r\n"


async def echo(wire: Wire) -> None:
    """Agree, then send back what comes, to the end of it, and one word more."""
    await wire.until(b"\r\n\r\n")
    await wire.send(AGREES)
    sent = wire.got.index(b"\r\n\r\n") + 4
    with contextlib.suppress(EOFError):
        while True:
            if len(wire.got) > sent:
                data, sent = bytes(wire.got[sent:]), len(wire.got)
                await wire.send(data)
            await wire.more()
    await wire.send(b"bye")


def _frame(text: bytes) -> bytes:
    """A masked WebSocket text frame (RFC 6455, 5.2)."""
    mask = os.urandom(4)
    return bytes([0x81, 0x80 | len(text)]) + mask + bytes(c ^ mask[i % 4] for i, c in enumerate(text))


async def test_a_websocket_passes_both_ways_and_its_handshake_is_the_outcome() -> None:
    async def server(wire: Wire) -> None:
        await wire.until(b"\r\n\r\n")
        head = bytes(wire.got).lower()
        assert b"\r\nconnection: upgrade\r\n" in head and b"\r\nupgrade: websocket\r\n" in head
        key = next(line for line in bytes(wire.got).split(b"\r\n") if line.lower().startswith(b"sec-websocket-key"))
        digest = hashlib.sha1(key.split(b": ")[1] + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()  # RFC 6455
        accept = b"Sec-WebSocket-Accept: %b\r\n" % base64.b64encode(digest)
        await wire.send(AGREES[:-2] + accept + b"\r\n\x81\x05first")
        start = wire.got.index(b"\r\n\r\n") + 4
        while len(wire.got) < start + 11:
            await wire.more()
        frame = wire.got[start:]
        text = bytes(c ^ frame[2 + i % 4] for i, c in enumerate(frame[6 : 6 + (frame[1] & 0x7F)]))
        await wire.send(bytes([0x81, len(text)]) + text)
        await wire.rest()

    async with RawBackend(server) as a, RunningWorker(table(ROUTE, a=a.port)) as w:
        reader, writer = await asyncio.open_connection("127.0.0.1", w.port)
        key = b"dGhlIHNhbXBsZSBub25jZQ=="
        writer.write(ASKS[:-2] + b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: %b\r\n\r\n" % key)
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101 ") and b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" in head
        assert b"x-gateway-variant: stable" in head
        assert await reader.readexactly(7) == b"\x81\x05first"
        await eventually(lambda: w.counts() == (1, 0, 0, 0), "the handshake is counted while the tunnel is open")
        assert w.observer.merged().reports[0].tunnels_open == 1
        writer.write(_frame(b"hello"))
        assert await reader.readexactly(7) == b"\x81\x05hello"
        writer.close()
        await eventually(lambda: w.observer.merged().reports[0].tunnels_open == 0, "it ends with the client")
        await eventually(lambda: a.open == 0, "and so does the backend's side")
        assert w.totals(0).answered == {101: 1}
        await eventually(lambda: w.observer.merged().reports[0].upstream_connections == 0, "none is left")


async def test_bytes_sent_before_the_101_are_held_until_it_comes() -> None:
    agree = asyncio.Event()

    async def late(wire: Wire) -> None:
        await wire.until(b"\r\n\r\n")
        await agree.wait()
        assert wire.got.endswith(b"\r\n\r\n"), "something came before the 101"
        wire.got.clear()
        await wire.send(AGREES)
        await wire.until(b"early")
        await wire.send(b"seen")
        await wire.rest()

    async with RawBackend(late) as a, RunningWorker(table(ROUTE, a=a.port)) as w:
        reader, writer = await asyncio.open_connection("127.0.0.1", w.port)
        writer.write(ASKS + b"ear")
        await eventually(lambda: a.wires and a.wires[0].got, "the request arrives")
        writer.write(b"ly")
        await asyncio.sleep(0.1)
        agree.set()
        assert (await reader.readuntil(b"seen")).startswith(b"HTTP/1.1 101 ")
        writer.close()


@pytest.mark.parametrize(
    "reply",
    [
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nno",
        b"HTTP/1.1 426 Upgrade Required\r\nUpgrade: h2c\r\ncontent-length: 2\r\n\r\nno",
        b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nno\r\n0\r\n\r\n",
    ],
    ids=["200", "426", "after a 103"],
)
async def test_without_a_101_nothing_is_tunnelled_and_the_connection_ends(reply: bytes) -> None:
    smuggled = b"GET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n"

    async def refuse(wire: Wire) -> None:
        await wire.until(b"\r\n\r\n")
        await wire.send(reply)
        await wire.rest()

    async with RawBackend(refuse) as a, RunningWorker(table(ROUTE, a=a.port)) as w:
        got = await w.raw(ASKS + smuggled)
        assert b"no" in got and b"\r\nconnection: close\r\n" in got
        assert got.count(b"HTTP/1.1 ") == reply.count(b"HTTP/1.1 ")
        assert not any(b"smuggled" in wire.got for wire in a.wires)
        await eventually(lambda: w.counts()[0] == 1, "it is an answer like any other")


BAD_AGREEMENTS = {
    "another protocol": AGREES.replace(b"websocket", b"other"),
    "no protocol": b"HTTP/1.1 101 X\r\nConnection: upgrade\r\n\r\n",
    "not nominated": AGREES.replace(b"Connection: Upgrade\r\n", b""),
    "nominated with a word too many": AGREES.replace(b"Connection: Upgrade", b"Connection: Upgrade;q=1"),
    "two protocols": AGREES.replace(b"Sec-X: y", b"Upgrade: websocket"),
    "with a body": AGREES.replace(b"Sec-X: y", b"Content-Length: 4"),
}


async def test_a_101_that_does_not_match_is_the_canarys_failure_and_rescued(subtests: pytest.Subtests) -> None:
    async with RawBackend(echo) as a, Backend() as b, RunningWorker(table(CANARY, a=a.port, b=b.port)) as w:
        for round_, (name, reply) in enumerate(BAD_AGREEMENTS.items(), 1):
            with subtests.test(name):
                b.script = raw(reply + b"stray")
                reader, writer = await asyncio.open_connection("127.0.0.1", w.port)
                writer.write(ASKS + b"ping")
                head = await reader.readuntil(b"\r\n\r\n")
                assert head.startswith(b"HTTP/1.1 101 ") and b"x-gateway-variant: stable" in head
                assert await reader.readexactly(4) == b"ping"
                writer.close()
                await eventually(lambda n=round_: w.counts() == (0, 0, n, n), "the canary's failure is counted")


async def test_a_canary_that_fails_the_handshake_is_rescued_and_one_that_agrees_keeps_it() -> None:
    async with RawBackend(echo) as a, Backend(answer(500)) as b, RunningWorker(table(CANARY, a=a.port, b=b.port)) as w:
        reader, writer = await asyncio.open_connection("127.0.0.1", w.port)
        writer.write(ASKS)
        assert b"stable" in await reader.readuntil(b"\r\n\r\n")
        writer.close()
        b.script = raw(AGREES)
        reader, writer = await asyncio.open_connection("127.0.0.1", w.port)
        writer.write(ASKS)
        assert b"variant: canary" in await reader.readuntil(b"\r\n\r\n")
        writer.close()
        await eventually(lambda: w.counts() == (0, 0, 2, 1), f"one failure of two, not {w.counts()}")


async def test_a_canary_that_fails_sheds_hangs_resets_or_is_dead_gives_the_handshake_to_stable(
    subtests: pytest.Subtests,
) -> None:
    async def resets(_: Seen, peer: Peer) -> None:
        peer.reset()

    # An ejected endpoint fails its tries as well, but is not asked: here each is.
    patient = OutlierEjection(failures=1000)
    route = msgspec.structs.replace(CANARY, timeouts=Timeouts(connect_s=20, first_byte_s=3))
    async with RawBackend(echo) as a, Backend() as b:
        spec = table(route, a=a.port, b=b.port)
        canary = msgspec.structs.replace(spec.backends["b"], passive=patient)
        async with RunningWorker(msgspec.structs.replace(spec, backends=spec.backends | {"b": canary})) as w:
            scripts = {"500": answer(500), "503": answer(503), "hangs": hang, "resets": resets, "is dead": None}
            for name, script in scripts.items():
                with subtests.test(name):
                    if script is None:
                        await b.stop()
                    else:
                        b.script = script
                    reader, writer = await asyncio.open_connection("127.0.0.1", w.port)
                    writer.write(ASKS + b"held meanwhile")
                    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20)
                    assert head.startswith(b"HTTP/1.1 101 ") and b"x-gateway-variant: stable" in head
                    assert await asyncio.wait_for(reader.readexactly(14), 20) == b"held meanwhile"
                    writer.close()
            await eventually(lambda: w.totals(1).rescued == len(scripts), f"all are rescued, not {w.totals(1).rescued}")
            entries = w.evidence()
            assert sum(e.canary.of("errors") + e.canary.of("overload") for e in entries) == len(scripts), "and counted"


async def test_an_upgrade_without_a_101_ends_as_the_answer_that_it_got(subtests: pytest.Subtests) -> None:
    """200 did without, 426 was asked wrongly: the canary has answered, and there is nothing to retry."""
    async with RawBackend(echo) as a, Backend() as b, RunningWorker(table(CANARY, a=a.port, b=b.port)) as w:
        for status in (200, 426):
            with subtests.test(status=status):
                b.script = answer(status, b"no")
                got = await w.raw(ASKS, timeout_s=20)
                assert got.startswith(b"HTTP/1.1 %d " % status) and got.endswith(b"no"), got
                assert b"\r\nconnection: close\r\n" in got and b"variant: canary" in got
        await eventually(lambda: w.counts() == (0, 0, 2, 0), "they are counted")
        assert sum(e.canary.of("client_errors") for e in w.evidence()) == 1
        assert a.wires == [], "stable is not asked"


async def test_either_side_may_end_its_half_first() -> None:
    async with RawBackend(echo) as a, RunningWorker(table(ROUTE, a=a.port)) as w:
        reader, writer = await asyncio.open_connection("127.0.0.1", w.port)
        writer.write(ASKS)
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"last words")
        writer.write_eof()
        assert await reader.read() == b"last wordsbye", "the backend still answers after the client's end"
        writer.close()
        await eventually(lambda: w.observer.merged().reports[0].tunnels_open == 0, "both ends are gone")

    async def ends_first(wire: Wire) -> None:
        await wire.until(b"\r\n\r\n")
        await wire.send(AGREES)
        wire.writer.write_eof()
        await wire.until(b"after")

    async with RawBackend(ends_first) as a, RunningWorker(table(ROUTE, a=a.port)) as w:
        reader, writer = await asyncio.open_connection("127.0.0.1", w.port)
        writer.write(ASKS)
        await reader.readuntil(b"\r\n\r\n")
        assert await reader.read() == b""
        writer.write(b"after")
        await eventually(lambda: a.wires[0].got.endswith(b"after"), "the client still speaks after the backend's end")
        writer.close()
        await eventually(lambda: w.observer.merged().reports[0].connections == 0, "all is closed")


async def test_a_reset_of_one_side_is_a_reset_of_the_other() -> None:
    async with RawBackend(echo) as a, RunningWorker(table(ROUTE, a=a.port)) as w:
        reader, writer = await asyncio.open_connection("127.0.0.1", w.port)
        writer.write(ASKS)
        await reader.readuntil(b"\r\n\r\n")
        reset_on_close(writer)
        writer.transport.abort()
        await eventually(lambda: a.open == 0, "the backend's side ends")
        reader, writer = await asyncio.open_connection("127.0.0.1", w.port)
        writer.write(ASKS)
        await reader.readuntil(b"\r\n\r\n")
        a.wires[-1].reset()
        with contextlib.suppress(ConnectionResetError):
            assert await reader.read() == b""
        writer.close()
        await eventually(lambda: w.observer.merged().reports[0].connections == 0, "all is closed")


async def flood(writer: asyncio.StreamWriter) -> int:
    """Send until nobody has taken anything for a second; returns how many bytes."""
    sent = 0
    with contextlib.suppress(TimeoutError):
        while sent < 64 << 20:
            writer.write(bytes(1 << 20))
            sent += 1 << 20
            async with asyncio.timeout(1):
                await writer.drain()
    assert sent < 64 << 20, "somebody takes what nobody reads"
    return sent


async def test_a_tunnel_holds_no_more_than_its_buffers() -> None:
    go_on = asyncio.Event()

    async def never_reads(wire: Wire) -> None:
        await wire.until(b"\r\n\r\n")
        await wire.send(AGREES)
        await go_on.wait()
        await wire.rest()

    async with RawBackend(never_reads) as a, RunningWorker(table(ROUTE, a=a.port)) as w:
        reader, writer = await asyncio.open_connection("127.0.0.1", w.port)
        writer.write(ASKS)
        await reader.readuntil(b"\r\n\r\n")
        before_kib, sent = w.rss_kib, await flood(writer)
        assert w.rss_kib - before_kib < 4 * 1024
        go_on.set()
        await eventually(lambda: len(a.wires[0].got) > sent, "all of it arrives in the end")
        writer.close()


async def test_before_the_101_a_client_is_held_back() -> None:
    async with RawBackend(lambda wire: wire.rest()) as a, RunningWorker(table(ROUTE, a=a.port)) as w:
        _, writer = await asyncio.open_connection("127.0.0.1", w.port)
        writer.write(ASKS)
        await eventually(lambda: a.wires, "the request arrives")
        before_kib = w.rss_kib
        await flood(writer)
        assert w.rss_kib - before_kib < 4 * 1024
        writer.transport.abort()


async def test_an_idle_tunnel_is_closed_and_a_busy_one_is_not() -> None:
    route = msgspec.structs.replace(ROUTE, timeouts=Timeouts(idle_s=0.5, total_s=1.0, tunnel_idle_s=2.0))
    async with RawBackend(echo) as a, RunningWorker(table(route, a=a.port)) as w:
        reader, writer = await asyncio.open_connection("127.0.0.1", w.port)
        writer.write(ASKS)
        await reader.readuntil(b"\r\n\r\n")
        for pause_s in (0.1, 0.8, 0.8, 0.8):
            await asyncio.sleep(pause_s)
            writer.write(b"x")
            assert await reader.readexactly(1) == b"x", "no other deadline ends a tunnel"
        assert await asyncio.wait_for(reader.read(), 30) == b""
        writer.close()


async def test_a_tunnel_lives_on_in_a_drain_and_ends_before_its_deadline() -> None:
    async with RawBackend(echo) as a, RunningWorker(table(ROUTE, a=a.port), limits=Limits(drain_timeout_s=3.0)) as w:
        reader, writer = await asyncio.open_connection("127.0.0.1", w.port)
        writer.write(ASKS)
        await reader.readuntil(b"\r\n\r\n")
        w.process.send_signal(signal.SIGTERM)
        await asyncio.sleep(0.3)
        writer.write(b"still here")
        assert await reader.readexactly(10) == b"still here"
        assert await asyncio.wait_for(reader.read(), 30) == b"", "an end in order, not a reset"
        writer.close()
        assert await asyncio.wait_for(w.process.wait(), 30) == 0


NOT_PASSED_ON = {
    "h2c, as Java and curl ask": b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AA\r\n",
    "not nominated": b"Upgrade: websocket\r\n",
    "nominated alone": b"Connection: upgrade\r\n",
    "TLS": b"Connection: upgrade\r\nUpgrade: TLS/1.2\r\n",
}


async def test_any_other_upgrade_is_served_as_an_ordinary_request(subtests: pytest.Subtests) -> None:
    async def echo_body(seen: Seen, peer: Peer) -> None:
        await answer(body=bytes(seen.target) + b"=" + bytes(seen.body))(seen, peer)

    bodies = {
        b"": b"",
        b"Content-Length: 5\r\n": b"hello",
        b"Transfer-Encoding: chunked\r\n": b"2\r\nhe\r\n3\r\nllo\r\n0\r\nT: 1\r\n\r\n",
    }
    async with Backend(echo_body) as a, RunningWorker(table(ROUTE, a=a.port)) as w:
        for name, fields in NOT_PASSED_ON.items():
            for framing, body in bodies.items():
                with subtests.test(name, framing=framing):
                    a.seen.clear()
                    got = await w.raw(
                        b"POST /one HTTP/1.1\r\nHost: h\r\n%b%b\r\n%b" % (fields, framing, body)
                        + b"GET /two HTTP/1.1\r\nHost: h\r\n\r\n"
                        + b"GET /three HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"
                    )
                    assert got.count(b"HTTP/1.1 200 ") == 3, got
                    assert (b"/one=hello" if body else b"/one=HTTP") in got
                    assert got.index(b"/one=") < got.index(b"/two=") < got.index(b"/three=")
                    assert not any(seen.all(b"upgrade") or seen.all(b"http2-settings") for seen in a.seen)


async def test_a_body_makes_an_upgrade_an_ordinary_request() -> None:
    async with Backend() as a, RunningWorker(table(ROUTE, a=a.port)) as w:
        reader, writer = await asyncio.open_connection("127.0.0.1", w.port)
        asks = ASKS.replace(b"GET", b"POST")[:-2] + b"Content-Length: 6\r\n\r\n"
        for piece in (asks, b"abc", b"defGET /after HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"):
            writer.write(piece)
            await asyncio.sleep(0.03)
        assert (await reader.read()).count(b"HTTP/1.1 200 ") == 2
        writer.close()
    assert [bytes(seen.body) for seen in a.seen] == [b"abcdef", b""]
    assert a.seen[0].all(b"upgrade") == []


async def test_a_malformed_body_behind_an_upgrade_is_refused() -> None:
    async with Backend() as a, RunningWorker(table(ROUTE, a=a.port)) as w:
        got = await w.raw(ASKS[:-2] + b"Transfer-Encoding: chunked\r\n\r\nzz\r\nGET /x HTTP/1.1\r\nHost: h\r\n\r\n")
        assert got.startswith(b"HTTP/1.1 400 ") and got.count(b"HTTP/1.1 ") == 1
        got = await w.raw(ASKS[:-2] + b"Content-Length: 1\r\nExpect: tea\r\n\r\nGET /x HTTP/1.1\r\nHost: h\r\n\r\n")
        assert got.startswith(b"HTTP/1.1 417 ") and got.count(b"HTTP/1.1 ") == 1
    assert not any(seen.complete for seen in a.seen)


async def test_a_route_says_which_protocols_pass() -> None:
    route = msgspec.structs.replace(ROUTE, upgrades=("raw-tensors",))
    agree = AGREES.replace(b"websocket", b"Raw-Tensors")
    async with Backend(raw(agree)) as a, RunningWorker(table(route, a=a.port)) as w:
        reader, writer = await asyncio.open_connection("127.0.0.1", w.port)
        writer.write(ASKS.replace(b"websocket", b"websocket, Raw-Tensors"))
        got = await reader.readuntil(b"\r\n\r\n")
        writer.close()
        assert got.startswith(b"HTTP/1.1 101 "), got
        assert a.seen[0].all(b"upgrade") == [b"raw-tensors"]
        a.script = answer()
        got = await w.raw(ASKS.replace(b"keep-alive", b"close"))
        assert got.startswith(b"HTTP/1.1 200 ")
        assert a.seen[1].all(b"upgrade") == []


async def test_many_tunnels_come_and_go_and_nothing_is_left() -> None:
    async with RawBackend(echo) as a, RunningWorker(table(ROUTE, a=a.port)) as w:
        before = w.descriptors
        for round_ in range(3):
            pairs = [await asyncio.open_connection("127.0.0.1", w.port) for _ in range(40)]
            for _, writer in pairs:
                writer.write(ASKS + b"ping")
            for i, (reader, writer) in enumerate(pairs):
                await reader.readuntil(b"ping")
                if (i + round_) % 3 == 0:
                    writer.write_eof()
                elif (i + round_) % 3 == 1:
                    reset_on_close(writer)
                    writer.transport.abort()
                else:
                    writer.close()
            await eventually(lambda: w.observer.merged().reports[0].connections == 0, "no connection is left")
            for _, writer in pairs:
                writer.close()
        await eventually(lambda: w.observer.merged().reports[0].upstream_connections == 0, "none upstream either")
        # What a worker says of itself is as old as its last report.
        await eventually(lambda: w.observer.merged().reports[0].tunnels_open == 0, "every tunnel has ended")
        await eventually(lambda: w.descriptors <= before + 1, "no descriptor is left")
        assert w.observer.merged().notes["tunnels"] == 120
