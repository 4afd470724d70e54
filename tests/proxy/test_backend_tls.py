"""The files of TLS towards backends are read again when they change, by workers and probes; no request notices."""

from __future__ import annotations

import asyncio
import shutil
import ssl
from pathlib import Path
from typing import Self

import msgspec
import pytest

from gateway.config.backend_connection import BackendTlsConfig
from gateway.config.backends import BackendConfig, ProbeConfig
from gateway.control.health.prober import EndpointState, Prober
from gateway.core.traffic.table import Backend as BackendSpec
from gateway.core.traffic.table import BackendTls, Endpoint, Route, RoutingTable, Timeouts
from tests.support.backend import Backend, Peer, Seen, answer
from tests.support.certificates import Authority, Pair
from tests.support.worker import RunningWorker, eventually

pytestmark = pytest.mark.anyio
PATIENT = Timeouts(connect_s=20, first_byte_s=20)
ROUTES = (Route("old", "/old", stable="old", timeouts=PATIENT), Route("new", "/new", stable="new", timeouts=PATIENT))
GET = b"GET %b HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"


class Shown(Backend):
    """A TLS backend that wants a certificate, and knows which one it was shown last; it keeps no connection."""

    def __init__(self, served: Pair, *trusted: Authority) -> None:
        super().__init__(self._answer)
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(served.cert, served.key)
        for authority in trusted:
            self.context.load_verify_locations(authority.pair.cert)
        self.context.verify_mode = ssl.CERT_REQUIRED
        self.shown = ""

    async def _answer(self, seen: Seen, peer: Peer) -> None:
        certificate = peer.writer.get_extra_info("ssl_object").getpeercert()
        self.shown = str(dict(part[0] for part in certificate["subject"])["commonName"])
        await answer(headers=b"connection: close\r\n")(seen, peer)
        peer.close()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0, ssl=self.context)
        self.port = self._server.sockets[0].getsockname()[1]
        return self


class Files:
    """The files that the gateway is configured with, and their renewal."""

    def __init__(self, directory: Path) -> None:
        self.ca, self.pair = directory / "live-ca.pem", Pair(directory / "live.pem", directory / "live.key")

    def trust(self, *authorities: Authority) -> None:
        self.ca.write_text("".join(authority.pair.cert.read_text() for authority in authorities))

    def show(self, pair: Pair) -> None:
        shutil.copy(pair.key, self.pair.key)
        shutil.copy(pair.cert, self.pair.cert)

    def table(self, old: Shown, new: Shown) -> RoutingTable:
        tls = BackendTls(str(self.ca), str(self.pair.cert), str(self.pair.key), "model.test")
        backends = (("old", old.port), ("new", new.port))
        specs = [BackendSpec(name, (Endpoint("127.0.0.1", port, tls=True),), tls=tls) for name, port in backends]
        return RoutingTable(1, ROUTES, {spec.name: spec for spec in specs})


async def test_renewed_files_serve_new_connections_and_no_request_fails(tmp_path: Path) -> None:
    before, after = Authority(tmp_path, "before"), Authority(tmp_path, "after")
    files = Files(tmp_path)
    files.trust(before)
    files.show(before.sign("first", file="first"))
    old = Shown(before.sign("model.test", file="old"), before, after)
    new = Shown(after.sign("model.test", file="new"), before, after)
    got: list[bytes] = []
    done = asyncio.Event()

    async def load(w: RunningWorker) -> None:
        while not done.is_set():
            got.append((await w.raw(GET % b"/old", timeout_s=20))[:12])

    async def until_new_is_reached(w: RunningWorker) -> None:
        async with asyncio.timeout(30):
            while not (await w.raw(GET % b"/new", timeout_s=20)).startswith(b"HTTP/1.1 200"):
                await asyncio.sleep(0.1)

    async with old, new, RunningWorker(files.table(old, new)) as w:
        assert (await w.raw(GET % b"/new", timeout_s=20)).startswith(b"HTTP/1.1 50"), "not trusted yet"
        loading = asyncio.create_task(load(w))
        files.ca.write_text("half an authority")
        await eventually(lambda: len(got) > 5 and old.shown == "first", "the old files serve on")
        await w.complains(b"have changed and cannot be used")
        files.trust(before, after)
        await until_new_is_reached(w)
        files.show(after.sign("second", file="second"))
        await eventually(lambda: old.shown == "second", "the new certificate is shown")
        served = after.sign("model.test", file="newer")
        old.context.load_cert_chain(served.cert, served.key)
        files.trust(after)
        count = len(got)
        await eventually(lambda: len(got) > count + 5, "all goes on")
        done.set()
        await loading
        assert set(got) == {b"HTTP/1.1 200"}


async def test_a_probe_verifies_as_the_workers_do_and_follows_the_files(tmp_path: Path) -> None:
    before, after = Authority(tmp_path, "before"), Authority(tmp_path, "after")
    files = Files(tmp_path)
    files.trust(before)
    files.show(before.sign("first", file="first"))
    async with Shown(after.sign("model.test", file="served"), before, after) as a:
        probe = ProbeConfig(path="/", interval_s=0.05, timeout_s=20.0, rise=1, fall=1)
        tls = BackendTlsConfig(
            ca_file=files.ca, cert_file=files.pair.cert, key_file=files.pair.key, server_name="model.test"
        )
        endpoint = Endpoint("127.0.0.1", a.port, tls=True)
        turned: list[tuple[bool | None, str]] = []

        def turn(health: EndpointState) -> None:
            turned.append((health.up, health.last_answer))

        prober = Prober({"a": BackendConfig(endpoints=[endpoint], probe=probe, tls=tls)}, turn)
        task = asyncio.create_task(prober.run())
        await eventually(lambda: turned, "it is down")
        assert turned[0][0] is False and "CERTIFICATE_VERIFY_FAILED" in turned[0][1]
        files.trust(before, after)
        await eventually(lambda: len(turned) > 1 and turned[-1][0], "it is up")
        assert a.shown == "first"
        files.show(after.sign("second", file="second"))
        await eventually(lambda: a.shown == "second", "the new certificate is shown")
        other = msgspec.structs.replace(endpoint, host="localhost")
        wrong = BackendTlsConfig(ca_file=files.ca, server_name="another.test")
        prober.watch({"a": BackendConfig(endpoints=[other], probe=probe, tls=wrong)})
        await eventually(lambda: turned[-1][0] is False, "another name is another certificate's")
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
