"""The lines of a recording, plain or compressed with gzip, and what is said of those that could not be used.

Rules:

1. A line is never longer in memory than `LINE_BYTES_MAX`: of a longer one the rest is passed over.
2. A file that ends within a line, or a gzip that ends early, was torn: what came before counts.
3. Whatever is skipped or adjusted is counted by its reason, with the place of the first one (`Notes`).
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from gateway.config.errors import show

LINE_BYTES_MAX = 1 << 20
GZIP = b"\x1f\x8b"
_ZSTD, _ZIP = b"\x28\xb5\x2f\xfd", b"PK\x03\x04"


class RecordedLine(NamedTuple):
    """One line. ``torn``: the file ends without a newline; ``too_long``: ``data`` is only its beginning."""

    number: int
    data: bytes
    torn: bool = False
    too_long: bool = False


class Notes:
    """What was skipped or adjusted while reading: how often, and where first."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._first: dict[str, str] = {}

    def add(self, what: str, line: int, example: str = "") -> None:
        """One more; ``what`` is said with the number before it."""
        self._counts[what] = self._counts.get(what, 0) + 1
        if what not in self._first:
            self._first[what] = f"line {line}" + (f", {show(example)}" if example else "")

    def count(self, what: str) -> int:
        """How many there were."""
        return self._counts.get(what, 0)

    @property
    def said(self) -> tuple[str, ...]:
        """A sentence for each reason."""
        return tuple(f"{n:,} {what}, first at {self._first[what]}" for what, n in self._counts.items())


def is_unknown_archive(start: bytes) -> str:
    """The name of a compression that is not read here, "" for none."""
    return "zstd" if start.startswith(_ZSTD) else "zip" if start.startswith(_ZIP) else ""


def beginning(path: Path, size: int) -> bytes:
    """The first bytes, unpacked. Raises OSError."""
    with _open(path) as file:
        try:
            return file.read(size)
        except (EOFError, zlib.error, gzip.BadGzipFile):
            return b""


def lines(path: Path, notes: Notes) -> Iterator[RecordedLine]:
    """All lines, each with its number from 1. Raises OSError."""
    number = 0
    with _open(path) as file:
        while True:
            try:
                data = file.readline(LINE_BYTES_MAX + 1)
                too_long = len(data) > LINE_BYTES_MAX
                if too_long:
                    _pass_over(file)
            except (EOFError, zlib.error, gzip.BadGzipFile):
                notes.add("gzip stream broken or truncated: the rest was not read", number + 1)
                return
            if not data:
                return
            number += 1
            yield RecordedLine(number, data, torn=not data.endswith(b"\n") and not too_long, too_long=too_long)


def _pass_over(file: BinaryIO) -> None:
    while (rest := file.readline(LINE_BYTES_MAX)) and not rest.endswith(b"\n"):
        pass


def _open(path: Path) -> BinaryIO:
    file = path.open("rb")
    start = file.read(len(GZIP))
    file.seek(0)
    if start != GZIP:
        return file
    file.close()
    return gzip.open(path, "rb")  # type: ignore[return-value]  # it reads as a file does
