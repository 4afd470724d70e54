"""Marks that change with a file, without reading it: compared once a second by what reloads files."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

Marks = tuple[tuple[int, int, int] | None, ...]


def marks_of(files: Iterable[str | Path]) -> Marks:
    """Time of change (ns), size and inode of each; None for one that is not there."""
    return tuple(_mark(Path(file)) for file in files)


def _mark(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino
