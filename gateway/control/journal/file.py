"""The file under the journal: its schema, its lock, and the checks that it passes before anything in it is believed.

`open_checked` gives a connection that holds the file alone and syncs what it commits. Its settings:

* ``locking_mode=EXCLUSIVE``: a second gateway, or a curious reader whose lock would stall a commit, is refused.
* ``synchronous=FULL`` with ``journal_mode=TRUNCATE``: unlike DELETE, a commit is complete only after the truncation of
  SQLite's rollback journal was itself synced, so power loss cannot take it back.
* Not WAL: one flipped bit in a WAL frame silently drops every later commit, and with it perhaps the row that says
  "rolled back"; here all rows are in one file and each has a checksum. (The WAL-reset bug of SQLite 3.7.0 to 3.51.2
  needs WAL and several connections; there is neither.) DecisionPipeline are rare, so the slower commit costs nothing.

A torn tail is SQLite's to mend: a transaction that did not commit is gone. A committed row that no longer matches its
checksum, a gap in ``seq`` or a failed integrity check is damage, and the file is refused: the damaged row may be the
one that rolled a canary back.
"""

from __future__ import annotations

import json
import os
import sqlite3
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from gateway.core.errors import JournalError
from gateway.core.types import WEIGHT_BP_MAX

APPLICATION_ID = 0x43475731  # "CGW1", in the header of the file

# All columns but the checksum, in the order in which they are summed and written.
EVENT_COLUMNS = "seq, rollout_id, route, wall_time_s, kind, event, state, analysis"
SNAPSHOT_COLUMNS = "rollout_id, seq, wall_time_s, analysis_state, evidence"
WEIGHT_COLUMNS = "route, stable, canary, weight_bp, by, wall_time_s"
ROLES_COLUMNS = "route, configured, stable, rollout_id, wall_time_s"
PRUNED_COLUMNS = "first_seq, last_seq"
DELIVERY_COLUMNS = "hook, seq"


def _number_revisions(connection: sqlite3.Connection) -> None:
    """Give the rows of before `Rollout.revision` their numbers, and their plans the `on_no_data` of then."""
    revisions: dict[str, int] = {}
    for *row, _ in connection.execute(f"SELECT {EVENT_COLUMNS}, crc FROM events ORDER BY seq").fetchall():
        seq, rollout_id, *_rest, event, state, _analysis = row
        revisions[rollout_id] = number = revisions.get(rollout_id, 0) + 1
        told, stands = json.loads(event), json.loads(state)
        stands["revision"] = number
        for plan in (told.get("plan"), stands.get("plan")):
            if plan is not None:
                plan.setdefault("on_no_data", None)
        row[5], row[6] = (json.dumps(value, separators=(",", ":")) for value in (told, stands))
        connection.execute(
            "UPDATE events SET event = ?, state = ?, crc = ? WHERE seq = ?", (row[5], row[6], checksum(row), seq)
        )


def _keep_promotions(connection: sqlite3.Connection) -> None:
    """What was promoted last on each route is its stable backend from now on."""
    heads = "SELECT max(seq) FROM events GROUP BY route"
    latest = f"SELECT route, rollout_id, wall_time_s, state FROM events WHERE seq IN ({heads})"
    for route, rollout_id, wall_time_s, text in connection.execute(latest).fetchall():
        state = json.loads(text)
        if state["phase"] == "PROMOTED" and state["weight_bp"] == WEIGHT_BP_MAX:
            row = (route, state["stable"], state["canary"], rollout_id, wall_time_s)
            connection.execute("INSERT INTO roles VALUES (?, ?, ?, ?, ?, ?)", (*row, checksum(row)))


# Migration n takes a file from user_version n to n + 1. Only ever append.
MIGRATIONS: tuple[tuple[str | Callable[[sqlite3.Connection], None], ...], ...] = (
    (
        """CREATE TABLE events (
            seq INTEGER PRIMARY KEY,
            rollout_id TEXT NOT NULL,
            route TEXT NOT NULL,
            wall_time_s REAL NOT NULL,
            kind TEXT NOT NULL,
            event TEXT NOT NULL,
            state TEXT NOT NULL,
            analysis TEXT,
            crc INTEGER NOT NULL
        )""",
        "CREATE INDEX events_by_rollout ON events (rollout_id, seq)",
        "CREATE INDEX events_by_route ON events (route, seq)",
        """CREATE TABLE snapshots (
            rollout_id TEXT PRIMARY KEY,
            seq INTEGER NOT NULL,
            wall_time_s REAL NOT NULL,
            analysis_state BLOB NOT NULL,
            evidence BLOB NOT NULL,
            crc INTEGER NOT NULL
        )""",
        """CREATE TABLE weights (
            route TEXT PRIMARY KEY,
            weight_bp INTEGER NOT NULL,
            by TEXT NOT NULL,
            wall_time_s REAL NOT NULL,
            crc INTEGER NOT NULL
        )""",
    ),
    (
        # A weight is a wish about two backends. Rows that do not name them cannot be honoured.
        "DROP TABLE weights",
        """CREATE TABLE weights (
            route TEXT PRIMARY KEY,
            stable TEXT NOT NULL,
            canary TEXT NOT NULL,
            weight_bp INTEGER NOT NULL,
            by TEXT NOT NULL,
            wall_time_s REAL NOT NULL,
            crc INTEGER NOT NULL
        )""",
    ),
    (
        # Whom a promotion has made a route's stable backend, as long as the configuration still names ``configured``.
        """CREATE TABLE roles (
            route TEXT PRIMARY KEY,
            configured TEXT NOT NULL,
            stable TEXT NOT NULL,
            rollout_id TEXT NOT NULL,
            wall_time_s REAL NOT NULL,
            crc INTEGER NOT NULL
        )""",
        # The seqs of old rollouts that were taken out, so that a row which is merely missing is still missed.
        """CREATE TABLE pruned (
            first_seq INTEGER PRIMARY KEY,
            last_seq INTEGER NOT NULL,
            crc INTEGER NOT NULL
        )""",
        _number_revisions,
        _keep_promotions,
    ),
    (
        # How far each hook has been told: all up to ``seq``.
        """CREATE TABLE deliveries (
            hook TEXT PRIMARY KEY,
            seq INTEGER NOT NULL,
            crc INTEGER NOT NULL
        )""",
    ),
)

