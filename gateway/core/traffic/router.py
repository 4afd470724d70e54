"""Which route a request matches: by host, then by the longest path prefix.

Rules:

1. A prefix matches at a segment boundary, and before the colon of a verb: ``/v1/models/a`` matches itself,
   ``/v1/models/a/infer`` and ``/v1/models/a:predict``, not ``/v1/models/ab``.
2. Routes that name the request's host come before those that name none; within each, the longest prefix wins. A host
   is compared in lower case, without its port and without the dot that makes a name absolute (``example.`` is
   ``example``).
3. Matching looks at a *normalised copy* of the path (percent-decoded once, dot segments and doubled slashes gone), so
   that a disguised path cannot slip past a prefix; the bytes that are forwarded stay as they came.
4. A route that is split elsewhere (``external``) matches nothing.
5. A path that decodes to NUL or other control characters, or climbs above the root, matches nothing.
"""

from __future__ import annotations

from typing import Final
from urllib.parse import unquote_to_bytes

from gateway.core.traffic.table import Route, RoutingTable

_CACHE_MAX: Final = 4096
_CACHED_PATH_BYTES_MAX: Final = 256
# What may follow a prefix: nothing, a further segment, a verb (`:predict`).
_BOUNDARIES: Final = frozenset((b"", b"/", b":"))


class Router:
    """An index over one table's routes; `match` is a dictionary hit for paths seen before."""

    def __init__(self, table: RoutingTable) -> None:
        self.table = table
        self.epoch = table.epoch
        self._by_host: dict[str, list[tuple[bytes, Route]]] = {}
        for route in table.routes:
            if route.external:
                continue
            for host in route.hosts or ("",):
                self._by_host.setdefault(_relative(host.lower()), []).append((_prefix(route.path_prefix), route))
        for entries in self._by_host.values():
            entries.sort(key=lambda entry: len(entry[0]), reverse=True)
        self._cache: dict[tuple[bytes, bytes], Route | None] = {}

    def match(self, host: bytes, path: bytes) -> Route | None:
        """The route for a Host header's value and a raw path (no query), or None."""
        if len(path) > _CACHED_PATH_BYTES_MAX or len(host) > _CACHED_PATH_BYTES_MAX:
            return self._find(host, path)
        key = (host, path)
        try:
            return self._cache[key]
        except KeyError:
            pass
        found = self._find(host, path)
        # Clients choose paths freely: the cache starts afresh rather than grow without bound.
        if len(self._cache) >= _CACHE_MAX:
            self._cache.clear()
        self._cache[key] = found
        return found

    def _find(self, host: bytes, path: bytes) -> Route | None:
        normalised = normalise(path)
        if normalised is None:
            return None
        name = _host_name(host)
        for entries in (self._by_host.get(name, ()) if name else (), self._by_host.get("", ())):
            for prefix, route in entries:
                if normalised.startswith(prefix) and normalised[len(prefix) : len(prefix) + 1] in _BOUNDARIES:
                    return route
        return None


def normalise(path: bytes) -> bytes | None:
    """The path decoded once, without empty and dot segments and trailing slash; None when it must match nothing.

    >>> normalise(b"/a//b/./c/../d/"), normalise(b"/%61"), normalise(b"/../a"), normalise(b"/a%00")
    (b'/a/b/d', b'/a', None, None)
    """
    if b"%" in path:
        path = unquote_to_bytes(path)
    if any(byte < 0x20 or byte == 0x7F for byte in path):
        return None
    out: list[bytes] = []
    for segment in path.split(b"/"):
        if segment == b"..":
            if not out:
                return None
            out.pop()
        elif segment and segment != b".":
            out.append(segment)
    return b"/" + b"/".join(out) if out else b""


def _prefix(path_prefix: str) -> bytes:
    return path_prefix.rstrip("/").encode()


def _host_name(host: bytes) -> str:
    name = host.decode("latin-1").lower()
    if name.startswith("["):
        return name.partition("]")[0] + "]"
    return _relative(name.partition(":")[0])


def _relative(name: str) -> str:
    """A host name without the dot of the root: absolute and relative names mean the same host here."""
    return name.removesuffix(".")
