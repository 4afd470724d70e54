"""The attempts of one exchange: which endpoint is next, what becomes of one that failed, and what is counted of each.

Rules:

1. What becomes of a failed attempt is retry.py's decision; it is taken here, with the tokens that it costs, and carried
   out by the exchange. The first failure counts as its variant's all the same, with the latency at which it failed.
2. Only an assigned attempt is evidence (assignment.py), nor is what the client or the gateway broke (outcome.py).
3. A client that leaves before its answer is whole has an outcome: ``abandoned``, or the failure that the head told it
   of. One that leaves while it is still sending says nothing: no answer was due.
"""

from __future__ import annotations

from typing import Final

from gateway.core.stats.outcomes import ABANDONED, ERRORS, FAILURES, LACKING, OK, OVERLOAD
from gateway.core.types import Variant
from gateway.proxy.exchange import outcome, retry
from gateway.proxy.exchange.assignment import Assignment
from gateway.proxy.exchange.attempt import CANARY, STABLE, Attempt
from gateway.proxy.exchange.log_line import LogRecord
from gateway.proxy.exchange.outcome import AttemptOutcome
from gateway.proxy.exchange.request_body import RequestBody
from gateway.proxy.exchange.types import AttemptOwner
from gateway.proxy.heads import gateway_errors
from gateway.proxy.heads.gateway_errors import Fault
from gateway.proxy.routes.route_runtime import RouteRuntime
from gateway.proxy.upstream.backends import BackendPool
from gateway.proxy.upstream.pool import EndpointPool

# Why an endpoint is ejected, or an attempt repeated, that answered with 5xx.
STATUS_REASON: Final = "status"


