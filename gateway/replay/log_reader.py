"""The gateway's own access log as a recording: JSON lines, one for each request, summed up in intervals.

Rules:

1. Only what the gateway counted is evidence (``counted`` is not null): forced variants and gateway-made answers are
   skipped here as they were there, and so are lines that are in the log for their failure alone (``sampled: false``),
   which would make the canary look worse than it was. What a client left (``abandoned``) has a latency or, with
   ``counted_left``, a wait that had lasted at least so long.
2. A line stands for the moment at which its request ended (``ts``). Several workers write into one log, so lines may be
   a little out of order: an interval stays open until the log is ``LATE_S`` past its end.
3. Requests of different weights are never mixed: an interval in which the weight changed becomes several. A line
   without a weight gets one that is inferred from the shares of requests (weights.py).
4. Each version (``canary`` against ``stable``) is a recording of its own, and so is one that was tried again after
   another: `versions`. Lines of a time without a canary are left out.
5. Where ``ts`` steps back by more than `LATE_S` and less than `CLOCK_BACK_S_MAX`, a clock was set: time goes on from
   where it was.
6. Other keys are ignored, so that a log that was enriched on its way can be read; so are blank lines. Lines that are
   torn or broken are skipped and counted, unless there are many or none before them was whole.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import NoReturn

import msgspec

from gateway.config.errors import show
from gateway.core.errors import InvalidValueError
from gateway.core.stats.counts import Counts
from gateway.core.stats.histogram import bucket_of
from gateway.core.stats.outcomes import ABANDONED, NAMES, OK
from gateway.core.types import weight_bp_from_percent
from gateway.replay.intervals import RecordedInterval
from gateway.replay.lines import LINE_BYTES_MAX, Notes, lines
from gateway.replay.recording import RecordingError
from gateway.replay.weights import UNKNOWN_BP, inferred

# Shorter than a burst (`analysis.burst_s`, 0.3 s), whose clumps would be lost in longer ones. A binary fraction.
INTERVAL_S = 0.25
# Workers hand their lines over within a fraction of a second; a collector may mix files a little more.
LATE_S = 10.0
# A clock that was set goes back by less; more is another order of lines.
CLOCK_BACK_S_MAX = 3600.0
_TORN, _BROKEN = "incomplete last line, skipped", "lines that are not of an access log, skipped"
# More broken lines than these few and this share of the whole ones: it is another file.
_BROKEN_MIN, _BROKEN_SHARE = 3, 0.1
_SHOWN = 120
_MILLISECONDS_MAX = 1e12
KINDS = (OK, *NAMES)
_HINT = "give a log that `access_log` wrote (docs/data-plane.md)"


class _LogLine(msgspec.Struct):
    """What of a line is needed here."""

    ts: str
    route: str | None = None
    stable: str | None = None
    canary: str | None = None
    assigned: str | None = None
    counted: str | None = None
    counted_ms: float | None = None
    counted_left: bool = False
    weight_percent: float | None = None
    sampled: bool = True


class _Version(msgspec.Struct):
    """One trial of one version: who is compared with whom (empty names where the log does not say), and when last."""

    stable: str
    canary: str
    first_line: int
    last_s: float
    requests: int = 0
    unweighted: int = 0

    @property
    def title(self) -> str:
        return f"canary {show(self.canary)} against stable {show(self.stable)}" if self.canary else ""


class _Clock:
    """Times that do not go back by more than lines of several workers do: what is behind a clock's step is moved on."""

    def __init__(self, notes: Notes) -> None:
        self._notes = notes
        self._newest_s = -math.inf
        self._shift_s = 0.0

    def at_s(self, number: int, read_s: float) -> float | None:
        """The time of a line; None where it goes back further than a clock is set."""
        at_s = read_s + self._shift_s
        back_s = self._newest_s - at_s
        if back_s > LATE_S:
            if back_s > CLOCK_BACK_S_MAX:
                return None
            what = f"step of the clock back, by {back_s:.0f} s: later times were shifted"
            self._notes.add(what, number)
            self._shift_s += back_s
            at_s = self._newest_s
        self._newest_s = max(self._newest_s, at_s)
        return at_s


class _IntervalCounts:
    """The requests of one interval under one weight."""

    __slots__ = ("canary", "stable")

    def __init__(self) -> None:
        self.stable = Counts()
        self.canary = Counts()


