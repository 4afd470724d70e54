"""What HTTP allows and few send: it is served as its meaning says, and what is not served is refused in plain words."""

from __future__ import annotations

import asyncio
import json
import socket
from itertools import product

import pytest

from gateway.core.traffic.table import Route
from tests.support.backend import Backend, Peer, Seen, answer, raw
from tests.support.rawbackend import RawBackend, Wire
from tests.support.worker import RunningWorker, eventually, table

pytestmark = pytest.mark.anyio
ROUTE = Route("r", "/", stable="a")
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
GET = b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"
ASKS = b"GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"


def problem(got: bytes) -> dict[str, object]:
    """The problem document at the end of an answer."""
    found: dict[str, object] = json.loads(got.partition(b"\r\n\r\n")[2])
    return found


@pytest.mark.parametrize("value", [b"2 ", b"2\t", b" 2", b"\t2 \t ", b"   2"])
async def test_blanks_around_a_length_are_no_part_of_it(value: bytes) -> None:
    """RFC 9110, 5.5: white space around a field's value is not of the value."""
    async with Backend(raw(b"HTTP/1.1 200 OK\r\nContent-Length:" + value + b"\r\n\r\nok")) as a:
        async with RunningWorker(table(ROUTE, a=a.port)) as w:
            head = b"POST / HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Length:" + value
            got = await w.raw(head + b"\r\n\r\nhi")
            assert got.startswith(b"HTTP/1.1 200 ") and got.endswith(b"\r\n\r\nok"), got
            assert b"\r\ncontent-length: 2\r\n" in got
            assert a.seen[0].body == b"hi" and a.seen[0].all(b"content-length") == [b"2"]


