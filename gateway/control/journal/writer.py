"""The journal's writer: everything that touches the store's disk, on one thread, in the order of the calls.

Rules:

1. Who must have something on the disk first awaits the future of `write`; nobody else ever waits. A disk that hangs
   therefore delays more exposure and nothing else.
2. The order of the calls is the order in the store, also when the disk answers a minute late.
3. A write that fails ends it: no later one is tried (the store is in doubt), and the alarm stands until control is
   started again. A disk that only hangs is an alarm until it answers.
4. What must be on the disk first (more exposure, a configuration) is not even tried while the state directory cannot
   keep it (state_watch.py): it was deleted, replaced or emptied, or has become read-only. What need not be there first
   is written all the same, to the file that is open.
5. All its alarms are warnings: traffic does not suffer, and a balancer that emptied the instance (or all, where they
   share a disk) would turn a full disk into an outage.
6. Where a write failed for want of space and nothing else is in doubt, `wait_for_room` returns when there is space
   again: then control restarts by itself, from what is stored and what the workers do (recovery.py). So it does when a
   file that could not be opened for want of space or of permission can be opened.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from gateway.control.alarms import Alarms
from gateway.control.journal.sqlite_store import SqliteStore
from gateway.control.journal.store import Journal, NoRoomError, Store, StoreBusyError
from gateway.core.errors import ConflictError, JournalError
from gateway.runtime.clock import Clock
from gateway.runtime.disk_thread import DiskThread, settle

T = TypeVar("T")
# Longer than a disk takes that is merely busy.
_SLOW_S = 2.0
# Opening reads the whole store; while that goes on, workers keep their last table, or stable only.
_OPEN_TIMEOUT_S = 20.0
_READ_TIMEOUT_S = 20.0
_CLOSE_TIMEOUT_S = 2.0
_ROOM_CHECK_S = 2.0
# A gateway that was killed a moment ago may still have a control process that holds the file.
_BUSY_TRIES = 20
_BUSY_PAUSE_S = 0.25


async def open_store(path: Path) -> Store | JournalError:
    """Open the store, or return the error; waits a limited time for a previous process and for the disk."""
    try:
        async with asyncio.timeout(_OPEN_TIMEOUT_S):
            for _ in range(_BUSY_TRIES):
                try:
                    return await DiskThread().do(lambda: SqliteStore.open(path))
                except JournalError as error:
                    refusal = error
                    if not isinstance(error, StoreBusyError):
                        break
                    await asyncio.sleep(_BUSY_PAUSE_S)
            return refusal
    except TimeoutError:
        return JournalError(
            f"state file {path}: the disk did not answer in {_OPEN_TIMEOUT_S:g} s; repair it, then restart the gateway"
        )


class JournalWriter:
    """The store, as a control plane sees it that must not wait for a disk.

    What is given to `read` and `write` works on the journal, what is given to `read_store` and `keep` on all parts.
    """

    def __init__(
        self,
        store: Store | JournalError,
        clock: Clock,
        alarms: Alarms,
        look: Callable[[], str] = lambda: "",
    ) -> None:
        """``look`` says why the state directory cannot keep anything, the empty text while it can; it blocks."""
        self._store = store if isinstance(store, Store) else None
        self._clock = clock
        self._alarms = alarms
        self._thread = DiskThread()
        self._given_s: deque[float] = deque()
        self._look = look
        self.unkept = ""
        self.refusal: str | None = None
        self._wants_room = False
        # The file that could not be opened, but may be later.
        self._unopened: Path | None = None
        if isinstance(store, JournalError):
            self.distrust(store)

    @property
    def readable(self) -> bool:
        """Whether there is a store that was read and is believed."""
        return self._store is not None

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
        return 0 if self._store is None else self._store.journal.last_seq

    @property
    def takes_more(self) -> bool:
        """Whether more exposure could be stored now."""
        return self.refusal is None and not self.hangs and not self.unkept

    def distrust(self, error: JournalError) -> None:
        """The store cannot be read, or not be believed: stable only, and no rollout until it is repaired."""
        self._store = None
        self.refusal = str(error)
        self._unopened = error.path if isinstance(error, NoRoomError) else None
        self._alarms.sound("journal", f"serving stable only, rollouts are frozen: {error}", warning=True)

    async def read(self, work: Callable[[Journal], T]) -> T:
        """Read the journal. Raises JournalError, also when the disk does not answer."""
        return await self.read_store(lambda store: work(store.journal))

    async def read_store(self, work: Callable[[Store], T]) -> T:
        """Read something. Raises JournalError, also when the disk does not answer."""
        try:
            async with asyncio.timeout(_READ_TIMEOUT_S):
                return await self._do(work)
        except TimeoutError:
            why = f"the disk did not answer in {_READ_TIMEOUT_S:g} s; repair it, then restart the gateway"
            raise JournalError(why) from None

    def write(self, work: Callable[[Journal], object], *, first: bool = False) -> asyncio.Future[Any]:
        """Write something into the journal, as `keep` does; whatever fails, no later write is tried (rule 3)."""
        return self._queue(lambda store: work(store.journal), first=first, decides=True)

    def keep(self, work: Callable[[Store], T], *, first: bool = False) -> asyncio.Future[T]:
        """Write something after everything before it; the future raises JournalError when it is not on the disk.

        The alarm has been raised by then: a caller who need not wait may drop the future. ``first``: it must be stored
        before it is in force (rule 4).
        """
        return self._queue(work, first=first, decides=False)

    def _queue(self, work: Callable[[Store], T], *, first: bool, decides: bool) -> asyncio.Future[T]:
        if self.refusal is not None:
            future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
            settle(future, None, JournalError(self.refusal))
            return future
        return self._do(lambda store: self._run(work, store, first=first, decides=decides))

    def _run(self, work: Callable[[Store], T], store: Store, *, first: bool, decides: bool) -> T:
        """On the disk's thread."""
        if self.refusal is not None:
            raise JournalError(self.refusal)
        if first and (why := self._look()):
            raise JournalError(f"nothing was changed, because it could not be stored: {why}")
        try:
            return work(store)
        except ConflictError:
            raise  # nothing was to be written
        except Exception as error:
            why = str(error) or repr(error)
            # Also for a fault of our own where it decides: with one event missing, nothing after it could be replayed.
            if decides or isinstance(error, JournalError):
                self._wants_room = isinstance(error, NoRoomError)
                self.refusal = why
            raise JournalError(why) from error

    def _do(self, work: Callable[[Store], T]) -> asyncio.Future[T]:
        store = self._store
        if store is None:
            raise JournalError(self.refusal or "the state file is closed")
        self._given_s.append(self._clock.monotonic_s())
        future = self._thread.do(lambda: work(store))
        future.add_done_callback(self._done)
        return future

    def _done(self, _: asyncio.Future[Any]) -> None:
        self._given_s.popleft()
        if self._store is not None and self.refusal is not None:
            why = f"decisions are not stored any more, rollouts are frozen: {self.refusal}"
            self._alarms.sound("journal", why, warning=True)

    def watch(self) -> None:
        """Raise or clear the alarm of a disk that does not answer; called with every tick."""
        if self.hangs:
            why = "the disk of the state directory does not answer: no canary gets more traffic until it does"
            self._alarms.sound("disk", why, warning=True)
        else:
            self._alarms.clear("disk")

    async def wait_for_room(self) -> None:
        """Return when a store that failed for want of space has space again; never without such a failure."""
        while True:
            await asyncio.sleep(_ROOM_CHECK_S)
            store, unopened = self._store, self._unopened
            try:
                if store is not None and self.refusal is not None and self._wants_room:
                    await self._thread.do(store.check_room)
                elif unopened is not None:
                    await self._thread.do(lambda path=unopened: SqliteStore.open(path).close())  # type: ignore[misc]  # mypy cannot infer a lambda with a default
                else:
                    continue
            except JournalError:
                continue
            return

    async def close(self) -> None:
        """Finish what was asked for and release the store, unless the disk hangs."""
        if self._store is None:
            return
        try:
            async with asyncio.timeout(_CLOSE_TIMEOUT_S):
                await self._do(lambda store: store.close())
        except (TimeoutError, JournalError):
            pass
