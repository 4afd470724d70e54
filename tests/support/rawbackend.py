"""A backend that does not parse: every byte of each connection is kept apart, and a test says when to answer what."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Awaitable, Callable
from typing import Self


class Wire:
    """One accepted connection and all that has arrived on it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.got = bytearray()
        self.ended = False

    async def until(self, mark: bytes, times: int = 1) -> None:
        """Read until ``mark`` has arrived that often; EOFError at the connection's end."""
        while self.got.count(mark) < times:
            await self.more()

    async def more(self) -> None:
        """Read what comes next; EOFError at the connection's end."""
        data = await self.reader.read(65536)
        if not data:
            self.ended = True
            raise EOFError
        self.got += data

    async def rest(self) -> None:
        """Read to the connection's end."""
        with contextlib.suppress(EOFError):
            while True:
                await self.more()

    async def send(self, data: bytes) -> None:
        """Write bytes as they are."""
        self.writer.write(data)
        await self.writer.drain()

    def reset(self) -> None:
        """Close with a reset."""
        reset_on_close(self.writer)
        self.writer.transport.abort()


Talk = Callable[[Wire], Awaitable[None]]


class RawBackend:
    """Listens on loopback; ``talk`` holds the conversation of each connection, which ends when it returns."""

    def __init__(self, talk: Talk) -> None:
        self.talk = talk
        self.wires: list[Wire] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port: int = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def open(self) -> int:
        """How many conversations are under way."""
        return len(self._tasks)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        wire = Wire(reader, writer)
        self.wires.append(wire)
        try:
            await self.talk(wire)
        except (EOFError, OSError):
            wire.ended = True
        except asyncio.CancelledError:
            writer.transport.abort()
        finally:
            self._tasks.discard(task)
            with contextlib.suppress(Exception):
                writer.close()


def reset_on_close(writer: asyncio.StreamWriter) -> None:
    """Closing sends a reset from now on: a plain FIN could be a peer that still wants its answer."""
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
