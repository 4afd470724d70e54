"""The copy of a request for the canary: one more attempt, whose answer is read, compared and thrown away.

Rules:

1. A copy is made when all of the request has been sent to stable, and goes out in a later turn of the loop. The
   client, its exchange and stable's attempt know nothing of what becomes of it: nobody waits for a copy.
2. It has no retry, no rescue and no part in the canary's counts of users' traffic, in outlier ejection or in what is
   usual for its backend. Like any attempt it moves on to another endpoint when a connection is refused, and takes a
   fresh connection for a stale one.
3. Limits (route_mirror.py) are looked at before it is made. Its answer is read up to ``answer_bytes_max``, then the
   connection is closed: the head has said what it is worth. It has the route's time to its first byte and
   between two pieces, and ``timeout_s`` in all.
4. It is one of a pair: what stable's attempt came to first, and what the copy came to, are counted together, once. A
   client that leaves ends its copy, and there is no pair. A copy that takes longer than ``timeout_s`` has failed where
   stable took no more than half of that; otherwise nothing is said.
5. Of some pairs, chosen when the copy is made, both answers are kept and handed to the inspector, who compares them
   (core/predictions/agreement.py). Kept are references to the bytes that are relayed; nothing is read here.
6. The backend sees ``x-gateway-mirror: true``, which no client can send.
"""

from __future__ import annotations

from typing import Final

from gateway.core.stats.outcomes import OK
from gateway.proxy.compiled import mypyc_attr
from gateway.proxy.context import OpenExchange, WorkerContext
from gateway.proxy.exchange import outcome
from gateway.proxy.exchange.attempt import CANARY, Attempt
from gateway.proxy.exchange.request_body import RequestBody
from gateway.proxy.exchange.request_spans import mirror_span
from gateway.proxy.exchange.types import AttemptOwner
from gateway.proxy.heads import gateway_errors, headers
from gateway.proxy.heads.gateway_errors import Fault
from gateway.proxy.heads.message_head import RawHeaders, ResponseHead
from gateway.proxy.heads.request import Request
from gateway.proxy.routes import route_mirror
from gateway.proxy.routes.route_mirror import MirrorLoad, RouteMirror
from gateway.proxy.routes.route_runtime import RouteRuntime
from gateway.proxy.spans import RequestTrace
from gateway.proxy.upstream.pool import EndpointPool
from gateway.proxy.upstream.types import UpstreamConnection
from gateway.runtime.samples import AnswerPair, PairedAnswer
from gateway.runtime.spans import AttemptSpan

_PATH_BYTES_MAX: Final = 1024
_MARK: Final = b"%b: true\r\n" % headers.MIRROR_HEADER
# Of a copy's time, the share that stable may have taken for a copy that is given up to have failed (rule 4).
_STABLE_SHARE: Final = 0.5


def begin_copy(
    worker: WorkerContext, route: RouteRuntime, request: Request, body: RequestBody, trace: RequestTrace | None
) -> MirrorCopy | None:
    """Make a copy of a request that was sent to stable as a whole, if its route's share and the limits allow one."""
    mirror = route.mirror
    if mirror is None or worker.draw() >= mirror.share:
        return None
    reason = mirror.no_room(body.received)
    pieces = None
    if not reason:
        pieces = body.whole_in_memory()
        if pieces is None:
            reason = route_mirror.BODY_NOT_KEPT
        elif worker.bodies.memory_bytes + body.received > worker.bodies.slow_bytes_max:
            reason = route_mirror.MEMORY
    if reason or pieces is None:
        mirror.shed(reason)
        return None
    copied = RequestBody(worker.bodies)
    copied.limit(body.received, 0)
    for piece in pieces:
        copied.hold(piece)
    copied.complete = True
    copy = MirrorCopy(worker, route, mirror, request, copied, trace)
    worker.loop.call_soon(copy.start)
    return copy


