"""The real control process, born many times from a process that has imported it, each killed at a chosen commit.

    python -m tests.support.mortal CONFIG DIRECTORY

A line on standard input: fork, and become ``gateway.app.control``. Its pid is printed, and its wait status when it has
ended. Nothing of the product knows of this: what is different is the class of SQLite's connection, whose COMMIT looks
for a file ``armed`` in DIRECTORY that says before or after which transaction the process is to be killed.
"""

from __future__ import annotations

import io
import os
import signal
import socket
import sqlite3
import sys
from pathlib import Path
from typing import Any

import msgspec

from gateway.app import control
from gateway.app.child_settings import ControlSettings
from gateway.control.decide import rollout_records
from gateway.runtime import table_memory
from gateway.runtime.table_memory import SharedTable

_TABLES = (
    *("events", "snapshots", "weights", "roles", "pruned", "deliveries"),
    *("configurations", "answers", "audit", "pasts"),
)


class MortalConnection(sqlite3.Connection):
    """Kills its process before or after the COMMIT of a transaction that writes to the armed table."""

    armed: Path
    written: frozenset[str] = frozenset()

    def execute(self, sql: str, *values: Any) -> sqlite3.Cursor:
        """Commit, and at the chosen one end the process."""
        if sql.startswith("BEGIN"):
            self.written = frozenset()
        self.written |= {table for table in _TABLES if f"INTO {table} " in sql}
        when = self._when() if sql == "COMMIT" else ""
        if when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        done = super().execute(sql, *values)
        if when == "after":
            os.kill(os.getpid(), signal.SIGKILL)
        return done

    def _when(self) -> str:
        try:
            table, when = self.armed.read_text().split()
        except FileNotFoundError:
            return ""
        if table not in self.written:
            return ""
        self.armed.unlink()
        return when


def _become(settings: ControlSettings, armed: Path) -> None:
    MortalConnection.armed = armed
    connect = sqlite3.connect
    sqlite3.connect = lambda *args, **options: connect(*args, factory=MortalConnection, **options)  # type: ignore[assignment]  # the one way in
    # So that the removal of old rollouts is met, too.
    rollout_records.ROLLOUTS_KEPT = 3
    sys.stdin = io.TextIOWrapper(io.BytesIO(msgspec.json.encode(settings)))
    try:
        control.main()
    finally:
        os._exit(0)


def _say(number: int) -> None:
    os.write(1, b"%d\n" % number)


def main() -> None:
    """See the module."""
    config, directory = Path(sys.argv[1]), Path(sys.argv[2])
    admin = socket.create_server(("127.0.0.1", 0))
    _supervisors, controls = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    settings = ControlSettings(
        str(config),
        config.read_bytes(),
        (),
        (),
        str(directory / "control.sock"),
        admin.fileno(),
        controls.fileno(),
        SharedTable.create().fds,
    )
    _say(admin.getsockname()[1])
    for line in sys.stdin:
        if line == "forgets\n":
            settings = msgspec.structs.replace(settings, memory_fds=SharedTable.create().fds)
            (directory / "state" / table_memory.NAME).unlink(missing_ok=True)
        pid = os.fork()
        if not pid:
            _become(settings, directory / "armed")
        _say(pid)
        _say(os.waitpid(pid, 0)[1])


if __name__ == "__main__":
    main()
