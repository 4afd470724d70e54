"""Clients: open-loop flows of requests, each with an id of its own, and those who are slow, leave, or only listen."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import re
import socket
import struct
import time
from collections.abc import Callable, Coroutine
from typing import Any

from loadtests.faults.books import ANSWERED, CUT, LEFT, NO_CONNECTION, RESET, SILENCE, WRONG, Books, Call
from loadtests.faults.models import END_OF_STREAM, ID

PATIENCE_S = 30.0
UPLOAD_BYTES = 400_000
# A worker that drains closes what was silent for three seconds; who asks at that very moment loses, at any server.
_IDLE_S = 1.0
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_REASON = re.compile(rb"\r\nx-gateway-error: *(\w+)", re.IGNORECASE)

Address = tuple[str, int]


class Connection:
    """One connection of a client."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.connected_s = self.idle_since_s = time.monotonic()

    def usable(self) -> bool:
        """Whether it may carry another request."""
        return not self.reader.at_eof() and time.monotonic() - self.idle_since_s < _IDLE_S

    def reset(self) -> None:
        """Leave without a word."""
        with contextlib.suppress(OSError):
            sock = self.writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


class Flow:
    """Requests of one kind at a fixed rate, whatever becomes of them."""

    def __init__(self, name: str, rate_hz: float, address: Callable[[], Address], path: str, books: Books) -> None:
        self.name = name
        self.rate_hz = rate_hz
        self.check: Callable[[bytes], bool] = lambda _: True
        self._address = address
        self._path = path
        self._books = books
        self._idle: dict[Address, list[Connection]] = {}

    def head(self, call: Call, length: int) -> bytes:
        """A request's head."""
        lines = (f"POST {self._path} HTTP/1.1", "host: chaos", f"{ID.decode()}: {call.id}", f"content-length: {length}")
        return "\r\n".join((*lines, "", "")).encode()

    def open(self) -> Call:
        """Enter a new request into the books."""
        return self._books.open(self.name, time.monotonic())

    def end(self, call: Call, outcome: str, *, status: int = 0, reason: str = "") -> None:
        """Enter its outcome."""
        self._books.close(call, outcome, time.monotonic(), status=status, reason=reason)

    def wrong(self, what: str) -> None:
        """Something is wrong with the run itself."""
        self._books.wrongs.append(what)

    async def connection(self, call: Call, source: str | None = None) -> Connection | None:
        """A kept or a new connection; None when there is none to be had, which ends the request."""
        address = self._address()
        idle = self._idle.setdefault(address, [])
        while idle:
            kept = idle.pop()
            if kept.usable():
                call.connected_s = kept.connected_s
                return kept
            kept.writer.close()
        try:
            async with asyncio.timeout(PATIENCE_S):
                local = (source, 0) if source else None
                made = Connection(*await asyncio.open_connection(*address, local_addr=local))
        except (OSError, TimeoutError) as error:
            self.end(call, NO_CONNECTION, reason=repr(error))
            return None
        call.connected_s = made.connected_s
        return made

    def give_back(self, connection: Connection, *, keep: bool) -> None:
        """The request is over."""
        if keep:
            connection.idle_since_s = time.monotonic()
            self._idle.setdefault(self._address(), []).append(connection)
        else:
            connection.writer.close()

    async def finish(self, call: Call, connection: Connection) -> None:
        """Read the answer to its end."""
        began = False
        try:
            async with asyncio.timeout(PATIENCE_S):
                head = await connection.reader.readuntil(b"\r\n\r\n")
                began = True
                body = await body_of(head, connection.reader)
        except (OSError, EOFError) as error:
            self.end(call, CUT if began else RESET, reason=repr(error))
            return connection.reset()
        except TimeoutError:
            self.end(call, SILENCE)
            return connection.reset()
        self._judge(call, head, body)
        return self.give_back(connection, keep=b"\r\nconnection: close" not in head.lower())

    def _judge(self, call: Call, head: bytes, body: bytes) -> None:
        status, reason = int(head[9:12]), _REASON.search(head)
        if status != 200:
            return self.end(call, ANSWERED, status=status, reason=reason[1].decode() if reason else "")
        words = body.removeprefix(b"data: ").split(b" ", 2)
        if words[0].decode() != call.id or not self.check(words[1]):
            return self.end(call, WRONG, status=200, reason=repr(words[:2]))
        if self.name == "streams" and not body.endswith(END_OF_STREAM):
            return self.end(call, CUT, reason="the stream ended early")
        return self.end(call, ANSWERED, status=200)

    def close(self) -> None:
        """Close what is kept."""
        for connection in itertools.chain.from_iterable(self._idle.values()):
            connection.writer.close()


