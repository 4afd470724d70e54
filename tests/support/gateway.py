"""The whole gateway as its users run it: `gateway serve` as a process tree, with scripted backends behind it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import sys
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

import httpx
import yaml

from tests.support.worker import EVENTUALLY_S, eventually

_READY = re.compile(r"serving on (\S+), admin on (\S+), ")

_COUNTED = ("errors", "client_errors", "overload", "unauthorized", "not_found", "redirects", "empty_body", "abandoned")
# By default "not a point more" takes some 400 answers of each step's canary; "not three points more" takes 130.
QUICK = {metric: {"margin_delta": 0.03} for metric in (*_COUNTED, "no_content", "other_success", "model_errors")}

# Latencies count from the first request on: these canaries need no warm-up, and a test does not wait for one.
WARM = {"warmup_s": 0, "warmup_requests": 0}


def config(stable: str, canary: str | None, **changes: Any) -> dict[str, Any]:
    """A configuration with one route, `r`, that decides quickly; ``changes`` replace keys of the route."""
    route: dict[str, Any] = {
        "name": "r",
        "match": {"path_prefix": "/"},
        "stable": "stable",
        "timeouts": {"connect_s": 5.0, "first_byte_s": 20.0},
        "analysis": {"latency": {"mode": "advise"}, **QUICK, **WARM},
        "plan": {
            "steps": [
                {"percent": 20, "min_time_s": 0.5, "min_requests": 10},
                {"percent": 50, "min_time_s": 0.5, "min_requests": 10},
            ]
        },
    }
    backends = {"stable": {"endpoints": [stable], "probe": None}}
    if canary is not None:
        backends["canary"] = {"endpoints": [canary], "probe": None}
        route["canary"] = "canary"
    return {
        "listen": "127.0.0.1:0",
        "workers": 2,
        "admin": {"listen": "127.0.0.1:0"},
        "backends": backends,
        "routes": [route | changes],
    }


class RunningGateway:
    """`gateway serve` in a directory of its own; entering waits until it is ready."""

    def __init__(self, directory: Path, config: dict[str, Any], *, environ: dict[str, str] | None = None) -> None:
        self.path = directory / "gateway.yaml"
        self.path.write_text(yaml.safe_dump(config))
        self._environ = environ or {}
        self.process: asyncio.subprocess.Process
        self.url = self.admin_url = ""
        # A file, not a pipe: nobody reads while a test that is not asynchronous runs, and a full pipe stops who writes.
        self._log = directory / "gateway.log"

    async def __aenter__(self) -> Self:
        await self.start()
        await self.ready()
        return self

    async def start(self) -> None:
        """Start it, and wait until it serves; it may not be ready yet."""
        with self._log.open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "gateway",
                "serve",
                str(self.path),
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                env=os.environ | self._environ,
            )
        assert self.process.stdout is not None
        line = (await asyncio.wait_for(self.process.stdout.readline(), 60)).decode()
        found = _READY.search(line)
        assert found is not None, f"no ready line: {line!r} {self.log.decode()}"
        self.url, self.admin_url = found.groups()
        socket = self.admin_url.partition("unix://")[2]
        # Nothing here is TLS, and to load the authorities takes longer than all the requests of most tests.
        self.admin = httpx.AsyncClient(
            base_url="http://localhost" if socket else self.admin_url,
            transport=httpx.AsyncHTTPTransport(uds=socket, verify=False) if socket else None,
            timeout=EVENTUALLY_S,
            verify=False,
        )
        self.client = httpx.AsyncClient(base_url=self.url, timeout=EVENTUALLY_S, verify=False)

    async def __aexit__(self, *_: object) -> None:
        await self.admin.aclose()
        await self.client.aclose()
        await self.stop()
        assert b"Traceback" not in self.log, self.log.decode()

    async def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Stop it; returns the exit status."""
        if self.process.returncode is None:
            self.process.send_signal(number)
        return await asyncio.wait_for(self.process.wait(), 60)

    @property
    def log(self) -> bytes:
        """All that it has logged so far."""
        return self._log.read_bytes() if self._log.exists() else b""

    async def ready(self) -> None:
        """Wait until the admin API answers and says that all is well."""
        ok = False

        async def ask() -> None:
            nonlocal ok
            while not ok:
                with contextlib.suppress(httpx.TransportError):
                    ok = (await self.admin.get("/readyz")).status_code == 200
                await asyncio.sleep(0.02)

        await asyncio.wait_for(ask(), 60)

    def children(self) -> dict[str, list[int]]:
        """The process ids of the workers, of control, and of what looks features up."""
        modules = {"worker": b"gateway.proxy.worker", "control": b"gateway.app.control", "features": b"feast.server"}
        found: dict[str, list[int]] = {kind: [] for kind in modules}
        listed = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        for pid in map(int, listed):
            try:
                command = Path(f"/proc/{pid}/cmdline").read_bytes()
            except FileNotFoundError:
                continue  # it ended since it was listed
            for kind, module in modules.items():
                if module in command:  # a child between its fork and its exec is neither yet
                    found[kind].append(pid)
        return found

    async def start_rollout(self) -> str:
        """Start the route's rollout; returns its id."""
        reply = await self.admin.post("/api/v1/routes/r/rollouts")
        assert reply.status_code == 201, reply.text
        found: str = reply.json()["id"]
        return found

    async def rollout(self, rollout_id: str) -> dict[str, Any]:
        """One rollout's view."""
        reply = await self.admin.get(f"/api/v1/rollouts/{rollout_id}")
        assert reply.status_code == 200, reply.text
        view: dict[str, Any] = reply.json()
        return view

    async def set_weight(self, percent: float, workers: int = 2) -> None:
        """Set the route's weight, and wait until so many workers have applied it."""
        reply = await self.admin.put("/api/v1/routes/r/weight", json={"canary_percent": percent})
        assert (reply.status_code, reply.json()["canary_percent"]) == (200, percent), reply.text
        async with asyncio.timeout(EVENTUALLY_S):
            applied = reply.json()["workers_applied"]
            while applied != workers:  # who takes longer than a second is not waited for in the answer
                await asyncio.sleep(0.05)
                applied = (await self.admin.get("/api/v1/routes/r")).json()["workers_applied"]

    async def until_phase(self, rollout_id: str, *phases: str, timeout_s: float = 200.0) -> dict[str, Any]:
        """Wait until the rollout is in one of these phases."""
        deadline_s = asyncio.get_running_loop().time() + timeout_s
        while (view := await self.rollout(rollout_id))["phase"] not in phases:
            assert asyncio.get_running_loop().time() < deadline_s, f"still {view['phase']}: {view}"
            await asyncio.sleep(0.05)
        return view

    async def until_alarms(self, count: int) -> list[dict[str, Any]]:
        """Wait until so many alarms stand."""
        deadline_s = asyncio.get_running_loop().time() + EVENTUALLY_S
        while len(alarms := (await self.admin.get("/api/v1/alarms")).json()["alarms"]) != count:
            assert asyncio.get_running_loop().time() < deadline_s, alarms
            await asyncio.sleep(0.05)
        found: list[dict[str, Any]] = alarms
        return found


