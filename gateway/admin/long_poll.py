"""Long polls: a read that is answered when what it reads has changed, or when its time is up.

A wait holds no thread and no lock; it ends early when its client goes or the listener closes. There are `WAITS_MAX` of
them at most.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable

from starlette.requests import Request

from gateway.admin.problems import ProblemError
from gateway.admin.sse import Streams, gone
from gateway.control.api import ControlPlane

WAIT_S_MAX = 300
WAITS_MAX = 64


class Waits:
    """All waits of one listener."""

    def __init__(self, control: ControlPlane, streams: Streams) -> None:
        self._control = control
        self._streams = streams
        self.count = 0

    async def until(self, request: Request, changed: Callable[[], bool], wait_s: float) -> None:
        """Return when something has happened after which ``changed`` says yes, or after ``wait_s`` seconds."""
        if self.count >= WAITS_MAX:
            why = f"{WAITS_MAX} requests are waiting already: retry without wait_s, or follow /api/v1/events"
            raise ProblemError("too-many-waits", why, {"retry-after": "1"})
        self.count += 1
        tasks = [
            asyncio.ensure_future(work)
            for work in (self._happened(changed), gone(request.receive), self._streams.ended())
        ]
        try:
            await asyncio.wait(tasks, timeout=wait_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self.count -= 1
            for task in tasks:
                task.cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
        if isinstance(results[0], Exception):
            raise results[0]

    async def _happened(self, changed: Callable[[], bool]) -> None:
        events = self._control.events()
        upcoming = asyncio.ensure_future(anext(events))
        try:
            # One turn of the loop, in which the iterator begins to listen; what happened before it shows now.
            await asyncio.sleep(0)
            while not changed():
                await asyncio.wait({upcoming})
                upcoming.result()
                upcoming = asyncio.ensure_future(anext(events))
        finally:
            upcoming.cancel()
            await asyncio.gather(upcoming, return_exceptions=True)
            if isinstance(events, AsyncGenerator):
                await events.aclose()
