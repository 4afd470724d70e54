"""How an exchange ends: in a failure, a rescue or an answer; counted and settled exactly once.

Rules:

1. `settle` runs exactly once, also when the client vanishes or an upstream fails: it gives back the connection, counts
   what is still uncounted, and tells the downstream connection that it may go on.
2. A failed try on the canary is answered by stable in the same exchange (a *rescue*) as long as no byte of a response
   has reached the client, the route allows replays, the body was kept and the budget has room. It counts as the
   canary's failure all the same, with the latency at which it failed.
3. Only an assigned try is evidence: forced variants and the rescue's own answer never are, nor is what the client or
   the gateway itself broke.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from gateway.core.errors import Blame
from gateway.core.traffic.table import Route
from gateway.core.types import Variant
from gateway.proxy import faults
from gateway.proxy.accesslog import STATUS_ABORTED, Record
from gateway.proxy.faults import Fault
from gateway.proxy.plan import RoutePlan
from gateway.proxy.request_body import RequestBody
from gateway.proxy.tally import RouteTally

if TYPE_CHECKING:
    from gateway.proxy.http1 import DownstreamConnection
    from gateway.proxy.pool import EndpointPool
    from gateway.proxy.state import WorkerState
    from gateway.proxy.tap import Specimen
    from gateway.proxy.tunnel import Tunnel
    from gateway.proxy.upstream import UpstreamConnection

OK: Final = "ok"
ERRORS: Final = "errors"
CLIENT_ERRORS: Final = "client_errors"
OVERLOAD: Final = "overload"
# A look at an enumeration's member costs a search through its classes; these are looked at for every request.
STABLE: Final = Variant.STABLE
CANARY: Final = Variant.CANARY


def failure_class(status: int) -> str:
    """The class of a response by its status: ``ok``, ``errors``, ``client_errors`` or ``overload``.

    401, 403, 404 and 429 say more about the client than about the model, hence the exceptions.
    """
    if status < 400 or status in (401, 403, 404):
        return OK
    if status in (429, 503):
        return OVERLOAD
    return ERRORS if status >= 500 else CLIENT_ERRORS


class Settlement:
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
        "_keep_alive",
        "_gap_s",
        "_out",
        "_piece_s",
        "_plan",
        "_record",
        "_relayed",
        "_settled",
        "_specimen",
        "_stalled",
        "_status",
        "_tried",
        "_try_since_s",
        "_asked_s",
        "_version",
        "_waiting_for",
        "_worker",
        "assigned",
        "deadline_s",
        "fault",
        "forced",
        "method",
        "request_body",
        "rescued",
        "route",
        "started",
        "tally",
        "total_at_s",
        "unit",
        "upload_pool",
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
        self.fault: Fault | None = None
        self.started = False
        self.route: Route = None  # type: ignore[assignment]  # set by choose, before anything that reads it
        self.tally: RouteTally | None = None
        self._plan: RoutePlan = None  # type: ignore[assignment]  # as the route
        # The point of the sticky key, which is the unit of evidence; -1 without one.
        self.unit = -1.0
        self.assigned = self.variant = STABLE
        self.forced = False
        self.rescued = False
        self._connection: UpstreamConnection | None = None
        self._waiting_for: EndpointPool | None = None
        self._tried: tuple[EndpointPool, ...] = ()
        self._fresh_tried = False
        self.request_body = RequestBody(worker.bodies)
        # Whose connections this request takes a part of while its body is still coming.
        self.upload_pool: EndpointPool | None = None
        self._out: list[bytes] = []
        self._chunk_out = False
        self._relayed = False
        self._stalled = False
        self._counted = False
        self._settled = False
        # What the tap keeps of the answer; None for routes without one, and for what is no evidence.
        self._specimen: Specimen | None = None
        # What the access log wants to know; None where there is none.
        self._record: Record | None = None
        # When the newest piece of the answer came, and the longest that one was waited for.
        self._piece_s = self._gap_s = 0.0
        self._status = 0
        self._duration_from_s = 0.0
        # Since when an answer is waited for: the request's turn, or the end of its body.
        self._asked_s = 0.0
        self._try_since_s = 0.0
        self._first_byte_s = 0.0
        self.deadline_s = 0.0
        self._deadline_fault = faults.BODY_TIMEOUT
        self.total_at_s = 0.0

    def lease(self) -> None:
        """Try (again): a rescue leads back here."""
        raise NotImplementedError

    def tunnel_ended(self, tunnel: Tunnel) -> None:
        """The tunnel that this exchange became is over."""
        raise NotImplementedError

    def _may_try_another(self) -> bool:
        """Whether the backend has an endpoint that was not tried, and the budget a try."""
        raise NotImplementedError

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
            fault = faults.TOTAL_TIMEOUT
            if self.tally is None:  # its body is not there yet
                fault = faults.BODY_TIMEOUT
            elif now_s < self._duration_from_s + self._plan.total_s:  # then it is a try's end (`try_s`)
                fault = faults.TRY_TIMEOUT if self.request_body.complete else faults.BODY_TIMEOUT
        elif self.deadline_s and now_s >= self.deadline_s:
            fault = self._deadline_fault
        else:
            return
        if fault is faults.NO_CONTINUE:
            self.give_leave()
            return
        if fault.blame is Blame.DOWNSTREAM or self._stalled:
            self._refuse(faults.BODY_TIMEOUT)
            return
        # A try that was sent whole and outlasted all of the exchange's time came to nothing by the backend's doing.
        outlasted = fault is faults.TOTAL_TIMEOUT and self._connection is not None and self.request_body.complete
        self._wait_no_longer()
        self._release(drain=False)
        if outlasted:
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
        if fault.blame is Blame.UPSTREAM:
            if self._tried and fault in faults.OF_AN_ENDPOINT:
                self._tried[-1].try_failed()
            if self.variant is CANARY and self._may_rescue():
                self._rescue(ERRORS)
                return
            self._tried_result(ERRORS)
            self._count(ERRORS)
            if fault is faults.RESET and self._replayable() and self._may_try_another():
                self.lease()
                return
        else:
            # A queue is full because its backend is slow: that is its overload, on either arm.
            kind = OVERLOAD if fault in faults.OF_OVERLOAD else None
            if self.variant is CANARY and fault is not faults.TOTAL_TIMEOUT and self._may_rescue():
                self._rescue(kind)
                return
            if kind is not None:
                self._tried_result(kind)
                self._count(kind)
        self._answer(fault)

    def _detail(self, fault: Fault) -> str:
        """What a problem document says of this request beyond its title."""
        raise NotImplementedError

    def _named(self) -> bytes:
        """The response's lines that name the request."""
        raise NotImplementedError

    def _replayable(self) -> bool:
        return not self._relayed and self.request_body.kept

    def _may_rescue(self) -> bool:
        if not self._replayable() or self._plan.stable_pool is None:
            return False
        if not self._plan.budget.take():
            assert self.tally is not None
            self.tally.totals[CANARY].rescue_denied += 1
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
        self.tally.totals[CANARY].rescued += 1
        self.rescued = True
        self._specimen = None
        self.variant = STABLE
        self._tried = ()
        self._fresh_tried = False
        self._first_byte_s = self._piece_s = self._gap_s = 0.0
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
            and self.request_body.complete
            and not self._downstream.last
        )
        if self.tally is not None:
            self.tally.hot[self.variant].answered(fault.status)
        size = self._downstream.write_problem(
            fault, keep=keep, head_only=self.method == b"HEAD", detail=self._detail(fault), lines=self._named()
        )
        if self._record is not None:
            self._record.out_bytes += size
        self._settle(keep=keep)

    # settle: exactly once

    def _completed(self) -> None:
        assert self.tally is not None
        arm = self.tally.hot[self.variant]
        arm.answered(self._status)
        kind = failure_class(self._status)
        passive = self._tried[-1].passive
        if kind == ERRORS:
            self._tried[-1].try_failed()
        elif passive.streak and kind != OVERLOAD:
            passive.well()
        now_s = self._worker.now_s()
        first_byte_us = max(0, int(((self._first_byte_s or now_s) - self._try_since_s) * 1e6))
        duration_us = max(0, int((now_s - self._asked_s) * 1e6))
        arm.tried(kind, first_byte_us, duration_us)
        if not self._counted:
            self._enter(kind, first_byte_us, duration_us)
        if self._specimen is not None:
            self._specimen.finish()
        self._settle(keep=self._keep_alive and self.request_body.complete)

    def downstream_lost(self) -> None:
        """The client is gone: stop at once, blame nobody's variant."""
        if self._settled:
            return
        if self.started:
            self._worker.counts.aborted += 1
            if self.tally is not None:
                self._tried_result("aborted")
                # One that left while its own body was still coming has not waited for anybody.
                if not (self._counted or self.forced or self._first_byte_s) and self.request_body.complete:
                    self.tally.abandoned(self.assigned, self._duration_us())
        self._wait_no_longer()
        self._release(drain=False)
        self._status = STATUS_ABORTED
        self._settle(keep=False)

    def _settle(self, *, keep: bool, cut: bool = False) -> None:
        assert not self._settled, "an exchange settles once"
        self._settled = True
        if self.tally is not None:
            self.tally.open -= 1
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
        self.tally.hot[self.variant].tried(kind, self._first_byte_us(), self._duration_us())

    def _count(self, kind: str) -> None:
        if not self._counted:
            self._enter(kind, self._first_byte_us(), self._duration_us())

    def _enter(self, kind: str, first_byte_us: int, duration_us: int) -> None:
        """The outcome, as evidence: once in an exchange."""
        self._counted = True
        if not self.forced:
            assert self.tally is not None
            self.tally.hot[self.assigned].count(kind, first_byte_us, duration_us)
            if self.unit >= 0.0 and self.tally.units is not None:
                self.tally.units.outcome(self.unit, self.tally, self.assigned, kind, self._worker.now_s())
            if self._gap_s:
                self.tally.paused(self.assigned, int(self._gap_s * 1e6))
            if self._record is not None:
                self._record.counted, self._record.counted_us = kind, first_byte_us

    def _first_byte_us(self) -> int:
        end_s = self._first_byte_s or self._worker.now_s()
        return max(0, int((end_s - self._try_since_s) * 1e6))

    def _duration_us(self) -> int:
        return max(0, int((self._worker.now_s() - self._asked_s) * 1e6))
