"""The one call to Prometheus: the samples of a selector, as they were scraped.

Source: Prometheus HTTP API v1, instant query of a range selector.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator
from typing import Any

import httpx

from gateway.integrations.errors import ExternalError
from gateway.integrations.prometheus.counters import ScrapedSeries
from gateway.runtime.loopback import is_loopback

_ANSWER_BYTES_MAX = 16 << 20
_TEXT_CHARS_MAX = 200


class PrometheusClient:
    """Asks one Prometheus."""

    def __init__(self, url: str, timeout_s: float, token: str | None) -> None:
        self._url = f"{url.rstrip('/')}/api/v1/query"
        headers = {"user-agent": "canary-gateway"} | ({} if token is None else {"authorization": f"Bearer {token}"})
        here = is_loopback(url)
        self._timeout_s = timeout_s
        self._http = httpx.AsyncClient(
            headers=headers, timeout=timeout_s, trust_env=not here, verify=not (here and url.startswith("http:"))
        )

    async def close(self) -> None:
        """Close its connections."""
        await self._http.aclose()

    async def samples(self, selector: str, for_s: float) -> list[ScrapedSeries]:
        """All samples of the last ``for_s`` seconds. Raises ExternalError."""
        query = f"{selector}[{math.ceil(for_s)}s]"
        try:
            # The client's own time-outs are for each piece of an answer: one that trickles would never end.
            async with asyncio.timeout(self._timeout_s):
                answer = await self._http.post(self._url, data={"query": query})
        except TimeoutError:
            raise ExternalError(f"Prometheus at {self._url} has not answered within {self._timeout_s:g} s") from None
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise ExternalError(f"Prometheus at {self._url} cannot be reached: {_said(error)}") from None
        if len(answer.content) > _ANSWER_BYTES_MAX:
            raise ExternalError(f"{query} has more than {_ANSWER_BYTES_MAX >> 20} MiB of samples: select fewer series")
        try:
            found = answer.json()
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise ExternalError(f"{self._url} answered {answer.status_code} without JSON: is it Prometheus?")
        if found.get("status") != "success":
            what = str(found.get("error", f"status {answer.status_code}"))[:_TEXT_CHARS_MAX]
            raise ExternalError(f"Prometheus refused {query}: {what}")
        try:
            return list(_series(found["data"]))
        except (KeyError, TypeError, ValueError):
            raise ExternalError(f"the answer to {query} has no samples of series") from None


def _series(data: Any) -> Iterator[ScrapedSeries]:
    if data["resultType"] != "matrix":
        raise ValueError(data["resultType"])
    for one in data["result"]:
        labels = frozenset((str(key), str(value)) for key, value in one["metric"].items())
        samples = tuple((float(at_s), float(value)) for at_s, value in one.get("values", ()))
        if samples:
            yield ScrapedSeries(labels, samples)


def _said(error: Exception) -> str:
    return f"{type(error).__name__}{f': {error}' if str(error) else ''}"
