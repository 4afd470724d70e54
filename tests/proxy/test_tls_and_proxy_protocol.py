"""TLS and PROXY protocol of the worker's listener, and TLS towards backends: real certificates, real handshakes."""

from __future__ import annotations

import asyncio
import shutil
import signal
import socket
import ssl
import struct
import time
from pathlib import Path
from typing import Any, Self

import msgspec
import pytest

from gateway.core.traffic.table import Backend as BackendSpec
from gateway.core.traffic.table import BackendTls, Endpoint, Route, RoutingTable
from gateway.proxy.listen.certificates import read_certificate
from gateway.runtime.settings import Limits, ProxyProtocolSettings, TlsSettings
from tests.support.backend import Backend, Peer, Seen, answer
from tests.support.certificates import Authority, Pair
from tests.support.worker import RunningWorker, eventually, table

pytestmark = pytest.mark.anyio
ROUTE = Route("r", "/", stable="a")
GET = b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"
V2 = b"\r\n\r\n\x00\r\nQUIT\n"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="module")
def pair(authority: Authority) -> Pair:
    return authority.sign("gateway.test", "127.0.0.1", file="gateway")


def settings(*pairs: Pair, **more: object) -> TlsSettings:
    return TlsSettings(tuple((str(p.cert), str(p.key)) for p in pairs), **more)  # type: ignore[arg-type]  # kinds vary


def trusting(authority: Authority) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(authority.pair.cert))


async def over_tls(
    port: int, context: ssl.SSLContext, name: str = "gateway.test", data: bytes = GET
) -> tuple[bytes, ssl.SSLObject]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname=name)
    found = writer.get_extra_info("ssl_object")
    writer.write(data)
    got = await asyncio.wait_for(reader.read(), 20)
    writer.close()
    return got, found


def faults_of(w: RunningWorker) -> dict[str, int]:
    return w.observer.merged().faults


# TLS towards clients


async def test_requests_come_in_over_tls_and_nothing_but_http_1_1_is_offered(authority: Authority, pair: Pair) -> None:
    context = trusting(authority)
    context.set_alpn_protocols(["h2", "http/1.1"])
    async with Backend() as a, RunningWorker(table(ROUTE, a=a.port), tls=settings(pair)) as w:
        got, tls = await over_tls(w.port, context)
        assert got.startswith(b"HTTP/1.1 200 ") and got.endswith(b"ok")
        assert tls.selected_alpn_protocol() == "http/1.1"
        assert tls.version() in ("TLSv1.2", "TLSv1.3")
        assert a.seen[0].all(b"x-forwarded-proto") == [b"https"]
        ends_s = read_certificate(pair.cert).not_after_s
        assert ends_s > time.time()
        await eventually(lambda: w.observer.merged().reports[0].tls_not_after_s == ends_s, "it says when it ends")


async def test_a_body_of_a_megabyte_goes_both_ways_over_tls(authority: Authority, pair: Pair) -> None:
    async def echo(seen: Seen, peer: Peer) -> None:
        await answer(body=bytes(seen.body))(seen, peer)

    body = bytes(range(256)) * 4096
    head = b"POST / HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(body)
    async with Backend(echo) as a, RunningWorker(table(ROUTE, a=a.port), tls=settings(pair)) as w:
        got, _ = await over_tls(w.port, trusting(authority), data=head + body)
        assert got.endswith(body)


async def test_the_certificate_follows_the_name_that_the_client_asks_for(authority: Authority, pair: Pair) -> None:
    other = authority.sign("other.test", "*.wild.test", file="other")
    async with Backend() as a, RunningWorker(table(ROUTE, a=a.port), tls=settings(pair, other)) as w:
        for name in ("gateway.test", "other.test", "x.wild.test"):
            got, _ = await over_tls(w.port, trusting(authority), name)
            assert got.startswith(b"HTTP/1.1 200 "), name
        with pytest.raises(ssl.SSLCertVerificationError, match=r"unknown\.test"):
            await over_tls(w.port, trusting(authority), "unknown.test")


