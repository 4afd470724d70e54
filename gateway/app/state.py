"""What the state directory remembers when the gateway starts, and what it was found to have lost.

A first start has nothing to remember, and is no alarm: the directory is new, or has nothing of ours in it. Where the
journal and the table memory are gone (or emptied) and anything of ours is left, a promotion may be forgotten; the
configuration's stable backends are served then, and an alarm says so.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from gateway.config import stored
from gateway.runtime import table_memory
from gateway.runtime.table_memory import Remembered

JOURNAL = "journal.sqlite3"
RUNTIME = "runtime.json"
# What a gateway leaves; a journal that is empty has been emptied.
_TRACES = (JOURNAL, "audit.jsonl", "idempotency.jsonl", stored.NAME, stored.SUPERSEDED, RUNTIME)


class Found(NamedTuple):
    """The last table in force, and what is missing, in words for an alarm."""

    remembered: Remembered | None
    lost: str


def look(state_dir: Path) -> Found:
    """Look at the directory before anything is created in it."""
    remembered, damage = table_memory.read_file(state_dir)
    if remembered is not None or _has_content(state_dir / JOURNAL):
        return Found(remembered, "")
    traces = [name for name in _TRACES if (state_dir / name).exists()]
    if not traces and not damage:
        return Found(None, "")
    what = f"{damage}, and there is no journal" if damage else f"there is neither a journal nor {table_memory.NAME}"
    why = (
        f"the state in {state_dir} was lost ({what}): each route serves the stable backend that the configuration"
        " names, whether another version was promoted or rolled back is not known; restore the directory, or check"
        " that the configuration names the right version and start the gateway anew"
    )
    return Found(None, why)


def _has_content(path: Path) -> bool:
    try:
        return path.stat().st_size > 0
    except OSError:
        return False