@pytest.mark.parametrize("value", [b"2 2", b"2,2", b"+2", b"", b" ", b"2 ;", b"0x2", b"\x0b2"])
async def test_a_length_that_is_no_number_stays_refused(value: bytes) -> None:
    async with Backend() as a, RunningWorker(table(ROUTE, a=a.port)) as w:
        got = await w.raw(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length:" + value + b"\r\n\r\nhi")
        assert got.startswith(b"HTTP/1.1 400 "), got
        assert a.seen == []


async def test_the_dot_and_the_port_of_a_host_name_choose_no_other_route(subtests: pytest.Subtests) -> None:
    tenant = Route("tenant", "/", stable="a", hosts=("tenant.example",))
    other = Route("other", "/", stable="b", hosts=("other.example.",))
    rest = Route("rest", "/", stable="c")
    async with Backend(answer(body=b"tenant")) as a, Backend(answer(body=b"other")) as b:
        async with (
            Backend(answer(body=b"rest")) as c,
            RunningWorker(table(tenant, other, rest, a=a.port, b=b.port, c=c.port)) as w,
        ):
            for host, route in (
                *((f"tenant.example{end}", b"tenant") for end in ("", ".", ":", ":80", ".:80", ".:", ":0080")),
                ("TENANT.example.", b"tenant"),
                ("other.example", b"other"),
                ("tenant.example..", b"rest"),
                ("tenant", b"rest"),
            ):
                for target in (b"/", b"http://%b/" % host.encode()):
                    with subtests.test(host=host, target=target):
                        head = b"GET %b HTTP/1.1\r\nHost: %b\r\nConnection: close\r\n\r\n" % (target, host.encode())
                        got = await w.raw(head)
                        assert got.endswith(b"\r\n\r\n" + route), got


@pytest.mark.parametrize("host", [b"h:99999", b"h:65536", b"h:123456", b"h:-1", b"h:8o", b":80", b"[::1]:99999"])
async def test_a_port_that_is_none_is_refused(host: bytes) -> None:
    async with Backend() as a, RunningWorker(table(ROUTE, a=a.port)) as w:
        assert (await w.raw(b"GET / HTTP/1.1\r\nHost: " + host + b"\r\n\r\n")).startswith(b"HTTP/1.1 400 ")
        assert (await w.raw(b"GET http://" + host + b"/ HTTP/1.1\r\nHost: h\r\n\r\n")).startswith(b"HTTP/1.1 400 ")
        assert a.seen == []


async def test_a_prefix_matches_before_the_colon_of_a_verb() -> None:
    """TF Serving and KServe V1 ask `/v1/models/digits:predict`."""
    digits = Route("digits", "/v1/models/digits", stable="a")
    async with Backend() as a, RunningWorker(table(digits, a=a.port)) as w:
        for path, status in (
            (b"/v1/models/digits:predict", 200),
            (b"/v1/models/digits%3Apredict", 200),
            (b"/v1/models/digits/versions/2:predict", 200),
            (b"/v1/models/digits", 200),
            (b"/v1/models/digits2:predict", 404),
            (b"/v1/models:predict", 404),
        ):
            got = await w.raw(b"POST %b HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\nConnection: close\r\n\r\n" % path)
            assert got.startswith(b"HTTP/1.1 %d " % status), (path, got)


async def test_a_field_with_an_underscore_is_named_in_the_refusal() -> None:
    async with Backend() as a, RunningWorker(table(ROUTE, a=a.port)) as w:
        got = await w.raw(b"GET / HTTP/1.1\r\nHost: h\r\nX-Fine: 1\r\nX_Model_Key: secret\r\n\r\n")
        assert got.startswith(b"HTTP/1.1 400 ") and b"x-gateway-error: bad_field_name" in got
        assert "X_Model_Key" in str(problem(got)["detail"]) and "headers.underscores" in str(problem(got)["detail"])
        assert b"secret" not in got


async def test_an_unknown_method_is_not_malformed(subtests: pytest.Subtests) -> None:
    """RFC 9110, 9.1: 501 where a method is not recognised; of a later minor version of HTTP/1, too (6.2)."""
    async with Backend() as a, RunningWorker(table(ROUTE, a=a.port)) as w:
        for method, version in product((b"BREW", b"get", b"GETX", b"SETUP", b"X-ANY", b"VERSION-CONTROL"), b"0129"):
            with subtests.test(method=method, version=version):
                got = await w.raw(b"%b / HTTP/1.%c\r\nHost: h\r\n\r\n" % (method, version))
                assert got.startswith(b"HTTP/1.1 501 Not Implemented\r\n"), got
                assert problem(got)["reason"] == "method_unknown" and method.decode() in str(problem(got)["detail"])
                assert b"\r\nconnection: close\r\n" in got
        for method in (b"QUERY", b"PROPFIND", b"REPORT"):
            with subtests.test(method=method):
                got = await w.raw(method + b" / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
                assert got.startswith(b"HTTP/1.1 200 "), got
        assert [seen.method for seen in a.seen] == [b"QUERY", b"PROPFIND", b"REPORT"]


@pytest.mark.parametrize("pause_at", [None, 5, 15, 16])
async def test_a_later_minor_version_is_read_as_1_1(pause_at: int | None) -> None:
    """RFC 9110, 6.2; the answer's version is the gateway's own."""
    asks = b"POST / HTTP/1.2\r\nHost: h\r\nConnection: close\r\nContent-Length: 2\r\n\r\nhi"
    async with Backend(raw(b"HTTP/1.9 200 OK\r\ncontent-length: 2\r\n\r\nok")) as a:
        async with RunningWorker(table(ROUTE, a=a.port)) as w:
            reader, writer = await asyncio.open_connection("127.0.0.1", w.port)
            if pause_at is not None:
                writer.write(asks[:pause_at])
                await asyncio.sleep(0.05)
            writer.write(asks[pause_at or 0 :])
            got = await reader.read()
            writer.close()
            assert got.startswith(b"HTTP/1.1 200 OK\r\n") and got.endswith(b"ok"), got
            assert a.seen[0].body == b"hi"
            await eventually(lambda: w.counts()[:2] == (1, 0), "it is an answer like any other")


@pytest.mark.parametrize("version", [b"2.0", b"3.0", b"0.9", b"9.9"])
async def test_another_major_version_is_refused_as_such(version: bytes) -> None:
    async with Backend() as a, RunningWorker(table(ROUTE, a=a.port)) as w:
        got = await w.raw(b"GET / HTTP/" + version + b"\r\nHost: h\r\n\r\n")
        assert got.startswith(b"HTTP/1.1 505 ") and problem(got)["reason"] == "version_unsupported", got


@pytest.mark.parametrize("torn", [False, True])
async def test_a_client_of_http2_is_refused_in_its_own_frames(torn: bool) -> None:
    """SETTINGS, then GOAWAY with HTTP_1_1_REQUIRED and the reason: what its library can show to a person."""
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"
    async with Backend() as a, RunningWorker(table(ROUTE, a=a.port)) as w:
        reader, writer = await asyncio.open_connection("127.0.0.1", w.port)
        if torn:
            writer.write(preface[:8])
            await asyncio.sleep(0.05)
        writer.write(preface[8 if torn else 0 :])
        got = await reader.read()
        writer.close()
        assert got[:9] == b"\x00\x00\x00\x04\x00\x00\x00\x00\x00", "SETTINGS come first"
        goaway = got[9:]
        length = int.from_bytes(goaway[:3], "big")
        assert goaway[3] == 7 and len(goaway) == 9 + length
        assert int.from_bytes(goaway[13:17], "big") == 0x0D and b"use HTTP/1.1" in goaway[17:]
        await eventually(lambda: w.observer.merged().reports[0].faults.get("http2_unsupported") == 1, "it is counted")
        assert a.seen == []


INTERIM = {
    "unknown": b"HTTP/1.1 104 Upload Resumption Supported\r\nUpload-Offset: 5\r\n\r\n",
    "the last one": b"HTTP/1.1 199 X\r\n\r\n",
    "with an empty body": b"HTTP/1.1 150 X\r\nContent-Length: 0\r\n\r\n",
    "early hints": b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n",
    "several": b"HTTP/1.1 102 X\r\n\r\nHTTP/1.1 110 X\r\n\r\nHTTP/1.1 110 X\r\n\r\n",
}


async def test_interim_answers_that_nobody_knows_pass(subtests: pytest.Subtests) -> None:
    """RFC 9110, 15.2: a proxy forwards 1xx; a client of HTTP/1.0 gets none."""
    async with Backend() as a, RunningWorker(table(ROUTE, a=a.port)) as w:
        for name, interim in INTERIM.items():
            with subtests.test(name):
                a.script = raw(interim + OK)
                got = await w.raw(GET)
                assert got.startswith(interim.split(b"\r\n")[0]) and got.count(b"HTTP/1.1 1") == interim.count(b"/1.1 ")
                assert got.endswith(b"ok") and b"HTTP/1.1 200 OK\r\n" in got
                got = await w.raw(GET.replace(b"1.1", b"1.0"))
                assert got.startswith(b"HTTP/1.1 200 OK\r\n"), got
        await eventually(lambda: w.counts()[:2] == (2 * len(INTERIM), 0), "none of it is a failure")


BAD_INTERIM = {
    "with a body": b"HTTP/1.1 104 X\r\nContent-Length: 2\r\n\r\nhi",
    "in chunks": b"HTTP/1.1 103 X\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "a switch that was not asked for": b"HTTP/1.1 101 X\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n",
    "below 100": b"HTTP/1.1 099 X\r\n\r\n",
}


async def test_an_interim_answer_with_a_body_stays_malformed(subtests: pytest.Subtests) -> None:
    async with Backend() as a, RunningWorker(table(ROUTE, a=a.port)) as w:
        for name, interim in BAD_INTERIM.items():
            with subtests.test(name):
                a.script = raw(interim + OK)
                assert (await w.raw(GET)).startswith(b"HTTP/1.1 502 ")


FOREIGN = {
    "RTSP": b"RTSP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
    "ICE": b"ICE/1.0 200 OK\r\ncontent-length: 2\r\n\r\nok",
    "behind blank lines": b"\r\n\r\nRTSP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
    "behind an interim answer": b"HTTP/1.1 100 Continue\r\n\r\nRTSP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
}


@pytest.mark.parametrize("pause", [False, True])
async def test_an_answer_of_another_protocol_is_malformed(pause: bool, subtests: pytest.Subtests) -> None:
    async with Backend() as a, RunningWorker(table(ROUTE, a=a.port)) as w:
        for name, reply in FOREIGN.items():
            at = max(reply.find(b"RTSP"), reply.find(b"ICE/")) if pause else 0

            async def talk(_: Seen, peer: Peer, reply: bytes = reply, at: int = at) -> None:
                await peer.send(reply[:at])
                await asyncio.sleep(0.02 if at else 0)
                await peer.send(reply[at:])

            with subtests.test(name):
                a.script = talk
                got = await w.raw(GET)
                assert b"HTTP/1.1 502 " in got and not got.endswith(b"\r\n\r\nok"), got


@pytest.mark.parametrize("cut", [3, 8, 22, 24, 33])
@pytest.mark.parametrize("line", [b"RTSP/1.1 200 OK", b"HTTP/1.2 200 OK", b"HTTP/1.1 200 OK"])
async def test_an_answers_lines_are_read_alike_however_they_are_split(line: bytes, cut: int) -> None:
    reply = b"HTTP/1.2 100 Continue\r\n\r\n" + line + b"\r\ncontent-length: 2\r\n\r\nok"

    async def talk(_: Seen, peer: Peer) -> None:
        await peer.send(reply[:cut])
        await asyncio.sleep(0.05)
        await peer.send(reply[cut:])

    async with Backend(talk) as a, RunningWorker(table(ROUTE, a=a.port)) as w:
        got = await w.raw(GET)
        assert (b"HTTP/1.1 502 " in got) is line.startswith(b"RTSP"), got
        assert (b"HTTP/1.1 200 OK\r\n" in got and got.endswith(b"ok")) is line.startswith(b"HTTP"), got


async def test_bodies_may_look_like_another_protocol() -> None:
    async with Backend() as a, RunningWorker(table(ROUTE, a=a.port)) as w:
        for body in (b"\r\nRTSP/1.1 200 OK", b"HTTP/1.2 200 OK", b"\r\n\r\nICE/1.0 200 OK\r\n\r\n"):
            for framing in (b"content-length: %d\r\nx: %b" % (len(body), b"y" * 5000), b"connection: close"):
                a.script = raw(b"HTTP/1.1 200 OK\r\n" + framing + b"\r\n\r\n" + body, close=True)
                got = await w.raw(GET)
                assert got.startswith(b"HTTP/1.1 200 OK") and body in got, got


@pytest.mark.parametrize("version", [b"1.1", b"1.2"])
@pytest.mark.parametrize("cut", [0, 5, 30])
async def test_a_101_may_say_that_it_has_no_body(version: bytes, cut: int) -> None:
    async def talk(wire: Wire) -> None:
        await wire.until(b"\r\n\r\n")
        reply = b"HTTP/%b 103 Early\r\n\r\nHTTP/%b 101 X\r\nConnection: Upgrade\r\n" % (version, version)
        reply += b"Upgrade: websocket\r\nContent-Length: 0\r\n\r\nhello"
        await wire.send(reply[:cut])
        await asyncio.sleep(0.05 if cut else 0)
        await wire.send(reply[cut:])
        await wire.rest()

    async with RawBackend(talk) as a, RunningWorker(table(ROUTE, a=a.port)) as w:
        reader, writer = await asyncio.open_connection("127.0.0.1", w.port)
        writer.write(ASKS)
        assert (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20)).startswith(b"HTTP/1.1 103 ")
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20)
        assert head.startswith(b"HTTP/1.1 101 ") and b"content-length" not in head.lower()
        assert await reader.readexactly(5) == b"hello"
        writer.close()


