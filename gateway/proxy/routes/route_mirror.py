"""Which of a route's requests are mirrored; under load, copies are the first that a worker goes without.

Rules:

1. Only stable's share of ordinary requests is mirrored: replayable, whole, in memory, no protocol upgrade, not forced.
   A coin of the route's share decides before anything else is looked at.
2. What is short sheds copies, and nothing else does with less for their sake. Each limit has its reason, which is
   counted (`SHED`): copies at once, bytes of one body, bytes of all copies, half of the memory for request bodies,
   requests that wait for a connection to stable or to the canary, half of the canary's connections, an event loop that
   is late, no endpoint, a worker that drains.
3. What came of each copy is counted by result: its outcome class, or why there is none (`NOT_JUDGED`). None of it
   is in the counts of requests, tries and latencies, which are users' traffic.
"""

from __future__ import annotations

from typing import Final

from gateway.core.stats.outcomes import OK
from gateway.core.stats.pairs import CANARY_ONLY, PAIRS, STABLE_ONLY, UNREAD, ratio_name
from gateway.core.traffic.table import Mirroring
from gateway.core.types import WEIGHT_BP_MAX, Variant
from gateway.proxy.counting.epoch_counters import EpochCounters, add_one
from gateway.proxy.upstream.backends import BackendPool
from gateway.proxy.upstream.pool import EndpointPool

BODY_NOT_KEPT: Final = "body_not_kept"
BODY_TOO_LARGE: Final = "body_too_large"
CANARY_BUSY: Final = "canary_busy"
CONCURRENCY: Final = "concurrency"
DRAINING: Final = "draining"
LATE_LOOP: Final = "late_loop"
MEMORY: Final = "memory"
NO_ENDPOINT: Final = "no_endpoint"
STABLE_BUSY: Final = "stable_busy"
SHED: Final = (
    *(BODY_NOT_KEPT, BODY_TOO_LARGE, CANARY_BUSY, CONCURRENCY, DRAINING, LATE_LOOP, MEMORY, NO_ENDPOINT, STABLE_BUSY),
)
# Copies without an outcome: the client left; the worker drained; stable took too long itself; neither version's doing.
CLIENT_LEFT: Final = "client_left"
CUT: Final = "cut"
GAVE_UP: Final = "gave_up"
UNSERVED: Final = "unserved"
NOT_JUDGED: Final = (CLIENT_LEFT, CUT, GAVE_UP, UNSERVED)

# Of so many pairs in a second a worker has the outputs compared, and as many are saved up.
_COMPARED_PER_S: Final = 50.0
# How long a late event loop is remembered.
_LAG_S: Final = 0.25


class MirrorLoad:
    """What all copies of one worker take. ``stopped``: the worker drains."""

    __slots__ = ("_compared_s", "_tokens", "copies", "held_bytes", "lag_s", "lagged_s", "stopped")

    def __init__(self) -> None:
        self.copies = 0
        self.held_bytes = 0
        # How late the event loop lately was, and when that was found.
        self.lag_s = self.lagged_s = 0.0
        self.stopped = False
        self._tokens = _COMPARED_PER_S
        self._compared_s = 0.0

    def compares(self, now_s: float) -> bool:
        """Whether the answers of one more pair are to be compared; decided before they are known."""
        tokens = min(_COMPARED_PER_S, self._tokens + (now_s - self._compared_s) * _COMPARED_PER_S)
        self._compared_s = now_s
        self._tokens = tokens - 1.0 if tokens >= 1.0 else tokens
        return tokens >= 1.0

    def late(self, lag_s: float, now_s: float) -> None:
        """The event loop came so late; what is known is the worst of a moment."""
        if lag_s >= self.lag_s or now_s - self.lagged_s > _LAG_S:
            self.lag_s, self.lagged_s = lag_s, now_s


class RouteMirror:
    """The mirror of one route under one table."""

    __slots__ = (
        "_counts",
        "_pairs",
        "_shed",
        "_total_pairs",
        "canary",
        "evidence",
        "load",
        "settings",
        "share",
        "stable",
        "weighted",
    )

    def __init__(
        self,
        settings: Mirroring,
        load: MirrorLoad,
        counters: EpochCounters,
        stable: BackendPool,
        canary: BackendPool,
        *,
        weighted: bool,
    ) -> None:
        self.settings = settings
        self.load = load
        self.stable = stable
        self.canary = canary
        self.weighted = weighted
        self.share = settings.share_bp / WEIGHT_BP_MAX
        totals = counters.totals[Variant.CANARY]
        self._counts = totals.mirrored
        self._shed = totals.mirror_shed
        self._total_pairs = totals.mirror_pairs
        evidence = self.evidence = counters.evidence
        self._pairs = evidence.pairs

    def no_room(self, body_bytes: int) -> str:
        """Why there is no copy of a request with such a body now (rule 2); empty when there is to be one."""
        load, settings = self.load, self.settings
        if load.stopped:
            return DRAINING
        if body_bytes > settings.body_bytes_max:
            return BODY_TOO_LARGE
        if load.lag_s > settings.loop_lag_max_s:
            return LATE_LOOP
        if load.copies >= settings.concurrency_max:
            return CONCURRENCY
        if load.held_bytes + body_bytes > settings.memory_bytes_max:
            return MEMORY
        for pool in self.stable.pools:
            if pool.waiting:
                return STABLE_BUSY
        return ""

    def endpoint(self, tried: tuple[EndpointPool, ...], now_s: float) -> EndpointPool | str:
        """The canary's endpoint for a copy, or why there is none."""
        pool = self.canary.pick(tried, now_s, insist=False)
        if pool is None:
            return NO_ENDPOINT
        # Users' requests find the other half free; where none of them go, one connection is nobody's loss.
        share = pool.backend.connections_max // 2
        if pool.waiting or pool.load >= (share if self.weighted else max(1, share)):
            return CANARY_BUSY
        return pool

    def shed(self, reason: str) -> None:
        """Count a copy that was not made."""
        add_one(self._shed, reason)

    def came_to(self, result: str) -> None:
        """Count what a copy came to."""
        add_one(self._counts, result)

    def unread(self) -> None:
        """Two answers were to be compared, and cannot be."""
        add_one(self._pairs, UNREAD)
        add_one(self._total_pairs, UNREAD)

    def pair(self, stable: str, canary: str, stable_us: int, canary_us: int) -> None:
        """Both versions have met the request: count their outcomes and latencies (core/stats/pairs.py)."""
        add_one(self._pairs, PAIRS)
        add_one(self._total_pairs, PAIRS)
        if stable == canary:
            if stable == OK:
                add_one(self._pairs, ratio_name(stable_us, canary_us))
            return
        for kind, side in ((canary, CANARY_ONLY), (stable, STABLE_ONLY)):
            if kind != OK:
                add_one(self._pairs, side + kind)
                add_one(self._total_pairs, side + kind)
