"""Which endpoints of a backend are used: passive health, probes, names, and what of it is nobody's variant's fault."""

from __future__ import annotations

import asyncio
import socket

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.traffic.table import OutlierEjection, Route, RoutingTable, Timeouts
from gateway.proxy.sweeper import StallForgiveness
from gateway.proxy.upstream.outlier_ejection import EjectionState, UsualFirstByte
from gateway.runtime.resolver import Name
from tests.support.backend import Backend, answer, hang
from tests.support.worker import RunningWorker, eventually, table

pytestmark = pytest.mark.anyio
ROUTE = Route("r", "/", stable="a", timeouts=Timeouts(connect_s=20, first_byte_s=20))
GET = b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"


def with_passive(spec: RoutingTable, **changes: float) -> RoutingTable:
    changed = {
        name: msgspec.structs.replace(backend, passive=OutlierEjection(**changes))  # type: ignore[arg-type]  # kinds vary
        for name, backend in spec.backends.items()
    }
    return msgspec.structs.replace(spec, backends=changed)


async def statuses(w: RunningWorker, count: int) -> list[bytes]:
    return [(await w.raw(GET, timeout_s=20))[9:12] for _ in range(count)]


# passive health over real sockets


@pytest.mark.parametrize("failure", ["5xx", "hang", "refused"])
async def test_a_failing_endpoint_is_ejected_and_its_sibling_serves(failure: str) -> None:
    script = {"5xx": answer(500), "hang": hang, "refused": answer()}[failure]
    route = msgspec.structs.replace(ROUTE, timeouts=Timeouts(connect_s=20, first_byte_s=1.0))
    async with Backend() as good, Backend(script) as bad:
        if failure == "refused":
            await bad.stop()
        spec = with_passive(
            table(route if failure == "hang" else ROUTE, a=(good.port, bad.port)), failures=2, base_s=600, max_s=600
        )
        async with RunningWorker(spec) as w:
            # At most two tries of the bad one fail (a refused one is never seen: the other endpoint is tried).
            await statuses(w, 5)
            seen = len(bad.seen)
            assert await statuses(w, 10) == [b"200"] * 10
            assert len(bad.seen) == seen, "it is left alone"


async def test_failures_that_count_are_known_by_their_endpoint() -> None:
    route = Route("r", "/", stable="a", canary="b", weight_bp=9999)
    async with Backend() as stable, Backend() as good, Backend(answer(500)) as bad:
        spec = with_passive(table(route, a=stable.port, b=(good.port, bad.port)), failures=1000)
        async with RunningWorker(spec) as w:
            # A request for stable is never ruled out; of the canary's each second one fails, and stable answers it.
            assert await statuses(w, 10) == [b"200"] * 10
            seen = {url(bad): {"errors": len(bad.seen)}}
            await eventually(lambda: w.totals(1).failed_at == seen, "all of them are reported")
            assert w.counts()[3] == len(bad.seen) > 0 and w.totals(0).failed_at == {}


def url(backend: Backend) -> str:
    return f"http://127.0.0.1:{backend.port}"


async def test_an_ejected_endpoint_comes_back_by_itself() -> None:
    async with Backend() as good, Backend(answer(500)) as bad:
        spec = with_passive(table(ROUTE, a=(good.port, bad.port)), failures=1, base_s=0.3, max_s=0.3)
        async with RunningWorker(spec) as w:
            assert b"500" in await statuses(w, 2)
            bad.script = answer(body=b"well")
            async with asyncio.timeout(20):
                while not (await w.raw(GET)).endswith(b"well"):
                    await asyncio.sleep(0.05)


async def test_the_only_endpoint_is_not_ejected_for_its_answers() -> None:
    async with Backend(answer(500)) as a, RunningWorker(with_passive(table(ROUTE, a=a.port), failures=2)) as w:
        assert await statuses(w, 8) == [b"500"] * 8
        assert len(a.seen) == 8


async def test_no_more_than_the_share_of_endpoints_is_ejected() -> None:
    async with Backend(answer(500)) as one, Backend(answer(500)) as two, Backend(answer(500)) as three:
        ports = (one.port, two.port, three.port)
        spec = with_passive(table(ROUTE, a=ports), failures=1, base_s=30.0, max_s=30.0, ejected_percent_max=30.0)
        async with RunningWorker(spec) as w:
            assert await statuses(w, 12) == [b"500"] * 12, "nobody is refused for want of an endpoint"
            tried = sorted(len(b.seen) for b in (one, two, three))
            assert tried[0] == 1 and tried[1] > 3, "one is out, the others go on"


