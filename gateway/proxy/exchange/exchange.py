"""One request and what becomes of it, as named phases in file order: admit, gather, choose, lease, send, relay.

Rules:

1. An exchange reads the routing table once, in `choose`; whatever happens is counted under that table's epoch.
2. A refused connection moves on to the backend's next endpoint: nothing was sent. What becomes of a try that failed
   after that is retry.py's decision.
3. A request is chosen for and given a connection when its body is whole, or flows: 64 KiB have come, at 64 KiB/s at
   least. Until then it is held here (request_body.py), so that slow clients occupy no backend. One that asks for leave
   to send its body (Expect), and those of a route with ``stream_requests``, go at once.
4. Every end, good or bad, is `settlement`'s.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from gateway.core.stats.outcomes import EMPTY, ERRORS, LACKING, OK, PLAIN
from gateway.core.traffic.split import bucket_of_key, variant_for
from gateway.core.types import WEIGHT_BP_MAX, Variant
from gateway.proxy.access_log import Record
from gateway.proxy.body_store import TOO_LARGE
from gateway.proxy.exchange import retry
from gateway.proxy.exchange.extras import Extras
from gateway.proxy.exchange.settlement import CANARY, STABLE
from gateway.proxy.exchange.stream_times import StreamTimes
from gateway.proxy.heads import gateway_errors, headers
from gateway.proxy.heads.gateway_errors import Fault
from gateway.proxy.heads.message_head import RawHeaders, RequestHead, ResponseHead
from gateway.proxy.heads.request_head import cookie_value, read_request, read_target
from gateway.proxy.heads.response_head import read_response
from gateway.proxy.http1.small_reads import UNSENT_BYTES_MAX

if TYPE_CHECKING:
    from gateway.core.traffic.table import Route
    from gateway.proxy.context import WorkerContext
    from gateway.proxy.counting.response_sampler import ResponseSample, RouteSampler
    from gateway.proxy.heads.fast_heads import CachedHead, FirstLine
    from gateway.proxy.heads.field_policy import FieldPolicy
    from gateway.proxy.http1.client_connection import UpstreamConnection
    from gateway.proxy.http1.server_connection import DownstreamConnection
    from gateway.proxy.routes.route_runtime import RouteRuntime
    from gateway.proxy.upstream.backends import BackendPool
    from gateway.proxy.upstream.pool import EndpointPool

# A body that is not whole yet is sent on when so much of it has come, and no more slowly than so (bytes per second).
_STREAM_BYTES_MIN: Final = 64 * 1024
_STREAM_RATE_MIN: Final = 64 * 1024
# A larger body is not copied once more to be in one piece with its head.
_JOINED_BYTES_MAX: Final = 16 * 1024
_VARIANT_LINES: Final = (
    b"%b: stable\r\n" % headers.VARIANT_HEADER,
    b"%b: canary\r\n" % headers.VARIANT_HEADER,
)
_RESCUED_LINE: Final = b"%b: true\r\n" % headers.RESCUED_HEADER
_LAST: Final = b"0\r\n\r\n"
# Of a total that is too short for both this much is stable's at least.
_STABLE_SHARE: Final = 0.1
# The trial of an endpoint that was ejected, as long as others can answer: so many times what is usual, and at least.
_TRIAL_USUAL: Final = 10.0
_TRIAL_S_MIN: Final = 0.5
_STATUS_OK: Final = b"HTTP/1.1 200 OK\r\n"
_LABELS: Final = {b"stable": Variant.STABLE, b"canary": Variant.CANARY}


class Exchange(Extras):
    """A request from its head to its settlement."""

    __slots__ = ("_blocked", "_line", "_next_action")

    def __init__(
        self, worker: WorkerContext, downstream: DownstreamConnection, method: bytes, version: str, *, keep_alive: bool
    ) -> None:
        super().__init__(worker, downstream, method, version, keep_alive=keep_alive)
        self._head: RequestHead = None  # type: ignore[assignment]  # set by admit; without it the exchange has a fault
        self._target = self._path = b""
        self._line: FirstLine | None = None
        # What becomes of an answer whose head is there: RELAY, or it gives way to another's.
        self._next_action = retry.RELAY
        self._extra = None
        self._blocked = False

    @property
    def policy(self) -> FieldPolicy:
        """What the configuration says about header fields."""
        return self._worker.fields

    # admit: is this a request that may be forwarded at all?

    def admit(self, target: bytes, fields: RawHeaders, plain: CachedHead | None = None) -> None:
        """Check head, target and limits; a refusal is kept in ``fault`` until the exchange's turn comes."""
        downstream = self._downstream
        if self._worker.access is not None:
            self._record = Record()
        if self.method in (b"CONNECT", b"TRACE"):
            self.fault = gateway_errors.METHOD_NOT_ALLOWED
            return
        authority = None
        if plain is not None:
            self._target, self._path = target, plain.path
            self._line = plain.line
        else:
            split = read_target(target, self.method)
            if isinstance(split, Fault):
                self.fault = split
                return
            self._target, self._path, authority = split
        head = read_request(
            fields,
            self._version,
            downstream.peer,
            downstream.trusted,
            downstream.tls,
            authority,
            self._worker.fields,
            plain,
        )
        if isinstance(head, Fault):
            self.fault = head
            return
        self._head = head
        if head.wants_close:  # also beside a keep-alive (RFC 9112, 9.3)
            self._keep_alive = False
        if head.rare is not None or head.expects_continue:
            self._admit_extras(head)
        limit = self._worker.limits.body_bytes_max
        if limit is not None and (head.content_length or 0) > limit:
            self.fault = gateway_errors.BODY_TOO_LARGE

    def start(self) -> None:
        """Its turn has come: act on all that has arrived so far."""
        self.started = True
        now_s = self._worker.now_s()
        self._duration_from_s = self._asked_s = now_s
        self._worker.active[self] = None
        if self.fault is not None:
            self._answer(self.fault)
            return
        # Not before its turn: a request that waited behind others goes by the table that is in force now (rule 1).
        found = self._matched()
        if found is None:
            self._answer(gateway_errors.NO_ROUTE)
            return
        self.route = found
        plan = self._plan = self._worker.routes[found.name]
        self.total_at_s = now_s + plan.total_s
        body = self.request_body
        body.limit(plan.kept_bytes_max, plan.file_bytes_max)
        if body.complete or plan.streams_requests or (self._head.expects_continue and not body.received):
            self.choose()
        else:
            self._gather(now_s)

    def _matched(self) -> Route | None:
        """The route; of a first line that came before with the same host, it is known."""
        router, line, host = self._worker.router, self._line, self._head.host
        if line is None:
            return router.match(host, self._path)
        if line.epoch != router.epoch or line.host != host:
            line.epoch, line.host = router.epoch, host
            line.route = router.match(host, self._path)
        return line.route

    # gather: a body that is still coming, until it is whole or flows

    def _gather(self, now_s: float) -> None:
        """Hold what has come of the body; no variant is chosen and no connection taken before it is of use."""
        body = self.request_body
        since_s = now_s - self._duration_from_s
        flows = body.received >= _STREAM_BYTES_MIN and body.received >= _STREAM_RATE_MIN * since_s
        body.slow = not flows
        if flows or (body.full and body.not_kept == TOO_LARGE):
            self._gathered()
        elif body.full:
            self._refuse(gateway_errors.BODY_BUFFERS_FULL)
        else:
            self._downstream.resume_reading()
            self._set_deadline_at(now_s + self._plan.idle_s, gateway_errors.BODY_TIMEOUT)

    def _gathered(self) -> None:
        """The body is whole or flows: by the table that is in force now, as any request."""
        found = self._matched()
        if found is None:
            self._answer(gateway_errors.NO_ROUTE)
            return
        self.route = found
        self._plan = self._worker.routes[found.name]
        self.choose()

    # choose: which variant?

    def choose(self) -> None:
        """Assign a variant: forced by header, by sticky key, or by an independent draw."""
        plan = self._plan
        tally = self.tally = plan.counters
        tally.open += 1
        plan.budget.deposit()
        if plan.has_canary:
            if plan.forced:
                wish = self._head.first(plan.forced)
                forced = _LABELS.get(wish.strip().lower()) if wish is not None else None
                if forced is not None:
                    self.forced = True
                    self.assigned = forced
                    tally.totals[forced].forced += 1
            if not self.forced and plan.weight_bp:
                self.assigned = variant_for(self._point(), plan.weight_bp)
        self.variant = self.assigned
        if not self.forced:
            tally.variants[1 if self.assigned is CANARY else 0].assigned()
            if plan.sampler is not None:
                self._specimen = self._sampled(plan.sampler)
        if not plan.replayable:
            self.request_body.give_up("")
        self.lease()

    def _sampled(self, sampler: RouteSampler) -> ResponseSample | None:
        worker = self._worker
        request_id = worker.fields.id_of(self._head.id_line) if sampler.tap.ids else b""
        return sampler.begin(self.assigned, self.method, request_id, worker.draw(), self._duration_from_s)

    def _point(self) -> float:
        plan = self._plan
        key = None
        if plan.sticky_header:
            key = self._head.first(plan.sticky_header)
        elif plan.sticky_cookie:
            key = cookie_value(self._head.cookies, plan.sticky_cookie)
        if key:
            self.unit = bucket_of_key(key, self.route.salt)
            return self.unit
        return self._worker.draw() * WEIGHT_BP_MAX

    # lease: a connection to one of the variant's endpoints

    def lease(self) -> None:
        """Ask an untried endpoint of the variant's backend for a connection."""
        self._lease_next(gateway_errors.NO_ENDPOINT)

    def _lease_next(self, otherwise: Fault) -> None:
        """The same; ``otherwise`` is what is the matter when there is none."""
        pools = self._pools
        if pools is None:
            self._answer(gateway_errors.NOTHING_DEPLOYED)
            return
        now_s = self._worker.now_s()
        insist = self.variant is STABLE or self._plan.stable_pool is None
        pool = pools.pick(self._tried, now_s, insist=insist)
        self.try_since_s = now_s
        if pool is None:
            self._failed(otherwise)
            return
        self._tried = (*self._tried, pool) if self._tried else (pool,)
        self._limit_s = self._plan.first_byte_s
        self._hurried = False
        if pool.passive.out or self._plan.tight:
            self._limit(pool, pools, now_s)
        self._lease_from(pool, fresh=False)

    def _limit(self, pool: EndpointPool, pools: BackendPool, now_s: float) -> None:
        """Give a try less than the route's time where somebody else can answer in what is left of it."""
        plan = self._plan
        stable = plan.stable_pool
        if self.variant is CANARY and stable is not None and plan.replayable:
            # Stable's own time is kept for it, unless the canary would not have half of all.
            usual_s = stable.usual.seconds
            if usual_s and 4 * usual_s < plan.total_s:
                self._limit_s = min(self._limit_s, plan.total_s - max(2 * usual_s, _STABLE_SHARE * plan.total_s))
        passive = pool.passive
        if passive.wants_trial(now_s):
            if plan.replayable and len(pools.pools) > 1:
                hurried_s = max(_TRIAL_S_MIN, _TRIAL_USUAL * pools.usual.seconds)
                if hurried_s < self._limit_s:
                    self._limit_s = hurried_s
                    self._hurried = True
            passive.begin_trial(now_s + self.route.timeouts.connect_s + self._limit_s)

    def _lease_from(self, pool: EndpointPool, *, fresh: bool) -> None:
        if self._record is not None:
            self._record.tries += 1
        if self.upload_pool is not None and self.upload_pool is not pool:
            self._end_upload()
        self._take(pool, pool.lease_fresh(self) if fresh else pool.lease(self))

    def lease_again(self) -> None:
        """Ask the pool that is waited for once more: there is room for an upload, or this one is whole now."""
        pool, self._waiting_for = self._waiting_for, None
        assert pool is not None  # who asks has looked
        self._take(pool, pool.lease(self))

    def _take(self, pool: EndpointPool, got: UpstreamConnection | Fault | None) -> None:
        """Go on with what the pool has given."""
        if got is None:
            self._waiting_for = pool
            self._await_connection(self._worker.now_s())
        elif isinstance(got, Fault):
            self._failed(got)
        else:
            self.send(got)

    def _await_connection(self, now_s: float) -> None:
        """Wait for a connection: by a clock of its own; a body that may still grow is its client's to bring."""
        body = self.request_body
        timeouts = self.route.timeouts
        if body.complete or body.full:
            # Uploads wait for other uploads, which says nothing about the backend.
            fault = gateway_errors.QUEUE_TIMEOUT if body.complete else gateway_errors.BODY_BUFFERS_FULL
            self._set_deadline_at(now_s + timeouts.connect_s + timeouts.first_byte_s, fault)
            if not body.complete:
                self._downstream.pause_reading()
        else:
            self._downstream.resume_reading()
            self._set_deadline_at(now_s + timeouts.idle_s, gateway_errors.BODY_TIMEOUT)
            extra = self._extra
            if extra is not None and self._head.expects_continue and not body.received:
                extra.awaits_continue = True
                self._await_continue(now_s)

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
        pools = self._pools
        if pools is not None and len(self._tried) < len(pools.pools):
            self._lease_next(fault)
        else:
            self._failed(fault)

    # send: the request, with fresh framing

    def send(self, connection: UpstreamConnection) -> None:
        """Write the head and all of the body that is here; the rest follows as it comes."""
        self._connection = connection
        self._sent = True
        connection.attach(self)
        head = self._head
        body = self.request_body
        pieces = body.begin_attempt()
        line = self._line
        parts = [line.opening if line is not None else b"%b %b HTTP/1.1\r\nhost: " % (self.method, self._target)]
        parts.append(connection.pool.host or head.host or connection.pool.endpoint.authority.encode())
        parts.append(b"\r\n")
        parts += head.lines
        if self._extra is not None:
            parts.append(self._extra_lines(self._extra, body_here=body.complete or body.received > 0))
        if head.content_length is not None:
            parts.append(head.length_line)
            parts.append(b"\r\n")
            if body.held_bytes > _JOINED_BYTES_MAX:
                parts = [b"".join(parts)]
            parts += pieces
        elif head.chunked:
            parts.append(b"transfer-encoding: chunked\r\n\r\n")
            parts += [_chunk(piece) for piece in pieces]
            if body.sent_whole:
                parts.append(self._end_of_chunks())
        else:
            parts.append(b"\r\n")
        plan = self._plan
        now_s = self._worker.now_s()
        if self._record is not None:
            self._record.lease_us = int((now_s - self.try_since_s) * 1e6)
        self.try_since_s = now_s
        self._set_deadlines_of_try(now_s, plan)
        self._blocked = False
        if not body.behind:
            self._downstream.resume_reading()
        if self._stalled:
            connection.transport.pause_reading()
        if body.held_bytes > _JOINED_BYTES_MAX:
            connection.write_all(parts)
        else:
            connection.write(b"".join(parts))
        body.sent()
        if body.behind:
            self._send_rest()

    def _set_deadlines_of_try(self, now_s: float, plan: RouteRuntime) -> None:
        if plan.try_s:
            self.total_at_s = min(now_s + plan.try_s, self._duration_from_s + plan.total_s)
        if self.request_body.sent_whole:
            self._set_deadline_at(now_s + self._limit_s, gateway_errors.FIRST_BYTE_TIMEOUT)
        else:
            self._set_deadline_at(now_s + plan.idle_s, gateway_errors.BODY_TIMEOUT)
            if self._extra is not None and self._extra.awaits_continue:
                self._await_continue(now_s)

    def _end_of_chunks(self) -> bytes:
        return _LAST if self._extra is None else self._last_chunk(self._extra.trailers_in)

    def _send_rest(self) -> None:
        """Send what was held elsewhere than in memory, as fast as the backend takes it."""
        connection, body = self._connection, self.request_body
        assert connection is not None
        while body.behind and not self._blocked:
            piece = body.next()
            if piece:
                connection.write(_chunk(piece) if self._head.chunked else piece)
            elif body.lost:
                self._release(drain=False)
                self._failed(gateway_errors.BODY_LOST)
                return
        if body.behind:
            return
        if body.complete:
            self._sent_whole(connection)
        else:
            self._downstream.resume_reading()
            self._set_deadline(self._plan.idle_s, gateway_errors.BODY_TIMEOUT)

    def body(self, piece: bytes) -> None:
        """A piece of the request's body."""
        if self.fault is not None or self._settled:
            return
        body, connection = self.request_body, self._connection
        limit = self._worker.limits.body_bytes_max
        if limit is not None and body.received + len(piece) > limit:
            self.malformed(gateway_errors.BODY_TOO_LARGE)
        elif connection is None or body.behind:
            body.hold(piece)
            if not self.started:
                return
            if self.tally is None:
                self._gather(self._worker.now_s())
            elif self._waiting_for is not None:
                self._await_connection(self._worker.now_s())
            elif body.full:
                self._downstream.pause_reading()
        else:
            connection.write(_chunk(piece) if self._head.chunked else piece)
            body.keep(piece)
            if not self._blocked:
                self._set_deadline(self._plan.idle_s, gateway_errors.BODY_TIMEOUT)

    def awaited_body_bytes(self) -> int:
        """How much of the request's body has come while it is the client's turn to send more; -1 otherwise."""
        body = self.request_body
        if body.complete or body.full or body.behind or self._blocked or self._first_byte_s or not self.started:
            return -1
        return body.received

    def body_complete(self) -> None:
        """The request's body is whole."""
        body = self.request_body
        body.complete = True
        if self._settled or not self.started or self.fault is not None:
            return
        self._asked_s = self._worker.now_s()
        if self.upload_pool is not None:
            self._end_upload()
        connection = self._connection
        if connection is not None:
            if not body.behind:
                self._sent_whole(connection)
        elif self.tally is None:
            self._gathered()
        elif self._waiting_for is not None:
            if self._waiting_for.leave_uploads(self):
                self.lease_again()
            else:
                self._await_connection(self._asked_s)

    def _sent_whole(self, connection: UpstreamConnection) -> None:
        """All of the request is on its way: from now on it is the backend's turn."""
        if self._head.chunked:
            connection.write(self._end_of_chunks())
        if self._first_byte_s:
            self._set_deadline(self._plan.idle_s, gateway_errors.IDLE_TIMEOUT)
        else:
            now_s = self._worker.now_s()
            self.try_since_s = now_s
            self._set_deadline_at(now_s + self._limit_s, gateway_errors.FIRST_BYTE_TIMEOUT)

    # relay: the response, as it comes

    def upstream_interim(self, status: int, reason: bytes, fields: RawHeaders) -> None:
        """Pass a 1xx on at once, to clients that can take it."""
        if status == 100:
            self.give_leave()
        if status == 100 or self._version != "1.1" or self._relayed:
            return
        head = read_response(fields, self._worker.fields)
        if not isinstance(head, Fault):
            self._downstream.write(b"HTTP/1.1 %d %b\r\n%b\r\n" % (status, reason, b"".join(head.lines)))

    def upstream_head(self, status: int, reason: bytes, head: ResponseHead, *, bodyless: bool) -> None:
        """The response's head is whole and sound; nothing is written before `upstream_progress`."""
        self._first_byte_s = self._worker.now_s()
        self._status = status
        self._tried[-1].probed.answered(status, self._first_byte_s)
        if (status != PLAIN or head.content_length == 0) and self._answered_badly(status):
            return
        out = self._out
        out.append(_STATUS_OK if status == 200 and reason == b"OK" else b"HTTP/1.1 %d %b\r\n" % (status, reason))
        out += head.lines if status != 426 else head.lines_of_426()
        if self._specimen is not None:
            self._specimen.head(status, head.lines)
        out.append(_VARIANT_LINES[self.variant])
        out.append(self._head.id_line)
        if self.rescued:
            out.append(_RESCUED_LINE)
        if head.content_length is not None:
            if status != 204:
                out.append(head.length_line)
        elif not bodyless:
            self._stream = StreamTimes(head.lines)
            if self._version == "1.1":
                out.append(b"transfer-encoding: chunked\r\n")
                self._chunk_out = True
                if self._extra is not None and self._extra.takes_trailers:
                    out += [b"trailer: %b\r\n" % value for value in head.trailer]
            else:
                self._keep_alive = False
                self.unframed = True
        if not self.request_body.complete or self._downstream.last:
            self._keep_alive = False
        if not self._keep_alive:
            out.append(b"connection: close\r\n")
        elif self._version == "1.0":
            out.append(b"connection: keep-alive\r\n")
        out.append(b"\r\n")

    def _answered_badly(self, status: int) -> bool:
        """Whether the answer is one that goes to nobody, because another takes its place."""
        plan = self._plan
        kind = self._kind_of_answer()
        if kind == OK:  # also exempt: an ordinary answer of this route
            return False
        if self.variant is CANARY and plan.stable_pool is not None:
            if status not in plan.rescue_statuses and not self._unlike_stable(kind):
                return False
        elif status not in plan.retry_statuses:
            return False
        self._next_action = self._decided(retry.STATUS)
        return self._next_action != retry.RELAY

    def _kind_of_answer(self) -> str:
        """The class of the answer whose head has just come; a 200 is asked about when it has no body."""
        status = self._status
        return self._plan.outcomes[status] if status != PLAIN or self.method == b"HEAD" else EMPTY

    def _unlike_stable(self, kind: str) -> bool:
        """Whether the canary's answer lacks what stable usually gives."""
        plan = self._plan
        if kind not in LACKING or not plan.rescues_unlike or plan.budget.half_spent:
            return False
        if self._extra is not None and self._extra.upgrade:
            return False
        return plan.recent.canary_has_more(kind)

    def upstream_body(self, piece: bytes) -> None:
        """A piece of the response's body."""
        self._has_content = True
        if self._next_action == retry.RELAY:
            if self._stream is not None:
                self._stream.piece(piece, self._worker.now_s())
            if self._specimen is not None:
                self._specimen.body(piece)
            if self._chunk_out:
                self._out += (b"%x\r\n" % len(piece), piece, b"\r\n")
            else:
                self._out.append(piece)

    def upstream_progress(self, connection: UpstreamConnection, fault: Fault | None, *, complete: bool) -> None:
        """A chunk from upstream has been parsed: write what it brought, and act on its end."""
        if self._next_action != retry.RELAY:  # also when the failed answer turned out to be malformed
            self._answer_dropped()
            return
        if fault is not None:
            if self._relayed:  # what was sound goes out before the answer is cut
                self._flush()
            self._release(drain=False)
            self._failed(fault)
            return
        if complete:
            if self._chunk_out:
                self._out.append(_LAST if self._extra is None else self._last_chunk(self._extra.trailers_out))
            self._release(drain=False)
            self._flush()
            self._completed()
        elif self._out:
            self._flush()
            # As long as the body is not whole, it is the client's turn as much as the backend's.
            fault = (
                gateway_errors.IDLE_TIMEOUT
                if self.request_body.complete or self._blocked
                else gateway_errors.BODY_TIMEOUT
            )
            self._set_deadline(self._plan.idle_s, fault)

    def _answer_dropped(self) -> None:
        """The answer's head was enough: the canary's gives way to stable's, or an endpoint's to another's."""
        action, self._next_action = self._next_action, retry.RELAY
        kind = self._kind_of_answer()
        if kind == ERRORS:
            self._tried[-1].try_failed("status", self.try_since_s)
        self._release(drain=True)
        if action == retry.RESCUE:
            self._rescue(kind)
        else:
            self._tried_result(kind)
            self._count(kind)
            self._try_another("status", counted=True)

    def answer_is_long(self) -> None:
        """What the client does not take is kept in small measure from now on (small_reads.py)."""
        self._downstream.transport.set_write_buffer_limits(high=UNSENT_BYTES_MAX)

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
        if fault is gateway_errors.STALE and connection is not None and self._may_have_fresh():
            self._fresh_tried = True
            if self._extra is not None:
                self._extra.awaits_continue = False
            self._tried_result("stale")
            self._lease_from(connection.pool, fresh=True)
        else:
            self._failed(fault)

    def _may_have_fresh(self) -> bool:
        return retry.decide(self._failed_try(retry.STALE)).action == retry.FRESH

    def _flush(self) -> None:
        if self._out:
            self._relayed = True
            data = b"".join(self._out)
            if self._record is not None:
                self._record.out_bytes += len(data)
            self._downstream.write(data)
            self._out.clear()

    # backpressure

    def pause_downstream(self) -> None:
        """The backend takes the body slowly: so does the gateway, and the wait is the backend's."""
        self._blocked = True
        self._downstream.pause_reading()
        if not self.request_body.sent_whole:
            fault = gateway_errors.IDLE_TIMEOUT if self._first_byte_s else gateway_errors.FIRST_BYTE_TIMEOUT
            self._set_deadline(self._plan.idle_s, fault)

    def resume_downstream(self) -> None:
        """The backend takes more."""
        self._blocked = False
        if self.request_body.behind:
            self._send_rest()
            return
        self._downstream.resume_reading()
        if not self.request_body.complete:
            self._set_deadline(self._plan.idle_s, gateway_errors.BODY_TIMEOUT)

    def pause_upstream(self) -> None:
        """The client takes the response slowly: so does the gateway."""
        self._stalled = True
        if self._stream is not None:
            self._stream.stopped(self._worker.now_s())
        if self._connection is not None and not self._connection.closing:
            self._connection.transport.pause_reading()

    def resume_upstream(self) -> None:
        """The client takes more."""
        self._stalled = False
        if self._stream is not None:
            self._stream.resumed(self._worker.now_s())
        if self._connection is not None and not self._connection.closing:
            self._connection.transport.resume_reading()
            # As in upstream_progress: a client that has not sent all owes its body, however well it reads.
            fault = (
                gateway_errors.IDLE_TIMEOUT
                if self.request_body.complete or self._blocked
                else gateway_errors.BODY_TIMEOUT
            )
            self._set_deadline(self._plan.idle_s, fault)


def _chunk(piece: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(piece), piece)
