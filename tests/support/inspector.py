"""A real inspector process beside a real worker, with the test in the place of control."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Callable
from typing import Self

import msgspec

from gateway.control.workers.inspector_link import Inspection
from gateway.core.predictions.settings import RouteWatch
from gateway.core.stats.counts import Counts
from gateway.runtime.clock import SystemClock
from gateway.runtime.samples import SOCKET_NAME
from gateway.runtime.settings import InspectorSettings
from tests.support.worker import RunningWorker, eventually


class RunningInspector:
    """One inspector process at the worker's side; evidence comes to the worker's observer."""

    def __init__(self, worker: RunningWorker, routes: dict[str, RouteWatch]) -> None:
        self._worker = worker
        self.path = worker.directory / SOCKET_NAME
        self.inspection = Inspection(self.path, routes, worker.observer, SystemClock())
        self.process: asyncio.subprocess.Process

    async def __aenter__(self) -> Self:
        await self.start()
        self._task = asyncio.create_task(self.inspection.run())
        await self.until(lambda: self.inspection.newest is not None, "the inspector reports")
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        await self.kill()

    async def start(self) -> None:
        """Start the process."""
        self.process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "gateway.inspector.server"),
            stdin=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        assert self.process.stdin is not None
        self.process.stdin.write(msgspec.json.encode(InspectorSettings(str(self.path))))
        self.process.stdin.close()

    async def kill(self) -> bytes:
        """Kill the process; returns what it complained of."""
        if self.process.returncode is None:
            self.process.send_signal(signal.SIGKILL)
        assert self.process.stderr is not None
        complaints = await self.process.stderr.read()
        await self.process.wait()
        assert b"Traceback" not in complaints, complaints.decode()
        return complaints

    async def until(self, condition: Callable[[], bool], what: str) -> None:
        """Wait until it holds."""
        await eventually(condition, what)

    def counts(self, route: str = "r") -> tuple[Counts, Counts]:
        """Stable's and the canary's counts of the newest epoch, as control knows them."""
        entries = self._worker.evidence(route)
        return (entries[-1].stable, entries[-1].canary) if entries else (Counts(), Counts())

    def trials(self, event: str, route: str = "r") -> tuple[int, int]:
        """Stable's and the canary's trials of an event."""
        stable, canary = self.counts(route)
        return stable.trials.get(event, 0), canary.trials.get(event, 0)

    def events(self, event: str, route: str = "r") -> tuple[int, int]:
        """How often it happened."""
        stable, canary = self.counts(route)
        return stable.events.get(event, 0), canary.events.get(event, 0)