class Traffic:
    """A steady stream of requests that counts what users see.

    It speaks HTTP by itself: a client library takes more time for a request than the gateway does.
    """

    def __init__(self, url: str, rate_hz: float = 100.0, connections: int = 8) -> None:
        parts = urlsplit(url)
        assert parts.hostname is not None and parts.port is not None
        self._address = parts.hostname, parts.port
        self._request = (
            f"POST {parts.path}/infer HTTP/1.1\r\nhost: {parts.netloc}\r\ncontent-length: 2\r\n\r\n{{}}".encode()
        )
        self._pause_s = connections / rate_hz
        self._connections = connections
        self.variants: dict[str, int] = {}
        self.failures: list[str] = []

    async def __aenter__(self) -> Self:
        self._stop = asyncio.Event()
        self._tasks = [asyncio.create_task(self._run()) for _ in range(self._connections)]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stop.set()
        await asyncio.gather(*self._tasks)

    @property
    def total(self) -> int:
        """How many requests were answered well."""
        return sum(self.variants.values())

    async def reaches(self, total: int) -> None:
        """Wait until that many have been answered."""
        await eventually(lambda: self.total >= total, f"{total} answers")

    async def fails(self, count: int) -> None:
        """Wait until that many have failed."""
        await eventually(lambda: len(self.failures) >= count, f"{count} failures")

    async def _run(self) -> None:
        connection: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        while not self._stop.is_set():
            # The server may close what it has said that it will close, and what has idled, before the next request.
            if connection is not None and connection[0].at_eof():
                connection[1].close()
                connection = None
            try:
                async with asyncio.timeout(EVENTUALLY_S):
                    if connection is None:
                        connection = await asyncio.open_connection(*self._address)
                    await self._one(*connection)
            except (OSError, EOFError, TimeoutError) as error:
                self.failures.append(repr(error))
                if connection is not None:
                    connection[1].close()
                connection = None
                continue
            await asyncio.sleep(self._pause_s)
        if connection is not None:
            connection[1].close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(self._request)
        lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        status = int(lines[0].split()[1])
        fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
        body = await reader.readexactly(int(fields.get("content-length", "0")))
        if status == 200:
            variant = fields["x-gateway-variant"]
            self.variants[variant] = self.variants.get(variant, 0) + 1
        else:
            self.failures.append(f"{status} {body[:100].decode(errors='replace')}")
        if fields.get("connection", "").lower() == "close":
            await reader.read()
