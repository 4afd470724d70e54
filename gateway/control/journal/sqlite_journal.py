"""The journal in SQLite: one row for an event with the state after it, and small tables for what belongs to them."""

from __future__ import annotations

from typing import Any

import msgspec

from gateway.control.journal.rows import (
    HandWeight,
    JournalEntry,
    PastRollout,
    Roles,
    Snapshot,
    decoded,
    encoded,
    finite,
)
from gateway.control.journal.sqlite_archive import SqliteArchive
from gateway.control.journal.sqlite_file import DAMAGED, SqliteFile, checksum
from gateway.control.journal.sqlite_schema import (
    DELIVERY_COLUMNS,
    EVENT_COLUMNS,
    HISTORY,
    PRUNED_COLUMNS,
    ROLES_COLUMNS,
    SERIES_COLUMNS,
    SNAPSHOT_COLUMNS,
    WEIGHT_COLUMNS,
)
from gateway.control.journal.store import ARCHIVED_MAX, Journal
from gateway.core.analysis.types import Analysis
from gateway.core.errors import InvalidValueError, JournalError, NotFoundError
from gateway.core.rollout import Event, Rollout, Started
from gateway.core.types import WEIGHT_BP_MAX

_SMALL_TABLES = (
    ("weights", WEIGHT_COLUMNS),
    ("snapshots", SNAPSHOT_COLUMNS),
    ("roles", ROLES_COLUMNS),
    ("pruned", PRUNED_COLUMNS),
    ("deliveries", DELIVERY_COLUMNS),
)


