"""Upstream connections: leased, kept, capped and, per endpoint, ejected.

Rules:

1. The freshest idle connection is leased first: it is the least likely to have gone stale.
2. At most ``connections_max`` are open per endpoint; further exchanges wait in a bounded queue, first come first
   served. A full queue is refused at once.
   One who gives up leaves the queue.
   Requests whose body is still coming (*uploads*) may have half of the connections at most, so that clients that send
   slowly never take them all; further ones wait in a queue of their own, and join the others when their body is whole.
3. A connection whose exchange was cut short is closed, never kept: its bytes could belong to somebody else.
4. Of a backend's endpoints the one with the fewest requests under way is next; where several have as few, in turn. So
   an endpoint that hangs holds no more requests than its siblings have in hand.
5. An endpoint that fails again and again is ejected for a while (passive.py); one trial brings it back.
6. A name with several addresses takes them in turn, and tries the next when one cannot be connected to
   (runtime/resolver.py). A connection to an address that the name no longer leads to is closed as soon as it is idle.
7. What probes say of an endpoint is weighed against what its requests have shown (probed.py). Neither probes nor
   ejections take a whole backend away: when no other endpoint is left, those that are out or down are used as well. A
   canary's are then tried by one request at a time, since stable answers the others.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING, Final, cast

from gateway.core.traffic.table import Backend, BackendTls, Endpoint
from gateway.proxy import faults
from gateway.proxy.faults import Fault
from gateway.proxy.passive import PassiveHealth, Usual
from gateway.proxy.plain import PlainReader
from gateway.proxy.probed import ProbedHealth
from gateway.proxy.upstream import UpstreamConnection
from gateway.runtime.clienttls import ClientTls
from gateway.runtime.resolver import Name, look_up
from gateway.runtime.wire import Ejected

_Key = tuple[str, Endpoint, BackendTls | None]

if TYPE_CHECKING:
    from gateway.proxy.exchange import Exchange

_log = logging.getLogger("gateway.worker")
# How long the rest of an unwanted answer is read before its connection is given up.
_DRAIN_S: Final = 1.0
# A want of the gateway's own (descriptors, ports, memory) says nothing about the backend.
_OWN_ERRORS: Final = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL))


class EndpointPool:
    """The connections to one endpoint."""

    def __init__(
        self, endpoint: Endpoint, backend: Backend, loop: asyncio.AbstractEventLoop, plain: PlainReader
    ) -> None:
        self.endpoint = endpoint
        self.plain = plain
        self.backend = backend
        self.host = _host(backend.host_header, endpoint)
        self.loop = loop
        self.idle: list[UpstreamConnection] = []
        self.open = 0
        self.leased = 0
        self.waiting: deque[Exchange] = deque()
        self.probed = ProbedHealth()
        self.uploads = 0
        self.waiting_uploads: deque[Exchange] = deque()
        self.retired = False
        self._draining: list[UpstreamConnection] = []
        self.passive = PassiveHealth(backend.passive)
        self.siblings: list[EndpointPool] = [self]
        self.usual = Usual()  # of the whole backend: its pools share one
        self.ejections: dict[str, int] = {}  # of the whole worker, as its report counts them
        self._tasks: set[asyncio.Task[None]] = set()
        self._connecting: set[asyncio.Timeout] = set()
        self._name = Name(endpoint.host, endpoint.port, backend.resolve_s, backend.resolve_max_age_s, look_up)
        self._tls = ClientTls(backend.tls, backend.name) if endpoint.tls else None

    def adopt(self, backend: Backend) -> None:
        """Take over a newer table's settings; connections that stand stay."""
        self.backend = backend
        self.host = _host(backend.host_header, self.endpoint)
        self.passive.spec = backend.passive
        self._name.resolve_s, self._name.max_age_s = backend.resolve_s, backend.resolve_max_age_s
        self._name.restrict(backend.allow(self.endpoint))

    @property
    def down(self) -> bool:
        """Whether probes find it down; it may be used all the same (rule 6)."""
        return self.probed.down

    def lease(self, exchange: Exchange) -> UpstreamConnection | Fault | None:
        """A connection now, a fault now, or None: then the exchange's `leased` or `lease_failed` is called later."""
        if not exchange.request_body.complete and not self._upload_begins(exchange):
            if len(self.waiting_uploads) >= self.backend.queue_max:
                return faults.BODY_BUFFERS_FULL
            self.waiting_uploads.append(exchange)
            return None
        while self.idle:
            connection = self.idle.pop()
            if connection.usable and (exchange.may_be_resent or not connection.readable):
                self.leased += 1
                connection.reused = True
                return connection
        return self.lease_fresh(exchange)

    def lease_fresh(self, exchange: Exchange) -> UpstreamConnection | Fault | None:
        """Like `lease`, but never a kept connection: for the retry after a stale one."""
        if self.open < self.backend.connections_max:
            self._connect(exchange)
            return None
        if len(self.waiting) >= self.backend.queue_max:
            return faults.QUEUE_FULL
        if self.idle:
            self.idle.pop(0).close()  # it makes room for the new one: see `closed`
        self.waiting.append(exchange)
        return None

    def leave(self, exchange: Exchange) -> None:
        """An exchange waits no longer."""
        if not self.leave_uploads(exchange):
            with contextlib.suppress(ValueError):  # it had a connection in the making, which goes to another
                self.waiting.remove(exchange)

    # uploads (rule 2)

    def _upload_begins(self, exchange: Exchange) -> bool:
        """Give an exchange whose body is still coming a share of the connections; False when there is none left."""
        if exchange.upload_pool is self:  # another connection for the same try
            return True
        if self.uploads >= max(1, self.backend.connections_max // 2):
            return False
        self.uploads += 1
        exchange.upload_pool = self
        return True

    def upload_ended(self) -> None:
        """A request's body is whole now, or needs no connection any more."""
        self.uploads -= 1
        if self.waiting_uploads:
            self.loop.call_soon(self._next_upload)  # not from here: it may lead back to here

    def _next_upload(self) -> None:
        while self.waiting_uploads and self.uploads < max(1, self.backend.connections_max // 2):
            exchange = self.waiting_uploads.popleft()
            if exchange.waits_for(self):
                exchange.lease_again()

    def leave_uploads(self, exchange: Exchange) -> bool:
        """Take an exchange out of the uploads' queue; False when it is not in there."""
        if not self.waiting_uploads:
            return False
        with contextlib.suppress(ValueError):
            self.waiting_uploads.remove(exchange)
            return True
        return False

    def drain(self, connection: UpstreamConnection) -> None:
        """A connection reads the rest of an unwanted answer, for a while."""
        connection.idle_since_s = monotonic()
        self._draining.append(connection)

    def release(self, connection: UpstreamConnection, *, reusable: bool) -> None:
        """An exchange is done with its connection: keep it, hand it to the next in the queue, or close it."""
        self.leased -= 1
        if not reusable or not (self._name.literal or self._name.leads_to(connection.address)):
            connection.close()
            return
        waiter = self._next_waiter()
        if waiter is not None and waiter.wants_fresh:
            # It was met by a stale connection already; this one may be the next.
            self.waiting.appendleft(waiter)
            connection.close()
        elif waiter is not None:
            self.leased += 1
            connection.reused = True
            waiter.leased(connection)
        elif self.retired:
            connection.close()
        else:
            connection.idle_since_s = monotonic()
            self.idle.append(connection)

    def closed(self, connection: UpstreamConnection) -> None:
        """A connection's socket is gone. Called exactly once per connection that was made."""
        self.open -= 1
        if connection in self.idle:
            self.idle.remove(connection)
        self._connect_next()

    def sweep(self, now_s: float) -> None:
        """Close connections that have idled for too long, or whose address the name no longer leads to."""
        expired = now_s - self.backend.keepalive_s
        name = self._name
        if not self.retired:
            name.refresh()  # kept connections alone would never ask where the name leads by now
        for connection in [c for c in self.idle if c.idle_since_s < expired or not name.leads_to(c.address)]:
            self.idle.remove(connection)
            connection.close()
        if self._draining:
            late_s = now_s - _DRAIN_S
            for connection in self._draining:
                if connection.draining and connection.idle_since_s < late_s:
                    connection.end_drain()
            self._draining = [c for c in self._draining if c.draining]

    def refresh_tls(self) -> None:
        """Take in the files of TLS that have changed, for the connections to come."""
        if self._tls is not None:
            self._tls.refresh()

    def forgive(self, late_s: float) -> None:
        """The loop stood still for that long: connections in the making have as much more time."""
        for deadline in self._connecting:
            at_s = deadline.when()
            if at_s is not None and not deadline.expired():
                deadline.reschedule(at_s + late_s)

    def close(self) -> None:
        """The endpoint is in no table any more: close what is idle, and the rest when it is given back."""
        self.retired = True
        for connection in self.idle:
            connection.close()
        self.idle.clear()

    def _next_waiter(self) -> Exchange | None:
        while self.waiting:
            exchange = self.waiting.popleft()
            if exchange.waits_for(self):
                return exchange
        return None

    def _connect_next(self) -> None:
        if self.open < self.backend.connections_max:
            waiter = self._next_waiter()
            if waiter is not None:
                self._connect(waiter)

    def _connect(self, exchange: Exchange) -> None:
        self.open += 1
        task = self.loop.create_task(self._open(exchange, exchange.route.timeouts.connect_s))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _open(self, exchange: Exchange, timeout_s: float) -> None:
        deadline = asyncio.timeout(timeout_s)
        try:
            async with deadline:
                self._connecting.add(deadline)
                try:
                    connection = await self._reach()
                finally:
                    self._connecting.discard(deadline)
        except TimeoutError:
            self._failed(exchange, faults.CONNECT_TIMEOUT)
        except (OSError, ValueError) as error:  # refused, unreachable, unresolvable, or a certificate that is wrong
            own = isinstance(error, OSError) and error.errno in _OWN_ERRORS
            self._failed(exchange, faults.TOO_MANY_CONNECTIONS if own else faults.CONNECT_FAILED)
        else:
            if connection.closing:  # reset before anybody could use it; `closed` has counted it off
                if exchange.waits_for(self):
                    exchange.lease_failed(faults.RESET)
                return
            self.leased += 1
            if exchange.waits_for(self):
                exchange.leased(connection)
            else:
                self.release(connection, reusable=True)

    async def _reach(self) -> UpstreamConnection:
        """A new connection, TLS and all, to the first of the name's addresses that takes it."""
        tls = self.backend.tls
        expected = (tls and tls.server_name) or self.endpoint.host
        address = await self._name.address()  # before they are counted: it may be the first look-up
        for left in range(self._name.count, 0, -1):
            connection = UpstreamConnection(self)
            try:
                await self.loop.create_connection(
                    _made(connection),
                    address,
                    self.endpoint.port,
                    ssl=None if self._tls is None else self._tls.context,
                    server_hostname=None if self._tls is None else expected,
                )
            except OSError as error:
                if error.errno in _OWN_ERRORS:
                    raise
                self._name.failed(address)
                if left == 1:
                    raise
                address = await self._name.address()
            except asyncio.CancelledError:
                if connection.transport is not None:  # it came about as the time ended: `closed` counts it off, too
                    self.open += 1
                raise
            else:
                connection.address = address
                return connection
        raise OSError(0, "no address took the connection")

    def _failed(self, exchange: Exchange, fault: Fault) -> None:
        self.open -= 1
        if fault is not faults.TOO_MANY_CONNECTIONS:
            self.try_failed(fault.reason, exchange.try_since_s, timed_out=fault is faults.CONNECT_TIMEOUT)
        if exchange.waits_for(self):
            exchange.lease_failed(fault)
        # Those that queued for this endpoint need an answer as well; each tries on its own.
        self._connect_next()

    def proven(self, now_s: float) -> bool:
        """Whether requests have just shown that it works, whatever its probes' silence says."""
        return not self.passive.streak and self.probed.outweighed(now_s)

    def takes_probed_trial(self, now_s: float) -> bool:
        """Whether one request may find out if it works after all; True begins that trial."""
        return self.leased == 0 and self.probed.takes_trial(now_s, failing=self.passive.streak > 0)

    @property
    def load(self) -> int:
        """How many requests are under way here: on a connection, waiting for one, or having one made."""
        return self.open - len(self.idle) + len(self.waiting)

    def answered(self, since_s: float, first_byte_s: float) -> None:
        """The endpoint has answered a request that was sent at ``since_s``, and took ``first_byte_s`` for it."""
        self.usual.answered_s = since_s + first_byte_s
        self.usual.add(first_byte_s)
        passive = self.passive
        if (passive.streak or passive.out) and passive.answered(monotonic(), since_s):
            _log.warning("endpoint %s of %s is back in rotation", self.endpoint.url, self.backend.name)

    def try_failed(self, reason: str, since_s: float, *, timed_out: bool = False) -> None:
        """The endpoint has failed a try, by its own doing."""
        out = sum(pool.passive.out for pool in self.siblings if pool is not self)
        others = any(not (pool.passive.out or pool.probed.down) for pool in self.siblings if pool is not self)
        few = not out or 100 * (out + 1) <= self.backend.passive.ejected_percent_max * len(self.siblings)
        passive = self.passive
        if passive.failed(reason, monotonic(), since_s, timed_out=timed_out, may_eject=few and others):
            key = f"ejected {self.backend.name} {self.endpoint.url} {reason}"
            self.ejections[key] = self.ejections.get(key, 0) + 1
            _log.warning(
                "endpoint %s of %s is ejected for %g s: %s",
                *(self.endpoint.url, self.backend.name, passive.lasts_s, reason),
            )


def _host(wish: str, endpoint: Endpoint) -> bytes:
    """What is sent as Host whatever the client said; empty where it is the client's."""
    if wish == "client":
        return b""
    return (endpoint.authority if wish == "endpoint" else wish).encode()


class BackendPool:
    """The endpoints of one backend and the turn among them."""

    def __init__(self, pools: list[EndpointPool], panic_percent: float, usual: Usual) -> None:
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
        heeds_probes = not self.downs or not insist or not self.panics(now_s)
        for i in range(count):
            at = (self._turn + i) % count
            pool = pools[at]
            passive = pool.passive
            if pool in tried or (pool.probed.down and heeds_probes and not self._uses_despite_probes(pool, now_s)):
                continue
            if passive.out:
                if tried or not passive.wants_trial(now_s):
                    continue
                best, place = pool, at
                break
            load = pool.load
            if best is not None and load >= least:
                continue
            if not passive.takes_turn(now_s):
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
        the only one to wait for it. Probes' silence makes trials rarer (probed.py, rule 3).
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
        return any(pool.down or pool.passive.out for pool in self.pools)

    @property
    def load(self) -> int:
        """How many requests are under way."""
        return sum([pool.load for pool in self.pools])

    def _uses_despite_probes(self, pool: EndpointPool, now_s: float) -> bool:
        """Whether requests have proven it well; or one is to find out, where probes find no endpoint up."""
        return pool.proven(now_s) or (self.downs == len(self.pools) and pool.takes_probed_trial(now_s))

    def panics(self, now_s: float) -> bool:
        """Whether so few endpoints look well that probes are not heeded (``panic_percent``)."""
        if not self.downs:
            return False
        usable = sum([not pool.probed.down or pool.proven(now_s) for pool in self.pools])
        return not usable or 100 * usable < self.panic_percent * len(self.pools)

    def count_downs(self) -> None:
        """Count anew what probes find down."""
        self.downs = sum([pool.probed.down for pool in self.pools])


class Pools:
    """All pools of a worker; they outlive tables, so a weight change never drops a connection."""

    def __init__(self, loop: asyncio.AbstractEventLoop, plain: PlainReader) -> None:
        self._loop = loop
        self._plain = plain
        self._endpoints: dict[_Key, EndpointPool] = {}
        # Endpoints of no table any more, until the last of their connections is closed.
        self._retired: list[EndpointPool] = []
        self.backends: dict[str, BackendPool] = {}
        self.ejections: dict[str, int] = {}
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
                pool = self._endpoints.get(key) or EndpointPool(endpoint, backend, self._loop, self._plain)
                pool.adopt(backend)
                pool.ejections = self.ejections
                wanted[key] = pool
                pools.append(pool)
            before = known.get(backend.name)
            usual = Usual() if before is None else before.usual
            self.backends[backend.name] = BackendPool(pools, backend.panic_percent, usual)
        for key, pool in self._endpoints.items():
            if key not in wanted:
                pool.close()
                self._retired.append(pool)
        self._endpoints = wanted
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
            pool.passive.begin_slowly(monotonic())
        pool.probed.enter(refused is not None, bool(refused))

    def ejected(self) -> tuple[Ejected, ...]:
        """The endpoints that live traffic keeps out of rotation."""
        out = [(name, pool) for name, backend in self.backends.items() for pool in backend.pools if pool.passive.out]
        return tuple([Ejected(name, p.endpoint.url, p.passive.reason, p.passive.lasts_s) for name, p in out])

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
    def connections_max(self) -> int:
        """How many upstream connections there may be at once."""
        return sum(pool.backend.connections_max for pool in self._endpoints.values())

    @property
    def open_count(self) -> int:
        """How many upstream connections are open or being made."""
        return sum(pool.open for pool in (*self._endpoints.values(), *self._retired))


def _made(connection: UpstreamConnection) -> Callable[[], asyncio.Protocol]:
    """A factory of what is there already; a protocol by its methods alone (upstream.py)."""
    return cast("Callable[[], asyncio.Protocol]", lambda: connection)
