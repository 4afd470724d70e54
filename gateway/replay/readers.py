"""From a file to a recording. One reader for each format; all of them give the same intervals.

Rules:

1. A recording can be read again and again from its beginning (each rule reads it for itself), and no reader holds more
   of it than a few intervals.
2. A mistake names file, line, column, what is wrong and how to mend it. The first one ends the reading. What an
   interrupted or clumsy recording has by itself (a torn end, a clock set back) is read all the same, and ``notes``
   says what was skipped or adjusted.
3. There are two formats, told apart by their first character: counts per interval as CSV (csv_reader.py), and the
   gateway's own access log, JSON lines (log_reader.py). To add one: a class with the face of `Recording`, and a line in
   `open_recording`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

from gateway.config.errors import one_line
from gateway.core.errors import GatewayError
from gateway.replay.interval import Interval
from gateway.replay.lines import beginning, is_unknown_archive


class RecordingError(GatewayError):
    """A recording that cannot be read: where (``line`` from 1, ``column`` by name), what, and how to mend it."""

    def __init__(self, file: str, line: int | None, column: str, problem: str, mend: str) -> None:
        self.file, self.line, self.column, self.problem, self.mend = file, line, column, problem, mend
        where = file if line is None else f"{file}:{line}"
        place = f"{where}: {column}" if column else where
        super().__init__(one_line(f"{place}: {problem}; {mend}"))


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

    def intervals(self) -> Iterator[Interval]:
        """The intervals from the beginning, times rising strictly. Raises RecordingError."""

    def versions(self) -> Sequence[Recording]:
        """The same for each version that was tried, in order; only itself where there is one. Raises RecordingError."""


def open_recording(path: Path, route: str | None = None) -> Recording:
    """The recording in the file at ``path``; ``route`` chooses one of an access log's. Raises RecordingError."""
    from gateway.replay.csv_reader import CsvRecording  # noqa: PLC0415  # it needs RecordingError from here
    from gateway.replay.log_reader import LogRecording  # noqa: PLC0415  # as above

    try:
        if path.exists() and not path.is_file():
            problem = "this is not a regular file, and a recording is read more than once"
            raise RecordingError(str(path), None, "", problem, "save the recording to a file first")
        start = beginning(path, 64)
    except FileNotFoundError:
        raise RecordingError(str(path), None, "", "there is no such file", "give the path of a recording") from None
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise RecordingError(str(path), None, "", f"cannot be read: {why}", "give a file this user may read") from None
    if other := is_unknown_archive(start):
        raise RecordingError(str(path), None, "", f"this is a {other} file", "unpack it first, or use gzip")
    if start.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{"):
        return LogRecording(path, route)
    return CsvRecording(path)
