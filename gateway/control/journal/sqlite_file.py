"""The SQLite file of the store: its lock, its checks, its transactions.

`SqliteFile.open` gives a file that this process alone holds, and that was checked before anything in it is believed:

* ``locking_mode=EXCLUSIVE`` is the fence: a second gateway, or a reader whose lock would stall a commit, is refused.
* ``synchronous=FULL`` with ``journal_mode=TRUNCATE``: unlike DELETE, a commit is complete only after the truncation of
  SQLite's rollback journal was itself synced, so power loss cannot take it back.
* Not WAL: one flipped bit in a WAL frame silently drops every later commit, and with it perhaps the row that says
  "rolled back"; here all rows are in one file and each has a checksum. (The WAL-reset bug of SQLite 3.7.0 to 3.51.2
  needs WAL and several connections; there is neither.) Decisions are rare, so the slower commit costs nothing.

A transaction that did not commit is undone by SQLite when the file is opened next. A committed row that no longer
matches its checksum, a gap in ``seq`` or a failed integrity check is damage (store.py, rule 5).
"""

from __future__ import annotations

import errno
import os
import sqlite3
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from gateway.control.journal.sqlite_schema import check_version
from gateway.control.journal.store import NoRoomError, StoreBusyError
from gateway.core.errors import JournalError

_WRITABLE = (
    "make the file and its directory writable for the gateway's user: the control process then restarts by itself"
)
_HINTS = {
    "SQLITE_BUSY": "another process has it open: stop that one, or give this gateway a state_dir of its own",
    "SQLITE_CANTOPEN": _WRITABLE,
    "SQLITE_READONLY": _WRITABLE,
    "SQLITE_FULL": "free space on the disk: the control process then restarts by itself",
    "SQLITE_MISUSE": "it was closed: open it again",
    "SQLITE_IOERR_WRITE": "free space or repair the disk; once there is room the control process restarts by itself",
    "SQLITE_IOERR": "free space or repair the disk, then restart the control process",
}
DAMAGED = "the file is damaged: restore a backup, or move it away and start without its history"
# Nothing was written: SQLite has undone what it began. A failed sync is no such case: it may have lost something.
_NO_ROOM = ("SQLITE_FULL", "SQLITE_IOERR_WRITE", "SQLITE_READONLY", "SQLITE_CANTOPEN")
_NO_ROOM_ERRNOS = (errno.EACCES, errno.EDQUOT, errno.ENOSPC, errno.EPERM, errno.EROFS)