async def test_probes_that_find_all_of_a_backend_down_do_not_take_it_away() -> None:
    """What answers requests is not dead, whatever its probes say; with a sibling that is up it is left alone."""
    for variant, weight_bp in ((b"stable", 0), (b"canary", 10_000)):
        route = msgspec.structs.replace(ROUTE, canary="b", weight_bp=weight_bp)
        async with Backend() as one, Backend() as two:
            ports = (one.port, two.port)
            async with RunningWorker(table(route, a=ports, b=ports)) as w:
                await w.publish_health(one.url)
                assert await statuses(w, 4) == [b"200"] * 4
                assert (len(one.seen), len(two.seen)) == (0, 4)
                await w.publish_health(one.url, two.url)
                for _ in range(4):
                    got = await w.raw(GET)
                    assert got.startswith(b"HTTP/1.1 200 ") and b"variant: " + variant in got


# passive health as a value


def failed(health: EjectionState, now_s: float, *, since_s: float | None = None, **changes: bool) -> bool:
    given_ = {"timed_out": False, "may_eject": True} | changes
    return health.failed("reset", now_s, now_s if since_s is None else since_s, **given_)


@given(st.lists(st.booleans(), max_size=60), st.integers(1, 5))
def test_each_trial_that_fails_ejects_for_longer_and_staying_in_begins_anew(trials: list[bool], failures: int) -> None:
    health = EjectionState(OutlierEjection(failures=failures, base_s=1.0, max_s=8.0))
    now_s, expected_s = 100.0, 1.0
    for _ in range(failures):
        failed(health, now_s)
    for well in trials:
        assert health.out
        assert health.ejected_until_s == pytest.approx(now_s + expected_s)
        assert not health.wants_trial(health.ejected_until_s - 0.01)
        now_s = health.ejected_until_s
        assert health.wants_trial(now_s)
        health.begin_trial(now_s + 0.5)
        assert not health.wants_trial(now_s + 0.4), "one at a time"
        assert health.wants_trial(now_s + 0.5), "it came to nothing: the next"
        if well:
            assert health.answered(now_s + 0.1, since_s=now_s)
            assert not health.out
            # It stays in for longer than it was out, and fails again.
            now_s += 10.0
            for _ in range(failures - 1):
                assert not failed(health, now_s)
            expected_s = 1.0
        else:
            expected_s = min(expected_s * 2, 8.0)
        assert failed(health, now_s)


def test_what_was_sent_before_an_ejection_says_nothing_after_it() -> None:
    health = EjectionState(OutlierEjection(failures=1, base_s=1.0))
    assert failed(health, 100.0)
    assert not health.answered(100.5, since_s=99.0), "a late answer"
    assert health.out
    assert not failed(health, 101.5, since_s=99.0), "a late failure, while the trial is due"
    assert health.lasts_s == 1.0
    assert health.answered(101.7, since_s=101.5)
    assert not failed(health, 102.0, since_s=99.5), "another of those"


def test_a_time_out_weighs_half_of_what_ejects() -> None:
    health = EjectionState(OutlierEjection(failures=5))
    assert not failed(health, 100.0, timed_out=True)
    assert failed(health, 101.0, timed_out=True)
    health = EjectionState(OutlierEjection(failures=5))
    assert not failed(health, 100.0, timed_out=True)
    assert not health.answered(100.5, since_s=100.4)
    assert not failed(health, 101.0, timed_out=True), "an answer ends the streak"


def test_an_endpoint_that_fails_soon_after_its_return_is_out_for_longer() -> None:
    health = EjectionState(OutlierEjection(failures=1, base_s=4.0, max_s=30.0))
    failed(health, 100.0)
    health.answered(104.1, since_s=104.0)
    assert failed(health, 105.0)
    assert health.lasts_s == 8.0
    assert health.reason == "reset"


def test_what_is_usual_follows_nine_in_ten() -> None:
    usual = UsualFirstByte()
    for i in range(3000):
        usual.add(1.0 if i % 20 == 0 else 0.01)
    assert 0.01 <= usual.seconds < 0.5, "one in twenty is unusual"
    for i in range(3000):
        usual.add(1.0 if i % 4 == 0 else 0.01)
    assert usual.seconds > 0.5, "one in four is not"


