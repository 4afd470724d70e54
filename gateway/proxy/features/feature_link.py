"""A worker's way to the process that looks features up; what a request waits for is bounded here.

Rules:

1. A request waits for `timeout_s` at most, whatever the store, that process or the connection to it do. Where it cannot
   be asked at all, nothing is waited for.
2. At most `PENDING_MAX` requests wait at a time; further ones go on as if the store had not answered.
3. What came of each lookup is counted by route, with how long it took and how old the features were.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from pathlib import Path
from time import monotonic
from typing import NamedTuple

from gateway.core.traffic.table import Features
from gateway.proxy.features.enriching import Enriched, enriched, entity_in, object_in
from gateway.proxy.heads.message_head import RequestHead
from gateway.runtime import features as messages
from gateway.runtime.features import Found, LookedUp, Lookup

PENDING_MAX = 1000
_RETRY_S = 0.25
_UNREAD_BYTES_MAX = 1 << 20


class _Pending(NamedTuple):
    """A request that waits."""

    done: Callable[[Found], None]
    timer: asyncio.TimerHandle


class FeatureLink:
    """Asks for features. ``notes`` are counts by name, for the worker's reports."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._writer: asyncio.StreamWriter | None = None
        self._pending: dict[int, _Pending] = {}
        self._number = 0
        self.notes: dict[str, int] = {}

    def enrich(
        self,
        route: str,
        features: Features,
        head: RequestHead,
        pieces: list[bytes] | None,
        done: Callable[[Enriched], None],
    ) -> None:
        """Have ``done`` called with what becomes of the request, now or within `timeout_s`."""
        tree = object_in(pieces)
        began_s = monotonic()

        def answered(found: Found) -> None:
            self._count(route, found, monotonic() - began_s)
            done(enriched(features, tree, pieces, found.values, well=found.result is LookedUp.OK))

        if tree is None:
            answered(Found(0, LookedUp.UNREADABLE))
            return
        entity = entity_in(features, head, tree)
        writer = self._writer
        if entity is None:
            answered(Found(0, LookedUp.NO_KEY))
        elif writer is None or writer.transport.is_closing():
            answered(Found(0, LookedUp.UNAVAILABLE))
        elif len(self._pending) >= PENDING_MAX or writer.transport.get_write_buffer_size() > _UNREAD_BYTES_MAX:
            answered(Found(0, LookedUp.OVERLOAD))
        else:
            self._number = number = self._number + 1
            lookup = Lookup(
                *(number, features.url, features.token_env, features.service, features.features),
                *(entity, features.timeout_s, features.ttl_s),
            )
            timer = self._loop.call_later(features.timeout_s, self._take, Found(number, LookedUp.TIMEOUT))
            self._pending[number] = _Pending(answered, timer)
            writer.write(messages.encode(lookup))

    def _take(self, found: Found) -> None:
        pending = self._pending.pop(found.number, None)
        if pending is not None:  # otherwise its time was over
            pending.timer.cancel()
            pending.done(found)

    def _count(self, route: str, found: Found, lasted_s: float) -> None:
        self._add(f"features {route} {found.result}", 1)
        self._add(f"features_us {route}", round(lasted_s * 1e6))
        if found.age_s >= 0:
            self._add(f"features_aged {route}", 1)
            self._add(f"features_age_ms {route}", round(found.age_s * 1e3))

    def _add(self, name: str, count: int) -> None:
        self.notes[name] = self.notes.get(name, 0) + count

    async def run(self, control_path: str, wanted: Callable[[], bool]) -> None:
        """Stay connected, as long as any route is ``wanted`` to have features."""
        path = str(Path(control_path).with_name(messages.SOCKET_NAME))
        while True:
            if wanted():
                with contextlib.suppress(OSError, asyncio.IncompleteReadError, ValueError):
                    await self._serve(path)
            await asyncio.sleep(_RETRY_S)

    async def _serve(self, path: str) -> None:
        reader, writer = await asyncio.open_unix_connection(path)
        self._writer = writer
        try:
            while True:
                self._take(await messages.read_found(reader))
        finally:
            self._writer = None
            writer.close()
            for number in list(self._pending):
                self._take(Found(number, LookedUp.UNAVAILABLE))