class SqliteFile:
    """The open file. The parts of the store share it; all methods block."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self.path = path
        self.place = f"state file {path}"
        self.connection = connection
        # Why a write failed, so that none is accepted any more.
        self.broken: str | None = None

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open the file, create it if it is missing (mode 0600, with its folders), and check its pages and its schema.

        Raises JournalError with what is wrong and how to repair it.
        """
        try:
            _create(path)
            # Any thread may call, one at a time; SQLite's own mutex guards against a caller who breaks that rule.
            connection = sqlite3.connect(path, timeout=0.0, isolation_level=None, check_same_thread=False)
        except (OSError, sqlite3.Error) as error:
            raise cannot(path, "open", error) from error
        try:
            _lock(connection)
            check_version(path, connection)
            verdict = connection.execute("PRAGMA integrity_check(1)").fetchone()[0]
            if verdict != "ok":
                raise JournalError(f"state file {path}: {verdict}; {DAMAGED}")
            return cls(path, connection)
        except (sqlite3.Error, UnicodeDecodeError) as error:  # the latter where SQLite quotes a damaged schema
            connection.close()
            raise cannot(path, "open", error) from error
        except BaseException:
            connection.close()
            raise

    def close(self) -> None:
        """Release the file. Closing again does nothing."""
        self.connection.close()

    def copy(self) -> bytes:
        """The content of the file, between two transactions."""
        try:
            return self.connection.serialize()
        except (sqlite3.Error, MemoryError) as error:
            raise JournalError(f"cannot copy {self.place}: {error}") from error

    # writing

    @contextmanager
    def transaction(self, what: str) -> Iterator[None]:
        """All that is executed inside, or nothing. Raises JournalError when it cannot be written."""
        if self.broken is not None:
            raise JournalError(f"{self.place}: {what} was not written, an earlier write failed: {self.broken}")
        try:
            self.connection.execute("BEGIN IMMEDIATE")
            yield
            self.connection.execute("COMMIT")
        except sqlite3.Error as error:
            self.broken = str(error)
            self._roll_back()
            raise cannot(self.path, f"write {what} to", error) from error
        except BaseException:
            self._roll_back()
            raise

    def _roll_back(self) -> None:
        try:
            if self.connection.in_transaction:
                self.connection.execute("ROLLBACK")
        except sqlite3.Error as error:
            self.broken = self.broken or str(error)

    def insert(self, table: str, columns: str, row: tuple[Any, ...], *, replace: bool = True) -> None:
        """In a transaction: write a row with its checksum; ``replace``: in place of the one with the same key."""
        marks = ", ".join("?" * (len(row) + 1))
        verb = "INSERT OR REPLACE" if replace else "INSERT"
        self.connection.execute(f"{verb} INTO {table} ({columns}, crc) VALUES ({marks})", (*row, checksum(row)))

    def execute(self, sql: str, values: tuple[Any, ...] = ()) -> None:
        """In a transaction: change rows."""
        self.connection.execute(sql, values)

    # reading

    def rows(self, sql: str, values: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
        """All rows that are found."""
        try:
            return self.connection.execute(sql, values).fetchall()
        except sqlite3.Error as error:
            raise cannot(self.path, "read", error) from error

    def row(self, sql: str, values: tuple[Any, ...] = ()) -> tuple[Any, ...]:
        """The first row, or the empty tuple."""
        found = self.rows(sql, values)
        return found[0] if found else ()

    def has_table(self, name: str) -> bool:
        """Whether the file has a table that is made with its first row."""
        return bool(self.row("SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = ?", (name,)))

    def checked(self, table: str, columns: str, order: str) -> Iterator[tuple[tuple[Any, ...], bool]]:
        """Every row of a table without its checksum, and whether it matches that."""
        try:
            for *row, crc in self.connection.execute(f"SELECT {columns}, crc FROM {table} ORDER BY {order}"):
                yield tuple(row), checksum(row) == crc
        except (sqlite3.Error, UnicodeDecodeError) as error:
            raise cannot(self.path, "read", error) from error


def checksum(row: Iterable[Any]) -> int:
    """Return the CRC-32 that is stored beside a row, over all its other columns as SQLite returns them."""
    # ascii(), unlike repr(), does not depend on the Unicode tables of the Python at hand.
    return zlib.crc32(ascii(tuple(row)).encode("ascii"))


def cannot(path: Path, do: str, error: OSError | sqlite3.Error | UnicodeDecodeError) -> JournalError:
    """Map a foreign error: what could not be done, where, why, and how to repair it."""
    unnamed = "SQLITE_CANTOPEN" if isinstance(error, OSError) else ""
    if isinstance(error, sqlite3.ProgrammingError):
        unnamed = "SQLITE_MISUSE"
    name = getattr(error, "sqlite_errorname", unnamed)
    hints = [hint for prefix, hint in _HINTS.items() if name.startswith(prefix)]
    text = f"cannot {do} state file {path}: {error}; {hints[0] if hints else DAMAGED}"
    if name.startswith("SQLITE_BUSY"):
        return StoreBusyError(text)
    no_room = error.errno in _NO_ROOM_ERRNOS if isinstance(error, OSError) else name in _NO_ROOM
    return NoRoomError(text, path) if no_room else JournalError(text)


def _create(path: Path) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    except FileExistsError:
        # Never open an existing file but through SQLite: closing any descriptor of it drops this process's POSIX locks.
        return
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _lock(connection: sqlite3.Connection) -> None:
    for pragma in ("locking_mode = EXCLUSIVE", "trusted_schema = OFF", "cell_size_check = ON"):
        connection.execute(f"PRAGMA {pragma}")
    connection.execute("BEGIN EXCLUSIVE")
    connection.execute("COMMIT")
    mode = connection.execute("PRAGMA journal_mode = TRUNCATE").fetchone()[0]
    if mode != "truncate":
        raise sqlite3.OperationalError(f"journal_mode stays {mode}")
    connection.execute("PRAGMA synchronous = FULL")
