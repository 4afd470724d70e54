"""The gateway's admin API, as the demo uses it: readiness, one wish, and the stream of events."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import httpx
import msgspec

from gateway.admin.schemas import RolloutBody
from gateway.control.views import ControlEvent
from gateway.demo.processes import DemoError

ROLLOUT_KINDS = frozenset({"started", "advanced", "paused", "resumed", "promoted", "rolled_back", "analysis"})
_TIMEOUT_S = 5.0
# The stream sends a heartbeat every ten seconds; a silence twice as long means that it is dead.
_SILENCE_S = 20.0


class Admin:
    """A client of one gateway's admin listener."""

    def __init__(self, base_url: str) -> None:
        headers = {"x-actor": "gateway demo"}
        self._http = httpx.AsyncClient(base_url=base_url, headers=headers, timeout=_TIMEOUT_S, trust_env=False)
        self._last_id: int | None = None

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def until_ready(self, timeout_s: float) -> None:
        """Wait until /readyz says yes; DemoError with what was missing when it does not in time."""
        deadline_s = time.monotonic() + timeout_s
        missing = "it did not answer"
        while time.monotonic() < deadline_s:
            try:
                response = await self._http.get("/readyz")
                if response.status_code == 200:
                    return
                missing = response.text
            except httpx.HTTPError as error:
                missing = f"{type(error).__name__}: {error}"
            await asyncio.sleep(0.05)
        raise DemoError(f"the gateway was not ready within {timeout_s:g} s: {missing}")

    async def start_rollout(self, route: str) -> RolloutBody:
        """Start the route's rollout by its configured plan; DemoError with the gateway's words when it refuses."""
        try:
            response = await self._http.post(f"/api/v1/routes/{route}/rollouts")
        except httpx.HTTPError as error:
            raise DemoError(f"the gateway did not take the rollout: {type(error).__name__}: {error}") from error
        if response.status_code != 201:
            raise DemoError(f"the gateway refused the rollout with {response.status_code}: {response.text}")
        return msgspec.json.decode(response.content, type=RolloutBody)

    async def events(self, listening: asyncio.Event) -> AsyncIterator[ControlEvent]:
        """All events from now on, across reconnects; ``listening`` is set when none can be missed any more."""
        while True:
            headers = {} if self._last_id is None else {"last-event-id": str(self._last_id)}
            timeout = httpx.Timeout(_TIMEOUT_S, read=_SILENCE_S)
            try:
                async with self._http.stream("GET", "/api/v1/events", headers=headers, timeout=timeout) as response:
                    response.raise_for_status()
                    async for line in response.aiter_lines():
                        listening.set()
                        if line.startswith("data: "):
                            event = msgspec.json.decode(line[6:], type=ControlEvent)
                            self._last_id = event.id
                            yield event
            except httpx.HTTPError:
                await asyncio.sleep(0.1)


def rollout_of(event: ControlEvent) -> RolloutBody | None:
    """The rollout that an event tells of, if it does."""
    return msgspec.convert(event.data, RolloutBody) if event.kind in ROLLOUT_KINDS else None
