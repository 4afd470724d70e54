"""Labels that arrive after the answer: joined by request id, within a window, in bounded memory. Times are arguments.

Rules:

1. Only a request that the gateway assigned by its coin, and that the assigned version answered, can be labelled.
2. A label is worth one thing, once: it is *matched*, or *pending* (it came before the news of its request; it waits a
   moment), or *late* (the window was over), *duplicate* (this event was given for this request before) or *unknown*.
   Only matched ones are evidence.
3. An event's trials are either all requests, with the event if a "yes" had arrived (``trial: request``: a click), or
   the labelled ones (``trial: label``: a prediction was right; or a value, of events that have bounds). Each is counted
   once, when its window closes and not before: if a "yes" counted at once and a "no" later, the arm whose labels come
   sooner would look different.
4. When there are more open requests than fit, the oldest are given up unlabelled (`evicted`): no trials of ``request``
   come from those. That depends on traffic alone, so both arms lose alike.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping

import msgspec

from gateway.core.types import Variant

EARLY_S = 5.0
EARLY_MAX = 10_000
RESULTS = ("matched", "pending", "late", "duplicate", "unknown", "evicted", "repeated_id")


class LabelSettings(msgspec.Struct, frozen=True):
    """One route's labels: ``events`` maps each name to whether its trials are all requests (else the labelled ones).

    ``bounds`` are those of the events that are values.
    """

    events: Mapping[str, bool]
    window_s: float = 60.0
    requests_max: int = 100_000
    bounds: Mapping[str, tuple[float, float]] = {}


class Trial(msgspec.Struct, frozen=True):
    """What is to be counted: one trial of an event, and whether it happened; or a value with its bounds."""

    epoch: int
    variant: Variant
    event: str
    value: bool | float
    bounds: tuple[float, float] | None = None


class _Open(msgspec.Struct):
    epoch: int
    variant: Variant
    since_s: float
    labels: dict[str, bool | float]


class Join:
    """One route's open requests."""

    def __init__(self, settings: LabelSettings) -> None:
        self._settings = settings
        self._open: OrderedDict[str, _Open] = OrderedDict()
        self._closed: OrderedDict[str, None] = OrderedDict()
        self._early: OrderedDict[tuple[str, str], tuple[bool | float, float]] = OrderedDict()
        self.results: dict[str, dict[str, int]] = {name: dict.fromkeys(RESULTS, 0) for name in settings.events}

    @property
    def epochs(self) -> set[int]:
        """The epochs of which requests are open."""
        return {entry.epoch for entry in self._open.values()}

    def served(self, request_id: str, epoch: int, variant: Variant, at_s: float) -> None:
        """A request was answered by the version that it was assigned to."""
        if request_id in self._open or request_id in self._closed:
            self._count_all("repeated_id")
            return
        self._open[request_id] = _Open(epoch, variant, at_s, {})
        if self._early:
            for event in self._settings.events:
                waiting = self._early.pop((request_id, event), None)
                if waiting is not None:
                    self.label(request_id, event, waiting[0], at_s)
        while len(self._open) > self._settings.requests_max:
            self._close(self._open.popitem(last=False)[0])
            self._count_all("evicted")

    def label(self, request_id: str, event: str, value: bool | float, at_s: float) -> None:
        """A label arrived. ``event`` is one of the settings'."""
        results = self.results[event]
        entry = self._open.get(request_id)
        if entry is None:
            if request_id in self._closed:
                results["late"] += 1
            elif (request_id, event) in self._early:
                results["duplicate"] += 1
            else:
                results["pending"] += 1
                self._early[request_id, event] = (value, at_s)
                if len(self._early) > EARLY_MAX:
                    self._give_up(*self._early.popitem(last=False)[0])
        elif at_s - entry.since_s > self._settings.window_s:
            results["late"] += 1
        elif event in entry.labels:
            results["duplicate"] += 1
        else:
            results["matched"] += 1
            entry.labels[event] = value

    def expire(self, now_s: float) -> Iterator[Trial]:
        """Close the windows that are over."""
        while self._open:
            request_id, entry = next(iter(self._open.items()))
            if now_s - entry.since_s <= self._settings.window_s:
                break
            del self._open[request_id]
            self._close(request_id)
            for event, all_requests in self._settings.events.items():
                if all_requests or event in entry.labels:
                    bounds = self._settings.bounds.get(event)
                    yield Trial(entry.epoch, entry.variant, event, entry.labels.get(event, False), bounds)
        while self._early:
            (request_id, event), (_, at_s) = next(iter(self._early.items()))
            if now_s - at_s <= EARLY_S:
                break
            del self._early[request_id, event]
            self._give_up(request_id, event)

    def _close(self, request_id: str) -> None:
        self._closed[request_id] = None
        if len(self._closed) > self._settings.requests_max:
            self._closed.popitem(last=False)

    def _give_up(self, _: str, event: str) -> None:
        self.results[event]["unknown"] += 1

    def _count_all(self, result: str) -> None:
        for results in self.results.values():
            results[result] += 1
