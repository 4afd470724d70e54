"""Sticky routes: the session is the unit of evidence, not the request.

The requests of one sticky key go to one variant and resemble each other: a session that always fails would be counted
as often as it comes, and the promise of a verdict would not hold. So a worker enters each key ONCE into the evidence of
an experiment, as a labelled yes/no event per outcome class: was it so in the key's first `WINDOW_S` seconds?

Rules:

1. A unit that fails is entered at once, so that a broken canary shows at once; one that does not when its window ends,
   with the first success in another form that it had. So each is in one class at most. Later requests of the key count
   for nothing. The mechanism is the same in both arms.
2. A key is known by its point in the split (a 64-bit keyed hash), never by its text.
3. Memory is bounded: `UNITS_MAX` keys per route and worker are remembered, then the oldest is forgotten, and may enter
   again after that many others. While as many windows are open, further keys are not entered, whatever their variant.
4. A session may talk to several workers. Each key belongs to one of them (by its hash), and only there it is entered:
   with n workers an n-th of the sessions is evidence, and no session is evidence twice.
5. An epoch that opened a unit stays open until the unit's window ends. A unit that has moved to the other variant or
   to a later epoch meanwhile is entered where it began, with what happened there.
6. An experiment begins when the weight leaves 0: then every key is new.
"""

from __future__ import annotations

from gateway.core.stats.counts import SESSION_EVENTS
from gateway.core.stats.outcomes import FAILURES, OK
from gateway.core.types import Variant
from gateway.proxy.counting.epoch_counters import EpochCounters

WINDOW_S = 5.0
UNITS_MAX = 1 << 16
# The point's whole part decides the variant at common weights; a share of it this fine does not.
_FINE = 1 << 24


class StickySessions:
    """The sessions of one sticky route on one worker, in one experiment."""

    __slots__ = ("_index", "_open", "_over", "_seen", "_workers")

    def __init__(self, index: int = 0, workers: int = 1) -> None:
        self._index = index
        self._workers = workers
        # In the order of their opening, which is that of their windows' ends.
        self._open: dict[float, tuple[float, EpochCounters, Variant, str]] = {}
        self._seen: dict[float, None] = {}
        self._over = False

    def outcome(self, unit: float, counters: EpochCounters, variant: Variant, kind: str, now_s: float) -> None:
        """A counted request of this unit ended as ``kind``, its outcome class."""
        if unit in self._seen or int(unit * _FINE) % self._workers != self._index:
            return
        opened = self._open.get(unit)
        if opened is None:
            if kind in FAILURES or self._over:  # no sweep comes by any more: a window that opens now would never end
                self._enter(unit, counters, variant, kind)
            elif len(self._open) < UNITS_MAX:
                counters.open += 1
                self._open[unit] = (now_s, counters, variant, kind)
        elif kind != OK and opened[1] is counters and opened[2] is variant:
            if kind in FAILURES:
                del self._open[unit]
                counters.open -= 1
                self._enter(unit, counters, variant, kind)
            elif opened[3] == OK:
                self._open[unit] = (opened[0], counters, variant, kind)

    def sweep(self, now_s: float) -> None:
        """Enter the units whose window has ended."""
        while self._open:
            unit = next(iter(self._open))
            since_s, counters, variant, kind = self._open[unit]
            if now_s - since_s < WINDOW_S:
                return
            self._close(unit, counters, variant, kind)

    def end(self) -> None:
        """The experiment is over: enter what is open, and at once what still comes of requests under way."""
        self._over = True
        for unit, (_, counters, variant, kind) in list(self._open.items()):
            self._close(unit, counters, variant, kind)

    def __len__(self) -> int:
        return len(self._open) + len(self._seen)

    def _close(self, unit: float, counters: EpochCounters, variant: Variant, kind: str) -> None:
        del self._open[unit]
        counters.open -= 1
        self._enter(unit, counters, variant, kind)

    def _enter(self, unit: float, counters: EpochCounters, variant: Variant, kind: str) -> None:
        if len(self._seen) >= UNITS_MAX:
            del self._seen[next(iter(self._seen))]
        self._seen[unit] = None
        counts = counters.arms[variant]
        for name, label in SESSION_EVENTS.items():
            counts.label(label, happened=kind == name)
