"""What validators said of a rollout's windows of data: kept with it, in a file of its own in the state directory.

Rules:

1. Of each version the newest `EACH_MAX` windows that failed and as many that conformed.
2. A file is written on a thread, one at a time. A disk that fails loses results and no verdict: the counts that decide
   are evidence like all other.
3. Files of the newest `FILES_MAX` rollouts stay.
"""

from __future__ import annotations

import contextlib
import logging
from collections import deque
from pathlib import Path

import msgspec

from gateway.config.files import write_whole
from gateway.control.views import DataResult, RolloutDataResults
from gateway.runtime.clock import Clock, iso
from gateway.runtime.disk_thread import DiskThread
from gateway.runtime.samples import Validated

_log = logging.getLogger("gateway.control")
EACH_MAX = 10
FILES_MAX = 200
FOLDER = "data_results"


class DataResultLog:
    """The results of the rollouts under way, and the files of all."""

    def __init__(self, state_dir: Path, clock: Clock) -> None:
        self._folder = state_dir / FOLDER
        self._clock = clock
        self._thread: DiskThread | None = None
        self._rollout_id = ""
        self._open: dict[str, RolloutDataResults] = {}
        self._changed: deque[str] = deque()
        # Whether a file is being written.
        self.writing = False

    def take(self, rollout_id: str, results: list[Validated]) -> None:
        """Keep results with this rollout; never waits."""
        now = self._open.get(rollout_id)
        if now is None:
            now = self._open[rollout_id] = _read(self._folder, rollout_id)
            for other in list(self._open)[:-20]:
                del self._open[other]
        at = iso(self._clock.wall_s())
        fresh = [
            DataResult(
                at, "canary" if one.variant else "stable", one.success, one.failures, msgspec.Raw(one.result.encode())
            )
            for one in results
        ]
        self._open[rollout_id] = msgspec.structs.replace(now, results=_thinned((*now.results, *fresh)))
        if rollout_id not in self._changed:
            self._changed.append(rollout_id)
        self._write()

    def results(self, rollout_id: str) -> RolloutDataResults:
        """What is kept with a rollout. Blocks on a file of an older one."""
        return self._open.get(rollout_id) or _read(self._folder, rollout_id)

    def _write(self) -> None:
        if self.writing or not self._changed:
            return
        self._thread = self._thread or DiskThread()
        rollout_id = self._changed.popleft()
        content = msgspec.json.encode(self._open[rollout_id])
        self.writing = True
        self._thread.do(lambda: _written(self._folder, rollout_id, content)).add_done_callback(lambda _: self._done())

    def _done(self) -> None:
        self.writing = False
        self._write()


def _result(one: Validated, at: str) -> DataResult:
    variant = "canary" if one.variant else "stable"
    return DataResult(at, variant, one.success, one.failures, msgspec.json.decode(one.result))


def _thinned(results: tuple[DataResult, ...]) -> tuple[DataResult, ...]:
    """Rule 1, in the order in which they came."""
    left = dict.fromkeys(((v, s) for v in ("stable", "canary") for s in (True, False)), EACH_MAX)
    kept = []
    for one in reversed(results):
        key = one.variant, one.success
        if left[key] > 0:
            left[key] -= 1
            kept.append(one)
    return tuple(reversed(kept))


def _read(folder: Path, rollout_id: str) -> RolloutDataResults:
    with contextlib.suppress(OSError, msgspec.DecodeError):
        return msgspec.json.decode((folder / f"{rollout_id}.json").read_bytes(), type=RolloutDataResults)
    return RolloutDataResults(rollout_id)


def _written(folder: Path, rollout_id: str, content: bytes) -> None:
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        write_whole(folder / f"{rollout_id}.json", content)
        files = sorted(folder.glob("*.json"), key=lambda file: file.stat().st_mtime)
        for file in files[:-FILES_MAX]:
            file.unlink(missing_ok=True)
    except OSError as error:
        _log.error("rollout %s: its data results cannot be written: %s", rollout_id, error)
