"""The life of connections and exchanges: turns, table changes, slow readers, draining, blame for what stalls."""

from __future__ import annotations

import asyncio
import signal

import msgspec
import pytest

from gateway.core.traffic.table import Backend as BackendSpec
from gateway.core.traffic.table import Endpoint, Rescue, Route, RoutingTable, Timeouts
from gateway.runtime.settings import Limits
from tests.support.backend import Backend, Peer, Seen, answer, hang
from tests.support.downstream import in_hand
from tests.support.rawbackend import RawBackend, Wire, reset_on_close
from tests.support.worker import RunningWorker, eventually, table

pytestmark = pytest.mark.anyio
ROUTE = Route("r", "/", stable="a")
CANARY = Route("r", "/", stable="a", canary="b", weight_bp=10_000, timeouts=Timeouts(connect_s=20, first_byte_s=20))
GET = b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"


class Gate:
    """A script that answers with the target, once it may."""

    def __init__(self) -> None:
        self.open = asyncio.Event()

    async def __call__(self, seen: Seen, peer: Peer) -> None:
        await self.open.wait()
        await answer(body=bytes(seen.target))(seen, peer)


def _idle(w: RunningWorker) -> bool:
    report = w.observer.merged().reports[0]
    return (report.in_flight, report.connections, report.upstream_connections) == (0, 0, 0)


async def test_all_that_a_half_closed_client_asked_for_is_answered() -> None:
    async with Backend(Gate()) as a, RunningWorker(table(ROUTE, a=a.port)) as w:
        reader, writer = await asyncio.open_connection("127.0.0.1", w.port)
        writer.write(b"".join(b"GET /%d HTTP/1.1\r\nHost: h\r\n\r\n" % i for i in range(5)))
        writer.write_eof()
        await eventually(lambda: a.seen, "the first arrives")
        a.script.open.set()  # type: ignore[attr-defined]  # a Gate
        got = await reader.read()
        writer.close()
    assert got.count(b"HTTP/1.1 200 ") == 5
    assert got.endswith(b"/4")
    assert got.count(b"connection: close") <= 1, "only the last answer may end the connection"


async def test_a_waiting_request_goes_by_the_table_of_its_turn() -> None:
    gate = Gate()
    async with Backend(gate) as a, Backend(gate) as b, RunningWorker(table(CANARY, a=a.port, b=b.port)) as w:
        reader, writer = await asyncio.open_connection("127.0.0.1", w.port)
        writer.write(b"GET /one HTTP/1.1\r\nHost: h\r\n\r\n" + GET)
        await eventually(lambda: b.seen, "the first is at the canary")
        await w.publish(w.table.with_weight("r", 0))
        gate.open.set()
        got = await reader.read()
        writer.close()
        assert [got.count(b"variant: canary"), got.count(b"variant: stable")] == [1, 1]
        await eventually(lambda: w.counts() == (1, 0, 1, 0), "each is counted once")
        for entry in w.evidence():
            of_the_other = entry.canary if entry.weight_bp == 0 else entry.stable
            assert of_the_other.requests == 0, "no event under a weight that did not assign it"


async def test_a_route_may_vanish_while_its_requests_wait_and_fail() -> None:
    gate = Gate()

    async def fail(seen: Seen, peer: Peer) -> None:
        await gate.open.wait()
        await answer(500, b"boom")(seen, peer)

    async with Backend(answer(body=b"saved")) as a, Backend(fail) as b:
        async with RunningWorker(table(CANARY, a=a.port, b=b.port)) as w:
            reader, writer = await asyncio.open_connection("127.0.0.1", w.port)
            writer.write(b"GET /one HTTP/1.1\r\nHost: h\r\n\r\n" + GET)
            await eventually(lambda: b.seen, "the first is at the canary")
            await w.publish(RoutingTable(2, (Route("other", "/other", stable="c"),), {"c": BackendSpec("c", ())}))
            gate.open.set()
            got = await reader.read()
            writer.close()
            assert got.startswith(b"HTTP/1.1 200 ") and b"saved" in got, (
                "it is rescued by the table that it was sent by"
            )
            assert b"HTTP/1.1 404 " in got, "the next is not"
            await eventually(lambda: _idle(w), "connections to endpoints of no table are closed")


