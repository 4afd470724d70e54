"""What is done with header fields by configuration: names for requests, Via, Forwarded, Host, underscores, and such."""

from __future__ import annotations

import asyncio
import json
import re

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.traffic.table import Backend as BackendSpec
from gateway.core.traffic.table import Endpoint, Route, RoutingTable, Sticky
from gateway.proxy.heads.field_policy import forwarded_element
from gateway.proxy.heads.tracing import Ids, trace_id_of, valid_request_id
from gateway.runtime.settings import HeaderPolicy
from tests.support.backend import Backend, answer
from tests.support.worker import RunningWorker, table

pytestmark = pytest.mark.anyio
ROUTE = Route("r", "/", stable="a")
GET = b"GET / HTTP/1.1\r\nHost: h\r\n%bConnection: close\r\n\r\n"
TRACE = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


async def test_a_request_without_names_gets_them_and_the_client_sees_them() -> None:
    async with Backend(answer(headers=b"X-Request-ID: the backend's own\r\n")) as a:
        async with RunningWorker(table(ROUTE, a=a.port)) as w:
            replies = [await w.raw(GET % b"") for _ in range(5)]
            missing = await w.raw(b"GET / HTTP/1.1\r\nHost: h\r\nExpect: tea\r\nConnection: close\r\n\r\n")
    ids = []
    for seen, reply in zip(a.seen, replies, strict=True):
        (request_id,), (trace,) = seen.all(b"x-request-id"), seen.all(b"traceparent")
        assert trace_id_of(trace) == request_id, "both are one number"
        assert trace.endswith(b"-01")
        assert re.findall(rb"(?i)x-request-id: (\S+)\r\n", reply) == [request_id]
        ids.append(request_id)
    assert len(set(ids)) == 5
    assert b"x-request-id" not in missing or b"417" in missing


@pytest.mark.parametrize(
    ("trusted", "sent", "kept"),
    [
        ((), b"mine-1", False),
        (("127.0.0.0/8",), b"mine-1", True),
        (("127.0.0.0/8",), b"x" * 129, False),
        (("127.0.0.0/8",), b"a b", False),
        (("127.0.0.0/8",), b"\xc3\xa9", False),
    ],
    ids=["stranger", "trusted", "too long", "a space", "not ASCII"],
)
async def test_a_request_id_is_kept_from_trusted_peers_alone(trusted: tuple[str, ...], sent: bytes, kept: bool) -> None:
    async with Backend() as a, RunningWorker(table(ROUTE, a=a.port), trusted=trusted) as w:
        got = await w.raw(GET % (b"X-Request-ID: %b\r\n" % sent))
        (arrived,) = a.seen[0].all(b"x-request-id")
        assert (arrived == sent) is kept
        assert b"x-request-id: %b\r\n" % arrived in got


@pytest.mark.parametrize(
    ("fields", "kept"),
    [
        (b"traceparent: %b\r\ntracestate: a=1\r\ntracestate: b=2\r\n" % TRACE, True),
        (b"traceparent: 01%b-more\r\ntracestate: a=1\r\n" % TRACE[2:], True),
        (b"traceparent: 00-%b-b7ad6b7169203331-01\r\ntracestate: a=1\r\n" % (b"0" * 32), False),
        (b"traceparent: %b\r\ntracestate: a=1\r\n" % TRACE.upper(), False),
        (b"traceparent: %b-x\r\ntracestate: a=1\r\n" % TRACE, False),
        (b"traceparent: %b\r\ntraceparent: %b\r\ntracestate: a=1\r\n" % (TRACE, TRACE), False),
        (b"tracestate: a=1\r\n", False),
    ],
    ids=["valid", "of a later version", "no trace", "upper case", "too long", "two", "a state alone"],
)
async def test_trace_context_is_the_callers_or_begun_anew(fields: bytes, kept: bool) -> None:
    async with Backend() as a, RunningWorker(table(ROUTE, a=a.port)) as w:
        await w.raw(GET % fields)
    (trace,) = a.seen[0].all(b"traceparent")
    sent = re.findall(rb"traceparent: (\S+)\r\n", fields)
    assert ([trace] == sent) is kept
    assert trace_id_of(trace) is not None
    assert a.seen[0].all(b"tracestate") == (re.findall(rb"tracestate: (\S+)\r\n", fields) if kept else [])