class ExchangeAttempts:
    """What was tried of one request, and in whose name. ``variant`` is whose turn it is: stable's after a rescue."""

    __slots__ = ("_body", "_paused", "_record", "_tried", "assignment", "began_s", "route", "variant")

    def __init__(
        self, route: RouteRuntime, assignment: Assignment, body: RequestBody, began_s: float, record: LogRecord | None
    ) -> None:
        self.route = route
        self.assignment = assignment
        self.variant: Variant = assignment.variant
        self.began_s = began_s
        self._body = body
        self._record = record
        self._tried: tuple[EndpointPool, ...] = ()
        # Its only endpoint was given a moment already.
        self._paused = False

    @property
    def rescued(self) -> bool:
        """Whether stable answers a request that was the canary's."""
        return self.variant is not self.assignment.variant

    @property
    def backend(self) -> BackendPool | None:
        """The endpoints of the present variant's backend; None where nothing is deployed."""
        return self.route.canary_pool if self.variant is CANARY else self.route.stable_pool

    def next(self, owner: AttemptOwner, now_s: float, *, head_only: bool) -> Attempt | Fault | None:
        """An attempt at an endpoint that was not tried; None where there is none, a fault where there never was one."""
        backend, route = self.backend, self.route
        if backend is None:
            return gateway_errors.NOTHING_DEPLOYED
        pool = backend.pick(self._tried, now_s, insist=self.variant is STABLE or route.stable_pool is None)
        if pool is None:
            return None
        self._tried = (*self._tried, pool) if self._tried else (pool,)
        uploading = not self._body.complete
        attempt = Attempt(owner, self.variant, pool, route, now_s, uploading=uploading, head_only=head_only)
        if pool.ejection.out or route.tight:
            attempt.limit(backend, route.stable_pool, route, now_s)
        if self._record is not None:
            self._record.attempts += 1
        return attempt

    @property
    def untried(self) -> bool:
        """Whether the present backend has an endpoint that was not tried."""
        backend = self.backend
        return backend is not None and backend.untried(self._tried)

    # what becomes of an attempt

    def kind_of(self, attempt: Attempt) -> str:
        """The class of an answer, as far as it has come."""
        return outcome.kind_of_answer(
            self.route.outcomes, attempt.status, empty=not attempt.has_content, head_only=attempt.head_only
        )

    def judge_head(self, attempt: Attempt, now_s: float, *, upgrade: bool) -> int:
        """Whether the answer goes to the client, or gives way to another's: what comes after it."""
        route, status = self.route, attempt.status
        kind = self.kind_of(attempt)
        if kind == OK:  # also exempt: an ordinary answer of this route
            return retry.RELAY
        if self.variant is CANARY and route.stable_pool is not None:
            if status not in route.rescue_statuses and (upgrade or not self._unlike_stable(kind)):
                return retry.RELAY
        elif status not in route.retry_statuses:
            return retry.RELAY
        return self.decide(retry.STATUS, attempt, now_s, begun=False)

    def _unlike_stable(self, kind: str) -> bool:
        """Whether the canary's answer lacks what stable usually gives."""
        route = self.route
        if kind not in LACKING or not route.rescues_unlike or route.budget.half_spent:
            return False
        return route.recent.canary_has_more(kind)

    def failed(self, attempt: Attempt | None, fault: Fault, whole_s: float, now_s: float, *, begun: bool) -> int:
        """The present attempt came to nothing: count it, and say what comes after it."""
        timed_out = fault in gateway_errors.OF_TIME
        if self._record is not None:
            self._record.fault = fault.reason
        if attempt is not None and fault in gateway_errors.OF_AN_ENDPOINT:
            attempt.failed_by(fault.reason, timed_out=timed_out)
        kind = self._kind_of_fault(attempt, fault)
        if fault in gateway_errors.OF_THE_GATEWAY:
            cause = retry.UNSERVED
        else:
            cause = retry.TIMED_OUT if timed_out else retry.STALE if fault is gateway_errors.STALE else retry.BROKEN
        step = self.decide(cause, attempt, now_s, begun=begun)
        assignment = self.assignment
        if kind == outcome.UNSERVED:
            assignment.counters.unserved(self.variant, fault.reason)
        elif kind != outcome.NOBODYS and attempt is not None:
            self.count(attempt, kind, whole_s, now_s)
            if kind != outcome.TRIAL and step in (retry.NEXT, retry.AGAIN):
                assignment.sample = None
        if step in (retry.NEXT, retry.AGAIN):
            self.retried(fault.reason, step)
        return step

    def _kind_of_fault(self, attempt: Attempt | None, fault: Fault) -> str:
        short = False
        if fault in gateway_errors.OF_OVERLOAD:
            backend = self.backend
            short = backend is not None and backend.short
        hurried = attempt is not None and attempt.hurried
        kind = outcome.kind_of_fault(fault, hurried=hurried, short=short)
        if attempt is not None and fault is gateway_errors.FIRST_BYTE_TIMEOUT and kind != outcome.TRIAL:
            attempt.never_began()
        return kind

    def decide(self, cause: int, attempt: Attempt | None, now_s: float, *, begun: bool) -> int:
        """What comes after an attempt (retry.py); takes the token that this costs, and counts a refusal."""
        decision = retry.decide(self._failed(cause, attempt, now_s, begun=begun))
        route, counters, step, refused = self.route, self.assignment.counters, decision.action, decision.refused
        if step == retry.RESCUE:
            route.budget.take()
        elif step in (retry.NEXT, retry.AGAIN):
            route.retry_budget.take()
        elif refused and self.variant is CANARY:
            counters.rescue_refused(refused)
            if self._record is not None:
                self._record.rescue_refused = refused
        elif refused:
            counters.retry_refused(refused)
        return step

    def may_have_fresh(self, attempt: Attempt, now_s: float, *, begun: bool) -> bool:
        """Whether a stale connection is made up for by a fresh one."""
        failed = self._failed(retry.STALE, attempt, now_s, begun=begun)
        return retry.decide(failed).action == retry.FRESH

    def _failed(self, cause: int, attempt: Attempt | None, now_s: float, *, begun: bool) -> retry.Failed:
        """The present attempt as `retry.decide` reads it."""
        route, body, own = self.route, self._body, self.backend
        stable = route.stable_pool
        failed = retry.Failed(cause, canary=self.variant is CANARY, has_stable=stable is not None)
        failed.sent = body.attempts > 0
        failed.replayable = route.replayable
        failed.kept = (body.kept or not failed.sent) and not body.lost
        failed.begun = begun
        failed.fresh, failed.paused = attempt is not None and attempt.wants_fresh, self._paused
        failed.untried = self.untried
        failed.rescue_budget = route.budget.tokens >= 1
        failed.retry_budget = route.retry_budget.tokens >= 1
        since_s = now_s if attempt is None else attempt.since_s
        failed.spent_s = now_s - since_s
        failed.first_byte_s = route.first_byte_s
        failed.left_s = self.began_s + route.total_s - now_s
        asked = stable if failed.canary and stable is not None else own
        if asked is not None:
            failed.usual_s = asked.usual.seconds
            failed.silent = asked.usual.answered_s < since_s and asked.load > 0
        return failed

    def retried(self, reason: str, step: int) -> None:
        """Another endpoint of the same backend is going to be asked, or after a moment all of them again."""
        self.assignment.counters.retried(self.variant, reason)
        if step == retry.AGAIN:
            self._paused = True
            self._tried = ()

    def rescue(self) -> None:
        """It is stable's turn; the canary's failure is counted already, if it was the canary's."""
        assignment = self.assignment
        assignment.counted = True
        assignment.counters.totals[CANARY].rescued += 1
        assignment.sample = None
        self.variant = STABLE
        self._tried = ()

    # what is counted

    def count(self, attempt: Attempt, kind: str, whole_s: float, now_s: float) -> None:
        """An attempt has ended: enter it into the totals, and its outcome, if it is the first, as evidence."""
        ended = self._ended(attempt, kind, whole_s, now_s)
        if kind not in (outcome.STALE, outcome.TRIAL) and self.assignment.enter(ended, now_s):
            self._note(ended)

    def _ended(self, attempt: Attempt, kind: str, whole_s: float, now_s: float) -> AttemptOutcome:
        ended = outcome.measured(
            kind, now_s, whole_s=whole_s, since_s=attempt.since_s, head_s=attempt.head_s, stream=attempt.stream
        )
        self.assignment.counters.variants[attempt.variant].tried(kind, ended.first_byte_us, ended.duration_us)
        return ended

    def _note(self, ended: AttemptOutcome, *, left: bool = False) -> None:
        if self._record is not None:
            self._record.counted, self._record.left = ended, left

    def completed(self, attempt: Attempt, whole_s: float, now_s: float) -> None:
        """The answer is whole and relayed."""
        assignment = self.assignment
        assignment.counters.variants[attempt.variant].answered(attempt.status)
        kind = self.kind_of(attempt)
        if kind == ERRORS:
            attempt.failed_by(STATUS_REASON)
        elif kind != OVERLOAD:
            attempt.answered_well(now_s)
        self.count(attempt, kind, whole_s, now_s)
        if assignment.sample is not None:
            assignment.sample.finish()
            assignment.sample = None

    def abandoned(self, attempt: Attempt, whole_s: float, now_s: float, *, begun: bool, cut: bool) -> None:
        """The client left before the answer was whole (rule 3). ``cut``: it did not leave, the gateway ends."""
        kind = self.route.outcomes[attempt.status] if begun else OK
        if kind in FAILURES:
            self.count(attempt, kind, whole_s, now_s)
            return
        ended = self._ended(attempt, ABANDONED, whole_s, now_s)
        due = attempt.head_s > 0.0 or self._body.complete
        if due and not cut and self.assignment.enter_abandoned(ended, now_s):
            self._note(ended, left=ended.waited)
