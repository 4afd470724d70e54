"""The store in one SQLite file, ``state.sqlite3`` in the state directory."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

from gateway.control.journal import names, sqlite_schema
from gateway.control.journal.sqlite_file import SqliteFile
from gateway.control.journal.sqlite_journal import SqliteJournal, check
from gateway.control.journal.sqlite_records import (
    SqliteAnswers,
    SqliteAudit,
    SqliteConfigurations,
    SqlitePasts,
    check_records,
)
from gateway.control.journal.store import Journal, NoRoomError, Store
from gateway.core.errors import JournalError

# So much room must be there again: many decisions' worth.
_ROOM_BYTES = 256 * 1024


class SqliteStore(Store):
    """The open store. Build it with `SqliteStore.open`."""

    journal: Journal

    def __init__(self, file: SqliteFile, last_seq: int, damage: tuple[str, ...]) -> None:
        self.file = file
        self.place = file.place
        self.journal = SqliteJournal(file, last_seq)
        self.configurations = SqliteConfigurations(file)
        self.answers = SqliteAnswers(file)
        self.audit = SqliteAudit(file)
        self.pasts = SqlitePasts(file)
        self._damage = damage

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Self:
        """Open the file at ``path``, checked from end to end; a missing one is created (mode 0600) with its folders.

        Raises JournalError when it cannot be opened, is open elsewhere, is damaged, or of another program or version.
        """
        path = Path(path).absolute()
        _refuse_prerelease(path)
        file = SqliteFile.open(path)
        try:
            return cls(file, check(file), check_records(file))
        except BaseException:
            file.close()
            raise

    @property
    def broken(self) -> bool:
        """As `Store.broken`."""
        return self.file.broken is not None

    @property
    def damage(self) -> tuple[str, ...]:
        """As `Store.damage`."""
        return self._damage

    def copy(self) -> bytes:
        """As `Store.copy`."""
        return self.file.copy()

    def check_room(self) -> None:
        """As `Store.check_room`."""
        path = self.file.path
        try:
            with tempfile.TemporaryFile(dir=path.parent) as file:
                file.seek(path.stat().st_size)
                file.write(bytes(_ROOM_BYTES))
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise NoRoomError(f"there is no room beside {self.place}: {error.strerror}") from error

    def close(self) -> None:
        """As `Store.close`."""
        self.file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def _refuse_prerelease(path: Path) -> None:
    """Raise JournalError where a pre-release has left its state, and this version has none."""
    if path.name != names.STORE or path.exists():
        return
    found = [name for name in names.PRERELEASE[:2] if (path.parent / name).exists()]
    if found:
        raise JournalError(
            f"{path.parent} holds the state of a pre-release of the gateway ({', '.join(found)}), which this version"
            f" does not read: {sqlite_schema.MOVE}"
        )
