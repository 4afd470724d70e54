"""The stream of events: numbered, the last ones remembered, any number of listeners, none of which can slow another.

Ids begin at 1 in each process, so an id alone does not say which event it was: after a restart the new process may have
passed the ids of the old one. A cursor (`BOOT-ID`) does: it names the process that gave the id. All events of this
process are new to a listener who comes with the cursor of another.
"""

from __future__ import annotations

import asyncio
import itertools
import secrets
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
        self._boot = secrets.token_hex(4)
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
        at, cursor = iso(self._clock.wall_s()), self._cursor(self._last_id)
        self._remembered.append(ControlEvent(self._last_id, at, kind, route, rollout_id, data, cursor))
        for waker in self._wakers:
            waker.set()

    @property
    def watched(self) -> bool:
        """Whether somebody looks on: analyses are made ready to be shown more often then."""
        return self._watching > 0

    def cursor(self, after: str | None = None) -> str:
        """Where `listen` begins with the same ``after``, as a cursor of this process."""
        return self._cursor(self._last_before(after))

    async def listen(self, after: str | None = None, *, looks_on: bool = True) -> AsyncIterator[ControlEvent]:
        """Events from now on, or from those still remembered after the one with the cursor or id ``after``.

        ``looks_on``: somebody wants to see every analysis, not only what is decided.
        """
        last = self._last_before(after)
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

    def _cursor(self, number: int) -> str:
        return f"{self._boot}-{number}"

    def _last_before(self, after: str | None) -> int:
        """The id of the last event that a listener who comes with ``after`` has seen; 0 is none."""
        if after is None:
            return self._last_id
        boot, _, number = after.rpartition("-")
        if boot not in ("", self._boot):
            return 0
        # A bare id that was not given out yet is another process's.
        return int(number) if int(number) <= self._last_id else 0
