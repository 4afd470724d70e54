"""One attempt of an exchange: an endpoint that is asked, the connection to it, and what becomes of it.

Rules:

1. An attempt is made for one endpoint. It may take a second connection to it, when the first was a kept one that had
   been closed (retry.py, rule 1); everything else is another attempt.
2. It knows when it was sent, when its answer's head came and what that said, and how long it may take; whose turn it is
   meanwhile is its owner's to know (deadlines.py).
3. Its success or failure is reported to its endpoint here (outlier_ejection.py, probed_health.py).
4. Its connection is given back exactly once, whatever ends it.
"""

from __future__ import annotations

from time import monotonic
from typing import Final

from gateway.core.types import Variant
from gateway.proxy.compiled import mypyc_attr
from gateway.proxy.exchange import retry
from gateway.proxy.exchange.answer_names import AnswerNames, names_of_answer
from gateway.proxy.exchange.rare_lines import rare_lines
from gateway.proxy.exchange.stream_hold import StreamHold
from gateway.proxy.exchange.stream_times import StreamTimes
from gateway.proxy.exchange.types import AttemptOwner
from gateway.proxy.heads import gateway_errors
from gateway.proxy.heads.gateway_errors import Fault
from gateway.proxy.heads.message_head import RawHeaders, ResponseHead
from gateway.proxy.routes.route_runtime import RouteRuntime
from gateway.proxy.upstream.backends import BackendPool
from gateway.proxy.upstream.pool import EndpointPool
from gateway.proxy.upstream.types import NOTHING, UpstreamConnection, UpstreamUser

# A look at an enumeration's member costs a search through its classes; these are looked at for every request.
STABLE: Final = Variant.STABLE
CANARY: Final = Variant.CANARY
# Of a total that is too short for both this much is stable's at least.
_STABLE_SHARE: Final = 0.1
# The trial of an endpoint that was ejected, as long as others can answer: so many times what is usual, and at least.
_TRIAL_USUAL: Final = 10.0
_TRIAL_S_MIN: Final = 0.5
# What an attempt that timed out would have taken is not known: more than its limit.
_NEVER: Final = 1.25
NO_TRAILERS: Final[list[bytes]] = []


