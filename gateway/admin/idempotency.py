"""Idempotency keys: a wish that is sent again with its key is answered again, and not granted again.

Rules:

1. A key belongs to the principal who used it. The same key with another request (method, path or body) is refused.
2. What was granted (2xx) is remembered: the newest `KEPT` for a day, also across restarts of the control plane, which
   find them in the state directory. What was refused did nothing, and is asked again.
3. The same wish while the first is under way waits for that one's answer.
4. A control plane that dies between granting and remembering forgets: the state itself is the last guard then (a second
   start is refused while the first runs).

Source: the Internet-Draft "The Idempotency-Key HTTP Header Field".
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import re
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from gateway.admin import request_body
from gateway.admin.problems import ProblemError
from gateway.core.errors import InvalidValueError
from gateway.runtime.clock import Clock
from gateway.runtime.disk_thread import DiskThread

KEPT = 1000
KEPT_S = 86_400.0
_KEY = re.compile(r"[\x21-\x7e]{1,255}")
_DISK_TIMEOUT_S = 1.0
_HEADERS = ("content-type", "location", "etag")


class Answer(msgspec.Struct, frozen=True):
    """What a key's request was answered with. Times are wall-clock seconds."""

    principal: str
    key: str
    fingerprint: str
    status: int
    headers: dict[str, str]
    body: str
    at_s: float


class Replays:
    """The remembered answers, oldest first. Without a path they live as long as the process."""

    def __init__(self, clock: Clock, path: Path | None = None) -> None:
        self._clock = clock
        self._path = path
        self._answers = {(a.principal, a.key): a for a in _remembered(path) if clock.wall_s() - a.at_s < KEPT_S}
        self._pending: dict[tuple[str, str], tuple[str, asyncio.Future[None]]] = {}
        self._disk: DiskThread | None = None

    async def once(self, request: Request, key: str, grant: Callable[[Request], Awaitable[Response]]) -> Response:
        """The answer to the request: by ``grant``, or what it answered the last time."""
        if not _KEY.fullmatch(key):
            raise InvalidValueError("Idempotency-Key must be 1 to 255 visible ASCII characters, such as a UUID")
        who = (request.scope["principal"].name, key)
        fingerprint = await _fingerprint(request)
        while who in self._pending:
            pending, done = self._pending[who]
            _check(pending, fingerprint)
            await asyncio.shield(done)
        known = self._answers.get(who)
        if known is not None and self._clock.wall_s() - known.at_s < KEPT_S:
            _check(known.fingerprint, fingerprint)
            return Response(known.body, known.status, known.headers | {"idempotency-replayed": "true"})
        done = asyncio.get_running_loop().create_future()
        self._pending[who] = (fingerprint, done)
        try:
            response = await grant(request)
            if 200 <= response.status_code < 300:
                await self._remember(who, fingerprint, response)
            return response
        finally:
            del self._pending[who]
            done.set_result(None)

    async def _remember(self, who: tuple[str, str], fingerprint: str, response: Response) -> None:
        headers = {name: response.headers[name] for name in _HEADERS if name in response.headers}
        body = bytes(response.body).decode()
        answer = Answer(*who, fingerprint, response.status_code, headers, body, self._clock.wall_s())
        self._answers.pop(who, None)
        self._answers[who] = answer
        while len(self._answers) > KEPT:
            del self._answers[next(iter(self._answers))]
        if self._path is None:
            return
        self._disk = self._disk or DiskThread()
        path, everything = self._path, list(self._answers.values())
        # A disk that does not answer must not keep a rollback's answer from its sender.
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(_DISK_TIMEOUT_S):
                await self._disk.do(lambda: _append(path, answer, everything))


def _check(known: str, fingerprint: str) -> None:
    if known != fingerprint:
        why = "this Idempotency-Key was used for another request: send a new key with a new wish"
        raise ProblemError("idempotency-key-reused", why)


async def _fingerprint(request: Request) -> str:
    digest = hashlib.sha256(f"{request.method} {request.url.path}?{request.url.query}\n".encode("utf-8", "replace"))
    digest.update(await request_body.body(request))
    return digest.hexdigest()


def _append(path: Path, answer: Answer, everything: list[Answer]) -> None:
    """On the disk's thread: a line more, or all of them anew when the file has grown twice as long as it need be."""
    lines = [answer]
    flags = os.O_APPEND
    if path.exists() and path.stat().st_size > 4 * KEPT * 1024:
        lines, flags = everything, os.O_TRUNC
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | flags, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(b"".join(msgspec.json.encode(line) + b"\n" for line in lines))
        file.flush()
        os.fsync(file.fileno())


def _remembered(path: Path | None) -> list[Answer]:
    """What the file holds; a torn or foreign line is passed over."""
    try:
        lines = path.read_bytes().splitlines()[-KEPT:] if path is not None else []
    except OSError:
        return []
    found = []
    for line in lines:
        with contextlib.suppress(ValueError, RecursionError):
            found.append(msgspec.convert(json.loads(line), Answer))
    return found
