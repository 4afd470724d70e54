"""The event stream: server-sent events that start where the client left off and end when the listener closes.

Rules:

1. When the first comment has arrived, the client is listening: it will see everything that happens from then on.
2. A comment in each `HEARTBEAT_S` seconds without an event distinguishes a quiet stream from a dead one, to both sides.
3. A client that wants some kinds of events only, or those of one rollout, gets no others, and gaps in the ids instead.
   What belongs to no rollout (a weight set by hand, an alarm) is not held back by asking for one.
4. An event is encoded once for all clients that get it at about the same time (`_encoded`).
5. A client that reads slowly slows nothing but itself: what it misses shows as a gap in the ids.
6. The first block has as its `id` the cursor (docs/api.md) at which the client begins, so that one that gets no event
   before the gateway restarts can still say which process it listened to.
7. A stream has no end of its own, so a server that stops must end it: `Streams.end`.

Source: WHATWG HTML, "Server-sent events" (event-stream format, Last-Event-ID).
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncGenerator, AsyncIterator
from typing import NamedTuple

from starlette.datastructures import Headers
from starlette.types import Receive, Scope, Send

from gateway.admin.response_bodies import event_body
from gateway.admin.schemas import encode
from gateway.api_types import EVENT_CURSOR
from gateway.control.views import ControlEvent
from gateway.core.errors import InvalidValueError

MEDIA_TYPE = "text/event-stream"
HEARTBEAT_S = 10.0
_RETRY_MS = 1000
_GOODBYE_TIMEOUT_S = 1.0
HEADERS = (
    (b"content-type", MEDIA_TYPE.encode()),
    (b"x-accel-buffering", b"no"),  # nginx in between must not collect events
)
_HEARTBEAT = b": heartbeat\n\n"
# The newest events as they were sent: the event beside each, so that its id() stays its own.
_ENCODED_MAX = 64
_encoded: dict[int, tuple[ControlEvent, bytes]] = {}


class Wanted(NamedTuple):
    """Which events a client wants: of these kinds (None: all), and of no other rollout than this one (None: of all)."""

    kinds: frozenset[str] | None = None
    rollout_id: str | None = None

    def has(self, event: ControlEvent) -> bool:
        """Whether the client wants this event."""
        if self.kinds is not None and event.kind not in self.kinds:
            return False
        return self.rollout_id is None or event.rollout_id in (None, self.rollout_id)


class Streams:
    """All open streams, to end them at once."""

    def __init__(self) -> None:
        self._ending = asyncio.Event()

    def end(self) -> None:
        """End every stream, now and later: the listener is closing."""
        self._ending.set()

    async def ended(self) -> None:
        """Return when the streams are to end."""
        await self._ending.wait()


class EventStream:
    """One client's stream, as an ASGI application."""

    def __init__(
        self,
        events: AsyncIterator[ControlEvent],
        streams: Streams,
        wanted: Wanted = Wanted(),  # noqa: B008  # it is a value
        cursor: str = "",
        heartbeat_s: float = HEARTBEAT_S,
    ) -> None:
        self._events = events
        self._streams = streams
        self._wanted = wanted
        self._cursor = cursor
        self._heartbeat_s = heartbeat_s
        self._listening = asyncio.Event()
        self._written = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send events until the client goes, the listener closes or the events end."""
        await send({"type": "http.response.start", "status": 200, "headers": list(HEADERS)})
        pump = asyncio.create_task(self._pump(send))
        left = asyncio.create_task(gone(receive))
        ending = asyncio.create_task(self._streams.ended())
        beating = asyncio.create_task(self._beat(send))
        tasks = (pump, left, ending, beating)
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
        if results[1] is None:  # the client has gone
            return
        if isinstance(results[0], Exception):
            raise results[0]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_GOODBYE_TIMEOUT_S):
                await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _pump(self, send: Send) -> None:
        """Pass events on. An event costs a listener one turn of its iterator and one write, and no task or timer."""
        first = asyncio.ensure_future(anext(self._events))
        try:
            # One turn of the loop, in which the iterator begins to listen; only then does the client get its head.
            await asyncio.sleep(0)
            await _write(send, _first(self._cursor))
            self._listening.set()
            try:
                await self._pass_on(send, await first)
            except StopAsyncIteration:
                return
            async for event in self._events:
                await self._pass_on(send, event)
        finally:
            first.cancel()
            await asyncio.gather(first, return_exceptions=True)
            if isinstance(self._events, AsyncGenerator):
                await self._events.aclose()

    async def _pass_on(self, send: Send, event: ControlEvent) -> None:
        if self._wanted.has(event):
            self._written = True
            await _write(send, frame(event))

    async def _beat(self, send: Send) -> None:
        """A comment in each interval in which nothing else was written (rule 2)."""
        await self._listening.wait()
        while True:
            self._written = False
            await asyncio.sleep(self._heartbeat_s)
            if not self._written:
                await _write(send, _HEARTBEAT)


def last_seen(headers: Headers) -> str | None:
    """The last event that a client says it saw; None: none. Raises InvalidValueError for what names no event."""
    text = headers.get("last-event-id") or None
    if text is None or re.fullmatch(EVENT_CURSOR, text):
        return text
    raise InvalidValueError(
        f"Last-Event-ID must be the `id` of one of the stream's events, such as 5f3a9c1b-17, not {text!r}"
    )


def _first(cursor: str) -> bytes:
    """What a client gets when it listens (rules 1 and 6)."""
    return b"retry: %d\n%s: listening\n\n" % (_RETRY_MS, b"id: %s\n" % cursor.encode() if cursor else b"")


def frame(event: ControlEvent) -> bytes:
    """One event on the wire; its JSON has no line breaks."""
    known = _encoded.get(id(event))
    if known is not None and known[0] is event:
        return known[1]
    body = _frame(event)
    _encoded[id(event)] = event, body
    if len(_encoded) > _ENCODED_MAX:
        del _encoded[next(iter(_encoded))]
    return body


def _frame(event: ControlEvent) -> bytes:
    return b"id: %s\nevent: %s\ndata: %s\n\n" % (event.cursor.encode(), event.kind.encode(), encode(event_body(event)))


async def _write(send: Send, body: bytes) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": True})


async def gone(receive: Receive) -> None:
    """Return when the client has gone. What it still sends is passed over."""
    while (await receive())["type"] != "http.disconnect":
        pass
