"""Probes: what a backend said, its silence, and what the prober itself could not find out are three things."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import resource
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.config.backends import BackendConfig, ProbeConfig
from gateway.control.health.probe import REASONS, EndpointProbe, ProbeOutcome, ProbeResult, Target
from gateway.control.health.prober import EndpointState, Prober
from gateway.core.traffic.table import BackendTls, Endpoint
from gateway.runtime.resolver import LookupThreads
from tests.support.backend import Backend, Script, answer, hang, raw
from tests.support.control import Plane, text
from tests.support.worker import eventually

pytestmark = pytest.mark.anyio
READY = ProbeResult(ProbeOutcome.READY, "answered 200 to /ready")
REFUSED = ProbeResult(ProbeOutcome.REFUSED, "answered 404 to /ready")
SILENT = ProbeResult(ProbeOutcome.SILENT, "no answer to /ready in 1 s")
UNKNOWN = ProbeResult(ProbeOutcome.UNKNOWN, "Too many open files", "descriptors")


def target(port: int, host: str = "127.0.0.1", timeout_s: float = 20.0, **changes: object) -> Target:
    probe = ProbeConfig(path="/ready", timeout_s=timeout_s)
    return Target("a", Endpoint(host, port), probe, **changes)  # type: ignore[arg-type]  # kinds vary


async def asked(wanted: Target, *late_s: float) -> ProbeResult:
    late = iter(late_s)
    return await EndpointProbe(wanted, lambda: next(late, 0.0)).ask()


async def reset(_: object, peer: object) -> None:
    peer.reset()  # type: ignore[attr-defined]  # a Peer


@pytest.mark.parametrize(
    ("script", "outcome", "words"),
    [
        (answer(200), ProbeOutcome.READY, "answered 200 to /ready"),
        (answer(204), ProbeOutcome.READY, "answered 204 to /ready"),
        (raw(b"HTTP/1.1 103 Early\r\nlink: x\r\n\r\nHTTP/1.1 200 OK\r\n\r\n"), ProbeOutcome.READY, "answered 200"),
        (raw(b"HTTP/1.0 200\r\n\r\n", close=True), ProbeOutcome.READY, "answered 200"),
        (answer(404), ProbeOutcome.REFUSED, "answered 404 to /ready"),
        (answer(503), ProbeOutcome.REFUSED, "answered 503 to /ready"),
        (answer(302, headers=b"location: /elsewhere\r\n"), ProbeOutcome.REFUSED, "answered 302 to /ready"),
        (raw(b"SSH-2.0-OpenSSH\r\n", close=True), ProbeOutcome.SILENT, "gave no HTTP answer to /ready"),
        (
            raw(b"HTTP/1.1 200 OK\r\nx: 1\r\n", close=True),
            ProbeOutcome.SILENT,
            "closed the connection without an answer",
        ),
        (raw(b"HTTP/1.1 200 OK\r\n" + b"x: " + b"y" * 100_000), ProbeOutcome.SILENT, "gave no HTTP answer"),
        (raw(b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 20_000), ProbeOutcome.SILENT, "gave no HTTP answer"),
        (reset, ProbeOutcome.SILENT, "closed the connection without an answer to /ready"),
    ],
)
async def test_what_the_backend_said(script: Script, outcome: ProbeOutcome, words: str) -> None:
    async with Backend(script) as a:
        result = await asked(target(a.port))
    assert (result.outcome, result.reason) == (outcome, "") and words in result.text


async def test_no_answer_is_silence_and_nobody_there_a_refusal() -> None:
    async with Backend(hang) as a:
        assert await asked(target(a.port, timeout_s=0.2)) == ProbeResult(
            ProbeOutcome.SILENT, "no answer to /ready in 0.2 s"
        )
        await a.stop()
        assert await asked(target(a.port)) == ProbeResult(ProbeOutcome.REFUSED, "refused the connection")


async def test_silence_while_the_loop_was_late_is_unknown() -> None:
    async with Backend(hang) as a:
        result = await asked(target(a.port, timeout_s=0.2), 1.0, 1.5)
    assert (result.outcome, result.reason) == (ProbeOutcome.UNKNOWN, "late")
    assert result.text == "the gateway was 0.5 s late itself: no answer to /ready in 0.2 s"


@contextlib.contextmanager
def no_descriptors() -> Iterator[None]:
    """No more than those that are open.

    The test's own servers share them: what the loop reports of accepting a connection that a probe had made before is
    no failure of the test.
    """
    loop = asyncio.get_running_loop()
    report = loop.get_exception_handler()

    def others(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if not isinstance(error, OSError) or error.errno not in (errno.EMFILE, errno.ENFILE):
            (report or asyncio.AbstractEventLoop.default_exception_handler)(loop, context)

    loop.set_exception_handler(others)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(entry.name) for entry in Path("/proc/self/fd").iterdir())
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest, hard))
    held = []
    try:
        with contextlib.suppress(OSError):
            while True:
                held.append(os.dup(0))
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for descriptor in held:
            os.close(descriptor)
        loop.set_exception_handler(report)


async def test_a_want_of_descriptors_is_unknown() -> None:
    async with Backend() as a:
        with no_descriptors():
            result = await asked(target(a.port))
        assert (result.outcome, result.reason) == (ProbeOutcome.UNKNOWN, "descriptors"), result
        assert (await asked(target(a.port))).outcome is ProbeOutcome.READY


async def test_a_name_that_cannot_be_resolved_is_unknown() -> None:
    result = await asked(target(9, "nowhere.invalid"))
    assert (result.outcome, result.reason) == (ProbeOutcome.UNKNOWN, "name")
    assert "the name nowhere.invalid cannot be resolved" in result.text


async def test_tls_files_that_cannot_be_read_are_unknown(tmp_path: Path) -> None:
    missing = BackendTls(ca=str(tmp_path / "missing.pem"))
    probe = ProbeConfig(path="/ready")
    result = await asked(Target("a", Endpoint("127.0.0.1", 9, tls=True), probe, tls=missing))
    assert (result.outcome, result.reason) == (ProbeOutcome.UNKNOWN, "tls_files")
    assert "No such file" in result.text


@pytest.mark.parametrize(
    ("host_header", "sent"),
    [("client", b"127.0.0.1:%d"), ("endpoint", b"127.0.0.1:%d"), ("models.test", b"models.test")],
)
async def test_a_probe_carries_the_host_that_traffic_carries(host_header: str, sent: bytes) -> None:
    async with Backend() as a:
        assert (await asked(target(a.port, host_header=host_header))).outcome is ProbeOutcome.READY
        assert a.seen[0].all(b"host") == [sent % a.port if b"%" in sent else sent]


# one endpoint's state


def test_unknown_results_neither_turn_an_endpoint_nor_break_a_streak() -> None:
    health = EndpointState("a", Endpoint("a", 1), ProbeConfig(rise=2, fall=2))
    assert [health.take(UNKNOWN, 1.0) for _ in range(50)] == [False] * 50
    assert (health.up, health.unknown, health.unknown_since_s) == (True, "Too many open files", 1.0)
    assert health.doubtful and not health.settled, "it was never known to be up"
    assert not health.take(SILENT, 2.0)
    assert not health.take(UNKNOWN, 3.0)
    assert health.take(REFUSED, 4.0), "the second in a row"
    assert (health.up, health.refused, health.last_answer, health.since_s) == (False, True, REFUSED.text, 4.0)
    assert (health.unknown, health.doubtful) == ("", False)
    assert not health.take(UNKNOWN, 5.0)
    assert (health.up, health.last_answer) == (False, REFUSED.text), "what was known last stands"


def test_a_change_between_refused_and_silent_is_passed_on() -> None:
    health = EndpointState("a", Endpoint("a", 1), ProbeConfig(rise=1, fall=1))
    assert health.take(REFUSED, 1.0) and health.refused
    assert not health.take(REFUSED, 2.0)
    assert health.take(SILENT, 3.0) and not health.refused
    assert health.take(READY, 4.0) and health.up


# the prober


class Served:
    """A server on a thread of its own, so that a blocked event loop does not block it."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.asked = 0
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                peer, _ = self._listener.accept()
                with peer:
                    peer.recv(4096)
                    peer.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
                self.asked += 1

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


