"""The connections to one endpoint: leased, kept, capped; and what its attempts say of it.

Rules:

1. The freshest idle connection is leased first: it is the least likely to have gone stale.
2. At most ``connections_max`` are open per endpoint; further users wait in a bounded queue, first come first served. A
   full queue is refused at once. One who gives up leaves the queue.
   Requests whose body is still coming (*uploads*) may have half of the connections at most, so that clients that send
   slowly never take them all; further ones wait in a queue of their own, and join the others when their body is whole.
3. A connection whose exchange was cut short is closed, never kept: its bytes could belong to somebody else.
4. An endpoint that fails again and again is ejected for a while (outlier_ejection.py); one trial brings it back.
5. A name with several addresses takes them in turn, and tries the next when one cannot be connected to
   (runtime/resolver.py). A connection to an address that the name no longer leads to is closed as soon as it is idle.
6. What is done for those who wait is decided in one place: `decide` looks at queue, idle connections and room, and
   returns what is to be handed over, connected and closed. It calls nobody; what it returns is carried out after it.

Which of a backend's endpoints is next: backends.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import Final, cast

from gateway.core.traffic.table import Backend, Endpoint
from gateway.proxy.heads import gateway_errors
from gateway.proxy.heads.gateway_errors import Fault
from gateway.proxy.upstream.outlier_ejection import EjectionState, UsualFirstByte
from gateway.proxy.upstream.probed_health import ProbedHealth
from gateway.proxy.upstream.request_changes import RequestChanger
from gateway.proxy.upstream.types import (
    CONNECTION,
    NOTHING,
    UPLOAD_SHARE,
    Connect,
    ConnectionOwner,
    UpstreamConnection,
    UpstreamUser,
)
from gateway.runtime.client_tls import ClientTls
from gateway.runtime.resolver import Name, look_up

_log = logging.getLogger("gateway.worker")
# How long the rest of an unwanted answer is read before its connection is given up.
_DRAIN_S: Final = 1.0
# A want of the gateway's own (descriptors, ports, memory) says nothing about the backend.
_OWN_ERRORS: Final = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL))


class Moves:
    """What is to be done so that as few as possible wait (rule 6)."""

    __slots__ = ("close", "connect", "hand_over")

    def __init__(self) -> None:
        self.hand_over: list[tuple[UpstreamUser, UpstreamConnection]] = []
        self.connect: list[UpstreamUser] = []
        self.close: list[UpstreamConnection] = []


class EndpointPool(ConnectionOwner):
    """The connections to one endpoint."""

    def __init__(self, endpoint: Endpoint, backend: Backend, loop: asyncio.AbstractEventLoop, connect: Connect) -> None:
        self.endpoint = endpoint
        self._protocol = connect
        self.backend = backend
        self.host = _host(backend.host_header, endpoint)
        self.changer = _changer(backend, None)
        self.loop = loop
        self.idle: list[UpstreamConnection] = []
        self.open = 0
        self.leased = 0
        self.waiting: deque[UpstreamUser] = deque()
        # An idle connection that is being closed so that a new one can be made.
        self._giving_way: UpstreamConnection | None = None
        self.probed = ProbedHealth()
        self.uploads = 0
        self.waiting_uploads: deque[UpstreamUser] = deque()
        self.retired = False
        self._draining: list[UpstreamConnection] = []
        self.ejection = EjectionState(backend.passive)
        self.siblings: list[EndpointPool] = [self]
        self.usual = UsualFirstByte()  # of the whole backend: its pools share one
        self.ejections: dict[str, int] = {}  # of the whole worker, as its report counts them
        self._tasks: set[asyncio.Task[None]] = set()
        self._connecting: set[asyncio.Timeout] = set()
        self._name = Name(endpoint.host, endpoint.port, backend.resolve_s, backend.resolve_max_age_s, look_up)
        self._tls = ClientTls(backend.tls, backend.name) if endpoint.tls else None

    def adopt(self, backend: Backend) -> None:
        """Take over a newer table's settings; connections that stand stay."""
        self.backend = backend
        self.host = _host(backend.host_header, self.endpoint)
        self.changer = _changer(backend, self.changer)
        self.ejection.spec = backend.passive
        self._name.resolve_s, self._name.max_age_s = backend.resolve_s, backend.resolve_max_age_s
        self._name.restrict(backend.allow(self.endpoint))

    @property
    def down(self) -> bool:
        """Whether probes find it down; it may be used all the same (backends.py, rule 2)."""
        return self.probed.down

    def lease(self, user: UpstreamUser) -> UpstreamConnection | Fault | None:
        """A connection now, a fault now, or None: then `leased` or `refused` of the user is called later."""
        if user.uploading and not user.has_share and not self._take_share(user):
            if len(self.waiting_uploads) >= self.backend.queue_max:
                return gateway_errors.BODY_BUFFERS_FULL
            user.waits_for = UPLOAD_SHARE
            self.waiting_uploads.append(user)
            return None
        if not user.wants_fresh:
            while self.idle:
                connection = self.idle.pop()
                if connection.usable and (user.resendable or not connection.readable):
                    self.leased += 1
                    connection.reused = True
                    return connection
        if self.open >= self.backend.connections_max and len(self.waiting) >= self.backend.queue_max:
            return gateway_errors.QUEUE_FULL
        user.waits_for = CONNECTION
        self.waiting.append(user)
        self._carry_out(self.decide())
        return None

    def leave(self, user: UpstreamUser) -> None:
        """A user waits no longer."""
        if not self.leave_uploads(user):
            with contextlib.suppress(ValueError):  # it had a connection in the making, which goes to another
                self.waiting.remove(user)
        user.waits_for = NOTHING

    def decide(self) -> Moves:
        """What is to be done for those who wait, in their order; those who are served wait no longer (rule 6)."""
        moves = Moves()
        waiting, idle = self.waiting, self.idle
        room = self.backend.connections_max - self.open
        while waiting:
            user = waiting[0]
            while idle and not idle[-1].usable:
                idle.pop()  # see `closed`
            if idle and not user.wants_fresh:
                moves.hand_over.append((waiting.popleft(), idle.pop()))
            elif room > 0:
                room -= 1
                moves.connect.append(waiting.popleft())
            else:
                if idle and self._giving_way is None:
                    # It had a stale connection already; this one may be the next. See `closed`.
                    self._giving_way = idle.pop(0)
                    moves.close.append(self._giving_way)
                break
        if self.retired:
            moves.close += idle
            idle.clear()
        return moves

    def _carry_out(self, moves: Moves) -> None:
        for connection in moves.close:
            connection.close()
        for user in moves.connect:
            self._connect(user)
        for user, connection in moves.hand_over:
            self.leased += 1
            connection.reused = True
            user.waits_for = NOTHING
            user.leased(connection)

    # uploads (rule 2)

    def _take_share(self, user: UpstreamUser) -> bool:
        """Give a user whose body is still coming a share of the connections; False when there is none left."""
        if self.uploads >= max(1, self.backend.connections_max // 2):
            return False
        self.uploads += 1
        user.has_share = True
        return True

    def upload_ended(self, user: UpstreamUser) -> None:
        """A request's body is whole now, or needs no connection any more."""
        user.has_share = False
        self.uploads -= 1
        if self.waiting_uploads:
            self.loop.call_soon(self._next_upload)  # not from here: it may lead back to here

    def _next_upload(self) -> None:
        while self.waiting_uploads and self.uploads < max(1, self.backend.connections_max // 2):
            user = self.waiting_uploads.popleft()
            user.waits_for = NOTHING
            got = self.lease(user)
            if got is None:
                user.queued()
            elif isinstance(got, Fault):
                user.refused(got)
            else:
                user.leased(got)

    def leave_uploads(self, user: UpstreamUser) -> bool:
        """Take a user out of the uploads' queue; False when it is not in there."""
        if user.waits_for != UPLOAD_SHARE:
            return False
        self.waiting_uploads.remove(user)
        user.waits_for = NOTHING
        return True

    def drain(self, connection: UpstreamConnection) -> None:
        """A connection reads the rest of an unwanted answer, for a while."""
        connection.idle_since_s = monotonic()
        self._draining.append(connection)

    def release(self, connection: UpstreamConnection, *, reusable: bool) -> None:
        """A user is done with its connection: keep it, hand it to the next in the queue, or close it."""
        self.leased -= 1
        if not reusable or not (self._name.literal or self._name.leads_to(connection.address)):
            connection.close()
            return
        connection.idle_since_s = monotonic()
        self.idle.append(connection)
        if self.waiting or self.retired:
            self._carry_out(self.decide())

    def unleased(self) -> None:
        """A connection was lost while it was leased; `closed` follows."""
        self.leased -= 1

    def closed(self, connection: UpstreamConnection) -> None:
        """A connection's socket is gone. Called exactly once per connection that was made."""
        self.open -= 1
        if connection in self.idle:
            self.idle.remove(connection)
        if connection is self._giving_way:
            self._giving_way = None
        if self.waiting:
            self._carry_out(self.decide())

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

    def _connect(self, user: UpstreamUser) -> None:
        self.open += 1
        task = self.loop.create_task(self._open(user, user.connect_s))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _open(self, user: UpstreamUser, timeout_s: float) -> None:
        deadline = asyncio.timeout(timeout_s)
        try:
            async with deadline:
                self._connecting.add(deadline)
                try:
                    connection = await self._reach()
                finally:
                    self._connecting.discard(deadline)
        except TimeoutError:
            self._failed(user, gateway_errors.CONNECT_TIMEOUT)
        except (OSError, ValueError) as error:  # refused, unreachable, unresolvable, or a certificate that is wrong
            own = isinstance(error, OSError) and error.errno in _OWN_ERRORS
            self._failed(user, gateway_errors.TOO_MANY_CONNECTIONS if own else gateway_errors.CONNECT_FAILED)
        else:
            if connection.closing:  # reset before anybody could use it; `closed` has counted it off
                self._refuse(user, gateway_errors.RESET)
                return
            self.leased += 1
            if user.waits_for == CONNECTION:
                user.waits_for = NOTHING
                user.leased(connection)
            else:
                self.release(connection, reusable=True)

    async def _reach(self) -> UpstreamConnection:
        """A new connection, TLS and all, to the first of the name's addresses that takes it."""
        tls = self.backend.tls
        expected = (tls and tls.server_name) or self.endpoint.host
        address = await self._name.address()  # before they are counted: it may be the first look-up
        for left in range(self._name.count, 0, -1):
            connection = self._protocol(self)
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
        raise OSError(0, "no address accepted the connection")

    def _failed(self, user: UpstreamUser, fault: Fault) -> None:
        self.open -= 1
        if fault is not gateway_errors.TOO_MANY_CONNECTIONS:
            self.try_failed(fault.reason, user.since_s, timed_out=fault is gateway_errors.CONNECT_TIMEOUT)
        self._refuse(user, fault)
        # Those that queued for this endpoint need an answer as well; each tries on its own.
        if self.waiting:
            self._carry_out(self.decide())

    def _refuse(self, user: UpstreamUser, fault: Fault) -> None:
        if user.waits_for == CONNECTION:
            user.waits_for = NOTHING
            user.refused(fault)

    def proven(self, now_s: float) -> bool:
        """Whether requests have just shown that it works, whatever its probes' silence says."""
        return not self.ejection.streak and self.probed.outweighed(now_s)

    def takes_probed_trial(self, now_s: float) -> bool:
        """Whether one request may find out if it works after all; True begins that trial."""
        return self.leased == 0 and self.probed.takes_trial(now_s, failing=self.ejection.streak > 0)

    @property
    def load(self) -> int:
        """How many requests are under way here: on a connection, waiting for one, or having one made."""
        return self.open - len(self.idle) + len(self.waiting)

    def answered(self, since_s: float, first_byte_s: float) -> None:
        """The endpoint has answered a request that was sent at ``since_s``, and took ``first_byte_s`` for it."""
        self.usual.answered_s = since_s + first_byte_s
        self.usual.add(first_byte_s)
        ejection = self.ejection
        if (ejection.streak or ejection.out) and ejection.answered(monotonic(), since_s):
            _log.warning("endpoint %s of %s is back in rotation", self.endpoint.url, self.backend.name)

    def _may_eject(self, now_s: float) -> bool:
        """Whether few enough are out, and one that nothing speaks against is left.

        Where probes are ignored, what speaks for an endpoint is that it answered requests: were its probe held
        against it, a wrong probe path would keep an endpoint that fails in rotation.
        """
        out, left, ignoring_probes = 0, False, panics(self.siblings, self.backend.panic_percent, now_s)
        for other in self.siblings:
            if other is self:
                continue
            if other.ejection.out:
                out += 1
            elif not other.probed.down or (ignoring_probes and other.probed.well(now_s)):
                left = True
        return left and (not out or 100 * out < self.backend.passive.ejected_percent_max * len(self.siblings))

    def try_failed(self, reason: str, since_s: float, *, timed_out: bool = False) -> None:
        """The endpoint has failed a try, by its own doing."""
        now_s = monotonic()
        may_eject = self._may_eject(now_s)
        ejection = self.ejection
        if ejection.failed(reason, now_s, since_s, timed_out=timed_out, may_eject=may_eject):
            key = f"ejected {self.backend.name} {self.endpoint.url} {reason}"
            self.ejections[key] = self.ejections.get(key, 0) + 1
            _log.warning(
                "endpoint %s of %s is ejected for %g s: %s",
                *(self.endpoint.url, self.backend.name, ejection.lasts_s, reason),
            )


def panics(pools: list[EndpointPool], panic_percent: float, now_s: float) -> bool:
    """Whether so few of a backend's endpoints look well that what probes say is ignored."""
    usable = sum([not pool.probed.down or pool.proven(now_s) for pool in pools])
    return not usable or 100 * usable < panic_percent * len(pools)


def _host(wanted: str, endpoint: Endpoint) -> bytes:
    """What is sent as Host whatever the client said; empty where it is the client's."""
    if wanted == "client":
        return b""
    return (endpoint.authority if wanted == "endpoint" else wanted).encode()


def _changer(backend: Backend, before: RequestChanger | None) -> RequestChanger | None:
    """What changes the backend's requests; the one before where the changes are the same: it has read its files."""
    if backend.request is None or (before is not None and before.spec == backend.request):
        return None if backend.request is None else before
    return RequestChanger(backend.request, backend.name)


def _made(connection: UpstreamConnection) -> Callable[[], asyncio.Protocol]:
    """A factory of what is there already; a protocol by its methods alone (client_connection.py)."""
    return cast("Callable[[], asyncio.Protocol]", lambda: connection)
