"""Request bodies on their way: slow ones occupy no backend, large ones can be sent again, and none is ever torn."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import socket
import termios
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from gateway.core.traffic.table import Backend as BackendSpec
from gateway.core.traffic.table import Endpoint, Rescue, Route, RoutingTable, Timeouts
from gateway.runtime.settings import Limits
from tests.support.backend import Backend, Peer, Seen, answer
from tests.support.rawbackend import RawBackend, Wire
from tests.support.worker import RunningWorker, eventually, table

pytestmark = pytest.mark.anyio
ROUTE = Route("r", "/", stable="a")
CANARY = Route("r", "/", stable="a", canary="b", weight_bp=10_000, timeouts=Timeouts(connect_s=20, first_byte_s=20))
QUICK = b"POST /quick HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Length: 2\r\n\r\nhi"
HEAD = b"POST /%b HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"


def _few(port: int, connections_max: int, **changes: object) -> RoutingTable:
    spec = BackendSpec("a", (Endpoint("127.0.0.1", port),), connections_max=connections_max)
    return RoutingTable(1, (msgspec.structs.replace(ROUTE, **changes),), {"a": spec})


@contextlib.asynccontextmanager
async def _uploads(w: RunningWorker, count: int, begun: bytes) -> AsyncIterator[list[asyncio.StreamWriter]]:
    """So many clients that have begun to send a body, and do not go on."""
    writers = []
    for _ in range(count):
        _, writer = await asyncio.open_connection("127.0.0.1", w.port)
        writer.write(begun)
        writers.append(writer)
    try:
        yield writers
    finally:
        for writer in writers:
            writer.transport.abort()


def _in_flight(w: RunningWorker) -> int:
    return w.observer.merged().reports[0].in_flight


async def test_slow_uploads_occupy_no_backend() -> None:
    async with Backend() as a, RunningWorker(_few(a.port, 2)) as w:
        async with _uploads(w, 12, HEAD % (b"slow", 4000) + bytes(1000)) as writers:
            await eventually(lambda: _in_flight(w) == 12, "they have begun")
            for _ in range(20):
                assert (await w.raw(QUICK)).startswith(b"HTTP/1.1 200 ")
            assert {bytes(seen.target) for seen in a.seen} == {b"/quick"}
            for writer in writers[:3]:
                writer.write(bytes(3000))
            await eventually(lambda: len(a.seen) == 23 and a.seen[-1].complete, "those that are whole are sent")
            assert all(len(seen.body) == 4000 for seen in a.seen[-3:])
        await eventually(lambda: _in_flight(w) == 0, "nothing is left")
        assert w.observer.merged().reports[0].body_memory_bytes == 0
        assert w.observer.merged().faults == {}


async def test_an_upload_that_flows_is_sent_on_before_it_is_whole() -> None:
    async with Backend() as a, RunningWorker(_few(a.port, 2)) as w:
        reader, writer = await asyncio.open_connection("127.0.0.1", w.port)
        writer.write(HEAD % (b"large", 300_000) + bytes(100_000))
        await eventually(lambda: a.seen and len(a.seen[0].body) == 100_000, "what has come is at the backend")
        writer.write(bytes(200_000))
        assert (await reader.read()).startswith(b"HTTP/1.1 200 ")
        writer.close()


async def test_uploads_that_flowed_and_stopped_leave_connections_to_others() -> None:
    async with Backend() as a, RunningWorker(_few(a.port, 2)) as w:
        async with _uploads(w, 5, HEAD % (b"stopped", 10_000_000) + bytes(100_000)):
            await eventually(lambda: a.seen and len(a.seen[0].body) == 100_000, "one has got a connection")
            for _ in range(10):
                assert (await w.raw(QUICK)).startswith(b"HTTP/1.1 200 ")
            late = asyncio.create_task(w.raw(HEAD % (b"late", 200_000) + bytes(200_000)))
            assert (await late).startswith(b"HTTP/1.1 200 "), "one that becomes whole while it waits needs no share"
        assert [bytes(seen.target) for seen in a.seen].count(b"/stopped") == 1
        await eventually(lambda: _in_flight(w) == 0, "nothing is left")
        assert w.observer.merged().faults == {}


async def test_an_upload_gets_the_share_that_another_has_left() -> None:
    async with Backend() as a, RunningWorker(_few(a.port, 2)) as w:
        async with _uploads(w, 2, HEAD % (b"upload", 10_000_000) + bytes(100_000)) as writers:
            await eventually(lambda: a.seen and len(a.seen[0].body) == 100_000, "one has got a connection")
            await eventually(lambda: _in_flight(w) == 2, "the other waits")
            writers[0].transport.abort()
            await eventually(lambda: len(a.seen) == 2 and len(a.seen[1].body) == 100_000, "and has it now")


async def test_one_that_waits_for_leave_is_given_it_although_others_upload() -> None:
    asks = b"POST /asks HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nConnection: close\r\nContent-Length: 4\r\n\r\n"
    async with Backend() as a, RunningWorker(_few(a.port, 2)) as w:
        async with _uploads(w, 1, HEAD % (b"stopped", 10_000_000) + bytes(100_000)):
            await eventually(lambda: a.seen, "it has the uploads' share")
            reader, writer = await asyncio.open_connection("127.0.0.1", w.port)
            writer.write(asks)
            assert await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10) == b"HTTP/1.1 100 Continue\r\n\r\n"
            writer.write(b"body")
            assert (await reader.read()).startswith(b"HTTP/1.1 200 ")
            writer.close()
            assert a.seen[1].body == b"body" and not a.seen[1].all(b"expect")


async def test_a_route_of_dialogues_passes_everything_on_at_once() -> None:
    async def echo(wire: Wire) -> None:
        await wire.until(b"\r\n\r\n")
        await wire.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        for word in (b"one", b"two"):
            await wire.until(word)
            await wire.send(b"3\r\n%b\r\n" % word)
        await wire.send(b"0\r\n\r\n")

    route = msgspec.structs.replace(ROUTE, streams_requests=True)
    async with RawBackend(echo) as a, RunningWorker(table(route, a=a.port)) as w:
        reader, writer = await asyncio.open_connection("127.0.0.1", w.port)
        writer.write(b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n")
        for word in (b"one", b"two"):
            writer.write(b"3\r\n%b\r\n" % word)
            await asyncio.wait_for(reader.readuntil(word), 10)
        writer.close()


async def test_a_client_that_stops_its_upload_is_nobodys_failure() -> None:
    route = msgspec.structs.replace(CANARY, timeouts=Timeouts(idle_s=0.3))
    async with Backend() as a, Backend() as b, RunningWorker(table(route, a=a.port, b=b.port)) as w:
        got = await w.raw(HEAD % (b"", 9) + b"abc")
        assert got.startswith(b"HTTP/1.1 408 ") and b"body_timeout" in got
        got = await w.raw(HEAD % (b"", 900_000) + bytes(100_000))
        assert got.startswith(b"HTTP/1.1 408 ") and b"body_timeout" in got
        async with _uploads(w, 1, HEAD % (b"", 9) + b"abc"):
            await eventually(lambda: _in_flight(w) == 1, "it has begun")
        await eventually(lambda: w.observer.merged().aborted == 1, "it is gone")
        assert not a.seen and w.counts() == (0, 0, 0, 0)
        assert not any(entry.stable.aborted or entry.canary.aborted for entry in w.evidence()), "it waited for nobody"


async def test_the_time_of_an_upload_is_not_the_backends() -> None:
    async with Backend() as a, RunningWorker(table(ROUTE, a=a.port)) as w:
        reader, writer = await asyncio.open_connection("127.0.0.1", w.port)
        writer.write(HEAD % (b"", 6) + b"abc")
        await asyncio.sleep(0.5)
        loop = asyncio.get_running_loop()
        whole_s = loop.time()
        writer.write(b"def")
        assert (await reader.read()).startswith(b"HTTP/1.1 200 ")
        answered_us = (loop.time() - whole_s) * 1e6
        writer.close()
        await eventually(lambda: w.totals(0).tries.get("ok") == 1, "it is counted")
        totals = w.totals(0)
        assert max(totals.first_byte_us_sum, totals.duration_us_sum) <= answered_us


async def test_a_waiting_upload_goes_by_the_table_of_the_moment_when_it_is_sent() -> None:
    async with Backend() as a, Backend() as b, RunningWorker(table(CANARY, a=a.port, b=b.port)) as w:
        reader, writer = await asyncio.open_connection("127.0.0.1", w.port)
        writer.write(HEAD % (b"", 6) + b"abc")
        await eventually(lambda: _in_flight(w) == 1, "it has begun")
        await w.publish(w.table.with_weight("r", 0))
        writer.write(b"def")
        assert b"x-gateway-variant: stable" in await reader.read()
        writer.close()
        assert not b.seen


async def test_a_request_that_finds_no_free_connection_is_refused_by_its_own_clock() -> None:
    timeouts = Timeouts(connect_s=0.3, first_byte_s=0.7)
    never = asyncio.Event()

    async def hold(seen: Seen, peer: Peer) -> None:
        await never.wait()

    async with Backend(hold) as a, RunningWorker(_few(a.port, 1, timeouts=Timeouts())) as w:
        held = asyncio.create_task(w.raw(QUICK))
        await eventually(lambda: a.seen, "the only connection is taken")
        await w.publish(msgspec.structs.replace(_few(a.port, 1, timeouts=timeouts), epoch=2))
        got = await w.raw(QUICK)
        assert got.startswith(b"HTTP/1.1 503 ") and b"queue_timeout" in got
        short = "the backend is short of room"
        await eventually(lambda: sum(e.stable.of("overload") for e in w.evidence()) == 1, short)
        assert w.counts()[1] == 0
        held.cancel()


# kept for another try


def _body(size: int) -> bytes:
    return hashlib.shake_128(b"%d" % size).digest(size)


def _chunked(body: bytes) -> bytes:
    pieces = [body[i : i + 50_000] for i in range(0, len(body), 50_000)]
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_large_upload_that_the_canary_failed_is_rescued_from_a_file(chunked: bool) -> None:
    body = _body(5_000_000)

    async def read_slowly(seen: Seen, peer: Peer) -> None:
        await answer(body=hashlib.sha256(seen.body).hexdigest().encode())(seen, peer)

    head = b"POST / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n"
    framed = b"Transfer-Encoding: chunked\r\n\r\n" if chunked else b"Content-Length: %d\r\n\r\n" % len(body)
    async with Backend(read_slowly) as a, Backend(answer(500, b"boom")) as b:
        async with RunningWorker(table(CANARY, a=a.port, b=b.port)) as w:
            got = await w.raw(head + framed + (_chunked(body) if chunked else body))
            assert got.startswith(b"HTTP/1.1 200 "), got[:200]
            assert got.endswith(hashlib.sha256(body).hexdigest().encode())
            assert bytes(b.seen[0].body) == body
            await eventually(lambda: w.observer.merged().reports[0].body_disk_bytes == 0, "the file is gone")
            assert w.observer.merged().notes.keys() & {"body_not_kept:too_large"} == set()


async def test_an_upload_that_cannot_be_kept_is_served_and_counted(tmp_path: Path, subtests: pytest.Subtests) -> None:
    body = _body(400_000)
    cases = {
        "too_large": (Rescue(body_bytes_max=1000, file_bytes_max=100_000), Limits()),
        "disk_limit": (Rescue(body_bytes_max=1000), Limits(body_disk_bytes=100_000)),
        "disk_failed": (Rescue(body_bytes_max=1000), Limits(body_directory=str(tmp_path / "absent"))),
    }
    for reason, (rescue, limits) in cases.items():
        with subtests.test(reason):
            route = msgspec.structs.replace(CANARY, rescue=rescue)
            async with Backend() as a, Backend() as b:
                async with RunningWorker(table(route, a=a.port, b=b.port), limits=limits) as w:
                    assert (await w.raw(HEAD % (b"", len(body)) + body)).startswith(b"HTTP/1.1 200 ")
                    b.script = answer(500, b"boom")
                    assert (await w.raw(HEAD % (b"", len(body)) + body)).startswith(b"HTTP/1.1 500 ")
                    assert [bytes(seen.body) == body for seen in b.seen] == [True, True] and not a.seen
                    name = f"body_not_kept:{reason}"
                    await eventually(lambda name=name: w.observer.merged().notes.get(name) == 2, "it is counted")


async def test_slow_bodies_beyond_all_bounds_are_refused_and_flowing_ones_served() -> None:
    limits = Limits(body_memory_bytes=1 << 20, body_disk_bytes=0)
    async with Backend() as a, RunningWorker(_few(a.port, 4), limits=limits) as w:
        async with _uploads(w, 10, HEAD % (b"slow", 10_000_000) + bytes(40_000)) as writers:
            await eventually(lambda: _in_flight(w) == 10, "they have begun")
            for writer in writers:
                writer.write(bytes(20_000))
            await eventually(lambda: w.observer.merged().faults.get("body_buffers_full", 0) >= 1, "some are refused")
            assert 400_000 < w.observer.merged().reports[0].body_memory_bytes < 700_000
            got = await w.raw(HEAD % (b"large", 3_000_000) + bytes(3_000_000))
            assert got.startswith(b"HTTP/1.1 200 ")
            assert (await w.raw(QUICK)).startswith(b"HTTP/1.1 200 ")
            assert {bytes(seen.target) for seen in a.seen} == {b"/large", b"/quick"}


# answers before the request is whole, and answers that break off


def _send_all(port: int, data: bytes, piece: int = 65536) -> bytes:
    """A client that sends all of its request before it reads, as most libraries do; returns what it then read."""
    got = b""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as client:
        for at in range(0, len(data), piece):
            client.sendall(data[at : at + piece])
        while more := client.recv(65536):
            got += more
    return got


@pytest.mark.parametrize("framing", [b"content-length: 8\r\n", b"connection: close\r\n"])
async def test_an_early_answer_of_a_backend_that_closes_reaches_a_client_that_still_sends(framing: bytes) -> None:
    async def refuse(wire: Wire) -> None:
        await wire.until(b"\r\n\r\n")
        await wire.send(b"HTTP/1.1 413 Too Large\r\n%b\r\ntoo much" % framing)
        # Closing with unread data in its buffer: the kernel sends a reset behind the answer.

    size = 12_000_000
    data = HEAD % (b"", size) + bytes(size)
    async with RawBackend(refuse) as a, RunningWorker(table(ROUTE, a=a.port)) as w:
        for round_ in range(10):
            got = await asyncio.to_thread(_send_all, w.port, data)
            assert got.startswith(b"HTTP/1.1 413 ") and b"too much" in got, (round_, got[:300])
        await eventually(
            lambda: w.totals(0).tries.get("client_errors") == 10,
            f"each is the backend's own answer: {w.totals(0).tries} {w.observer.merged().faults}",
        )
        assert w.totals(0).tries == {"client_errors": 10} and w.observer.merged().faults == {}


@pytest.mark.parametrize("version", [b"1.1", b"1.0"])
@pytest.mark.parametrize("framing", [b"content-length: 9000000\r\n", b"transfer-encoding: chunked\r\n", b""])
@pytest.mark.parametrize("resets", [False, True])
async def test_what_came_before_an_answer_broke_off_is_delivered_and_the_cut_is_seen(
    version: bytes, framing: bytes, resets: bool
) -> None:
    """The client begins to read when the backend is gone."""
    size = 200_000 if resets else 3_000_000
    begun, gone = asyncio.Event(), asyncio.Event()

    async def tear(wire: Wire) -> None:
        await wire.until(b"\r\n\r\n")
        body = bytes(size)
        if b"chunked" in framing:
            body = b"%x\r\n%b\r\n" % (size, body)
        await wire.send(b"HTTP/1.1 200 OK\r\n%b\r\n" % framing)
        await begun.wait()
        wire.writer.write(body)
        if not resets:
            gone.set()
            return
        unsent = bytearray(b"x")  # a reset drops what has not arrived
        while any(unsent) or wire.writer.transport.get_write_buffer_size():
            await asyncio.sleep(0.01)
            unsent = bytearray(4)
            fcntl.ioctl(wire.writer.get_extra_info("socket").fileno(), termios.TIOCOUTQ, unsent)
        wire.reset()
        gone.set()

    async with RawBackend(tear) as a, RunningWorker(table(ROUTE, a=a.port)) as w:
        reader, writer = await asyncio.open_connection("127.0.0.1", w.port, limit=4096)
        writer.write(b"GET / HTTP/%b\r\nHost: h\r\nConnection: close\r\n\r\n" % version)
        head = await reader.readuntil(b"\r\n\r\n")
        writer.transport.pause_reading()  # type: ignore[attr-defined]  # a socket's transport has it
        begun.set()
        await gone.wait()
        await asyncio.sleep(0.1)
        writer.transport.resume_reading()  # type: ignore[attr-defined]  # as above
        got, clean = 0, True
        try:
            while more := await reader.read(65536):
                got += more.count(b"\0")
        except ConnectionResetError:
            clean = False
        writer.close()
        framed = b"content-length" in head or b"chunked" in head
        whole = not framing and not resets
        assert got == size, "all of it has arrived"
        assert clean == (framed or whole), "its framing says that it is cut, or a reset does"


# clients that are gone, or only send no more


@pytest.mark.parametrize("pause_s", [0.0, 0.4])
async def test_a_client_that_closed_its_socket_frees_the_backend(pause_s: float) -> None:
    """What libraries do at a time-out: a plain close, which is a FIN. At once it looks like a half-close, later not."""

    async def computes(wire: Wire) -> None:
        await wire.rest()

    async with RawBackend(computes) as a, RunningWorker(table(ROUTE, a=a.port)) as w:
        with socket.create_connection(("127.0.0.1", w.port)) as client:
            client.sendall(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\nhi")
            await eventually(lambda: a.open == 1 and a.wires[0].got.endswith(b"hi"), "the backend computes")
            await asyncio.sleep(pause_s)
        await eventually(lambda: a.open == 0, "and does not any more")
        await eventually(lambda: w.observer.merged().aborted == 1 and _in_flight(w) == 0, "it is counted")
        assert w.counts()[1] == 0, "it is no failure of the backend"


@pytest.mark.parametrize(("half_close_s", "version", "asked"), [(0.25, b"1.1", 1), (0.25, b"1.0", 0), (1e9, b"1.1", 0)])
async def test_a_client_that_only_sends_no_more_is_answered(half_close_s: float, version: bytes, asked: int) -> None:
    route = msgspec.structs.replace(ROUTE, half_close_s=half_close_s)

    async def slow(seen: Seen, peer: Peer) -> None:
        await asyncio.sleep(1.3)
        await answer(body=b"late")(seen, peer)

    async with Backend(slow) as a, RunningWorker(table(route, a=a.port)) as w:
        reader, writer = await asyncio.open_connection("127.0.0.1", w.port)
        writer.write(b"GET / HTTP/%b\r\nHost: h\r\n\r\n" % version)
        writer.write_eof()
        got = await asyncio.wait_for(reader.read(), 20)
        writer.close()
        assert got.endswith(b"late")
        assert got.count(b"HTTP/1.1 100 Continue\r\n\r\n") == asked and got.count(b"HTTP/1.1 200 ") == 1


async def test_a_stream_whose_client_closed_ends_with_its_next_piece() -> None:
    go_on = asyncio.Event()

    async def stream(wire: Wire) -> None:
        await wire.until(b"\r\n\r\n")
        await wire.send(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        await wire.send(b"3\r\none\r\n")
        await go_on.wait()
        while True:
            await wire.send(b"3\r\ntwo\r\n")
            await asyncio.sleep(0.02)

    async with RawBackend(stream) as a, RunningWorker(table(ROUTE, a=a.port)) as w:
        with socket.create_connection(("127.0.0.1", w.port)) as client:
            client.sendall(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
            await eventually(lambda: w.observer.merged().reports[0].in_flight == 1, "it has begun")
            await asyncio.to_thread(client.recv, 65536)
        go_on.set()
        await eventually(lambda: a.open == 0 and w.observer.merged().aborted == 1, "the backend is let go")


@pytest.mark.parametrize("streams", [False, True])
async def test_chunks_arrive_as_one_message_however_many_there_are(streams: bool) -> None:
    """An empty chunk in their midst would be their end, and what follows it another request."""
    chunked = b"POST /%d HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
    async with Backend() as a, RunningWorker(_few(a.port, 1, streams_requests=streams)) as w:
        for count in range(1, 24):
            reader, writer = await asyncio.open_connection("127.0.0.1", w.port)
            writer.write(chunked % count + b"1\r\nx\r\n" * count + b"0\r\n\r\n")
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
            writer.close()
        assert [(bytes(seen.target), bytes(seen.body)) for seen in a.seen] == [
            (b"/%d" % count, b"x" * count) for count in range(1, 24)
        ]
