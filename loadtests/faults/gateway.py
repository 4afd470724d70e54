"""The gateway under test: `gateway serve` as a process tree of its own, and what can be asked about it from outside."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import os
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import httpx
import yaml

from loadtests.faults.models import Endpoint

QUIET_S = 60.0
LOG = "access.log"
_READY = re.compile(r"serving on http://([\d.]+):(\d+), admin on (\S+), ")
_MODULES = {"worker": b"gateway.proxy.worker", "control": b"gateway.app.control"}
_LOOK_S = 0.5
# asyncio itself says so, with a traceback, of a process whose descriptors were taken away under it.
_OUT_OF_DESCRIPTORS = re.compile(r"socket\.accept\(\) out of system resource\n.*\nTraceback.*")


def settings(directory: Path, stable: list[Endpoint], canary: Endpoint, old: Endpoint, new: Endpoint) -> dict[str, Any]:
    """Three routes: stable alone, stable and a canary at a weight, and one whose canary gets promoted."""

    def backend(*endpoints: Endpoint, **more: Any) -> dict[str, Any]:
        probe = {"path": "/ready", "interval_s": 0.5}
        return {"endpoints": [endpoint.url for endpoint in endpoints], "probe": probe, **more}

    def route(name: str, **more: Any) -> dict[str, Any]:
        timeouts = {"first_byte_s": 3.0, "total_s": 30.0}
        return {"name": name, "match": {"path_prefix": f"/{name}"}, "timeouts": timeouts, **more}

    return {
        "listen": "127.0.0.1:0",
        "admin": {"listen": "127.0.0.1:0"},
        "workers": 2,
        "trusted_proxies": ["127.0.0.0/8"],  # so that the requests' own ids stay
        "limits": {"keepalive_s": 75},
        "access_log": {"path": str(directory / LOG)},
        "backends": {
            # Few connections, so that slow clients could take them all.
            "stable": backend(*stable, connections_max=32),
            "canary": backend(canary),
            "old": backend(old),
            "new": backend(new),
        },
        "routes": [
            route("plain", stable="stable"),
            route("both", stable="stable", canary="canary", canary_percent=20),
            route("promoted", stable="old", canary="new"),
        ],
    }


class Gateway:
    """One process tree."""

    def __init__(self, python: str, directory: Path, config: dict[str, Any]) -> None:
        self.directory = directory
        self.path = directory / "gateway.yaml"
        self.state_dir = directory / "state"
        self.config = config
        self.log = b""
        self.address = ("", 0)
        # When it was asked for its alarms and answered, and what stood then: the time and the reason of each.
        self.looked_s: list[float] = []
        self.alarms: list[tuple[float, str]] = []
        self._python = python

    async def __aenter__(self) -> Self:
        """Start it, and wait until it is ready."""
        self.write()
        self.process = await asyncio.create_subprocess_exec(
            *(self._python, "-m", "gateway", "serve", str(self.path)),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            cwd=self.directory,
        )
        try:
            await self._become_ready()
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def _become_ready(self) -> None:
        assert self.process.stdout is not None
        self._reading = asyncio.create_task(self._read())
        found = _READY.search((await self.process.stdout.readline()).decode())
        assert found is not None, f"it does not start: {self.log.decode()}"
        self.address = (found[1], int(found[2]))
        self.admin = httpx.AsyncClient(base_url=found[3], timeout=10)
        self.admin_address = (self.admin.base_url.host, self.admin.base_url.port or 80)
        await self.until(lambda text: "gateway_ready 1.0" in text, "it gets ready")
        self._watching = asyncio.create_task(self._watch())

    async def __aexit__(self, *_: object) -> None:
        if self.process.returncode is None:  # it was not stopped in order: the run has failed
            self.process.kill()
            await self.process.wait()

    async def _read(self) -> None:
        assert self.process.stderr is not None
        while piece := await self.process.stderr.read(65536):
            self.log += piece

    async def _watch(self) -> None:
        while True:
            standing = await self.standing()
            if standing is not None:
                self.looked_s.append(time.monotonic())
                self.alarms += [(time.monotonic(), alarm["reason"]) for alarm in standing]
            await asyncio.sleep(_LOOK_S)

    async def standing(self) -> list[dict[str, str]] | None:
        """The alarms that stand; None while control does not answer."""
        try:
            found: list[dict[str, str]] = (await self.admin.get("/api/v1/alarms")).json()["alarms"]
        except (httpx.HTTPError, KeyError, ValueError):
            return None
        return found

    def write(self, text: str = "") -> None:
        """Put the configuration in place, or something else."""
        self.path.write_text(text or yaml.safe_dump(self.config))

    async def metrics(self) -> str:
        """All metrics as text; empty while control does not answer."""
        try:
            return (await self.admin.get("/metrics")).text
        except httpx.HTTPError:
            return ""

    async def until(self, condition: Callable[[str], bool], what: str) -> str:
        """Ask until the metrics say so."""
        try:
            async with asyncio.timeout(QUIET_S):
                while not condition(text := await self.metrics()):
                    await asyncio.sleep(0.2)
        except TimeoutError:
            raise AssertionError(f"never: {what}") from None
        return text

    def children(self, kind: str) -> list[int]:
        """Process ids of the workers, or of control."""
        listed = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        out = []
        for pid in map(int, listed):
            with contextlib.suppress(OSError):  # it ended since it was listed
                if _MODULES[kind] in Path(f"/proc/{pid}/cmdline").read_bytes():
                    out.append(pid)
        return out

    def signal(self, pid: int, number: signal.Signals) -> None:
        """Send it, unless the process is gone."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)

    async def promote(self, route: str) -> None:
        """Roll the route's canary out by hand."""
        started = await self.admin.post(f"/api/v1/routes/{route}/rollouts")
        assert started.status_code == 201, started.text
        rollout = started.json()["id"]
        done = await self.admin.post(f"/api/v1/rollouts/{rollout}/promote", json={})
        assert done.status_code == 200, done.text

    async def stop(self) -> list[str]:
        """Stop it in order; what is wrong with how it ended."""
        self._watching.cancel()
        await self.admin.aclose()
        self.process.terminate()
        status = await asyncio.wait_for(self.process.wait(), QUIET_S)
        await self._reading
        wrongs = [f"it ended with status {status}"] if status else []
        text = _OUT_OF_DESCRIPTORS.sub("", self.log.decode())
        if "Traceback" in text:
            wrongs.append(text[max(0, text.index("Traceback") - 500) :][:3000])
        return wrongs


def samples(text: str, name: str, label: str = "") -> collections.Counter[str]:
    """A metric's values, summed by one of its labels."""
    out: collections.Counter[str] = collections.Counter()
    for labels, value in re.findall(rf"^{name}(?:\{{(.*?)\}})? (\S+)$", text, re.MULTILINE):
        found = re.search(rf'{label}="(.*?)"', labels) if label else None
        out[found[1] if found else ""] += int(float(value))
    return out


def resources(pid: int) -> tuple[int, int]:
    """(open descriptors, resident KiB) of a process."""
    found = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    return len(list(Path(f"/proc/{pid}/fd").iterdir())), int(found[1]) if found else 0
