"""What probes say is compared with what requests show: it can take an endpoint out of rotation, never a backend."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from gateway.core.traffic.table import Route, Timeouts
from gateway.proxy.upstream.probed_health import PROVEN_S, ProbedHealth
from gateway.runtime.wire import EndpointDown
from tests.support.backend import Backend, hang
from tests.support.worker import RunningWorker, eventually, table

pytestmark = pytest.mark.anyio
ROUTE = Route("r", "/", stable="a", timeouts=Timeouts(connect_s=20, first_byte_s=20))
ALL_CANARY = msgspec.structs.replace(ROUTE, canary="b", weight_bp=10_000)
GET = b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"


async def answers(w: RunningWorker, count: int) -> list[bytes]:
    return [await w.raw(GET, timeout_s=20) for _ in range(count)]


@pytest.mark.parametrize("silent", [False, True], ids=["refused", "silent"])
async def test_probes_never_take_the_last_endpoints_from_stable(silent: bool) -> None:
    async with Backend() as one, Backend() as two, RunningWorker(table(ROUTE, a=(one.port, two.port))) as w:
        await w.publish_health(one.url, two.url, silent=silent)
        assert [got[9:12] for got in await answers(w, 10)] == [b"200"] * 10
        assert sorted(len(b.seen) for b in (one, two)) == [5, 5], "all of them are used, in turn"
        if not silent:
            await eventually(lambda: w.observer.despite_probes() == (frozenset(), {"a"}), "the panic is reported")
        await w.publish_health()
        await eventually(lambda: w.observer.despite_probes() == (frozenset(), frozenset()), "it is over")


async def test_a_stable_that_refuses_its_probes_and_its_requests_gives_the_true_error() -> None:
    async with Backend() as a, RunningWorker(table(ROUTE, a=a.port)) as w:
        await a.stop()
        await w.publish_health(a.url)
        assert b"x-gateway-error: connect_failed" in (await answers(w, 1))[0]


async def test_an_endpoint_that_says_it_is_not_ready_is_left_alone_however_well_it_serves() -> None:
    async with Backend() as one, Backend() as two, RunningWorker(table(ROUTE, a=(one.port, two.port))) as w:
        await answers(w, 4)
        assert len(one.seen) == 2
        await w.publish_health(one.url)
        await answers(w, 6)
        assert (len(one.seen), len(two.seen)) == (2, 8)


async def test_a_slow_probe_does_not_outweigh_working_requests() -> None:
    async with Backend() as one, Backend() as two, RunningWorker(table(ROUTE, a=(one.port, two.port))) as w:
        await answers(w, 4)
        await w.publish_health(one.url, silent=True)
        await answers(w, 6)
        assert (len(one.seen), len(two.seen)) == (5, 5), "requests have proven it well"
        kept = frozenset({("a", one.url)})
        await eventually(lambda: w.observer.despite_probes() == (kept, frozenset()), "that is reported")


async def test_a_silent_endpoint_without_a_proof_is_left_to_its_siblings() -> None:
    async with Backend() as one, Backend() as two, RunningWorker(table(ROUTE, a=(one.port, two.port))) as w:
        await w.publish_health(one.url, silent=True)
        await answers(w, 6)
        assert (len(one.seen), len(two.seen)) == (0, 6)


async def test_a_canary_with_slow_probes_keeps_its_requests() -> None:
    async with Backend() as a, Backend() as b, RunningWorker(table(ALL_CANARY, a=a.port, b=b.port)) as w:
        await w.publish_health(b.url, silent=True)
        assert all(b"variant: canary" in got for got in await answers(w, 10)), "the first was its trial"
        assert a.seen == []


async def test_of_a_canary_that_hangs_and_is_silent_only_one_request_is_a_trial() -> None:
    async with Backend() as a, Backend(hang) as b, RunningWorker(table(ALL_CANARY, a=a.port, b=b.port)) as w:
        await w.publish_health(b.url, silent=True)
        trial = asyncio.create_task(w.raw(GET, timeout_s=30))
        await eventually(lambda: b.seen, "the trial is under way")
        got = await answers(w, 10)
        assert all(b"variant: stable" in one and b"rescued" in one for one in got)
        assert len(b.seen) == 1
        trial.cancel()


async def test_what_probes_say_of_one_backend_is_not_said_of_another_at_the_same_address() -> None:
    async with Backend() as a, Backend() as other:
        async with RunningWorker(table(ALL_CANARY, a=a.port, b=(a.port, other.port))) as w:
            w.hub.publish_health((EndpointDown("b", a.url),))
            await w.publish(msgspec.structs.replace(w.table, epoch=w.table.epoch + 1))
            await answers(w, 4)
            assert (len(a.seen), len(other.seen)) == (0, 4), "b's is down"
            assert w.observer.despite_probes()[1] <= {"b"}, "a is not"
            await w.publish(msgspec.structs.replace(w.table.with_weight("r", 0), epoch=w.table.epoch + 1))
            await answers(w, 2)
            assert len(a.seen) == 2, "a's is not"


async def test_a_share_of_endpoints_can_be_the_least_for_heeding_probes() -> None:
    async with Backend() as one, Backend() as two, Backend() as three:
        spec = table(ROUTE, a=(one.port, two.port, three.port))
        backend = msgspec.structs.replace(spec.backends["a"], panic_percent=50.0)
        async with RunningWorker(msgspec.structs.replace(spec, backends={"a": backend})) as w:
            await w.publish_health(one.url)
            await answers(w, 6)
            assert len(one.seen) == 0, "two of three look well"
            await w.publish_health(one.url, two.url)
            await answers(w, 6)
            assert min(len(one.seen), len(two.seen)) >= 2, "one of three is too few"


def test_a_proof_grows_old_and_a_failed_trial_waits_for_longer() -> None:
    health = ProbedHealth()
    health.enter(down=True, refused=False)
    health.answered(500, 100.0)
    assert not health.outweighed(100.0), "a failure proves nothing"
    health.answered(404, 100.0)
    assert health.outweighed(100.0 + PROVEN_S - 0.1) and not health.outweighed(100.0 + PROVEN_S)
    assert health.takes_trial(200.0, failing=False) and not health.takes_trial(200.5, failing=False)
    assert health.takes_trial(201.0, failing=False)
    assert not health.takes_trial(220.0, failing=True) and health.takes_trial(231.0, failing=True)
    health.enter(down=True, refused=True)
    assert not health.outweighed(100.0) and not health.takes_trial(400.0, failing=False)
