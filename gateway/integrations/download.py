"""Files of a version, downloaded beside their place and put there whole.

Rules:

1. A folder has all files of a version or does not exist: what is written is renamed when the last one is complete.
2. All files together have at most ``bytes_max`` bytes, whatever their servers said before.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import AsyncIterable, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

from gateway.integrations.errors import RefusedVersionError


class Received(NamedTuple):
    """One downloaded file: its size and its digest, such as ``sha256:...``."""

    size_bytes: int
    digest: str


class Downloads:
    """The files of one version on their way into a folder."""

    def __init__(self, folder: Path, bytes_max: int) -> None:
        self._folder = folder
        self._bytes_max = bytes_max
        self._bytes = 0

    async def take(self, name: str, pieces: AsyncIterable[bytes], algorithm: str) -> Received:
        """Write a file. Raises RefusedVersionError when it is too large, and what ``pieces`` raises."""
        # MD5 is how DVC names contents; it protects against damage, not against an attacker.
        hashed, size = hashlib.new(algorithm, usedforsecurity=False), 0
        with (self._folder / name).open("wb") as file:  # pieces of some kilobytes
            async for piece in pieces:
                size += len(piece)
                self._bytes += len(piece)
                if self._bytes > self._bytes_max:
                    raise too_large(self._bytes_max)
                hashed.update(piece)
                file.write(piece)
        return Received(size, f"{algorithm}:{hashed.hexdigest()}")


@asynccontextmanager
async def downloads(folder: Path, bytes_max: int) -> AsyncIterator[Downloads]:
    """Downloads that are in ``folder`` at the end of the block, unless it raises."""
    fresh = folder.with_name(f"{folder.name}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True, mode=0o700)
    try:
        yield Downloads(fresh, bytes_max)
        shutil.rmtree(folder, ignore_errors=True)
        fresh.rename(folder)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def too_large(bytes_max: int) -> RefusedVersionError:
    """Why files are refused for their size."""
    return RefusedVersionError(f"its files have more than {bytes_max} bytes (artifact_bytes_max)")
