"""The answer to ``GET /metrics``: read on the event loop, rendered beside it, and kept for a while.

Rules:

1. On the loop the values are only collected. Merging, rendering and compressing happen on a thread of this module's
   own, one at a time, so that neither scrapes nor other work of the default threads wait for each other.
2. An answer serves everybody for a second, and for four times as long as it took to make: however many ask, rendering
   takes at most a fifth of the time. Who asks while one is being made gets that one.
3. What fails is not kept; the next to ask tries again.
"""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import msgspec

from gateway.runtime.clock import Clock

KEPT_S = 1.0
_KEPT_TIMES_COST = 4.0
# Level 1 makes a tenth of it in a tenth of the time that rendering takes.
_GZIP_LEVEL = 1
_OPENMETRICS = "application/openmetrics-text"


class Scraped(Protocol):
    """Values of one moment that can be rendered on any thread."""

    def render(self, *, openmetrics: bool) -> tuple[bytes, str]:
        """The body and the content type."""


class RenderedMetrics(msgspec.Struct, frozen=True):
    """One rendering; ``until_s`` is how long it serves, by the monotonic clock."""

    body: bytes
    zipped: bytes
    content_type: str
    until_s: float


class Exposition:
    """Makes and keeps the answers, one for each format."""

    def __init__(self, collect: Callable[[], Scraped], clock: Clock) -> None:
        self._collect = collect
        self._clock = clock
        self._threads = ThreadPoolExecutor(1, thread_name_prefix="metrics")
        self._newest: dict[bool, asyncio.Future[RenderedMetrics]] = {}

    async def answer(self, *, openmetrics: bool) -> RenderedMetrics:
        """The newest answer in this format, made anew when it is too old."""
        newest = self._newest.get(openmetrics)
        if newest is None or (newest.done() and self._is_over(newest)):
            loop = asyncio.get_running_loop()
            newest = loop.run_in_executor(self._threads, self._made, self._collect(), openmetrics)
            self._newest[openmetrics] = newest
        # One who goes away must not take the answer from the others.
        return await asyncio.shield(newest)

    def _is_over(self, newest: asyncio.Future[RenderedMetrics]) -> bool:
        failed = newest.cancelled() or newest.exception() is not None
        return failed or self._clock.monotonic_s() >= newest.result().until_s

    def _made(self, scraped: Scraped, openmetrics: bool) -> RenderedMetrics:
        began_s = self._clock.monotonic_s()
        body, content_type = scraped.render(openmetrics=openmetrics)
        zipped = gzip.compress(body, _GZIP_LEVEL, mtime=0)
        now_s = self._clock.monotonic_s()
        return RenderedMetrics(body, zipped, content_type, now_s + max(KEPT_S, _KEPT_TIMES_COST * (now_s - began_s)))


def takes_gzip(accept_encoding: str) -> bool:
    """Whether an Accept-Encoding header takes gzip.

    >>> takes_gzip("gzip, deflate"), takes_gzip("gzip;q=0, *"), takes_gzip("identity"), takes_gzip("br, x-gzip;q=0.5")
    (True, False, False, True)
    """
    for coding in accept_encoding.lower().split(","):
        name, _, weight = (part.strip() for part in coding.partition(";"))
        if name in ("gzip", "x-gzip"):
            return weight.replace(" ", "") not in ("q=0", "q=0.0", "q=0.00", "q=0.000")
    return False


def takes_openmetrics(accept: str) -> bool:
    """Whether an Accept header asks for OpenMetrics in a version that is spoken here."""
    for offer in accept.lower().split(","):
        kind, *parameters = (part.strip() for part in offer.split(";"))
        versions = [p for p in parameters if p.startswith("version=")]
        if kind == _OPENMETRICS and versions in ([], ["version=1.0.0"]) and "q=0" not in parameters:
            return True
    return False
