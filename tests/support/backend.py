"""A backend over a real socket whose every answer a test can script, down to the byte."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Self

import httptools


@dataclass
class Seen:
    """One request as the backend received it."""

    method: bytes = b""
    target: bytes = b""
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    body: bytearray = field(default_factory=bytearray)
    complete: bool = False

    def all(self, name: bytes) -> list[bytes]:
        """All values of a header field, by lower-case name."""
        return [value for key, value in self.headers if key.lower() == name]


@dataclass
class Peer:
    """The connection that a script answers on."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    requests: int = 0

    async def send(self, data: bytes) -> None:
        """Write bytes as they are."""
        self.writer.write(data)
        await self.writer.drain()

    def close(self) -> None:
        """Close in order (FIN)."""
        self.writer.close()

    def reset(self) -> None:
        """Close with a reset."""
        self.writer.transport.abort()


Script = Callable[[Seen, Peer], Awaitable[None]]


def answer(status: int = 200, body: bytes = b"ok", headers: bytes = b"") -> Script:
    """A script that always gives the same answer, framed by its length."""

    async def script(_: Seen, peer: Peer) -> None:
        await peer.send(b"HTTP/1.1 %d X\r\ncontent-length: %d\r\n%b\r\n%b" % (status, len(body), headers, body))

    return script


def raw(data: bytes, *, close: bool = False) -> Script:
    """A script that answers with these very bytes."""

    async def script(_: Seen, peer: Peer) -> None:
        await peer.send(data)
        if close:
            peer.close()

    return script


async def hang(_: Seen, peer: Peer) -> None:
    """A script that never answers."""
    await asyncio.sleep(3600)


class Backend:
    """Listens on loopback; ``script`` may be exchanged at any moment."""

    def __init__(self, script: Script | None = None) -> None:
        self.script = script or answer()
        self.seen: list[Seen] = []
        self.connections = 0
        self.open = 0
        self._server: asyncio.Server | None = None
        # Held while nobody listens, so that nobody else is given the port.
        self._place: socket.socket | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port: int = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()
        if self._place is not None:
            self._place.close()

    async def stop(self) -> None:
        """Stop listening and reset what is open: the process is gone, and its port refuses connections."""
        assert self._server is not None
        self._server.close()
        if self._place is None:
            self._place = socket.socket()
            self._place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._place.bind(("127.0.0.1", self.port))
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def restart(self) -> None:
        """Reset what is open, and listen again on the same port."""
        await self.stop()
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
        if self._place is not None:
            self._place.close()
            self._place = None

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        self.open += 1
        peer = Peer(reader, writer)
        try:
            while await self._one(peer):
                pass
        except (OSError, httptools.HttpParserError):
            pass
        except asyncio.CancelledError:
            writer.transport.abort()
        finally:
            self.open -= 1
            self._tasks.discard(task)
            with contextlib.suppress(Exception):
                writer.close()

    async def _one(self, peer: Peer) -> bool:
        seen, listed = Seen(), False
        parser = httptools.HttpRequestParser(_Filler(seen))
        while not seen.complete:
            data = await peer.reader.read(65536)
            if not data:
                return False
            if not listed:
                self.seen.append(seen)
                listed = True
            with contextlib.suppress(httptools.HttpParserUpgrade):  # a script answers it like any other
                parser.feed_data(data)
        seen.method = parser.get_method()
        peer.requests += 1
        await self.script(seen, peer)
        return not peer.writer.is_closing()


class _Filler:
    def __init__(self, seen: Seen) -> None:
        self._seen = seen

    def on_url(self, piece: bytes) -> None:
        self._seen.target += piece

    def on_header(self, name: bytes, value: bytes) -> None:
        self._seen.headers.append((name, value))

    def on_body(self, piece: bytes) -> None:
        self._seen.body += piece

    def on_message_complete(self) -> None:
        self._seen.complete = True