@contextlib.asynccontextmanager
async def probing(**backends: BackendConfig) -> AsyncIterator[tuple[Prober, list[EndpointState]]]:
    turned: list[EndpointState] = []
    prober = Prober(backends, turned.append)
    task = asyncio.create_task(prober.run())
    try:
        yield prober, turned
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_blocked_control_loop_delays_no_probe() -> None:
    served = Served()
    probe = ProbeConfig(path="/", interval_s=0.02, timeout_s=0.8, rise=1, fall=1)
    async with probing(a=BackendConfig(endpoints=[Endpoint("127.0.0.1", served.port)], probe=probe)) as (
        prober,
        turned,
    ):
        await eventually(lambda: prober.endpoints[0].settled, "it is known")
        before = served.asked
        time.sleep(1.0)  # noqa: ASYNC251  # the loop is to be blocked
        assert served.asked > before + 3, "probes go on meanwhile"
        await asyncio.sleep(0.05)
        assert turned == []
    served.close()


async def test_the_probers_own_want_turns_no_endpoint_and_is_counted(caplog: pytest.LogCaptureFixture) -> None:
    async with Backend() as a:
        probe = ProbeConfig(path="/", interval_s=0.02, rise=1, fall=1)
        async with probing(a=BackendConfig(endpoints=[Endpoint("127.0.0.1", a.port)], probe=probe)) as (prober, turned):
            await eventually(lambda: prober.endpoints[0].settled, "it is known")
            with no_descriptors():
                await eventually(lambda: prober.unknown["descriptors"] > 3, "probes cannot be made")
                assert prober.undecided == prober.endpoints
            await eventually(lambda: not prober.undecided, "they can again")
            assert turned == [] and prober.endpoints[0].up
            assert set(prober.unknown) == set(REASONS)
    assert caplog.text.count("probes: unknown whether") == 1, "said once"
    assert "probes: the state of all endpoints is known again" in caplog.text


