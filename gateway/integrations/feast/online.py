"""Online features of a Feast server: one call for an entity, kept for a while, made once for all who ask at a time.

Rules:

1. What was found is kept for `ttl_s`; what is missing as well, what failed is not.
2. Who asks for the same entity while a call is under way gets its answer.
3. Feast's server closes connections after an error and restarts its workers: a connection that was reused and is closed
   without an answer is tried once more on a fresh one.
4. A feature without a value, and one whose status is not PRESENT, is missing. The entity's own keys are no features.

Source: Feast 0.67, feature server, `POST /get-online-features`.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any, NamedTuple

import httpx

from gateway.runtime.features import Found, LookedUp, Lookup, Scalar
from gateway.runtime.loopback import is_loopback

_log = logging.getLogger("gateway.features")
KEPT_MAX = 100_000
_PATH = "/get-online-features"
_CONNECTIONS_MAX = 100
_STALE = (httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError)

Key = tuple[str, str | None, tuple[str, ...], tuple[tuple[str, Scalar], ...]]


class EntityFeatures(NamedTuple):
    """What the store has of an entity; ``at_s`` is when the oldest of it was true (None: not said)."""

    values: dict[str, Scalar]
    at_s: float | None


class OnlineFeatures:
    """Looks features up. ``now_s`` is monotonic time, ``wall_s`` that of people."""

    def __init__(self, now_s: Callable[[], float], wall_s: Callable[[], float]) -> None:
        self._now_s = now_s
        self._wall_s = wall_s
        self._clients: dict[tuple[str, str | None], httpx.AsyncClient] = {}
        self._kept: dict[Key, tuple[float, EntityFeatures]] = {}
        self._asked: dict[Key, asyncio.Task[EntityFeatures | None]] = {}
        self._said: set[str] = set()

    async def close(self) -> None:
        """Close all connections."""
        for task in self._asked.values():
            task.cancel()
        await asyncio.gather(*(client.aclose() for client in self._clients.values()))

    async def find(self, lookup: Lookup) -> Found:
        """The features of one entity."""
        key = (lookup.url, lookup.service, lookup.features, tuple(sorted(lookup.entity.items())))
        kept = self._kept.get(key)
        if kept is not None and kept[0] > self._now_s():
            return self._found(lookup, kept[1])
        task = self._asked.get(key)
        if task is None:
            task = self._asked[key] = asyncio.create_task(self._ask(lookup))
            task.add_done_callback(lambda _: self._asked.pop(key, None))
        features = await asyncio.shield(task)
        if features is None:
            return Found(lookup.number, LookedUp.UNAVAILABLE)
        if lookup.ttl_s:
            self._keep(key, self._now_s() + lookup.ttl_s, features)
        return self._found(lookup, features)

    def _found(self, lookup: Lookup, features: EntityFeatures) -> Found:
        values = features.values
        complete = bool(values) and all(value is not None for value in values.values())
        age_s = -1.0 if features.at_s is None else max(0.0, self._wall_s() - features.at_s)
        return Found(lookup.number, LookedUp.OK if complete else LookedUp.MISSING, values, age_s)

    def _keep(self, key: Key, until_s: float, features: EntityFeatures) -> None:
        self._kept.pop(key, None)
        self._kept[key] = until_s, features
        while len(self._kept) > KEPT_MAX:
            del self._kept[next(iter(self._kept))]

    async def _ask(self, lookup: Lookup) -> EntityFeatures | None:
        body: dict[str, Any] = {"entities": {name: [value] for name, value in lookup.entity.items()}}
        body |= {"feature_service": lookup.service} if lookup.service else {"features": list(lookup.features)}
        try:
            answer = await self._post(lookup, body)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            self._say(lookup.url, f"{type(error).__name__}{f': {error}' if str(error) else ''}")
            return None
        if not answer.is_success:
            self._say(lookup.url, f"{answer.status_code}: {answer.text[:200]}")
            return None
        try:
            features = read_features(answer.json(), lookup.entity.keys())
        except (ValueError, KeyError, TypeError, IndexError):
            self._say(lookup.url, "the answer has no features: is it Feast's server?")
            return None
        if lookup.url in self._said:
            self._said.discard(lookup.url)
            _log.warning("the feature server at %s answers again", lookup.url)
        return features

    async def _post(self, lookup: Lookup, body: Any) -> httpx.Response:
        client = self._client(lookup)
        url = f"{lookup.url.rstrip('/')}{_PATH}"
        try:
            return await client.post(url, json=body, timeout=lookup.timeout_s)
        except _STALE:
            return await client.post(url, json=body, timeout=lookup.timeout_s)

    def _client(self, lookup: Lookup) -> httpx.AsyncClient:
        key = lookup.url, lookup.token_env
        client = self._clients.get(key)
        if client is None:
            token = "" if lookup.token_env is None else os.environ.get(lookup.token_env, "")
            here = is_loopback(lookup.url)
            client = self._clients[key] = httpx.AsyncClient(
                headers={"user-agent": "canary-gateway"} | ({"authorization": f"Bearer {token}"} if token else {}),
                limits=httpx.Limits(max_connections=_CONNECTIONS_MAX),
                trust_env=not here,
                verify=not (here and lookup.url.startswith("http:")),
            )
        return client

    def _say(self, url: str, why: str) -> None:
        """Log the first failure of a row."""
        if url not in self._said:
            self._said.add(url)
            _log.error("the feature server at %s cannot be used: %s", url, why)


def read_features(answer: Any, keys: Any) -> EntityFeatures:
    """The features in an answer about one entity."""
    names, results = answer["metadata"]["feature_names"], answer["results"]
    values: dict[str, Scalar] = {}
    times: list[float] = []
    for name, result in zip(names, results, strict=True):
        if name in keys:
            continue
        value = result["values"][0]
        if value is not None and not isinstance(value, bool | int | float | str):
            raise ValueError(f"{name} is no number, text or truth value")
        present = result.get("statuses", ("PRESENT",))[0] == "PRESENT"
        values[name] = value if present else None
        if present:
            times += _moments(result.get("event_timestamps", ()))
    return EntityFeatures(values, min(times, default=None))


def _moments(stamps: Any) -> Iterator[float]:
    """When a value was true; Feast writes the epoch's first second where it does not know."""
    for stamp in stamps:
        if isinstance(stamp, str):
            found = datetime.fromisoformat(stamp)
            at_s = (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()
        else:
            at_s = float(stamp)
        if at_s > 0:
            yield at_s
