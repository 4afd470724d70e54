"""One request and what becomes of it, as named phases in file order: admit, choose, lease, send, relay, settle.

Rules:

1. An exchange reads the routing table once, in `choose`; whatever happens is counted under that table's epoch.
2. `settle` runs exactly once, also when the client vanishes or an upstream fails: it gives back the connection, counts
   what is still uncounted, and tells the downstream connection that it may go on.
3. A failed try on the canary is answered by stable in the same exchange (a *rescue*) as long as no byte of a response
   has reached the client, the route allows replays, the body was kept and the budget has room. It counts as the
   canary's failure all the same, with the latency at which it failed.
4. Only an assigned try is evidence: forced variants and the rescue's own answer never are, nor is what the client or
   the gateway itself broke.
5. A reset on a kept connection before any response byte is the keep-alive race, not a failure: one free retry on a
   fresh connection. A refused connection moves on to the backend's next endpoint.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.core.errors import Blame
from gateway.core.traffic.split import bucket_of_key, variant_for
from gateway.core.traffic.table import Route
from gateway.core.types import WEIGHT_BP_MAX, Variant
from gateway.proxy import faults, headers
from gateway.proxy.faults import Fault
from gateway.proxy.headers import RawHeaders, RequestHead, ResponseHead
from gateway.proxy.tally import RouteTally

if TYPE_CHECKING:
    from gateway.proxy.http1 import DownstreamConnection
    from gateway.proxy.pool import BackendPool, EndpointPool
    from gateway.proxy.state import WorkerState
    from gateway.proxy.upstream import UpstreamConnection

# What is held of a body while no upstream is there to take it; beyond, the client is made to wait.
_UNSENT_BYTES_MAX = 64 * 1024
_VARIANT_LINES = (
    b"%b: stable\r\n" % headers.VARIANT_HEADER,
    b"%b: canary\r\n" % headers.VARIANT_HEADER,
)
_RESCUED_LINE = b"%b: true\r\n" % headers.RESCUED_HEADER
_LABELS = {b"stable": Variant.STABLE, b"canary": Variant.CANARY}
_OK, _ERRORS, _CLIENT_ERRORS, _OVERLOAD = "ok", "errors", "client_errors", "overload"


def failure_class(status: int) -> str:
    """The class of a response by its status: ``ok``, ``errors``, ``client_errors`` or ``overload``.

    401, 403, 404 and 429 say more about the client than about the model, hence the exceptions.
    """
    if status < 400 or status in (401, 403, 404):
        return _OK
    if status in (429, 503):
        return _OVERLOAD
    return _ERRORS if status >= 500 else _CLIENT_ERRORS


class Exchange:
    """A request from its head to its settlement."""

    __slots__ = (
        "_backends",
        "_blocked",
        "_body_done",
        "_chunk_out",
        "_connection",
        "_counted",
        "_deadline_fault",
        "_downstream",
        "_duration_from_s",
        "_first_byte_s",
        "_fresh_tried",
        "_head",
        "_keep_alive",
        "_keeps_body",
        "_kept",
        "_kept_bytes",
        "_out",
        "_path",
        "_relayed",
        "_rescue_kind",
        "_settled",
        "_stalled",
        "_status",
        "_target",
        "_tried",
        "_try_since_s",
        "_version",
        "_waiting_for",
        "_worker",
        "assigned",
        "deadline_s",
        "fault",
        "forced",
        "method",
        "rescued",
        "route",
        "started",
        "tally",
        "total_at_s",
        "variant",
    )

    def __init__(
        self, worker: WorkerState, downstream: DownstreamConnection, method: bytes, version: str, *, keep_alive: bool
    ) -> None:
        self._worker = worker
        self._downstream = downstream
        self.method = method
        self._version = version
        self._keep_alive = keep_alive
        self._head: RequestHead = None  # type: ignore[assignment]  # set by admit; without it the exchange has a fault
        self._target = self._path = b""
        self.fault: Fault | None = None
        self.started = False
        self.route: Route = None  # type: ignore[assignment]  # set by choose, before anything that reads it
        self.tally: RouteTally | None = None
        self.assigned = self.variant = Variant.STABLE
        self.forced = False
        self.rescued = False
        self._backends: dict[str, BackendPool] = {}
        self._connection: UpstreamConnection | None = None
        self._waiting_for: EndpointPool | None = None
        self._tried: tuple[EndpointPool, ...] = ()
        self._fresh_tried = False
        self._kept: list[bytes] = []
        self._kept_bytes = 0
        self._keeps_body = True
        self._body_done = False
        self._out: list[bytes] = []
        self._chunk_out = False
        self._relayed = False
        self._rescue_kind: str | None = None
        self._stalled = False
        self._blocked = False
        self._counted = False
        self._settled = False
        self._status = 0
        self._duration_from_s = 0.0
        self._try_since_s = 0.0
        self._first_byte_s = 0.0
        self.deadline_s = 0.0
        self._deadline_fault = faults.BODY_TIMEOUT
        self.total_at_s = 0.0

    # admit: is this a request that may be forwarded at all?

    def admit(self, target: bytes, fields: RawHeaders) -> None:
        """Check head, target and limits; a refusal is kept in ``fault`` until the exchange's turn comes."""
        downstream = self._downstream
        if self.method in (b"CONNECT", b"TRACE"):
            self.fault = faults.METHOD_NOT_ALLOWED
            return
        split = headers.read_target(target, self.method)
        if isinstance(split, Fault):
            self.fault = split
            return
        self._target, self._path, authority = split
        head = headers.read_request(
            fields, self._version, downstream.peer, downstream.trusted, downstream.tls, authority
        )
        if isinstance(head, Fault):
            self.fault = head
            return
        self._head = head
        limit = self._worker.limits.body_bytes_max
        if limit is not None and (head.content_length or 0) > limit:
            self.fault = faults.BODY_TOO_LARGE

    def start(self) -> None:
        """Its turn has come: act on all that has arrived so far."""
        self.started = True
        now_s = self._worker.now_s()
        self._duration_from_s = now_s
        self._worker.active[self] = None
        if self.fault is not None:
            self._answer(self.fault)
            return
        # Not before its turn: a request that waited behind others goes by the table that is in force now (rule 1).
        found = self._worker.router.match(self._head.host, self._path)
        if found is None:
            self._answer(faults.NO_ROUTE)
            return
        self.route = found
        self.total_at_s = now_s + found.timeouts.total_s
        self.choose()

    # choose: which variant?

    def choose(self) -> None:
        """Assign a variant: forced by header, by sticky key, or by an independent draw."""
        worker, route = self._worker, self.route
        self._backends = worker.pools.backends
        tally = self.tally = worker.tallies[route.name]
        tally.open += 1
        worker.budget(route).deposit()
        if route.canary is not None:
            if route.forced_header is not None:
                wish = self._head.first(route.forced_header.encode())
                forced = _LABELS.get(wish.strip().lower()) if wish is not None else None
                if forced is not None:
                    self.forced = True
                    self.assigned = forced
                    tally.totals[forced].forced += 1
            if not self.forced and route.weight_bp:
                self.assigned = variant_for(self._point(), route.weight_bp)
        self.variant = self.assigned
        self._keeps_body = route.rescue.replayable
        self.lease()

    def _point(self) -> float:
        sticky = self.route.sticky
        if sticky is not None:
            key = None
            if sticky.header is not None:
                key = self._head.first(sticky.header.encode())
            elif sticky.cookie is not None:
                key = headers.cookie_value(self._head.cookies, sticky.cookie.encode())
            if key:
                return bucket_of_key(key, self.route.salt)
        return self._worker.draw() * WEIGHT_BP_MAX

    # lease: a connection to one of the variant's endpoints

    def lease(self) -> None:
        """Ask the next untried endpoint of the variant's backend for a connection."""
        name = self.route.canary if self.variant else self.route.stable
        assert name is not None  # a canary is only chosen on a route that has one
        now_s = self._worker.now_s()
        pool = self._backends[name].pick(self._tried, now_s, insist=self.variant is Variant.STABLE)
        self._try_since_s = now_s
        if pool is None:
            self._failed(faults.NO_ENDPOINT)
            return
        self._tried = (*self._tried, pool)
        self._lease_from(pool, fresh=False)

    def _lease_from(self, pool: EndpointPool, *, fresh: bool) -> None:
        got = pool.lease_fresh(self) if fresh else pool.lease(self)
        if got is None:
            self._waiting_for = pool
            self._set_deadline(self.route.timeouts.connect_s + self.route.timeouts.first_byte_s, faults.CONNECT_TIMEOUT)
            if self._kept_bytes > _UNSENT_BYTES_MAX:
                self._downstream.pause_reading()
        elif isinstance(got, Fault):
            self._failed(got)
        else:
            self.send(got)

    def waits_for(self, pool: EndpointPool) -> bool:
        """Whether the exchange still wants a connection from that pool."""
        return self._waiting_for is pool

    def leased(self, connection: UpstreamConnection) -> None:
        """The pool has a connection for us."""
        self._waiting_for = None
        self.send(connection)

    def lease_failed(self, fault: Fault) -> None:
        """The pool could not connect: move on to the backend's next endpoint, if there is one."""
        self._waiting_for = None
        name = self.route.canary if self.variant else self.route.stable
        assert name is not None  # as in lease
        if len(self._tried) < len(self._backends[name].pools):
            self.lease()
        else:
            self._failed(fault)

    # send: the request, with fresh framing

    def send(self, connection: UpstreamConnection) -> None:
        """Write the head and all of the body that is here; the rest follows as it comes."""
        self._connection = connection
        connection.attach(self)
        head = self._head
        parts = [self.method, b" ", self._target, b" HTTP/1.1\r\nhost: "]
        parts += (head.host or connection.pool.endpoint.authority.encode(), b"\r\n")
        parts += head.lines
        if head.content_length is not None:
            parts.append(b"content-length: %d\r\n\r\n" % head.content_length)
        elif head.chunked:
            parts.append(b"transfer-encoding: chunked\r\n\r\n")
        else:
            parts.append(b"\r\n")
        if head.chunked:
            parts += [_chunk(piece) for piece in self._kept]
            if self._body_done:
                parts.append(b"0\r\n\r\n")
        else:
            parts += self._kept
        if not self._keeps_body or self._kept_bytes > self.route.rescue.body_bytes_max:
            self._drop_kept()
        now_s = self._worker.now_s()
        self._try_since_s = now_s
        if self._body_done:
            self._set_deadline_at(now_s + self.route.timeouts.first_byte_s, faults.FIRST_BYTE_TIMEOUT)
        else:
            self._set_deadline_at(now_s + self.route.timeouts.idle_s, faults.BODY_TIMEOUT)
            if head.expects_continue:
                head.expects_continue = False
                self._downstream.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        self._blocked = False
        self._downstream.resume_reading()
        if self._stalled:
            connection.transport.pause_reading()
        connection.write(b"".join(parts))

    def body(self, piece: bytes) -> None:
        """A piece of the request's body."""
        if self.fault is not None or self._settled:
            return
        self._kept_bytes += len(piece)
        limit = self._worker.limits.body_bytes_max
        if limit is not None and self._kept_bytes > limit:
            self.malformed(faults.BODY_TOO_LARGE)
            return
        sent = self._connection is not None
        if self._keeps_body or not sent:
            self._kept.append(piece)
        if not sent:
            if self.started and self._kept_bytes > _UNSENT_BYTES_MAX:
                self._downstream.pause_reading()
            return
        assert self._connection is not None
        if self._keeps_body and self._kept_bytes > self.route.rescue.body_bytes_max:
            self._drop_kept()
        self._connection.write(_chunk(piece) if self._head.chunked else piece)
        if not self._blocked:
            self._set_deadline(self.route.timeouts.idle_s, faults.BODY_TIMEOUT)

    def body_complete(self) -> None:
        """The request's body is whole."""
        self._body_done = True
        connection = self._connection
        if connection is None or self._settled:
            return
        if self._head.chunked:
            connection.write(b"0\r\n\r\n")
        if self._first_byte_s:
            self._set_deadline(self.route.timeouts.idle_s, faults.IDLE_TIMEOUT)
        else:
            now_s = self._worker.now_s()
            self._try_since_s = now_s
            self._set_deadline_at(now_s + self.route.timeouts.first_byte_s, faults.FIRST_BYTE_TIMEOUT)

    def _drop_kept(self) -> None:
        self._kept.clear()
        self._keeps_body = False

    # relay: the response, as it comes

    def upstream_interim(self, status: int, reason: bytes, fields: RawHeaders) -> None:
        """Pass a 1xx on at once, to clients that can take it."""
        if self._version != "1.1" or self._relayed:
            return
        head = headers.read_response(fields)
        if not isinstance(head, Fault):
            self._downstream.write(b"HTTP/1.1 %d %b\r\n%b\r\n" % (status, reason, b"".join(head.lines)))

    def upstream_head(self, status: int, reason: bytes, head: ResponseHead, *, bodyless: bool) -> None:
        """The response's head is whole and sound; nothing is written before `upstream_progress`."""
        self._first_byte_s = self._worker.now_s()
        self._status = status
        kind = failure_class(status)
        if self.variant is Variant.CANARY and kind in (_ERRORS, _OVERLOAD) and self._may_rescue():
            self._rescue_kind = kind
            return
        out = self._out
        out.append(b"HTTP/1.1 %d %b\r\n" % (status, reason))
        out += head.lines
        out.append(_VARIANT_LINES[self.variant])
        if self.rescued:
            out.append(_RESCUED_LINE)
        if head.content_length is not None:
            if status != 204:
                out.append(b"content-length: %d\r\n" % head.content_length)
        elif not bodyless:
            if self._version == "1.1":
                out.append(b"transfer-encoding: chunked\r\n")
                self._chunk_out = True
            else:
                self._keep_alive = False
        if not self._body_done or self._downstream.last:
            self._keep_alive = False
        if not self._keep_alive:
            out.append(b"connection: close\r\n")
        elif self._version == "1.0":
            out.append(b"connection: keep-alive\r\n")
        out.append(b"\r\n")

    def upstream_body(self, piece: bytes) -> None:
        """A piece of the response's body."""
        if self._rescue_kind is None:
            if self._chunk_out:
                self._out += (b"%x\r\n" % len(piece), piece, b"\r\n")
            else:
                self._out.append(piece)

    def upstream_progress(self, connection: UpstreamConnection, fault: Fault | None, *, complete: bool) -> None:
        """A chunk from upstream has been parsed: write what it brought, and act on its end."""
        if self._rescue_kind is not None:  # also when the failed answer turned out to be malformed
            kind, self._rescue_kind = self._rescue_kind, None
            self._release(drain=True)
            self._rescue(kind)
            return
        if fault is not None:
            self._release(drain=False)
            self._failed(fault)
            return
        if complete:
            if self._chunk_out:
                self._out.append(b"0\r\n\r\n")
            self._release(drain=False)
            self._flush()
            self._completed()
        elif self._out:
            self._flush()
            # As long as the body is not whole, it is the client's turn as much as the backend's.
            fault = faults.IDLE_TIMEOUT if self._body_done or self._blocked else faults.BODY_TIMEOUT
            self._set_deadline(self.route.timeouts.idle_s, fault)

    def upstream_ended(self) -> None:
        """The end of a body that only the connection's end delimits."""
        self._connection = None
        if self._chunk_out:
            self._out.append(b"0\r\n\r\n")
        self._flush()
        self._completed()

    def upstream_failed(self, fault: Fault) -> None:
        """The upstream connection is gone before the response was whole."""
        connection, self._connection = self._connection, None
        if fault is faults.STALE and connection is not None and not self._fresh_tried and self._replayable():
            self._fresh_tried = True
            self._tried_result("stale")
            self._lease_from(connection.pool, fresh=True)
        else:
            self._failed(fault)

    def _flush(self) -> None:
        if self._out:
            self._relayed = True
            self._downstream.write(b"".join(self._out))
            self._out.clear()

    # backpressure

    def pause_downstream(self) -> None:
        """The backend takes the body slowly: so does the gateway, and the wait is the backend's."""
        self._blocked = True
        self._downstream.pause_reading()
        if not self._body_done:
            fault = faults.IDLE_TIMEOUT if self._first_byte_s else faults.FIRST_BYTE_TIMEOUT
            self._set_deadline(self.route.timeouts.idle_s, fault)

    def resume_downstream(self) -> None:
        """The backend takes more."""
        self._blocked = False
        self._downstream.resume_reading()
        if not self._body_done:
            self._set_deadline(self.route.timeouts.idle_s, faults.BODY_TIMEOUT)

    def pause_upstream(self) -> None:
        """The client takes the response slowly: so does the gateway."""
        self._stalled = True
        if self._connection is not None and not self._connection.closing:
            self._connection.transport.pause_reading()

    def resume_upstream(self) -> None:
        """The client takes more."""
        self._stalled = False
        if self._connection is not None and not self._connection.closing:
            self._connection.transport.resume_reading()
            self._set_deadline(self.route.timeouts.idle_s, faults.IDLE_TIMEOUT)

    # failure, deadline, rescue

    def sweep(self, now_s: float) -> None:
        """Act on a deadline that has passed."""
        if self._settled or not self.total_at_s:
            return
        if now_s >= self.total_at_s:
            fault = faults.TOTAL_TIMEOUT
        elif self.deadline_s and now_s >= self.deadline_s:
            fault = self._deadline_fault
        else:
            return
        if fault.blame is Blame.DOWNSTREAM or self._stalled:
            self._refuse(faults.BODY_TIMEOUT)
            return
        # A try that was sent whole and outlasted all of the exchange's time came to nothing by the backend's doing.
        outlasted = fault is faults.TOTAL_TIMEOUT and self._connection is not None and self._body_done
        self._wait_no_longer()
        self._release(drain=False)
        if outlasted:
            self._tried_result(_ERRORS)
            self._count(_ERRORS)
        self._failed(fault)

    def _set_deadline(self, after_s: float, fault: Fault) -> None:
        self._set_deadline_at(self._worker.now_s() + after_s, fault)

    def _set_deadline_at(self, at_s: float, fault: Fault) -> None:
        self.deadline_s = at_s
        self._deadline_fault = fault

    def _failed(self, fault: Fault) -> None:
        """The present try came to nothing (its connection is already given back)."""
        self._out.clear()
        if fault.blame is Blame.UPSTREAM:
            if self.variant is Variant.CANARY and self._may_rescue():
                self._rescue(_ERRORS)
                return
            self._tried_result(_ERRORS)
            self._count(_ERRORS)
        elif self.variant is Variant.CANARY and fault is not faults.TOTAL_TIMEOUT and self._may_rescue():
            self._rescue(None)
            return
        self._answer(fault)

    def _replayable(self) -> bool:
        return not self._relayed and self._keeps_body

    def _may_rescue(self) -> bool:
        if not self._replayable():
            return False
        if not self._worker.budget(self.route).take():
            assert self.tally is not None
            self.tally.totals[Variant.CANARY].rescue_denied += 1
            return False
        return True

    def _rescue(self, kind: str | None) -> None:
        """Let stable answer; the canary's failure is counted first (``kind`` None: it was not the canary's)."""
        assert self.tally is not None
        if kind is not None:
            self._tried_result(kind)
            self._count(kind)
        else:
            self._counted = True
        self.tally.totals[Variant.CANARY].rescued += 1
        self.rescued = True
        self.variant = Variant.STABLE
        self._tried = ()
        self._fresh_tried = False
        self._first_byte_s = 0.0
        self._chunk_out = False
        self.lease()

    def malformed(self, fault: Fault) -> None:
        """What followed the head cannot be parsed: the request will never be whole."""
        if not self.started:
            self.fault = fault
        elif not self._settled:
            self._refuse(fault)

    def _refuse(self, fault: Fault) -> None:
        """The client broke its own exchange."""
        self._wait_no_longer()
        self._release(drain=False)
        self._out.clear()
        self._answer(fault)

    def _answer(self, fault: Fault) -> None:
        """Answer with a problem document, or cut the connection when a response has begun."""
        self.fault = fault
        self._worker.counts.fault(fault.reason)
        if self._relayed:
            self._settle(keep=False, cut=True)
            return
        keep = (
            self._keep_alive
            and self._version == "1.1"
            and not fault.close
            and self._body_done
            and not self._downstream.last
        )
        if self.tally is not None:
            answered = self.tally.totals[self.variant].answered
            answered[fault.status] = answered.get(fault.status, 0) + 1
        self._downstream.write_problem(fault, keep=keep, head_only=self.method == b"HEAD")
        self._settle(keep=keep)

    # settle: exactly once

    def _completed(self) -> None:
        assert self.tally is not None
        totals = self.tally.totals[self.variant]
        totals.answered[self._status] = totals.answered.get(self._status, 0) + 1
        kind = failure_class(self._status)
        self._tried_result(kind)
        self._count(kind)
        self._settle(keep=self._keep_alive and self._body_done)

    def downstream_lost(self) -> None:
        """The client is gone: stop at once, blame nobody's variant."""
        if self._settled:
            return
        if self.started:
            self._worker.counts.aborted += 1
            if self.tally is not None:
                self._tried_result("aborted")
        self._wait_no_longer()
        self._release(drain=False)
        self._settle(keep=False)

    def _settle(self, *, keep: bool, cut: bool = False) -> None:
        assert not self._settled, "an exchange settles once"
        self._settled = True
        if self.tally is not None:
            self.tally.open -= 1
        self._worker.active.pop(self, None)
        self._kept.clear()
        self._downstream.exchange_done(self, keep=keep, cut=cut)

    def _wait_no_longer(self) -> None:
        pool, self._waiting_for = self._waiting_for, None
        if pool is not None:
            pool.leave(self)

    def _release(self, *, drain: bool) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            if self._stalled and not connection.closing:
                connection.transport.resume_reading()
            connection.detach(sent=self._body_done, drain=drain)

    def _tried_result(self, kind: str) -> None:
        assert self.tally is not None
        totals = self.tally.totals[self.variant]
        totals.tries[kind] = totals.tries.get(kind, 0) + 1
        self._worker.observe(totals, self._first_byte_us(), self._duration_us())

    def _count(self, kind: str) -> None:
        if not self._counted:
            self._counted = True
            if not self.forced:
                assert self.tally is not None
                self.tally.count(self.assigned, kind, self._first_byte_us(), self._duration_us())

    def _first_byte_us(self) -> int:
        end_s = self._first_byte_s or self._worker.now_s()
        return max(0, int((end_s - self._try_since_s) * 1e6))

    def _duration_us(self) -> int:
        return max(0, int((self._worker.now_s() - self._duration_from_s) * 1e6))


def _chunk(piece: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(piece), piece)
