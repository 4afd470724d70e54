"""A receiver of webhooks over a real socket: keeps what it was sent, answers as the test says."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from types import TracebackType
from typing import NamedTuple, Self


class Received(NamedTuple):
    """One request: its headers (names in lower case) and its body."""

    headers: dict[str, str]
    body: bytes


class WebReceiver:
    """``answer(n)`` gives the raw answer to the n-th request (from 0); None hangs."""

    def __init__(self, answer: Callable[[int], bytes | None] = lambda _: reply(204)) -> None:
        self._answer = answer
        self.received: list[Received] = []
        self.url = ""
        self._writers: list[asyncio.StreamWriter] = []

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._meet, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/hook?key=1"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        for writer in self._writers:
            writer.close()
        await asyncio.sleep(0)  # their transports close in the loop's next turn

    async def _meet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # A client may end before it has sent anything, or read the answer.
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            await self._serve(reader, writer)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        assert head.startswith("POST /hook?key=1 HTTP/1.1\r\n")
        fields = dict(line.split(": ", 1) for line in head.split("\r\n")[1:-2])
        headers = {name.lower(): value for name, value in fields.items()}
        body = await reader.readexactly(int(headers["content-length"]))
        self.received.append(Received(headers, body))
        said = self._answer(len(self.received) - 1)
        if said is not None:
            writer.write(said)
            await writer.drain()
            writer.close()


def reply(status: int, body: bytes = b"", *lines: str) -> bytes:
    """A raw answer."""
    head = [f"HTTP/1.1 {status} Said", f"content-length: {len(body)}", "connection: close", *lines]
    return "\r\n".join(head).encode() + b"\r\n\r\n" + body
