"""Counts per interval as CSV: two rows, one for each arm, with the same time.

Rules:

1. UTF-8 (a byte order mark is fine), a header line, columns in any order, blank lines ignored, CRLF or LF. Cells are
   separated by commas, or by semicolons or tabs where the header has those and no comma. Names of columns and variants
   may have capitals.
2. `at_s,variant,requests,errors` are required; the other classes of outcomes (`client_errors`, `not_found`, ...),
   `weight_percent` and `latency_ms` may follow. An unknown column is an error: it might be a misspelt one.
   A header that comes again (files put together) is skipped.
3. `at_s` is a number of seconds, or a time of day with its date (RFC 3339). Counts are whole numbers (``500.0`` is one)
   of the interval alone, not running totals; all classes together are at most `requests`.
4. `latency_ms` is a histogram, `ms:count;ms:count`, with at most `requests` entries; an empty cell stands for none.
5. `weight_percent` is the canary's share that the router was set to, the same in both rows. Without the column it is
   inferred from the shares of requests (weights.py).
6. A last line that is torn, and a last interval of one row alone, are skipped. Where time steps back (a clock that was
   set), it goes on from where it was, an interval later.
"""

from __future__ import annotations

import csv
import datetime as dt
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, NoReturn

from gateway.config.errors import show
from gateway.core.errors import InvalidValueError
from gateway.core.stats.counts import Counts
from gateway.core.stats.histogram import bucket_of
from gateway.core.stats.outcomes import NAMES
from gateway.core.types import weight_bp_from_percent
from gateway.replay.intervals import RecordedInterval
from gateway.replay.lines import LINE_BYTES_MAX, Notes, lines
from gateway.replay.recording import RecordingError
from gateway.replay.weights import UNKNOWN_BP, inferred

REQUIRED = ("at_s", "variant", "requests", "errors")
OPTIONAL = (*(name for name in NAMES if name not in REQUIRED), "weight_percent", "latency_ms")
VARIANTS = ("stable", "canary")
COUNT_MAX = 10**12
_COUNT_DIGITS_MAX = len(str(COUNT_MAX))
_NUMBER_MAX = 1e15
# As programs write a whole number that they hold as a float.
_WHOLE = re.compile(r"[0-9]+\.0*")
# A clock that was set goes back by less; more is another order of rows.
CLOCK_BACK_S_MAX = 3600.0
_SEPARATORS = (";", "\t")
_DATED = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}[T ]")
_HEADER = f"begin the file with a header such as {','.join(REQUIRED)}"


class _Row(NamedTuple):
    line: int
    at_s: float
    variant: str
    weight_bp: int | None
    counts: Counts