async def test_a_426_names_the_protocol_that_it_requires_and_no_other_answer_does() -> None:
    """RFC 9110, 15.5.22."""
    async with Backend() as a, RunningWorker(table(ROUTE, a=a.port)) as w:
        a.script = answer(426, headers=b"Upgrade: HTTP/3.0, websocket\r\nConnection: Upgrade\r\n")
        reader, writer = await asyncio.open_connection("127.0.0.1", w.port)
        writer.write(GET.replace(b"Connection: close\r\n", b""))
        got = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20)
        writer.close()
        assert b"\r\nconnection: upgrade\r\nupgrade: HTTP/3.0, websocket\r\n" in got, got
        a.script = answer(200, headers=b"Upgrade: h2c\r\nConnection: Upgrade\r\n")
        assert b"upgrade" not in (await w.raw(GET)).lower()


@pytest.mark.parametrize(
    ("te", "takes"), [(b"trailers", True), (b"trailers;q=0", False), (b"gzip, trailers ; q=0.000", False)]
)
async def test_a_weight_of_zero_declines_trailers(te: bytes, takes: bool) -> None:
    reply = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX-Sum: 1\r\n\r\n"
    async with Backend(raw(reply)) as a, RunningWorker(table(ROUTE, a=a.port)) as w:
        got = await w.raw(GET.replace(b"Connection: close", b"Connection: close, TE\r\nTE: " + te))
        assert (b"X-Sum: 1" in got) is takes, got
        assert bool(a.seen[0].all(b"te")) is takes


async def test_max_forwards_may_have_blanks_behind_it() -> None:
    async with Backend() as a, RunningWorker(table(ROUTE, a=a.port)) as w:
        await w.raw(b"OPTIONS / HTTP/1.1\r\nHost: h\r\nConnection: close\r\nMax-Forwards: 5 \t\r\n\r\n")
        assert a.seen[0].all(b"max-forwards") == [b"4"]


async def test_a_client_of_ipv4_on_a_socket_for_both_families_is_known_by_its_ipv4_address() -> None:
    """`listen: [::]:8080` gives ::ffff:127.0.0.1 for a client of IPv4."""
    async with Backend() as a:
        for trusted, believed in ((("127.0.0.0/8",), True), (("::ffff:127.0.0.0/104",), True), ((), False)):
            listener = socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True)
            async with RunningWorker(table(ROUTE, a=a.port), listener=listener, trusted=trusted) as w:
                await w.raw(GET.replace(b"Host: h", b"Host: h\r\nX-Forwarded-For: 192.0.2.7"))
            expected = b"192.0.2.7, 127.0.0.1" if believed else b"127.0.0.1"
            assert a.seen[-1].all(b"x-forwarded-for") == [expected], trusted
