"""How much of request bodies one worker holds: in memory, and in temporary files for what memory should not hold.

Rules:

1. Every byte of a request's body that is held is charged here, and taken off when it is let go. Memory and files each
   have a bound per worker (``limits.body_memory_bytes``, ``limits.body_disk_bytes``).
2. Slow bodies may fill half of the memory. The other half is for those that flow, so that the slow never push out the
   rest. The first `SMALL_BYTES` of a body are always taken: most requests have no more.
3. A file has no name (O_TMPFILE, or unlinked at once): nothing is left behind by a worker that dies. Pieces are written
   by the loop itself, 256 KiB at most at a time, into the page cache; that takes microseconds, a thread's hand-over
   takes longer. On a disk that makes the loop wait no further file is begun for a while.
4. Why a body could not be kept is counted by reason (`gateway.runtime.wire.BODY_NOT_KEPT`).
"""

from __future__ import annotations

import errno
import logging
import os
import tempfile
from time import monotonic
from typing import Final

from gateway.proxy import memory
from gateway.runtime.wire import BODY_NOT_KEPT

SMALL_BYTES: Final = 16 * 1024
TOO_LARGE, MEMORY_LIMIT, DISK_LIMIT, DISK_FULL, DISK_FAILED, DISK_SLOW = BODY_NOT_KEPT

_FULL: Final = (errno.ENOSPC, errno.EDQUOT)
# A write that took longer than this held up every other request: no further file is begun for a while. (Less would
# happen on a machine that is merely busy.)
_SLOW_WRITE_S: Final = 0.25
_DISK_REST_S: Final = 10.0
# The operating system is given back what bodies took when for so long they have needed little.
_QUIET_S: Final = 5.0
_MUCH_BYTES: Final = 8 << 20
_LITTLE_BYTES: Final = 2 << 20

_log = logging.getLogger("gateway.worker")


class BodyStore:
    """What one worker holds of request bodies, and how much more it may."""

    __slots__ = (
        "_directory",
        "_disk_rests_until_s",
        "_quiet_since_s",
        "_taken",
        "_warned",
        "disk_bytes",
        "disk_bytes_max",
        "memory_bytes",
        "memory_bytes_max",
        "not_kept",
        "slow_bytes_max",
    )

    def __init__(self, memory_bytes_max: int, disk_bytes_max: int, directory: str | None) -> None:
        self.memory_bytes = 0
        self.memory_bytes_max = memory_bytes_max
        self.slow_bytes_max = memory_bytes_max // 2
        self.disk_bytes = 0
        self.disk_bytes_max = disk_bytes_max
        self.not_kept: dict[str, int] = {}
        self._directory = directory
        self._disk_rests_until_s = 0.0
        self._warned = False
        self._taken = False
        self._quiet_since_s = 0.0

    def refused(self, reason: str) -> None:
        """A body is kept no longer, for this reason."""
        self.not_kept[reason] = self.not_kept.get(reason, 0) + 1

    def open(self) -> BodyFile | str:
        """A new file for one body, or the reason why there is none."""
        if not self.disk_bytes_max:
            return MEMORY_LIMIT
        if self.disk_bytes >= self.disk_bytes_max:
            return DISK_LIMIT
        if self._disk_rests_until_s > monotonic():
            return DISK_SLOW
        try:
            with tempfile.TemporaryFile(buffering=0, prefix="gateway-body-", dir=self._directory) as file:
                return BodyFile(self, os.dup(file.fileno()))
        except OSError as error:
            return self.failed(error)

    def failed(self, error: OSError) -> str:
        """A file could not be made or written: the reason, and a line in the log for the first time."""
        if not self._warned:
            self._warned = True
            where = self._directory or "the directory for temporary files"
            _log.warning("request bodies cannot be kept in %s (limits.body_directory): %s", where, error)
        return DISK_FULL if error.errno in _FULL else DISK_FAILED

    def took(self, seconds: float) -> None:
        """A write took so long."""
        if seconds > _SLOW_WRITE_S:
            self._disk_rests_until_s = monotonic() + _DISK_REST_S

    def sweep(self, now_s: float) -> None:
        """Give memory back to the operating system when bodies took much and need little now."""
        if self.memory_bytes > _MUCH_BYTES:
            self._taken = True
        if not self._taken:
            return
        if self.memory_bytes > _LITTLE_BYTES:
            self._quiet_since_s = now_s
        elif now_s - self._quiet_since_s > _QUIET_S:
            self._taken = False
            memory.give_back()


class BodyFile:
    """What of one body is in a file. ``size`` is what was written whole."""

    __slots__ = ("_fd", "_store", "size")

    def __init__(self, store: BodyStore, fd: int) -> None:
        self._store = store
        self._fd = fd
        self.size = 0

    def append(self, piece: bytes) -> str:
        """Write a piece behind the others; the reason when that cannot be."""
        store = self._store
        count = len(piece)
        if store.disk_bytes + count > store.disk_bytes_max:
            return DISK_LIMIT
        begun_s = monotonic()
        try:
            at = 0
            while at < count:
                at += os.pwrite(self._fd, piece[at:] if at else piece, self.size + at)
        except OSError as error:
            return store.failed(error)
        store.took(monotonic() - begun_s)
        self.size += count
        store.disk_bytes += count
        return ""

    def read(self, at: int, count: int) -> bytes:
        """Up to ``count`` bytes from ``at`` on; OSError when the file cannot be read."""
        return os.pread(self._fd, min(count, self.size - at), at)

    def close(self) -> None:
        """Let go of it: the file had no name, so its bytes are free again."""
        self._store.disk_bytes -= self.size
        self.size = 0
        os.close(self._fd)