async def answer(reader: asyncio.StreamReader) -> bytes:
    """Read one answer; its body."""
    return await body_of(await reader.readuntil(b"\r\n\r\n"), reader)


async def body_of(head: bytes, reader: asyncio.StreamReader) -> bytes:
    """The body of the answer with this head."""
    found = _LENGTH.search(head)
    if found is not None:
        return await reader.readexactly(int(found[1]))
    body = bytearray()
    while size := int(await reader.readuntil(b"\r\n"), 16):
        body += (await reader.readexactly(size + 2))[:-2]
    await reader.readexactly(2)
    return bytes(body)


async def small(flow: Flow) -> None:
    """A small POST."""
    call = flow.open()
    connection = await flow.connection(call)
    if connection is not None:
        connection.writer.write(flow.head(call, 22) + b'{"inputs": [1, 2, 3]} ')
        await flow.finish(call, connection)


async def upload(flow: Flow) -> None:
    """A body of some hundred kilobytes; the answer may come before it is sent."""
    call = flow.open()
    connection = await flow.connection(call)
    if connection is None:
        return
    sending = asyncio.ensure_future(_send(connection, flow.head(call, UPLOAD_BYTES)))
    await flow.finish(call, connection)
    sending.cancel()
    await asyncio.gather(sending, return_exceptions=True)


async def _send(connection: Connection, head: bytes) -> None:
    connection.writer.write(head)
    for _ in range(UPLOAD_BYTES // 20_000):
        connection.writer.write(bytes(20_000))
        await connection.writer.drain()


async def leaver(flow: Flow, draw: random.Random) -> None:
    """A small POST whose client leaves soon, answered or not."""
    call = flow.open()
    connection = await flow.connection(call)
    if connection is None:
        return
    connection.writer.write(flow.head(call, 2) + b"{}")
    with contextlib.suppress(TimeoutError, EOFError, OSError):
        await asyncio.wait_for(connection.reader.readuntil(b"\r\n\r\n"), draw.random() * 0.05)
    flow.end(call, LEFT)
    connection.reset()


async def slow_upload(flow: Flow, healed: asyncio.Event, source: str) -> None:
    """A body that is announced and hardly comes, from an address of its own; its client leaves in the end."""
    call = flow.open()
    connection = await flow.connection(call, source)
    if connection is None:
        return
    connection.writer.write(flow.head(call, UPLOAD_BYTES))
    answer = asyncio.ensure_future(flow.finish(call, connection))
    while not healed.is_set() and not answer.done():
        with contextlib.suppress(OSError):
            connection.writer.write(bytes(100))
        await asyncio.sleep(1.0)
    if not answer.done():
        answer.cancel()
        await asyncio.gather(answer, return_exceptions=True)
    if not call.outcome:
        flow.end(call, LEFT)
        connection.reset()


async def run(flow: Flow, one: Callable[[Flow], Coroutine[Any, Any, None]], stop: asyncio.Event) -> None:
    """Send at the flow's rate until stopped; then wait for what is under way."""
    under_way: set[asyncio.Task[None]] = set()

    def ended(task: asyncio.Task[None]) -> None:
        under_way.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            flow.wrong(f"a client of {flow.name} failed: {error!r}")

    next_s = time.monotonic()
    while not stop.is_set():
        next_s += 1.0 / flow.rate_hz
        await asyncio.sleep(max(0.0, next_s - time.monotonic()))
        task = asyncio.create_task(one(flow))
        under_way.add(task)
        task.add_done_callback(ended)
    await asyncio.gather(*under_way, return_exceptions=True)
    flow.close()
