"""The gateway's own access log as a recording: JSON lines, one for each request, summed up in intervals.

Rules:

1. Only what the gateway counted is evidence (``counted`` is not null): forced variants and gateway-made answers are
   skipped here as they were there, and so are lines that are in the log for their failure alone (``sampled: false``),
   which would make the canary look worse than it was.
2. A line stands for the moment at which its request ended (``ts``). Several workers write into one log, so lines may be
   a little out of order: an interval stays open until the log is ``LATE_S`` past its end.
3. Requests of different weights are never mixed: an interval in which the weight changed becomes several.
4. Other keys are ignored, so that a log that was enriched on its way can be read; so are blank lines.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import NoReturn

import msgspec

from gateway.config.mistakes import show
from gateway.core.errors import InvalidValueError
from gateway.core.stats.counts import Counts
from gateway.core.stats.histogram import bucket_of
from gateway.core.stats.outcomes import ABANDONED, NAMES, OK
from gateway.core.types import weight_bp_from_percent
from gateway.replay.interval import Interval
from gateway.replay.readers import RecordingError

# Shorter than a burst (`analysis.burst_s`, 0.3 s), whose clumps would be lost in longer ones. A binary fraction.
INTERVAL_S = 0.25
# Workers hand their lines over within a fraction of a second; a collector may mix files a little more.
LATE_S = 10.0
LINE_BYTES_MAX = 1 << 20
_MILLISECONDS_MAX = 1e12
KINDS = (OK, *NAMES)
_MEND = "give a log that `access_log` wrote (docs/data-plane.md)"


class _Line(msgspec.Struct):
    """What of a line is needed here."""

    ts: str
    route: str | None = None
    assigned: str | None = None
    counted: str | None = None
    counted_ms: float | None = None
    weight_percent: float | None = None
    sampled: bool = True


class _Slot:
    """The requests of one interval under one weight."""

    __slots__ = ("canary", "stable")

    def __init__(self) -> None:
        self.stable = Counts()
        self.canary = Counts()


class LogRecording:
    """A recording in an access log; ``route`` chooses one where the log holds several."""

    metrics = frozenset((*NAMES, "latency"))
    weighted = True

    def __init__(self, path: Path, route: str | None = None) -> None:
        self._path = path
        self._route = route
        self._decode = msgspec.json.Decoder(_Line).decode

    def intervals(self) -> Iterator[Interval]:
        """The intervals, with times rising strictly, from 0 at the first. Raises RecordingError."""
        open_slots: dict[int, dict[int, _Slot]] = {}
        late = round(LATE_S / INTERVAL_S)
        # The tick that is time 0: the oldest of those that are known when the first is closed.
        first: int | None = None
        newest = closed = -(1 << 60)
        for number, line, at_s in self._counted():
            tick = math.floor(at_s / INTERVAL_S)
            if tick <= closed:
                problem = f"{show(line.ts)} is more than {LATE_S:g} s before a line above it"
                self._fail(number, "ts", problem, "sort the lines by ts")
            if tick > newest:
                newest = tick
                due = newest - late - 1
                for ready in sorted(one for one in open_slots if one <= due):
                    first = ready if first is None else first
                    yield from _closed(ready - first, open_slots.pop(ready))
                closed = due
            weight_bp = self._weight_bp(number, line)
            _enter(open_slots.setdefault(tick, {}).setdefault(weight_bp, _Slot()), line)
        if not open_slots:
            self._nothing()
        for ready in sorted(open_slots):
            first = ready if first is None else first
            yield from _closed(ready - first, open_slots[ready])

    def _nothing(self) -> NoReturn:
        of = "" if self._route is None else f" of route {show(self._route)}"
        self._fail(None, "", f"no line{of} is evidence", "log a route with a canary, and every request of it")

    def _counted(self) -> Iterator[tuple[int, _Line, float]]:
        """Line number, line and time of each that is evidence."""
        route = self._route
        for number, line in self._lines():
            at_s = self._time(number, line.ts)
            if line.counted is None or not line.sampled:
                continue
            if line.route is None or line.assigned not in ("stable", "canary"):
                column = "route" if line.route is None else "assigned"
                self._fail(number, column, f"{show(getattr(line, column))} in a line that was counted", _MEND)
            if line.counted not in KINDS:
                self._fail(number, "counted", f"{show(line.counted)} is no class of outcomes", _MEND)
            if route is None:
                route = line.route
            if line.route == route:
                yield number, line, at_s
            elif self._route is None:
                problem = f"the log holds the routes {show(route)} and {show(line.route)}"
                self._fail(number, "route", problem, "choose one with --route")

    def _lines(self) -> Iterator[tuple[int, _Line]]:
        try:
            with self._path.open("rb") as file:
                number = 0
                while data := file.readline(LINE_BYTES_MAX + 1):
                    number += 1
                    if len(data) > LINE_BYTES_MAX:
                        self._fail(number, "", f"this line is longer than {LINE_BYTES_MAX} bytes", "is it a log?")
                    if number == 1:
                        data = data.removeprefix(b"\xef\xbb\xbf")
                    if data.strip():
                        yield number, self._line(number, data)
        except OSError as error:
            why = f"cannot be read: {error.strerror}"
            raise RecordingError(str(self._path), None, "", why, "give a file this user may read") from None

    def _line(self, number: int, data: bytes) -> _Line:
        try:
            return self._decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            self._fail(number, "", f"this line is not one of an access log: {error}", _MEND)

    def _time(self, number: int, text: str) -> float:
        try:
            moment = datetime.fromisoformat(text)
            at_s = moment.timestamp() if moment.tzinfo is not None else math.nan
        except (ValueError, OverflowError):
            at_s = math.nan
        if not math.isfinite(at_s):
            self._fail(number, "ts", f"{show(text)} is no time with its zone", "write one as 2026-01-31T12:00:00.000Z")
        return at_s

    def _weight_bp(self, number: int, line: _Line) -> int:
        try:
            weight_bp = weight_bp_from_percent(line.weight_percent)
        except InvalidValueError:
            problem = f"{show(line.weight_percent)} is not a canary share"
            self._fail(number, "weight_percent", problem, "write a percentage from 0 to 100 in steps of 0.01")
        latency_ms = line.counted_ms
        if latency_ms is None and line.counted == ABANDONED:  # the client left after the first byte
            return weight_bp
        if latency_ms is None or not 0 <= latency_ms <= _MILLISECONDS_MAX:
            self._fail(number, "counted_ms", f"{show(latency_ms)} is no latency", "write milliseconds from 0 up")
        return weight_bp

    def _fail(self, line: int | None, column: str, problem: str, mend: str) -> NoReturn:
        raise RecordingError(str(self._path), line, column, problem, mend)


def _enter(slot: _Slot, line: _Line) -> None:
    counts = slot.canary if line.assigned == "canary" else slot.stable
    counts.requests += 1
    assert line.counted is not None  # `_counted` has looked
    if line.counted != OK:
        counts.enter(line.counted)
    if line.counted_ms is None:
        return
    bucket = bucket_of(round(line.counted_ms * 1000))
    histogram = counts.aborted if line.counted == ABANDONED else counts.latency
    histogram[bucket] = histogram.get(bucket, 0) + 1


def _closed(tick: int, slots: dict[int, _Slot]) -> Iterator[Interval]:
    """The intervals of one tick: one for each weight, next to each other in time."""
    step_s = INTERVAL_S / len(slots)
    since_s = tick * INTERVAL_S
    for i, (weight_bp, slot) in enumerate(slots.items(), 1):
        at_s = (tick + 1) * INTERVAL_S if i == len(slots) else since_s + step_s
        yield Interval(since_s, at_s, weight_bp, slot.stable, slot.canary)
        since_s = at_s
