"""The hub over its real socket: workers that hang, come back, or speak nonsense."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from gateway.control.workers import hub as hub_module
from gateway.control.workers.hub import WorkerHub
from gateway.control.workers.report_aggregator import ReportAggregator
from gateway.core.traffic.table import Backend, Endpoint, Route, RoutingTable
from gateway.runtime import wire
from tests.support.control import ManualClock, SpokenWorker
from tests.support.worker import eventually

pytestmark = pytest.mark.anyio


def table(epoch: int, weight_bp: int = 0) -> RoutingTable:
    backends = {name: Backend(name, (Endpoint("127.0.0.1", 9),)) for name in ("v1", "v2")}
    return RoutingTable(epoch, (Route("r", "/", "v1", "v2", weight_bp),), backends)


@dataclass
class Place:
    hub: WorkerHub
    aggregator: ReportAggregator
    path: Path
    changes: list[tuple[str, str]]


@asynccontextmanager
async def listening(directory: Path) -> AsyncIterator[Place]:
    aggregator, changes = ReportAggregator(), []
    hub = WorkerHub(aggregator, ManualClock(), lambda how, hello: changes.append((how, hello.boot)))
    await hub.start(directory / "sockets" / "c.sock")
    try:
        yield Place(hub, aggregator, directory / "sockets" / "c.sock", changes)
    finally:
        await hub.stop()


async def test_a_worker_that_hangs_is_waited_for_once_and_gets_the_table_when_it_wakes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with listening(tmp_path) as place:
        awake, asleep = SpokenWorker(0, "a"), SpokenWorker(1, "b")
        for worker in (awake, asleep):
            await worker.connect(place.path)
        await eventually(lambda: len(place.hub.sessions) == 2, "both are connected")
        assert await place.hub.publish(table(1))
        asleep.hang()
        monkeypatch.setattr(hub_module, "_APPLY_TIMEOUT_S", 0.05)
        assert not await place.hub.publish(table(2))
        # With this it would hang the test: from now on only the one that is awake is waited for.
        monkeypatch.setattr(hub_module, "_APPLY_TIMEOUT_S", 3600.0)
        for epoch in range(3, 20):
            assert not await place.hub.publish(table(epoch))
            assert (awake.epoch, place.hub.applied(epoch)) == (epoch, 1)
        asleep.wake()
        await eventually(lambda: asleep.epoch == 19, "it has caught up")
        assert await place.hub.publish(table(20))
        for worker in (awake, asleep):
            await worker.close()


async def test_what_waits_for_a_worker_that_hangs_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_module, "_BACKLOG_BYTES_MAX", 1 << 16)
    async with listening(tmp_path) as place:
        worker = SpokenWorker(0, "a")
        await worker.connect(place.path)
        place.hub.send_table(table(1))
        await eventually(lambda: worker.epoch == 1, "it routes")
        worker.serve(5, 5)
        await worker.report()
        worker.hang()
        down = tuple(wire.EndpointDown("a", f"http://127.0.0.1:{port}") for port in range(1000))
        for _ in range(2000):
            place.hub.publish_health(down)
            if not place.hub.sessions:
                break
            await asyncio.sleep(0)
        assert not place.hub.sessions, "cut off"
        place.hub.send_table(table(5))
        worker.wake()
        await worker.close()
        await worker.connect(place.path)
        await eventually(lambda: worker.epoch == 5 and worker.down == down, "it has the newest of everything")
        await worker.report()
        counted = place.aggregator.evidence("r", 0, 9, 0.0).epochs[0]
        assert (counted.stable.requests, counted.canary.requests) == (5, 5), "not counted twice"
        assert place.aggregator.merged().worker_starts == 1
        await worker.close()


async def test_a_worker_may_be_back_before_its_old_connection_was_seen_to_end(tmp_path: Path) -> None:
    async with listening(tmp_path) as place:
        worker = SpokenWorker(0, "a")
        await worker.connect(place.path)
        await eventually(lambda: place.hub.sessions, "connected")
        old, old_task = worker.writer, worker.task
        await worker.connect(place.path)
        await eventually(lambda: len(place.changes) == 2, "connected again")
        old.close()
        assert old_task is not None
        await asyncio.wait_for(old.wait_closed(), 10)
        await asyncio.sleep(0.05)
        assert await place.hub.publish(table(1)), "it is still one of ours"
        assert worker.epoch == 1
        assert place.changes == [("connected", "a")] * 2
        old_task.cancel()
        await asyncio.gather(old_task, return_exceptions=True)
        await worker.close()


@pytest.mark.parametrize(
    "nonsense",
    [
        b"\xff\xff\xff\xff",
        struct.pack(">I", 3) + b"\xc1\xc1\xc1",
        struct.pack(">I", 2) + b"\x91\x91",
        wire.encode(wire.Applied(1)),
        wire.encode(wire.Hello("x", 0, 1, 0, {})) * 2,
        wire.encode(wire.Hello("x", 0, 1, 0, {})) + struct.pack(">I", 1),
    ],
    ids=["huge", "no msgpack", "cut short", "no hello", "two hellos", "cut off"],
)
async def test_nonsense_ends_that_connection_only(
    tmp_path: Path, nonsense: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async with listening(tmp_path) as place:
        good = SpokenWorker(1, "good")
        await good.connect(place.path)
        await eventually(lambda: place.hub.sessions, "connected")
        reader, writer = await asyncio.open_unix_connection(str(place.path))
        writer.write(nonsense)
        writer.write_eof()
        await asyncio.wait_for(reader.read(), 10)
        writer.close()
        assert await place.hub.publish(table(1))
        assert [session.hello.boot for session in place.hub.sessions] == ["good"]
        await good.close()
    assert "Traceback" not in caplog.text
