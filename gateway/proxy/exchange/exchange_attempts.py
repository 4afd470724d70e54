"""The attempts of one exchange: which endpoint is next, what becomes of one that failed, and what is counted of each.

Rules:

1. What becomes of a failed attempt is retry.py's decision; it is taken here, with the tokens that it costs, and carried
   out by the exchange. The first failure counts as its variant's all the same, with the latency at which it failed.
2. The first outcome is the request's, whatever comes after it: evidence is entered once, under the assigned variant and
   the epoch of the table that assigned it. A forced variant is never evidence, nor is the answer of stable to a request
   that it rescued, nor what the client or the gateway broke (outcome.py). Totals for metrics have every attempt, under
   the variant that made it.
3. A client that leaves before its answer is whole has an outcome: ``abandoned``, or the failure that the head was
   of. What was whole when it left is a latency like others, and what was not has lasted at least so long (core/analysis
   says what that proves). One that leaves while it is still sending says nothing: no answer was due.
"""

from __future__ import annotations

from typing import Final

from gateway.core.stats.outcomes import ABANDONED, ERRORS, FAILURES, LACKING, OK, OVERLOAD
from gateway.core.types import Variant
from gateway.proxy.compiled import mypyc_attr
from gateway.proxy.counting.epoch_counters import EpochCounters
from gateway.proxy.counting.response_sampler import ResponseSample
from gateway.proxy.exchange import outcome, retry
from gateway.proxy.exchange.attempt import CANARY, STABLE, Attempt
from gateway.proxy.exchange.log_line import LogRecord
from gateway.proxy.exchange.outcome import elapsed_us
from gateway.proxy.exchange.request_body import RequestBody
from gateway.proxy.exchange.stream_hold import StreamHold
from gateway.proxy.exchange.stream_times import StreamTimes
from gateway.proxy.exchange.types import AttemptOwner
from gateway.proxy.heads import gateway_errors
from gateway.proxy.heads.gateway_errors import Fault
from gateway.proxy.routes.route_runtime import RouteRuntime
from gateway.proxy.spans import RequestTrace
from gateway.proxy.upstream.backends import BackendPool
from gateway.proxy.upstream.pool import EndpointPool

# Why an endpoint is ejected, or an attempt repeated, that answered with 5xx.
STATUS_REASON: Final = "status"


