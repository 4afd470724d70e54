"""The audit trail: who did what, and who was refused. Kept in the store, the newest entries in memory too.

Rules:

1. Every request for a change leaves an entry, also a refused one; so does every request with invalid credentials.
2. Entries are numbered without gaps, across restarts, and never changed. The store keeps the newest `KEPT`; whoever
   needs more collects the log ``gateway.audit``, which has the same lines.
3. Nobody waits for the disk. What comes while it is busy is written in one transaction after that. A disk that does not
   keep up, or a store that takes nothing any more, costs entries there; they stay in memory and are counted.
4. The trail cannot be flooded from outside: of requests with wrong credentials so many a minute are kept, the others
   are counted in the next entry's ``suppressed``.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Sequence

import msgspec

from gateway.control.journal.rows import AuditEntry
from gateway.control.journal.store import Store
from gateway.control.journal.writer import JournalWriter
from gateway.core.errors import JournalError
from gateway.runtime.clock import Clock, iso

_log = logging.getLogger("gateway.admin")
KEPT = 10_000
REMEMBERED = 1000
_PENDING_MAX = 1000
_UNAUTHENTICATED_PER_MINUTE = 60


class AuditTrail:
    """The trail of one gateway. Without a writer it is kept in memory alone; ``remembered``: newest first."""

    def __init__(
        self, clock: Clock, writer: JournalWriter | None = None, remembered: Sequence[AuditEntry] = ()
    ) -> None:
        self._clock = clock
        self._writer = writer
        self._entries: deque[AuditEntry] = deque(reversed(remembered), maxlen=REMEMBERED)
        self._last_id = self._entries[-1].id if self._entries else 0
        self._unwritten: deque[AuditEntry] = deque()
        self._queued = False
        # How many entries wait for the disk, and how many it never got.
        self.pending = 0
        self.dropped = 0
        self._unauthenticated_s: deque[float] = deque(maxlen=_UNAUTHENTICATED_PER_MINUTE)
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
        if self._writer is not None:
            self._write(self._writer, kept)

    async def page(self, limit: int, before: int | None) -> list[AuditEntry]:
        """Entries, newest first, from the one before ``before`` on; older ones than those in memory from the store."""
        newest = (entry for entry in reversed(self._entries) if before is None or entry.id < before)
        found = [entry for entry, _ in zip(newest, range(limit), strict=False)]
        missing, older_than = limit - len(found), found[-1].id if found else before
        if missing and self._writer is not None and (older_than is None or older_than > 1):
            with contextlib.suppress(JournalError):
                found += await self._writer.read_store(lambda store: store.audit.page(missing, older_than))
        return found

    def _let_in(self) -> bool:
        now_s, since = self._clock.monotonic_s(), self._unauthenticated_s
        if len(since) == _UNAUTHENTICATED_PER_MINUTE and now_s - since[0] < 60.0:
            return False
        since.append(now_s)
        return True

    def _write(self, writer: JournalWriter, entry: AuditEntry) -> None:
        if self.pending >= _PENDING_MAX:
            self.dropped += 1
            return
        self.pending += 1
        self._unwritten.append(entry)
        if self._queued:
            return
        taken: list[AuditEntry] = []

        def write(store: Store) -> None:
            """On the disk's thread."""
            self._queued = False
            while self._unwritten:
                taken.append(self._unwritten.popleft())
            if taken:
                store.audit.append(taken, kept=KEPT)

        self._queued = True
        try:
            writer.keep(write).add_done_callback(lambda done: self._written(done, taken))
        except JournalError as error:
            self._refused(error, taken)

    def _written(self, done: asyncio.Future[None], taken: Sequence[AuditEntry]) -> None:
        error = None if done.cancelled() else done.exception()
        if error is None:
            self.pending -= len(taken)
        else:
            self._refused(error, taken)

    def _refused(self, error: BaseException, taken: Sequence[AuditEntry]) -> None:
        """Neither what was to be written is, nor what came since."""
        self._queued = False
        lost = len(taken) + len(self._unwritten)
        self._unwritten.clear()
        if not self.dropped:
            _log.error("audit entries are kept in memory only, they cannot be stored: %s", error)
        self.pending -= lost
        self.dropped += lost
