"""What a recording is to those who read it, and the error for one that cannot be read.

Rules:

1. A recording can be read again and again from its beginning (each rule reads it for itself), and no reader holds more
   of it than a few intervals.
2. An error names file, line, column, what is wrong and how to fix it. The first one ends the reading. What an
   interrupted or untidy recording has by itself (a torn end, a clock set back) is read all the same, and ``notes``
   says what was skipped or adjusted.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from gateway.config.errors import one_line
from gateway.core.errors import GatewayError
from gateway.replay.intervals import RecordedInterval


class RecordingError(GatewayError):
    """A recording that cannot be read: where (``line`` from 1, ``column`` by name), what, and how to fix it."""

    def __init__(self, file: str, line: int | None, column: str, problem: str, hint: str) -> None:
        self.file, self.line, self.column, self.problem, self.hint = file, line, column, problem, hint
        where = file if line is None else f"{file}:{line}"
        place = f"{where}: {column}" if column else where
        super().__init__(one_line(f"{place}: {problem}; {hint}"))


class Recording(Protocol):
    """Recorded traffic.

    ``metrics`` are those of the judge that it holds; ``weighted`` says whether the weights were recorded or are each
    interval's own share of requests.
    """

    @property
    def metrics(self) -> frozenset[str]:
        """Of the classes of outcomes and ``latency``: those that were recorded."""

    @property
    def weighted(self) -> bool:
        """Whether weights were recorded."""

    @property
    def title(self) -> str:
        """Which versions it compares, where it says so."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What the last whole reading skipped or adjusted."""

    def intervals(self) -> Iterator[RecordedInterval]:
        """The intervals from the beginning, times rising strictly. Raises RecordingError."""

    def versions(self) -> Sequence[Recording]:
        """The same for each version that was tried, in order; only itself where there is one. Raises RecordingError."""