async def test_names_may_be_others_or_none() -> None:
    policy = HeaderPolicy(via=None, request_id="x-correlation-id", traceparent="pass")
    async with Backend() as a, RunningWorker(table(ROUTE, a=a.port), headers=policy) as w:
        got = await w.raw(GET % b"X-Request-ID: theirs\r\nVia: 1.1 other\r\n")
        assert b"\r\nx-correlation-id: " in got
    (seen,) = a.seen
    assert seen.all(b"x-request-id") == [b"theirs"] and len(seen.all(b"x-correlation-id")) == 1
    assert seen.all(b"traceparent") == [] and seen.all(b"via") == [b"1.1 other"]
    policy = HeaderPolicy(request_id=None, traceparent="pass")
    async with Backend() as a, RunningWorker(table(ROUTE, a=a.port), headers=policy) as w:
        got = await w.raw(GET % (b"traceparent: %b\r\n" % TRACE))
        assert b"x-request-id" not in got
    assert a.seen[0].all(b"x-request-id") == [] and a.seen[0].all(b"traceparent") == [TRACE]


async def test_circles_are_noticed_by_the_configured_name_alone() -> None:
    async with Backend() as a, RunningWorker(table(ROUTE, a=a.port), headers=HeaderPolicy(via="edge-7")) as w:
        for via, status in (
            (b"1.1 canary-gateway, 1.1 canary-gateway, 1.1 canary-gateway", b"200"),
            (b"1.1 edge-7, 1.0 edge-7 (comment)", b"200"),
            (b"1.1 edge-77, 1.1 edge-7, 1.1 edge-7", b"200"),
            (b"1.1 edge-7, 1.1 other, HTTP/1.1 edge-7 (comment), 1.0 edge-7", b"508"),
        ):
            got = await w.raw(GET % (b"Via: %b\r\n" % via))
            assert got.startswith(b"HTTP/1.1 %b " % status), (via, got)
    assert a.seen[0].all(b"via")[0].endswith(b", 1.1 edge-7")


async def test_a_gateway_that_is_its_own_backend_notices() -> None:
    async with RunningWorker(table(ROUTE, a=1)) as w:
        loop = {"a": BackendSpec("a", (Endpoint("127.0.0.1", w.port),))}
        await w.publish(RoutingTable(2, (ROUTE,), loop))
        assert (await w.raw(GET % b"")).startswith(b"HTTP/1.1 508 ")


@pytest.mark.parametrize(
    ("trusted", "expected"),
    [((), b'for=127.0.0.1;host="h";proto=http'), (("127.0.0.1/32",), b'for=x, for=127.0.0.1;host="h";proto=http')],
)
async def test_forwarded_is_written_where_it_is_wanted(trusted: tuple[str, ...], expected: bytes) -> None:
    policy = HeaderPolicy(forwarded=True)
    async with Backend() as a, RunningWorker(table(ROUTE, a=a.port), trusted=trusted, headers=policy) as w:
        await w.raw(GET % b"Forwarded: for=x\r\n")
    assert a.seen[0].all(b"forwarded") == [expected]


async def test_forwarded_is_passed_on_from_trusted_peers_alone() -> None:
    for trusted, expected in (((), []), (("127.0.0.1/32",), [b"for=x"])):
        async with Backend() as a, RunningWorker(table(ROUTE, a=a.port), trusted=trusted) as w:
            await w.raw(GET % b"Forwarded: for=x\r\n")
        assert a.seen[0].all(b"forwarded") == expected


@pytest.mark.parametrize(
    ("underscores", "status", "arrived"), [("reject", b"400", None), ("drop", b"200", []), ("pass", b"200", [b"1"])]
)
async def test_underscores_in_names(underscores: str, status: bytes, arrived: list[bytes] | None) -> None:
    async with Backend() as a:
        async with RunningWorker(table(ROUTE, a=a.port), headers=HeaderPolicy(underscores=underscores)) as w:
            assert (await w.raw(GET % b"X_Y: 1\r\n")).startswith(b"HTTP/1.1 %b " % status)
        assert [seen.all(b"x_y") for seen in a.seen] == ([] if arrived is None else [arrived])


@pytest.mark.parametrize("host_header", ["client", "endpoint", "model.internal:8080"])
async def test_the_host_is_the_clients_or_the_backends(host_header: str) -> None:
    async with Backend() as a:
        spec = BackendSpec("a", (Endpoint("127.0.0.1", a.port),), host_header=host_header)
        async with RunningWorker(RoutingTable(1, (ROUTE,), {"a": spec})) as w:
            await w.raw(GET % b"")
            expected = {"client": b"h", "endpoint": b"127.0.0.1:%d" % a.port}.get(host_header, host_header.encode())
            assert a.seen[0].all(b"host") == [expected]
            assert a.seen[0].all(b"x-forwarded-host") == [b"h"]
            await w.publish(RoutingTable(2, (ROUTE,), {"a": msgspec.structs.replace(spec, host_header="other")}))
            await w.raw(GET % b"")
            assert a.seen[1].all(b"host") == [b"other"], "also on a kept connection"