class SqliteJournal(Journal):
    """The journal of an open file. Made of a file that `check` has accepted."""

    archive: SqliteArchive

    def __init__(self, file: SqliteFile, last_seq: int) -> None:
        self.place = file.place
        self.file = file
        self.archive = SqliteArchive(file)
        self._last_seq = last_seq

    @property
    def last_seq(self) -> int:
        """The seq of the newest event, 0 before the first."""
        return self._last_seq

    # --- writing ---

    def append(
        self,
        rollout_id: str,
        event: Event,
        state: Rollout,
        analysis: Analysis | None,
        wall_time_s: float,
        configured: str | None = None,
    ) -> int:
        """As `Journal.append`."""
        if state.rollout_id != rollout_id:
            raise InvalidValueError(f"the state is of rollout {state.rollout_id!r}, not of {rollout_id!r}")
        seq = self._last_seq + 1
        found = None if analysis is None else encoded(analysis)
        kind = type(event).__name__
        row = (seq, rollout_id, state.route, finite(wall_time_s), kind, encoded(event), encoded(state), found)
        with self.file.transaction(f"event {seq} ({kind} of rollout {rollout_id})"):
            self.file.insert("events", EVENT_COLUMNS, row, replace=False)
            self.file.execute("DELETE FROM weights WHERE route = ?", (state.route,))
            self._keep_roles(state, state.stable if configured is None else configured, row[3])
            if isinstance(event, Started):
                self._drop_snapshots(state)
        self._last_seq = seq
        return seq

    def _keep_roles(self, state: Rollout, configured: str, wall_time_s: float) -> None:
        if state.swapped:
            row = (state.route, configured, state.canary, state.rollout_id, wall_time_s)
            self.file.insert("roles", ROLES_COLUMNS, row)
        elif self.file.row("SELECT 1 FROM roles WHERE route = ? AND rollout_id = ?", (state.route, state.rollout_id)):
            # Its promotion was taken back: the backend before it, be that one promoted too or the configuration's.
            if state.stable == configured:
                self.file.execute("DELETE FROM roles WHERE route = ?", (state.route,))
            else:
                self.file.insert("roles", ROLES_COLUMNS, (state.route, configured, state.stable, "", wall_time_s))

    def _drop_snapshots(self, started: Rollout) -> None:
        self.file.execute(
            "DELETE FROM snapshots WHERE rollout_id IN (SELECT rollout_id FROM events WHERE route = ?)",
            (started.route,),
        )

    def keep_roles(self, roles: Roles) -> None:
        """As `Journal.keep_roles`."""
        with self.file.transaction(f"the roles of route {roles.route}"):
            self.file.insert("roles", ROLES_COLUMNS, tuple(msgspec.structs.astuple(roles)))

    def drop_roles(self, route: str) -> None:
        """As `Journal.drop_roles`."""
        with self.file.transaction(f"the roles of route {route}"):
            self.file.execute("DELETE FROM roles WHERE route = ?", (route,))

    def prune(self, rollouts_kept: int, archived: int = ARCHIVED_MAX) -> int:
        """As `Journal.prune`. The file does not shrink, but what the rows took is used again."""
        old = self.file.rows(
            "SELECT rollout_id FROM events GROUP BY rollout_id"
            " HAVING rollout_id NOT IN (SELECT rollout_id FROM events WHERE seq IN"
            " (SELECT max(seq) FROM events GROUP BY route)) ORDER BY min(seq) DESC LIMIT -1 OFFSET ?",
            (max(0, rollouts_kept),),
        )
        if not old:
            return 0
        stories = [self._stored_events(rollout_id) for (rollout_id,) in old]
        with self.file.transaction(f"{len(old)} old rollouts into the archive"):
            self._make_history()
            for story in stories:
                self.archive.put(story)
                for table in ("snapshots", "series"):
                    self.file.execute(f"DELETE FROM {table} WHERE rollout_id = ?", (story[0].rollout_id,))
            self.archive.trim(archived)
            self._take_out(sorted(entry.seq for story in stories for entry in story))
        return sum(map(len, stories))

    def shorten(self, rollout_id: str, events_kept: int) -> int:
        """As `Journal.shorten`."""
        rows = self.file.rows("SELECT seq FROM events WHERE rollout_id = ? ORDER BY seq", (rollout_id,))
        seqs = [seq for (seq,) in rows[1 : max(1, len(rows) - events_kept)]]
        if seqs:
            with self.file.transaction(f"the removal of {len(seqs)} events of rollout {rollout_id}"):
                self._take_out(seqs)
        return len(seqs)

    def _make_history(self) -> None:
        for statement in HISTORY:
            self.file.execute(statement)

    def _take_out(self, seqs: list[int]) -> None:
        """In a transaction: remove these events, and remember that they were there."""
        ranges = dict(self.file.rows(f"SELECT {PRUNED_COLUMNS} FROM pruned")) | {seq: seq for seq in seqs}
        for seq in seqs:
            self.file.execute("DELETE FROM events WHERE seq = ?", (seq,))
        self.file.execute("DELETE FROM pruned")
        for first, last in _joined(ranges):
            self.file.insert("pruned", PRUNED_COLUMNS, (first, last))

    def remember_delivery(self, hook: str, rollout_id: str, revision: int) -> None:
        """As `Journal.remember_delivery`."""
        newest = self.file.row("SELECT state FROM events WHERE rollout_id = ? ORDER BY seq DESC LIMIT 1", (rollout_id,))
        if not newest:
            return
        # Counted from the end: the middle of a long rollout may have been taken out.
        after = decoded(newest[0], Rollout).revision - revision
        row = self.file.row(
            "SELECT seq FROM events WHERE rollout_id = ? ORDER BY seq DESC LIMIT 1 OFFSET ?", (rollout_id, after)
        )
        if row and after >= 0:
            self.move_delivery(hook, row[0])

    def move_delivery(self, hook: str, seq: int) -> None:
        """As `Journal.move_delivery`."""
        with self.file.transaction(f"the deliveries of hook {hook}"):
            if self.deliveries().get(hook, -1) < seq:
                self.file.insert("deliveries", DELIVERY_COLUMNS, (hook, seq))

    def save_snapshot(self, rollout_id: str, analysis_state: bytes, evidence: bytes, wall_time_s: float) -> None:
        """As `Journal.save_snapshot`."""
        seq = self.file.row("SELECT max(seq) FROM events WHERE rollout_id = ?", (rollout_id,))[0]
        if seq is None:
            raise _unknown(rollout_id)
        row = (rollout_id, seq, finite(wall_time_s), bytes(analysis_state), bytes(evidence))
        with self.file.transaction(f"the snapshot of rollout {rollout_id}"):
            self.file.insert("snapshots", SNAPSHOT_COLUMNS, row)

    def save_series(self, rollout_id: str, points: bytes) -> None:
        """As `Journal.save_series`."""
        with self.file.transaction(f"the evidence over time of rollout {rollout_id}"):
            self._make_history()
            self.file.insert("series", SERIES_COLUMNS, (rollout_id, bytes(points)))

    def set_weight(self, route: str, stable: str, canary: str, weight_bp: int, by: str, wall_time_s: float) -> None:
        """As `Journal.set_weight`."""
        if not 0 <= weight_bp <= WEIGHT_BP_MAX:
            raise InvalidValueError(f"weight_bp must be from 0 to {WEIGHT_BP_MAX} basis points, not {weight_bp!r}")
        row = (route, stable, canary, int(weight_bp), by, finite(wall_time_s))
        with self.file.transaction(f"the weight of route {route}"):
            self.file.insert("weights", WEIGHT_COLUMNS, row)

    # --- reading ---

    def latest(self, route: str) -> Rollout | None:
        """As `Journal.latest`."""
        row = self.file.row("SELECT state FROM events WHERE route = ? ORDER BY seq DESC LIMIT 1", (route,))
        return decoded(row[0], Rollout) if row else None

    def rollouts(self, route: str | None = None, limit: int = 50, before: str | None = None) -> list[Rollout]:
        """As `Journal.rollouts`."""
        first = self._last_seq + 1
        if before is not None:
            first = self.file.row("SELECT min(seq) FROM events WHERE rollout_id = ?", (before,))[0]
            if first is None:
                raise _unknown(before)
        rows = self.file.rows(
            "SELECT state FROM (SELECT min(seq) AS opened, max(seq) AS head FROM events GROUP BY rollout_id)"
            " JOIN events ON seq = head WHERE opened < ? AND (? IS NULL OR route = ?) ORDER BY opened DESC LIMIT ?",
            (first, route, route, max(0, limit)),
        )
        return [decoded(state, Rollout) for (state,) in rows]

    def recent(self) -> list[PastRollout]:
        """As `Journal.recent`."""
        rows = self.file.rows(
            "SELECT head.state, (SELECT analysis FROM events AS one WHERE one.rollout_id = head.rollout_id"
            " AND analysis IS NOT NULL ORDER BY seq DESC LIMIT 1), first.wall_time_s, head.wall_time_s, first.seq"
            " FROM (SELECT min(seq) AS opened, max(seq) AS last FROM events GROUP BY rollout_id)"
            " JOIN events AS first ON first.seq = opened JOIN events AS head ON head.seq = last ORDER BY opened"
        )
        return [
            PastRollout(decoded(state, Rollout), None if analysis is None else decoded(analysis, Analysis), *where)
            for state, analysis, *where in rows
        ]

    def events(self, rollout_id: str) -> list[JournalEntry]:
        """As `Journal.events`."""
        return self._stored_events(rollout_id) or self.archive.events(rollout_id)

    def _stored_events(self, rollout_id: str) -> list[JournalEntry]:
        rows = self.file.rows(f"SELECT {EVENT_COLUMNS} FROM events WHERE rollout_id = ? ORDER BY seq", (rollout_id,))
        return [self._entry(row) for row in rows]

    def entries_after(self, seq: int) -> list[JournalEntry]:
        """As `Journal.entries_after`."""
        rows = self.file.rows(f"SELECT {EVENT_COLUMNS} FROM events WHERE seq > ? ORDER BY seq", (seq,))
        return [self._entry(row) for row in rows]

    def pruned_between(self, first: int, last: int) -> bool:
        """As `Journal.pruned_between`."""
        return bool(self.file.row("SELECT 1 FROM pruned WHERE first_seq < ? AND last_seq > ?", (last, first)))

    def load_snapshot(self, rollout_id: str) -> Snapshot | None:
        """As `Journal.load_snapshot`."""
        row = self.file.row(f"SELECT {SNAPSHOT_COLUMNS} FROM snapshots WHERE rollout_id = ?", (rollout_id,))
        return Snapshot(*row) if row else None

    def load_series(self, rollout_id: str) -> bytes | None:
        """As `Journal.load_series`."""
        if not self.file.has_table("series"):
            return None
        row = self.file.row(f"SELECT {SERIES_COLUMNS}, crc FROM series WHERE rollout_id = ?", (rollout_id,))
        return row[1] if row and checksum(row[:-1]) == row[-1] else None

    def roles(self) -> dict[str, Roles]:
        """As `Journal.roles`."""
        return {row[0]: Roles(*row) for row in self.file.rows(f"SELECT {ROLES_COLUMNS} FROM roles ORDER BY route")}

    def deliveries(self) -> dict[str, int]:
        """As `Journal.deliveries`."""
        return dict(self.file.rows(f"SELECT {DELIVERY_COLUMNS} FROM deliveries ORDER BY hook"))

    def weights(self) -> dict[str, HandWeight]:
        """As `Journal.weights`."""
        rows = self.file.rows(f"SELECT {WEIGHT_COLUMNS} FROM weights ORDER BY route")
        return {row[0]: HandWeight(*row) for row in rows}

    def _entry(self, row: tuple[Any, ...]) -> JournalEntry:
        seq, rollout_id, _route, wall_time_s, kind, event, state, analysis = row
        try:
            found = None if analysis is None else decoded(analysis, Analysis)
            return JournalEntry(
                seq, rollout_id, wall_time_s, kind, decoded(event, Event), decoded(state, Rollout), found
            )
        except (msgspec.ValidationError, ValueError) as error:
            raise JournalError(f"{self.place}: event {seq} ({kind}) cannot be read: {error}") from error


