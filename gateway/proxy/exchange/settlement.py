"""How an exchange ends: in a failure, a rescue or an answer; counted and settled exactly once.

Rules:

1. `settle` runs exactly once, also when the client vanishes or an upstream fails: it gives back the connection, counts
   what is still uncounted, and tells the downstream connection that it may go on.
2. What becomes of a failed try is retry.py's decision: stable answers for the canary in the same exchange (a *rescue*),
   another endpoint of the backend is tried, or the client is told. The first failure counts as its variant's all the
   same, with the latency at which it failed.
3. Only an assigned try is evidence: forced variants and the rescue's own answer never are, nor is what the client (a
   malformed request, a body that it sends too slowly) or the gateway itself broke. A client that leaves before its
   answer is whole has an outcome: ``abandoned``, or the failure that the head told it of. Where the gateway has no
   endpoint to try, no room or no descriptors, that is nobody's failure and counted apart (`unserved`); a full queue is
   its backend's overload, unless ejections or probes keep some of the backend's endpoints out. So is a trial of an
   ejected endpoint that was given less than the route's time.
4. What was whole when the client left is a latency like others, and what was not has lasted at least so long
   (slices.py says what that proves). One that leaves while it is still sending says nothing: no answer was due.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from gateway.core.errors import Blame
from gateway.core.stats.outcomes import ABANDONED, EMPTY, ERRORS, FAILURES, OK, OVERLOAD, PLAIN
from gateway.core.traffic.table import Route
from gateway.core.types import Variant
from gateway.proxy.access_log import STATUS_ABORTED, Record
from gateway.proxy.context import OpenExchange, WorkerContext
from gateway.proxy.counting.epoch_counters import EpochCounters
from gateway.proxy.exchange import retry
from gateway.proxy.exchange.request_body import RequestBody
from gateway.proxy.heads import gateway_errors
from gateway.proxy.heads.gateway_errors import Fault
from gateway.proxy.routes.route_runtime import RouteRuntime

if TYPE_CHECKING:
    from gateway.proxy.counting.response_sampler import ResponseSample
    from gateway.proxy.exchange.stream_times import StreamTimes
    from gateway.proxy.http1.client_connection import UpstreamConnection
    from gateway.proxy.http1.server_connection import DownstreamConnection
    from gateway.proxy.http1.tunnel import Tunnel
    from gateway.proxy.upstream.backends import BackendPool
    from gateway.proxy.upstream.pool import EndpointPool

# Never an answer: the end of the moment after which the only endpoint is asked once more.
_RETRY_PAUSE: Final = Fault("retry_pause", 502, Blame.NONE, "the backend will be asked again")
_RETRY_PAUSE_S: Final = 0.05
# Why an endpoint is ejected that answers with 5xx.
_STATUS: Final = "status"
# What a try that timed out would have taken is not known: more than its limit.
_NEVER: Final = 1.25
# A look at an enumeration's member costs a search through its classes; these are looked at for every request.
STABLE: Final = Variant.STABLE
CANARY: Final = Variant.CANARY


class Settlement(OpenExchange):
    """The part of an exchange that its ends need: who takes part, what was tried, what was counted."""

    __slots__ = (
        "_chunk_out",
        "_connection",
        "_counted",
        "_deadline_fault",
        "_downstream",
        "_duration_from_s",
        "_first_byte_s",
        "_fresh_tried",
        "_hurried",
        "_keep_alive",
        "_has_content",
        "_limit_s",
        "_out",
        "_paused",
        "_plan",
        "_record",
        "_relayed",
        "_sent",
        "_settled",
        "_specimen",
        "_stalled",
        "_status",
        "_stream",
        "_tried",
        "try_since_s",
        "_asked_s",
        "_version",
        "_waiting_for",
        "_worker",
        "assigned",
        "fault",
        "forced",
        "method",
        "request_body",
        "rescued",
        "route",
        "started",
        "tally",
        "unframed",
        "unit",
        "upload_pool",
        "variant",
    )

    def __init__(
        self, worker: WorkerContext, downstream: DownstreamConnection, method: bytes, version: str, *, keep_alive: bool
    ) -> None:
        super().__init__()
        self._worker = worker
        self._downstream = downstream
        self.method = method
        self._version = version
        self._keep_alive = keep_alive
        self.fault: Fault | None = None
        self.started = False
        self.route: Route = None  # type: ignore[assignment]  # set by choose, before anything that reads it
        self.tally: EpochCounters | None = None
        self._plan: RouteRuntime = None  # type: ignore[assignment]  # as the route
        # The point of the sticky key, which is the unit of evidence; -1 without one.
        self.unit = -1.0
        self.assigned = self.variant = STABLE
        self.forced = False
        self.rescued = False
        self._connection: UpstreamConnection | None = None
        self._waiting_for: EndpointPool | None = None
        self._tried: tuple[EndpointPool, ...] = ()
        # Whether any of the request was ever sent, and whether its only endpoint was given a moment already.
        self._sent = self._paused = False
        # How long this try may take to begin its answer, and whether that is less because it is a trial.
        self._limit_s = 0.0
        self._hurried = False
        self._fresh_tried = False
        self.request_body = RequestBody(worker.bodies)
        # Whose connections this request takes a part of while its body is still coming.
        self.upload_pool: EndpointPool | None = None
        self._out: list[bytes] = []
        self._chunk_out = False
        self._relayed = False
        self._has_content = False
        self._stalled = False
        # Only the end of the client's connection says where its answer ends.
        self.unframed = False
        self._counted = False
        self._settled = False
        # What the tap keeps of the answer; None for routes without one, and for what is no evidence.
        self._specimen: ResponseSample | None = None
        # What the access log wants to know; None where there is none.
        self._record: Record | None = None
        # When the answer's events came; None before its head, and for one whose length the head gave.
        self._stream: StreamTimes | None = None
        self._status = 0
        self._duration_from_s = 0.0
        # Since when an answer is waited for: the request's turn, or the end of its body.
        self._asked_s = 0.0
        self.try_since_s = 0.0
        self._first_byte_s = 0.0
        self._deadline_fault = gateway_errors.BODY_TIMEOUT

    def lease(self) -> None:
        """Try (again): a rescue leads back here."""
        raise NotImplementedError

    def _lease_from(self, pool: EndpointPool, *, fresh: bool) -> None:
        """Ask this endpoint for a connection."""
        raise NotImplementedError

    def tunnel_ended(self, tunnel: Tunnel) -> None:
        """The tunnel that this exchange became is over."""
        raise NotImplementedError

    @property
    def _pools(self) -> BackendPool | None:
        """The endpoints of the present variant's backend; None where nothing is deployed."""
        return self._plan.canary_pool if self.variant is CANARY else self._plan.stable_pool

    def give_leave(self) -> None:
        """Let the client send its body, although the backend has not said so."""
        raise NotImplementedError

    def _log(self, record: Record, status: int, *, failed: bool) -> None:
        """Write the request's line."""
        raise NotImplementedError

    def awaited_body_bytes(self) -> int:
        """How much of the request's body has come while it is the client's turn to send more; -1 otherwise."""
        raise NotImplementedError

    # failure, deadline, rescue

    def sweep(self, now_s: float) -> None:
        """Act on a deadline that has passed."""
        if self._settled or not self.total_at_s:
            return
        if now_s >= self.total_at_s:
            fault = gateway_errors.TOTAL_TIMEOUT
            if self.tally is None:  # its body is not there yet
                fault = gateway_errors.BODY_TIMEOUT
            elif now_s < self._duration_from_s + self._plan.total_s:  # then it is a try's end (`try_s`)
                fault = gateway_errors.TRY_TIMEOUT if self.request_body.complete else gateway_errors.BODY_TIMEOUT
        elif self.deadline_s and now_s >= self.deadline_s:
            fault = self._deadline_fault
        else:
            return
        if fault is gateway_errors.NO_CONTINUE:
            self.give_leave()
            return
        if fault is _RETRY_PAUSE:
            self._tried = ()
            self.lease()
            return
        if fault.blame is Blame.DOWNSTREAM or self._stalled:
            self._refuse(gateway_errors.BODY_TIMEOUT)
            return
        # A try that was sent whole and outlasted all of the exchange's time came to nothing by the backend's doing.
        outlasted = (
            fault is gateway_errors.TOTAL_TIMEOUT and self._connection is not None and self.request_body.complete
        )
        self._wait_no_longer()
        self._release(drain=False)
        if outlasted:
            if not self._relayed:
                self._tried[-1].try_failed(fault.reason, self.try_since_s, timed_out=True)
            self._tried_result(ERRORS)
            self._count(ERRORS)
        self._failed(fault)

    def _set_deadline(self, after_s: float, fault: Fault) -> None:
        self._set_deadline_at(self._worker.now_s() + after_s, fault)

    def _set_deadline_at(self, at_s: float, fault: Fault) -> None:
        self.deadline_s = at_s
        self._deadline_fault = fault

    def _failed(self, fault: Fault) -> None:
        """The present try came to nothing (its connection is already given back)."""
        self._out.clear()
        if self._record is not None:
            self._record.fault = fault.reason
        timed_out = fault in gateway_errors.OF_TIME
        if self._tried and fault in gateway_errors.OF_AN_ENDPOINT:
            self._tried[-1].try_failed(fault.reason, self.try_since_s, timed_out=timed_out)
        kind = self._kind_of(fault)
        if fault is gateway_errors.FIRST_BYTE_TIMEOUT and kind is not None and (pools := self._pools) is not None:
            pools.usual.add(_NEVER * self._limit_s)
        if fault in gateway_errors.OF_THE_GATEWAY:
            cause = retry.UNSERVED
        else:
            cause = retry.TIMED_OUT if timed_out else retry.STALE if fault is gateway_errors.STALE else retry.BROKEN
        action = self._decided(cause)
        if action == retry.RESCUE:
            self._rescue(kind)
            return
        if kind is not None:
            self._tried_result(kind)
            self._count(kind)
        if action in (retry.NEXT, retry.AGAIN):
            self._try_another(fault.reason, counted=kind is not None, again=action == retry.AGAIN)
        else:
            self._answer(fault)

    def _kind_of(self, fault: Fault) -> str | None:
        """The class that a fault counts in; None where it is nobody's, which is counted apart."""
        if fault.blame is Blame.UPSTREAM:
            if fault is gateway_errors.FIRST_BYTE_TIMEOUT and self._hurried:
                # It had less than the route's time: what the next try comes to is what counts.
                self._tried_result("trial")
                return None
            return ERRORS
        pools = self._pools
        if fault in gateway_errors.OF_OVERLOAD and not (pools is not None and pools.short):
            return OVERLOAD
        if self.tally is not None and fault in gateway_errors.OF_THE_GATEWAY:
            self.tally.unserved(self.variant, fault.reason)
        return None

    def _try_another(self, reason: str, *, counted: bool, again: bool = False) -> None:
        """Another endpoint of the same backend is asked, or the only one after a moment."""
        assert self.tally is not None
        self.tally.retried(self.variant, reason)
        if counted:
            self._specimen = None
        self._begin_anew()
        if again:
            self._paused = True
            self._set_deadline(_RETRY_PAUSE_S, _RETRY_PAUSE)
        else:
            self.lease()

    def _begin_anew(self) -> None:
        self._fresh_tried = False
        self._first_byte_s = 0.0
        self._stream = None
        self._chunk_out = False

    def _decided(self, cause: int) -> int:
        """What becomes of the present try (retry.py); takes the token that this costs, and counts a refusal."""
        decision = retry.decide(self._failed_try(cause))
        plan, action, refused = self._plan, decision.action, decision.refused
        if action == retry.RESCUE:
            plan.budget.take()
        elif action in (retry.NEXT, retry.AGAIN):
            plan.retry_budget.take()
        elif refused and self.tally is not None:
            if self.variant is CANARY:
                self.tally.rescue_refused(refused)
                if self._record is not None:
                    self._record.rescue_refused = refused
            else:
                self.tally.retry_refused(refused)
        return action

    def _detail(self, fault: Fault) -> str:
        """What a problem document says of this request beyond its title."""
        raise NotImplementedError

    def _named(self) -> bytes:
        """The response's lines that name the request."""
        raise NotImplementedError

    def _failed_try(self, cause: int) -> retry.Failed:
        """The present try as `retry.decide` reads it."""
        plan, now_s = self._plan, self._worker.now_s()
        stable, own = plan.stable_pool, self._pools
        failed = retry.Failed(cause, canary=self.variant is CANARY, has_stable=stable is not None)
        failed.sent = self._sent
        failed.replayable = plan.replayable
        body = self.request_body
        failed.kept = (body.kept or not self._sent) and not body.lost
        failed.begun = self._relayed
        failed.fresh, failed.paused = self._fresh_tried, self._paused
        failed.untried = own is not None and own.untried(self._tried)
        failed.rescue_budget = plan.budget.tokens >= 1
        failed.retry_budget = plan.retry_budget.tokens >= 1
        failed.spent_s = now_s - self.try_since_s
        failed.first_byte_s = plan.first_byte_s
        failed.left_s = self._duration_from_s + plan.total_s - now_s
        asked = stable if failed.canary and stable is not None else own
        if asked is not None:
            failed.usual_s = asked.usual.seconds
            failed.silent = asked.usual.answered_s < self.try_since_s and asked.load > 0
        return failed

    def _rescue(self, kind: str | None) -> None:
        """Let stable answer; the canary's failure is counted first (``kind`` None: it was not the canary's)."""
        assert self.tally is not None
        if kind is not None:
            self._tried_result(kind)
            self._count(kind)
        else:
            self._counted = True
        self.tally.totals[CANARY].rescued += 1
        self.rescued = True
        self._specimen = None
        self.variant = STABLE
        self._tried = ()
        self._begin_anew()
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
            and self.request_body.complete
            and not self._downstream.last
        )
        if self.tally is not None:
            self.tally.variants[self.variant].answered(fault.status)
        size = self._downstream.write_problem(
            fault, keep=keep, head_only=self.method == b"HEAD", detail=self._detail(fault), lines=self._named()
        )
        if self._record is not None:
            self._record.out_bytes += size
        self._settle(keep=keep)

    # settle: exactly once

    def _completed(self) -> None:
        assert self.tally is not None
        arm = self.tally.variants[self.variant]
        arm.answered(self._status)
        kind = self._plan.outcomes[self._status]
        if kind == OK and not self._has_content and self._status == PLAIN and self.method != b"HEAD":
            kind = EMPTY
        now_s = self._worker.now_s()
        first_byte_s = max(0.0, (self._first_byte_s or now_s) - self.try_since_s)
        if kind == ERRORS:
            self._tried[-1].try_failed(_STATUS, self.try_since_s)
        elif kind != OVERLOAD:
            self._tried[-1].answered(self.try_since_s, first_byte_s)
        first_byte_us = int(first_byte_s * 1e6)
        duration_us = max(0, int((now_s - self._asked_s) * 1e6))
        arm.tried(kind, first_byte_us, duration_us)
        if not self._counted:
            self._enter(kind, first_byte_us if self._stream is None else self._latency_us(), duration_us)
        if self._specimen is not None:
            self._specimen.finish()
            self._specimen = None
        self._settle(keep=self._keep_alive and self.request_body.complete)

    def downstream_lost(self) -> None:
        """The client is gone: stop at once, blame nobody's variant."""
        if self._settled:
            return
        if self.started:
            self._worker.counts.aborted += 1
            if self.tally is not None:
                self._abandoned()
        self._wait_no_longer()
        self._release(drain=False)
        self._status = STATUS_ABORTED
        self._settle(keep=False)

    def _abandoned(self) -> None:
        """The client left before the answer was whole: that is its outcome, or the failure that the head told it of."""
        assert self.tally is not None
        kind = self._plan.outcomes[self._status] if self._relayed else OK
        if kind in FAILURES:
            self._tried_result(kind)
            self._count(kind)
            return
        self._tried_result(ABANDONED)
        if self._counted or self.forced or self._worker.cutting:
            return
        if not (self._first_byte_s or self.request_body.complete):
            return  # it left while its own body was still coming, and has not waited for anybody
        self._counted = True
        self._enter_abandoned(self.tally)
        if self.unit >= 0.0 and self._plan.sessions is not None:
            self._plan.sessions.outcome(self.unit, self.tally, self.assigned, ABANDONED, self._worker.now_s())

    def _enter_abandoned(self, tally: EpochCounters) -> None:
        """What had come to its end when the client left, and how long the rest had lasted (rule 4)."""
        stream, latency_us = self._stream, self._latency_us()
        waited = not self._first_byte_s if stream is None else not stream.first_s
        tally.abandoned(self.assigned, latency_us, -1 if waited else self._duration_us())
        if stream is not None and stream.events:
            stream.ended(self._worker.now_s())
            tally.streamed(self.assigned, stream.gap_s, stream.time_per_event_s, left=True)
        if self._record is not None:
            self._record.counted, self._record.counted_us, self._record.left = ABANDONED, latency_us, waited

    def _settle(self, *, keep: bool, cut: bool = False) -> None:
        assert not self._settled, "an exchange settles once"
        self._settled = True
        if self.tally is not None:
            self.tally.open -= 1
        if self._specimen is not None:
            self._specimen.leave()
        if self.started:
            del self._worker.active[self]
        self._end_upload()
        self.request_body.close()
        if self._record is not None:
            answered = self._relayed or self.fault is None or self._status == STATUS_ABORTED
            status = self._status if answered or self.fault is None else self.fault.status
            self._log(self._record, status, failed=cut or status >= STATUS_ABORTED)
        self._downstream.exchange_done(self, keep=keep, cut=cut)

    def _wait_no_longer(self) -> None:
        pool, self._waiting_for = self._waiting_for, None
        if pool is not None:
            pool.leave(self)  # type: ignore[arg-type]  # who settles is an Exchange

    def _release(self, *, drain: bool) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            if self._stalled and not connection.closing:
                connection.transport.resume_reading()
            connection.detach(sent=self.request_body.sent_whole, drain=drain)

    def _end_upload(self) -> None:
        """The request takes no part of an endpoint's connections for uploads any more."""
        pool, self.upload_pool = self.upload_pool, None
        if pool is not None:
            pool.upload_ended()

    def _tried_result(self, kind: str) -> None:
        assert self.tally is not None
        self.tally.variants[self.variant].tried(kind, self._first_byte_us(), self._duration_us())

    def _count(self, kind: str) -> None:
        if not self._counted:
            self._enter(kind, self._latency_us(), self._duration_us())

    def _enter(self, kind: str, latency_us: int, duration_us: int) -> None:
        """The outcome, as evidence: once in an exchange."""
        self._counted = True
        if not self.forced:
            assert self.tally is not None
            self.tally.variants[self.assigned].count(kind, latency_us, duration_us)
            if self.unit >= 0.0 and self._plan.sessions is not None:
                self._plan.sessions.outcome(self.unit, self.tally, self.assigned, kind, self._worker.now_s())
            if self._stream is not None and self._stream.events:
                self._stream.ended(self._worker.now_s())
                self.tally.streamed(self.assigned, self._stream.gap_s, self._stream.time_per_event_s, left=False)
            if self._record is not None:
                self._record.counted, self._record.counted_us = kind, latency_us

    def _first_byte_us(self) -> int:
        end_s = self._first_byte_s or self._worker.now_s()
        return max(0, int((end_s - self.try_since_s) * 1e6))

    def _latency_us(self) -> int:
        """The latency that is judged: to the head, of a stream to its first event; until now while that is to come."""
        if self._stream is None:
            return self._first_byte_us()
        end_s = self._stream.first_s or self._worker.now_s()
        return max(0, int((end_s - self.try_since_s) * 1e6))

    def _duration_us(self) -> int:
        return max(0, int((self._worker.now_s() - self._asked_s) * 1e6))
