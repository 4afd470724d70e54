"""Corners where two rules of the data plane meet: what is owed to whom when a pause or an end intervenes."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from pathlib import Path

import msgspec
import pytest

from gateway.core.stats.counts import SESSION_EVENTS
from gateway.core.traffic import Route, Sticky, Timeouts, bucket_of_key
from gateway.core.traffic.table import Backend as BackendSpec
from gateway.core.traffic.table import BackendTls, Endpoint, OutlierEjection, RoutingTable
from gateway.core.types import Variant
from gateway.proxy.counting.counters import WorkerCounters
from gateway.proxy.heads.fast_heads import FastHeadReader
from gateway.proxy.heads.headers import field_policy
from gateway.proxy.http1.client_connection import Http1ClientConnection, http1_connections
from gateway.proxy.http1.client_socket import ENDED, OPEN
from gateway.proxy.listen.proxy_protocol import BadProxyHeader, parse_v1
from gateway.proxy.upstream.pool import EndpointPool
from gateway.runtime.resolver import Name
from gateway.runtime.settings import HeaderPolicy, TlsSettings
from tests.support.backend import Backend
from tests.support.certificates import Authority
from tests.support.downstream import in_hand
from tests.support.rawbackend import RawBackend, Talk, Wire
from tests.support.upstream_user import Asking
from tests.support.worker import RunningWorker, eventually, table

pytestmark = pytest.mark.anyio
ROUTE = Route("r", "/", stable="a")
STREAMS = msgspec.structs.replace(ROUTE, streams_requests=True)
CANARY = Route("r", "/", stable="a", canary="b", weight_bp=10_000)
GET = b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"
ASKS = b"GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
AGREES = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"

CONNECTIONS = http1_connections(FastHeadReader(), field_policy(HeaderPolicy()))


@pytest.mark.parametrize("field", [b"Host:", b"Host: ", b"Host:\t "])
async def test_an_empty_host_is_refused_also_by_a_newborn_worker(field: bytes) -> None:
    async with Backend() as a, RunningWorker(table(ROUTE, a=a.port)) as w:
        got = await w.raw(b"GET / HTTP/1.1\r\n" + field + b"\r\nConnection: close\r\n\r\n")
        assert got.startswith(b"HTTP/1.1 400 "), got
        assert a.seen == []


async def test_a_canary_that_starts_slowly_is_not_convicted_for_it() -> None:
    """With nobody to take the other turns, all are its own."""
    async with Backend() as a, Backend() as b:
        spec = table(CANARY, a=a.port, b=b.port)
        slow = msgspec.structs.replace(spec.backends["b"], passive=OutlierEjection(slow_start_s=600.0))
        async with RunningWorker(msgspec.structs.replace(spec, backends=spec.backends | {"b": slow})) as w:
            await w.publish_health(b.url)
            assert b"variant: canary" in await w.raw(GET), "one at a time, that its own requests convict it"
            await w.publish_health()
            got = [await w.raw(GET) for _ in range(20)]
            assert all(b"variant: canary" in one for one in got)


async def pour(writer: asyncio.StreamWriter, most: int = 24 << 20) -> int:
    """Send until nobody takes any more, or ``most``; what was sent."""
    sent = 0
    with contextlib.suppress(TimeoutError):
        while sent < most:
            writer.write(bytes(1 << 20))
            sent += 1 << 20
            async with asyncio.timeout(0.5):
                await writer.drain()
    return sent


async def narrow(port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection whose client takes little unasked."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
    return await asyncio.open_connection(sock=sock, limit=1024)


class Unread(RawBackend):
    """Answers GET with 16 KiB, which come in one piece, so that no answer is ever half relayed; POST as ``post`` wants.

    So the gateway can be brought to where it holds answers that are whole, and that their client has not taken.
    """

    def __init__(self, post: Talk) -> None:
        super().__init__(self._talk)
        self._post = post
        self.asked = 0

    async def _talk(self, wire: Wire) -> None:
        while True:
            at = len(wire.got)
            await wire.until(b"\r\n\r\n", wire.got.count(b"\r\n\r\n") + 1)
            if wire.got[at:].startswith(b"POST"):
                return await self._post(wire)
            self.asked += 1
            await wire.send(b"HTTP/1.1 200 OK\r\ncontent-length: 16384\r\n\r\n" + bytes(16384))

    async def hold(self, w: RunningWorker, most: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection with that many answers of which none was read; ``asked`` may be fewer, if no more are let in."""
        self.asked = 0
        reader, writer = await narrow(w.port)
        writer.transport.pause_reading()  # type: ignore[attr-defined]  # a socket's transport has it
        for sent in range(1, most + 1):
            writer.write(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1):
                    while self.asked < sent:
                        await asyncio.sleep(0.002)
            if self.asked < sent:
                break
        return reader, writer

    async def fit(self, w: RunningWorker) -> int:
        """How many answers are held before a request has to wait for its turn."""
        (await self.hold(w, 1000))[1].transport.abort()
        assert 4 < self.asked < 1000
        return self.asked