_SMALL_TABLES = (
    ("weights", WEIGHT_COLUMNS),
    ("snapshots", SNAPSHOT_COLUMNS),
    ("roles", ROLES_COLUMNS),
    ("pruned", PRUNED_COLUMNS),
    ("deliveries", DELIVERY_COLUMNS),
)

MENDS = {
    "SQLITE_BUSY": "another process has it open: stop that one, or give this gateway a path of its own",
    "SQLITE_CANTOPEN": "make the file and its directory writable for the gateway's user",
    "SQLITE_READONLY": "make the file and its directory writable for the gateway's user",
    "SQLITE_FULL": "free space on the disk: the control plane then starts anew by itself",
    "SQLITE_MISUSE": "it was closed: open it again",
    "SQLITE_IOERR_WRITE": "free space or mend the disk; once there is room the control plane starts anew by itself",
    "SQLITE_IOERR": "free space or mend the disk, then restart the control plane",
}
MEND_DAMAGE = "the file is damaged: restore a copy, or move it away and start anew without its history"


def open_checked(path: Path) -> tuple[sqlite3.Connection, int]:
    """Open the file, create it if it is missing (mode 0600, with its folders), check every page and row of it.

    Returns the connection and the last seq (0 when empty). Raises JournalError with what is wrong and how to mend it.
    """
    try:
        _create(path)
        # Any thread may call, one at a time; SQLite's own mutex guards against a caller who breaks that rule.
        connection = sqlite3.connect(path, timeout=0.0, isolation_level=None, check_same_thread=False)
    except (OSError, sqlite3.Error) as error:
        raise cannot(path, "open", error) from error
    try:
        _lock(connection)
        _migrate(path, connection)
        return connection, _check(path, connection)
    except (sqlite3.Error, UnicodeDecodeError) as error:  # the latter where SQLite quotes a damaged schema
        connection.close()
        raise cannot(path, "open", error) from error
    except BaseException:
        connection.close()
        raise


def checksum(row: Iterable[Any]) -> int:
    """Return the CRC-32 that is stored beside a row, over all its other columns as SQLite returns them."""
    # ascii(), unlike repr(), does not depend on the Unicode tables of the Python at hand.
    return zlib.crc32(ascii(tuple(row)).encode("ascii"))


def cannot(path: Path, do: str, error: OSError | sqlite3.Error | UnicodeDecodeError) -> JournalError:
    """Map a foreign error: what could not be done, where, why, and how to mend it."""
    unnamed = "SQLITE_CANTOPEN" if isinstance(error, OSError) else ""
    if isinstance(error, sqlite3.ProgrammingError):
        unnamed = "SQLITE_MISUSE"
    name = getattr(error, "sqlite_errorname", unnamed)
    mends = [mend for prefix, mend in MENDS.items() if name.startswith(prefix)]
    return JournalError(f"cannot {do} journal {path}: {error}; {mends[0] if mends else MEND_DAMAGE}")


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


def _migrate(path: Path, connection: sqlite3.Connection) -> None:
    """Bring the file to the newest schema, each migration in a transaction of its own with the number it reaches."""
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    tables = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
    ours = connection.execute("PRAGMA application_id").fetchone()[0] == APPLICATION_ID
    if tables and not (ours and version > 0):
        raise JournalError(f"journal {path}: this is a SQLite file of something else; give the journal another path")
    if version > len(MIGRATIONS):
        raise JournalError(
            f"journal {path}: its schema is version {version}, this gateway knows {len(MIGRATIONS)};"
            " start the newer gateway that wrote it, or give another path"
        )
    for number in range(version, len(MIGRATIONS)):
        connection.execute("BEGIN IMMEDIATE")
        for part in MIGRATIONS[number]:
            connection.execute(part) if isinstance(part, str) else part(connection)
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {number + 1}")
        connection.execute("COMMIT")


def _check(path: Path, connection: sqlite3.Connection) -> int:
    """Read every page and every row; return the last seq. Raises JournalError that names the first damaged row."""
    verdict = connection.execute("PRAGMA integrity_check(1)").fetchone()[0]
    if verdict != "ok":
        raise JournalError(f"journal {path}: {verdict}; {MEND_DAMAGE}")
    for table, columns in _SMALL_TABLES:
        for *row, crc in connection.execute(f"SELECT {columns}, crc FROM {table}"):
            if checksum(row) != crc:
                raise JournalError(f"journal {path}: the row {row[0]!r} of {table} is altered; {MEND_DAMAGE}")
    last_seq, pruned = 0, dict(connection.execute(f"SELECT {PRUNED_COLUMNS} FROM pruned"))
    for *row, crc in connection.execute(f"SELECT {EVENT_COLUMNS}, crc FROM events ORDER BY seq"):
        last_seq = pruned.get(last_seq + 1, last_seq) + 1
        if row[0] != last_seq:
            raise JournalError(f"journal {path}: event {last_seq} is missing; {MEND_DAMAGE}")
        if checksum(row) != crc:
            raise JournalError(f"journal {path}: event {last_seq} is altered; {MEND_DAMAGE}")
    return int(pruned.get(last_seq + 1, last_seq))