async def test_old_versions_and_clients_without_a_certificate_are_kept_out(authority: Authority, pair: Pair) -> None:
    client = authority.sign("client.test", file="client")
    tls = settings(pair, client_ca=str(authority.pair.cert), min_version="TLSv1.3")
    async with Backend() as a, RunningWorker(table(ROUTE, a=a.port), tls=tls) as w:
        old = trusting(authority)
        old.load_cert_chain(client.cert, client.key)
        old.maximum_version = ssl.TLSVersion.TLSv1_2
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await over_tls(w.port, old)
        try:
            got, _ = await over_tls(
                w.port, trusting(authority)
            )  # with TLS 1.3 the refusal may come with the first read
        except (ssl.SSLError, ConnectionError):
            got = b""
        assert got == b""
        known = trusting(authority)
        known.load_cert_chain(client.cert, client.key)
        got, _ = await over_tls(w.port, known)
        assert got.startswith(b"HTTP/1.1 200 ")
        assert len(a.seen) == 1
        await eventually(lambda: faults_of(w).get("tls_handshake") == 2, "both refusals are counted")


async def test_a_handshake_that_stalls_or_is_none_is_given_up(authority: Authority, pair: Pair) -> None:
    async with Backend() as a, RunningWorker(table(ROUTE, a=a.port), tls=settings(pair, handshake_timeout_s=2.0)) as w:
        await eventually(lambda: bool(w.observer.merged().reports), "its connection to control stands")
        before = w.descriptors
        silent, plain, torn = await asyncio.gather(w.raw(b""), w.raw(GET), w.raw(b"\x16\x03\x01\x02\x00\x01\x00\x01"))
        assert silent == b"" and b"HTTP" not in plain + torn
        await eventually(lambda: faults_of(w).get("tls_handshake") == 3, "all are counted")
        await eventually(lambda: w.descriptors <= before, "no descriptor is left")
        got, _ = await over_tls(w.port, trusting(authority))
        assert got.startswith(b"HTTP/1.1 200 ")


async def test_a_renewed_certificate_serves_new_handshakes_and_old_connections_stay(
    authority: Authority, tmp_path: Path
) -> None:
    first, second = (authority.sign("gateway.test", file=f"renew{i}", days=10 * i) for i in (1, 2))
    live = Pair(tmp_path / "live.pem", tmp_path / "live.key")
    shutil.copy(first.cert, live.cert)
    shutil.copy(first.key, live.key)
    async with Backend() as a, RunningWorker(table(ROUTE, a=a.port), tls=settings(live)) as w:
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", w.port, ssl=trusting(authority), server_hostname="gateway.test"
        )
        live.cert.write_text("half a cert")
        await w.complains(b"changed TLS files not loaded")
        got, tls = await over_tls(w.port, trusting(authority))
        assert got.startswith(b"HTTP/1.1 200 "), "a file that cannot be used changes nothing"
        w.process.send_signal(signal.SIGSTOP)  # between the two copies the files are no pair
        shutil.copy(second.key, live.key)
        shutil.copy(second.cert, live.cert)
        w.process.send_signal(signal.SIGCONT)
        renewed = read_certificate(second.cert).not_after_s
        await eventually(lambda: w.observer.merged().reports[0].tls_not_after_s == renewed, "it is taken up")
        got, tls = await over_tls(w.port, trusting(authority))
        shown = tls.getpeercert()
        assert shown is not None and ssl.cert_time_to_seconds(str(shown["notAfter"])) == renewed
        writer.write(GET)
        assert (await reader.read()).startswith(b"HTTP/1.1 200 "), "the connection from before lives on"
        writer.close()
    assert w.complaints.count(b"changed TLS files not loaded") == 1


# TLS towards backends


class TlsBackend(Backend):
    """A backend behind TLS."""

    def __init__(self, context: ssl.SSLContext) -> None:
        super().__init__()
        self._context = context

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0, ssl=self._context)
        self.port = self._server.sockets[0].getsockname()[1]
        return self


def tls_table(port: int, tls: BackendTls | None) -> RoutingTable:
    return RoutingTable(1, (ROUTE,), {"a": BackendSpec("a", (Endpoint("127.0.0.1", port, tls=True),), tls=tls)})