@mypyc_attr(free_list_len=1)
class ExchangeAttempts:
    """What was tried of one request, and in whose name. ``variant`` is whose turn it is: stable's after a rescue."""

    __slots__ = (
        "_body",
        "_counted",
        "_paused",
        "_record",
        "_tried",
        "_unit",
        "assigned",
        "began_s",
        "counters",
        "forced",
        "route",
        "sample",
        "trace",
        "trace_id",
        "variant",
    )

    def __init__(
        self,
        route: RouteRuntime,
        assigned: Variant,
        forced: bool,
        unit: float,
        body: RequestBody,
        began_s: float,
        trace_id: bytes,
        record: LogRecord | None,
    ) -> None:
        self.route = route
        self.counters: EpochCounters = route.counters
        """Those of the table that assigned the variant."""
        self.assigned = assigned
        self.variant = assigned
        self.forced = forced
        self._unit = unit
        # An outcome was entered as evidence, or will never be (rule 2).
        self._counted = False
        self.sample: ResponseSample | None = None
        """What is kept of the answer for the inspector; None where nothing is, and for what is no evidence."""
        self.began_s = began_s
        self.trace_id = trace_id
        self.trace: RequestTrace | None = None
        """The spans of this request; None without tracing."""
        self._body = body
        self._record = record
        self._tried: tuple[EndpointPool, ...] = ()
        # Its only endpoint was given a moment already.
        self._paused = False

    @property
    def rescued(self) -> bool:
        """Whether stable answers a request that was the canary's."""
        return self.variant is not self.assigned

    @property
    def body_bytes(self) -> int:
        """How much of the request's body has come."""
        return self._body.received

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
        if self.trace is not None:
            name = route.route.canary if self.variant is CANARY else route.route.stable
            self.trace.begin(self.variant.label, name or "", pool.endpoint, now_s)
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

    def hold(self, attempt: Attempt) -> None:
        """Hold an event stream back that stable could answer in place of (stream_hold.py)."""
        route, stream = self.route, attempt.stream
        if stream is None or not stream.event_stream or not route.holds_streams or attempt.head_only:
            return
        if self.variant is CANARY and route.stable_pool is not None and route.outcomes[attempt.status] == OK:
            attempt.hold = StreamHold(attempt.head_s)

    def judge_held(self, attempt: Attempt, now_s: float) -> int:
        """A stream has failed before it said anything: whether stable answers, or the client gets it as it is.

        By its outcome it is an answer like others: what is wrong inside of it is the inspector's to say, of both
        versions alike.
        """
        attempt.hold = None
        step = self.decide(retry.STATUS, attempt, now_s, begun=False)
        if step != retry.RELAY and self.sample is not None:
            self.sample.finish()
            self.sample = None
        return step

    def failed(self, attempt: Attempt | None, fault: Fault, whole_s: float, now_s: float, *, begun: bool) -> int:
        """The present attempt came to nothing: count it, and say what comes after it."""
        timed_out = fault in gateway_errors.OF_TIME
        if self._record is not None:
            self._record.fault = fault.reason
        if attempt is not None and fault in gateway_errors.OF_AN_ENDPOINT:
            attempt.failed_by(fault.reason, timed_out=timed_out)
        kind = self._kind_of_fault(attempt, fault)
        trace = self.trace
        if trace is not None:
            trace.failed(fault.reason)
        if fault in gateway_errors.OF_THE_GATEWAY:
            cause = retry.UNSERVED
        else:
            cause = retry.TIMED_OUT if timed_out else retry.STALE if fault is gateway_errors.STALE else retry.BROKEN
        step = self.decide(cause, attempt, now_s, begun=begun)
        if kind == outcome.UNSERVED:
            self.counters.unserved(self.variant, fault.reason)
        elif kind != outcome.NOBODYS and attempt is not None:
            self.count(attempt, kind, whole_s, now_s)
            if kind != outcome.TRIAL and step in (retry.NEXT, retry.AGAIN):
                self.sample = None
        if trace is not None:
            trace.end(kind, 0, 0.0, now_s)  # of one that was not counted
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
        route, counters, step, refused = self.route, self.counters, decision.action, decision.refused
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
        self.counters.retried(self.variant, reason)
        if step == retry.AGAIN:
            self._paused = True
            self._tried = ()

    def rescue(self) -> None:
        """It is stable's turn; the canary's failure is counted already, if it was the canary's."""
        self._counted = True
        self.counters.totals[CANARY].rescued += 1
        self.sample = None
        self.variant = STABLE
        self._tried = ()

    # what is counted

    def count(self, attempt: Attempt, kind: str, whole_s: float, now_s: float) -> None:
        """An attempt has ended: enter it into the totals, and its outcome, if it is the first, as evidence (rule 2).

        ``whole_s``: since when an answer was waited for.
        """
        stream = attempt.stream
        since_s, head_s = attempt.since_s, attempt.head_s
        latency_us = first_byte_us = elapsed_us(since_s, head_s or now_s)
        duration_us = elapsed_us(whole_s, now_s)
        if self.trace is not None:
            self.trace.end(kind, attempt.status, head_s, now_s)
        counters = self.counters.of(attempt.variant)
        if counters.tried(kind, first_byte_us, duration_us) and self.trace_id:
            counters.show(kind, duration_us, self.trace_id)
        if self._counted or kind in (outcome.STALE, outcome.TRIAL):
            return
        self._counted = True
        if self.forced:
            return
        if stream is not None:
            latency_us = outcome.latency_us(now_s, since_s=since_s, head_s=head_s, stream=stream)
        evidence = self.counters.of(self.assigned)
        evidence.count(kind, latency_us, duration_us)
        if kind != OK:
            evidence.failed_at(attempt.pool.endpoint.url, kind)
        if stream is not None or self._unit >= 0.0:
            self._count_more(stream, since_s, kind, now_s, left=False)
        self._note(kind, latency_us, left=False)

    def _count_more(self, stream: StreamTimes | None, since_s: float, kind: str, now_s: float, *, left: bool) -> None:
        """Enter the times of a stream of events, and the outcome of a sticky key's session."""
        if stream is not None and stream.events:
            stream.ended(now_s)
            counters = self.counters
            if stream.gap_s or stream.time_per_event_s:
                counters.streamed(self.assigned, stream.gap_s, stream.time_per_event_s, left=left)
            if stream.content_s:
                counters.first_token(self.assigned, elapsed_us(since_s, stream.content_s), left=False)
            elif stream.awaits_content and (left or kind == ERRORS):
                counters.first_token(self.assigned, elapsed_us(since_s, now_s), left=True)
        sessions = self.route.sessions
        if self._unit >= 0.0 and sessions is not None:
            sessions.outcome(self._unit, self.counters, self.assigned, kind, now_s)

    def _note(self, kind: str, latency_us: int, *, left: bool) -> None:
        record = self._record
        if record is not None:
            record.counted, record.counted_us, record.left = kind, latency_us, left

    def completed(self, attempt: Attempt, whole_s: float, now_s: float, relayed_bytes: int) -> None:
        """The answer is whole and relayed, its body of so many bytes."""
        received_bytes = self._body.received
        kind = self.kind_of(attempt)
        if kind == OK and self._ordinary(attempt):
            self._counted = True
            attempt.answered_well(now_s)
            latency_us, duration_us = elapsed_us(attempt.since_s, attempt.head_s or now_s), elapsed_us(whole_s, now_s)
            counters = self.counters.of(attempt.variant)
            slowest = counters.answered_well(attempt.status, latency_us, duration_us, received_bytes, relayed_bytes)
            if slowest and self.trace_id:
                counters.show(kind, duration_us, self.trace_id)
            if self.trace is not None:
                self.trace.end(kind, attempt.status, attempt.head_s, now_s)
            self._note(kind, latency_us, left=False)
        else:
            self.counters.of(attempt.variant).sized(received_bytes, relayed_bytes)
            self._completed_otherwise(attempt, kind, whole_s, now_s)
        if self.sample is not None:
            self.sample.finish()
            self.sample = None

    def _ordinary(self, attempt: Attempt) -> bool:
        """Whether all that its end is counted as falls to one variant, with one latency (`answered_well`)."""
        return (
            attempt.variant is self.assigned
            and not self._counted
            and not self.forced
            and attempt.stream is None
            and self._unit < 0.0
        )

    def _completed_otherwise(self, attempt: Attempt, kind: str, whole_s: float, now_s: float) -> None:
        self.counters.of(attempt.variant).answered(attempt.status)
        if kind == ERRORS:
            attempt.failed_by(STATUS_REASON)
        elif kind != OVERLOAD:
            attempt.answered_well(now_s)
        self.count(attempt, kind, whole_s, now_s)

    def abandoned(self, attempt: Attempt, whole_s: float, now_s: float, *, begun: bool, cut: bool) -> None:
        """The client left before the answer was whole (rule 3). ``cut``: it did not leave, the gateway ends."""
        kind = self.route.outcomes[attempt.status] if begun else OK
        if kind in FAILURES:
            self.count(attempt, kind, whole_s, now_s)
            return
        stream, since_s, head_s = attempt.stream, attempt.since_s, attempt.head_s
        duration_us = elapsed_us(whole_s, now_s)
        if self.trace is not None:
            self.trace.end(ABANDONED, attempt.status, head_s, now_s)
        self.counters.of(attempt.variant).tried(ABANDONED, elapsed_us(since_s, head_s or now_s), duration_us)
        due = head_s > 0.0 or self._body.complete
        if not due or cut or self._counted or self.forced:
            return
        self._counted = True
        latency_us = outcome.latency_us(now_s, since_s=since_s, head_s=head_s, stream=stream)
        left = outcome.waited(head_s=head_s, stream=stream)
        self.counters.abandoned(self.assigned, latency_us, -1 if left else duration_us)
        self._count_more(stream, since_s, ABANDONED, now_s, left=True)
        self._note(ABANDONED, latency_us, left=left)

    def close(self) -> None:
        """The exchange is over."""
        self.counters.open -= 1
        if self.sample is not None:
            self.sample.leave()
