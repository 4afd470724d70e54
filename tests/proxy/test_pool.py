"""Upstream connections: kept, capped, queued, and moved on to the next endpoint."""

from __future__ import annotations

import asyncio

import httpx
import msgspec
import pytest

from gateway.core.traffic.table import Backend as BackendSpec
from gateway.core.traffic.table import Endpoint, Route, RoutingTable, Timeouts
from tests.support.backend import Backend, Peer, Seen, answer, hang
from tests.support.worker import RunningWorker, eventually, table

pytestmark = pytest.mark.anyio
ROUTE = Route("r", "/", stable="a", timeouts=Timeouts(connect_s=20, first_byte_s=20))


def _capped(port: int, connections_max: int, queue_max: int) -> RoutingTable:
    backend = BackendSpec("a", (Endpoint("127.0.0.1", port),), connections_max=connections_max, queue_max=queue_max)
    return RoutingTable(1, (ROUTE,), {"a": backend})


async def test_connections_are_capped_and_the_others_wait_their_turn() -> None:
    most = 0

    async def slowly(seen: Seen, peer: Peer) -> None:
        nonlocal most
        most = max(most, a.open)
        await asyncio.sleep(0.02)
        await answer()(seen, peer)

    async with Backend(slowly) as a, RunningWorker(_capped(a.port, 3, 100)) as w:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{w.port}", timeout=20) as client:
            replies = await asyncio.gather(*(client.get("/") for _ in range(40)))
        assert {reply.status_code for reply in replies} == {200}
        assert most == 3
        assert a.connections == 3, "they are kept and reused"


async def test_a_full_queue_is_refused_at_once() -> None:
    async with Backend(hang) as a, RunningWorker(_capped(a.port, 2, 3)) as w:
        held = [asyncio.create_task(w.raw(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")) for _ in range(5)]
        await eventually(lambda: w.observer.merged().reports[0].in_flight == 5, "two are served, three wait")
        got = await w.raw(b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
        assert got.startswith(b"HTTP/1.1 503 ")
        assert b"x-gateway-error: queue_full" in got
        for task in held:
            task.cancel()
        await asyncio.gather(*held, return_exceptions=True)


async def test_a_refused_endpoint_is_skipped_and_nobody_notices() -> None:
    async with Backend() as a, Backend() as dead:
        await dead.stop()
        async with RunningWorker(table(ROUTE, a=(a.port, dead.port))) as w:
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{w.port}", timeout=20) as client:
                statuses = [(await client.get("/")).status_code for _ in range(40)]
            assert set(statuses) == {200}
            await eventually(lambda: w.counts() == (40, 0, 0, 0), "no failure is counted: users saw none")


async def test_endpoints_take_turns() -> None:
    async with Backend() as a, Backend() as b, RunningWorker(table(ROUTE, a=(a.port, b.port))) as w:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{w.port}", timeout=20) as client:
            for _ in range(20):
                await client.get("/")
    assert (len(a.seen), len(b.seen)) == (10, 10)


async def test_an_idle_connection_is_closed_before_the_backend_would() -> None:
    async with Backend() as a, RunningWorker(table(ROUTE, a=a.port, keepalive_s=1.0)) as w:
        await w.raw(b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
        assert a.open == 1
        await eventually(lambda: a.open == 0, "the idle connection is closed")


async def test_a_table_change_under_load_loses_nothing_and_counts_each_under_its_epoch() -> None:
    async with Backend() as a, Backend() as b:
        first = Route("r", "/", stable="a", canary="b")
        current = table(first, a=a.port, b=b.port)
        async with RunningWorker(current) as w:
            done = 0
            stop = asyncio.Event()

            async def load() -> None:
                nonlocal done
                async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{w.port}", timeout=20) as client:
                    while not stop.is_set():
                        assert (await client.get("/")).status_code == 200
                        done += 1

            tasks = [asyncio.create_task(load()) for _ in range(4)]
            for weight_bp in (1000, 5000, 0, 10_000, 2500):
                await asyncio.sleep(0.1)
                current = current.with_weight("r", weight_bp)
                await w.publish(current)
            stop.set()
            await asyncio.gather(*tasks)
            await eventually(lambda: sum(w.counts()[::2]) == done, f"all {done} are counted, not {w.counts()}")
            for entry in w.evidence():
                if entry.weight_bp == 0:
                    assert entry.canary.requests == 0, "no event under a weight that did not assign it"
                if entry.weight_bp == 10_000:
                    assert entry.stable.requests == 0
    assert a.connections <= 8


async def test_an_older_table_is_ignored() -> None:
    async with Backend() as a, Backend() as b:
        newer = msgspec.structs.replace(table(ROUTE, a=a.port), epoch=5)
        async with RunningWorker(newer) as w:
            await w.hub.publish(msgspec.structs.replace(table(ROUTE, a=b.port), epoch=4))
            await w.raw(b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
    assert (len(a.seen), len(b.seen)) == (1, 0)


async def test_nothing_leaks_when_clients_leave_all_the_time() -> None:
    async with Backend(hang) as a, RunningWorker(table(ROUTE, a=a.port)) as w:
        before = w.descriptors
        for _ in range(20):
            writers = []
            for _ in range(20):
                _, writer = await asyncio.open_connection("127.0.0.1", w.port)
                writer.write(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\nabc")
                writers.append(writer)
            await asyncio.sleep(0.02)
            for writer in writers:
                writer.transport.abort()

        def settled() -> bool:
            report = w.observer.merged().reports[0]
            gauges = (report.in_flight, report.connections, report.upstream_connections)
            return gauges == (0, 0, 0) and w.descriptors <= before

        await eventually(settled, "no exchange, no connection and no descriptor is left")
        assert w.counts() == (0, 0, 0, 0)
