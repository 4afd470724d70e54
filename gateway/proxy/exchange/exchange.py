"""One request and what becomes of it, as named phases in file order: admit, gather, choose, deliver, settle.

Rules:

1. An exchange reads the routing table once, in `_choose`; whatever happens is counted under that table's epoch.
   Features of a store are put into its body before (proxy/features), so that they are the same for either version.
2. A request is chosen for and given a connection when its body is whole, or flows: 64 KiB have come, at 64 KiB/s at
   least. Until then it is held here (request_body.py), so that slow clients occupy no backend. One that asks for leave
   to send its body (expect_continue.py), and those of a route with ``stream_requests``, go at once.
3. How it gets its answer is its delivery's (delivery.py). Deadlines are set in `wait` alone.
4. `settle` runs exactly once, also when the client vanishes or an upstream fails: it gives back what the exchange has,
   and lets the client's connection go on.
5. Nothing of HTTP/1.1 is known here: both sides are codecs' (types.py, upstream/types.py).
"""

from __future__ import annotations

from typing import Final

from gateway.core.errors import Blame
from gateway.core.traffic.table import HALF_CLOSE_S, Features
from gateway.proxy.access_log import STATUS_ABORTED
from gateway.proxy.body_store import TOO_LARGE
from gateway.proxy.compiled import mypyc_attr
from gateway.proxy.context import WorkerContext
from gateway.proxy.exchange import deadlines, expect_continue, log_line
from gateway.proxy.exchange.admission import admit
from gateway.proxy.exchange.assignment import assign
from gateway.proxy.exchange.attempt import CANARY
from gateway.proxy.exchange.deadlines import GATHER, LEAVE, MOMENT
from gateway.proxy.exchange.delivery import Delivery
from gateway.proxy.exchange.exchange_attempts import ExchangeAttempts
from gateway.proxy.exchange.log_line import LogRecord
from gateway.proxy.exchange.request_body import RequestBody
from gateway.proxy.exchange.request_spans import spans_of
from gateway.proxy.exchange.trailers import Trailers, accepts_trailers
from gateway.proxy.exchange.types import Downstream, Settling
from gateway.proxy.exchange.upgrade import Upgrade
from gateway.proxy.features.enriching import Enriched
from gateway.proxy.heads import gateway_errors
from gateway.proxy.heads.fast_heads import CachedHead
from gateway.proxy.heads.gateway_errors import Fault
from gateway.proxy.heads.message_head import RareFields, RawHeaders, RequestHead
from gateway.proxy.heads.request import Request
from gateway.proxy.routes.route_runtime import RouteRuntime
from gateway.proxy.spans import Tracer

# How far it has come.
QUEUED: Final = 0  # others of its connection come first
GATHERING: Final = 1  # its route is looked for, its body is held
DELIVERING: Final = 2  # a variant is chosen
SETTLED: Final = 3

# A body that is not whole yet is sent on when so much of it has come, and no more slowly than so (bytes per second).
_STREAM_BYTES_MIN: Final = 64 * 1024
_STREAM_RATE_MIN: Final = 64 * 1024