@mypyc_attr(free_list_len=1)
class Attempt(UpstreamUser):
    """An attempt from its endpoint's choice to its outcome."""

    __slots__ = (
        "_owner",
        "asked_name",
        "blocked",
        "connection",
        "has_content",
        "head_s",
        "hold",
        "hurried",
        "limit_s",
        "names",
        "next_step",
        "pool",
        "status",
        "stream",
        "trace_lines",
        "variant",
    )

    def __init__(
        self,
        owner: AttemptOwner,
        variant: Variant,
        pool: EndpointPool,
        route: RouteRuntime,
        now_s: float,
        *,
        uploading: bool,
        head_only: bool,
    ) -> None:
        super().__init__(now_s, route.connect_s, resendable=route.replayable, uploading=uploading, head_only=head_only)
        self._owner = owner
        self.variant = variant
        self.pool = pool
        self.connection: UpstreamConnection | None = None
        self.limit_s = route.first_byte_s
        """How long it may take to begin its answer."""
        self.hurried = False
        """That is less than the route's time, because it is a trial."""
        self.blocked = False
        """The backend takes no more of the request for now."""
        self.head_s = 0.0
        """When the answer's head came; 0: it did not."""
        self.status = 0
        self.has_content = False
        self.stream: StreamTimes | None = None
        """When the answer's events came; None before its head, and for one whose length the head gave."""
        self.hold: StreamHold | None = None
        """What holds the beginning of an event stream back; None where nothing does, or does no longer."""
        self.trace_lines = b""
        """What makes its span the backend's parent; empty without tracing."""
        self.asked_name = b""
        """The client's name of the model, where the backend has another one; empty otherwise."""
        self.names: AnswerNames | None = None
        """What gives it back in the answer; None where nothing does."""
        self.next_step = retry.RELAY
        """What becomes of the answer whose head is there: RELAY, or it gives way to another's."""

    def limit(self, pools: BackendPool, stable: BackendPool | None, route: RouteRuntime, now_s: float) -> None:
        """Take less than the route's time where another endpoint can answer in the rest of it."""
        if self.variant is CANARY and stable is not None and route.replayable:
            # Stable's own time is kept for it, unless the canary would not have half of all.
            usual_s = stable.usual.seconds
            if usual_s and 4 * usual_s < route.total_s:
                self.limit_s = min(self.limit_s, route.total_s - max(2 * usual_s, _STABLE_SHARE * route.total_s))
        ejection = self.pool.ejection
        if ejection.wants_trial(now_s):
            if route.replayable and len(pools.pools) > 1:
                hurried_s = max(_TRIAL_S_MIN, _TRIAL_USUAL * pools.usual.seconds)
                if hurried_s < self.limit_s:
                    self.limit_s = hurried_s
                    self.hurried = True
            ejection.begin_trial(now_s + route.connect_s + self.limit_s)

    # the connection

    def lease(self, now_s: float) -> None:
        """Ask the endpoint's pool for a connection; the result is a callback of its owner."""
        got = self.pool.lease(self)
        if got is None:
            self._owner.attempt_queued()
        elif isinstance(got, Fault):
            self._owner.attempt_failed(got)
        else:
            self.connection = got
            self._owner.attempt_connected(got, now_s)

    def lease_fresh(self, now_s: float) -> None:
        """Once more, on a new connection (rule 1)."""
        self.wants_fresh = True
        self.since_s = now_s
        self.head_s = 0.0
        self.stream = self.names = None
        self.lease(now_s)

    @property
    def waiting(self) -> bool:
        """Whether it waits for a connection."""
        return self.waits_for != NOTHING

    def body_is_whole(self) -> bool:
        """The request's body is whole: it is no upload any more. True when it is to ask for a connection anew."""
        self.uploading = False
        if self.has_share:
            self.pool.upload_ended(self)
        return self.pool.leave_uploads(self)

    def leased(self, connection: UpstreamConnection) -> None:
        """The pool has a connection for us."""
        self.connection = connection
        self._owner.attempt_connected(connection, monotonic())

    def refused(self, fault: Fault) -> None:
        """The pool has none."""
        self._owner.attempt_refused(fault)

    def queued(self) -> None:
        """A share for the upload is there; a connection is still to come."""
        self._owner.attempt_queued()

    def leave(self) -> None:
        """Wait for a connection no longer."""
        if self.waits_for != NOTHING:
            self.pool.leave(self)

    def release(self, *, stalled: bool, drain: bool = False) -> None:
        """Give the connection back, if there is one. ``stalled``: it was not read from for the client's sake."""
        connection, self.connection = self.connection, None
        if connection is not None:
            if stalled:
                connection.resume_reading()
            connection.detach(sent=self._owner.body.sent_whole, drain=drain)

    def end(self) -> None:
        """The attempt is over: it takes no part of an endpoint's connections for uploads any more."""
        if self.has_share:
            self.pool.upload_ended(self)

    # the request, as its owner has it

    def send(self, connection: UpstreamConnection, route: RouteRuntime, pieces: list[bytes], now_s: float) -> None:
        """Write the head, and these pieces of the body; the rest follows as it comes."""
        owner, pool = self._owner, self.pool
        request, body = owner.request, owner.body
        head = request.head
        assert head is not None  # it was admitted
        self.since_s = now_s
        lines = b""
        if head.rare is not None or head.expects_continue:
            lines = rare_lines(request, body, owner.upgrade, owner.trailers, route.route.upgrades)
        if self.trace_lines:
            lines += self.trace_lines
        trailers = self._trailers() if body.sent_whole else None
        host = pool.host or head.host or pool.endpoint.authority.encode()
        size = body.held_bytes
        if pool.changer is not None:
            changed = pool.changer.change(request, pieces, size, now_s)
            request, pieces, size, self.asked_name = changed.request, changed.pieces, changed.size, changed.asked
        connection.send(self, request, host, lines, pieces, size, trailers)

    def send_rest(self, connection: UpstreamConnection) -> None:
        """Send what is held elsewhere than in memory, as fast as the backend takes it, until the body says no more."""
        body = self._owner.body
        while body.behind and not self.blocked and not body.lost:
            piece = body.next()
            if piece:
                connection.send_body(piece)

    def send_end(self, connection: UpstreamConnection, now_s: float) -> None:
        """All of the request is on its way: from now on it is the backend's turn."""
        connection.send_end(self._trailers())
        if not self.head_s:
            self.since_s = now_s

    def _trailers(self) -> list[bytes]:
        trailers = self._owner.trailers
        return NO_TRAILERS if trailers is None else trailers.lines(trailers.of_request)

    # the answer, as the connection reads it

    def on_interim(self, status: int, reason: bytes, fields: RawHeaders) -> None:
        """An interim answer."""
        self._owner.answer_interim(status, reason, fields)

    def may_switch(self, fields: RawHeaders) -> bool:
        """A 101 has come."""
        return self._owner.answer_switches(fields)

    def on_switched(self, rest: bytes) -> None:
        """The handshake is the answer; the connection is the tunnel's from here on."""
        connection, self.connection = self.connection, None
        assert connection is not None  # it calls
        self.head_s = monotonic()
        self.status = 101
        self._owner.answer_switched(connection, rest)

    def on_head(self, status: int, reason: bytes, head: ResponseHead, *, bodyless: bool) -> None:
        """The head says what the answer is worth."""
        self.head_s = now_s = monotonic()
        self.status = status
        self.pool.probed.answered(status, now_s)
        if head.content_length is None and not bodyless:
            self.stream = StreamTimes(head.lines)
        if self.asked_name:
            self.names = names_of_answer(self.asked_name, status, reason, head, bodyless=bodyless)
            if self.names is not None and self.names.holds_head:
                return
        self._owner.answer_head(reason, head, bodyless=bodyless)

    def on_body(self, piece: bytes) -> None:
        """Some of the answer; one that gives way to another's goes nowhere."""
        self.has_content = True
        if self.names is not None:
            self._pass_on(self.names, piece, ended=False)
        elif self.next_step == retry.RELAY:
            self._owner.answer_body(piece)

    def _pass_on(self, names: AnswerNames, piece: bytes, *, ended: bool) -> None:
        """Some of an answer in which the model gets the client's name, and its head before it."""
        held = names.holds_head
        piece = names.end() if ended else names.feed(piece)
        if held and not names.holds_head:
            self._owner.answer_head(names.reason, names.head, bodyless=False)
        if piece and self.next_step == retry.RELAY:
            self._owner.answer_body(piece)

    def on_trailer(self, name: bytes, value: bytes) -> bool:
        """A field behind the body."""
        return self._owner.answer_trailer(name, value)

    def on_read(self, fault: Fault | None, *, complete: bool) -> None:
        """All that came at once is here."""
        if self.names is not None and (complete or fault is not None):
            self._pass_on(self.names, b"", ended=True)
        self._owner.answer_read(fault, complete=complete)

    def on_long_answer(self) -> None:
        """The answer is long."""
        self._owner.answer_is_long()

    def on_end(self) -> None:
        """The answer ends with its connection."""
        if self.names is not None:
            self._pass_on(self.names, b"", ended=True)
        self.connection = None
        self._owner.answer_ended()

    def on_lost(self, fault: Fault) -> None:
        """The connection is gone too early."""
        self.connection = None
        if fault is gateway_errors.STALE:
            self._owner.attempt_stale()
        else:
            self._owner.attempt_failed(fault)

    def on_blocked(self) -> None:
        """The backend takes the request slowly."""
        self.blocked = True
        self._owner.attempt_blocked()

    def on_unblocked(self) -> None:
        """It takes more."""
        self.blocked = False
        self._owner.attempt_unblocked()

    @property
    def refused_unread(self) -> bool:
        """An error before the body was whole: who answers so may close without reading the rest."""
        return self.status >= 400 and self._owner.body.received > 0

    # what it came to

    def answered_well(self, now_s: float) -> None:
        """Report it to the endpoint."""
        self.pool.answered(self.since_s, max(0.0, (self.head_s or now_s) - self.since_s))

    def failed_by(self, reason: str, *, timed_out: bool = False) -> None:
        """Report to the endpoint that it failed, by its own fault."""
        self.pool.try_failed(reason, self.since_s, timed_out=timed_out)

    def never_began(self) -> None:
        """Its limit is over without an answer: the backend takes longer than is known of it."""
        self.pool.usual.add(_NEVER * self.limit_s)
