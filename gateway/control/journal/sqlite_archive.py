"""The archive in SQLite: a small row for each old rollout, to be listed and searched, and beside it what happened.

A row has what lists show (route, when it began, the words that people search for) and the last state and analysis,
compressed; the events are one compressed value in a table of their own, so that a search reads none of them. A row that
does not match its checksum is passed over (store.py, rule 5).
"""

from __future__ import annotations

import json
import zlib
from typing import Any

import msgspec

from gateway.control.journal.rows import JournalEntry, PastRollout, decoded, encoded, search_text, search_words
from gateway.control.journal.sqlite_file import SqliteFile, checksum
from gateway.control.journal.sqlite_schema import ARCHIVE_COLUMNS, STORY_COLUMNS
from gateway.control.journal.store import Archive
from gateway.core.analysis.types import Analysis
from gateway.core.errors import JournalError, NotFoundError
from gateway.core.rollout import Event, Rollout

_LEVEL = 9


class SqliteArchive(Archive):
    """The archive of an open file."""

    def __init__(self, file: SqliteFile) -> None:
        self._file = file

    def put(self, entries: list[JournalEntry]) -> None:
        """In a transaction: store a rollout's events."""
        first, last = entries[0], entries[-1]
        state = last.state
        analysis = next((one.analysis for one in reversed(entries) if one.analysis is not None), None)
        head = _packed([encoded(state), None if analysis is None else encoded(analysis)])
        where = (first.seq, last.rollout_id, state.route, state.canary, state.phase.value)
        row = (*where, first.wall_time_s, last.wall_time_s, search_text(state), head)
        self._file.insert("archive", ARCHIVE_COLUMNS, row)
        self._file.insert("stories", STORY_COLUMNS, (last.rollout_id, _packed([_plain(entry) for entry in entries])))

    def trim(self, kept: int) -> None:
        """In a transaction: take out the oldest, but for so many."""
        self._file.execute(
            "DELETE FROM archive WHERE opened <= (SELECT opened FROM archive ORDER BY opened DESC LIMIT 1 OFFSET ?)",
            (kept,),
        )
        self._file.execute("DELETE FROM stories WHERE rollout_id NOT IN (SELECT rollout_id FROM archive)")

    def _rows(self, sql: str, values: tuple[Any, ...]) -> list[tuple[Any, ...]]:
        return self._file.rows(sql, values) if self._file.has_table("archive") else []

    def _row(self, sql: str, values: tuple[Any, ...]) -> tuple[Any, ...]:
        return next(iter(self._rows(sql, values)), ())

    def page(
        self, route: str | None = None, limit: int = 50, before: float | None = None, search: str = ""
    ) -> list[PastRollout]:
        """As `Archive.page`."""
        words = search_words(search)
        sql = f"SELECT {ARCHIVE_COLUMNS}, crc FROM archive WHERE (? IS NULL OR route = ?) AND (? IS NULL OR opened < ?)"
        sql += " AND instr(words, ?) > 0" * len(words) + " ORDER BY opened DESC LIMIT ?"
        before = None if before is None or before == float("inf") else before
        rows = self._rows(sql, (route, route, before, before, *words, max(0, limit)))
        return [one for row in rows if (one := _past(row)) is not None]

    def find(self, rollout_id: str) -> PastRollout:
        """As `Archive.find`."""
        row = self._row(f"SELECT {ARCHIVE_COLUMNS}, crc FROM archive WHERE rollout_id = ?", (rollout_id,))
        found = _past(row) if row else None
        if found is None:
            raise NotFoundError(f"the journal has no rollout {rollout_id!r}")
        return found

    def events(self, rollout_id: str) -> list[JournalEntry]:
        """As `Archive.events`."""
        row = self._row(f"SELECT {STORY_COLUMNS}, crc FROM stories WHERE rollout_id = ?", (rollout_id,))
        if not row:
            raise NotFoundError(f"the journal has no rollout {rollout_id!r}")
        if checksum(row[:-1]) != row[-1]:
            raise JournalError(f"{self._file.place}: the archived events of rollout {rollout_id} are altered")
        return [_entry(rollout_id, one) for one in _unpacked(row[1])]

    def last_rollout(self, route: str, canary: str) -> PastRollout | None:
        """As `Archive.last_rollout`."""
        row = self._row(
            f"SELECT {ARCHIVE_COLUMNS}, crc FROM archive WHERE route = ? AND canary = ? AND phase != 'WITHDRAWN'"
            " ORDER BY opened DESC LIMIT 1",
            (route, canary),
        )
        return _past(row) if row else None


def _past(row: tuple[Any, ...]) -> PastRollout | None:
    """What a row says, None for one that is damaged."""
    *values, crc = row
    if checksum(values) != crc:
        return None
    opened, _, _, _, _, started_s, updated_s, _, head = values
    state, analysis = _unpacked(head)
    try:
        found = None if analysis is None else decoded(analysis, Analysis)
        return PastRollout(decoded(state, Rollout), found, started_s, updated_s, opened)
    except (ValueError, msgspec.ValidationError):  # of a version whose values this one cannot read
        return None


def _plain(entry: JournalEntry) -> list[Any]:
    analysis = None if entry.analysis is None else encoded(entry.analysis)
    return [entry.seq, entry.wall_time_s, entry.kind, encoded(entry.event), encoded(entry.state), analysis]


def _entry(rollout_id: str, values: list[Any]) -> JournalEntry:
    seq, wall_time_s, kind, event, state, analysis = values
    try:
        found = None if analysis is None else decoded(analysis, Analysis)
        return JournalEntry(seq, rollout_id, wall_time_s, kind, decoded(event, Event), decoded(state, Rollout), found)
    except (ValueError, msgspec.ValidationError) as error:
        raise JournalError(f"the archived event {seq} of rollout {rollout_id} cannot be read: {error}") from error


def _packed(value: list[Any]) -> bytes:
    return zlib.compress(json.dumps(value, separators=(",", ":")).encode(), _LEVEL)


def _unpacked(data: bytes) -> list[Any]:
    found: list[Any] = json.loads(zlib.decompress(data))
    return found