class LogRecording:
    """A recording in an access log; ``route`` chooses one of several in it, ``version`` one of its trials."""

    metrics = frozenset((*NAMES, "latency"))

    def __init__(self, path: Path, route: str | None = None, version: int | None = None) -> None:
        self._path = path
        self._route = route
        self._version = version
        self._notes = Notes()
        self._decode = msgspec.json.Decoder(_LogLine).decode

    @functools.cached_property
    def _trials(self) -> list[_Version]:
        """The trials in the log, in their order. Raises RecordingError."""
        found: list[_Version] = []
        for number, line, at_s in self._counted(Notes()):
            index = _version_of(found, line, number, at_s)
            found[index].requests += 1
            found[index].unweighted += line.weight_percent is None
        return found

    @property
    def weighted(self) -> bool:
        """Whether its lines have the weights that were set."""
        chosen = self._trials if self._version is None else [self._trials[self._version]]
        return not any(trial.unweighted for trial in chosen)

    @property
    def title(self) -> str:
        """Which versions it compares, where its lines say so."""
        trials = self._trials
        return trials[self._version or 0].title if len(trials) == 1 or self._version is not None else ""

    @property
    def notes(self) -> tuple[str, ...]:
        """What the last reading skipped or adjusted."""
        return self._notes.said

    def versions(self) -> list[LogRecording]:
        """A recording for each trial of a version, in their order."""
        trials = self._trials
        if not trials:
            self._nothing()
        return [LogRecording(self._path, self._route, index) for index in range(len(trials))]

    def intervals(self) -> Iterator[RecordedInterval]:
        """The intervals, with times rising strictly, from 0 at the first. Raises RecordingError."""
        self._notes = Notes()
        return inferred(lambda counts: self._read(self._notes if counts else Notes()))

    def _read(self, notes: Notes) -> Iterator[RecordedInterval]:
        open_slots: dict[int, dict[int, _IntervalCounts]] = {}
        late = round(LATE_S / INTERVAL_S)
        # The tick that is time 0: the oldest of those that are known when the first is closed.
        first: int | None = None
        newest = -(1 << 60)
        trials: list[_Version] = []
        for number, line, at_s in self._counted(notes):
            if self._version not in (None, _version_of(trials, line, number, at_s)):
                continue
            tick = math.floor(at_s / INTERVAL_S)
            if tick > newest:
                newest = tick
                due = newest - late - 1
                for ready in sorted(one for one in open_slots if one <= due):
                    first = ready if first is None else first
                    yield from _closed(ready - first, open_slots.pop(ready))
            weight_bp = self._weight_bp(number, line)
            _enter(open_slots.setdefault(tick, {}).setdefault(weight_bp, _IntervalCounts()), line)
        if not open_slots:
            self._nothing()
        for ready in sorted(open_slots):
            first = ready if first is None else first
            yield from _closed(ready - first, open_slots[ready])

    def _nothing(self) -> NoReturn:
        of = "" if self._route is None else f" of route {show(self._route)}"
        self._fail(None, "", f"no line{of} is evidence", "log a route with a canary, and every request of it")

    def _counted(self, notes: Notes) -> Iterator[tuple[int, _LogLine, float]]:
        """Line number, line and time of each that is evidence."""
        route = self._route
        clock = _Clock(notes)
        for number, line in self._lines(notes):
            read_s = self._time(number, line.ts)
            if line.counted is None or not line.sampled:
                continue
            if line.route is None or line.assigned not in ("stable", "canary"):
                column = "route" if line.route is None else "assigned"
                self._fail(number, column, f"{show(getattr(line, column))} in a line that was counted", _HINT)
            if line.counted not in KINDS:
                self._fail(number, "counted", f"{show(line.counted)} is not an outcome class", _HINT)
            if route is None:
                route = line.route
            if line.route != route:
                if self._route is not None:
                    continue
                problem = f"the log holds the routes {show(route)} and {show(line.route)}"
                self._fail(number, "route", problem, "choose one with --route")
            if line.stable and not line.canary:
                notes.add("requests at a time without a canary, left out", number)
                continue
            at_s = clock.at_s(number, read_s)
            if at_s is None:
                problem = f"{show(line.ts)} is more than {CLOCK_BACK_S_MAX:g} s before a line above it"
                self._fail(number, "ts", problem, "sort the lines by ts")
            yield number, line, at_s

    def _lines(self, notes: Notes) -> Iterator[tuple[int, _LogLine]]:
        whole = 0
        try:
            for number, data, torn, too_long in lines(self._path, notes):
                if number == 1:
                    data = data.removeprefix(b"\xef\xbb\xbf")  # noqa: PLW2901  # the file's mark, not the line's
                if not data.strip():
                    continue
                try:
                    if too_long:
                        self._fail(number, "", f"this line is longer than {LINE_BYTES_MAX} bytes", "is it a log?")
                    line = self._line(number, data)
                except RecordingError as error:
                    # A log may be torn at its end; a file that is not a log is malformed from the start.
                    broken = notes.count(_TORN) + notes.count(_BROKEN)
                    if not whole or broken > _BROKEN_MIN + _BROKEN_SHARE * whole:
                        raise
                    notes.add(_TORN if torn else _BROKEN, number, error.problem[:_SHOWN])
                    continue
                whole += 1
                yield number, line
        except OSError as error:
            why = f"cannot be read: {error.strerror}"
            raise RecordingError(str(self._path), None, "", why, "give a file this user may read") from None

    def _line(self, number: int, data: bytes) -> _LogLine:
        try:
            return self._decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            self._fail(number, "", f"this line is not one of an access log: {error}", _HINT)

    def _time(self, number: int, text: str) -> float:
        try:
            moment = datetime.fromisoformat(text)
            at_s = moment.timestamp() if moment.tzinfo is not None else math.nan
        except (ValueError, OverflowError):
            at_s = math.nan
        if not math.isfinite(at_s):
            self._fail(
                number, "ts", f"{show(text)} is not a time with a time zone", "write one as 2026-01-31T12:00:00.000Z"
            )
        return at_s

    def _weight_bp(self, number: int, line: _LogLine) -> int:
        weight_bp = UNKNOWN_BP
        try:
            if line.weight_percent is not None:
                weight_bp = weight_bp_from_percent(line.weight_percent)
        except InvalidValueError:
            problem = f"{show(line.weight_percent)} is not a canary share"
            self._fail(number, "weight_percent", problem, "write a percentage from 0 to 100 in steps of 0.01")
        latency_ms = line.counted_ms
        if latency_ms is None and line.counted == ABANDONED:  # the client left after the first byte
            return weight_bp
        if latency_ms is None or not 0 <= latency_ms <= _MILLISECONDS_MAX:
            self._fail(number, "counted_ms", f"{show(latency_ms)} is not a latency", "write milliseconds from 0 up")
        return weight_bp

    def _fail(self, line: int | None, column: str, problem: str, hint: str) -> NoReturn:
        raise RecordingError(str(self._path), line, column, problem, hint)


