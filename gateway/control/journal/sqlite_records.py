"""What SQLite keeps beside the journal: configurations, answers to idempotency keys, the audit trail, stable's pasts.

A damaged row of these costs itself alone (store.py, rule 5): it is passed over and stays where it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

from gateway.config.stored import Stored
from gateway.control.journal.rows import (
    AuditEntry,
    ConfigurationRevision,
    KeptAnswer,
    KeptPast,
    RoutePast,
    decoded,
    encoded,
    finite,
)
from gateway.control.journal.sqlite_file import SqliteFile, checksum
from gateway.control.journal.sqlite_schema import (
    ANSWER_COLUMNS,
    AUDIT_COLUMNS,
    CONFIGURATION_COLUMNS,
    PAST_COLUMNS,
    PASTS,
)
from gateway.control.journal.store import Answers, Audit, Configurations, Pasts
from gateway.core.errors import ConflictError

T = TypeVar("T")
_DAMAGED = "its checksum does not match"


class SqliteConfigurations(Configurations):
    """The configurations of an open file."""

    def __init__(self, file: SqliteFile) -> None:
        self._file = file

    def newest(self) -> ConfigurationRevision:
        """As `Configurations.newest`."""
        sql = f"SELECT {CONFIGURATION_COLUMNS}, crc FROM configurations ORDER BY revision DESC LIMIT 1"
        row = self._file.row(sql)
        return _revision(*row) if row else ConfigurationRevision(0, None)

    def replace(self, stored: Stored | None, revision: int) -> int:
        """As `Configurations.replace`."""
        fresh = revision + 1
        with self._file.transaction(f"revision {fresh} of the configuration"):
            newest = self._file.row("SELECT coalesce(max(revision), 0) FROM configurations")[0]
            if newest != revision:
                raise ConflictError(f"the configuration was replaced meanwhile: revision {newest} is stored")
            text = None if stored is None else encoded(stored)
            self._file.insert("configurations", CONFIGURATION_COLUMNS, (fresh, text), replace=False)
            self._file.execute("DELETE FROM configurations WHERE revision < ?", (fresh,))
        return fresh


def _revision(revision: int, text: str | None, crc: int) -> ConfigurationRevision:
    if checksum((revision, text)) != crc:
        return ConfigurationRevision(revision, None, _DAMAGED)
    if text is None:
        return ConfigurationRevision(revision, None)
    try:
        return ConfigurationRevision(revision, decoded(text, Stored))
    except (ValueError, RecursionError) as error:
        return ConfigurationRevision(revision, None, str(error))


class SqliteAnswers(Answers):
    """The answers of an open file."""

    def __init__(self, file: SqliteFile) -> None:
        self._file = file

    def add(self, answer: KeptAnswer, *, kept: int, expired_s: float) -> None:
        """As `Answers.add`."""
        row = (answer.principal, answer.key, answer.at_s, encoded(answer))
        with self._file.transaction("the answer to an idempotency key"):
            self._file.insert("answers", ANSWER_COLUMNS, row)
            self._file.execute(
                "DELETE FROM answers WHERE at_s <= ?"
                " OR number <= (SELECT number FROM answers ORDER BY number DESC LIMIT 1 OFFSET ?)",
                (expired_s, kept),
            )

    def all(self) -> list[KeptAnswer]:
        """As `Answers.all`."""
        sql = f"SELECT {ANSWER_COLUMNS}, crc FROM answers ORDER BY number"
        return list(_intact_rows(self._file.rows(sql), KeptAnswer))


class SqliteAudit(Audit):
    """The audit trail of an open file."""

    def __init__(self, file: SqliteFile) -> None:
        self._file = file

    def append(self, entries: Sequence[AuditEntry], *, kept: int) -> None:
        """As `Audit.append`."""
        with self._file.transaction(f"{len(entries)} audit entries"):
            for entry in entries:
                self._file.insert("audit", AUDIT_COLUMNS, (entry.id, encoded(entry)))
            self._file.execute(
                "DELETE FROM audit WHERE id <= (SELECT id FROM audit ORDER BY id DESC LIMIT 1 OFFSET ?)", (kept,)
            )

    def page(self, limit: int, before: int | None = None) -> list[AuditEntry]:
        """As `Audit.page`."""
        sql = f"SELECT {AUDIT_COLUMNS}, crc FROM audit WHERE ? IS NULL OR id < ? ORDER BY id DESC LIMIT ?"
        return list(_intact_rows(self._file.rows(sql, (before, before, max(0, limit))), AuditEntry))


class SqlitePasts(Pasts):
    """The pasts of an open file."""

    def __init__(self, file: SqliteFile) -> None:
        self._file = file

    def all(self) -> list[KeptPast]:
        """As `Pasts.all`."""
        if not _has_pasts(self._file):
            return []
        return [_past(*row) for row in self._file.rows(f"SELECT {PAST_COLUMNS}, crc FROM pasts ORDER BY route")]

    def save(self, pasts: Sequence[KeptPast], routes: frozenset[str], wall_time_s: float) -> None:
        """As `Pasts.save`."""
        with self._file.transaction(f"the pasts of {len(pasts)} stable versions"):
            self._file.execute(PASTS)
            for one in pasts:
                if one.past is not None:
                    self._file.insert("pasts", PAST_COLUMNS, (one.route, encoded(one.past), finite(wall_time_s)))
            for (route,) in self._file.rows("SELECT route FROM pasts"):
                if route not in routes:
                    self._file.execute("DELETE FROM pasts WHERE route = ?", (route,))


def _has_pasts(file: SqliteFile) -> bool:
    return bool(file.row("SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = 'pasts'"))


def _past(route: str, text: str, wall_time_s: float, crc: int) -> KeptPast:
    if checksum((route, text, wall_time_s)) != crc:
        return KeptPast(route, None, _DAMAGED)
    try:
        return KeptPast(route, decoded(text, RoutePast))
    except (ValueError, RecursionError) as error:
        return KeptPast(route, None, str(error))


def check_records(file: SqliteFile) -> tuple[str, ...]:
    """How many rows of each table are damaged, a sentence for each table that has any."""
    tables = [
        ("configurations", CONFIGURATION_COLUMNS),
        ("answers", ANSWER_COLUMNS),
        ("audit", AUDIT_COLUMNS),
    ]
    if _has_pasts(file):
        tables.append(("pasts", PAST_COLUMNS))
    damage = []
    for table, columns in tables:
        damaged = sum(not whole for _, whole in file.checked(table, columns, "rowid"))
        if damaged:
            rows = "1 damaged row" if damaged == 1 else f"{damaged} damaged rows"
            damage.append(f"{file.place}: {rows} of table {table} ignored, left in the file")
    return tuple(damage)


def _intact_rows(rows: list[tuple[Any, ...]], kind: type[T]) -> Iterator[T]:
    """What the rows hold in their last column, those that can be read."""
    for *row, crc in rows:
        if checksum(row) != crc:
            continue
        try:
            yield decoded(row[-1], kind)
        except (ValueError, RecursionError):
            continue