class CsvRecording:
    """A recording in a CSV file; its header is read at once, its rows whenever they are asked for."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._notes = Notes()
        self._separator = ""
        try:
            self._header_line, cells, _ = next(self._lines(Notes()))
        except StopIteration:
            self._fail(1, "", "the file is empty", _HEADER)
        self._columns = self._header(_names(cells))

    @property
    def metrics(self) -> frozenset[str]:
        """The judge's metrics that have a column."""
        found = self._columns.keys() & set(NAMES)
        return frozenset(found | ({"latency"} if "latency_ms" in self._columns else set()))

    @property
    def weighted(self) -> bool:
        """Whether there is a column ``weight_percent``."""
        return "weight_percent" in self._columns

    @property
    def title(self) -> str:
        """Counts do not say whose they are."""
        return ""

    @property
    def notes(self) -> tuple[str, ...]:
        """What the last reading skipped or adjusted."""
        return self._notes.said

    def versions(self) -> list[CsvRecording]:
        """Itself: counts do not distinguish versions."""
        return [self]

    def intervals(self) -> Iterator[RecordedInterval]:
        """The intervals, with times rising strictly. Raises RecordingError."""
        self._notes = Notes()
        return inferred(lambda counts: self._read(self._notes if counts else Notes()))

    def _read(self, notes: Notes) -> Iterator[RecordedInterval]:
        first: RecordedInterval | None = None
        count, since_s = 0, 0.0
        for stable, canary in self._pairs(notes):
            interval = RecordedInterval(
                since_s, stable.at_s, self._weight_bp(stable, canary), stable.counts, canary.counts
            )
            count, since_s = count + 1, interval.at_s
            if count == 1:
                first = interval  # until the second one shows how long an interval is
                continue
            if first is not None:
                began_s = first.at_s - (interval.at_s - first.at_s)
                yield RecordedInterval(began_s, first.at_s, first.weight_bp, first.stable, first.canary)
                first = None
            yield interval
        if first is not None:
            yield RecordedInterval(first.at_s, first.at_s, first.weight_bp, first.stable, first.canary)
        if not count:
            self._fail(self._header_line, "", "nothing follows the header", "add two rows for each interval")

    # lines

    def _lines(self, notes: Notes) -> Iterator[tuple[int, list[str], bool]]:
        """Line number and cells of every line that is not blank, and whether it may be torn."""
        try:
            for line in lines(self._path, notes):
                if line.too_long:
                    problem = f"this line is longer than {LINE_BYTES_MAX} bytes"
                    self._fail(line.number, "", problem, "is this the right file?")
                if cells := self._cells(line.number, line.data):
                    yield line.number, cells, line.torn
        except OSError as error:
            raise RecordingError(
                str(self._path), None, "", f"cannot be read: {error.strerror}", "give a file this user may read"
            ) from None

    def _cells(self, number: int, data: bytes) -> list[str]:
        try:
            text = data.decode("utf-8")
        except UnicodeDecodeError:
            self._fail(number, "", "this line is not UTF-8 text", "save the file as UTF-8")
        text = (text.removeprefix("\ufeff") if number == 1 else text).strip()
        if text and not self._separator:  # this is the header
            self._separator = "," if "," in text else next((one for one in _SEPARATORS if one in text), ",")
        if '"' not in text:
            return text.split(self._separator) if text else []
        try:
            return next(csv.reader([text], strict=True, delimiter=self._separator))
        except csv.Error as error:
            self._fail(number, "", f"this line is not CSV: {error}", "no cell of a recording needs quotes")

    def _header(self, names: list[str]) -> dict[str, int]:
        line = self._header_line
        known = REQUIRED + OPTIONAL
        for index, name in enumerate(names):
            if name not in known:
                if not set(names) & set(REQUIRED):
                    self._fail(line, "", f"invalid header: {show(','.join(names))}", _HEADER)
                self._fail(line, show(name), "unknown column", f"the columns are {', '.join(known)}")
            if name in names[:index]:
                self._fail(line, name, "this column occurs twice", "remove one of them")
        for name in REQUIRED:
            if name not in names:
                self._fail(line, name, "this column is missing", _HEADER)
        return {name: index for index, name in enumerate(names)}

    # rows

    def _pairs(self, notes: Notes) -> Iterator[tuple[_Row, _Row]]:
        """The rows of each interval as (stable, canary)."""
        last_s = step_s = -math.inf
        shift_s = 0.0
        pairs = 0
        waiting: _Row | None = None
        for read in self._rows(notes):
            row = read._replace(at_s=read.at_s + shift_s) if shift_s else read
            if waiting is None:
                back_s = last_s - row.at_s
                if pairs > 1 and back_s > 0.0 and back_s + step_s <= CLOCK_BACK_S_MAX:
                    notes.add(f"step of the clock back, by {back_s + step_s:g} s: later times were shifted", row.line)
                    shift_s += back_s + step_s
                    row = row._replace(at_s=read.at_s + shift_s)
                if row.at_s <= last_s:
                    self._out_of_order(row, last_s)
                waiting = row
                continue
            if row.at_s != waiting.at_s:
                if row.at_s < waiting.at_s:
                    self._out_of_order(row, waiting.at_s)
                self._missing(waiting)
            if row.variant == waiting.variant:
                problem = f"the interval {row.at_s:g} has two rows of {row.variant}"
                self._fail(row.line, "variant", problem, "give one row of stable and one of canary")
            step_s = row.at_s - last_s
            last_s = row.at_s
            pairs += 1
            yield (waiting, row) if waiting.variant == "stable" else (row, waiting)
            waiting = None
        if waiting is not None:
            if not pairs:
                self._missing(waiting)
            notes.add("last interval with only one row, skipped", waiting.line)

    def _missing(self, row: _Row) -> NoReturn:
        other = "canary" if row.variant == "stable" else "stable"
        problem = f"the interval {row.at_s:g} has no row of {other}"
        self._fail(
            row.line, "variant", problem, "put both rows next to each other, with 0 requests where there were none"
        )

    def _out_of_order(self, row: _Row, last_s: float) -> NoReturn:
        if row.at_s == last_s:
            problem, hint = f"the interval {row.at_s:g} has a third row", "give one row of stable and one of canary"
        else:
            problem, hint = f"time goes backwards, from {last_s:.10g} to {row.at_s:.10g}", "sort the rows by at_s"
        self._fail(row.line, "at_s", problem, hint)

    def _rows(self, notes: Notes) -> Iterator[_Row]:
        found = self._lines(notes)
        next(found, None)
        rows = 0
        for line, cells, torn in found:
            if self._is_header(cells):
                notes.add("repeated header, skipped", line)
                continue
            try:
                if len(cells) != len(self._columns):
                    problem = f"{len(cells)} cells under {len(self._columns)} columns"
                    self._fail(line, "", problem, "give every column a cell, separated as the header is")
                row = self._row(line, cells)
            except RecordingError:
                if not torn or not rows:
                    raise
                notes.add("incomplete last line, skipped", line, ",".join(cells))
                return
            rows += 1
            yield row

    def _is_header(self, cells: list[str]) -> bool:
        return _names(cells) == list(self._columns)

    def _row(self, line: int, cells: list[str]) -> _Row:
        cell = {name: cells[index].strip() for name, index in self._columns.items()}
        variant = cell["variant"].lower()
        if variant not in VARIANTS:
            self._fail(line, "variant", f"{show(cell['variant'])} is not a variant", "write stable or canary")
        counts = Counts(
            self._count(line, "requests", cell["requests"]),
            {name: events for name in NAMES if name in cell and (events := self._count(line, name, cell[name]))},
            self._histogram(line, cell.get("latency_ms", "")),
        )
        classed = 0
        for name, events in counts.outcomes.items():
            classed += events
            if classed > counts.requests:
                whole = "" if events == classed else f", {classed} with the classes before it,"
                problem = f"{events}{whole} of {counts.requests} requests"
                self._fail(line, name, problem, "count each request once, in one class, and among the requests")
        entries = sum(counts.latency.values())
        if entries > counts.requests:
            problem = f"the histogram holds {entries} of {counts.requests} requests"
            self._fail(line, "latency_ms", problem, "give each request one entry at most")
        weight = cell.get("weight_percent")
        weight_bp = None if weight is None else self._percent(line, weight)
        return _Row(line, self._time(line, cell["at_s"]), variant, weight_bp, counts)

    # cells

    def _time(self, line: int, text: str) -> float:
        if not _DATED.match(text):
            return self._number(line, "at_s", text)
        try:
            at = dt.datetime.fromisoformat(text)
        except ValueError:
            self._fail(line, "at_s", f"{show(text)} is not a time", "write seconds, or a time as 2026-01-31T12:00:00Z")
        return (at if at.tzinfo else at.replace(tzinfo=dt.UTC)).timestamp()

    def _number(self, line: int, column: str, text: str) -> float:
        try:
            value = math.nan if "_" in text else float(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            self._fail(line, column, f"{show(text)} is not a finite number", "write a number such as 12.5")
        if abs(value) > _NUMBER_MAX:
            self._fail(
                line, column, f"{show(text)} is beyond {_NUMBER_MAX:g}", "write seconds, milliseconds or percent"
            )
        return value

    def _count(self, line: int, column: str, text: str) -> int:
        if _WHOLE.fullmatch(text):
            text = text.partition(".")[0]
        if not (text.isascii() and text.isdigit()):
            self._fail(line, column, f"{show(text)} is not a count", "write a whole number from 0 up")
        if len(text) > _COUNT_DIGITS_MAX or int(text) > COUNT_MAX:
            self._fail(line, column, f"{show(text)} is over {COUNT_MAX}", "count one interval, not all time")
        return int(text)

    def _percent(self, line: int, text: str) -> int:
        value = self._number(line, "weight_percent", text)
        try:
            return weight_bp_from_percent(value)
        except InvalidValueError:
            problem = f"{show(text)} is not a canary share"
            self._fail(line, "weight_percent", problem, "write a percentage from 0 to 100 in steps of 0.01")

    def _histogram(self, line: int, text: str) -> dict[int, int]:
        histogram: dict[int, int] = {}
        for pair in text.split(";") if text else ():
            ms, colon, count = pair.partition(":")
            if not colon:
                self._fail(line, "latency_ms", f"{show(pair)} is not ms:count", "write pairs such as 12.5:3;40:1")
            value = self._number(line, "latency_ms", ms.strip())
            if value < 0:
                self._fail(line, "latency_ms", f"{show(ms)} is not a latency", "write milliseconds from 0 up")
            bucket = bucket_of(round(value * 1000))
            histogram[bucket] = histogram.get(bucket, 0) + self._count(line, "latency_ms", count.strip())
        return {bucket: many for bucket, many in histogram.items() if many}

    def _weight_bp(self, stable: _Row, canary: _Row) -> int:
        if stable.weight_bp is not None and canary.weight_bp is not None:
            if stable.weight_bp != canary.weight_bp:
                line = max(stable.line, canary.line)
                problem = f"the interval's rows differ: {stable.weight_bp / 100:g} and {canary.weight_bp / 100:g}"
                self._fail(line, "weight_percent", problem, "give the canary's share in both rows")
            return stable.weight_bp
        return UNKNOWN_BP

    def _fail(self, line: int, column: str, problem: str, hint: str) -> NoReturn:
        raise RecordingError(str(self._path), line, column, problem, hint)


def _names(cells: list[str]) -> list[str]:
    return [cell.strip().lower() for cell in cells]