@mypyc_attr(free_list_len=1)
class Exchange(Settling):
    """A request from its head to its end. ``fault`` is the error that the gateway answers with, if it does."""

    __slots__ = (
        "_body",
        "_deadline",
        "_delivery",
        "_downstream",
        "_enriched",
        "_phase",
        "_record",
        "_request",
        "_route",
        "_trailers",
        "_upgrade",
        "_worker",
        "fault",
    )

    # Set by `start`, as soon as it is known.
    _route: RouteRuntime

    def __init__(self, worker: WorkerContext, downstream: Downstream, request: Request) -> None:
        super().__init__()
        self._worker = worker
        self._downstream = downstream
        self._request = request
        self._body = RequestBody(worker.bodies)
        self._phase = QUEUED
        self.fault: Fault | None = None
        self._delivery: Delivery | None = None
        self._enriched = False
        self._deadline = deadlines.FIRST
        self._upgrade: Upgrade | None = None
        self._trailers: Trailers | None = None
        self._record = None if worker.access is None else LogRecord()

    # admit: is this a request that may be forwarded at all?

    def admit(self, target: bytes, fields: RawHeaders, cached: CachedHead | None = None) -> None:
        """Check head, target and limits; a refusal is kept in ``fault`` until the exchange's turn comes."""
        worker, request = self._worker, self._request
        self.fault = admit(
            request, target, fields, cached, self._downstream, worker.fields, worker.limits.body_bytes_max
        )
        head = request.head
        if head is not None and head.rare is not None and request.version == "1.1":
            self._admit_rare(head.rare)

    def _admit_rare(self, rare: RareFields) -> None:
        if any(accepts_trailers(value) for value in rare.te):
            worker = self._worker
            self._trailers = Trailers(rare.trailer, worker.counts, worker.limits.header_fields_max)
        if rare.upgrade:
            self._upgrade = Upgrade(rare.upgrade)

    def asks_to_switch(self) -> bool:
        """Connection nominates Upgrade. False for a request with a body, whose offer is not passed on."""
        head = self._request.head
        if self.fault is not None or head is None:
            # How the rest is framed no longer matters: it is not read.
            self._request.keep_alive = False
            return True
        if head.chunked or head.content_length:
            return False
        if self._upgrade is not None:
            self._upgrade.allow()
        return True

    @property
    def started(self) -> bool:
        """Whether its turn has come."""
        return self._phase != QUEUED

    @property
    def body_length(self) -> int | None:
        """The length of the request's body; None for one in chunks."""
        return self._head.content_length

    @property
    def _head(self) -> RequestHead:
        head = self._request.head
        assert head is not None, "an exchange without a head has a fault"
        return head

    def start(self) -> None:
        """Its turn has come: act on all that has arrived so far."""
        now_s = self._worker.now_s()
        self._phase = GATHERING
        self.began_s = self.asked_s = now_s
        self._worker.active[self] = None
        if self.fault is not None:
            self.answer(self.fault)
            return
        # Not before its turn: a request that waited behind others uses the table that is in force now (rule 1).
        if not self._matched():
            return
        route, body = self._route, self._body
        self.total_at_s = now_s + route.total_s
        body.limit(route.kept_bytes_max, route.file_bytes_max)
        if body.complete or route.streams_requests or expect_continue.awaits_leave(self._head, body):
            self._choose(now_s)
        else:
            self._gather(now_s)

    def _matched(self) -> bool:
        """Find the route; answers where there is none. For a first line and host that came before, it is known."""
        worker, request = self._worker, self._request
        router, line, host = worker.router, request.line, self._head.host
        if line is None:
            found = router.match(host, request.path)
        else:
            if line.epoch != router.epoch or line.host != host:
                line.epoch, line.host = router.epoch, host
                line.route = router.match(host, request.path)
            found = line.route
        if found is None:
            self.answer(gateway_errors.NO_ROUTE)
            return False
        self._route = worker.routes[found.name]
        return True

    # gather: a body that is still coming, until it is whole or flows

    def _gather(self, now_s: float) -> None:
        """Hold what has come of the body; no variant is chosen and no connection taken before it is of use."""
        body = self._body
        flows = body.received >= _STREAM_BYTES_MIN and body.received >= _STREAM_RATE_MIN * (now_s - self.began_s)
        body.slow = not flows
        if flows or (body.full and body.not_kept == TOO_LARGE):
            self._gathered(now_s)
        elif body.full:
            self._refuse(gateway_errors.BODY_BUFFERS_FULL)
        else:
            self._downstream.resume_reading()
            route = self._route
            self.wait(GATHER, route, route.first_byte_s, now_s, whole=False, blocked=False)

    def _gathered(self, now_s: float) -> None:
        """The body is whole or flows: by the table that is in force now, as any request."""
        if self._matched():
            self._choose(now_s)

    # enrich: features of the entity that it is about, where the route has some

    def _enrich(self, features: Features, now_s: float) -> None:
        """Have features put into the body, once it is whole; the choice of a variant comes after that."""
        body, head, route = self._body, self._head, self._route
        if not body.complete and not body.full and body.received <= features.body_bytes_max:
            self._phase = GATHERING
            if expect_continue.awaits_leave(head, body):
                expect_continue.end_wait(head, body)
                self._downstream.write_continue()
            self._downstream.resume_reading()
            self.wait(GATHER, route, route.first_byte_s, now_s, whole=False, blocked=False)
            return
        self._enriched = True
        self.deadline_s = 0.0
        pieces = body.whole_in_memory() if body.received <= features.body_bytes_max else None
        self._worker.features.enrich(route.route.name, features, head, pieces, self._take_features)

    def _take_features(self, found: Enriched) -> None:
        """What becomes of the request is known."""
        if self._phase != GATHERING:  # its client has left
            return
        if found.refused:
            self.answer(gateway_errors.FEATURES_MISSING)
            return
        if found.body is not None:
            head, length = self._head, len(found.body)
            self._body.replace(found.body)
            head.chunked = False
            head.take_known_length(length, b"content-length: %d\r\n" % length)
        self._gathered(self._worker.now_s())

    def body(self, piece: bytes) -> None:
        """A piece of the request's body."""
        if self.fault is not None or self._phase == SETTLED:
            return
        body = self._body
        limit = self._worker.limits.body_bytes_max
        if limit is not None and body.received + len(piece) > limit:
            self.malformed(gateway_errors.BODY_TOO_LARGE)
        elif self._delivery is not None:
            self._delivery.take_body(piece)
        else:
            body.hold(piece)
            if self._phase == GATHERING:
                self._gather(self._worker.now_s())

    def body_complete(self) -> None:
        """The request's body is whole."""
        self._body.complete = True
        if self._phase in (QUEUED, SETTLED) or self.fault is not None:
            return
        self.asked_s = now_s = self._worker.now_s()
        if self._delivery is None:
            self._gathered(now_s)
        else:
            self._delivery.body_complete()

    def request_trailer(self, name: bytes, value: bytes) -> bool:
        """A field behind the request's body; False when there are too many."""
        if self._trailers is None:
            self._worker.counts.trailers_dropped += 1
            return True
        return self._trailers.add(self._trailers.of_request, name, value)

    def awaited_body_bytes(self) -> int:
        """How much of the request's body has come while it is the client's turn to send more; -1 otherwise."""
        body = self._body
        if body.complete or body.full or body.behind or self._phase == QUEUED:
            return -1
        attempt = None if self._delivery is None else self._delivery.attempt
        return -1 if attempt is not None and (attempt.blocked or attempt.head_s) else body.received

    # choose: which variant?

    def _choose(self, now_s: float) -> None:
        """Assign a variant, begin to look at what will be answered, and have it delivered."""
        worker, route, request, head = self._worker, self._route, self._request, self._head
        if route.features is not None and not self._enriched:
            self._enrich(route.features, now_s)
            return
        self._phase = DELIVERING
        route.budget.deposit()
        downstream, body, record = self._downstream, self._body, self._record
        variant, forced, unit = assign(route, head, worker.draw)
        attempts = ExchangeAttempts(route, variant, forced, unit, body, self.began_s, head.trace_id, record)
        if worker.tracer is not None:
            trace = attempts.trace = worker.tracer.begin(head, worker.draw())
            if not trace.sampled:
                attempts.trace_id = b""  # no exemplar leads to a trace that nobody kept
        sampler = route.sampler
        if sampler is not None and not forced:
            request_id = worker.fields.id_of(head.id_line) if sampler.tap.ids else b""
            method, path = request.method, request.path
            sample = sampler.begin(variant, method, path, request_id, worker.draw(), self.began_s)
            attempts.sample = sample
            if sample is not None and sampler.tap.requests:
                sample.keep_request(body.whole_in_memory())
        if not route.replayable:
            body.give_up("")
        upgrade, trailers = self._upgrade, self._trailers
        delivery = self._delivery = Delivery(
            worker, self, downstream, request, body, upgrade, trailers, route, attempts, record
        )
        delivery.attempt_next(gateway_errors.NO_ENDPOINT, now_s)

    # deliver: the answer comes, or a deadline does

    def wait(
        self, phase: int, route: RouteRuntime, limit_s: float, now_s: float, *, whole: bool, blocked: bool
    ) -> None:
        """The one place where a deadline is set (deadlines.py)."""
        deadline = self._deadline = deadlines.deadline(phase, whole=whole, blocked=blocked)
        self.deadline_s = now_s + deadline.after_s(route.idle_s, route.first_byte_s, route.connect_s, limit_s)

    def sweep(self, now_s: float) -> None:
        """Act on a deadline that has passed."""
        if self._phase == SETTLED or not self.total_at_s:
            return
        delivery = self._delivery
        if now_s >= self.total_at_s:
            fault = gateway_errors.TOTAL_TIMEOUT
            if delivery is None:
                fault = gateway_errors.BODY_TIMEOUT
            elif now_s < self.began_s + self._route.total_s:  # then it is an attempt's end (`try_s`)
                fault = gateway_errors.TRY_TIMEOUT if self._body.complete else gateway_errors.BODY_TIMEOUT
        elif not self.deadline_s or now_s < self.deadline_s:
            return
        else:
            fault = self._deadline.fault
            if delivery is not None and self._deadline.time == LEAVE:
                delivery.give_leave()
                return
            if delivery is not None and self._deadline.time == MOMENT:
                delivery.attempt_next(gateway_errors.NO_ENDPOINT, now_s)
                return
        if delivery is None or fault.blame is Blame.DOWNSTREAM or self._downstream.stalled:
            self._refuse(gateway_errors.BODY_TIMEOUT)
        else:
            delivery.timed_out(fault, now_s)

    def pause_upstream(self) -> None:
        """The client takes the answer slowly: so does the gateway."""
        if self._delivery is not None:
            self._delivery.pause()

    def resume_upstream(self) -> None:
        """The client takes more."""
        if self._delivery is not None:
            self._delivery.resume()

    @property
    def ends_with_half_close(self) -> bool:
        """Whether a client that ends its sending side has given up this request."""
        if self._delivery is None:
            return False
        whole_for_s = self._worker.now_s() - self.asked_s if self._body.complete else 0.0
        return whole_for_s >= self._route.route.half_close_s

    @property
    def may_be_asked(self) -> bool:
        """Whether an interim answer may be sent to find out if the client is still there."""
        delivery = self._delivery
        if delivery is None or delivery.begun or self._request.version != "1.1":
            return False
        return self._route.route.half_close_s <= HALF_CLOSE_S

    # settle: exactly once

    def malformed(self, fault: Fault) -> None:
        """What followed the head cannot be parsed: the request will never be whole."""
        if self._phase == QUEUED:
            self.fault = fault
        elif self._phase != SETTLED:
            self._refuse(fault)

    def _refuse(self, fault: Fault) -> None:
        """The client broke its own exchange."""
        if self._delivery is not None:
            self._delivery.give_up()
        self._downstream.discard()
        self.answer(fault)

    def answer(self, fault: Fault) -> None:
        """Answer with a problem document, or cut the connection when an answer has begun."""
        self.fault = fault
        self._worker.counts.fault(fault.reason)
        request, delivery = self._request, self._delivery
        if delivery is not None:
            attempts, attempt = delivery.attempts, delivery.attempt
            if delivery.begun and attempt is not None:
                self.settle(attempt.status, keep=False, cut=True)
                return
            attempts.counters.of(attempts.variant).answered(fault.status)
        keep = (
            request.keep_alive
            and request.version == "1.1"
            and not fault.close
            and self._body.complete
            and not self._downstream.last
        )
        detail = log_line.unrouted(request) if fault is gateway_errors.NO_ROUTE else ""
        lines = b"" if request.head is None else request.head.id_line
        head_only = request.method == b"HEAD"
        size = self._downstream.write_problem(fault, keep=keep, head_only=head_only, detail=detail, lines=lines)
        if self._record is not None:
            self._record.out_bytes += size
        self.settle(fault.status, keep=keep)

    def downstream_lost(self) -> None:
        """The client is gone: stop at once; no variant has failed."""
        if self._phase == SETTLED:
            return
        if self._phase != QUEUED:
            self._worker.counts.aborted += 1
        if self._delivery is not None:
            self._delivery.client_left()
        self.settle(STATUS_ABORTED, keep=False)

    def settle(self, status: int, *, keep: bool, cut: bool = False) -> None:
        """Give back what the exchange has; its client's connection may go on."""
        worker = self._worker
        phase, self._phase = self._phase, SETTLED
        assert phase != SETTLED, "an exchange settles once"
        if self._delivery is not None:
            self._delivery.end()
        if phase != QUEUED:
            del worker.active[self]
        self._body.close()
        switched = self._upgrade is not None and self._upgrade.switched_head != b""
        if worker.tracer is not None and phase != QUEUED:
            self._trace(worker.tracer, status)
        if not switched:  # a tunnel's line waits for its end
            if self._record is not None:
                self._log(self._record, status, failed=cut or status >= STATUS_ABORTED)
            self._let_go()
        self._downstream.exchange_done(self, keep=keep, cut=cut)

    def _let_go(self) -> None:
        """Part with the delivery: they know each other, and only the garbage collector would ever free them."""
        delivery, self._delivery = self._delivery, None
        if delivery is not None:
            delivery.attempt = None

    def _log(self, record: LogRecord, status: int, *, failed: bool) -> None:
        worker, delivery = self._worker, self._delivery
        access = worker.access
        if access is None:
            return
        line = log_line.line_of(access, self._request, self._downstream.peer, worker.fields, status)
        head_s = 0.0
        if delivery is not None:
            attempts, attempt = delivery.attempts, delivery.attempt
            log_line.add_route(line, self._route.route, attempts.counters.evidence)
            line.assigned, line.variant = attempts.assigned.label, attempts.variant.label
            line.backend = self._route.route.canary if attempts.variant is CANARY else self._route.route.stable
            line.forced = attempts.forced
            line.rescued = attempts.rescued
            if attempts.trace is not None:
                line.span_id = attempts.trace.span_id
            head_s = 0.0 if attempt is None else attempt.head_s
        elif self.total_at_s:  # refused before it was sent anywhere
            line.route = self._route.route.name
        log_line.add_record(line, record, self.fault)
        log_line.add_times(line, self.began_s, head_s, worker.now_s())
        line.in_bytes = self._body.received + record.in_tunnel_bytes
        access.write(line, failed=failed or line.rescued)

    def _trace(self, tracer: Tracer, status: int) -> None:
        """Hand the spans over, if they are wanted."""
        head, delivery, worker = self._request.head, self._delivery, self._worker
        if head is None:  # what cannot be read has no trace
            return
        attempts = None if delivery is None else delivery.attempts
        trace = None if attempts is None else attempts.trace
        if trace is None:
            trace = tracer.begin(head, worker.draw())
        if tracer.wants(trace, status, rescued=attempts is not None and attempts.rescued):
            route = self._route.route.name if self.total_at_s else ""
            request, client, now_s = self._request, self._downstream, worker.now_s()
            span = spans_of(trace, request, head, client, attempts, route, self.began_s, now_s, status, self.fault)
            tracer.put(span)

    def tunnel_ended(self, from_client_bytes: int, to_client_bytes: int) -> None:
        """Both ends are gone: the request's line can be written."""
        self._worker.counts.tunnels_open -= 1
        record = self._record
        if record is not None:
            record.in_tunnel_bytes = from_client_bytes
            record.out_bytes += to_client_bytes
            self._log(record, 101, failed=False)
        self._let_go()
