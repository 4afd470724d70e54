"""Names in a worker: lookups that hang, addresses that move, and connections that follow them."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator

import httpx
import msgspec
import pytest

from gateway.core.traffic.table import Backend as Model
from gateway.core.traffic.table import Endpoint, Route, Timeouts
from gateway.proxy.context import WorkerContext
from gateway.proxy.sweeper import Sweeper
from gateway.proxy.upstream import pool as pool_module
from gateway.runtime.resolver import LookupThreads, Name
from tests.support.backend import Backend, Peer, Seen, answer
from tests.support.downstream import in_hand
from tests.support.worker import eventually, table

pytestmark = pytest.mark.anyio


class Resolver:
    """What the machine's resolver would say; a name without an answer hangs."""

    def __init__(self, **answers: list[str] | OSError) -> None:
        self.answers: dict[str, list[str] | OSError] = {f"{name}.test": found for name, found in answers.items()}
        self.asked: list[str] = []
        self.released = threading.Event()

    def __call__(self, host: str) -> list[str]:
        self.asked.append(host)
        if host not in self.answers:
            self.released.wait(60)
        found = self.answers[host]
        if isinstance(found, OSError):
            raise found
        return found


# lookups


async def test_a_hanging_name_delays_no_other_and_is_asked_once_for_all() -> None:
    resolve = Resolver(fine=["192.0.2.1"])
    threads = LookupThreads(resolve, threads_max=3)
    hung = [asyncio.create_task(threads.look_up("hung.test", port)) for port in range(10)]
    await eventually(lambda: resolve.asked, "it hangs")
    for _ in range(5):
        assert await threads.look_up("fine.test", 80) == ["192.0.2.1"]
    assert resolve.asked.count("hung.test") == 1
    resolve.answers["hung.test"] = ["192.0.2.2"]
    resolve.released.set()
    assert await asyncio.gather(*hung) == [["192.0.2.2"]] * 10


async def test_lookups_beyond_the_threads_wait_for_one() -> None:
    resolve = Resolver(fine=["192.0.2.1"])
    threads = LookupThreads(resolve, threads_max=2)
    hung = [asyncio.create_task(threads.look_up(f"hung{i}.test", 80)) for i in range(2)]
    await eventually(lambda: len(resolve.asked) == 2, "both threads hang")
    fine = asyncio.create_task(threads.look_up("fine.test", 80))
    await asyncio.sleep(0.05)
    assert not fine.done()
    resolve.answers |= {"hung0.test": OSError(0, "none"), "hung1.test": []}
    resolve.released.set()
    assert await fine == ["192.0.2.1"]
    got = await asyncio.gather(*hung, return_exceptions=True)
    assert isinstance(got[0], OSError) and got[1] == []


async def test_a_name_keeps_its_addresses_while_its_lookup_hangs() -> None:
    resolve = Resolver(model=["192.0.2.1"])
    name = Name("model.test", 80, 0.0, 3600.0, LookupThreads(resolve).look_up)
    assert await name.address() == "192.0.2.1"
    del resolve.answers["model.test"]
    for _ in range(20):
        assert await asyncio.wait_for(name.address(), 1.0) == "192.0.2.1"
    await eventually(lambda: len(resolve.asked) == 2, "it is looked up in the background")
    resolve.answers["model.test"] = ["192.0.2.9"]
    resolve.released.set()
    await eventually(lambda: name.leads_to("192.0.2.9"), "the answer is taken in")
    assert not name.leads_to("192.0.2.1")


# connections


@contextlib.asynccontextmanager
async def served(port: int) -> AsyncIterator[tuple[httpx.AsyncClient, WorkerContext]]:
    """A worker in this process whose one backend is called model.test; it sweeps as workers do."""
    spec = table(Route("r", "/", stable="a", timeouts=Timeouts(connect_s=20, first_byte_s=20)), a=port)
    model = Model("a", (Endpoint("model.test", port),), keepalive_s=600, resolve_s=0.05)
    async with in_hand(msgspec.structs.replace(spec, backends={"a": model})) as hand:
        sweeping = asyncio.create_task(sweep(hand.worker))
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{hand.address[1]}", timeout=20) as client:
            yield client, hand.worker
        sweeping.cancel()
        hand.worker.pools.each(lambda pool: pool.close())
        await eventually(lambda: not (hand.worker.pools.open_count or hand.worker.connections), "all are closed")


async def sweep(worker: WorkerContext) -> None:
    sweeper = Sweeper(worker)
    while True:
        await asyncio.sleep(0.005)
        sweeper.sweep()


@contextlib.asynccontextmanager
async def other_host(port: int, body: bytes) -> AsyncIterator[None]:
    """Another backend, at the same port of 127.0.0.2."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while await reader.readuntil(b"\r\n\r\n"):
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.2", port):
        yield


async def test_kept_connections_follow_an_address_that_moved_and_requests_under_way_are_finished(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    go = asyncio.Event()

    async def old(seen: Seen, peer: Peer) -> None:
        if seen.target == b"/slow":
            await go.wait()
        await answer(body=b"old")(seen, peer)

    lookup = Resolver(model=["127.0.0.1"])
    monkeypatch.setattr(pool_module, "look_up", LookupThreads(lookup).look_up)
    async with Backend(old) as a, other_host(a.port, b"new"), served(a.port) as (client, worker):
        assert (await client.get("/")).text == "old"
        slow = asyncio.create_task(client.get("/slow"))
        await eventually(lambda: a.seen[-1].target == b"/slow", "a request is under way")
        lookup.answers["model.test"] = ["127.0.0.2"]
        async with asyncio.timeout(20):
            while (await client.get("/")).text != "new":
                await asyncio.sleep(0.01)
        go.set()
        assert (await slow).text == "old", "it is finished where it began"
        await eventually(lambda: a.open == 0, "then its connection is closed, too")
        assert (await client.get("/")).text == "new"
        lookup.answers["model.test"] = OSError(0, "the name server is gone")
        asked = len(lookup.asked)
        await eventually(lambda: len(lookup.asked) > asked + 3, "it is asked again and again")
        assert (await client.get("/")).text == "new"
        assert worker.pools.open_count >= 1, "kept connections are kept"
