"""One route's windows of data: rows in, windows out to a validator, its verdicts in, events out. No I/O.

Rules:

1. A window has rows of one version and one epoch, so a verdict on it counts under the weight that assigned its
   requests. Windows of both versions are equally large: they are judged by the same yardstick.
2. A window is one trial of `DATA_WINDOWS`; each of its rows one of `DATA_ROWS`, where the validator says how many rows
   are at fault. What nobody has judged (lost, timed out) is no trial of either version.
3. At most `WAITING_MAX` windows wait for the validator. Beyond that new ones of the version that has more of them
   waiting are dropped, whatever is in them, so a busy validator still sees both.
4. Results are kept until control has confirmed the report that had them, at most `FRESH_MAX`.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

import msgspec

from gateway.core.predictions.settings import DATA_ROWS, DATA_WINDOWS, DataSettings
from gateway.core.types import Variant
from gateway.inspector.flattening import Row, flattened
from gateway.runtime.samples import DataChecked, Sample, Validated

WAITING_MAX = 16
FRESH_MAX = 20
RESULT_CHARS_MAX = 64 * 1024
_FAILURES_MAX = 20
_FAILURE_CHARS_MAX = 300


class DataWindow(NamedTuple):
    """Rows of one version and one epoch. ``of`` is one of the samples, which says where they count."""

    number: int
    of: Sample
    rows: list[Row]


class DataVerdict(msgspec.Struct, frozen=True):
    """A validator's line. ``failed_rows``: how many rows are at fault, where that is known; ``result`` is any JSON."""

    success: bool
    failed_rows: int | None = None
    failures: tuple[str, ...] = ()
    result: msgspec.Raw = msgspec.Raw(b"null")


class DataChecks:
    """The windows of one route."""

    def __init__(self, settings: DataSettings) -> None:
        self.settings = settings
        self.found = DataChecked()
        self._waiting: deque[DataWindow] = deque()
        self._open: dict[int, tuple[Sample, list[Row]]] = {}
        self._under_way: DataWindow | None = None
        self._number = 0
        self._reported: dict[int, int] = {}
        # What failed in the newest window of the canary that failed; of stable before there is one.
        self._failures: dict[int, str] = {}

    def take(self, sample: Sample, body: bytes) -> None:
        """An answer, whose coding is undone, with its request."""
        if sample.request is None:
            self._lose("without_request", 1)
            return
        first, rows = self._open.get(sample.variant, (sample, []))
        if first.epoch != sample.epoch:
            first, rows = sample, []
        rows.append(flattened("request", sample.request) | flattened("response", body))
        self._open[sample.variant] = first, rows
        if len(rows) >= self.settings.window_rows:
            del self._open[sample.variant]
            self._queue(first, rows)

    def _queue(self, first: Sample, rows: list[Row]) -> None:
        ours = sum(window.of.variant == first.variant for window in self._waiting)
        if len(self._waiting) >= WAITING_MAX and 2 * ours >= len(self._waiting):
            self._lose("busy", 1)
            return
        self._number += 1
        self._waiting.append(DataWindow(self._number, first, rows))

    def next(self) -> DataWindow | None:
        """The next window to be judged; it is under way until `judged` or `lost`."""
        self._under_way = self._waiting.popleft() if self._waiting else None
        return self._under_way

    def judged(self, window: DataWindow, verdict: DataVerdict) -> list[tuple[str, bool]]:
        """A verdict has come: the events, and whether they happened."""
        self._under_way = None
        found, variant = self.found, window.of.variant
        found.problem = ""
        found.judged = _plus(found.judged, variant)
        if not verdict.success:
            found.failed = _plus(found.failed, variant)
        failures = tuple(text[:_FAILURE_CHARS_MAX] for text in verdict.failures[:_FAILURES_MAX])
        if failures:
            self._failures[variant] = "; ".join(failures[:2])
        result = bytes(verdict.result).decode("utf-8", "replace")
        result = result if len(result) <= RESULT_CHARS_MAX else "null"
        one = Validated(window.number, window.of.epoch, variant, verdict.success, failures, result)
        found.fresh = [*found.fresh, one][-FRESH_MAX:]
        labels = [(DATA_WINDOWS, not verdict.success)]
        if verdict.failed_rows is not None:
            failed = max(0, min(verdict.failed_rows, len(window.rows)))
            labels += [(DATA_ROWS, index < failed) for index in range(len(window.rows))]
        return labels

    @property
    def meaning(self) -> str:
        """What fails: of the canary, where anything does."""
        return self._failures.get(Variant.CANARY, "") or self._failures.get(Variant.STABLE, "")

    def lost(self, reason: str, problem: str) -> None:
        """The window under way was not judged."""
        self._under_way = None
        self._lose(reason, 1)
        self.found.problem = problem

    def awaits(self, epoch: int) -> bool:
        """Whether a window of this epoch may still be judged."""
        waiting = self._waiting if self._under_way is None else (*self._waiting, self._under_way)
        return any(window.of.epoch == epoch for window in waiting)

    def reported(self, seq: int) -> None:
        """The report of this number has all fresh results."""
        for one in self.found.fresh:
            self._reported.setdefault(one.number, seq)

    def confirm(self, seq: int) -> None:
        """Control has that report."""
        self.found.fresh = [one for one in self.found.fresh if self._reported.get(one.number, seq + 1) > seq]
        self._reported = {
            one.number: self._reported[one.number] for one in self.found.fresh if one.number in self._reported
        }

    def _lose(self, reason: str, count: int) -> None:
        self.found.lost[reason] = self.found.lost.get(reason, 0) + count


def _plus(counts: tuple[int, int], variant: int) -> tuple[int, int]:
    return (counts[0], counts[1] + 1) if variant == Variant.CANARY else (counts[0] + 1, counts[1])
