"""The configuration that was given at run time, as control keeps it: in the store, with a copy in the table memory.

Rules:

1. It is stored before it is in force (`GivenConfiguration.keep`); who asked waits `KEEP_WAIT_S` for the disk and is
   then refused. Whatever becomes of that write, what was in force before follows it, so that a restart finds that.
2. When the file wins (`drop`), nobody waits: what is stored names the text that it replaced, and counts for no other,
   but for the versions that routes serve: those go on where the file did not change them (`replace`).
3. What the store cannot give at a start, the table memory does: its copy is of what was in force.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gateway.config.errors import ConfigError
from gateway.config.stored import (
    Effective,
    Stored,
    carried_over,
    effective,
    from_copy,
    replaces,
    sha256_of,
    write_superseded,
)
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
        self.replace(None)

    def replace(self, stored: Stored | None) -> None:
        """What goes on under another text of the file. Nobody waits: a restart comes to the same by itself."""
        with contextlib.suppress(JournalError):  # it is closed, or takes nothing any more
            self._writer.keep(lambda store: self._replace(store, stored))
        self.adopt(stored)

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
    tree_of: Callable[[bytes], dict[str, Any]] | None = None,
) -> Effective:
    """What is to be served when the file holds ``text``. One that a newer file replaced is written out, and logged.

    ``tree_of`` gives the plain tree of a valid text: with it the versions of routes go on (config/keeping.py).
    """
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
        goes_on = None if tree_of is None else _going_on(newest.stored, text, validate, tree_of)
        await _write_out(store, newest.stored, goes_on, newest.revision, text, state_dir)
        return Effective(text) if goes_on is None else Effective(goes_on.text.encode(), goes_on)
    return effective(text, newest.stored, validate)


def _going_on(
    found: Stored, text: bytes, validate: Callable[[bytes], object], tree_of: Callable[[bytes], dict[str, Any]]
) -> Stored | None:
    """What of it goes on under another text of the file, if that is a configuration."""
    try:
        validate(found.text.encode())
        goes_on = carried_over(found, text, tree_of)
        if goes_on is not None:
            validate(goes_on.text.encode())
    except ConfigError as error:
        _log.warning(
            "the versions that %s configured at %s are not kept, because they do not fit the changed file: %s",
            *(found.by, found.at, str(error).partition("\n")[0]),
        )
        return None
    return goes_on


async def _write_out(
    store: Store, found: Stored, goes_on: Stored | None, revision: int, text: bytes, state_dir: Path
) -> None:
    """Write the replaced configuration to a file for operators, store what goes on of it instead, and log that."""

    def write_out() -> str:
        served = text if goes_on is None else goes_on.text.encode()
        said = write_superseded(state_dir, found, served)
        store.configurations.replace(goes_on, revision)
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
    return None if stored is None else Given(stored.replaces_sha256, stored.text, stored.by, stored.at, stored.file)


def _original(remembered: Remembered | None, text: bytes) -> Stored | None:
    given = None if remembered is None else remembered.given
    if given is None or given.replaces_sha256 != sha256_of(text):
        return None
    return Stored(given.replaces_sha256, given.text, given.by, given.at, given.file)
