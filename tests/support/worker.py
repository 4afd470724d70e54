"""A real worker process, with the test in the place of the control plane."""

from __future__ import annotations

import asyncio
import re
import signal
import socket
import sys
import tempfile
from pathlib import Path
from typing import Any, Self

import msgspec

from gateway.control.workers.hub import WorkerHub
from gateway.control.workers.report_aggregator import ReportAggregator
from gateway.core.stats.counts import EpochCounts
from gateway.core.traffic.table import Backend, Endpoint, Route, RoutingTable
from gateway.runtime.clock import SystemClock
from gateway.runtime.settings import Limits, WorkerSettings
from gateway.runtime.wire import EndpointDown, RouteTotals

EVENTUALLY_S = 30.0


async def eventually(condition: Any, what: str) -> None:
    """Wait until ``condition()`` holds; fail with ``what`` when it never does."""
    deadline_s = asyncio.get_running_loop().time() + EVENTUALLY_S
    while not condition():
        assert asyncio.get_running_loop().time() < deadline_s, f"never happened: {what}"
        await asyncio.sleep(0.01)


def table(*routes: Route, epoch: int = 1, keepalive_s: float = 4.0, **backends: int | tuple[int, ...]) -> RoutingTable:
    """A table of these routes; backends by name with their loopback port or ports."""
    made = {}
    for name, ports in backends.items():
        endpoints = tuple(Endpoint("127.0.0.1", port) for port in ((ports,) if isinstance(ports, int) else ports))
        made[name] = Backend(name, endpoints, keepalive_s=keepalive_s)
    return RoutingTable(epoch, routes, made)


class RunningWorker:
    """One worker process on an ephemeral port."""

    def __init__(
        self,
        first: RoutingTable,
        *,
        limits: Limits | None = None,
        trusted: tuple[str, ...] = (),
        descriptors_max: int | None = None,
        listener: socket.socket | None = None,
        stderr: int = asyncio.subprocess.PIPE,
        **settings: Any,
    ) -> None:
        self.table = first
        self.observer = ReportAggregator()
        self._limits = limits or Limits()
        self._trusted = trusted
        self._settings = settings
        self._stderr = stderr
        self._descriptors_max = descriptors_max
        self.complaints = b""
        self._clock = SystemClock()
        self.hub = WorkerHub(self.observer, self._clock, lambda *_: None)
        self._directory = tempfile.TemporaryDirectory(prefix="gw-")
        self._listener = listener or socket.create_server(("127.0.0.1", 0), backlog=512)
        self.port: int = self._listener.getsockname()[1]
        self.process: asyncio.subprocess.Process

    async def __aenter__(self) -> Self:
        path = Path(self._directory.name, "c.sock")
        await self.hub.start(path)
        settings = WorkerSettings(
            index=0,
            listen_fd=self._listener.fileno(),
            control_path=str(path),
            table=msgspec.structs.replace(self.table, epoch=0),
            limits=self._limits,
            trusted_proxies=self._trusted,
            report_interval_s=0.02,
            **self._settings,
        )
        self.process = await asyncio.create_subprocess_exec(
            *([] if self._descriptors_max is None else ["prlimit", f"--nofile={self._descriptors_max}"]),
            sys.executable,
            "-m",
            "gateway.proxy.worker",
            stdin=asyncio.subprocess.PIPE,
            stderr=self._stderr,
            pass_fds=[self._listener.fileno()],
        )
        assert self.process.stdin is not None
        self.process.stdin.write(msgspec.json.encode(settings))
        self.process.stdin.close()
        await eventually(lambda: self.hub.sessions, "the worker connects")
        await self.publish(self.table)
        await eventually(lambda: self.observer.merged().reports, "it has reported")
        return self

    async def __aexit__(self, *_: object) -> None:
        if self.process.returncode is None:
            self.process.send_signal(signal.SIGKILL)
        if self.process.stderr is not None:
            self.complaints += await self.process.stderr.read()
        await self.process.wait()
        await self.hub.stop()
        self._listener.close()
        self._directory.cleanup()
        assert b"Traceback" not in self.complaints, self.complaints.decode()

    async def complains(self, words: bytes) -> None:
        """Wait until it has said this on its standard error."""
        assert self.process.stderr is not None
        async with asyncio.timeout(EVENTUALLY_S):
            while words not in self.complaints:
                line = await self.process.stderr.readline()
                assert line, f"it ended without a word of {words!r}: {self.complaints!r}"
                self.complaints += line

    @property
    def directory(self) -> Path:
        """Where the sockets between the processes are."""
        return Path(self._directory.name)

    async def publish(self, table: RoutingTable) -> None:
        """Put a new table in force."""
        self.table = table
        self.hub.send_table(table)
        await eventually(lambda: self.hub.applied(table.epoch) > 0, "the worker applies the table")

    async def publish_health(self, *down: str, silent: bool = False) -> None:
        """Say which endpoints are down (refusing, or only silent), and wait until it is known.

        What is sent to the worker stays in its order.
        """
        self.hub.publish_health(
            tuple(
                EndpointDown(backend.name, endpoint.url, refused=not silent)
                for backend in self.table.backends.values()
                for endpoint in backend.endpoints
                if endpoint.url in down
            )
        )
        await self.publish(msgspec.structs.replace(self.table, epoch=self.table.epoch + 1))

    def evidence(self, route: str = "r") -> list[EpochCounts]:
        """What has been reported for verdicts, by epoch."""
        return list(self.observer.evidence(route, 0, 1 << 60, 0.0).epochs)

    def counts(self, route: str = "r") -> tuple[int, int, int, int]:
        """(stable requests, stable errors, canary requests, canary errors) over all epochs."""
        entries = self.evidence(route)
        return (
            sum(e.stable.requests for e in entries),
            sum(e.stable.of("errors") for e in entries),
            sum(e.canary.requests for e in entries),
            sum(e.canary.of("errors") for e in entries),
        )

    def totals(self, variant: int, route: str = "r") -> RouteTotals:
        """The metrics' totals of one variant."""
        merged = [t for t in self.observer.merged().totals if t.route == route and t.variant == variant]
        return merged[0] if merged else RouteTotals(route, variant)

    @property
    def rss_kib(self) -> int:
        """Resident memory of the process in KiB."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(r"VmRSS:\s+(\d+)", status)
        assert found is not None
        return int(found[1])

    @property
    def descriptors(self) -> int:
        """How many file descriptors the process has open."""
        return len(list(Path(f"/proc/{self.process.pid}/fd").iterdir()))

    async def raw(self, data: bytes, *, timeout_s: float = EVENTUALLY_S) -> bytes:
        """Send bytes on a new connection and read until the gateway closes it (or the time is over)."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        out = b""
        try:
            writer.write(data)
            async with asyncio.timeout(timeout_s):
                while piece := await reader.read(65536):
                    out += piece
        except (TimeoutError, ConnectionResetError):
            pass
        finally:
            writer.close()
        return out
