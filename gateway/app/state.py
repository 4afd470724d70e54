"""What the state directory has when the gateway starts, and what it has lost.

A first start has nothing, and is no alarm: the directory is new, or has nothing of ours in it. A volume that is missing
looks the same, so a line says that there is no earlier state. Where the state file and the table memory are gone (or
emptied) and anything of ours is left, or where the directory cannot be read, a promotion may be forgotten; the
configuration's stable backends are served then, and an alarm says so.
"""

from __future__ import annotations

import contextlib
import logging
from pathlib import Path
from typing import NamedTuple

import msgspec

from gateway.config.files import write_whole
from gateway.control.journal import names
from gateway.runtime import table_memory
from gateway.runtime.table_memory import Remembered

RUNTIME = "runtime.json"
RUNTIME_PREFIX = "gateway-"
_log = logging.getLogger("gateway.supervisor")
# What is left where something was decided: nothing is without a command over the API. A journal that is empty has been
# emptied. (`RUNTIME` is there after a start that came to nothing, too.)
_TRACES = (names.STORE, *names.PRERELEASE)


class RememberedState(NamedTuple):
    """The last table in force; what is missing, in words for an alarm; and whether there is nothing of ours at all."""

    remembered: Remembered | None
    lost: str = ""
    empty: bool = False


def look(state_dir: Path) -> RememberedState:
    """Look at the directory before anything is created in it."""
    try:
        present = {path.name for path in state_dir.iterdir()} if state_dir.exists() else set()
    except OSError as error:
        return RememberedState(None, _lost(state_dir, f"the directory cannot be read: {error.strerror}"))
    remembered, damage = table_memory.read_file(state_dir)
    if remembered is not None or _has_content(state_dir / names.STORE):
        return RememberedState(remembered)
    if not damage and not present.intersection(_TRACES):
        return RememberedState(None, empty=True)
    what = (
        f"{damage}, and there is no {names.STORE}"
        if damage
        else f"there is neither {names.STORE} nor {table_memory.NAME}"
    )
    return RememberedState(None, _lost(state_dir, what))


def _lost(state_dir: Path, what: str) -> str:
    return (
        f"the state in {state_dir} was lost ({what}): each route serves the stable backend that the configuration"
        " names, and no canary gets anything; whether another version was promoted or rolled back is unknown;"
        " restore the directory, or check that the configuration names the right version and restart the gateway"
    )


class _Runtime(msgspec.Struct):
    directory: str


def runtime_directory(state_dir: Path) -> Path | None:
    """Where the processes of the gateway before this one met, if it was killed; None where it ended by itself."""
    try:
        found = Path(msgspec.json.decode((state_dir / RUNTIME).read_bytes(), type=_Runtime).directory)
    except (OSError, ValueError):
        return None
    # It is going to be removed: nothing but what `start` makes.
    return found if found.name.startswith(RUNTIME_PREFIX) and not found.is_symlink() else None


def keep_runtime_directory(state_dir: Path, directory: Path) -> None:
    """Remember where this gateway's processes meet, for the next one to tidy up if this one is killed."""
    try:
        write_whole(state_dir / RUNTIME, msgspec.json.encode(_Runtime(str(directory))))
    except OSError as error:
        _log.warning("%s cannot be written: %s", state_dir / RUNTIME, error.strerror)


def forget_runtime_directory(state_dir: Path) -> None:
    """This gateway has ended by itself: there is nothing for the next one to tidy up."""
    with contextlib.suppress(OSError):  # then the next one looks, and finds nothing
        (state_dir / RUNTIME).unlink()


def _has_content(path: Path) -> bool:
    try:
        return path.stat().st_size > 0
    except OSError:
        return False
