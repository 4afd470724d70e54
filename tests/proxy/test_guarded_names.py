"""A name that was allowed when its backend came in, and leads elsewhere later, is not followed."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from gateway.config.backends import BackendConfig, ProbeConfig
from gateway.control.health.prober import EndpointState, Prober
from gateway.core.traffic.addresses import refusals
from gateway.core.traffic.table import AddressGuard, Backend, Endpoint, Route, RoutingTable, Timeouts
from gateway.runtime.resolver import Name
from tests.support.backend import Backend as Model
from tests.support.worker import RunningWorker, eventually, table

pytestmark = pytest.mark.anyio
ROUTE = Route("r", "/", stable="a", timeouts=Timeouts(connect_s=20, first_byte_s=20))
GET = b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"
HERE = ("127.0.0.0/8", "::1/128")


class Lookup:
    """A resolver that says what the test wants."""

    def __init__(self, *addresses: str) -> None:
        self.addresses = list(addresses)
        self.asked = 0

    async def __call__(self, host: str, port: int) -> list[str]:
        self.asked += 1
        return list(self.addresses)


@pytest.mark.parametrize("allow", [("10.0.0.0/8",), ("*.test",)], ids=["by its address", "by its name"])
async def test_a_name_that_turns_is_not_followed(allow: tuple[str, ...], caplog: pytest.LogCaptureFixture) -> None:
    lookup = Lookup("10.1.2.3")
    name = Name("model.test", 80, resolve_s=0.0, max_age_s=3600.0, lookup=lookup)
    name.restrict(allow)
    assert await name.address() == "10.1.2.3"
    lookup.addresses = ["169.254.169.254"]
    with pytest.raises(OSError, match=r"model\.test resolves to addresses that are not allowed"):  # noqa: PT012  # until the answer is in
        async with asyncio.timeout(20):
            while True:
                assert await name.address() == "10.1.2.3"
                await asyncio.sleep(0.01)
    assert "model.test resolves to addresses that are not allowed: 169.254.169.254 is link-local" in caplog.text
    lookup.addresses = ["169.254.169.254", "10.1.2.4", "::ffff:169.254.169.254"]
    assert {await name.address() for _ in range(4)} == {"10.1.2.4"}, "of several the allowed ones serve"
    name.restrict(None)
    lookup.addresses = ["169.254.169.254"]
    async with asyncio.timeout(20):
        while await name.address() != "169.254.169.254":  # what the file names may be anywhere
            await asyncio.sleep(0.01)
    name.restrict(("192.0.2.0/24",))
    with pytest.raises(OSError, match=r"model\.test"):
        await name.address()


async def test_a_literal_address_has_to_be_allowed_too() -> None:
    for host, good in (("10.1.2.3", True), ("127.0.0.1", False)):
        name = Name(host, 80, 10.0, 10.0, Lookup(host))
        name.restrict(("10.0.0.0/8",))
        if good:
            assert await name.address() == host
        else:
            with pytest.raises(OSError, match=host):
                await name.address()


def guarded(spec: RoutingTable, host: str, allow: tuple[str, ...]) -> RoutingTable:
    """The table in which the one endpoint has this name and may lead there."""
    endpoint = msgspec.structs.replace(spec.backends["a"].endpoints[0], host=host)
    guard = AddressGuard(allow, (endpoint.url,))
    backend = msgspec.structs.replace(spec.backends["a"], endpoints=(endpoint,), guard=guard)
    return msgspec.structs.replace(spec, backends={"a": backend})


async def test_a_worker_connects_to_no_address_that_is_not_allowed() -> None:
    async with Model() as a:
        spec = table(ROUTE, a=a.port)
        async with RunningWorker(guarded(spec, "localhost", ("10.0.0.0/8",))) as w:
            assert (await w.raw(GET, timeout_s=20))[9:12] == b"502"
            assert a.seen == []
            await w.publish(msgspec.structs.replace(guarded(spec, "localhost", HERE), epoch=2))
            assert (await w.raw(GET, timeout_s=20))[9:12] == b"200"
        assert b"localhost resolves to addresses that are not allowed" in w.complaints


async def test_probes_go_nowhere_else_either() -> None:
    async with Model() as a:
        endpoint = Endpoint("localhost", a.port)
        probe = ProbeConfig(path="/healthy", interval_s=0.05, rise=1, fall=1)
        turned: list[tuple[bool | None, str]] = []

        def turn(health: EndpointState) -> None:
            turned.append((health.up, health.last_answer))

        prober = Prober({"a": BackendConfig(endpoints=[endpoint], probe=probe)}, turn)
        prober.restrict({"a": Backend("a", (endpoint,), guard=AddressGuard(("10.0.0.0/8",), (endpoint.url,)))})
        task = asyncio.create_task(prober.run())
        await eventually(lambda: turned, "it is down")
        assert (
            turned[0][0] is False
            and "localhost resolves to addresses that are not allowed: 127.0.0.1 is not in" in turned[0][1]
        )
        assert a.seen == []
        prober.restrict({"a": Backend("a", (endpoint,), guard=AddressGuard(HERE, (endpoint.url,)))})
        await eventually(lambda: len(turned) == 2, "it is up")
        assert turned[1][0] is True
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert a.seen[0].all(b"host") == [b"localhost:%d" % a.port], "by the name, whatever the address"


def test_reasons_are_given_for_each_address() -> None:
    found = refusals("x.test", ["10.0.0.1", "192.168.0.1", "fe80::1%eth0"], ("10.0.0.0/8", "y.test"))
    assert found == {
        "192.168.0.1": "192.168.0.1 is not in admin.backend_allow, which allows 10.0.0.0/8, y.test",
        "fe80::1%eth0": "fe80::1 is link-local, reserved or serves metadata",
    }