def test_an_endpoint_that_is_back_takes_a_growing_share_of_turns() -> None:
    health = EjectionState(OutlierEjection(slow_start_s=10.0))
    health.begin_slowly(100.0)
    shares = [sum(health.takes_turn(start + i / 100) for i in range(100)) for start in (101.0, 104.0, 108.0)]
    assert 8 <= shares[0] < shares[1] < shares[2] <= 95
    assert all(health.takes_turn(110.0 + i) for i in range(10))


# names


async def test_a_name_is_looked_up_again_and_its_addresses_take_turns() -> None:
    asked: list[str] = []
    answers: list[list[str] | OSError] = [["192.0.2.1", "192.0.2.2"]]

    async def lookup(host: str, port: int) -> list[str]:
        asked.append(host)
        found = answers[0]
        if isinstance(found, OSError):
            raise found
        return found

    name = Name("model.test", 80, resolve_s=0.0, max_age_s=3600.0, lookup=lookup)
    assert {await name.address() for _ in range(4)} == {"192.0.2.1", "192.0.2.2"}
    name.failed("192.0.2.1")
    assert await name.address() == "192.0.2.2", "one that cannot be connected to comes last"
    answers[0] = ["192.0.2.9"]
    async with asyncio.timeout(20):
        while await name.address() != "192.0.2.9":
            await asyncio.sleep(0.01)
    answers[0] = socket.gaierror(-2, "Name or service not known")
    before = len(asked)
    async with asyncio.timeout(20):
        while len(asked) < before + 3:
            assert await name.address() == "192.0.2.9", "the last good address serves on"
            await asyncio.sleep(0.01)
    name.max_age_s = 0.0
    with pytest.raises(OSError, match=r"model\.test"):
        await name.address()
    answers[0] = ["192.0.2.10"]
    assert await name.address() == "192.0.2.10"


async def test_a_literal_address_is_never_looked_up() -> None:
    async def lookup(host: str, port: int) -> list[str]:
        raise AssertionError(host)

    assert [await Name(host, 80, 0.0, 0.0, lookup).address() for host in ("127.0.0.1", "::1")] == ["127.0.0.1", "::1"]


async def test_a_name_that_leads_nowhere_is_a_502_and_localhost_serves() -> None:
    async with Backend() as a:
        spec = table(ROUTE, a=a.port)

        def named(host: str, epoch: int) -> RoutingTable:
            (endpoint,) = spec.backends["a"].endpoints
            backend = msgspec.structs.replace(
                spec.backends["a"], endpoints=(msgspec.structs.replace(endpoint, host=host),)
            )
            return msgspec.structs.replace(spec, epoch=epoch, backends={"a": backend})

        hasty = (msgspec.structs.replace(ROUTE, timeouts=Timeouts(connect_s=0.5)),)  # looking names up may be slow
        async with RunningWorker(msgspec.structs.replace(named("nowhere.invalid", 1), routes=hasty)) as w:
            assert (await statuses(w, 1))[0] in (b"502", b"504")
            await w.publish(named("localhost", 2))
            assert await statuses(w, 1) == [b"200"]


# the gateway's own want


async def test_a_want_of_descriptors_is_not_the_canarys_fault() -> None:
    route = msgspec.structs.replace(ROUTE, canary="b", weight_bp=10_000, timeouts=Timeouts(first_byte_s=20))
    go = asyncio.Event()

    async def later(*both: object) -> None:
        await go.wait()
        await answer()(*both)  # type: ignore[arg-type]  # passed through

    async with Backend() as a, Backend(later) as b:
        async with RunningWorker(table(route, a=a.port, b=b.port), descriptors_max=64) as w:
            asked = [asyncio.create_task(w.raw(GET, timeout_s=30)) for _ in range(60)]
            await eventually(lambda: b.open > 5, "the canary is asked")
            await asyncio.sleep(0.5)
            go.set()
            got = await asyncio.gather(*asked)
            assert all(one[9:12] in (b"200", b"503") for one in got), [one[:60] for one in got]
            assert w.counts()[3] == 0, "no error is the canary's"


@given(st.lists(st.floats(0.3, 5.0), min_size=1, max_size=200))
def test_what_is_forgiven_is_bounded_in_the_long_run(late: list[float]) -> None:
    patience = StallForgiveness(burst_s=10.0, share=0.1)
    forgiven_s = [patience.forgive(one, since_s=one) for one in late]
    assert all(0 <= f <= one for f, one in zip(forgiven_s, late, strict=True))
    assert sum(forgiven_s) <= 10.0 + 0.1 * sum(late) + 1e-6
    assert forgiven_s[0] == late[0]
