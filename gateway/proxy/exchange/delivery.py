"""How a request with a variant gets its answer: attempts, one at a time, until one of them is relayed to the client.

Rules:

1. A refused connection moves on to the backend's next endpoint: nothing was sent. What becomes of an attempt that
   failed after that is retry.py's decision: stable answers for the canary in the same exchange (a *rescue*), another
   endpoint of the backend is tried, or the client gets an error.
2. Nothing of an answer is written before all that came with its head was looked at; what gives way to another's answer
   is never written.
3. Backpressure goes both ways: a client that takes no more of the answer (*stalled*), a backend that takes no more of
   the request (*blocked*).
4. Each wait has its deadline (deadlines.py), by whose turn it is.
"""

from __future__ import annotations

from typing import Final

from gateway.core.stats.outcomes import ERRORS, PLAIN
from gateway.proxy.compiled import mypyc_attr
from gateway.proxy.context import WorkerContext
from gateway.proxy.exchange import expect_continue, outcome, retry, stream_hold
from gateway.proxy.exchange.attempt import CANARY, NO_TRAILERS, STABLE, Attempt
from gateway.proxy.exchange.deadlines import CONNECT, CONTINUE, PAUSE, RELAY, SEND
from gateway.proxy.exchange.exchange_attempts import STATUS_REASON, ExchangeAttempts
from gateway.proxy.exchange.log_line import LogRecord
from gateway.proxy.exchange.mirror import MirrorCopy, begin_copy, failed_as, stable_latency_us
from gateway.proxy.exchange.request_body import RequestBody
from gateway.proxy.exchange.trailers import Trailers
from gateway.proxy.exchange.types import AttemptOwner, Downstream, Settling
from gateway.proxy.exchange.upgrade import Upgrade
from gateway.proxy.heads import gateway_errors, headers
from gateway.proxy.heads.gateway_errors import Fault
from gateway.proxy.heads.message_head import RawHeaders, ResponseHead
from gateway.proxy.heads.request import Request
from gateway.proxy.heads.response_head import read_response
from gateway.proxy.routes.route_runtime import RouteRuntime
from gateway.proxy.upstream.types import UpstreamConnection

_STABLE_LINE: Final = b"%b: stable\r\n" % headers.VARIANT_HEADER
_CANARY_LINE: Final = b"%b: canary\r\n" % headers.VARIANT_HEADER
_RESCUED_LINES: Final = _STABLE_LINE + b"%b: true\r\n" % headers.RESCUED_HEADER


