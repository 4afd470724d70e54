"""Mirroring: a copy of stable's requests goes to the canary, and clients, evidence and stable know nothing of it."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator

import httpx
import msgspec
import pytest

from gateway.core.stats.pairs import PAIRS
from gateway.core.traffic.table import Mirroring, Rescue, Route, Timeouts
from tests.proxy.test_rescue import FAILURES
from tests.support.backend import Backend, Peer, Script, Seen, answer, hang, raw
from tests.support.rawbackend import RawBackend, Wire, reset_on_close
from tests.support.worker import RunningWorker, eventually, table

pytestmark = pytest.mark.anyio

MIRRORED = Route("r", "/", stable="a", canary="b", timeouts=Timeouts(connect_s=20, first_byte_s=20, idle_s=20))


def mirroring(**settings: object) -> Route:
    """The route with all of its requests mirrored; there is no inspector here to compare outputs."""
    given = {"share_bp": 10_000, "loop_lag_max_s": 1000.0, "outputs": False} | settings
    return msgspec.structs.replace(MIRRORED, mirror=msgspec.convert(given, Mirroring))


def pairs(w: RunningWorker) -> dict[str, int]:
    """The pairs so far, without their latencies."""
    out: dict[str, int] = {}
    for entry in w.evidence():
        for name, count in entry.pairs.items():
            if not name.startswith("ratio:"):
                out[name] = out.get(name, 0) + count
    return out


def client(w: RunningWorker) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=f"http://127.0.0.1:{w.port}", timeout=30)


async def test_a_copy_of_each_request_meets_the_canary_and_is_nobodys_traffic() -> None:
    async with Backend(answer(body=b"stable")) as a, Backend(answer(body=b"canary")) as b:
        async with RunningWorker(table(mirroring(), a=a.port, b=b.port)) as w, client(w) as users:
            for i in range(5):
                sent = {"x-gateway-mirror": "true", "x-tenant": "t"}
                reply = await users.post(f"/infer?n={i}", content=b"body %d" % i, headers=sent)
                assert (reply.status_code, reply.text) == (200, "stable")
                assert reply.headers["x-gateway-variant"] == "stable"
            reply = await users.post("/infer?n=chunks", content=_pieces(b"in ", b"chunks"))
            assert reply.text == "stable"
            assert (await users.head("/infer")).status_code == 200
            await eventually(lambda: pairs(w) == {PAIRS: 7}, "seven pairs")
            bodies = [b"body %d" % i for i in range(5)] + [b"in chunks", b""]
            assert [seen.body for seen in a.seen] == [seen.body for seen in b.seen] == bodies
            assert [seen.target for seen in b.seen] == [seen.target for seen in a.seen]
            for theirs, ours in zip(a.seen, b.seen, strict=True):
                assert theirs.all(b"x-gateway-mirror") == [], "stable's request is no copy, whatever its client says"
                assert ours.all(b"x-gateway-mirror") == [b"true"]
                for name in (b"x-request-id", b"traceparent", b"x-tenant"):
                    assert ours.all(name) == theirs.all(name)
            assert w.counts() == (7, 0, 0, 0), "copies are not evidence of live traffic"
            canary = w.totals(1)
            assert (canary.tries, canary.answered, canary.first_byte) == ({}, {}, {}), "nor in the metrics of traffic"
            assert (canary.mirrored, canary.mirror_shed) == ({"ok": 7}, {})
            ratios = [n for entry in w.evidence() for name, n in entry.pairs.items() if name.startswith("ratio:")]
            assert sum(ratios) == 7


async def _pieces(*pieces: bytes) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


async def _flood(_: Seen, peer: Peer) -> None:
    await peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while True:
        await peer.send(b"10000\r\n" + b"x" * 65536 + b"\r\n")


async def _stall(_: Seen, peer: Peer) -> None:
    await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
    await asyncio.sleep(3600)


async def _reset(_: Seen, peer: Peer) -> None:
    peer.reset()


FAULTS: dict[str, tuple[Script, dict[str, int]]] = {
    **{name: (script, {"canary:errors": 3}) for name, script in FAILURES.items() if name != "status 503"},
    "status 503": (answer(503), {"canary:overload": 3}),
    "not found": (answer(404), {"canary:not_found": 3}),
    "says nothing": (answer(200, b""), {"canary:empty_body": 3}),
    "stalls in its body": (_stall, {"canary:errors": 3}),
    "resets": (_reset, {"canary:errors": 3}),
    "breaks off": (raw(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nx", close=True), {"canary:errors": 3}),
    "floods": (_flood, {}),
    "is huge": (answer(200, b"x" * (1 << 20)), {}),
}


async def test_no_fault_of_the_canary_reaches_a_client_and_each_is_the_canarys_half_of_a_pair(
    subtests: pytest.Subtests,
) -> None:
    hasty = msgspec.structs.replace(
        mirroring(answer_bytes_max=100_000), timeouts=Timeouts(connect_s=20, first_byte_s=0.75, idle_s=0.75)
    )
    async with Backend(answer(body=b"stable")) as a, Backend() as b:
        async with RunningWorker(table(hasty, a=a.port, b=b.port)) as w, client(w) as users:
            for name, (script, expected) in FAULTS.items():
                b.script = script
                before = pairs(w)
                with subtests.test(name):
                    for reply in await asyncio.gather(*(users.post("/infer", content=b"body") for _ in range(3))):
                        assert (reply.status_code, reply.text) == (200, "stable")
                        assert "x-gateway-rescued" not in reply.headers
                    wanted = {PAIRS: before.get(PAIRS, 0) + 3}
                    await eventually(lambda wanted=wanted: pairs(w).get(PAIRS) == wanted[PAIRS], f"pairs: {pairs(w)}")
                    found = {k: n - before.get(k, 0) for k, n in pairs(w).items() if n != before.get(k, 0)}
                    assert found == expected | {PAIRS: 3}
            await b.stop()
            before = pairs(w)
            for _ in range(3):
                assert (await users.get("/")).text == "stable"
            refused = before.get("canary:errors", 0) + 3
            await eventually(lambda: pairs(w).get("canary:errors") == refused, "a canary that is gone refuses")
            stable = w.totals(0)
            assert (set(stable.tries), set(stable.answered)) == ({"ok"}, {200})
            assert w.totals(1).tries == {} and w.observer.ejected() == {}


async def test_what_stable_fails_is_its_own_half_of_the_pair() -> None:
    async with Backend(answer(500)) as a, Backend(answer()) as b:
        async with RunningWorker(table(mirroring(), a=a.port, b=b.port)) as w, client(w) as users:
            assert (await users.get("/")).status_code == 500
            await eventually(lambda: pairs(w) == {PAIRS: 1, "stable:errors": 1}, "stable's failure")
            b.script = answer(500)
            assert (await users.get("/")).status_code == 500
            await eventually(lambda: pairs(w) == {PAIRS: 2, "stable:errors": 1}, "a failure of both is no difference")
            a.script = raw(b"", close=True)
            b.script = answer()
            assert (await users.get("/")).status_code == 502
            await eventually(lambda: pairs(w) == {PAIRS: 3, "stable:errors": 2}, "a failure that was tried again")
            assert len(b.seen) == 3, "a request is copied once, however often stable is asked"


async def test_each_limit_sheds_copies_and_says_so() -> None:
    """Concurrency, a body's size, the bytes of all copies; users get their answers all the same."""
    async with Backend(answer(body=b"stable")) as a, Backend(hang) as b:
        narrow = mirroring(concurrency_max=3, body_bytes_max=2000, memory_bytes_max=2500)
        async with RunningWorker(table(narrow, a=a.port, b=b.port)) as w, client(w) as users:
            shed = w.totals(1).mirror_shed
            assert (await users.post("/", content=b"x" * 2001)).text == "stable"
            await eventually(lambda: w.totals(1).mirror_shed == {"body_too_large": 1}, f"too large: {shed}")
            for _ in range(2):
                assert (await users.post("/", content=b"x" * 1500)).text == "stable"
            await eventually(lambda: w.totals(1).mirror_shed.get("memory") == 1, "too many bytes")
            for _ in range(5):
                assert (await users.get("/")).text == "stable"
            await eventually(lambda: w.totals(1).mirror_shed.get("concurrency") == 3, "too many at once")
            await eventually(lambda: len(b.seen) == 3, "those that there was room for")
            assert pairs(w) == {}, "what the canary has not answered is no pair yet"


