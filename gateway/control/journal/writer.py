"""The journal writer: everything that touches the journal's disk, on one thread, in the order of the requests.

Rules:

1. Whoever must have it on the disk first awaits the future of `write`; nobody else ever waits. A disk that hangs
   therefore delays more exposure and nothing else.
2. The order of the calls is the order in the file, also when the disk answers a minute late.
3. A write that fails ends it: no later one is tried (the file is in doubt), and the alarm stands until control is
   started again. A disk that only hangs is an alarm until it answers.
4. What must be on the disk first (more exposure) is not even tried while the state directory cannot keep it
   (state_watch.py): it was deleted, replaced or emptied under us, or has become read-only. What need not be there first
   is written all the same, to the file that is open.
5. All its alarms are warnings: traffic does not suffer, and a balancer that emptied the instance (or all, where they
   share a disk) would turn a full disk into an outage.
6. Where a write was refused for want of room and nothing else is in doubt, `mended` says when there is room again:
   then control starts anew by itself, from what is journaled and what the workers do (recovery.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import tempfile
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from gateway.control.alarms import Alarms
from gateway.control.journal.store import Journal
from gateway.core.errors import JournalError
from gateway.runtime.clock import Clock
from gateway.runtime.disk_thread import DiskThread, settle

T = TypeVar("T")
# Longer than a disk takes that is merely busy.
_SLOW_S = 2.0
# Opening reads the whole file; while that goes on, workers keep their last table, or stable only.
_OPEN_TIMEOUT_S = 20.0
_READ_TIMEOUT_S = 20.0
_CLOSE_TIMEOUT_S = 2.0
_MENDED_LOOK_S = 2.0
# So much room must be there again: many decisions' worth.
_ROOM_BYTES = 256 * 1024
_NO_ROOM = ("SQLITE_FULL", "SQLITE_IOERR_WRITE", "SQLITE_READONLY", "SQLITE_CANTOPEN")
# A gateway that was killed a moment ago may still have a control process that holds the file.
_BUSY_TRIES = 20
_BUSY_PAUSE_S = 0.25


async def open_journal(path: Path) -> Journal | JournalError:
    """Open the journal, or say why not; waits for a dying predecessor to let go of it, and not for ever for a disk."""
    try:
        async with asyncio.timeout(_OPEN_TIMEOUT_S):
            for _ in range(_BUSY_TRIES):
                try:
                    return await DiskThread().do(lambda: Journal.open(path))
                except JournalError as error:
                    refusal = error
                    if not _busy(error):
                        break
                    await asyncio.sleep(_BUSY_PAUSE_S)
            return refusal
    except TimeoutError:
        return JournalError(f"journal {path}: the disk did not answer in {_OPEN_TIMEOUT_S:g} s; mend it and restart")


def _busy(error: JournalError) -> bool:
    cause = error.__cause__
    return isinstance(cause, sqlite3.Error) and getattr(cause, "sqlite_errorname", "").startswith("SQLITE_BUSY")


def _for_want_of_room(error: Exception) -> bool:
    """Whether the disk (or a limit on files) had no room, or was read-only: then nothing was written.

    A failed sync is no such case: it may have lost something.
    """
    cause = error.__cause__
    return isinstance(cause, sqlite3.Error) and getattr(cause, "sqlite_errorname", "") in _NO_ROOM


def _make_sure_of_room(path: Path) -> None:
    """Raise OSError unless a file beside the journal can be made longer than the journal is. Blocks."""
    with tempfile.TemporaryFile(dir=path.parent) as file:
        file.seek(path.stat().st_size)
        file.write(bytes(_ROOM_BYTES))
        file.flush()
        os.fsync(file.fileno())


class JournalWriter:
    """The journal, as a control plane that must not wait for it sees it."""

    def __init__(
        self,
        journal: Journal | JournalError,
        clock: Clock,
        alarms: Alarms,
        look: Callable[[], str] = lambda: "",
    ) -> None:
        """``look`` says why the state directory cannot keep anything, the empty text while it can; it blocks."""
        self._journal = journal if isinstance(journal, Journal) else None
        self._clock = clock
        self._alarms = alarms
        self._thread = DiskThread()
        self._given_s: deque[float] = deque()
        self._look = look
        self.unkept = ""
        self.refusal: str | None = None
        self._wants_room = False
        if isinstance(journal, JournalError):
            self.distrust(journal)

    @property
    def readable(self) -> bool:
        """Whether there is a journal that was read and is believed."""
        return self._journal is not None

    @property
    def idle(self) -> bool:
        """Whether nothing is waiting for the disk."""
        return not self._given_s

    @property
    def hangs(self) -> bool:
        """Whether the disk has not answered for longer than one takes that is merely busy."""
        return bool(self._given_s) and self._clock.monotonic_s() - self._given_s[0] > _SLOW_S

    @property
    def last_seq(self) -> int:
        """The seq of the newest event on the disk; 0 without one, or without a journal."""
        return 0 if self._journal is None else self._journal.last_seq

    @property
    def takes_more(self) -> bool:
        """Whether it is worth while to ask for more exposure."""
        return self.refusal is None and not self.hangs and not self.unkept

    def distrust(self, error: JournalError) -> None:
        """The journal cannot be read, or not be believed: stable only, and no rollout until it is mended."""
        self._journal = None
        self.refusal = str(error)
        self._alarms.sound("journal", f"serving stable only, rollouts are frozen: {error}", warning=True)

    async def read(self, work: Callable[[Journal], T]) -> T:
        """Read something. Raises JournalError, also when the disk does not answer."""
        try:
            async with asyncio.timeout(_READ_TIMEOUT_S):
                return await self._do(work)
        except TimeoutError:
            raise JournalError(f"the disk did not answer in {_READ_TIMEOUT_S:g} s; mend it, then restart") from None

    def write(self, work: Callable[[Journal], object], *, first: bool = False) -> asyncio.Future[Any]:
        """Write something after everything before it; the future raises JournalError when it is not on the disk.

        The alarm has been raised by then: a caller who need not wait may drop the future. ``first``: it must be kept
        before it is in force (rule 4).
        """
        if self.refusal is not None:
            future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
            settle(future, None, JournalError(self.refusal))
            return future
        return self._do(lambda journal: self._written(work, journal, first=first))

    def _written(self, work: Callable[[Journal], object], journal: Journal, *, first: bool) -> None:
        """On the disk's thread."""
        if self.refusal is not None:
            raise JournalError(self.refusal)
        if first and (why := self._look()):
            raise JournalError(f"it could not be kept, nothing was changed: {why}")
        try:
            work(journal)
        except Exception as error:
            self._wants_room = _for_want_of_room(error)
            # Also a fault of our own: with one event missing, nothing after it could be replayed.
            self.refusal = str(error) or repr(error)
            raise JournalError(self.refusal) from error

    def _do(self, work: Callable[[Journal], T]) -> asyncio.Future[T]:
        journal = self._journal
        if journal is None:
            raise JournalError(self.refusal or "the journal is closed")
        self._given_s.append(self._clock.monotonic_s())
        future = self._thread.do(lambda: work(journal))
        future.add_done_callback(self._done)
        return future

    def _done(self, _: asyncio.Future[Any]) -> None:
        self._given_s.popleft()
        if self._journal is not None and self.refusal is not None:
            why = f"nothing is journaled any more, rollouts are frozen: {self.refusal}"
            self._alarms.sound("journal", why, warning=True)

    def watch(self) -> None:
        """Raise or clear the alarm of a disk that does not answer; called with every tick."""
        if self.hangs:
            why = "the journal's disk does not answer: no canary gets more until it does"
            self._alarms.sound("disk", why, warning=True)
        else:
            self._alarms.clear("disk")

    async def mended(self) -> None:
        """Return when a journal that failed for want of room has room again; never without such a failure."""
        while True:
            await asyncio.sleep(_MENDED_LOOK_S)
            journal = self._journal
            if journal is None or self.refusal is None or not self._wants_room:
                continue
            with contextlib.suppress(OSError):
                await self._thread.do(lambda path=journal.path: _make_sure_of_room(path))  # type: ignore[misc]  # mypy cannot infer a lambda with a default
                return

    async def close(self) -> None:
        """Finish what was asked for and release the file, unless the disk hangs."""
        if self._journal is None:
            return
        try:
            async with asyncio.timeout(_CLOSE_TIMEOUT_S):
                await self._do(lambda journal: journal.close())
        except (TimeoutError, JournalError):
            pass