def check(file: SqliteFile) -> int:
    """Read every row of the journal; return the last seq. Raises JournalError that names the first damaged row."""
    for table, columns in _SMALL_TABLES:
        for row, whole in file.checked(table, columns, "1"):
            if not whole:
                raise JournalError(f"{file.place}: row {row[0]!r} of table {table} is altered; {DAMAGED}")
    last_seq, pruned = 0, dict(file.rows(f"SELECT {PRUNED_COLUMNS} FROM pruned"))
    for row, whole in file.checked("events", EVENT_COLUMNS, "seq"):
        last_seq = pruned.get(last_seq + 1, last_seq) + 1
        if row[0] != last_seq:
            raise JournalError(f"{file.place}: event {last_seq} is missing; {DAMAGED}")
        if not whole:
            raise JournalError(f"{file.place}: event {last_seq} is altered; {DAMAGED}")
    return int(pruned.get(last_seq + 1, last_seq))


def _joined(ranges: dict[int, int]) -> list[tuple[int, int]]:
    """Ranges of seqs, first to last, with those that touch each other made one."""
    joined: list[tuple[int, int]] = []
    for first, last in sorted(ranges.items()):
        if joined and joined[-1][1] == first - 1:
            joined[-1] = (joined[-1][0], last)
        else:
            joined.append((first, last))
    return joined


def _unknown(rollout_id: str) -> NotFoundError:
    return NotFoundError(f"the journal has no rollout {rollout_id!r}")
