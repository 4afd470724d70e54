"""The gateway's admin API, as the demo uses it: readiness, one rollout, and the stream of events."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

from gateway.client import ApiError, AsyncClient, ControlEvent, RolloutBody
from gateway.client.decode import converted
from gateway.demo.processes import DemoError

ROLLOUT_KINDS = frozenset({"started", "advanced", "paused", "resumed", "promoted", "rolled_back", "analysis"})
_TIMEOUT_S = 5.0
_ASK_AGAIN_S = 0.1


class Admin:
    """A client of one gateway's admin listener."""

    def __init__(self, base_url: str) -> None:
        self._client = AsyncClient(base_url, timeout_s=_TIMEOUT_S, actor="gateway demo")

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    async def until_ready(self, timeout_s: float) -> None:
        """Wait until the gateway is ready; DemoError with what was missing when it is not in time."""
        deadline_s = time.monotonic() + timeout_s
        while True:
            try:
                readiness = await self._client.readiness()
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
            await self._client.start_rollout(route)
        except ApiError as error:
            raise DemoError(f"the gateway refused the rollout: {error}") from error

    async def events(self, listening: asyncio.Event) -> AsyncIterator[ControlEvent]:
        """All events from now on, across reconnects; ``listening`` is set when none can be missed any more."""
        async for event in self._client.events(on_open=listening.set):
            yield event


def rollout_of(event: ControlEvent) -> RolloutBody | None:
    """The rollout of an event, if it has one."""
    return converted(RolloutBody, event.data) if event.kind in ROLLOUT_KINDS else None