async def test_a_hanging_name_delays_no_other_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    from gateway.control.health import probe as module  # noqa: PLC0415  # its resolver is replaced

    released = threading.Event()

    def slow(host: str) -> list[str]:
        if host.startswith("hung"):
            released.wait(60)
        return ["127.0.0.1"]

    monkeypatch.setattr(module, "look_up", LookupThreads(slow).look_up)
    async with Backend() as a:
        probe = ProbeConfig(path="/", interval_s=0.05, timeout_s=0.2, rise=1, fall=1)
        hung = [Endpoint(f"hung{i}.test", a.port) for i in range(40)]
        async with probing(
            a=BackendConfig(endpoints=hung, probe=probe),
            b=BackendConfig(endpoints=[Endpoint("fine.test", a.port)], probe=probe),
        ) as (prober, turned):
            fine = prober.endpoints[-1]
            await eventually(lambda: fine.settled, "the other is probed")
            await eventually(lambda: len(prober.undecided) == 40, "the hanging ones are unknown")
            assert turned == []
            released.set()
            await eventually(lambda: not prober.undecided, "their answers are in")


async def test_alarms_say_why_an_endpoint_is_down_and_that_probes_are_blind(tmp_path: Path) -> None:
    document = text().replace("probe: null", "probe: {path: /ready, interval_s: 3600}")
    async with Plane(tmp_path, document) as plane:
        one = next(h for h in plane.controller.prober.endpoints if h.backend == "v1")
        for _ in range(3):
            one.take(REFUSED, 0.0)
        plane.tick(2.0)
        alarms = {alarm.what: alarm.reason for alarm in plane.controller.alarms()}
        assert alarms["backend v1"] == (
            "1 of 1 endpoints of backend v1 are down: http://127.0.0.1:9 answered 404 to /ready"
        )
        readiness = plane.controller.readiness()
        assert readiness.ready, "one route without stable makes no instance unready"
        assert any("route r's stable backend v1 is down" in warning for warning in readiness.warnings)
        view = next(e for e in plane.controller.route("r").endpoints if e.backend == "v1")
        assert (view.healthy, view.why, view.since) == (False, "answered 404 to /ready", "1970-01-01T00:00:00+00:00")
        one.take(UNKNOWN, plane.clock.wall_s() - 60.0)
        plane.tick(2.0)
        assert any("probes cannot tell whether http://127.0.0.1:9" in a.reason for a in plane.controller.alarms())
        for _ in range(2):
            one.take(READY, 0.0)
        plane.tick(2.0)
        assert [a for a in plane.controller.alarms() if a.what in ("backend v1", "probes")] == []
