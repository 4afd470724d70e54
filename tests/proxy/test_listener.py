"""What a worker does with clients that are many, slow, gone, or no HTTP clients at all; and its drain."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import re
import signal
import socket
from collections.abc import Iterator

import msgspec
import pytest

from gateway.core.traffic.table import Route, Timeouts
from gateway.proxy.http1.small_reads import SMALL_READ_BYTES
from gateway.proxy.sweeper import Sweeper
from gateway.runtime.settings import Limits
from tests.support.backend import Backend, Peer, Seen, answer
from tests.support.downstream import in_hand
from tests.support.rawbackend import RawBackend, Wire, reset_on_close
from tests.support.worker import RunningWorker, eventually, table

pytestmark = pytest.mark.anyio
ROUTE = Route("r", "/", stable="a")
GET = b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"


def idle(w: RunningWorker) -> bool:
    report = w.observer.merged().reports[0]
    return (report.in_flight, report.connections) == (0, 0)


async def gone(w: RunningWorker, backend: Backend) -> None:
    """Wait until nobody is left, upstream as well."""
    async with asyncio.timeout(60):
        while not idle(w) or backend.open:
            await asyncio.sleep(0.05)


# too many


async def test_without_descriptors_accepting_pauses_and_comes_back_by_itself() -> None:
    release = asyncio.Event()

    async def later(seen: Seen, peer: Peer) -> None:
        await release.wait()
        await answer()(seen, peer)

    async with Backend(later) as a, RunningWorker(table(ROUTE, a=a.port), descriptors_max=120) as w:
        begun = [await asyncio.open_connection("127.0.0.1", w.port) for _ in range(10)]
        for _, writer in begun:
            writer.write(GET)
        await eventually(lambda: len(a.seen) == 10, "ten requests are under way")
        held = [await asyncio.open_connection("127.0.0.1", w.port) for _ in range(150)]
        await eventually(lambda: w.observer.merged().reports[0].accept_pauses > 0, "accepting pauses")
        assert w.descriptors < 120
        # It looks for room ten times a second; an acceptor without a pause would do so thousands of times.
        loop = asyncio.get_running_loop()
        began_s, pauses = loop.time(), w.observer.merged().reports[0].accept_pauses
        await asyncio.sleep(0.5)
        pauses = w.observer.merged().reports[0].accept_pauses - pauses
        assert pauses < 100 + 10 * (loop.time() - began_s), "it does not spin"
        pending = asyncio.create_task(w.raw(GET, timeout_s=20))
        release.set()
        for reader, writer in begun:
            assert (await asyncio.wait_for(reader.read(), 20)).startswith(b"HTTP/1.1 200 ")
            writer.close()
        for _, writer in held:
            writer.close()
        assert (await pending).startswith(b"HTTP/1.1 200 "), "who waited in the queue is served"
        await eventually(lambda: idle(w), "nobody is left")
        assert (await w.raw(GET)).startswith(b"HTTP/1.1 200 ")


async def test_a_client_has_no_more_connections_than_its_cap() -> None:
    limits = Limits(connections_per_client_max=3)
    async with Backend() as a, RunningWorker(table(ROUTE, a=a.port), limits=limits) as w:
        held = [await asyncio.open_connection("127.0.0.1", w.port) for _ in range(3)]
        await eventually(lambda: w.observer.merged().reports[0].connections == 3, "three are in")
        got = await w.raw(GET)
        assert got.startswith(b"HTTP/1.1 429 ") and b"x-gateway-error: too_many_from_client" in got
        held[0][1].write(GET)
        assert (await held[0][0].read()).startswith(b"HTTP/1.1 200 "), "who is in is served"
        await eventually(lambda: w.observer.merged().reports[0].connections == 2, "one has left")
        assert (await w.raw(GET)).startswith(b"HTTP/1.1 200 ")
        for _, writer in held:
            writer.close()
    async with Backend() as a, RunningWorker(table(ROUTE, a=a.port), limits=limits, trusted=("127.0.0.0/8",)) as w:
        held = [await asyncio.open_connection("127.0.0.1", w.port) for _ in range(6)]
        assert (await w.raw(GET)).startswith(b"HTTP/1.1 200 "), "a trusted proxy has no cap"
        for _, writer in held:
            writer.close()


# slow


async def test_slow_readers_of_endless_streams_cost_little_memory() -> None:
    """What a slow reader has not taken is in at most two pieces: one that is partly sent, and the one read after it.

    So each further reader costs these two and its objects, whatever the first ones, the kernel and the allocator cost.
    """
    readers = int(os.environ.get("GATEWAY_SLOW_READERS", "60"))
    piece = bytes(65536)

    async def endless(seen: Seen, peer: Peer) -> None:
        # The kernel's buffers are not what is measured here, and a thousand of them are gigabytes.
        peer.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
        await peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: 104857600\r\n\r\n")
        with contextlib.suppress(OSError):
            for _ in range(1600):
                await peer.send(piece)

    async with Backend(endless) as a:
        wide = msgspec.structs.replace(table(ROUTE, a=a.port).backends["a"], connections_max=2 * readers)
        spec = msgspec.structs.replace(table(ROUTE, a=1), backends={"a": wide})
        async with RunningWorker(spec) as w:
            held: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

            async def rss_kib_with(count: int) -> int:
                """The worker's memory when so many have read a little, several times, and stopped again."""
                while len(held) < count:
                    sock = socket.socket()
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16384)
                    sock.connect(("127.0.0.1", w.port))
                    reader, writer = await asyncio.open_connection(sock=sock, limit=1024)
                    writer.write(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
                    held.append((reader, writer))
                await eventually(lambda: a.open == count, "all are answered")
                for _ in range(5):
                    for reader, _ in held:
                        await reader.read(16384)
                    await asyncio.sleep(0.1)
                return w.rss_kib

            base_kib = await rss_kib_with(readers)
            each_kib = (await rss_kib_with(2 * readers) - base_kib) / readers
            for _, writer in held:
                writer.transport.abort()
            assert each_kib * 1024 < 3 * SMALL_READ_BYTES, f"{each_kib:.0f} KiB for each slow reader"
            await gone(w, a)


async def test_a_request_body_that_trickles_is_refused_and_one_that_flows_or_pauses_is_not() -> None:
    head = b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 600000\r\n\r\n"
    async with Backend() as a, in_hand() as hand:
        hand.worker.enter_table(table(ROUTE, epoch=2, a=a.port))
        now_s = hand.worker.now_s()
        hand.worker.now_s = lambda: now_s  # the clock at which tests stand
        sweeper = Sweeper(hand.worker)
        clients = []
        for count in (1, 2, 3):
            clients.append(await asyncio.open_connection(*hand.address))
            clients[-1][1].write(head)
            await eventually(lambda count=count: len(hand.worker.active) == count, "the exchange has begun")
        drips, flows, pauses = hand.worker.active
        arrived = {drips: 0, flows: 0, pauses: 0}
        ended: list[int] = []
        for second in range(110):
            sends = {drips: 400, flows: 600, pauses: 0 if 20 <= second < 35 else 600}
            for (_, writer), exchange in zip(clients, arrived, strict=True):
                if exchange in hand.worker.active and sends[exchange]:
                    writer.write(bytes(sends[exchange]))
                    arrived[exchange] += sends[exchange]
            await eventually(
                lambda: all(e.awaited_body_bytes() == arrived[e] for e in hand.worker.active), "it is here"
            )
            now_s += 1.0
            sweeper.sweep_bodies(now_s)
            ended += [second] if len(hand.worker.active) == 2 and not ended else []
        assert set(hand.worker.active) == {flows, pauses}
        assert 98 <= ended[0] <= 102, "a fifth too slow, it was 20 s behind after 100"
        assert hand.worker.counts.faults == {"body_too_slow": 1}
        for _, writer in clients:
            writer.transport.abort()


# gone


async def test_a_client_that_dies_unread_is_noticed_at_once() -> None:
    """Reading is paused while pipelined requests wait; a reset has to be noticed all the same."""

    async def never(_: Seen, peer: Peer) -> None:
        await peer.reader.read()

    async with Backend(never) as a, RunningWorker(table(ROUTE, a=a.port)) as w:
        _, writer = await asyncio.open_connection("127.0.0.1", w.port)
        writer.write(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n" * 3)
        await eventually(lambda: a.open == 1, "the first is upstream")
        await eventually(lambda: w.observer.merged().reports[0].in_flight == 1, "and under way")
        reset_on_close(writer)
        writer.transport.abort()
        await eventually(lambda: a.open == 0, "the backend is let go")
        await eventually(lambda: idle(w) and w.observer.merged().aborted == 1, "and nothing is left")


async def test_clients_that_leave_mid_stream_leave_nothing_behind() -> None:
    rounds = int(os.environ.get("GATEWAY_DISCONNECTS", "300"))

    async def stream(_: Seen, peer: Peer) -> None:
        await peer.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        with contextlib.suppress(OSError):
            while True:
                await peer.send(b"400\r\n" + bytes(1024) + b"\r\n")
                await asyncio.sleep(0.005)

    async with Backend(stream) as a, RunningWorker(table(ROUTE, a=a.port)) as w:
        first, writer = await asyncio.open_connection("127.0.0.1", w.port)
        writer.write(GET)
        await first.readuntil(b"\r\n\r\n")
        before = w.descriptors - 2  # but for its own two connections
        writer.transport.abort()

        async def leave(number: int) -> None:
            reader, writer = await asyncio.open_connection("127.0.0.1", w.port)
            writer.write(GET)
            if number % 3:
                await reader.readuntil(b"\r\n\r\n")
            if number % 2:
                reset_on_close(writer)
            writer.transport.abort()

        for start in range(0, rounds, 20):
            await asyncio.gather(*(leave(number) for number in range(start, start + 20)))
        await gone(w, a)
        await eventually(lambda: w.observer.merged().reports[0].upstream_connections == 0, "no upstream is left")
        await eventually(lambda: w.descriptors <= before, "no descriptor is left")


# no HTTP


NO_HTTP = {
    "tls": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(200)),
    "h2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00",
    "nul": b"GET / HTTP/1.1\r\nHost: h\x00\r\n\r\n",
    "zeros": bytes(4096),
    "noise": bytes(range(255, -1, -1)) * 16,
    "newlines": b"\r\n" * 5000,
    "ssh": b"SSH-2.0-OpenSSH_9.2\r\n",
    "proxy": b"PROXY TCP4 192.0.2.7 192.0.2.1 1234 80\r\n" + GET,
}


async def test_what_is_no_http_gets_a_400_or_is_closed() -> None:
    limits = Limits(head_timeout_s=1.0, keepalive_s=1.0)
    async with Backend() as a, RunningWorker(table(ROUTE, a=a.port), limits=limits) as w:
        answers = await asyncio.gather(*(w.raw(data, timeout_s=20) for data in NO_HTTP.values()))
        for name, got in zip(NO_HTTP, answers, strict=True):
            refusal = (b"\x00\x00\x00\x04",) if name == "h2" else (b"HTTP/1.1 4", b"HTTP/1.1 5")
            assert got == b"" or got.startswith(refusal), (name, got)
        assert a.seen == []
        await eventually(lambda: idle(w), "the connections are closed")


async def test_a_hundred_thousand_pipelined_requests_are_answered_in_order_in_bounded_memory() -> None:
    count = int(os.environ.get("GATEWAY_PIPELINED", "2000"))

    async def echo(seen: Seen, peer: Peer) -> None:
        await answer(body=b"%b;" % seen.target)(seen, peer)

    async with Backend(echo) as a, RunningWorker(table(ROUTE, a=a.port)) as w:
        base_kib = w.rss_kib
        reader, writer = await asyncio.open_connection("127.0.0.1", w.port)

        async def send() -> None:
            for start in range(0, count, 500):
                writer.write(b"".join(b"GET /%d HTTP/1.1\r\nHost: h\r\n\r\n" % i for i in range(start, start + 500)))
                await writer.drain()

        sending = asyncio.create_task(send())
        for i in range(count):
            await asyncio.wait_for(reader.readuntil(b"/%d;" % i), 20)
        await sending
        writer.close()
        assert w.rss_kib - base_kib < 32 * 1024


# a loop that stood still


async def test_a_stall_fires_no_deadline_that_was_kept_and_is_shown() -> None:
    go = asyncio.Event()

    async def gated(seen: Seen, peer: Peer) -> None:
        await go.wait()
        await answer()(seen, peer)

    timeouts = Timeouts(first_byte_s=2.0, total_s=3.0)
    route = msgspec.structs.replace(ROUTE, timeouts=timeouts)
    async with Backend(gated) as a, RunningWorker(table(route, a=a.port)) as w:
        asked = [asyncio.create_task(w.raw(GET)) for _ in range(20)]
        await eventually(lambda: len(a.seen) == 20, "twenty wait")
        w.process.send_signal(signal.SIGSTOP)
        go.set()
        await asyncio.sleep(timeouts.total_s + 0.5)  # longer than both deadlines; the answers come meanwhile
        w.process.send_signal(signal.SIGCONT)
        assert all(got.startswith(b"HTTP/1.1 200 ") for got in await asyncio.gather(*asked))
        await eventually(lambda: w.observer.merged().reports[0].stalls >= 1, "the stall is counted")
        assert w.observer.merged().reports[0].loop_lag_us_max > 2_000_000
        assert w.counts()[1] == 0, "and no error is the backend's"


async def test_a_connection_that_comes_about_during_a_stall_is_taken_for_made_in_time() -> None:
    loop = asyncio.get_running_loop()
    route = msgspec.structs.replace(ROUTE, timeouts=Timeouts(connect_s=2.0))
    with stuffed() as (full, stuffing):
        async with RunningWorker(table(route, a=full.getsockname()[1])) as w:
            asked = asyncio.create_task(w.raw(GET))
            await eventually(lambda: w.observer.merged().reports[0].upstream_connections == 1, "it connects")
            w.process.send_signal(signal.SIGSTOP)
            others = {one.getsockname() for one in stuffing}
            while True:  # the kernel has tried again by then
                backend, peer = await asyncio.wait_for(loop.sock_accept(full), 20)
                if peer not in others:
                    break
                backend.close()
            await asyncio.sleep(2.0)  # longer than was left of its time
            w.process.send_signal(signal.SIGCONT)
            with backend:
                await loop.sock_recv(backend, 65536)
                await loop.sock_sendall(backend, b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
                assert (await asked).startswith(b"HTTP/1.1 200 ")


# unreachable


@contextlib.contextmanager
def stuffed() -> Iterator[tuple[socket.socket, list[socket.socket]]]:
    """A listener whose queue is full drops what comes: nothing answers, as behind a blackhole."""
    with socket.socket() as full, contextlib.ExitStack() as stack:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        full.setblocking(False)
        stuffing = [stack.enter_context(socket.socket()) for _ in range(4)]
        for one in stuffing:
            one.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                one.connect(full.getsockname())
        yield full, stuffing


async def test_a_backend_that_takes_no_connections_is_given_up_in_time_and_the_next_one_serves() -> None:
    with stuffed() as (full, _):
        port = full.getsockname()[1]
        route = msgspec.structs.replace(ROUTE, timeouts=Timeouts(connect_s=0.5))
        async with Backend() as a, RunningWorker(table(route, a=port)) as w:
            got = await w.raw(GET)
            assert got.startswith(b"HTTP/1.1 504 ") and b"connect_timeout" in got
            await w.publish(table(route, a=(port, a.port), epoch=2))
            for _ in range(6):
                assert (await w.raw(GET)).startswith(b"HTTP/1.1 200 ")


# the end


async def test_sigterm_under_load_loses_no_request_that_had_reached_the_queue() -> None:
    async def slowly(seen: Seen, peer: Peer) -> None:
        await asyncio.sleep(0.2)
        await answer()(seen, peer)

    async with Backend(slowly) as a, RunningWorker(table(ROUTE, a=a.port)) as w:
        kept = [await asyncio.open_connection("127.0.0.1", w.port) for _ in range(10)]
        for _, writer in kept:
            writer.write(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        await eventually(lambda: len(a.seen) == 10, "ten are under way")
        # Stopped, it cannot accept: these are in the kernel's queue when it gets SIGTERM.
        w.process.send_signal(signal.SIGSTOP)
        queued = [await asyncio.open_connection("127.0.0.1", w.port) for _ in range(50)]
        for _, writer in queued:
            writer.write(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        w._listener.close()  # noqa: SLF001  # as the supervisor does before it stops the workers
        w.process.send_signal(signal.SIGTERM)
        w.process.send_signal(signal.SIGCONT)
        for reader, writer in kept + queued:
            got = await asyncio.wait_for(reader.read(), 20)
            assert got.startswith(b"HTTP/1.1 200 ") and got.endswith(b"ok"), got
            writer.close()
        assert await asyncio.wait_for(w.process.wait(), 20) == 0
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", w.port)


async def test_what_is_not_finished_at_the_deadline_of_the_drain_is_cut() -> None:
    limits = Limits(drain_timeout_s=0.5)

    async def never(wire: Wire) -> None:
        await wire.until(b"\r\n\r\n")
        await wire.send(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\npart")
        await wire.rest()

    async with RawBackend(never) as a, RunningWorker(table(ROUTE, a=a.port), limits=limits) as w:
        reader, writer = await asyncio.open_connection("127.0.0.1", w.port)
        writer.write(GET)
        await reader.readuntil(b"part")
        _, silent = await asyncio.open_connection("127.0.0.1", w.port)
        await eventually(lambda: w.observer.merged().reports[0].connections == 2, "both are in")
        w.process.send_signal(signal.SIGTERM)
        with contextlib.suppress(ConnectionResetError):
            assert await asyncio.wait_for(reader.read(), 20) == b""
        await w.complains(b"drain timed out after 0.5 s (limits.drain_timeout_s): busy connections cut: 1")
        for end in (writer, silent):
            end.close()
        assert await asyncio.wait_for(w.process.wait(), 30) == 0


@pytest.mark.parametrize("delay_s", [0.05, 0.15, 0.25, 0.4])
async def test_a_sigterm_at_any_moment_of_a_workers_birth_ends_it(delay_s: float) -> None:
    async with Backend() as a:
        w = RunningWorker(table(ROUTE, a=a.port))
        birth = asyncio.create_task(w.__aenter__())
        await eventually(lambda: hasattr(w, "process"), "there is a process")
        await asyncio.sleep(delay_s)
        w.process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(w.process.wait(), 20) in (0, -signal.SIGTERM)
        birth.cancel()
        await asyncio.gather(birth, return_exceptions=True)
        await w.__aexit__()


def of_a_request(name: str) -> bool:
    return name in ("Exchange", "Delivery", "Attempt", "ExchangeAttempts", "Request", "RequestBody")


async def test_what_a_request_was_made_of_is_freed_with_it_and_not_by_the_garbage_collector() -> None:
    """The parts of an exchange know each other: a collection for some hundred requests would stop all others."""
    async with Backend() as a, in_hand() as hand:
        hand.worker.enter_table(table(ROUTE, epoch=2, a=a.port))
        gc.collect()
        gc.disable()
        try:
            reader, writer = await asyncio.open_connection(*hand.address)
            for path in (b"/ok", b"/ok", b"/ok"):
                writer.write(b"GET %b HTTP/1.1\r\nHost: h\r\n\r\n" % path)
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(re.search(rb"content-length: (\d+)", head.lower())[1])  # type: ignore[index]  # it has one
                await reader.readexactly(length)
            writer.write(b"POST /left HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\nhalf")
            await eventually(lambda: len(hand.worker.active) == 1, "one has begun")
            writer.transport.abort()
            await eventually(lambda: not (hand.worker.active or hand.worker.connections), "and its client has left")
            left = [type(one).__name__ for one in gc.get_objects() if of_a_request(type(one).__name__)]
        finally:
            gc.enable()
        assert left == []
