"""Idempotency keys: a request that is sent again with its key is answered as before, and not carried out again.

Rules:

1. A key belongs to the principal who used it. The same key with another request (method, path or body) is refused.
2. What was carried out (2xx) is remembered: the newest `KEPT` for a day, also across restarts, in the store. What was
   refused changed nothing, and is tried again.
3. The same request while the first is under way waits for that one's answer.
4. An answer is stored after what it answers, in one order: what is remembered was decided. A control process that dies
   between the two forgets the answer: the state itself is the last guard then (a second start is refused while the
   first runs).
5. A disk that does not answer in a second must not keep a rollback's answer from its client: it is answered all the
   same. So it is when the store takes nothing any more; the key is then remembered in memory alone.

Source: the Internet-Draft "The Idempotency-Key HTTP Header Field".
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import re
from collections.abc import Awaitable, Callable, Iterable

from starlette.requests import Request
from starlette.responses import Response

from gateway.admin import request_parsing
from gateway.admin.problems import ProblemError
from gateway.control.journal.rows import KeptAnswer
from gateway.control.journal.writer import JournalWriter
from gateway.core.errors import InvalidValueError, JournalError
from gateway.runtime.clock import Clock

KEPT = 1000
KEPT_S = 86_400.0
_KEY = re.compile(r"[\x21-\x7e]{1,255}")
_DISK_TIMEOUT_S = 1.0
_HEADERS = ("content-type", "location", "etag")


class Replays:
    """The remembered answers, oldest first. Without a writer they live as long as the process."""

    def __init__(
        self, clock: Clock, writer: JournalWriter | None = None, remembered: Iterable[KeptAnswer] = ()
    ) -> None:
        self._clock = clock
        self._writer = writer
        self._answers = {(a.principal, a.key): a for a in remembered if clock.wall_s() - a.at_s < KEPT_S}
        self._pending: dict[tuple[str, str], tuple[str, asyncio.Future[None]]] = {}

    async def once(self, request: Request, key: str, grant: Callable[[Request], Awaitable[Response]]) -> Response:
        """The answer to the request: by ``grant``, or what that answered the last time."""
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
        answer = KeptAnswer(*who, fingerprint, response.status_code, headers, body, self._clock.wall_s())
        self._answers.pop(who, None)
        self._answers[who] = answer
        while len(self._answers) > KEPT:
            del self._answers[next(iter(self._answers))]
        if self._writer is None:
            return
        with contextlib.suppress(JournalError, TimeoutError):
            async with asyncio.timeout(_DISK_TIMEOUT_S):
                expired_s = answer.at_s - KEPT_S
                await asyncio.shield(
                    self._writer.keep(lambda store: store.answers.add(answer, kept=KEPT, expired_s=expired_s))
                )


def _check(known: str, fingerprint: str) -> None:
    if known != fingerprint:
        why = "this Idempotency-Key was used for another request: send a new key with each new request"
        raise ProblemError("idempotency-key-reused", why)


async def _fingerprint(request: Request) -> str:
    digest = hashlib.sha256(f"{request.method} {request.url.path}?{request.url.query}\n".encode("utf-8", "replace"))
    digest.update(await request_parsing.body(request))
    return digest.hexdigest()
