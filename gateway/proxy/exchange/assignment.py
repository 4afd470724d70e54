"""The variant that a request is assigned to, and the books in which its outcome goes.

Rules:

1. A variant is forced by a header where the route allows it, given by the sticky key's hash, or drawn. Every draw is
   independent.
2. The first outcome is the request's, whatever comes after it: evidence is entered once, under the assigned variant and
   the epoch of the table that assigned it. Totals for metrics have every attempt, under the variant that made it.
3. A forced variant is never evidence, nor is the answer of stable to a request that it rescued.
4. A client that leaves before its answer is whole is an outcome: ``abandoned``. What was whole when it left is a
   latency like others, and what was not has lasted at least so long (core/analysis says what that proves).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from gateway.core.stats.outcomes import ABANDONED
from gateway.core.traffic.split import bucket_of_key, variant_for
from gateway.core.types import WEIGHT_BP_MAX, Variant
from gateway.proxy.counting.epoch_counters import EpochCounters
from gateway.proxy.counting.response_sampler import ResponseSample
from gateway.proxy.exchange.attempt import CANARY, STABLE
from gateway.proxy.exchange.outcome import AttemptOutcome
from gateway.proxy.heads.message_head import RequestHead
from gateway.proxy.heads.request_head import cookie_value
from gateway.proxy.routes.route_runtime import RouteRuntime

_LABELS: Final = {b"stable": Variant.STABLE, b"canary": Variant.CANARY}


class Assignment:
    """One request's variant. ``unit`` is the point of its sticky key, which is the unit of evidence; -1 without one."""

    __slots__ = ("_sessions", "counted", "counters", "forced", "sample", "unit", "variant")

    def __init__(self, route: RouteRuntime) -> None:
        self.counters: EpochCounters = route.counters
        self._sessions = route.sessions
        self.variant = STABLE
        self.forced = False
        self.unit = -1.0
        self.counted = False
        self.sample: ResponseSample | None = None
        """What is kept of the answer for the inspector; None where nothing is, and for what is no evidence."""

    def enter(self, outcome: AttemptOutcome, now_s: float) -> bool:
        """Enter the outcome as evidence, if it is the first; False when it is none."""
        if self.counted:
            return False
        self.counted = True
        if self.forced:
            return False
        counters, variant = self.counters, self.variant
        counters.variants[variant].count(outcome.kind, outcome.latency_us, outcome.duration_us)
        if self.unit >= 0.0 and self._sessions is not None:
            self._sessions.outcome(self.unit, counters, variant, outcome.kind, now_s)
        if outcome.gap_s or outcome.time_per_event_s:
            counters.streamed(variant, outcome.gap_s, outcome.time_per_event_s, left=False)
        return True

    def enter_abandoned(self, outcome: AttemptOutcome, now_s: float) -> bool:
        """The client has left (rule 4); False when that is no evidence."""
        if self.counted or self.forced:
            return False
        self.counted = True
        counters, variant = self.counters, self.variant
        counters.abandoned(variant, outcome.latency_us, -1 if outcome.waited else outcome.duration_us)
        if outcome.gap_s or outcome.time_per_event_s:
            counters.streamed(variant, outcome.gap_s, outcome.time_per_event_s, left=True)
        if self.unit >= 0.0 and self._sessions is not None:
            self._sessions.outcome(self.unit, counters, variant, ABANDONED, now_s)
        return True

    def close(self) -> None:
        """The exchange is over."""
        self.counters.open -= 1
        if self.sample is not None:
            self.sample.leave()


def assign(route: RouteRuntime, head: RequestHead, draw: Callable[[], float]) -> Assignment:
    """Assign a request to a variant (rule 1), and count that."""
    assignment = Assignment(route)
    counters = route.counters
    counters.open += 1
    if route.has_canary:
        if route.forced:
            asked = head.first(route.forced)
            forced = _LABELS.get(asked.strip().lower()) if asked is not None else None
            if forced is not None:
                assignment.forced = True
                assignment.variant = forced
                counters.totals[forced].forced += 1
                return assignment
        if route.weight_bp:
            key = None
            if route.sticky_header:
                key = head.first(route.sticky_header)
            elif route.sticky_cookie:
                key = cookie_value(head.cookies, route.sticky_cookie)
            if key:
                point = assignment.unit = bucket_of_key(key, route.route.salt)
            else:
                point = draw() * WEIGHT_BP_MAX
            assignment.variant = variant_for(point, route.weight_bp)
    counters.variants[1 if assignment.variant is CANARY else 0].assigned()
    return assignment
