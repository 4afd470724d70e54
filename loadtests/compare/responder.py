"""The backend for what nginx cannot be: it reads whole bodies before it answers, and sends events one by one.

    python responder.py PORT

A request for ``/sse`` is answered with 100 events, one per millisecond, each in a chunk of its own and with the
monotonic time of its writing; one for ``/tokens`` or ``/tokens256`` likewise, with chunks of a chat as its events; all
others with 1 KiB once their body is there. Bare uvloop protocols, no parser: the
only clients are proxies whose requests are known to have a Content-Length or one chunked body.
"""

from __future__ import annotations

import asyncio
import re
import sys
import time
from typing import cast

import uvloop

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding: *chunked", re.IGNORECASE)
_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 1024\r\n\r\n" + b"1" * 1024
_EVENTS = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
_EVENT = b"data: %d\ndata: a token\n\n"
_CHAT = b'data: {"t":%d,"choices":[{"delta":{"content":" word"}}]}\n\n'
EVENTS = 100
_GAP_S = 0.001


def _chunk(event: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(event), event)


class Ticker:
    """Writes an event to every open stream once a millisecond, for as long as there are any."""

    def __init__(self) -> None:
        self._left: dict[asyncio.Transport, int] = {}
        self._of_chats: set[asyncio.Transport] = set()
        self._ticking = False

    def add(self, transport: asyncio.Transport, *, chat: bool) -> None:
        """Begin a stream; ``chat``: its events are chunks of one."""
        self._left[transport] = EVENTS
        if chat:
            self._of_chats.add(transport)
        if not self._ticking:
            self._wind()

    def drop(self, transport: asyncio.Transport) -> None:
        """Forget a stream whose reader is gone."""
        self._left.pop(transport, None)
        self._of_chats.discard(transport)

    def _tick(self) -> None:
        now_ns = time.monotonic_ns()
        plain, chat = (_chunk(form % now_ns) for form in (_EVENT, _CHAT))
        for transport, left in list(self._left.items()):
            chunk = chat if transport in self._of_chats else plain
            transport.write(chunk if left > 1 else chunk + b"0\r\n\r\n")
            self._left[transport] = left - 1
            if left == 1:
                self.drop(transport)
        self._ticking = False
        if self._left:
            self._wind()

    def _wind(self) -> None:
        self._ticking = True
        asyncio.get_running_loop().call_later(_GAP_S, self._tick)


class Responder(asyncio.Protocol):
    """One connection."""

    def __init__(self, ticker: Ticker) -> None:
        self._ticker = ticker
        self._head = b""
        self._missing: int | None = 0
        self._tail = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's own, which shares no class with asyncio's

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop a stream."""
        self._ticker.drop(self._transport)

    def data_received(self, data: bytes) -> None:
        """Count until head and body are there, then answer."""
        if not self._head.endswith(b"\r\n\r\n"):
            self._head, mark, data = (self._head + data).partition(b"\r\n\r\n")
            self._head += mark
            if not mark:
                return
            length = _LENGTH.search(self._head)
            self._missing = int(length[1]) if length else None if _CHUNKED.search(self._head) else 0
            self._tail = b""
        if self._whole(data):
            self._answer()

    def _whole(self, data: bytes) -> bool:
        if self._missing is not None:
            self._missing -= len(data)
            return self._missing <= 0
        self._tail = (self._tail + data)[-5:]
        return self._tail == b"0\r\n\r\n"

    def _answer(self) -> None:
        chat = b" /tokens" in self._head
        events = chat or b" /sse " in self._head
        self._head = b""
        self._transport.write(_EVENTS if events else _ANSWER)
        if events:
            self._ticker.add(self._transport, chat=chat)


async def serve(port: int) -> None:
    """Answer until the process ends."""
    ticker = Ticker()
    server = await asyncio.get_running_loop().create_server(lambda: Responder(ticker), "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1])))
