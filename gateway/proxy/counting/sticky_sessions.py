"""Sticky routes: the session is the unit of evidence, not the request.

The requests of one sticky key go to one variant and resemble each other: a session that always fails would be counted
as often as it comes, and the promise of a verdict would not hold. So a worker enters each key ONCE into the evidence of
an experiment, as a labelled yes/no event per outcome class: was it so in the key's first `WINDOW_S` seconds? And what
becomes of a session that was well is an event of its own: users who come back find a canary that has died.

Rules:

1. A unit that fails is entered at once, so that a broken canary shows at once; one that does not when its window ends,
   with the first success in another form that it had. So each is in one class at most. The mechanism is the same in
   both arms.
2. A key is known by its point in the split (a 64-bit keyed hash), never by its text.
3. Memory is bounded: `UNITS_MAX` keys per route and worker are remembered, then the oldest is forgotten, and may enter
   again after that many others. While as many windows are open, further keys are not entered, whatever their variant.
4. A session may talk to several workers. Each key belongs to one of them (by its hash), and only there it is entered:
   with n workers an n-th of the sessions is evidence, and no session is evidence twice.
5. An epoch that opened a unit stays open until the unit's window ends. A unit that has moved to the other variant or
   to a later epoch meanwhile is entered where it began, with what happened there.
6. An experiment begins when the weight leaves 0: then every key is new.
7. *Returning* sessions. A session whose window ended well opens another one with its next request, under a label of
   its own (`RETURNING`): a trial when that window ends well, an event as soon as it fails. Then it is out: its further
   failures count for nothing, however often it comes, until it has been without one for `WELL_AGAIN_S`. So a user whose
   requests always fail is in no returning trial at all, and one whose requests fail now and then is in few of them.
"""

from __future__ import annotations

from gateway.core.stats.counts import RETURNING, SESSION_EVENTS
from gateway.core.stats.outcomes import FAILURES, OK
from gateway.core.types import Variant
from gateway.proxy.counting.epoch_counters import EpochCounters

WINDOW_S = 5.0
WELL_AGAIN_S = 300.0
# Instead of the time of a session's last failure.
_WELL = -1.0
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
        # The sessions that were entered: `_WELL`, or when they last failed.
        self._seen: dict[float, float] = {}
        self._over = False

    def outcome(self, unit: float, counters: EpochCounters, variant: Variant, kind: str, now_s: float) -> None:
        """A counted request of this unit ended as ``kind``, its outcome class."""
        failed_s = self._seen.get(unit)
        if failed_s is not None:
            self._returned(unit, failed_s, counters, variant, kind, now_s)
            return
        if int(unit * _FINE) % self._workers != self._index:
            return
        opened = self._open.get(unit)
        if opened is None:
            if kind in FAILURES or self._over:  # no sweep comes by any more: a window that opens now would never end
                self._enter(unit, counters, variant, kind, now_s)
            elif len(self._open) < UNITS_MAX:
                counters.open += 1
                self._open[unit] = (now_s, counters, variant, kind)
        elif kind != OK and opened[1] is counters and opened[2] is variant:
            if kind in FAILURES:
                del self._open[unit]
                counters.open -= 1
                self._enter(unit, counters, variant, kind, now_s)
            elif opened[3] == OK:
                self._open[unit] = (opened[0], counters, variant, kind)

    def _returned(
        self, unit: float, failed_s: float, counters: EpochCounters, variant: Variant, kind: str, now_s: float
    ) -> None:
        """A request of a session that was entered before (rule 7)."""
        failing = kind in FAILURES
        if failed_s != _WELL:
            if failing:
                self._seen[unit] = now_s
            elif now_s - failed_s >= WELL_AGAIN_S:
                self._seen[unit] = _WELL
            return
        opened = self._open.get(unit)
        if failing:
            if opened is not None:
                del self._open[unit]
                opened[1].open -= 1
            self._seen[unit] = now_s
            counters.arms[variant].label(RETURNING, happened=True)
        elif opened is None and len(self._open) < UNITS_MAX and not self._over:
            counters.open += 1
            self._open[unit] = (now_s, counters, variant, kind)

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
        if unit in self._seen:
            counters.arms[variant].label(RETURNING, happened=False)
        else:
            self._enter(unit, counters, variant, kind, _WELL)

    def _enter(self, unit: float, counters: EpochCounters, variant: Variant, kind: str, failed_s: float) -> None:
        """Enter a session for the first time; ``failed_s`` is when it failed, of one that is well `_WELL`."""
        if len(self._seen) >= UNITS_MAX:
            del self._seen[next(iter(self._seen))]
        self._seen[unit] = failed_s if kind in FAILURES else _WELL
        counts = counters.arms[variant]
        for name, label in SESSION_EVENTS.items():
            counts.label(label, happened=kind == name)