@mypyc_attr(free_list_len=1)
class Delivery(AttemptOwner):
    """The attempts of one exchange and the answer that is relayed. ``begun``: some of it has reached the client."""

    __slots__ = (
        "_downstream",
        "_exchange",
        "_record",
        "_relayed_bytes",
        "_route",
        "_worker",
        "attempt",
        "attempts",
        "begun",
        "copy",
    )

    def __init__(
        self,
        worker: WorkerContext,
        exchange: Settling,
        downstream: Downstream,
        request: Request,
        body: RequestBody,
        upgrade: Upgrade | None,
        trailers: Trailers | None,
        route: RouteRuntime,
        attempts: ExchangeAttempts,
        record: LogRecord | None,
    ) -> None:
        super().__init__(request, body, upgrade, trailers)
        self._worker = worker
        self._exchange = exchange
        self._downstream = downstream
        self._route = route
        self._record = record
        self.attempts = attempts
        self.attempt: Attempt | None = None
        self.begun = False
        self.copy: MirrorCopy | None = None
        """The copy of the request for the canary, where one was made."""
        # Of the answer's body, so far.
        self._relayed_bytes = 0

    # an untried endpoint of the variant's backend, and a connection to it

    def attempt_next(self, otherwise: Fault, now_s: float) -> None:
        """Try the next endpoint; ``otherwise`` is what is the matter when there is none."""
        attempt = self.attempts.next(self, now_s, head_only=self.request.method == b"HEAD")
        if attempt is None:
            self.attempt_failed(otherwise)
        elif isinstance(attempt, Fault):
            self._exchange.answer(attempt)
        else:
            if self.attempt is not None:
                self.attempt.end()
            self.attempt = attempt
            attempt.lease(now_s)

    def attempt_queued(self) -> None:
        """Wait for a connection: by a clock of its own; a body that may still grow is its client's to bring."""
        body = self.body
        if body.full and not body.complete:
            self._downstream.pause_reading()  # uploads wait for other uploads, which says nothing about the backend
        elif not body.complete:
            self._downstream.resume_reading()
        self._wait(CONNECT, self._worker.now_s())

    def attempt_refused(self, fault: Fault) -> None:
        """No connection came about: move on to the backend's next endpoint, if there is one."""
        queue = (gateway_errors.QUEUE_FULL, gateway_errors.BODY_BUFFERS_FULL)
        if fault not in queue and self.attempts.untried:
            self.attempt_next(fault, self._worker.now_s())
        else:
            self.attempt_failed(fault)

    # the request

    def attempt_connected(self, connection: UpstreamConnection, now_s: float) -> None:
        """Send the request, as far as it is here."""
        attempt, exchange, route = self.attempt, self._exchange, self._route
        assert attempt is not None
        if self._record is not None:
            self._record.lease_us = int((now_s - attempt.since_s) * 1e6)
        if now_s > attempt.since_s:  # it did not get one at once
            self.attempts.counters.of(attempt.variant).queued(outcome.elapsed_us(attempt.since_s, now_s))
        if route.try_s:
            exchange.total_at_s = min(now_s + route.try_s, exchange.began_s + route.total_s)
        body = self.body
        pieces = body.begin_attempt()
        attempt.blocked = False
        # Before it is written: that may say at once that the backend takes no more.
        self._wait(SEND, now_s)
        if not body.behind:
            self._downstream.resume_reading()
        if self._downstream.stalled:
            connection.pause_reading()
        if self.attempts.trace is not None:
            attempt.trace_lines = self.attempts.trace.lines()
        attempt.send(connection, route, pieces, now_s)
        body.sent()
        if body.behind:
            self._send_rest(attempt, connection)
        elif body.complete and route.mirror is not None:
            self._mirror()

    def _send_rest(self, attempt: Attempt, connection: UpstreamConnection) -> None:
        """Send what was held elsewhere than in memory, as fast as the backend takes it."""
        body = self.body
        attempt.send_rest(connection)
        if body.lost:
            self.release(attempt)
            self.attempt_failed(gateway_errors.BODY_LOST)
        elif not body.behind:
            if body.complete:
                self._sent_whole(attempt, connection)
            else:
                self._downstream.resume_reading()
                self._wait(SEND, self._worker.now_s())

    def _sent_whole(self, attempt: Attempt, connection: UpstreamConnection) -> None:
        now_s = self._worker.now_s()
        attempt.send_end(connection, now_s)
        self._wait(RELAY if attempt.head_s else SEND, now_s)
        if self._route.mirror is not None:
            self._mirror()

    def _mirror(self) -> None:
        """All of the request was sent: copy it to the canary, if it is one that was stable's from the beginning."""
        attempts = self.attempts
        if self.copy is None and self.upgrade is None and attempts.assigned is STABLE and not attempts.forced:
            self.copy = begin_copy(self._worker, self._route, self.request, self.body, attempts.trace)

    def take_body(self, piece: bytes) -> None:
        """A piece of the request's body has come."""
        body, attempt = self.body, self.attempt
        connection = None if attempt is None else attempt.connection
        if attempt is not None and connection is not None and not body.behind:
            connection.send_body(piece)
            body.keep(piece)
            if not attempt.blocked:
                self._wait(SEND, self._worker.now_s())
            return
        body.hold(piece)
        if attempt is not None and attempt.waiting:
            self.attempt_queued()
        elif body.full:
            self._downstream.pause_reading()

    def body_complete(self) -> None:
        """The request's body is whole."""
        attempt = self.attempt
        if attempt is None:
            return
        if attempt.connection is not None and not self.body.behind:
            self._sent_whole(attempt, attempt.connection)
        if attempt.body_is_whole():
            attempt.lease(self._worker.now_s())
        elif attempt.waiting:
            self.attempt_queued()

    def attempt_blocked(self) -> None:
        """The backend takes the body slowly: so does the gateway, and the wait is the backend's."""
        self._downstream.pause_reading()
        attempt = self.attempt
        if attempt is not None and not self.body.sent_whole:
            self._wait(RELAY if attempt.head_s else SEND, self._worker.now_s())

    def attempt_unblocked(self) -> None:
        """The backend takes more."""
        attempt = self.attempt
        if attempt is not None and attempt.connection is not None and self.body.behind:
            self._send_rest(attempt, attempt.connection)
            return
        self._downstream.resume_reading()
        if not self.body.complete:
            self._wait(SEND, self._worker.now_s())

    def _wait(self, phase: int, now_s: float) -> None:
        body, attempt, route = self.body, self.attempt, self._route
        if phase == CONNECT:
            whole, blocked = body.complete, body.full
        else:
            whole, blocked = body.sent_whole, attempt is not None and attempt.blocked
        if not whole and phase in (CONNECT, SEND) and self._awaits_leave():
            phase = CONTINUE
        limit_s = route.first_byte_s if attempt is None else attempt.limit_s
        self._exchange.wait(phase, route, limit_s, now_s, whole=whole, blocked=blocked)

    def _awaits_leave(self) -> bool:
        head = self.request.head
        return head is not None and expect_continue.awaits_leave(head, self.body)

    # the answer, as it comes

    def answer_interim(self, status: int, reason: bytes, fields: RawHeaders) -> None:
        """Pass a 1xx on at once, to clients that can take it."""
        if status == 100:
            self.give_leave()
        elif self.request.version == "1.1" and not self.begun:
            head = read_response(fields, self._worker.fields)
            if not isinstance(head, Fault):
                self._downstream.write_interim(status, reason, head.lines)

    def give_leave(self) -> None:
        """Let the client send its body, if it waits for leave."""
        head = self.request.head
        if head is not None and head.expects_continue and expect_continue.end_wait(head, self.body):
            self._downstream.write_continue()
            self._wait(SEND, self._worker.now_s())

    def answer_head(self, reason: bytes, head: ResponseHead, *, bodyless: bool) -> None:
        """The answer's head is whole and sound: write it, unless the answer gives way to another's."""
        attempt, attempts, request = self.attempt, self.attempts, self.request
        assert attempt is not None
        status = attempt.status
        if status != PLAIN or head.content_length == 0:
            upgrade = self.upgrade is not None and self.upgrade.protocol != b""
            attempt.next_step = attempts.judge_head(attempt, self._worker.now_s(), upgrade=upgrade)
            if attempt.next_step != retry.RELAY:
                return
        sample = attempts.sample
        if sample is not None:
            sample.head(status, head.lines)
        if self.copy is not None and self.copy.answer is not None:
            self.copy.answer.head(head.lines)
        if not self.body.complete:
            request.keep_alive = False
        lines = _CANARY_LINE
        if attempts.variant is not CANARY:
            lines = _RESCUED_LINES if attempts.rescued else _STABLE_LINE
        trailers = self.trailers is not None
        self._downstream.write_head(request, status, reason, head, lines, bodyless=bodyless, trailers=trailers)
        if attempt.stream is not None:
            attempts.hold(attempt)

    def answer_body(self, piece: bytes) -> None:
        """A piece of the answer's body."""
        attempt, sample = self.attempt, self.attempts.sample
        if attempt is not None and attempt.stream is not None:
            attempt.stream.piece(piece, self._worker.now_s())
        if sample is not None:
            sample.body(piece)
        if self.copy is not None and self.copy.answer is not None:
            self.copy.answer.body(piece)
        self._relayed_bytes += len(piece)
        if attempt is not None and attempt.hold is not None and attempt.stream is not None:
            opening = attempt.stream.opening
            assert opening is not None  # or nothing would be held
            self._held(attempt, attempt.hold.add(len(piece), opening.found, self._worker.now_s()))
        self._downstream.write_body(piece)

    def _held(self, attempt: Attempt, found: int) -> None:
        """Act on what the beginning of a stream has come to."""
        if found == stream_hold.CONTENT:
            attempt.hold = None
        elif found == stream_hold.FAILED:
            attempt.next_step = self.attempts.judge_held(attempt, self._worker.now_s())

    def answer_trailer(self, name: bytes, value: bytes) -> bool:
        """A field behind the answer's body; False when there are too many."""
        if self.trailers is None:
            self._worker.counts.trailers_dropped += 1
            return True
        return self.trailers.add(self.trailers.of_answer, name, value)

    def answer_read(self, fault: Fault | None, *, complete: bool) -> None:
        """What came at once has been parsed: write what it brought, and act on its end."""
        attempt = self.attempt
        assert attempt is not None
        if attempt.next_step != retry.RELAY:  # also when the failed answer turned out to be malformed
            self._answer_dropped(attempt)
        elif fault is not None:
            if self.begun:  # what was sound goes out before the answer is cut
                self._flush()
            self.release(attempt)
            self.attempt_failed(fault)
        elif complete:
            self._answer_complete(attempt)
        elif attempt.hold is not None or (attempt.names is not None and attempt.names.holds_head):
            self._wait(RELAY, self._worker.now_s())
        elif self._flush():
            # As long as the body is not whole, it is the client's turn as much as the backend's.
            self._wait(RELAY, self._worker.now_s())

    def _answer_complete(self, attempt: Attempt) -> None:
        """All of the answer is here; a stream that said nothing may still give way to stable's."""
        if attempt.hold is not None:
            self._held(attempt, stream_hold.FAILED)
            if attempt.next_step != retry.RELAY:
                self._answer_dropped(attempt)
                return
        self.release(attempt)
        self._answer_whole(attempt)

    def _answer_dropped(self, attempt: Attempt) -> None:
        """The answer's head was enough: the canary's gives way to stable's, or an endpoint's to another's."""
        attempts, step = self.attempts, attempt.next_step
        self._relayed_bytes = 0
        self._downstream.discard()  # what was held back
        kind = attempts.kind_of(attempt)
        if kind == ERRORS:
            attempt.failed_by(STATUS_REASON)
        if self.copy is not None:
            self.copy.stable_ended(kind, stable_latency_us(attempt, self._worker.now_s()), self._worker.now_s())
        self.release(attempt, drain=True)
        attempts.count(attempt, kind, self._exchange.asked_s, self._worker.now_s())
        if step != retry.RESCUE:
            attempts.sample = None
            attempts.retried(STATUS_REASON, step)
        self._go_on(step)

    def answer_is_long(self) -> None:
        """What the client does not take is kept in small measure from now on (http1/small_reads.py)."""
        self._downstream.keep_unsent_small()

    def answer_ended(self) -> None:
        """The end of a body that only the connection's end delimits."""
        attempt = self.attempt
        assert attempt is not None
        self._answer_complete(attempt)

    def _answer_whole(self, attempt: Attempt) -> None:
        trailers = self.trailers
        self._downstream.write_end(NO_TRAILERS if trailers is None else trailers.lines(trailers.of_answer))
        self._flush()
        self._completed(attempt)

    def _flush(self) -> bool:
        """Send what was written; whether that was anything."""
        sent = self._downstream.flush()
        if not sent:
            return False
        self.begun = True
        if self._record is not None:
            self._record.out_bytes += sent
        return True

    def pause(self) -> None:
        """The client takes the answer slowly: so does the gateway."""
        attempt = self.attempt
        if attempt is not None:
            if attempt.stream is not None:
                attempt.stream.stopped(self._worker.now_s())
            if attempt.connection is not None:
                attempt.connection.pause_reading()

    def resume(self) -> None:
        """The client takes more."""
        attempt = self.attempt
        if attempt is not None:
            now_s = self._worker.now_s()
            if attempt.stream is not None:
                attempt.stream.resumed(now_s)
            if attempt.connection is not None:
                attempt.connection.resume_reading()
                # As in `answer_read`: a client that has not sent its whole body has to send it, however well it reads.
                self._wait(RELAY, now_s)

    # another protocol (upgrade.py)

    def answer_switches(self, fields: RawHeaders) -> bool:
        """A 101 has come: whether it is the one that was asked for."""
        upgrade, head = self.upgrade, self.request.head
        return upgrade is not None and head is not None and upgrade.agree(fields, self._worker.fields, head.id_line)

    def answer_switched(self, connection: UpstreamConnection, rest: bytes) -> None:
        """From here on it is a tunnel; ``rest`` is what already came of it."""
        attempt, upgrade, counts = self.attempt, self.upgrade, self._worker.counts
        assert attempt is not None and upgrade is not None  # only who asked is switched
        self.begun = True
        counts.tunnels += 1
        counts.tunnels_open += 1
        variant_line = _CANARY_LINE if self.attempts.variant is CANARY else _STABLE_LINE
        head = upgrade.switched_head + variant_line + b"\r\n"
        idle_s = self._route.route.timeouts.tunnel_idle_s
        self._downstream.begin_tunnel(connection, head, rest, idle_s, self._exchange.tunnel_ended)
        self._completed(attempt)

    # how an attempt ends

    def attempt_stale(self) -> None:
        """A kept connection was closed under the request: once more on a fresh one, or a failure like others."""
        attempt, attempts, now_s = self.attempt, self.attempts, self._worker.now_s()
        assert attempt is not None
        if not attempts.may_have_fresh(attempt, now_s, begun=self.begun):
            self.attempt_failed(gateway_errors.STALE)
            return
        attempts.count(attempt, outcome.STALE, self._exchange.asked_s, now_s)
        if self._record is not None:
            self._record.attempts += 1
        if attempts.trace is not None:
            attempts.trace.again(now_s)
        attempt.lease_fresh(now_s)

    def attempt_failed(self, fault: Fault) -> None:
        """The present attempt came to nothing (its connection is already given back)."""
        self._downstream.discard()
        exchange = self._exchange
        if self.copy is not None:
            self.copy.stable_ended(failed_as(fault), 0, self._worker.now_s())
        step = self.attempts.failed(self.attempt, fault, exchange.asked_s, self._worker.now_s(), begun=self.begun)
        if step == retry.ANSWER:
            exchange.answer(fault)
        else:
            self._go_on(step)

    def timed_out(self, fault: Fault, now_s: float) -> None:
        """The present attempt took too long, or all of them together."""
        attempt = self.attempt
        if attempt is not None:
            # One that was sent whole and outlasted all of the exchange's time failed by the backend's doing.
            outlasted = fault is gateway_errors.TOTAL_TIMEOUT and attempt.connection is not None and self.body.complete
            self.give_up()
            if outlasted:
                if not self.begun:
                    attempt.failed_by(fault.reason, timed_out=True)
                self.attempts.count(attempt, ERRORS, self._exchange.asked_s, now_s)
        self.attempt_failed(fault)

    def _go_on(self, step: int) -> None:
        """Carry out what retry.py has decided."""
        if step == retry.AGAIN:
            self._wait(PAUSE, self._worker.now_s())
            return
        if step == retry.RESCUE:
            self.attempts.rescue()
        self.attempt_next(gateway_errors.NO_ENDPOINT, self._worker.now_s())

    def _completed(self, attempt: Attempt) -> None:
        exchange, attempts = self._exchange, self.attempts
        if self.copy is not None:
            now_s = self._worker.now_s()
            self.copy.stable_ended(attempts.kind_of(attempt), stable_latency_us(attempt, now_s), now_s)
        attempts.completed(attempt, exchange.asked_s, self._worker.now_s(), self._relayed_bytes)
        exchange.settle(attempt.status, keep=self.request.keep_alive and self.body.complete)

    def client_left(self) -> None:
        """The client is gone before its answer was whole."""
        attempt = self.attempt
        if attempt is not None:
            now_s, cut = self._worker.now_s(), self._worker.cutting
            self.attempts.abandoned(attempt, self._exchange.asked_s, now_s, begun=self.begun, cut=cut)
        self.give_up()

    def give_up(self) -> None:
        """Wait for no connection any more, and give the one that there is back."""
        if self.attempt is not None:
            self.attempt.leave()
            self.release(self.attempt)

    def release(self, attempt: Attempt, *, drain: bool = False) -> None:
        """Give the attempt's connection back."""
        attempt.release(stalled=self._downstream.stalled, drain=drain)

    def end(self) -> None:
        """The exchange has settled."""
        self.attempts.close()
        if self.copy is not None:
            self.copy.client_left()  # unless stable's part in the pair is known
            self.copy = None
        if self.attempt is not None:
            self.attempt.end()