async def test_a_backend_is_verified_and_is_shown_a_certificate(authority: Authority, tmp_path: Path) -> None:
    served = authority.sign("model.test", file="model")
    client = authority.sign("gateway-as-client", file="as-client")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(served.cert, served.key)
    context.load_verify_locations(authority.pair.cert)
    context.verify_mode = ssl.CERT_REQUIRED
    stranger = Authority(tmp_path, "stranger")
    good = BackendTls(str(authority.pair.cert), str(client.cert), str(client.key), "model.test")
    async with TlsBackend(context) as a, RunningWorker(tls_table(a.port, good)) as w:
        assert (await w.raw(GET)).startswith(b"HTTP/1.1 200 ")
        changes: list[dict[str, Any]] = [
            {"ca": str(stranger.pair.cert)},  # signed by somebody else
            {"server_name": "another.test"},  # somebody else's certificate
            {"server_name": None},  # the endpoint's address is not in it
            {"certificate": None, "key": None},  # the backend wants one
            {"ca": str(tmp_path / "absent.pem")},  # a file that is gone
        ]
        for number, change in enumerate(changes):
            refused = tls_table(a.port, msgspec.structs.replace(good, **change))
            await w.publish(msgspec.structs.replace(refused, epoch=2 + number))
            got = await w.raw(GET, timeout_s=20)
            assert got.startswith(b"HTTP/1.1 50"), (change, got)
        await w.publish(msgspec.structs.replace(tls_table(a.port, good), epoch=50))
        async with asyncio.timeout(20):
            while not (await w.raw(GET)).startswith(b"HTTP/1.1 200 "):
                await asyncio.sleep(0.1)
    assert len(a.seen) >= 2


# PROXY protocol


def v2(source: bytes, family: int = 0x11, command: int = 0x21, tlvs: bytes = b"") -> bytes:
    addresses = source + bytes(len(source)) + struct.pack("!HH", 1234, 80) + tlvs
    return V2 + struct.pack("!BBH", command, family, len(addresses)) + addresses


PROXIED = ProxyProtocolSettings(("127.0.0.0/8",), timeout_s=20)
HASTY = ProxyProtocolSettings(("127.0.0.0/8",), timeout_s=0.5)


HEADERS = [
    (b"PROXY TCP4 192.0.2.7 192.0.2.1 1234 80\r\n", b"192.0.2.7"),
    (b"PROXY TCP6 2001:db8::7 2001:db8::1 1234 80\r\n", b"2001:db8::7"),
    (b"PROXY UNKNOWN\r\n", b"127.0.0.1"),
    (v2(bytes((192, 0, 2, 7))), b"192.0.2.7"),
    (v2(bytes((192, 0, 2, 7)), tlvs=b"\x04\x00\x10" + bytes(16)), b"192.0.2.7"),
    (v2(socket.inet_pton(socket.AF_INET6, "2001:db8::7"), 0x21), b"2001:db8::7"),
    (V2 + b"\x20\x00\x00\x00", b"127.0.0.1"),
]
NO_HEADERS = [
    GET,
    b"",
    b"PROXY ",
    b"PROXY TCP4 192.0.2.7 192.0.2.1 1234\r\n" + GET,
    b"PROXY TCP4 192.0.2.7 192.0.2.1 1234 99999\r\n" + GET,
    b"PROXY TCP4 2001:db8::7 192.0.2.1 1234 80\r\n" + GET,
    b"PROXY TCP4 192.0.2.7\n" + b"x" * 200 + b"\r\n" + GET,
    b"PROXY UDP4 192.0.2.7 192.0.2.1 1234 80\r\n" + GET,
    V2[:8],
    V2 + b"\x31\x11\x00\x0c" + bytes(12) + GET,
    V2 + b"\x21\x11\x00\x04" + bytes(4) + GET,
    V2 + b"\x21\x12\x00\x0c" + bytes(12) + GET,
    V2 + b"\x21\x11\xff\xff" + bytes(100) + GET,
]


