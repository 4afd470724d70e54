"""Whether the state directory still keeps what is written: checked every second, and before more exposure.

A file that is deleted while it is open takes writes without an error, and none of them is there after a restart. So the
directory and the state file have to be the ones that were opened, not emptied, and writable.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from gateway.control.alarms import Alarms
from gateway.control.journal.writer import JournalWriter
from gateway.core.errors import JournalError
from gateway.runtime.disk_thread import DiskThread

LOOK_S = 1.0
_ANSWER_S_MAX = 5.0
_SQLITE_HEADER_BYTES = 100
_HINT = "put it back, or restart the gateway"


class StateWatch:
    """The directory and the state file as they were when it was made. Its methods block."""

    def __init__(self, state_dir: Path, file: Path) -> None:
        self._dir = state_dir
        self._file = file
        self._dir_mark = _mark(state_dir)
        self._file_mark = _mark(file)
        self._emptied = False

    def look(self) -> str:
        """Why the state cannot be kept, and how to repair that; the empty text when it can."""
        try:
            if _mark(self._dir) != self._dir_mark:
                return f"the state directory {self._dir} was deleted or replaced while the gateway runs: {_HINT}"
            if self._file_mark is not None and (why := self._look_at_file()):
                return why
            with tempfile.TemporaryFile(dir=self._dir):
                return ""
        except OSError as error:
            why = f"the state directory {self._dir} cannot be written: {error.strerror}"
            return f"{why}; make it writable for this user, or repair the disk"

    def _look_at_file(self) -> str:
        if _mark(self._file) != self._file_mark:
            return f"the state file {self._file} was deleted or replaced while the gateway runs: {_HINT}"
        # Later writes do not restore it.
        self._emptied = self._emptied or self._file.stat().st_size < _SQLITE_HEADER_BYTES
        if self._emptied:
            return f"the state file {self._file} was emptied while the gateway runs: restore a backup, then restart"
        if not os.access(self._file, os.R_OK | os.W_OK):
            return f"this user can no longer read and write the state file {self._file}: change its permissions"
        return ""


class StateGuard:
    """Raises the alarm within seconds when state cannot be stored any more, and refuses what would have to be."""

    def __init__(
        self, watch: StateWatch, journal_writer: JournalWriter, alarms: Alarms, on_kept: Callable[[], None]
    ) -> None:
        self._watch = watch
        self._journal_writer = journal_writer
        self._alarms = alarms
        self._on_kept = on_kept
        self._thread = DiskThread()

    async def run(self) -> None:
        """Check every second, without end."""
        while True:
            self._journal_writer.unkept = why = await self._thread.do(self._watch.look)
            if why:
                self._alarms.sound(
                    "state", f"decisions cannot be stored: no rollout starts or advances: {why}", warning=True
                )
            else:
                self._alarms.clear("state")
                self._on_kept()
            await asyncio.sleep(LOOK_S)

    async def must_keep(self) -> None:
        """Raise JournalError when a change could not be stored now."""
        try:
            async with asyncio.timeout(_ANSWER_S_MAX):
                why = await self._thread.do(self._watch.look)
        except TimeoutError:
            why = "the state directory's disk does not answer"
        if why:
            raise JournalError(f"nothing was changed, because it could not be stored: {why}")


def _mark(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino
