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

import httpx
import yaml

from tests.support.worker import EVENTUALLY_S, eventually

_READY = re.compile(r"serving on (\S+), admin on (\S+), ")


def config(stable: str, canary: str | None, **changes: Any) -> dict[str, Any]:
    """A configuration with one route, `r`, that decides quickly; ``changes`` replace keys of the route."""
    route: dict[str, Any] = {
        "name": "r",
        "match": {"path_prefix": "/"},
        "stable": "stable",
        "timeouts": {"connect_s": 5.0, "first_byte_s": 20.0},
        "analysis": {"latency": {"mode": "advise"}},
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
        self.log = b""

    async def __aenter__(self) -> Self:
        await self.start()
        await self.ready()
        return self

    async def start(self) -> None:
        """Start it, and wait until it serves; it may not be ready yet."""
        self.process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "gateway",
            "serve",
            str(self.path),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=os.environ | self._environ,
        )
        assert self.process.stdout is not None
        self._reading = asyncio.create_task(self._read_log())
        line = (await asyncio.wait_for(self.process.stdout.readline(), 60)).decode()
        found = _READY.search(line)
        assert found is not None, f"no ready line: {line!r} {self.log.decode()}"
        self.url, self.admin_url = found.groups()
        socket = self.admin_url.partition("unix://")[2]
        self.admin = httpx.AsyncClient(
            base_url="http://localhost" if socket else self.admin_url,
            transport=httpx.AsyncHTTPTransport(uds=socket) if socket else None,
            timeout=EVENTUALLY_S,
        )
        self.client = httpx.AsyncClient(base_url=self.url, timeout=EVENTUALLY_S)

    async def __aexit__(self, *_: object) -> None:
        await self.admin.aclose()
        await self.client.aclose()
        await self.stop()
        assert b"Traceback" not in self.log, self.log.decode()

    async def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Stop it; returns the exit status."""
        if self.process.returncode is None:
            self.process.send_signal(number)
        status = await asyncio.wait_for(self.process.wait(), 60)
        await self._reading
        return status

    async def _read_log(self) -> None:
        assert self.process.stderr is not None
        while piece := await self.process.stderr.read(4096):
            self.log += piece

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
        """The process ids of the workers and of control."""
        found: dict[str, list[int]] = {"worker": [], "control": []}
        listed = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        for pid in map(int, listed):
            try:
                command = Path(f"/proc/{pid}/cmdline").read_bytes()
            except FileNotFoundError:
                continue  # it ended since it was listed
            for kind, module in (("worker", b"gateway.proxy.worker"), ("control", b"gateway.app.control")):
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

    async def until_phase(self, rollout_id: str, *phases: str, timeout_s: float = 90.0) -> dict[str, Any]:
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
    """A steady stream of requests that counts what users see."""

    def __init__(self, url: str, rate_hz: float = 200.0, connections: int = 8) -> None:
        self._url = url
        self._pause_s = connections / rate_hz
        self._connections = connections
        self.variants: dict[str, int] = {}
        self.failures: list[str] = []

    async def __aenter__(self) -> Self:
        # A retiring worker closes what has idled for three seconds: who asks just then meets a closed connection, as
        # with any server. A client that keeps none for so long does not.
        kept = httpx.Limits(keepalive_expiry=0.5)
        self._client = httpx.AsyncClient(base_url=self._url, timeout=EVENTUALLY_S, limits=kept)
        self._stop = asyncio.Event()
        self._tasks = [asyncio.create_task(self._run()) for _ in range(self._connections)]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stop.set()
        await asyncio.gather(*self._tasks)
        await self._client.aclose()

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
        while not self._stop.is_set():
            try:
                reply = await self._client.post("/infer", content=b"{}")
            except httpx.TransportError as error:
                self.failures.append(repr(error))
                continue
            if reply.status_code == 200:
                variant = reply.headers["x-gateway-variant"]
                self.variants[variant] = self.variants.get(variant, 0) + 1
            else:
                self.failures.append(f"{reply.status_code} {reply.text[:100]}")
            await asyncio.sleep(self._pause_s)
