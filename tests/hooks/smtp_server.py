"""A mail server over a real socket: speaks enough SMTP for one message, and answers as it is told."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Mapping
from types import TracebackType
from typing import NamedTuple, Self


class Mail(NamedTuple):
    """One message as it came: who logged in, the envelope, and the bytes."""

    login: str
    sender: str
    to: list[str]
    body: bytes


class MailReceiver:
    """``answers`` replaces replies by the command's first word (``HELLO`` before any, ``.`` for a body); None hangs."""

    def __init__(self, answers: Mapping[str, str | None] | None = None, tls: ssl.SSLContext | None = None) -> None:
        self.received: list[Mail] = []
        self.tls_used = False
        self._tls = tls
        self._answers = dict(answers or {})
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._meet, "127.0.0.1", 0)
        self.port: int = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _meet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            with contextlib.suppress(asyncio.IncompleteReadError, OSError, asyncio.CancelledError):
                await self._serve(reader, writer)
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _say(self, writer: asyncio.StreamWriter, word: str, answer: str) -> None:
        said = self._answers.get(word, answer)
        if said is None:
            await asyncio.Event().wait()
        writer.write(f"{said}\r\n".encode())
        await writer.drain()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._say(writer, "HELLO", "220 test")
        login, sender, to = "", "", list[str]()
        while True:
            line = (await reader.readuntil(b"\r\n")).decode().rstrip("\r\n")
            word = line.split(" ")[0].upper()
            match word:
                case "EHLO":
                    offers = ["250-test", "250-AUTH PLAIN", *(["250-STARTTLS"] if self._tls else []), "250 8BITMIME"]
                    writer.write("".join(f"{offer}\r\n" for offer in offers).encode())
                case "STARTTLS":
                    await self._say(writer, word, "220 go ahead")
                    assert self._tls is not None
                    await writer.start_tls(self._tls)
                    self.tls_used = True
                case "AUTH":
                    login = line.split(" ")[-1]
                    await self._say(writer, word, "235 welcome")
                case "MAIL":
                    sender, to = line.split("<")[1].split(">")[0], []
                    await self._say(writer, word, "250 ok")
                case "RCPT":
                    to.append(line.split("<")[1].split(">")[0])
                    await self._say(writer, word, "250 ok")
                case "DATA":
                    await self._say(writer, word, "354 go on")
                    body = (await reader.readuntil(b"\r\n.\r\n"))[:-5]
                    self.received.append(Mail(login, sender, to, body))
                    await self._say(writer, ".", "250 taken")
                case "QUIT":
                    await self._say(writer, word, "221 bye")
                    return
                case _:
                    await self._say(writer, word, "250 ok")