@pytest.mark.parametrize("torn", [False, True])
async def test_the_client_is_whom_the_proxy_header_names(torn: bool) -> None:
    async with Backend() as a, RunningWorker(table(ROUTE, a=a.port), proxy_protocol=PROXIED) as w:
        for header, client in HEADERS:
            reader, writer = await asyncio.open_connection("127.0.0.1", w.port)
            for piece in [header[:5], header[5:-1], header[-1:] + GET] if torn else [header + GET]:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0.02 if torn else 0)
            assert (await asyncio.wait_for(reader.read(), 20)).startswith(b"HTTP/1.1 200 "), header
            writer.close()
            assert a.seen[-1].all(b"x-forwarded-for") == [client], header


async def test_what_does_not_begin_with_a_proxy_header_is_closed_and_counted() -> None:
    async with Backend() as a, RunningWorker(table(ROUTE, a=a.port), proxy_protocol=HASTY) as w:
        for data, got in zip(NO_HEADERS, await asyncio.gather(*map(w.raw, NO_HEADERS)), strict=True):
            assert got == b"", data
        # An absolute deadline, however slowly it comes.
        reader, writer = await asyncio.open_connection("127.0.0.1", w.port)
        dripping = asyncio.create_task(_drip(writer))
        assert await asyncio.wait_for(reader.read(), 20) == b""
        dripping.cancel()
        writer.close()
        await eventually(lambda: faults_of(w).get("bad_proxy_header") == len(NO_HEADERS) + 1, "all are counted")
        assert a.seen == []


async def _drip(writer: asyncio.StreamWriter) -> None:
    for byte in b"PROXY TCP4 192.0.2.7 192.0.2.1 1234 80\r\n":
        writer.write(bytes([byte]))
        await asyncio.sleep(0.1)


async def test_a_proxy_header_from_a_stranger_is_closed() -> None:
    proxied = ProxyProtocolSettings(("192.0.2.0/24",))
    async with Backend() as a, RunningWorker(table(ROUTE, a=a.port), proxy_protocol=proxied) as w:
        assert await w.raw(b"PROXY UNKNOWN\r\n" + GET) == b""
        assert a.seen == []


async def test_tls_follows_on_the_proxy_header(authority: Authority, pair: Pair) -> None:
    async with Backend() as a:
        async with RunningWorker(table(ROUTE, a=a.port), tls=settings(pair), proxy_protocol=PROXIED) as w:
            plain = socket.create_connection(("127.0.0.1", w.port))
            plain.sendall(b"PROXY TCP4 192.0.2.7 192.0.2.1 1234 80\r\n")
            plain.setblocking(False)
            reader, writer = await asyncio.open_connection(
                sock=plain, ssl=trusting(authority), server_hostname="gateway.test"
            )
            writer.write(GET)
            assert (await reader.read()).startswith(b"HTTP/1.1 200 ")
            writer.close()
            assert a.seen[0].all(b"x-forwarded-for") == [b"192.0.2.7"]
            assert a.seen[0].all(b"x-forwarded-proto") == [b"https"]


async def test_a_clients_cap_counts_whom_the_proxy_header_names() -> None:
    limits = Limits(connections_per_client_max=2)
    async with Backend() as a, RunningWorker(table(ROUTE, a=a.port), limits=limits, proxy_protocol=PROXIED) as w:

        def header(client: int) -> bytes:
            return b"PROXY TCP4 192.0.2.%d 192.0.2.1 1 80\r\n" % client

        held = [await asyncio.open_connection("127.0.0.1", w.port) for _ in range(2)]
        for _, writer in held:
            writer.write(header(7))
        await eventually(lambda: w.observer.merged().reports[0].connections == 2, "they are in")
        assert (await w.raw(header(7) + GET)).startswith(b"HTTP/1.1 429 ")
        assert (await w.raw(header(8) + GET)).startswith(b"HTTP/1.1 200 ")
        held[0][1].close()
        await eventually(lambda: w.observer.merged().reports[0].connections == 1, "one has left")
        assert (await w.raw(header(7) + GET)).startswith(b"HTTP/1.1 200 ")
        held[1][1].close()
        assert faults_of(w).get("too_many_from_client") == 1