class MirroredAnswer:
    """One version's answer, as far as it is kept to be compared. ``whole``: nothing of it is missing."""

    __slots__ = ("_bytes_max", "_lines", "_load", "held_bytes", "pieces", "whole")

    def __init__(self, load: MirrorLoad, bytes_max: int) -> None:
        self._load = load
        self._bytes_max = bytes_max
        self._lines: list[bytes] = []
        self.pieces: list[bytes] = []
        self.held_bytes = 0
        self.whole = True

    def head(self, lines: list[bytes]) -> None:
        """The answer's head."""
        self._lines = lines

    def body(self, piece: bytes) -> None:
        """A piece of the answer; what is too much is not compared."""
        if not self.whole:
            return
        size = len(piece)
        if self.held_bytes + size > self._bytes_max:
            self.let_go()
            return
        self.pieces.append(piece)
        self.held_bytes += size
        self._load.held_bytes += size

    def let_go(self) -> None:
        """Keep nothing of it."""
        self.whole = False
        self._load.held_bytes -= self.held_bytes
        self.held_bytes = 0
        self.pieces = []

    def taken(self) -> PairedAnswer:
        """The answer as the inspector reads it."""
        found = {b"content-type": b"", b"content-encoding": b"", b"inference-header-content-length": b""}
        for line in b"".join(self._lines).split(b"\r\n"):
            name, _, value = line.partition(b":")
            name = name.lower()
            if name in found:
                found[name] = found[name] + b"," + value.strip() if found[name] else value.strip()
        content_type, encoding, header_length = (value.decode("latin-1") for value in found.values())
        return PairedAnswer(b"".join(self.pieces), content_type, encoding, header_length)


@mypyc_attr(free_list_len=1)
class CopyDeadline(OpenExchange):
    """What the sweeper knows of a copy."""

    __slots__ = ("_copy",)

    def __init__(self, copy: MirrorCopy) -> None:
        super().__init__()
        self._copy: MirrorCopy | None = copy

    def sweep(self, now_s: float) -> None:
        """Its time is over, or the worker drains."""
        copy = self._copy
        if copy is not None:
            copy.timed_out(now_s)

    def awaited_body_bytes(self) -> int:
        """Its request is whole."""
        return -1

    def malformed(self, fault: Fault) -> None:
        """Its request was well-formed."""

    def over(self) -> None:
        """The copy and its deadline know each other, and only the garbage collector would ever free them."""
        self._copy = None