async def test_blanks_around_a_value_are_not_of_the_value() -> None:
    """RFC 9112, 5.1: a session is the same session however its name is spaced."""
    route = Route("r", "/", stable="a", canary="b", weight_bp=5_000, sticky=Sticky(header="x-user"), salt="r")
    async with Backend() as a, Backend() as b, RunningWorker(table(route, a=a.port, b=b.port)) as w:
        for i in range(8):
            asks = b"GET / HTTP/1.1\r\nHost:%b\r\nX-User:%b\r\nConnection: close\r\n\r\n"
            spaced = [
                await w.raw(asks % (host, b" u%d" % i + end)) for host, end in ((b" h", b""), (b"\th \t", b" \t"))
            ]
            assert [got[:13] for got in spaced] == [b"HTTP/1.1 200 "] * 2
            assert len({b"variant: canary" in got for got in spaced}) == 1
        assert {value for seen in (*a.seen, *b.seen) for value in seen.all(b"host")} == {b"h"}


async def test_options_of_a_whole_server_asks_the_backend_for_the_same() -> None:
    async with Backend() as a, RunningWorker(table(ROUTE, a=a.port)) as w:
        for target in (b"http://h.test", b"http://h.test/", b"http://h.test?q"):
            await w.raw(b"OPTIONS %b HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n" % target)
        assert [seen.target for seen in a.seen] == [b"*", b"/", b"/?q"]
        assert a.seen[0].all(b"host") == [b"h.test"]


async def test_max_forwards_counts_down_on_options() -> None:
    asks = b"OPTIONS * HTTP/1.1\r\nHost: h\r\nMax-Forwards: %b\r\nConnection: close\r\n\r\n"
    async with Backend() as a, RunningWorker(table(ROUTE, a=a.port)) as w:
        assert (await w.raw(asks % b"7")).startswith(b"HTTP/1.1 200 ")
        assert (a.seen[0].target, a.seen[0].all(b"max-forwards")) == (b"*", [b"6"])
        last = await w.raw(asks % b"0")
        assert (
            last.startswith(b"HTTP/1.1 200 ") and b"x-gateway-error: last_recipient" in last and b"\r\nallow: " in last
        )
        for bad in (b"-1", b"x", b"", b"1\r\nMax-Forwards: 2", b"99999999999"):
            assert (await w.raw(asks % bad)).startswith(b"HTTP/1.1 400 "), bad
        await w.raw(GET % b"Max-Forwards: 0\r\n")
        assert a.seen[1].all(b"max-forwards") == [b"0"], "it means nothing to other methods"
    assert len(a.seen) == 2


async def test_a_path_that_nobody_serves_is_said() -> None:
    async with Backend() as a, RunningWorker(table(msgspec.structs.replace(ROUTE, path_prefix="/v2"), a=a.port)) as w:
        got = await w.raw(b'GET /v1/"<b>?token=secret HTTP/1.1\r\nHost: h:1\r\nConnection: close\r\n\r\n')
    document = json.loads(got.partition(b"\r\n\r\n")[2])
    assert got.startswith(b"HTTP/1.1 404 ")
    assert '/v1/"<b>' in document["detail"] and "h:1" in document["detail"] and "secret" not in document["detail"]


async def test_a_half_closed_client_has_given_up_where_the_route_says_so() -> None:
    never = asyncio.Event()

    async def wait(_: object, peer: object) -> None:
        await never.wait()

    route = msgspec.structs.replace(ROUTE, half_close_s=0.0)
    async with Backend(wait) as a, RunningWorker(table(route, a=a.port)) as w:
        reader, writer = await asyncio.open_connection("127.0.0.1", w.port)
        writer.write(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        writer.write_eof()
        assert await asyncio.wait_for(reader.read(), 10) == b""
        writer.close()
        while not w.observer.merged().aborted:
            await asyncio.sleep(0.01)
        assert w.counts() == (1, 0, 0, 0)
        assert sum(sum(e.stable.aborted.values()) for e in w.evidence()) == 1, "how long it waited is known"


def test_ids_are_valid_and_differ() -> None:
    ids = Ids()
    made = [ids.new() for _ in range(10_000)]
    assert len(set(made)) == len(made)
    assert all(trace_id_of(ids.traceparent(one)) == one and valid_request_id(one) for one in made[:100])
    assert len({one[-8:] for one in made}) > 9_990, "samplers look at the end"
    assert made[0][:16] != Ids().new()[:16], "another worker makes others"


@given(st.binary(max_size=80))
def test_a_trace_id_is_only_ever_found_in_what_is_valid(value: bytes) -> None:
    found = trace_id_of(value)
    assert found is None or (
        re.fullmatch(rb"[0-9a-f]{32}", found) and value[3:35] == found and set(found) != {ord("0")}
    )


def test_an_address_in_forwarded_is_quoted_where_it_must_be() -> None:
    assert forwarded_element(b"::1", b"", tls=False) == b'for="[::1]";proto=http'
    assert forwarded_element(b"", b"h", tls=True) == b'for=unknown;host="h";proto=https'
