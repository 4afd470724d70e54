"""The gateway's admin API, as the demo uses it: readiness, one rollout, and the stream of events.

The client is the commands' own, which waits for each answer; here it does so on threads. The thread that reads events
ends with the gateway, or with the demo.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from typing import Any

import msgspec

from gateway.admin.client import ApiError, Client
from gateway.admin.schemas import RolloutBody
from gateway.control.views import ControlEvent
from gateway.demo.processes import DemoError

ROLLOUT_KINDS = frozenset({"started", "advanced", "paused", "resumed", "promoted", "rolled_back", "analysis"})
_TIMEOUT_S = 5.0
# The stream sends a heartbeat every ten seconds; a silence twice as long means that it is dead.
_SILENCE_S_MAX = 20.0
_ASK_AGAIN_S = 0.1


class Admin:
    """A client of one gateway's admin listener."""

    def __init__(self, base_url: str) -> None:
        self._client = Client(base_url, timeout_s=_TIMEOUT_S, actor="gateway demo")

    async def close(self) -> None:
        """Close the connections."""
        await asyncio.to_thread(self._client.close)

    async def until_ready(self, timeout_s: float) -> None:
        """Wait until the gateway is ready; DemoError with what was missing when it is not in time."""
        deadline_s = time.monotonic() + timeout_s
        while True:
            try:
                readiness = await asyncio.to_thread(self._client.readiness)
                if readiness.ready:
                    return
                missing = "; ".join(readiness.reasons)
            except ApiError as error:
                missing = str(error)
            if time.monotonic() >= deadline_s:
                raise DemoError(f"the gateway was not ready within {timeout_s:g} s: {missing}")
            await asyncio.sleep(_ASK_AGAIN_S)

    async def start_rollout(self, route: str) -> None:
        """Start the route's rollout by its configured plan; DemoError with the gateway's reason when it refuses."""
        try:
            await asyncio.to_thread(self._client.start, route, {})
        except ApiError as error:
            raise DemoError(f"the gateway refused the rollout: {error}") from error

    async def events(self, listening: asyncio.Event) -> AsyncIterator[ControlEvent]:
        """All events from now on, across reconnects; ``listening`` is set when none can be missed any more."""
        loop = asyncio.get_running_loop()
        arrived: asyncio.Queue[dict[str, Any]] = asyncio.Queue()

        def read() -> None:
            last_id: int | None = None
            while not loop.is_closed():
                try:
                    for event in self._client.events(
                        last_id, _SILENCE_S_MAX, lambda: loop.call_soon_threadsafe(listening.set)
                    ):
                        last_id = event["id"]
                        loop.call_soon_threadsafe(arrived.put_nowait, event)
                except ApiError:
                    pass
                except RuntimeError:  # the client or the loop is closed: the demo is over
                    return
                time.sleep(_ASK_AGAIN_S)

        threading.Thread(target=read, name="events", daemon=True).start()
        while True:
            yield msgspec.convert(await arrived.get(), ControlEvent)


def rollout_of(event: ControlEvent) -> RolloutBody | None:
    """The rollout of an event, if it has one."""
    return msgspec.convert(event.data, RolloutBody) if event.kind in ROLLOUT_KINDS else None