@mypyc_attr(free_list_len=1)
class MirrorCopy(AttemptOwner):
    """One copy, and what is known of the pair that it is half of."""

    __slots__ = (
        "_attempt",
        "_began_s",
        "_canary",
        "_canary_us",
        "_deadline",
        "_ended",
        "_held_bytes",
        "_kept",
        "_mirror",
        "_read_bytes",
        "_route",
        "_span",
        "_stable",
        "_stable_s",
        "_stable_us",
        "_trace",
        "_tried",
        "_worker",
        "answer",
    )

    def __init__(
        self,
        worker: WorkerContext,
        route: RouteRuntime,
        mirror: RouteMirror,
        request: Request,
        body: RequestBody,
        trace: RequestTrace | None,
    ) -> None:
        super().__init__(request, body, None, None)
        self._worker = worker
        self._route = route
        self._mirror = mirror
        self._trace = trace if trace is not None and trace.sampled else None
        self._span: AttemptSpan | None = None
        self._attempt: Attempt | None = None
        self._tried: tuple[EndpointPool, ...] = ()
        self._began_s = worker.now_s()
        self._ended = False
        self._read_bytes = 0
        # What either version came to; empty: not known yet. ``_stable_s``: how long stable took in all.
        self._stable = self._canary = ""
        self._stable_us = self._canary_us = 0
        self._stable_s = 0.0
        self._held_bytes = body.received
        deadline = self._deadline = CopyDeadline(self)
        deadline.total_at_s = self._began_s + mirror.settings.timeout_s
        deadline.deadline_s = deadline.total_at_s
        worker.mirrors[deadline] = None
        load = mirror.load
        load.copies += 1
        load.held_bytes += self._held_bytes
        self.answer: MirroredAnswer | None = None
        """Stable's, where it is to be compared."""
        self._kept: MirroredAnswer | None = None
        if mirror.settings.outputs and load.compares(self._began_s):
            self.answer = MirroredAnswer(load, mirror.settings.answer_bytes_max)
            self._kept = MirroredAnswer(load, mirror.settings.answer_bytes_max)
        route.counters.open += 1

    # stable's half

    def stable_ended(self, kind: str, latency_us: int, now_s: float) -> None:
        """Stable's attempt has come to this; only the first of them counts. ``kind`` empty: nobody's doing."""
        if self._stable:
            return
        if not kind or kind in (outcome.STALE, outcome.TRIAL, outcome.UNSERVED):
            self._drop(route_mirror.UNSERVED)
            return
        self._stable = kind
        self._stable_us = latency_us
        self._stable_s = now_s - self._began_s
        self._pair()

    def client_left(self) -> None:
        """Nobody waits for stable's answer any more (rule 4)."""
        if not self._stable:
            self._drop(route_mirror.CLIENT_LEFT)

    # the canary's half

    def start(self) -> None:
        """Ask for a connection; nothing has been sent yet."""
        if self._ended:
            return
        now_s = self._worker.now_s()
        pool = self._mirror.endpoint(self._tried, now_s)
        if isinstance(pool, str):
            self._mirror.shed(pool)
            self._end()
            return
        self._ask(pool, now_s)

    def _ask(self, pool: EndpointPool, now_s: float) -> None:
        self._tried = (*self._tried, pool)
        head_only = self.request.method == b"HEAD"
        attempt = Attempt(self, CANARY, pool, self._route, now_s, uploading=False, head_only=head_only)
        self._attempt = attempt
        lines = _MARK
        trace = self._trace
        if trace is not None:
            self._span = trace.copy(self._route.route.canary or "", pool.endpoint, now_s)
            lines += trace.lines_of(self._span)
        attempt.trace_lines = lines
        attempt.lease(now_s)

    def attempt_queued(self) -> None:
        """A connection is being made."""
        self._wait(self._route.connect_s + self._route.first_byte_s)

    def attempt_connected(self, connection: UpstreamConnection, now_s: float) -> None:
        """Send the request; it is whole."""
        attempt, body = self._attempt, self.body
        assert attempt is not None
        pieces = body.begin_attempt()
        self._wait(self._route.first_byte_s)
        attempt.send(connection, self._route, pieces, now_s)
        body.sent()

    def attempt_refused(self, fault: Fault) -> None:
        """No connection came about: nothing was sent, another endpoint may take it."""
        now_s = self._worker.now_s()
        if fault in gateway_errors.OF_THE_GATEWAY or not self._mirror.canary.untried(self._tried):
            self.attempt_failed(fault)
            return
        pool = self._mirror.canary.pick(self._tried, now_s, insist=False)
        if pool is None or self._attempt is None:
            self.attempt_failed(fault)
            return
        self._attempt.end()
        self._ask(pool, now_s)

    def attempt_failed(self, fault: Fault) -> None:
        """The copy came to nothing."""
        kind = outcome.kind_of_fault(fault, hurried=False, short=True)
        if kind in (outcome.NOBODYS, outcome.UNSERVED):
            self._drop(route_mirror.UNSERVED)
            return
        if self._span is not None:
            self._span.fault = fault.reason
        self._canary_ended(kind)

    def attempt_stale(self) -> None:
        """A kept connection had been closed: once more on a fresh one."""
        attempt = self._attempt
        assert attempt is not None
        if attempt.wants_fresh:
            self.attempt_failed(gateway_errors.RESET)
        else:
            attempt.lease_fresh(self._worker.now_s())

    def attempt_blocked(self) -> None:
        """What the backend does not take yet is in the connection's buffer, whole and bounded."""

    def attempt_unblocked(self) -> None:
        """See `attempt_blocked`."""

    def answer_interim(self, status: int, reason: bytes, fields: RawHeaders) -> None:
        """Nobody waits for it."""

    def answer_switches(self, fields: RawHeaders) -> bool:
        """No copy asks for another protocol."""
        return False

    def answer_switched(self, connection: UpstreamConnection, rest: bytes) -> None:
        """Never called: see `answer_switches`."""

    def answer_head(self, reason: bytes, head: ResponseHead, *, bodyless: bool) -> None:
        """The answer begins."""
        if self._kept is not None:
            self._kept.head(head.lines)
        self._wait(self._route.idle_s)

    def answer_body(self, piece: bytes) -> None:
        """A piece of the answer; it goes nowhere."""
        attempt = self._attempt
        if attempt is not None and attempt.stream is not None:
            attempt.stream.piece(piece, self._worker.now_s())
        self._read_bytes += len(piece)
        if self._kept is not None:
            self._kept.body(piece)

    def answer_trailer(self, name: bytes, value: bytes) -> bool:
        """Nobody asked for trailers."""
        return True

    def answer_read(self, fault: Fault | None, *, complete: bool) -> None:
        """What came at once has been parsed."""
        attempt = self._attempt
        assert attempt is not None
        if fault is not None:
            self._release()
            self.attempt_failed(fault)
        elif complete or self._read_bytes > self._mirror.settings.answer_bytes_max:
            self._answered(attempt)
        else:
            self._wait(self._route.idle_s if attempt.head_s else self._route.first_byte_s)

    def answer_ended(self) -> None:
        """The connection's end was the answer's."""
        attempt = self._attempt
        assert attempt is not None
        self._answered(attempt)

    def answer_is_long(self) -> None:
        """Nothing of it is kept for a client."""

    def _answered(self, attempt: Attempt) -> None:
        """As much of the answer as is wanted has come."""
        now_s, stream = self._worker.now_s(), attempt.stream
        empty = not attempt.has_content
        kind = outcome.kind_of_answer(self._route.outcomes, attempt.status, empty=empty, head_only=attempt.head_only)
        self._canary_us = outcome.latency_us(now_s, since_s=attempt.since_s, head_s=attempt.head_s, stream=stream)
        self._canary_ended(kind)

    def _wait(self, limit_s: float) -> None:
        deadline = self._deadline
        deadline.deadline_s = min(deadline.total_at_s, self._worker.now_s() + limit_s)

    def timed_out(self, now_s: float) -> None:
        """It took too long (rules 3 and 4), or the worker drains."""
        attempt, mirror = self._attempt, self._mirror
        if mirror.load.stopped:
            self._drop(route_mirror.CUT)
        elif attempt is None or attempt.waiting:
            self._drop(route_mirror.UNSERVED)
        elif now_s < self._deadline.total_at_s:
            self._release()
            self.attempt_failed(gateway_errors.IDLE_TIMEOUT if attempt.head_s else gateway_errors.FIRST_BYTE_TIMEOUT)
        elif self._stable and self._stable_s <= _STABLE_SHARE * mirror.settings.timeout_s:
            self._release()
            self.attempt_failed(gateway_errors.TRY_TIMEOUT)
        else:
            self._drop(route_mirror.GAVE_UP)

    # the pair

    def _canary_ended(self, kind: str) -> None:
        self._canary = kind
        self._mirror.came_to(kind)
        self._end_attempt(kind)
        self._pair()

    def _pair(self) -> None:
        """Count the pair when both halves are there (rule 4)."""
        if self._ended or not self._stable or not self._canary:
            return
        self._mirror.pair(self._stable, self._canary, self._stable_us, self._canary_us)
        if self._stable == self._canary == OK:
            self._compare()
        self._end()

    def _compare(self) -> None:
        """Hand both answers to the inspector, who compares them."""
        stable, canary, mirror = self.answer, self._kept, self._mirror
        if stable is None or canary is None:
            return
        evidence, samples = mirror.evidence, self._worker.samples
        if stable.whole and canary.whole and samples.connected:
            path = self.request.path[-_PATH_BYTES_MAX:].decode("latin-1")
            tolerance = mirror.settings.number_tolerance
            route, epoch, weight_bp = evidence.route, evidence.epoch, evidence.weight_bp
            pair = AnswerPair(route, epoch, weight_bp, path, tolerance, stable.taken(), canary.taken())
            if samples.put_pair(pair):
                return
        mirror.unread()

    def _drop(self, result: str) -> None:
        """There is no pair, and no outcome."""
        if self._ended:
            return
        if not self._canary:
            self._mirror.came_to(result)
            self._end_attempt(result)
        self._end()

    def _end_attempt(self, result: str) -> None:
        """Let go of the canary."""
        attempt = self._attempt
        if attempt is None:
            return
        self._release()
        attempt.end()
        span, trace, tracer = self._span, self._trace, self._worker.tracer
        if span is not None and trace is not None and tracer is not None:
            trace.end_copy(span, result, attempt.status, attempt.head_s, self._worker.now_s())
            head = self.request.head
            assert head is not None  # it was sent
            tracer.put(mirror_span(trace, self.request, head, self._route, span, self.body.received))
        self._attempt = None
        self.body.close()

    def _release(self) -> None:
        attempt = self._attempt
        if attempt is not None:
            attempt.leave()
            attempt.release(stalled=False)

    def _end(self) -> None:
        """Give back what the copy has, once."""
        if self._ended:
            return
        self._ended = True
        self.body.close()
        self._deadline.over()
        del self._worker.mirrors[self._deadline]
        load = self._mirror.load
        load.copies -= 1
        load.held_bytes -= self._held_bytes
        for kept in (self.answer, self._kept):
            if kept is not None:
                kept.let_go()
        self.answer = self._kept = None
        self._route.counters.open -= 1


def stable_latency_us(attempt: Attempt, now_s: float) -> int:
    """The latency of stable's attempt, measured as the copy's is."""
    return outcome.latency_us(now_s, since_s=attempt.since_s, head_s=attempt.head_s, stream=attempt.stream)


def failed_as(fault: Fault) -> str:
    """What a failure of stable's attempt is for the pair; empty: nobody's doing."""
    kind = outcome.kind_of_fault(fault, hurried=False, short=True)
    return "" if kind == outcome.UNSERVED else kind
