"""Control's end of the conversation with the inspector: what to look at goes there, evidence and totals come back.

The inspector's reports are a worker's in form, so the aggregator takes them as those of one more source of evidence.
The connection is made again for as long as control lives. While the inspector is away for longer than a moment,
requests are served and failures are judged as before, but no canary passes where answers or labels decide: their proof
stands still. Readiness is not held back; traffic does not depend on the inspector.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Set as AbstractSet
from pathlib import Path

from gateway.control.workers.report_aggregator import ReportAggregator
from gateway.core.errors import ConflictError, NotFoundError
from gateway.core.predictions.events import Known, Watched
from gateway.core.predictions.protocols.adapter import in_words
from gateway.core.predictions.settings import RouteWatch
from gateway.runtime import samples
from gateway.runtime.clock import Clock

_log = logging.getLogger("gateway.control")
# Workers count from 0.
INSPECTOR_INDEX = -1
_RETRY_S = 0.1
# What a label of a request that was known, or may be yet, became.
_POSTED = ("matched", "pending", "late", "duplicate")
_ABSENT_S = 3.0
_BACKLOG_BYTES_MAX = 4 << 20


class Inspection:
    """One connection to the inspector. ``routes`` is what it is to look at; without any there is no connection."""

    def __init__(self, path: Path, routes: dict[str, RouteWatch], aggregator: ReportAggregator, clock: Clock) -> None:
        self._path = path
        self._routes = routes
        self._aggregator = aggregator
        self._clock = clock
        self._writer: asyncio.StreamWriter | None = None
        self._last_report_s = clock.monotonic_s()
        self._missed = False
        self.newest: samples.Inspected | None = None
        # The events of each route for which a label has come, in this life or an earlier one of the inspector.
        self._posted: dict[str, set[str]] = {}
        # Results of windows that nobody has taken yet, and how far they go: by life of the inspector and route.
        self._validated: dict[str, list[samples.Validated]] = {}
        self._validated_to: dict[tuple[str, str], int] = {}

    def watch(self, routes: dict[str, RouteWatch]) -> None:
        """Look at these routes from now on."""
        self._routes = routes
        self._send(samples.Watching(routes, self._known()))

    def send_labels(self, route: str, labels: list[samples.Label]) -> None:
        """Hand on business events.

        NotFoundError for a route that expects none, or not this event; ConflictError when the inspector cannot take
        them now.
        """
        watched = self._routes.get(route)
        known = watched.labels.events if watched is not None and watched.labels is not None else {}
        if not known:
            raise NotFoundError(f"route {route} expects no labels: give one of its analysis.events a `trial`")
        for index, label in enumerate(labels):
            if label.name not in known:
                raise NotFoundError(f"[{index}].name: no event is named {label.name!r}; there are: {', '.join(known)}")
        if not self._send(samples.Labels(route, labels)):
            raise ConflictError(
                "labels cannot be accepted now: the inspector is not connected or overloaded; try again"
            )

    @property
    def wanted(self) -> bool:
        """Whether there is anything to look at."""
        return bool(self._routes)

    @property
    def present(self) -> bool:
        """Whether the inspector has reported a moment ago."""
        return self._clock.monotonic_s() - self._last_report_s <= _ABSENT_S

    def watched(self, route: str) -> Watched | None:
        """What the inspector said last of a route's answers."""
        return None if self.newest is None else self.newest.watched.get(route)

    def protocols(self, route: str) -> str:
        """Which protocols a route's answers were in, in words."""
        return "" if self.newest is None else in_words(self.newest.protocols.get(route, ()))

    def meanings(self, route: str) -> dict[str, str]:
        """What the events of a route's answers stand for."""
        return {} if self.newest is None else self.newest.meanings.get(route, {})

    def posted(self, route: str) -> AbstractSet[str]:
        """The events for which a label has come."""
        return self._posted.get(route, frozenset())

    def data(self, route: str) -> samples.DataChecked | None:
        """What validators said of a route's windows of data; None before the first report."""
        return None if self.newest is None else self.newest.data.get(route)

    def take_validated(self, route: str) -> list[samples.Validated]:
        """The results of a route's windows since this was last called."""
        return self._validated.pop(route, [])

    def _known(self) -> dict[str, Known]:
        """What the previous inspector had learnt, for the next one."""
        watched = {} if self.newest is None else self.newest.watched
        return {name: one.known for name, one in watched.items() if one.known is not None}

    def looked_at(self, route: str) -> RouteWatch | None:
        """What is sampled of a route's answers; None for nothing."""
        return self._routes.get(route)

    def answers(self, route: str) -> tuple[samples.AnswersRead, samples.AnswersRead] | None:
        """What the inspector found in stable's and in the canary's answers; None before its first report."""
        return None if self.newest is None else self.newest.answers.get(route)

    async def run(self) -> None:
        """Connect, talk until the connection ends, and again."""
        while True:
            if self._routes:
                await self._try()
                if not self.present and not self._missed:
                    self._missed = True
                    _log.error(
                        "the inspector does not report: no canary passes on failures in answers, predictions or labels"
                    )
            await asyncio.sleep(_RETRY_S)

    async def _try(self) -> None:
        try:
            reader, writer = await asyncio.open_unix_connection(str(self._path))
        except OSError:
            return
        self._writer = writer
        try:
            self._send(samples.Watching(self._routes, self._known()))
            while True:
                self._take(await samples.read_inspected(reader))
        except (OSError, asyncio.IncompleteReadError):
            pass
        except ValueError as error:
            _log.error("inspector: connection closed after a protocol error: %s", error)
        finally:
            self._writer = None
            writer.close()

    def _take(self, message: samples.Inspected) -> None:
        now_s = self._clock.monotonic_s()
        report = message.report
        self._aggregator.arrived(report.boot, INSPECTOR_INDEX, now_s)
        self._aggregator.take(report, now_s)
        self.newest = message
        for route, events in message.labels.items():
            posted = {name for name, results in events.items() if any(results.get(one) for one in _POSTED)}
            self._posted.setdefault(route, set()).update(posted)
        for route, checked in message.data.items():
            known = self._validated_to.get((report.boot, route), 0)
            fresh = [one for one in checked.fresh if one.number > known]
            if fresh:
                self._validated.setdefault(route, []).extend(fresh)
                self._validated_to[report.boot, route] = fresh[-1].number
        self._last_report_s = now_s
        self._missed = False
        self._send(samples.ReportTaken(report.seq))

    def _send(self, message: samples.Message) -> bool:
        writer = self._writer
        if writer is None or writer.transport.is_closing():
            return False
        if writer.transport.get_write_buffer_size() > _BACKLOG_BYTES_MAX:
            return False
        writer.write(samples.encode(message))
        return True
