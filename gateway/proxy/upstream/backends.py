"""The endpoints of each backend: which of them is next, and what a new table or new probes make of them.

Rules:

1. Of a backend's endpoints the one with the fewest requests under way is next; where several have as few, in turn. So
   an endpoint that hangs holds no more requests than its siblings have in hand.
2. What probes say of an endpoint is compared with what its requests have shown (probed_health.py). Neither probes nor
   ejections take a whole backend away: when no other endpoint is left, those that are out or down are used as well. A
   canary's are then tried by one request at a time, since stable answers the others.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import monotonic

from gateway.core.traffic.table import Backend, BackendTls, Endpoint
from gateway.proxy.upstream.outlier_ejection import UsualFirstByte
from gateway.proxy.upstream.pool import EndpointPool, panics
from gateway.proxy.upstream.types import Connect
from gateway.runtime.wire import Ejected

_Key = tuple[str, Endpoint, BackendTls | None]


class BackendPool:
    """The endpoints of one backend and the turn among them."""

    def __init__(self, pools: list[EndpointPool], panic_percent: float, usual: UsualFirstByte) -> None:
        self.pools = pools
        self.usual = usual
        for pool in pools:
            pool.siblings = pools
            pool.usual = usual
        self.downs = 0
        self.panic_percent = panic_percent
        self._turn = 0

    def pick(self, tried: tuple[EndpointPool, ...], now_s: float, *, insist: bool) -> EndpointPool | None:
        """The healthy endpoint that was not tried and has the fewest requests under way; in turn among equals.

        One whose ejection is over takes a first try as its trial. One that starts slowly takes the turns that nobody
        else could. Those that are ejected or down are the last resort; ``insist``: for each request, and not for one at
        a time. None when none is left to try.
        """
        pools = self.pools
        count = len(pools)
        if count == 1:
            return None if tried else self._only(pools[0], now_s, insist=insist)
        best: EndpointPool | None = None
        slow: EndpointPool | None = None
        least = place = 0
        uses_probes = not self.downs or not insist or not self.panics(now_s)
        for i in range(count):
            at = (self._turn + i) % count
            pool = pools[at]
            ejection = pool.ejection
            if pool in tried or (pool.probed.down and uses_probes and not self._uses_despite_probes(pool, now_s)):
                continue
            if ejection.out:
                if tried or not ejection.wants_trial(now_s):
                    continue
                best, place = pool, at
                break
            load = pool.load
            if best is not None and load >= least:
                continue
            if not ejection.takes_turn(now_s):
                slow = slow or pool
                continue
            best, least, place = pool, load, at
            if not load:
                break
        if best is None:
            best, place = slow or self._last_resort(tried, insist=insist), self._turn
        self._turn = (place + 1) % count
        return best

    def _only(self, pool: EndpointPool, now_s: float, *, insist: bool) -> EndpointPool | None:
        if not pool.probed.down or insist or self._uses_despite_probes(pool, now_s):
            return pool
        return self._last_resort((), insist=False)

    def _last_resort(self, tried: tuple[EndpointPool, ...], *, insist: bool) -> EndpointPool | None:
        """Of those that are ejected or down the one with the fewest requests under way, the ejected first.

        Without ``insist`` none that has any: one request at a time finds out that an endpoint is dead, at once, or is
        the only one to wait for it. Probes' silence makes trials rarer (probed_health.py, rule 3).
        """
        best: EndpointPool | None = None
        for pool in self.pools:
            if pool in tried or (not insist and (pool.load or (pool.probed.down and not pool.probed.refused))):
                continue
            if best is None or (pool.down, pool.load) < (best.down, best.load):
                best = pool
        return best

    def untried(self, tried: tuple[EndpointPool, ...]) -> bool:
        """Whether there is an endpoint that was not tried."""
        return len(tried) < len(self.pools)

    @property
    def short(self) -> bool:
        """Whether probes or ejections keep some of the endpoints out."""
        return any(pool.down or pool.ejection.out for pool in self.pools)

    @property
    def load(self) -> int:
        """How many requests are under way."""
        return sum([pool.load for pool in self.pools])

    def _uses_despite_probes(self, pool: EndpointPool, now_s: float) -> bool:
        """Whether requests have proven it well; or one is to find out, where probes find no endpoint up."""
        return pool.proven(now_s) or (self.downs == len(self.pools) and pool.takes_probed_trial(now_s))

    def panics(self, now_s: float) -> bool:
        """Whether so few endpoints look well that probes are ignored (``panic_percent``)."""
        if not self.downs:
            return False
        return panics(self.pools, self.panic_percent, now_s)

    def count_downs(self) -> None:
        """Count anew what probes find down."""
        self.downs = sum([pool.probed.down for pool in self.pools])


class Pools:
    """All pools of a worker; they outlive tables, so a weight change never drops a connection."""

    def __init__(self, loop: asyncio.AbstractEventLoop, connect: Connect) -> None:
        self._loop = loop
        self._connect = connect
        self._endpoints: dict[_Key, EndpointPool] = {}
        # Endpoints of no table any more, until the last of their connections is closed.
        self._retired: list[EndpointPool] = []
        self.backends: dict[str, BackendPool] = {}
        self.ejections: dict[str, int] = {}
        self.connections_max = 0
        """How many upstream connections there may be at once."""
        self._down: dict[tuple[str, str], bool] = {}

    def enter_table(self, backends: dict[str, Backend]) -> None:
        """Make the pools of a new table, keeping those whose endpoints are still in use."""
        wanted: dict[_Key, EndpointPool] = {}
        known, self.backends = self.backends, {}
        for backend in backends.values():
            pools = []
            for endpoint in backend.endpoints:
                # Connections that were verified otherwise are of no use: other TLS settings are another pool.
                key = (backend.name, endpoint, backend.tls)
                pool = self._endpoints.get(key) or EndpointPool(endpoint, backend, self._loop, self._connect)
                pool.adopt(backend)
                pool.ejections = self.ejections
                wanted[key] = pool
                pools.append(pool)
            before = known.get(backend.name)
            usual = UsualFirstByte() if before is None else before.usual
            self.backends[backend.name] = BackendPool(pools, backend.panic_percent, usual)
        for key, pool in self._endpoints.items():
            if key not in wanted:
                pool.close()
                self._retired.append(pool)
        self._endpoints = wanted
        self.connections_max = sum([pool.backend.connections_max for pool in wanted.values()])
        self.enter_health(self._down)

    def enter_health(self, down: dict[tuple[str, str], bool]) -> None:
        """Take in what active probes found down: backend and URL, and whether it refused or was only silent."""
        self._down = down
        self.each(self._enter_health_of)
        for backend in self.backends.values():
            backend.count_downs()

    def _enter_health_of(self, pool: EndpointPool) -> None:
        refused = self._down.get((pool.backend.name, pool.endpoint.url))
        if pool.probed.down and refused is None:
            pool.ejection.begin_slowly(monotonic())
        pool.probed.enter(refused is not None, bool(refused))

    def ejected(self) -> tuple[Ejected, ...]:
        """The endpoints that live traffic keeps out of rotation."""
        out = [(name, pool) for name, backend in self.backends.items() for pool in backend.pools if pool.ejection.out]
        return tuple([Ejected(name, p.endpoint.url, p.ejection.reason, p.ejection.lasts_s) for name, p in out])

    def panicking(self) -> tuple[str, ...]:
        """The backends of which too few endpoints look well."""
        now_s = monotonic()
        return tuple([name for name, backend in self.backends.items() if backend.downs and backend.panics(now_s)])

    def kept(self) -> dict[str, list[str]]:
        """By backend, the endpoints that are used although probes get no answer: requests prove them well."""
        now_s = monotonic()
        found = {
            name: [pool.endpoint.url for pool in backend.pools if pool.probed.down and pool.proven(now_s)]
            for name, backend in self.backends.items()
            if backend.downs
        }
        return {name: urls for name, urls in found.items() if urls}

    def each(self, act: Callable[[EndpointPool], None]) -> None:
        """Do something with every endpoint's pool."""
        self._retired = [pool for pool in self._retired if pool.open]
        for pool in (*self._endpoints.values(), *self._retired):
            act(pool)

    @property
    def open_count(self) -> int:
        """How many upstream connections are open or being made."""
        return sum(pool.open for pool in (*self._endpoints.values(), *self._retired))
