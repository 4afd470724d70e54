"""The journal: what was decided, in a SQLite file that outlives the process.

An event-sourced log with a twist: each row holds the event *and* the state after it, so that the latest state is one
look-up, and folding the events through `step` must reproduce it (`Journal.replay`).

Rules
-----
1. One process, one connection, one writer; `journal_file` sees to it. The methods block: call them through one thread
   of their own.
2. A write that returned is on the disk.
3. A commit that failed (disk full, EIO, a failed fsync) leaves the file in doubt. The journal is then ``broken``: every
   later write raises, reads answer as far as the disk allows (or raise too), and only opening the file again ends it.
4. A damaged file is refused when it is opened. An unreadable journal means stable only.
5. Wall-clock times are for people to read. Order is ``seq``: 1, 2, 3, … without gaps.

A promotion is kept in ``roles`` too, in the transaction of its event: the promoted backend is the route's stable one as
long as the configuration names the same stable backend as it did then. Old rollouts are pruned, and so is the middle of
one that is steered for ever; their seqs are kept.

A weight that an operator set on a route without a rollout is kept in ``weights`` until a rollout on that route next
decides something; then the rollout owns the weight.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec
from msgspec.structs import replace

from gateway.control.journal.file import (
    DELIVERY_COLUMNS,
    EVENT_COLUMNS,
    PRUNED_COLUMNS,
    ROLES_COLUMNS,
    SNAPSHOT_COLUMNS,
    WEIGHT_COLUMNS,
    cannot,
    checksum,
    open_checked,
)
from gateway.control.journal.rows import HandWeight, JournalEntry, Roles, Snapshot, decoded, encoded, finite
from gateway.core.analysis.types import Analysis
from gateway.core.errors import GatewayError, InvalidValueError, JournalError, NotFoundError
from gateway.core.rollout import Event, Rollout, Started, step
from gateway.core.types import WEIGHT_BP_MAX


class Journal:
    """The open journal. Build it with `Journal.open`; see the module for what it promises."""

    def __init__(self, path: Path, connection: sqlite3.Connection, last_seq: int) -> None:
        self.path = path
        self._connection = connection
        self._last_seq = last_seq
        self._broken: str | None = None

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Journal:
        """Open the journal at ``path``, checked from end to end; a missing one is created (mode 0600) with its folders.

        Raises JournalError when it cannot be opened, is open elsewhere, is damaged, or is not a journal.
        """
        path = Path(path).absolute()
        connection, last_seq = open_checked(path)
        return cls(path, connection, last_seq)

    @property
    def broken(self) -> bool:
        """Whether a write has failed, so that none is accepted any more."""
        return self._broken is not None

    def close(self) -> None:
        """Release the file. Closing again does nothing."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

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
        """Write an event that changed a rollout, with the state after it, and return its seq; on return it is on disk.

        ``configured`` is what the configuration names as the route's stable backend, the rollout's own if not given:
        with it a promotion is kept, in the same transaction, for as long as the configuration says so. Raises
        JournalError when it cannot be written: then nothing was decided as far as the journal knows.
        """
        if state.rollout_id != rollout_id:
            raise InvalidValueError(f"the state is of rollout {state.rollout_id!r}, not of {rollout_id!r}")
        seq = self._last_seq + 1
        found = None if analysis is None else encoded(analysis)
        kind = type(event).__name__
        row = (seq, rollout_id, state.route, finite(wall_time_s), kind, encoded(event), encoded(state), found)
        with self._transaction(f"event {seq} ({kind} of rollout {rollout_id})"):
            self._insert("events", EVENT_COLUMNS, row)
            self._connection.execute("DELETE FROM weights WHERE route = ?", (state.route,))
            self._keep_roles(state, state.stable if configured is None else configured, row[3])
            if isinstance(event, Started):
                self._drop_snapshots(state)
        self._last_seq = seq
        return seq

    def _keep_roles(self, state: Rollout, configured: str, wall_time_s: float) -> None:
        if state.swapped:
            row = (state.route, configured, state.canary, state.rollout_id, wall_time_s)
            self._insert("roles", ROLES_COLUMNS, row)
        elif self._one("SELECT 1 FROM roles WHERE route = ? AND rollout_id = ?", (state.route, state.rollout_id)):
            # Its promotion was taken back: the backend before it, be that one promoted too or the configuration's.
            if state.stable == configured:
                self._connection.execute("DELETE FROM roles WHERE route = ?", (state.route,))
            else:
                self._insert("roles", ROLES_COLUMNS, (state.route, configured, state.stable, "", wall_time_s))

    def keep_roles(self, roles: Roles) -> None:
        """Keep whom a promotion made stable that this journal does not know of."""
        with self._transaction(f"the roles of route {roles.route}"):
            self._insert("roles", ROLES_COLUMNS, tuple(msgspec.structs.astuple(roles)))

    def drop_roles(self, route: str) -> None:
        """Forget whom a promotion made stable: the configuration has spoken since."""
        with self._transaction(f"the roles of route {route}"):
            self._connection.execute("DELETE FROM roles WHERE route = ?", (route,))

    def prune(self, rollouts_kept: int) -> int:
        """Take out the events of the oldest rollouts, but for the newest so many and the last one of each route.

        Returns how many events went. The file does not shrink, but what they took is used again.
        """
        old = self._rows(
            "SELECT rollout_id FROM events GROUP BY rollout_id"
            " HAVING rollout_id NOT IN (SELECT rollout_id FROM events WHERE seq IN"
            " (SELECT max(seq) FROM events GROUP BY route)) ORDER BY min(seq) DESC LIMIT -1 OFFSET ?",
            (max(0, rollouts_kept),),
        )
        if not old:
            return 0
        ids = [rollout_id for (rollout_id,) in old]
        marks = ", ".join("?" * len(ids))
        seqs = self._rows(f"SELECT seq FROM events WHERE rollout_id IN ({marks}) ORDER BY seq", tuple(ids))
        with self._transaction(f"the removal of {len(ids)} old rollouts"):
            self._connection.execute(f"DELETE FROM snapshots WHERE rollout_id IN ({marks})", ids)
            self._take_out([seq for (seq,) in seqs])
        return len(seqs)

    def shorten(self, rollout_id: str, events_kept: int) -> int:
        """Take out what happened in the middle of a long rollout, but for its start and the newest so many events.

        Returns how many events went. What is left still replays: after the gap it is taken from the stored state.
        """
        rows = self._rows("SELECT seq FROM events WHERE rollout_id = ? ORDER BY seq", (rollout_id,))
        seqs = [seq for (seq,) in rows[1 : max(1, len(rows) - events_kept)]]
        if seqs:
            with self._transaction(f"the removal of {len(seqs)} events of rollout {rollout_id}"):
                self._take_out(seqs)
        return len(seqs)

    def _take_out(self, seqs: list[int]) -> None:
        """In a transaction: remove these events, and remember that they were there."""
        ranges = dict(self._rows(f"SELECT {PRUNED_COLUMNS} FROM pruned", ())) | {seq: seq for seq in seqs}
        self._connection.executemany("DELETE FROM events WHERE seq = ?", [(seq,) for seq in seqs])
        self._connection.execute("DELETE FROM pruned")
        for first, last in _joined(ranges):
            self._insert("pruned", PRUNED_COLUMNS, (first, last))

    def remember_delivery(self, hook: str, rollout_id: str, revision: int) -> None:
        """Remember that ``hook`` has been told of everything up to this change of this rollout.

        A change that is not in the file, or lies before what is known, moves nothing. Raises JournalError when it
        cannot be written.
        """
        newest = self._one("SELECT state FROM events WHERE rollout_id = ? ORDER BY seq DESC LIMIT 1", (rollout_id,))
        if not newest:
            return
        # Counted from the end: the middle of a long rollout may have been taken out.
        after = decoded(newest[0], Rollout).revision - revision
        row = self._one(
            "SELECT seq FROM events WHERE rollout_id = ? ORDER BY seq DESC LIMIT 1 OFFSET ?", (rollout_id, after)
        )
        if row and after >= 0:
            self.move_delivery(hook, row[0])

    def move_delivery(self, hook: str, seq: int) -> None:
        """Remember that ``hook`` has been told of everything up to ``seq``; never moves back. Raises JournalError."""
        with self._transaction(f"the deliveries of hook {hook}"):
            if self.deliveries().get(hook, -1) < seq:
                self._insert("deliveries", DELIVERY_COLUMNS, (hook, seq))

    def save_snapshot(self, rollout_id: str, analysis_state: bytes, evidence: bytes, wall_time_s: float) -> None:
        """Keep what the analysis knows, in place of what was kept before; dropped when the route's next rollout starts.

        Raises NotFoundError for a rollout without events, JournalError when it cannot be written.
        """
        seq = self._one("SELECT max(seq) FROM events WHERE rollout_id = ?", (rollout_id,))[0]
        if seq is None:
            raise _unknown(rollout_id)
        row = (rollout_id, seq, finite(wall_time_s), bytes(analysis_state), bytes(evidence))
        with self._transaction(f"the snapshot of rollout {rollout_id}"):
            self._insert("snapshots", SNAPSHOT_COLUMNS, row)

    def set_weight(self, route: str, stable: str, canary: str, weight_bp: int, by: str, wall_time_s: float) -> None:
        """Keep a weight that was set by hand on a route without a rollout, 0..10000 bp."""
        if not 0 <= weight_bp <= WEIGHT_BP_MAX:
            raise InvalidValueError(f"weight_bp must be from 0 to {WEIGHT_BP_MAX} basis points, not {weight_bp!r}")
        row = (route, stable, canary, int(weight_bp), by, finite(wall_time_s))
        with self._transaction(f"the weight of route {route}"):
            self._insert("weights", WEIGHT_COLUMNS, row)

    def _insert(self, table: str, columns: str, row: tuple[Any, ...]) -> None:
        marks = ", ".join("?" * (len(row) + 1))
        verb = "INSERT" if table == "events" else "INSERT OR REPLACE"
        self._connection.execute(f"{verb} INTO {table} ({columns}, crc) VALUES ({marks})", (*row, checksum(row)))

    def _drop_snapshots(self, started: Rollout) -> None:
        self._connection.execute(
            "DELETE FROM snapshots WHERE rollout_id IN (SELECT rollout_id FROM events WHERE route = ?)",
            (started.route,),
        )

    @contextmanager
    def _transaction(self, what: str) -> Iterator[None]:
        if self._broken is not None:
            raise JournalError(f"journal {self.path}: {what} was not written, an earlier write failed: {self._broken}")
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            yield
            self._connection.execute("COMMIT")
        except sqlite3.Error as error:
            self._broken = str(error)
            self._roll_back()
            raise cannot(self.path, f"write {what} to", error) from error
        except BaseException:
            self._roll_back()
            raise

    def _roll_back(self) -> None:
        try:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
        except sqlite3.Error as error:
            self._broken = self._broken or str(error)

    # --- reading ---

    def latest(self, route: str) -> Rollout | None:
        """Return the state of the rollout that last changed on a route, None without one."""
        row = self._one("SELECT state FROM events WHERE route = ? ORDER BY seq DESC LIMIT 1", (route,))
        return decoded(row[0], Rollout) if row else None

    def rollouts(self, route: str | None = None, limit: int = 50, before: str | None = None) -> list[Rollout]:
        """Return the latest state of each rollout, last started first; ``before`` a rollout's id goes on from there.

        Raises NotFoundError for an unknown ``before``.
        """
        first = self._last_seq + 1
        if before is not None:
            first = self._one("SELECT min(seq) FROM events WHERE rollout_id = ?", (before,))[0]
            if first is None:
                raise _unknown(before)
        rows = self._rows(
            "SELECT state FROM (SELECT min(seq) AS opened, max(seq) AS head FROM events GROUP BY rollout_id)"
            " JOIN events ON seq = head WHERE opened < ? AND (? IS NULL OR route = ?) ORDER BY opened DESC LIMIT ?",
            (first, route, route, max(0, limit)),
        )
        return [decoded(state, Rollout) for (state,) in rows]

    def events(self, rollout_id: str) -> list[JournalEntry]:
        """Return all that happened to a rollout, oldest first. Raises NotFoundError for an unknown one."""
        rows = self._rows(f"SELECT {EVENT_COLUMNS} FROM events WHERE rollout_id = ? ORDER BY seq", (rollout_id,))
        entries = [self._entry(row) for row in rows]
        if not entries:
            raise _unknown(rollout_id)
        return entries

    def replay(self, rollout_id: str) -> Rollout:
        """Fold a rollout's events through `step` and return its state, which is the stored one.

        Only ``reason`` is taken from the file unchecked: a later version may say the same thing in other words.
        Raises JournalError with the seq where the two part, NotFoundError for an unknown rollout.
        """
        state, seq = Rollout(), 0
        for entry in self.events(rollout_id):
            if entry.state.revision > state.revision + 1 and self._taken_out_between(seq, entry.seq):
                state, seq = entry.state, entry.seq
                continue
            seq = entry.seq
            try:
                stepped, _ = step(state, entry.event)
            except GatewayError as error:
                raise self._diverged(entry, str(error)) from error
            state = replace(stepped, reason=entry.state.reason)
            if state != entry.state:
                raise self._diverged(entry, f"the machine says {stepped.phase} at {stepped.weight_bp} bp")
        return state

    def _taken_out_between(self, first: int, last: int) -> bool:
        return bool(self._one("SELECT 1 FROM pruned WHERE first_seq < ? AND last_seq > ?", (last, first)))

    def load_snapshot(self, rollout_id: str) -> Snapshot | None:
        """Return the last snapshot of a rollout, None without one."""
        row = self._one(f"SELECT {SNAPSHOT_COLUMNS} FROM snapshots WHERE rollout_id = ?", (rollout_id,))
        return Snapshot(*row) if row else None

    def roles(self) -> dict[str, Roles]:
        """Return whom promotions have made stable, by route."""
        return {row[0]: Roles(*row) for row in self._rows(f"SELECT {ROLES_COLUMNS} FROM roles ORDER BY route", ())}

    def deliveries(self) -> dict[str, int]:
        """Return the seq up to which each hook has been told."""
        return dict(self._rows(f"SELECT {DELIVERY_COLUMNS} FROM deliveries ORDER BY hook", ()))

    @property
    def last_seq(self) -> int:
        """The seq of the newest event, 0 before the first."""
        return self._last_seq

    def entries_after(self, seq: int) -> list[JournalEntry]:
        """Return all events after ``seq``, oldest first."""
        rows = self._rows(f"SELECT {EVENT_COLUMNS} FROM events WHERE seq > ? ORDER BY seq", (seq,))
        return [self._entry(row) for row in rows]

    def weights(self) -> dict[str, HandWeight]:
        """Return the weights set by hand that are in force, by route."""
        rows = self._rows(f"SELECT {WEIGHT_COLUMNS} FROM weights ORDER BY route", ())
        return {row[0]: HandWeight(*row) for row in rows}

    def _entry(self, row: tuple[Any, ...]) -> JournalEntry:
        seq, rollout_id, _route, wall_time_s, kind, event, state, analysis = row
        try:
            found = None if analysis is None else decoded(analysis, Analysis)
            return JournalEntry(
                seq, rollout_id, wall_time_s, kind, decoded(event, Event), decoded(state, Rollout), found
            )
        except (msgspec.ValidationError, ValueError) as error:
            raise JournalError(f"journal {self.path}: event {seq} ({kind}) cannot be read: {error}") from error

    def _diverged(self, entry: JournalEntry, why: str) -> JournalError:
        return JournalError(
            f"journal {self.path}: replaying rollout {entry.rollout_id} parts from the file at event {entry.seq}"
            f" ({entry.kind}), which says {entry.state.phase} at {entry.state.weight_bp} bp: {why};"
            " abort the rollout with the version that wrote it, or start a new one"
        )

    def _rows(self, sql: str, values: tuple[Any, ...]) -> list[tuple[Any, ...]]:
        try:
            return self._connection.execute(sql, values).fetchall()
        except sqlite3.Error as error:
            raise cannot(self.path, "read", error) from error

    def _one(self, sql: str, values: tuple[Any, ...]) -> tuple[Any, ...]:
        """Return the first row, or the empty tuple."""
        rows = self._rows(sql, values)
        return rows[0] if rows else ()


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