async def test_a_body_behind_answers_that_nobody_reads_is_not_buffered() -> None:
    """Behind answers that are whole, and that the client has not taken, a request has no turn and its body no room."""
    async with Unread(lambda _: asyncio.sleep(60)) as a, RunningWorker(table(ROUTE, a=a.port)) as w:
        fit = await a.fit(w)
        for answers in (fit - 1, fit):
            _, writer = await a.hold(w, answers)
            writer.write(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1000000000\r\n\r\n")
            sent = await pour(writer)
            writer.transport.abort()
            assert sent < 24 << 20, f"somebody takes what has no turn, behind {answers} of {fit} answers"


async def test_an_answer_that_came_early_is_for_a_slow_reader_as_well() -> None:
    """The request is cut short by its answer; the client has as long for that as for any other."""

    async def early(wire: Wire) -> None:
        await wire.send(b"HTTP/1.1 403 X\r\ncontent-length: 1000\r\n\r\n" + bytes(1000))
        await wire.rest()

    async with Unread(early) as a, RunningWorker(table(STREAMS, a=a.port)) as w:
        fit = await a.fit(w)
        held = [(answers, *await a.hold(w, answers)) for answers in (fit - 2, fit - 1)]
        for _, _, writer in held:
            writer.write(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\nabc")
        await eventually(lambda: w.totals(0).answered.get(403) == len(held), "all are answered")
        await asyncio.sleep(2.5)  # longer than it lingers for those who have it all
        for answers, reader, writer in held:
            writer.transport.resume_reading()  # type: ignore[attr-defined]  # a socket's transport has it
            got = await asyncio.wait_for(reader.read(), 20)
            assert (got.count(b"HTTP/1.1 200 "), got.count(b"HTTP/1.1 403 ")) == (answers, 1)
            assert got.count(b"\0") == 16384 * answers + 1000
            writer.close()


async def test_a_client_that_read_slowly_and_then_stalls_its_body_is_to_blame() -> None:
    """When the client takes it, all that the backend has to say is there: only the client's body is missing."""
    route = msgspec.structs.replace(STREAMS, timeouts=Timeouts(first_byte_s=20, idle_s=1, total_s=60))

    async def half(wire: Wire) -> None:
        await wire.send(b"HTTP/1.1 200 OK\r\ncontent-length: 50001\r\n\r\n" + bytes(50000))
        await wire.rest()

    async with Unread(half) as a, RunningWorker(table(route, a=a.port)) as w:
        fit = await a.fit(w)
        for answers in (fit - 2, fit - 1):
            reader, writer = await a.hold(w, answers)
            writer.write(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\nabc")
            await eventually(lambda: w.observer.merged().reports[0].in_flight == 1, "it is answered, all but the end")
            await asyncio.sleep(0.2)
            writer.transport.resume_reading()  # type: ignore[attr-defined]  # as above
            with contextlib.suppress(ConnectionResetError):
                await asyncio.wait_for(reader.read(), 20)
            writer.close()
        await eventually(lambda: sum(w.observer.merged().faults.values()) == 2, "both are given up")
        assert w.observer.merged().faults == {"body_timeout": 2}


async def test_a_long_body_that_the_connections_end_delimits_is_whole() -> None:
    """A long answer is read by another protocol (small_reads.py), which must get its end as well."""
    size = 4 << 20

    async def long(wire: Wire) -> None:
        await wire.until(b"\r\n\r\n")
        await wire.send(b"HTTP/1.1 200 OK\r\n\r\n" + bytes(size))

    async with RawBackend(long) as a, RunningWorker(table(ROUTE, a=a.port)) as w:
        got = await w.raw(GET, timeout_s=20)
        assert got.endswith(b"\r\n0\r\n\r\n") and got.count(b"\0") == size


async def test_what_was_held_for_a_tunnel_does_not_unleash_it() -> None:
    loop = asyncio.get_running_loop()
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)  # what is accepted inherits it
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        listener.setblocking(False)
        async with RunningWorker(table(ROUTE, a=listener.getsockname()[1])) as w:
            reader, writer = await asyncio.open_connection("127.0.0.1", w.port)
            writer.write(ASKS)
            backend, _ = await loop.sock_accept(listener)
            with backend:
                got = b""
                while b"\r\n\r\n" not in got:
                    got += await loop.sock_recv(backend, 4096)
                await pour(writer, 4 << 20)
                await loop.sock_sendall(backend, AGREES)
                await reader.readuntil(b"\r\n\r\n")
                assert await pour(writer) < 24 << 20, "somebody takes what nobody reads"
                writer.transport.abort()


def test_a_session_that_outlives_its_experiment_is_entered_and_lets_its_epoch_end() -> None:
    route = Route("r", "/", "a", "b", 1000, sticky=Sticky(header="x-session"))
    for kind in ("ok", "errors"):
        whole = WorkerCounters("boot")
        tally = whole.enter_table(1, (route,))["r"]
        tally.open += 1  # a request that is under way
        sessions = whole.sessions["r"]
        whole.enter_table(2, (msgspec.structs.replace(route, weight_bp=0),))
        sessions.outcome(bucket_of_key(b"k", "salt"), tally, Variant.CANARY, kind, 1.0)
        tally.open -= 1
        assert tally.evidence.canary.trials.get(SESSION_EVENTS["errors"]) == 1
        whole.acknowledged(whole.report(2, 0, 0, 0).seq)
        assert [e.epoch for e in whole.report(2, 0, 0, 0).evidence] == [2], "nothing holds the old epoch any more"


async def test_the_first_connection_to_a_name_tries_all_of_its_addresses() -> None:
    async with Backend() as a:
        spec = BackendSpec("a", (Endpoint("model.test", a.port),))
        pool = EndpointPool(spec.endpoints[0], spec, asyncio.get_running_loop(), CONNECTIONS)

        async def lookup(host: str, port: int) -> list[str]:
            return ["127.0.0.1", "127.0.0.2", "127.0.0.3"]  # only the first of them listens

        pool._name = Name("model.test", a.port, 60.0, 60.0, lookup)  # noqa: SLF001  # tests replace it
        pool.open += 1
        connection = await pool._reach()  # noqa: SLF001  # without an exchange around it
        connection.close()
        await eventually(lambda: not pool.open, "it is gone")


async def test_a_request_that_the_loop_has_not_looked_at_yet_is_not_closed_upon() -> None:
    async with in_hand() as hand:
        with socket.create_connection(hand.address, timeout=20) as client:
            connection = await hand.connected()
            client.sendall(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
            # On loopback it is there now; nothing has been awaited since, so the loop has not seen it.
            connection.sweep(hand.worker.now_s() + 1e6)
            assert connection.socket.state == OPEN
            assert (await asyncio.to_thread(client.recv, 65536)).startswith(b"HTTP/1.1 404 ")
            connection.sweep(hand.worker.now_s() + 1e6)
            assert connection.socket.state == ENDED, "with nothing to read an idle connection ends"
            assert await asyncio.to_thread(client.recv, 65536) == b""


async def test_an_answer_drained_to_a_reset_is_given_back_once() -> None:
    spec = BackendSpec("a", (Endpoint("127.0.0.1", 1),))
    pool = EndpointPool(spec.endpoints[0], spec, asyncio.get_running_loop(), CONNECTIONS)
    connection = CONNECTIONS(pool)
    assert isinstance(connection, Http1ClientConnection)
    pool.open = pool.leased = 1
    connection.draining = True
    pool.drain(connection)
    connection.connection_lost(None)
    assert (pool.open, pool.leased) == (0, 0)
    pool.sweep(connection.idle_since_s + 10)
    assert (pool.open, pool.leased) == (0, 0)


async def test_a_connection_that_comes_about_as_its_time_ends_is_counted_off_once() -> None:
    """The loop may have called connection_made when the deadline strikes."""
    async with Backend() as a:
        spec = BackendSpec("a", (Endpoint("127.0.0.1", a.port),))
        loop = asyncio.get_running_loop()

        class Late:
            def __getattr__(self, name: str) -> object:
                return getattr(loop, name)

            async def create_connection(self, *args: object, **kwargs: object) -> None:
                transport, _ = await loop.create_connection(*args, **kwargs)  # type: ignore[call-overload]  # passed through
                try:
                    await asyncio.sleep(60)
                finally:
                    transport.abort()

        pool = EndpointPool(spec.endpoints[0], spec, Late(), CONNECTIONS)  # type: ignore[arg-type]  # a loop

        asking = Asking.in_line()
        pool.open += 1
        await pool._open(asking, 0.2)  # noqa: SLF001  # tests replace it
        await eventually(lambda: pool.open == 0, "it is counted off")
        await asyncio.sleep(0.05)
        assert (pool.open, len(asking.faults)) == (0, 1), "and once only"


@pytest.mark.parametrize("source", [b"fe80::1%eth0", b'fe80::1%";for=b', b"fe80::1%a\rb:c"])
def test_a_proxy_header_names_an_address_and_nothing_besides(source: bytes) -> None:
    with pytest.raises(BadProxyHeader):
        parse_v1(b"PROXY TCP6 " + source + b" ::1 1 80\r\n")


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("corners"))


@pytest.mark.parametrize("says_so", [True, False])
async def test_a_body_that_a_tls_backend_ends_by_closing_is_whole_only_if_it_says_so(
    authority: Authority, says_so: bool
) -> None:
    """RFC 9112, 9.8: without a close_notify anybody in between may have cut it."""
    served = authority.sign("127.0.0.1", file="served")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(served.cert, served.key)

    def serve(listener: socket.socket) -> None:
        raw, _ = listener.accept()
        with raw, context.wrap_socket(raw, server_side=True) as tls:
            while b"\r\n\r\n" not in tls.recv(65536):
                pass
            tls.sendall(b"HTTP/1.1 200 OK\r\n\r\nto the end")
            if says_so:
                with contextlib.suppress(OSError):
                    tls.unwrap()
            else:
                tls.shutdown(socket.SHUT_WR)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        serving = asyncio.create_task(asyncio.to_thread(serve, listener))
        endpoint = Endpoint("127.0.0.1", listener.getsockname()[1], tls=True)
        tls = BackendTls(ca=str(authority.pair.cert))
        async with RunningWorker(RoutingTable(1, (ROUTE,), {"a": BackendSpec("a", (endpoint,), tls=tls)})) as w:
            got = await w.raw(GET, timeout_s=20)
            await serving
            if not says_so:
                await eventually(lambda: w.observer.merged().faults == {"truncated": 1}, "it is the backend's failure")
    assert got.endswith(b"\r\n0\r\n\r\n") is says_so, got
    assert w.complaints == b"", w.complaints.decode()


async def test_a_tls_client_that_ends_its_half_costs_no_line_in_the_log(authority: Authority) -> None:
    pair = authority.sign("gateway.test", file="gw")
    settings = TlsSettings(((str(pair.cert), str(pair.key)),))
    async with Backend() as a, RunningWorker(table(ROUTE, a=a.port), tls=settings) as w:
        context = ssl.create_default_context(cafile=str(authority.pair.cert))

        def half() -> bytes:
            raw = socket.create_connection(("127.0.0.1", w.port), timeout=20)
            incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
            tls = context.wrap_bio(incoming, outgoing, server_hostname="gateway.test")
            while True:
                try:
                    tls.do_handshake()
                    break
                except ssl.SSLWantReadError:
                    raw.sendall(outgoing.read())
                    incoming.write(raw.recv(65536))
            tls.write(GET.replace(b"Connection: close\r\n", b""))
            with contextlib.suppress(ssl.SSLWantReadError):
                tls.unwrap()
            raw.sendall(outgoing.read())
            out = b""
            while piece := raw.recv(65536):
                out += piece
            raw.close()
            return out

        with contextlib.suppress(OSError):
            await asyncio.to_thread(half)
        assert await asyncio.to_thread(Path(f"/proc/{w.process.pid}/status").read_text)
    assert w.complaints == b"", w.complaints.decode()


async def test_a_tls_client_that_ends_its_tunnel_ends_all_of_it_without_a_line_in_the_log(authority: Authority) -> None:
    pair = authority.sign("gateway.test", file="tunnel")
    settings = TlsSettings(((str(pair.cert), str(pair.key)),))

    async def agrees(wire: Wire) -> None:
        await wire.until(b"\r\n\r\n")
        await wire.send(AGREES)
        await wire.rest()

    async with RawBackend(agrees) as a, RunningWorker(table(ROUTE, a=a.port), tls=settings) as w:
        context = ssl.create_default_context(cafile=str(authority.pair.cert))
        reader, writer = await asyncio.open_connection("127.0.0.1", w.port, ssl=context, server_hostname="gateway.test")
        writer.write(ASKS)
        assert (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20)).startswith(b"HTTP/1.1 101 ")
        writer.close()
        await eventually(lambda: a.wires[0].ended, "the backend sees its end")
        await eventually(lambda: w.observer.merged().reports[0].tunnels_open == 0, "the tunnel is over")
    assert w.complaints == b"", w.complaints.decode()
