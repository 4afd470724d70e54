"""The one timer of a worker: deadlines, slow request bodies, what is due now and then; and a stalled event loop.

Rules:

1. Every `SWEEP_S` one pass looks at the deadlines of all open exchanges: it costs less than a timer armed and
   cancelled for each request would. Connections, pools and request bodies are looked at in every twentieth pass.
2. A request body that falls behind ``limits.body_rate_min`` by more than `BODY_GRACE_S` is refused: a network that
   pauses is no attack.
3. A loop that stood still for more than `_STALL_S` has missed answers that were there in time: deadlines are moved by
   as much (`StallForgiveness`), and none is looked at before the next turn.
"""

from __future__ import annotations

from typing import Final

from gateway.proxy.context import OpenExchange, WorkerContext
from gateway.proxy.heads import gateway_errors

SWEEP_S: Final = 0.025
BODY_GRACE_S: Final = 20.0
_STALL_S: Final = 0.25
# Of connections, pools and bodies: once in so many sweeps.
_SELDOM: Final = 20
# A scrape comes every 5 to 15 s: a lag stays visible for one to two windows of 15 s.
_LAG_WINDOW_SWEEPS: Final = 600


class StallForgiveness:
    """How much lateness of the event loop is forgiven to deadlines.

    A loop that is always late would forgive for ever: so at most ``burst_s`` in one go, and ``share`` of the time in
    the long run.
    """

    def __init__(self, burst_s: float = 30.0, share: float = 0.1) -> None:
        self._burst_s = burst_s
        self._share = share
        self._left_s = burst_s

    def forgive(self, late_s: float, since_s: float) -> float:
        """How much of ``late_s`` is forgiven, ``since_s`` after the last time this was asked."""
        self._left_s = min(self._burst_s, self._left_s + self._share * since_s)
        forgiven_s = min(late_s, self._left_s)
        self._left_s -= forgiven_s
        return forgiven_s


class Sweeper:
    """The sweeps of one worker."""

    def __init__(self, worker: WorkerContext) -> None:
        self._worker = worker
        # Of request bodies that are under way: the bytes that had arrived, when, and by how much they are behind.
        self._arrivals: dict[OpenExchange, tuple[int, float, float]] = {}
        self._forgiveness = StallForgiveness()
        self._stalled_s = self._swept_s = worker.now_s()
        self._sweeps = 0

    def start(self) -> None:
        """Sweep from now on, for as long as the loop runs."""
        # Armed first: a sweep that fails is the loop's to report, and must not be the last one.
        self._worker.loop.call_later(SWEEP_S, self.start)
        self.sweep()

    def sweep(self) -> None:
        """Look at everything once."""
        worker = self._worker
        counters = worker.counts
        now_s = worker.now_s()
        late_s = now_s - self._swept_s - SWEEP_S
        self._swept_s = now_s
        self._sweeps += 1
        if worker.access is not None:
            worker.access.flush()
            counters.log_lines, counters.log_dropped = worker.access.lines, worker.access.dropped
        next_window = self._sweeps % _LAG_WINDOW_SWEEPS == 0
        counters.lagged(int(late_s * 1e6), next_window=next_window)
        if next_window:
            counters.move_on()
        counters.sweep_sessions(now_s)
        if late_s > _STALL_S and self._stalled(late_s, now_s):
            return
        for exchange in [e for e in worker.active if now_s >= e.deadline_s or now_s >= e.total_at_s]:
            exchange.sweep(now_s)
        worker.mirror_load.late(late_s, now_s)
        if worker.mirrors:
            for copy in [c for c in worker.mirrors if now_s >= c.deadline_s]:
                copy.sweep(now_s)
        if self._sweeps % _SELDOM == 0:
            for connection in list(worker.connections):
                connection.sweep(now_s)
            worker.pools.each(lambda pool: pool.sweep(now_s))
            if worker.limits.body_rate_min:
                self.sweep_bodies(now_s)
            worker.bodies.sweep(now_s)

    def sweep_bodies(self, now_s: float) -> None:
        """Refuse request bodies that have fallen too far behind (rule 2)."""
        rate_min = self._worker.limits.body_rate_min
        arrivals: dict[OpenExchange, tuple[int, float, float]] = {}
        for exchange in list(self._worker.active):
            arrived = exchange.awaited_body_bytes()
            if arrived < 0:
                continue
            before, since_s, behind_s = self._arrivals.get(exchange, (arrived, now_s, 0.0))
            behind_s = max(0.0, behind_s + now_s - since_s - (arrived - before) / rate_min)
            if behind_s > BODY_GRACE_S:
                exchange.malformed(gateway_errors.BODY_TOO_SLOW)
            else:
                arrivals[exchange] = (arrived, now_s, behind_s)
        self._arrivals = arrivals

    def _stalled(self, late_s: float, now_s: float) -> bool:
        """The loop stood still. True when all of it is forgiven: then no deadline is looked at before the next turn."""
        worker = self._worker
        worker.counts.stalls += 1
        forgiven_s = self._forgiveness.forgive(late_s, now_s - self._stalled_s)
        self._stalled_s = now_s
        for exchange in (*worker.active, *worker.mirrors):
            exchange.deadline_s += forgiven_s
            exchange.total_at_s += forgiven_s
        for connection in worker.connections:
            connection.forgive(forgiven_s)
        self._arrivals = {e: (n, since_s + forgiven_s, behind) for e, (n, since_s, behind) in self._arrivals.items()}
        worker.pools.each(lambda pool: pool.forgive(forgiven_s))
        return forgiven_s >= late_s