def _version_of(trials: list[_Version], line: _LogLine, number: int, at_s: float) -> int:
    """The index of the line's trial, a new one where it is of none that goes on.

    Lines of several workers mix where one trial follows another; a version that comes back after that is tried anew.
    """
    stable, canary = line.stable or "", line.canary or ""
    newest_s = max((trial.last_s for trial in trials), default=at_s)
    for index in range(len(trials) - 1, -1, -1):
        trial = trials[index]
        if (trial.stable, trial.canary) != (stable, canary):
            continue
        if trial is trials[-1] or newest_s - trial.last_s <= LATE_S:
            trial.last_s = max(trial.last_s, at_s)
            return index
        break
    trials.append(_Version(stable, canary, number, at_s))
    return len(trials) - 1


def _enter(slot: _IntervalCounts, line: _LogLine) -> None:
    counts = slot.canary if line.assigned == "canary" else slot.stable
    counts.requests += 1
    assert line.counted is not None  # `_counted` has looked
    if line.counted != OK:
        counts.enter(line.counted)
    if line.counted_ms is None:
        return
    bucket = bucket_of(round(line.counted_ms * 1000))
    histogram = counts.aborted if line.counted_left else counts.latency
    histogram[bucket] = histogram.get(bucket, 0) + 1


def _closed(tick: int, slots: dict[int, _IntervalCounts]) -> Iterator[RecordedInterval]:
    """The intervals of one tick: one for each weight, next to each other in time."""
    step_s = INTERVAL_S / len(slots)
    since_s = tick * INTERVAL_S
    for i, (weight_bp, slot) in enumerate(slots.items(), 1):
        at_s = (tick + 1) * INTERVAL_S if i == len(slots) else since_s + step_s
        yield RecordedInterval(since_s, at_s, weight_bp, slot.stable, slot.canary)
        since_s = at_s
