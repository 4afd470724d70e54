"""Upstream connections: leased, kept, capped and, per endpoint, ejected.

Rules:

1. The freshest idle connection is leased first: it is the least likely to have gone stale.
2. At most ``connections_max`` are open per endpoint; further exchanges wait in a bounded queue, first come first
   served. A full queue is refused at once.
3. A connection whose exchange was cut short is closed, never kept: its bytes could belong to somebody else.
4. Three refused connections in a row eject an endpoint for a second, doubling to thirty; a success clears it. Ejection
   is about endpoints, not versions: the verdict sees every failed try all the same. Stable is never left without an
   endpoint by ejection alone.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING

from gateway.core.traffic.table import Backend, Endpoint
from gateway.proxy import faults
from gateway.proxy.faults import Fault
from gateway.proxy.upstream import UpstreamConnection

if TYPE_CHECKING:
    from gateway.proxy.exchange import Exchange

_FAILURES_BEFORE_EJECTION = 3
_EJECTION_S = 1.0
_EJECTION_S_MAX = 30.0


class EndpointPool:
    """The connections to one endpoint."""

    def __init__(self, endpoint: Endpoint, backend: Backend, loop: asyncio.AbstractEventLoop) -> None:
        self.endpoint = endpoint
        self.backend = backend
        self.loop = loop
        self.idle: list[UpstreamConnection] = []
        self.open = 0
        self.leased = 0
        self.waiting: deque[Exchange] = deque()
        self.down = False
        self.ejected_until_s = 0.0
        self._failures = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._ssl = ssl.create_default_context() if endpoint.tls else None

    def lease(self, exchange: Exchange) -> UpstreamConnection | Fault | None:
        """A connection now, a fault now, or None: then the exchange's `leased` or `lease_failed` is called later."""
        while self.idle:
            connection = self.idle.pop()
            if connection.usable:
                self.leased += 1
                connection.reused = True
                return connection
        return self._lease_fresh(exchange)

    def lease_fresh(self, exchange: Exchange) -> UpstreamConnection | Fault | None:
        """Like `lease`, but never a kept connection: for the retry after a stale one."""
        return self._lease_fresh(exchange)

    def _lease_fresh(self, exchange: Exchange) -> UpstreamConnection | Fault | None:
        if self.open < self.backend.connections_max:
            self._connect(exchange)
            return None
        if len(self.waiting) >= self.backend.queue_max:
            return faults.QUEUE_FULL
        self.waiting.append(exchange)
        return None

    def release(self, connection: UpstreamConnection, *, reusable: bool) -> None:
        """An exchange is done with its connection: keep it, hand it to the next in the queue, or close it."""
        self.leased -= 1
        if not reusable:
            connection.close()
            return
        waiter = self._next_waiter()
        if waiter is not None:
            self.leased += 1
            connection.reused = True
            waiter.leased(connection)
        else:
            connection.idle_since_s = monotonic()
            self.idle.append(connection)

    def closed(self, connection: UpstreamConnection) -> None:
        """A connection's socket is gone. Called exactly once per connection that was made."""
        self.open -= 1
        if connection in self.idle:
            self.idle.remove(connection)
        waiter = self._next_waiter()
        if waiter is not None:
            self._connect(waiter)

    def sweep(self, now_s: float) -> None:
        """Close connections that have idled for too long."""
        expired = now_s - self.backend.keepalive_s
        for connection in [c for c in self.idle if c.idle_since_s < expired]:
            self.idle.remove(connection)
            connection.close()

    def close(self) -> None:
        """Close what is idle: the endpoint is no longer in any table, or the worker ends."""
        for connection in self.idle:
            connection.close()
        self.idle.clear()

    def _next_waiter(self) -> Exchange | None:
        while self.waiting:
            exchange = self.waiting.popleft()
            if exchange.waits_for(self):
                return exchange
        return None

    def _connect(self, exchange: Exchange) -> None:
        self.open += 1
        task = self.loop.create_task(self._open(exchange, exchange.route.timeouts.connect_s))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _open(self, exchange: Exchange, timeout_s: float) -> None:
        try:
            async with asyncio.timeout(timeout_s):
                _, connection = await self.loop.create_connection(
                    lambda: UpstreamConnection(self), self.endpoint.host, self.endpoint.port, ssl=self._ssl
                )
        except TimeoutError:
            self._failed(exchange, faults.CONNECT_TIMEOUT)
        except OSError:  # refused, unreachable, unresolvable, or a certificate that does not verify
            self._failed(exchange, faults.CONNECT_FAILED)
        else:
            self._failures = 0
            self.ejected_until_s = 0.0
            self.leased += 1
            if exchange.waits_for(self):
                exchange.leased(connection)
            else:
                self.release(connection, reusable=True)

    def _failed(self, exchange: Exchange, fault: Fault) -> None:
        self.open -= 1
        self._failures += 1
        excess = self._failures - _FAILURES_BEFORE_EJECTION
        if excess >= 0:
            self.ejected_until_s = monotonic() + min(_EJECTION_S * 2 ** min(excess, 10), _EJECTION_S_MAX)
        if exchange.waits_for(self):
            exchange.lease_failed(fault)
        # Those that queued for this endpoint need an answer as well; each tries on its own.
        waiter = self._next_waiter()
        if waiter is not None:
            self._connect(waiter)


