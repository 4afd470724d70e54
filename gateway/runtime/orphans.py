"""What a gateway that was killed has left: children that have not ended yet, and the directory of their sockets.

Children learn of their parent's death (child.py), close their listening sockets at once, and finish what they have in
hand. One that stands still cannot. So the next gateway on the same state directory looks for them: one that
still listens after `_GRACE_S` is killed, one that only finishes its requests is not. A child is known by the directory
in its environment, whose name is random, and is an orphan only when its parent is not the one that it was born to. A
directory whose gateway lives (the state directory is a copy of another's) is left as it is. Linux only: elsewhere
nothing can be known of the processes, and nothing is done.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

from gateway.runtime.child import DIRECTORY_VARIABLE

_log = logging.getLogger("gateway.supervisor")
_GRACE_S = 2.0
_LOOK_S = 0.02
_LISTENS_TCP = "0A"
_LISTENS_UNIX = 0x10000
_ENDED = frozenset("ZXx")


def clear(directory: Path) -> None:
    """Wait until no child of a dead gateway listens any more, end those that still do, and remove its directory."""
    if not Path("/proc/self/environ").exists():
        return
    children = list(_children(directory))
    if not all(orphan for _, orphan in children):
        return
    orphans = [pid for pid, _ in children]
    deadline_s = time.monotonic() + _GRACE_S
    while (listening := [pid for pid in orphans if _listens(pid)]) and time.monotonic() < deadline_s:
        time.sleep(_LOOK_S)
    for pid in listening:
        _log.error("orphan: process %d of a killed gateway still listens: killed", pid)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)
    while any(_listens(pid) for pid in listening) and time.monotonic() < deadline_s + _GRACE_S:
        time.sleep(_LOOK_S)
    shutil.rmtree(directory, ignore_errors=True)


def _children(directory: Path) -> Iterator[tuple[int, bool]]:
    """Processes of the gateway in this directory, and whether their supervisor is gone."""
    mark = f"{DIRECTORY_VARIABLE}={directory}".encode()
    for place in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            if mark not in (place / "environ").read_bytes().split(b"\0"):
                continue
            command = (place / "cmdline").read_bytes().split(b"\0")
            born_to = command[command.index(b"gateway.runtime.child") + 1]
            yield int(place.name), int(born_to) != _parent(place)


def _parent(place: Path) -> int:
    return int((place / "stat").read_text().rpartition(")")[2].split()[1])


def _listens(pid: int) -> bool:
    """Whether a process holds a listening socket, or may hold one still.

    One that ends shows no descriptors a moment before they are closed: only when none of its threads lives are they.
    """
    sockets, shown = _listening_sockets(), False
    with contextlib.suppress(OSError):
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            shown = True
            with contextlib.suppress(OSError):
                if str(descriptor.readlink()) in sockets:
                    return True
    return not shown and any(_lives(thread) for thread in Path(f"/proc/{pid}/task").glob("[0-9]*"))


def _lives(thread: Path) -> bool:
    with contextlib.suppress(OSError):
        return (thread / "stat").read_text().rpartition(")")[2].split()[0] not in _ENDED
    return False


def _listening_sockets() -> set[str]:
    """All of this machine, as the links of descriptors name them."""
    found = set()
    for table in ("tcp", "tcp6"):
        with contextlib.suppress(OSError):
            rows = [line.split() for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]]
            found |= {f"socket:[{row[9]}]" for row in rows if row[3] == _LISTENS_TCP}
    with contextlib.suppress(OSError):
        rows = [line.split() for line in Path("/proc/net/unix").read_text().splitlines()[1:]]
        found |= {f"socket:[{row[6]}]" for row in rows if int(row[3], 16) & _LISTENS_UNIX}
    return found
