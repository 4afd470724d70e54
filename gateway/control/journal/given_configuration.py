"""The configuration that was given at run time, as control keeps it: in the store, with a copy in the table memory.

Rules:

1. It is stored before it is in force (`GivenConfiguration.keep`); who asked waits `KEEP_WAIT_S` for the disk and is
   then refused. Whatever becomes of that write, what was in force before follows it, so that a restart finds that.
2. When the file wins (`drop`), nobody waits: what is stored names the text that it replaced, and counts for no other.
3. What the store cannot give at a start, the table memory does: its copy is of what was in force.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from pathlib import Path

from gateway.config.stored import Effective, Stored, effective, from_copy, replaces, sha256_of, write_superseded
from gateway.control.journal.store import Store
from gateway.control.journal.writer import JournalWriter
from gateway.core.errors import JournalError
from gateway.runtime.disk_thread import DiskThread
from gateway.runtime.table_memory import Given, Remembered

_log = logging.getLogger("gateway.control")
# Several times what a busy disk takes.
KEEP_WAIT_S = 5.0
_START_WAIT_S = 20.0


class GivenConfiguration:
    """What is stored, and the one way to replace it. ``remember`` is given the copy for the table memory."""

    def __init__(self, writer: JournalWriter, remember: Callable[[Given | None], None]) -> None:
        self._writer = writer
        self._remember = remember
        self._stored: Stored | None = None
        # Read and written on the disk's thread.
        self._revision: int | None = None

    def adopt(self, stored: Stored | None) -> None:
        """Go on from what is served at the start."""
        self._stored = stored
        self._remember(_copy(stored))

    async def keep(self, stored: Stored | None) -> None:
        """Store another one, None for what the file says. Raises JournalError: then nothing was changed."""
        written = self._writer.keep(lambda store: self._replace(store, stored), first=True)
        try:
            async with asyncio.timeout(KEEP_WAIT_S):
                await asyncio.shield(written)
        except TimeoutError:
            before = self._stored
            self._writer.keep(lambda store: self._replace(store, before))
            raise JournalError(
                f"the configuration was not stored, the disk did not answer in {KEEP_WAIT_S:g} s: nothing was changed"
            ) from None
        self.adopt(stored)

    def drop(self) -> None:
        """Forget it: the file has won."""
        with contextlib.suppress(JournalError):  # it is closed, or takes nothing any more
            self._writer.keep(lambda store: self._replace(store, None))
        self.adopt(None)

    def _replace(self, store: Store, stored: Stored | None) -> None:
        """On the disk's thread."""
        known = store.configurations.newest().revision if self._revision is None else self._revision
        self._revision = store.configurations.replace(stored, known)


async def configuration_at_start(
    store: Store | JournalError,
    remembered: Remembered | None,
    text: bytes,
    state_dir: Path,
    validate: Callable[[bytes], object],
) -> Effective:
    """What is to be served when the file holds ``text``. One that a newer file replaced is written out, and logged."""
    copy = _original(remembered, text)
    if isinstance(store, JournalError):
        if copy is None:
            return Effective(text)  # nothing says that there was any, and the alarm about the store stands
        return from_copy(text, "the state file cannot be read", copy, validate)
    try:
        async with asyncio.timeout(_START_WAIT_S):
            newest = await DiskThread().do(store.configurations.newest)
    except (JournalError, TimeoutError) as error:
        why = str(error) or f"{store.place}: the disk did not answer in {_START_WAIT_S:g} s"
        return from_copy(text, why, copy, validate)
    if newest.damage:
        why = f"{store.place}: revision {newest.revision} of the configuration is damaged ({newest.damage})"
        return from_copy(text, why, copy, validate)
    if newest.stored is not None and not replaces(newest.stored, text):
        await _write_out(store, newest.stored, newest.revision, text, state_dir)
        return Effective(text)
    return effective(text, newest.stored, validate)


async def _write_out(store: Store, found: Stored, revision: int, text: bytes, state_dir: Path) -> None:
    """Write the replaced configuration to a file for operators, delete it from the store, and log that."""

    def write_out() -> str:
        said = write_superseded(state_dir, found, text)
        store.configurations.replace(None, revision)
        return said

    try:
        async with asyncio.timeout(_START_WAIT_S):
            if said := await DiskThread().do(write_out):
                _log.warning("%s", said)
    except (JournalError, OSError) as error:  # TimeoutError is one
        # It names the text that it replaced, so that it counts for no other.
        why = str(error) or f"the disk did not answer in {_START_WAIT_S:g} s"
        _log.error("the configuration that %s gave at %s is not in any configuration file: %s", found.by, found.at, why)


def _copy(stored: Stored | None) -> Given | None:
    return None if stored is None else Given(stored.replaces_sha256, stored.text, stored.by, stored.at)


def _original(remembered: Remembered | None, text: bytes) -> Stored | None:
    given = None if remembered is None else remembered.given
    if given is None or given.replaces_sha256 != sha256_of(text):
        return None
    return Stored(given.replaces_sha256, given.text, given.by, given.at)
