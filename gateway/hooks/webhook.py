"""A receiver behind a URL: each attempt is one HTTP request.

Rules:

1. Redirects are not followed: the configuration names the receiver, nobody else does.
2. A response is read up to a bound: a gate's answer is in it, all others are only quoted in the log.

Imported where a webhook or a gate is configured (build.py): an HTTP client is a sixth of what control would import.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import httpx

from gateway.hooks.delivery import NotDeliveredError
from gateway.hooks.envelope import Message
from gateway.hooks.signing import signature_headers
from gateway.runtime.loopback import is_loopback

_QUOTED_CHARS_MAX = 200
_RETRY_AFTER_S_MAX = 3600.0
_ANSWER_BYTES_MAX = 64 * 1024


class Webhook:
    """A receiver behind a URL; ``key`` signs what is sent. A message ``refused_for_good`` is dropped."""

    def __init__(
        self,
        url: str,
        timeout_s: float,
        key: bytes | None = None,
        wall_s: Callable[[], float] = time.time,
        refused_for_good: frozenset[int] = frozenset({410}),
    ) -> None:
        self._tls = httpx.create_ssl_context()
        self._url = url
        self._timeout_s = timeout_s
        self._key = key
        self._wall_s = wall_s
        self._refused_for_good = refused_for_good

    async def deliver(self, message: Message) -> None:
        """POST the message."""
        await self.ask(message)

    async def ask(self, message: Message) -> bytes:
        """POST the message; returns the body of the 2xx answer, at most 64 KiB of it. Raises NotDeliveredError."""
        headers = {"content-type": message.content_type, "user-agent": "canary-gateway"}
        if self._key is not None:
            headers |= signature_headers(self._key, message.id, message.body, self._wall_s())
        try:
            async with asyncio.timeout(self._timeout_s):
                # A client of its own for each attempt: one whose requests are cut off by timeouts loses places in its
                # pool until it has none left.
                async with (
                    httpx.AsyncClient(
                        verify=self._tls, trust_env=not is_loopback(self._url), timeout=self._timeout_s
                    ) as client,
                    client.stream("POST", self._url, content=message.body, headers=headers) as answer,
                ):
                    received = await _beginning(answer)
        except TimeoutError:
            raise NotDeliveredError(f"timed out after {self._timeout_s:g} s") from None
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            raise NotDeliveredError(f"{type(error).__name__}: {error}") from None
        if not answer.is_success:
            quoted = received[:_QUOTED_CHARS_MAX].decode("utf-8", "replace")
            raise NotDeliveredError(
                f"{answer.status_code} {answer.reason_phrase}: {quoted!r}",
                again=answer.status_code not in self._refused_for_good,
                after_s=_retry_after_s(answer),
            )
        return received


async def _beginning(answer: httpx.Response) -> bytes:
    received = b""
    async for piece in answer.aiter_raw():
        received += piece
        if len(received) >= _ANSWER_BYTES_MAX:
            break
    return received[:_ANSWER_BYTES_MAX]


def _retry_after_s(answer: httpx.Response) -> float:
    """The seconds of a Retry-After header; dates and nonsense count as none."""
    try:
        return min(max(float(answer.headers.get("retry-after", "0")), 0.0), _RETRY_AFTER_S_MAX)
    except ValueError:
        return 0.0
