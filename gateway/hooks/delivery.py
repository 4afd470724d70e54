"""One attempt to deliver a letter: an HTTP request or a command.

Rules:

1. Delivered means a 2xx answer, or a command that ends with status 0, in time. Anything else may be tried again, except
   a 410: the receiver says that it is gone for good.
2. Redirects are not followed: the configuration names the receiver, nobody else does.
3. A command gets the letter on standard input and its id in ``GATEWAY_EVENT_ID``; no shell is between. One that takes
   too long is killed, with all that it has started.
4. An answer is read up to a bound and only to be quoted in the log.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Callable, Sequence
from typing import Protocol

import httpx

from gateway.hooks.envelope import Letter
from gateway.hooks.signing import signature_headers
from gateway.runtime.loopback import is_loopback

_QUOTED_CHARS_MAX = 200
_RETRY_AFTER_S_MAX = 3600.0
_ANSWER_BYTES_MAX = 64 * 1024


class NotDeliveredError(Exception):
    """An attempt failed. ``again`` says whether another may succeed, ``after_s`` when the receiver wants it."""

    def __init__(self, why: str, *, again: bool = True, after_s: float = 0.0) -> None:
        super().__init__(why)
        self.again = again
        self.after_s = after_s


class Receiver(Protocol):
    """Somebody who is told."""

    async def deliver(self, letter: Letter) -> None:
        """Deliver, or raise NotDeliveredError."""


class Webhook:
    """A receiver behind a URL."""

    def __init__(
        self, url: str, timeout_s: float, key: bytes | None = None, wall_s: Callable[[], float] = time.time
    ) -> None:
        self._tls = httpx.create_ssl_context()
        self._url = url
        self._timeout_s = timeout_s
        self._key = key
        self._wall_s = wall_s

    async def deliver(self, letter: Letter) -> None:
        """POST the letter."""
        await self.ask(letter)

    async def ask(self, letter: Letter) -> bytes:
        """POST the letter; returns the body of the 2xx answer, at most 64 KiB of it. Raises NotDeliveredError."""
        headers = {"content-type": letter.content_type, "user-agent": "canary-gateway"}
        if self._key is not None:
            headers |= signature_headers(self._key, letter.id, letter.body, self._wall_s())
        try:
            async with asyncio.timeout(self._timeout_s):
                # A client of its own for each attempt: one whose requests are cut off by timeouts loses places in its
                # pool until it has none left.
                async with (
                    httpx.AsyncClient(
                        verify=self._tls, trust_env=not is_loopback(self._url), timeout=self._timeout_s
                    ) as client,
                    client.stream("POST", self._url, content=letter.body, headers=headers) as answer,
                ):
                    said = await _beginning(answer)
        except TimeoutError:
            raise NotDeliveredError(f"no answer within {self._timeout_s:g} s") from None
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            raise NotDeliveredError(f"{type(error).__name__}: {error}") from None
        if not answer.is_success:
            quoted = said[:_QUOTED_CHARS_MAX].decode("utf-8", "replace")
            raise NotDeliveredError(
                f"{answer.status_code} {answer.reason_phrase}: {quoted!r}",
                again=answer.status_code != 410,
                after_s=_retry_after_s(answer),
            )
        return said


class Command:
    """A receiver that is a program of this machine."""

    def __init__(self, arguments: Sequence[str], timeout_s: float) -> None:
        self._arguments = arguments
        self._timeout_s = timeout_s

    async def deliver(self, letter: Letter) -> None:
        """Run the program with the letter on its standard input."""
        try:
            process = await asyncio.create_subprocess_exec(
                *self._arguments,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.DEVNULL,
                env={**_environment(), "GATEWAY_EVENT_ID": letter.id},
                start_new_session=True,
            )
        except OSError as error:
            raise NotDeliveredError(f"cannot run {self._arguments[0]}: {error.strerror}") from None
        try:
            async with asyncio.timeout(self._timeout_s):
                await process.communicate(letter.body)
        except TimeoutError:
            raise NotDeliveredError(f"{self._arguments[0]} took longer than {self._timeout_s:g} s") from None
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):  # it ended this very moment
                    os.killpg(process.pid, signal.SIGKILL)
                await process.wait()
        if process.returncode != 0:
            raise NotDeliveredError(f"{self._arguments[0]} ended with status {process.returncode}")


async def _beginning(answer: httpx.Response) -> bytes:
    said = b""
    async for piece in answer.aiter_raw():
        said += piece
        if len(said) >= _ANSWER_BYTES_MAX:
            break
    return said[:_ANSWER_BYTES_MAX]


def _retry_after_s(answer: httpx.Response) -> float:
    """The seconds of a Retry-After header; dates and nonsense count as none."""
    try:
        return min(max(float(answer.headers.get("retry-after", "0")), 0.0), _RETRY_AFTER_S_MAX)
    except ValueError:
        return 0.0


def _environment() -> dict[str, str]:
    """What a command may see: enough to run, none of the gateway's secrets."""
    return {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TZ", "TMPDIR") if name in os.environ}
