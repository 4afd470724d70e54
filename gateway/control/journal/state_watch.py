"""Whether the state directory still keeps what is written: looked at every second, and before more exposure.

A journal that is deleted while it is open takes writes without a word, and none of them is there after a restart. So
the directory and the journal have to be the ones that were opened, not emptied, and writable.
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
_MEND = "put it back, or start the gateway anew"


class StateWatch:
    """The directory and the journal as they were when it was made. Its methods block."""

    def __init__(self, state_dir: Path, journal: Path) -> None:
        self._dir = state_dir
        self._journal = journal
        self._dir_mark = _mark(state_dir)
        self._journal_mark = _mark(journal)
        self._emptied = False

    def look(self) -> str:
        """What keeps the state from being kept, and how to mend it; the empty text when nothing does."""
        try:
            if _mark(self._dir) != self._dir_mark:
                return f"the state directory {self._dir} was deleted or replaced while the gateway runs: {_MEND}"
            if self._journal_mark is not None and (why := self._look_at_journal()):
                return why
            with tempfile.TemporaryFile(dir=self._dir):
                return ""
        except OSError as error:
            return f"the state directory {self._dir} cannot be written: {error.strerror}; permit it, or mend the disk"

    def _look_at_journal(self) -> str:
        if _mark(self._journal) != self._journal_mark:
            return f"the journal {self._journal} was deleted or replaced while the gateway runs: {_MEND}"
        # What is written later makes it no journal again.
        self._emptied = self._emptied or self._journal.stat().st_size < _SQLITE_HEADER_BYTES
        if self._emptied:
            return f"the journal {self._journal} was emptied while the gateway runs: restore a copy, then restart"
        if not os.access(self._journal, os.R_OK | os.W_OK):
            return f"this user may not read and write the journal {self._journal} any more: permit it"
        return ""


class StateGuard:
    """Says within seconds that nothing is kept any more, and refuses what would have to be."""

    def __init__(
        self, watch: StateWatch, journal_writer: JournalWriter, alarms: Alarms, on_kept: Callable[[], None]
    ) -> None:
        self._watch = watch
        self._journal_writer = journal_writer
        self._alarms = alarms
        self._on_kept = on_kept
        self._thread = DiskThread()

    async def run(self) -> None:
        """Look for ever."""
        while True:
            self._journal_writer.unkept = why = await self._thread.do(self._watch.look)
            if why:
                self._alarms.sound("state", f"nothing is kept: no rollout begins or climbs: {why}", warning=True)
            else:
                self._alarms.clear("state")
                self._on_kept()
            await asyncio.sleep(LOOK_S)

    async def must_keep(self) -> None:
        """Raise JournalError when what is changed now could not be kept."""
        try:
            async with asyncio.timeout(_ANSWER_S_MAX):
                why = await self._thread.do(self._watch.look)
        except TimeoutError:
            why = "the state directory's disk does not answer"
        if why:
            raise JournalError(f"it could not be kept, nothing was changed: {why}")


def _mark(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino
