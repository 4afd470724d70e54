"""The audit trail: who did what, and who was refused, as JSON lines in the state directory and in memory.

Rules:

1. Every wish leaves an entry, also a refused one; so does everything that is refused for want of the right credentials.
2. Entries are numbered without gaps, across restarts, and never changed. The file that is full is set aside, and the
   oldest that was set aside goes: ``audit.jsonl``, ``audit.1.jsonl``, ... hold `FILES * FILE_BYTES_MAX` bytes at most.
3. Nobody waits for the disk. A disk that does not keep up costs lines in the file, and the file says how many.
4. Strangers cannot write the trail full: of requests with wrong credentials so many a minute are kept, the others are
   counted in the next one's ``suppressed``.
"""

from __future__ import annotations

import errno
import json
import logging
import os
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import msgspec

from gateway.runtime.clock import Clock, iso
from gateway.runtime.disk_thread import DiskThread

_log = logging.getLogger("gateway.admin")
REMEMBERED = 1000
FILE_BYTES_MAX = 8 << 20
FILES = 4
_PENDING_MAX = 1000
_STRANGERS_PER_MINUTE = 60


class AuditEntry(msgspec.Struct, frozen=True):
    """One request: who (``principal`` was proven, ``actor`` is said), from where, what, and what became of it.

    ``problem`` is the name of the problem it was answered with. ``said`` is what the wish was, in short.
    """

    id: int
    at: str
    principal: str
    actor: str
    address: str
    method: str
    path: str
    status: int
    problem: str | None = None
    said: str = ""
    suppressed: int = 0


class AuditTrail:
    """The trail of one gateway. Without a path it is kept in memory alone."""

    def __init__(self, clock: Clock, path: Path | None = None) -> None:
        self._clock = clock
        self._path = path
        self._entries: deque[AuditEntry] = deque(_remembered(path), maxlen=REMEMBERED)
        self._last_id = self._entries[-1].id if self._entries else 0
        self._disk: DiskThread | None = None
        # How many entries wait for the disk, and how many it never got.
        self.pending = 0
        self.dropped = 0
        self._strangers: deque[float] = deque(maxlen=_STRANGERS_PER_MINUTE)
        self._suppressed = 0

    def add(self, entry: AuditEntry, *, stranger: bool = False) -> None:
        """Keep an entry; its id and time are given here. ``stranger``: it had the wrong credentials."""
        if stranger and not self._let_in():
            self._suppressed += 1
            return
        self._last_id += 1
        suppressed, self._suppressed = self._suppressed, 0
        kept = msgspec.structs.replace(entry, id=self._last_id, at=iso(self._clock.wall_s()), suppressed=suppressed)
        self._entries.append(kept)
        if self._path is not None:
            self._write(self._path, kept)

    def page(self, limit: int, before: int | None) -> list[AuditEntry]:
        """The remembered entries, newest first, from the one before ``before`` on."""
        found = (entry for entry in reversed(self._entries) if before is None or entry.id < before)
        return [entry for entry, _ in zip(found, range(limit), strict=False)]

    def _let_in(self) -> bool:
        now_s = self._clock.monotonic_s()
        if len(self._strangers) == _STRANGERS_PER_MINUTE and now_s - self._strangers[0] < 60.0:
            return False
        self._strangers.append(now_s)
        return True

    def _write(self, path: Path, entry: AuditEntry) -> None:
        if self.pending >= _PENDING_MAX:
            self.dropped += 1
            return
        self._disk = self._disk or DiskThread()
        self.pending += 1
        line = msgspec.json.encode(entry) + b"\n"
        self._disk.do(lambda: _append(path, line)).add_done_callback(lambda future: self._written(future.exception()))

    def _written(self, error: BaseException | None) -> None:
        self.pending -= 1
        if error is not None:
            self.dropped += 1
            if self.dropped == 1:
                _log.error("the audit trail cannot be written to %s: %s; it is kept in memory", self._path, error)


def _append(path: Path, line: bytes) -> None:
    """On the disk's thread."""
    if path.exists() and path.stat().st_size + len(line) > FILE_BYTES_MAX:
        for number in range(FILES - 1, 0, -1):
            older = _set_aside(path, number - 1)
            if older.exists():
                older.replace(_set_aside(path, number))
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        if os.write(descriptor, line) < len(line):
            raise OSError(errno.ENOSPC, "the line does not fit")
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _set_aside(path: Path, number: int) -> Path:
    return path.with_suffix(f".{number}.jsonl") if number else path


def _remembered(path: Path | None) -> Iterator[AuditEntry]:
    """What the files still hold, oldest first; a torn or foreign line is passed over."""
    for number in (1, 0) if path is not None else ():
        assert path is not None
        try:
            lines = _set_aside(path, number).read_bytes().splitlines()[-REMEMBERED:]
        except OSError:
            continue
        for line in lines:
            try:
                yield msgspec.convert(json.loads(line), AuditEntry)
            except (ValueError, RecursionError):
                continue
