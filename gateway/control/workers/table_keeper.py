"""Control's side of the table memory (runtime/table_memory.py): every table goes there before it is published.

The shared memory is written at once. The file follows on a thread of its own, the newest last; what it cannot take is
an alarm, and is tried again with every look at the state directory.
"""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

from gateway.config.files import write_whole
from gateway.control.alarms import Alarms
from gateway.core.traffic.table import RoutingTable
from gateway.runtime.disk_thread import DiskThread
from gateway.runtime.table_memory import NAME, Given, Remembered, SharedTable, encode

_log = logging.getLogger("gateway.control")
_CLOSE_TIMEOUT_S = 2.0
_ALARM = "table memory"


class TableKeeper:
    """What was in force before this life (``found``), and what is in force now.

    Without ``shared`` and ``state_dir`` it remembers nothing. ``config_sha256`` names the text of the configuration
    file that the tables are made under.
    """

    def __init__(
        self, shared: SharedTable | None = None, state_dir: Path | None = None, config_sha256: str = ""
    ) -> None:
        self._shared = shared
        self._path = None if state_dir is None else state_dir / NAME
        self.config_sha256 = config_sha256
        self.found = None if shared is None else shared.read()
        self._given: Given | None = None
        self.alarms: Alarms | None = None
        self._thread = DiskThread() if state_dir is not None else None
        self._wanted: bytes | None = None
        self._writing: asyncio.Task[None] | None = None

    def remember_given(self, given: Given | None) -> None:
        """Remember this configuration with the tables from now on; another table follows whenever it changes."""
        self._given = given

    def remember(self, table: RoutingTable, configured: dict[str, str], journal_seq: int) -> None:
        """This table is about to be published. Never waits for a disk."""
        if self._shared is None:
            return
        data = encode(Remembered(self.config_sha256, journal_seq, configured, table, given=self._given))
        try:
            self._shared.write(data)
        except OSError as error:
            _log.error("table memory: write failed: %s", error)
        self._wanted = data
        self.write()

    def write(self) -> None:
        """Write the file, if it is behind and nobody is at it."""
        if self._path is not None and self._wanted is not None and (self._writing is None or self._writing.done()):
            self._writing = asyncio.get_running_loop().create_task(self._write(self._path))

    async def _write(self, path: Path) -> None:
        assert self._thread is not None  # there is a path
        while (data := self._wanted) is not None:
            try:
                await self._thread.do(lambda data=data: write_whole(path, data))  # type: ignore[misc]  # mypy cannot infer a lambda with a default
            except OSError as error:
                self._tell(f"{path} cannot be written, a full restart would not know the last table: {error.strerror}")
                return
            if self._wanted is data:
                self._wanted = None
        self._tell("")

    def _tell(self, why: str) -> None:
        if self.alarms is None:
            return
        if why:
            self.alarms.sound(_ALARM, why, warning=True)
        else:
            self.alarms.clear(_ALARM)

    async def close(self) -> None:
        """Finish writing, unless the disk hangs."""
        if self._writing is not None:
            await asyncio.wait({self._writing}, timeout=_CLOSE_TIMEOUT_S)
