"""The schema of the SQLite file: its tables, and which files are refused.

Version 1 is the first that was released. A later one that needs other tables adds a step from 1 to 2 here. What a file
of another version, or of something else, is refused with says what to do; nothing in it is changed.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path

from gateway.core.errors import JournalError

APPLICATION_ID = 0x43475753  # "CGWS", in the header of the file
_PRERELEASE_ID = 0x43475731  # "CGW1": what pre-releases wrote
VERSION = 1

# All columns but the checksum, in the order in which they are summed and written.
EVENT_COLUMNS = "seq, rollout_id, route, wall_time_s, kind, event, state, analysis"
SNAPSHOT_COLUMNS = "rollout_id, seq, wall_time_s, analysis_state, evidence"
WEIGHT_COLUMNS = "route, stable, canary, weight_bp, by, wall_time_s"
ROLES_COLUMNS = "route, configured, stable, rollout_id, wall_time_s"
PRUNED_COLUMNS = "first_seq, last_seq"
DELIVERY_COLUMNS = "hook, seq"
CONFIGURATION_COLUMNS = "revision, stored"
ANSWER_COLUMNS = "principal, key, at_s, answer"
AUDIT_COLUMNS = "id, entry"
ARCHIVE_COLUMNS = "opened, rollout_id, route, canary, phase, started_s, updated_s, words, head"
STORY_COLUMNS = "rollout_id, story"
SERIES_COLUMNS = "rollout_id, points"
PAST_COLUMNS = "route, past, wall_time_s"

# Added to version 1, and not worth another: a gateway that does not know this table goes on without it. It is made with
# its first row, in old files and new: they must open also where the disk has no room for it.
PASTS = """CREATE TABLE IF NOT EXISTS pasts (
        route TEXT PRIMARY KEY,
        past TEXT NOT NULL,
        wall_time_s REAL NOT NULL,
        crc INTEGER NOT NULL
    )"""

# Added likewise: what is kept of old rollouts, to be shown.
HISTORY = (
    # Old rollouts (sqlite_archive.py).
    """CREATE TABLE IF NOT EXISTS archive (
        opened INTEGER PRIMARY KEY,
        rollout_id TEXT NOT NULL UNIQUE,
        route TEXT NOT NULL,
        canary TEXT NOT NULL,
        phase TEXT NOT NULL,
        started_s REAL NOT NULL,
        updated_s REAL NOT NULL,
        words TEXT NOT NULL,
        head BLOB NOT NULL,
        crc INTEGER NOT NULL
    )""",
    "CREATE INDEX IF NOT EXISTS archive_by_route ON archive (route, canary, opened)",
    """CREATE TABLE IF NOT EXISTS stories (
        rollout_id TEXT PRIMARY KEY,
        story BLOB NOT NULL,
        crc INTEGER NOT NULL
    )""",
    # The evidence of rollouts over time, for charts (decide/evidence_series.py).
    """CREATE TABLE IF NOT EXISTS series (
        rollout_id TEXT PRIMARY KEY,
        points BLOB NOT NULL,
        crc INTEGER NOT NULL
    )""",
)

_TABLES = (
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
    # A weight set by hand is about two backends, and void for others.
    """CREATE TABLE weights (
        route TEXT PRIMARY KEY,
        stable TEXT NOT NULL,
        canary TEXT NOT NULL,
        weight_bp INTEGER NOT NULL,
        by TEXT NOT NULL,
        wall_time_s REAL NOT NULL,
        crc INTEGER NOT NULL
    )""",
    # Which backend a promotion has made stable, as long as the configuration still names ``configured``.
    """CREATE TABLE roles (
        route TEXT PRIMARY KEY,
        configured TEXT NOT NULL,
        stable TEXT NOT NULL,
        rollout_id TEXT NOT NULL,
        wall_time_s REAL NOT NULL,
        crc INTEGER NOT NULL
    )""",
    # The seqs of events that were taken out, so that a row which is merely missing is still missed.
    """CREATE TABLE pruned (
        first_seq INTEGER PRIMARY KEY,
        last_seq INTEGER NOT NULL,
        crc INTEGER NOT NULL
    )""",
    # How far each hook has been notified: of all up to ``seq``.
    """CREATE TABLE deliveries (
        hook TEXT PRIMARY KEY,
        seq INTEGER NOT NULL,
        crc INTEGER NOT NULL
    )""",
    # NULL: what the file says is served.
    """CREATE TABLE configurations (
        revision INTEGER PRIMARY KEY,
        stored TEXT,
        crc INTEGER NOT NULL
    )""",
    """CREATE TABLE answers (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        principal TEXT NOT NULL,
        key TEXT NOT NULL,
        at_s REAL NOT NULL,
        answer TEXT NOT NULL,
        crc INTEGER NOT NULL,
        UNIQUE (principal, key)
    )""",
    """CREATE TABLE audit (
        id INTEGER PRIMARY KEY,
        entry TEXT NOT NULL,
        crc INTEGER NOT NULL
    )""",
)


def check_version(path: Path, connection: sqlite3.Connection) -> None:
    """Make the tables of an empty file, in one transaction; raise JournalError for one of another version."""
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    tables = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
    found_id = connection.execute("PRAGMA application_id").fetchone()[0]
    if found_id == _PRERELEASE_ID:
        raise JournalError(
            f"{path} was written by a pre-release of the gateway, which this version does not read: {MOVE}"
        )
    if tables and not (found_id == APPLICATION_ID and version > 0):
        raise JournalError(f"{path} is a SQLite file of another program: move it away, or choose another state_dir")
    if version > VERSION:
        raise JournalError(
            f"state file {path}: its schema is version {version}, this gateway reads version {VERSION}:"
            " start the newer gateway that wrote it, or restore a backup that this version made"
        )
    if version == VERSION:
        return
    connection.execute("BEGIN IMMEDIATE")
    for statement in _TABLES:
        connection.execute(statement)
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {VERSION}")
    connection.execute("COMMIT")


MOVE = (
    "end its rollouts with the pre-release and write what was promoted into the configuration as stable,"
    " then move the old files out of the state directory and restart"
)
