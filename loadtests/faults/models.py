"""Model servers whose behaviour changes while they run. Each answer repeats the request's id: a mixed-up one shows.

1. Requests and probes behave apart: an endpoint may hang although its probe is well, and the other way round.
2. What an endpoint does to a request on purpose, after its answer has begun or in place of one, is kept by the
   request's id (`ModelActions`): a client that had asked the endpoint directly would have lost just that.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
import socket
import struct

ID = b"x-request-id"
END_OF_STREAM = b"event: end\n\n"
_EVENTS = 6
_EVENT_S = 0.3
_HANG_S = 60.0
_ANSWER_BYTES = (20, 2_000, 60_000)
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_ID = re.compile(rb"\r\n" + ID + rb": *(\S+)", re.IGNORECASE)

# What requests meet, and what probes meet.
BEHAVIOURS = ("ok", "slow", "hang", "reset", "garbage", "cut", "early_413", "fail")
PROBES = ("ok", "slow", "not_found", "hang")


class ModelActions:
    """What the endpoints did on purpose, by the ids of the requests."""

    def __init__(self) -> None:
        self.cut: set[str] = set()
        self.rejected: set[str] = set()
        self.tries = 0


class Endpoint:
    """One model server on a loopback port that stays its own."""

    def __init__(self, name: str, actions: ModelActions, draw: random.Random) -> None:
        self.name = name
        self.behaviour = "ok"
        self.probe = "ok"
        self.busy = 0
        self.port = 0
        self._actions = actions
        self._draw = draw
        self._server: asyncio.Server | None = None
        # Held while nobody listens, so that nobody else is given the port.
        self._place: socket.socket | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Listen, on the same port as before."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port, backlog=1024)
        self.port = self._server.sockets[0].getsockname()[1]
        if self._place is not None:
            self._place.close()
            self._place = None

    async def stop(self) -> None:
        """The process is gone: its port refuses, and what was open is reset."""
        if self._server is None:
            return
        self._server.close()
        self._server = None
        self._place = socket.socket()
        self._place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._place.bind(("127.0.0.1", self.port))
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def close(self) -> None:
        """Stop, and give the port back."""
        await self.stop()
        if self._place is not None:
            self._place.close()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            while await self._one(reader, writer):
                pass
        except (OSError, EOFError, asyncio.CancelledError):
            _reset(writer)
        finally:
            self._tasks.discard(task)
            with contextlib.suppress(OSError):
                writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """One request; whether the connection goes on."""
        head = await reader.readuntil(b"\r\n\r\n")
        path = head.split(b" ", 2)[1]
        if path == b"/ready":
            return await self._probed(writer)
        found = _ID.search(head)
        name = found[1].decode() if found else "?"
        self._actions.tries += 1
        length = _LENGTH.search(head)
        if path.endswith(b"/upload") and self.behaviour == "early_413":
            self._actions.rejected.add(name)
            writer.write(b"HTTP/1.1 413 Too Large\r\ncontent-length: 5\r\nconnection: close\r\n\r\nlarge")
            await writer.drain()
            return False
        await reader.readexactly(int(length[1]) if length else 0)
        self.busy += 1
        watch = asyncio.ensure_future(reader.read(1))  # who leaves meanwhile is noticed
        work = asyncio.ensure_future(self._answer(path, name, writer))
        try:
            await asyncio.wait((watch, work), return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                raise EOFError
            await work
        finally:
            self.busy -= 1
            for task in (watch, work):
                task.cancel()
            await asyncio.gather(watch, work, return_exceptions=True)
        return True

    async def _probed(self, writer: asyncio.StreamWriter) -> bool:
        if self.probe == "hang":
            await asyncio.sleep(_HANG_S)
        elif self.probe == "slow":
            await asyncio.sleep(1.2)  # a probe's time-out is 1 s
        status = 404 if self.probe == "not_found" else 200
        writer.write(b"HTTP/1.1 %d X\r\ncontent-length: 0\r\n\r\n" % status)
        await writer.drain()
        return True

    async def _answer(self, path: bytes, name: str, writer: asyncio.StreamWriter) -> None:
        behaviour = self.behaviour
        if behaviour == "slow":
            await asyncio.sleep(0.2 + self._draw.random() * 0.4)
        elif behaviour == "hang":
            await asyncio.sleep(_HANG_S)
        elif behaviour == "reset":
            raise ConnectionResetError
        elif behaviour == "garbage":
            writer.write(b"\x15\x03\x01 nonsense %d\r\n\r\n" % self._draw.randrange(1000))
            await writer.drain()
            raise ConnectionResetError
        try:
            if path.endswith(b"/stream"):
                await self._stream(name, writer, cut=behaviour == "cut")
            else:
                await self._whole(name, writer, behaviour)
        except BaseException:
            self._actions.cut.add(name)
            raise

    async def _whole(self, name: str, writer: asyncio.StreamWriter, behaviour: str) -> None:
        body = b"%b %b " % (name.encode(), self.name.encode())
        body += bytes(self._draw.choice(_ANSWER_BYTES))
        status = 500 if behaviour == "fail" else 200
        writer.write(b"HTTP/1.1 %d X\r\ncontent-length: %d\r\n\r\n" % (status, len(body)))
        if behaviour == "cut":
            writer.write(body[: len(body) // 2])
            await writer.drain()
            await asyncio.sleep(0.05)  # so that it has left before the reset, which would overtake it
            raise ConnectionResetError
        writer.write(body)
        await writer.drain()

    async def _stream(self, name: str, writer: asyncio.StreamWriter, *, cut: bool) -> None:
        writer.write(b"HTTP/1.1 200 X\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        for n in range(_EVENTS):
            _chunk(writer, b"data: %b %b %d\n\n" % (name.encode(), self.name.encode(), n))
            await writer.drain()
            await asyncio.sleep(_EVENT_S)
            if cut:
                raise ConnectionResetError
        _chunk(writer, END_OF_STREAM)
        _chunk(writer, b"")
        await writer.drain()


def _chunk(writer: asyncio.StreamWriter, data: bytes) -> None:
    writer.write(b"%x\r\n%b\r\n" % (len(data), data))


def _reset(writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
