"""The configuration file, watched: a new text is reported once it has been written whole.

Rules:

1. A change is reported when the file has been the same for two looks in a row: an editor that is still writing, or that
   removes the file before it writes the new one, is waited for.
2. What is compared is the text. A file that was only touched, or replaced by an equal one, is no change.
3. A Kubernetes volume (ConfigMap, Secret, projected) is replaced by moving the symbolic link ``..data``. The path of
   the file stays the same and leads to another file: what is looked at is what the path leads to.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

from gateway.config.errors import ConfigError
from gateway.config.load import read
from gateway.runtime.file_marks import marks_of

LOOK_S = 1.0


def on_kubernetes_volume(path: Path) -> bool:
    """Whether the file lies in a volume whose files Kubernetes replaces while they are in use."""
    return (path.parent / "..data").is_symlink()


async def changes(path: Path, text: bytes, look_s: float = LOOK_S) -> AsyncIterator[bytes]:
    """Each new text of the file, beginning with the first one that is not ``text``."""
    reported = marks_of(())
    before = marks_of((path,))
    while True:
        await asyncio.sleep(look_s)
        now = marks_of((path,))
        settled, before = now == before, now
        if not settled or now == reported:
            continue
        try:
            found = read(path)
        except ConfigError:
            continue  # not there at this moment, or not readable; what serves goes on serving
        reported = now
        if found != text:
            text = found
            yield text
