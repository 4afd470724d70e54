"""Which endpoints of a backend are used: passive health, probes, names, and what of it is nobody's variant's fault."""

from __future__ import annotations

import asyncio
import socket

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.traffic.table import Passive, Route, RoutingTable, Timeouts
from gateway.proxy.guard import Patience
from gateway.proxy.passive import PassiveHealth
from gateway.runtime.resolver import Name
from tests.support.backend import Backend, answer, hang
from tests.support.worker import RunningWorker, eventually, table

pytestmark = pytest.mark.anyio
ROUTE = Route("r", "/", stable="a", timeouts=Timeouts(connect_s=20, first_byte_s=20))
GET = b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"


def with_passive(spec: RoutingTable, **changes: float) -> RoutingTable:
    changed = {
        name: msgspec.structs.replace(backend, passive=Passive(**changes))  # type: ignore[arg-type]  # kinds vary
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
        spec = with_passive(table(ROUTE, a=ports), failures=1, base_s=30.0, max_s=30.0, ejected_percent_max=40.0)
        async with RunningWorker(spec) as w:
            assert await statuses(w, 12) == [b"500"] * 12, "nobody is refused for want of an endpoint"
            tried = sorted(len(b.seen) for b in (one, two, three))
            assert tried[0] == 1 and tried[1] > 3, "one is out, the others go on"


async def test_probes_that_find_a_canary_down_send_its_requests_to_stable() -> None:
    route = msgspec.structs.replace(ROUTE, canary="b", weight_bp=10_000)
    async with Backend() as a, Backend() as b, RunningWorker(table(route, a=a.port, b=b.port)) as w:
        await w.publish_health(b.url)
        got = await w.raw(GET)
        assert got.startswith(b"HTTP/1.1 200 ") and b"rescued" in got
        await w.publish_health()
        assert b"variant: canary" in await w.raw(GET)


# passive health as a value


@given(st.lists(st.booleans(), max_size=60), st.integers(1, 5))
def test_a_streak_ejects_for_ever_longer_up_to_the_limit_and_a_good_answer_ends_it(
    answers: list[bool], failures: int
) -> None:
    health = PassiveHealth(Passive(failures=failures, base_s=1.0, max_s=8.0))
    now_s, expected_s = 100.0, 1.0
    for good in answers:
        now_s = max(now_s + 0.1, health.ejected_until_s + 0.1)
        if good:
            health.well()
            expected_s = 1.0
        elif health.failed(now_s, may_eject=True):
            assert health.ejected_until_s == pytest.approx(now_s + expected_s)
            expected_s = min(expected_s * 2, 8.0)
        assert not health.failed(now_s, may_eject=False) or good is None


def test_an_endpoint_that_is_back_takes_a_growing_share_of_turns() -> None:
    health = PassiveHealth(Passive(slow_start_s=10.0))
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

        hasty = (msgspec.structs.replace(ROUTE, timeouts=Timeouts(connect_s=0.5)),)  # whoever looks names up may dawdle
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
    patience = Patience(burst_s=10.0, share=0.1)
    forgiven_s = [patience.forgive(one, since_s=one) for one in late]
    assert all(0 <= f <= one for f, one in zip(forgiven_s, late, strict=True))
    assert sum(forgiven_s) <= 10.0 + 0.1 * sum(late) + 1e-6
    assert forgiven_s[0] == late[0]