async def test_the_answer_to_a_pipelined_body_over_the_limit_waits_for_its_turn() -> None:
    gate = Gate()
    async with Backend(gate) as a, RunningWorker(table(ROUTE, a=a.port), limits=Limits(body_bytes_max=10)) as w:
        reader, writer = await asyncio.open_connection("127.0.0.1", w.port)
        writer.write(
            b"GET /one HTTP/1.1\r\nHost: h\r\n\r\n"
            b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n14\r\n%b\r\n0\r\n\r\n" % (b"x" * 20)
        )
        await eventually(lambda: a.seen, "the first arrives")
        gate.open.set()
        got = await reader.read()
        writer.close()
    assert got.startswith(b"HTTP/1.1 200 "), got
    assert b"/oneHTTP/1.1 413 " in got


async def test_a_client_that_reads_nothing_costs_little_and_not_for_ever() -> None:
    async with Backend(answer(body=bytes(1 << 16))) as a:
        async with RunningWorker(table(ROUTE, a=a.port), limits=Limits(keepalive_s=1.0)) as w:
            before_kib = w.rss_kib
            _, writer = await asyncio.open_connection("127.0.0.1", w.port, limit=1024)
            writer.transport.pause_reading()  # type: ignore[attr-defined]  # a socket's transport has it
            # 64 MiB of answers: more than the kernel holds, each small enough to be settled without having been read.
            writer.write(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n" * 1000)
            grown_kib = 0
            await eventually(lambda: w.observer.merged().reports[0].connections, "it is in")
            while w.observer.merged().reports[0].connections:
                grown_kib = max(grown_kib, w.rss_kib - before_kib)
                await asyncio.sleep(0.05)
            assert grown_kib < 6 * 1024
            assert len(a.seen) < 1000, "the connection was dropped, with what had not been begun"
            writer.transport.abort()


async def test_a_drain_answers_what_was_begun() -> None:
    gate = Gate()
    async with Backend(gate) as a, RunningWorker(table(ROUTE, a=a.port)) as w:
        connections = [await asyncio.open_connection("127.0.0.1", w.port) for _ in range(4)]
        (_, in_flight), (_, half_head), (_, half_body), (_, used) = connections
        in_flight.write(b"GET /in-flight HTTP/1.1\r\nHost: h\r\n\r\n")
        half_head.write(b"GET /half-head HTTP/1.1\r\nHo")
        half_body.write(b"POST /half-body HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\n\r\nbo")
        gate.open.set()
        used.write(b"GET /used HTTP/1.1\r\nHost: h\r\n\r\n")
        await connections[3][0].readuntil(b"/used")
        gate.open.clear()
        await eventually(lambda: len(a.seen) == 2, "the whole ones arrive at the backend")
        await eventually(lambda: w.observer.merged().reports[0].body_memory_bytes == 2, "the half one here")
        before = w.descriptors
        w.process.send_signal(signal.SIGTERM)
        await eventually(lambda: w.descriptors < before, "it listens no more: the drain has begun")
        half_head.write(b"st: h\r\n\r\n")
        half_body.write(b"dy")
        used.write(b"GET /again HTTP/1.1\r\nHost: h\r\n\r\n")
        await eventually(lambda: len(a.seen) == 5, "what was begun arrives, and what comes within a moment")
        gate.open.set()
        for (reader, _), target in zip(connections, ("in-flight", "half-head", "half-body", "again"), strict=True):
            got = await asyncio.wait_for(reader.read(), 30)
            assert got.startswith(b"HTTP/1.1 200 "), (target, got)
            assert got.endswith(target.encode()), (target, got)
        for _, writer in connections:
            writer.close()
        assert await asyncio.wait_for(w.process.wait(), 30) == 0


async def test_the_moment_that_a_drain_leaves_begins_with_the_drain() -> None:
    """However long a connection has idled before: its next request may be on the way."""
    async with in_hand() as hand:
        reader, writer = await asyncio.open_connection(*hand.address)
        connection = await hand.connected()
        writer.write(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        await reader.readuntil(b"}")
        drains_s = hand.worker.now_s() + 30
        hand.worker.now_s = lambda: drains_s  # the clock at which tests stand
        connection.shutdown()
        connection.sweep(drains_s + 2.9)
        assert not connection.socket.transport.is_closing()
        connection.sweep(drains_s + 3.1)
        assert connection.socket.transport.is_closing()
        writer.close()


async def test_who_has_only_just_connected_may_ask_although_it_drains() -> None:
    """A first request takes its time: a name is looked up, a handshake done, a slow client is given the processor."""
    async with in_hand() as hand:
        reader, writer = await asyncio.open_connection(*hand.address)
        late, head_timeout_s = await hand.connected(), hand.worker.limits.head_timeout_s
        late.shutdown()
        late.sweep(hand.worker.now_s() + 0.9 * head_timeout_s)
        writer.write(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        got = await asyncio.wait_for(reader.read(), 20)
        assert got.startswith(b"HTTP/1.1 404 ") and b"connection: close" in got
        writer.close()
        _, writer = await asyncio.open_connection(*hand.address)
        silent = await hand.connected(2)
        silent.shutdown()
        silent.sweep(hand.worker.now_s() + 1.1 * head_timeout_s)
        assert silent.socket.transport.is_closing(), "but it does not wait for ever"
        writer.close()


async def test_a_drain_ends_although_clients_idle() -> None:
    async with Backend() as a, RunningWorker(table(ROUTE, a=a.port), limits=Limits(drain_timeout_s=3600)) as w:
        reader, writer = await asyncio.open_connection("127.0.0.1", w.port)
        writer.write(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        await reader.readuntil(b"ok")
        w.process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(w.process.wait(), 30) == 0
        assert await reader.read() == b""
        writer.close()


async def test_clients_that_left_do_not_fill_the_queue() -> None:
    spec = BackendSpec("a", (Endpoint("127.0.0.1", 0),), connections_max=1, queue_max=4)
    gate = Gate()
    async with Backend(gate) as a:
        spec = msgspec.structs.replace(spec, endpoints=(Endpoint("127.0.0.1", a.port),))
        async with RunningWorker(RoutingTable(1, (ROUTE,), {"a": spec})) as w:
            held = asyncio.create_task(w.raw(GET))
            await eventually(lambda: a.seen, "one holds the connection")
            for _ in range(4):
                _, writer = await asyncio.open_connection("127.0.0.1", w.port)
                writer.write(GET)
                await eventually(lambda: w.observer.merged().reports[0].in_flight == 2, "it waits")
                reset_on_close(writer)
                writer.transport.abort()
                await eventually(lambda: w.observer.merged().reports[0].in_flight == 1, "it is gone")
            waiting = asyncio.create_task(w.raw(GET))
            await eventually(lambda: w.observer.merged().reports[0].in_flight == 2 or waiting.done(), "it waits")
            gate.open.set()
            assert (await waiting).startswith(b"HTTP/1.1 200 ")
            assert (await held).startswith(b"HTTP/1.1 200 ")


async def test_a_backend_that_resets_what_it_accepts_fails_at_once() -> None:
    async def reset(wire: Wire) -> None:
        wire.reset()

    # A deadline of the gateway's would come after the patience of its clients.
    route = msgspec.structs.replace(CANARY, timeouts=Timeouts(connect_s=300.0, first_byte_s=300.0))
    async with Backend(answer(body=b"saved")) as a, RawBackend(reset) as b:
        async with RunningWorker(table(route, a=a.port, b=b.port)) as w:
            got = await asyncio.gather(*(w.raw(GET) for _ in range(100)))
            assert all(reply.endswith(b"saved") for reply in got), [r for r in got if not r.endswith(b"saved")][:3]
            await eventually(lambda: w.counts() == (0, 0, 100, 100), f"all are counted, not {w.counts()}")
            report = w.observer.merged().reports[0]
            assert report.upstream_connections <= 100


async def test_a_canary_that_takes_no_body_is_to_blame_for_it() -> None:
    async def never_reads(wire: Wire) -> None:
        await asyncio.sleep(3600)

    timeouts = Timeouts(first_byte_s=1.0, idle_s=1.0)
    route = msgspec.structs.replace(CANARY, timeouts=timeouts)
    size = 16 << 20
    async with Backend() as a, RawBackend(never_reads) as b, RunningWorker(table(route, a=a.port, b=b.port)) as w:
        reader, writer = await asyncio.open_connection("127.0.0.1", w.port)
        writer.write(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % size)
        writer.write(bytes(size))
        got = await reader.readuntil(b"\r\n\r\n")
        assert got.startswith(b"HTTP/1.1 200 ") and b"x-gateway-rescued: true" in got
        await eventually(lambda: w.counts() == (0, 0, 1, 1), f"the canary is to blame, not {w.counts()}")
        assert len(a.seen[0].body) == size
        writer.transport.abort()


async def test_a_client_that_stalls_its_body_is_to_blame_for_it() -> None:
    route = msgspec.structs.replace(CANARY, timeouts=Timeouts(first_byte_s=20, idle_s=0.3), streams_requests=True)

    async def early(wire: Wire) -> None:
        await wire.until(b"\r\n\r\n")
        await wire.send(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nbegun")
        await wire.rest()

    async with Backend() as a, RawBackend(early) as b, RunningWorker(table(route, a=a.port, b=b.port)) as w:
        got = await w.raw(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\nabc")
        assert got.endswith(b"begun")
        await eventually(lambda: w.observer.merged().faults.get("body_timeout") == 1, "the client is to blame")
        assert w.counts() == (0, 0, 0, 0)


async def test_a_canary_that_outlasts_the_whole_exchange_is_convicted() -> None:
    route = msgspec.structs.replace(CANARY, timeouts=Timeouts(first_byte_s=20.0, total_s=1.0))
    async with Backend() as a, Backend(hang) as b, RunningWorker(table(route, a=a.port, b=b.port)) as w:
        got = await w.raw(GET)
        assert got.startswith(b"HTTP/1.1 504 ")
        assert b"total_timeout" in got
        await eventually(lambda: w.counts() == (0, 0, 1, 1), f"it is counted, not {w.counts()}")


async def test_a_10_client_that_keeps_its_connection_gets_the_length_of_a_refusal() -> None:
    async with Backend() as a, RunningWorker(table(msgspec.structs.replace(ROUTE, path_prefix="/x"), a=a.port)) as w:
        got = await w.raw(b"GET /y HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
    assert got.startswith(b"HTTP/1.1 404 ")
    assert b"\r\nconnection: close\r\n" in got


async def test_clients_may_leave_in_any_phase_and_nothing_is_left() -> None:
    gate = Gate()
    spec = BackendSpec("b", (), connections_max=2, queue_max=8)
    torn_at = [GET[:9], GET, b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\nabc", GET + GET]
    async with Backend(gate) as a, Backend(gate) as b:
        spec = msgspec.structs.replace(spec, endpoints=(Endpoint("127.0.0.1", b.port),))
        route = msgspec.structs.replace(CANARY, weight_bp=5000, rescue=Rescue(budget_burst=5))
        made = msgspec.structs.replace(table(route, a=a.port), backends=table(a=a.port).backends | {"b": spec})
        async with RunningWorker(made) as w:
            for round_ in range(10):
                writers = []
                for i in range(24):
                    _, writer = await asyncio.open_connection("127.0.0.1", w.port)
                    writer.write(torn_at[i % len(torn_at)])
                    writers.append(writer)
                if round_ % 2:
                    gate.open.set()
                await asyncio.sleep(0.01 * round_)
                for writer in writers:
                    reset_on_close(writer)
                    writer.transport.abort()
                gate.open.clear()
            gate.open.set()
            await w.publish(RoutingTable(9, (Route("other", "/other", stable="c"),), {"c": BackendSpec("c", ())}))
            await eventually(lambda: _idle(w), "no exchange and no connection is left")
            # What was acknowledged is forgotten: every epoch but the one in force was closed by all its exchanges.
            await eventually(
                lambda: [e.epoch for e in w.observer.merged().reports[0].evidence] == [9], "no exchange is open"
            )