async def test_users_requests_never_wait_for_copies() -> None:
    """A copy takes no connection that users' requests on the canary could need, and none of a stable that is busy."""
    route = msgspec.structs.replace(mirroring(), forced_header="x-variant", weight_bp=0)
    async with Backend(answer(body=b"stable")) as a, Backend(hang) as b:
        narrow = table(route, a=a.port, b=b.port)
        backends = {n: msgspec.structs.replace(one, connections_max=4) for n, one in narrow.backends.items()}
        async with RunningWorker(msgspec.structs.replace(narrow, backends=backends)) as w, client(w) as users:
            for _ in range(5):
                assert (await users.get("/")).text == "stable"
            await eventually(lambda: w.totals(1).mirror_shed == {"canary_busy": 3}, "half of the connections")
            b.script = answer(body=b"canary")
            assert (await users.get("/", headers={"x-variant": "canary"})).text == "canary", "the other half is free"
            a.script = hang
            waiting = [asyncio.create_task(w.raw(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")) for _ in range(6)]
            await eventually(lambda: len(a.seen) == 9, "stable is busy")
            await users.get("/", headers={"x-variant": "canary"})
            for task in waiting:
                task.cancel()


async def test_routes_that_say_no_upgrades_and_forced_requests_are_never_mirrored() -> None:
    careful = msgspec.structs.replace(mirroring(), rescue=Rescue(replayable=False))
    async with Backend(answer(body=b"stable")) as a, Backend() as b:
        async with RunningWorker(table(careful, a=a.port, b=b.port)) as w, client(w) as users:
            await users.post("/", content=b"once")
            willing = msgspec.structs.replace(mirroring(), forced_header="x-variant")
            await w.publish(msgspec.structs.replace(table(willing, a=a.port, b=b.port), epoch=2))
            await users.get("/", headers={"x-variant": "stable"})
            upgrade = {"connection": "upgrade", "upgrade": "websocket"}
            await users.get("/", headers=upgrade)
            await users.get("/", headers={"x-last": "yes"})
            await eventually(lambda: b.seen, "the last one is mirrored")
            assert [seen.all(b"x-last") for seen in b.seen] == [[b"yes"]]
            assert w.totals(1).mirror_shed == {}


async def test_the_copy_of_a_client_that_leaves_is_dropped_at_once() -> None:
    async def wait(wire: Wire) -> None:
        await wire.until(b"\r\n\r\n")
        await wire.rest()

    async with RawBackend(wait) as a, RawBackend(wait) as b:
        async with RunningWorker(table(mirroring(), a=a.port, b=b.port)) as w:
            _, writer = await asyncio.open_connection("127.0.0.1", w.port)
            writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            await eventually(lambda: a.wires and b.wires and b.wires[0].got, "both versions have the request")
            reset_on_close(writer)
            writer.transport.abort()
            await eventually(lambda: a.wires[0].ended and b.wires[0].ended, "both are told")
            await eventually(lambda: w.totals(1).mirrored == {"client_left": 1}, "it is counted")
            assert pairs(w) == {}


async def test_a_drain_does_not_wait_for_copies() -> None:
    async with Backend(answer(body=b"stable")) as a, Backend(hang) as b:
        async with RunningWorker(table(mirroring(), a=a.port, b=b.port)) as w, client(w) as users:
            assert (await users.get("/")).text == "stable"
            await eventually(lambda: b.seen, "the copy hangs")
            w.process.send_signal(signal.SIGTERM)
            async with asyncio.timeout(30):
                assert await w.process.wait() == 0
            assert w.totals(1).mirrored == {"cut": 1}
