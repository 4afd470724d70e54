"""A server on a Unix socket between the gateway's own processes: one that a dead process left is replaced.

Only this user may open it; its path lies in a directory of the gateway.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

Accept = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def unix_server(accept: Accept, path: Path) -> asyncio.Server:
    """Listen at ``path``, with mode 0600."""
    _remove(path)
    umask = os.umask(0o177)
    try:
        return await asyncio.start_unix_server(accept, str(path))
    finally:
        os.umask(umask)


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)
