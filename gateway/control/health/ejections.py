"""Ejections, as the workers report them: events and alarms.

Rules:

1. An endpoint is ejected as long as one worker says so: by its own traffic, until a trial there has succeeded.
2. Each ejection and each return is an event. An alarm for each backend names its ejected endpoints, why, and for how
   long; it holds nothing back, since requests go to the others.
"""

from __future__ import annotations

from collections.abc import Mapping

from gateway.control.alarms import Alarms
from gateway.control.events import EventLog
from gateway.control.workers.report_aggregator import ReportAggregator
from gateway.runtime.wire import Ejected

_NAMED_MAX = 3


class Ejections:
    """Follows the workers' reports."""

    def __init__(self, aggregator: ReportAggregator, events: EventLog, alarms: Alarms) -> None:
        self._aggregator = aggregator
        self._events = events
        self._alarms = alarms
        self._out: dict[tuple[str, str], Ejected] = {}
        self._alarmed: set[str] = set()

    def take_reports(self) -> None:
        """Say what has changed since the last time."""
        found = self._aggregator.ejected()
        if not found and not self._out:
            return
        # Of several workers the one that waits for the longest: the others will have looked again by then.
        now = {key: max(those, key=lambda one: one.lasts_s) for key, those in found.items()}
        for key, one in now.items():
            if self._out.get(key) != one:
                self._publish(key, {"ejected": True, "reason": one.reason, "lasts_s": one.lasts_s})
        for key in sorted(self._out.keys() - now.keys()):
            self._publish(key, {"ejected": False})
        self._out = now
        self._sound(found)

    def _publish(self, key: tuple[str, str], data: dict[str, object]) -> None:
        self._events.publish("ejection", {"backend": key[0], "url": key[1], **data})

    def _sound(self, found: Mapping[tuple[str, str], list[Ejected]]) -> None:
        by_backend: dict[str, list[str]] = {}
        for (backend, url), those in sorted(found.items()):
            one = self._out[backend, url]
            workers = f"{len(those)} worker{'s' * (len(those) > 1)}"
            sentence = f"{url} is ejected by {workers} for {one.lasts_s:g} s at a time ({one.reason})"
            by_backend.setdefault(backend, []).append(sentence)
        for backend, sentences in by_backend.items():
            more = f"; and {len(sentences) - _NAMED_MAX} more" if len(sentences) > _NAMED_MAX else ""
            reason = f"backend {backend}: {'; '.join(sentences[:_NAMED_MAX])}{more}"
            self._alarms.sound(f"ejections of {backend}", reason, warning=True)
        for backend in self._alarmed - by_backend.keys():
            self._alarms.clear(f"ejections of {backend}")
        self._alarmed = set(by_backend)