class BackendPool:
    """The endpoints of one backend and the turn among them."""

    def __init__(self, pools: list[EndpointPool]) -> None:
        self.pools = pools
        self._turn = 0

    def pick(self, tried: tuple[EndpointPool, ...], now_s: float, *, insist: bool) -> EndpointPool | None:
        """The next healthy endpoint that was not tried, in turn; with ``insist`` ejected ones as a last resort.

        None when active probes found all endpoints down, or none is left to try.
        """
        pools = self.pools
        count = len(pools)
        last_resort: EndpointPool | None = None
        for i in range(count):
            pool = pools[(self._turn + i) % count]
            if pool.down or pool in tried:
                continue
            if pool.ejected_until_s > now_s:
                last_resort = last_resort or pool
                continue
            self._turn = (self._turn + i + 1) % count
            return pool
        return last_resort if insist else None


class Pools:
    """All pools of a worker; they outlive tables, so a weight change never drops a connection."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._endpoints: dict[tuple[str, Endpoint], EndpointPool] = {}
        self.backends: dict[str, BackendPool] = {}
        self._down: frozenset[str] = frozenset()

    def enter_table(self, backends: dict[str, Backend]) -> None:
        """Make the pools of a new table, keeping those whose endpoints are still in use."""
        wanted: dict[tuple[str, Endpoint], EndpointPool] = {}
        self.backends = {}
        for backend in backends.values():
            pools = []
            for endpoint in backend.endpoints:
                key = (backend.name, endpoint)
                pool = self._endpoints.get(key) or EndpointPool(endpoint, backend, self._loop)
                pool.backend = backend
                wanted[key] = pool
                pools.append(pool)
            self.backends[backend.name] = BackendPool(pools)
        for key, pool in self._endpoints.items():
            if key not in wanted:
                pool.close()
        self._endpoints = wanted
        self.enter_health(self._down)

    def enter_health(self, down: frozenset[str]) -> None:
        """Take in what active probes found: the URLs of the endpoints that are down."""
        self._down = down
        self.each(lambda pool: setattr(pool, "down", pool.endpoint.url in down))

    def each(self, act: Callable[[EndpointPool], None]) -> None:
        """Do something with every endpoint's pool."""
        for pool in self._endpoints.values():
            act(pool)

    @property
    def open_count(self) -> int:
        """How many upstream connections are open or being made."""
        return sum(pool.open for pool in self._endpoints.values())
