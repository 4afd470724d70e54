"""The stream of events: numbered, the last ones remembered, any number of listeners, none of which can slow another."""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import AsyncIterator
from typing import Any

from gateway.control.views import EVENT_KINDS, ControlEvent
from gateway.runtime.clock import Clock, iso

_REMEMBERED = 1000
# A listener that falls this far behind loses its oldest events; the gap in the ids shows it.
_BACKLOG_MAX = 1000


class EventLog:
    """Publish and subscribe."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._last_id = 0
        self._remembered: deque[ControlEvent] = deque(maxlen=_REMEMBERED)
        self._wakers: set[asyncio.Event] = set()
        self._watching = 0

    def publish(
        self, kind: str, data: dict[str, Any], *, route: str | None = None, rollout_id: str | None = None
    ) -> None:
        """Publish an event to all listeners."""
        assert kind in EVENT_KINDS, kind
        self._last_id += 1
        self._remembered.append(ControlEvent(self._last_id, iso(self._clock.wall_s()), kind, route, rollout_id, data))
        for waker in self._wakers:
            waker.set()

    @property
    def watched(self) -> bool:
        """Whether somebody looks on: analyses are made ready to be shown more often then."""
        return self._watching > 0

    async def listen(self, after_id: int | None = None, *, looks_on: bool = True) -> AsyncIterator[ControlEvent]:
        """Events from now on, or from those still remembered after ``after_id``.

        An ``after_id`` that was not given out yet is of an earlier life of the process: all of this one are news.
        ``looks_on``: somebody wants to see every analysis, not only what is decided.
        """
        last = self._last_id if after_id is None else after_id
        if last > self._last_id:
            last = 0
        waker = asyncio.Event()
        self._wakers.add(waker)
        self._watching += looks_on
        try:
            while True:
                waker.clear()
                # Ids have no gaps, so the difference says how many are new: a listener costs nothing but those.
                new = min(self._last_id - last, len(self._remembered), _BACKLOG_MAX)
                for event in list(itertools.islice(reversed(self._remembered), new))[::-1]:
                    last = event.id
                    yield event
                await waker.wait()
        finally:
            self._wakers.discard(waker)
            self._watching -= looks_on
