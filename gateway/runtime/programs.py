"""A program of this machine that is run once: input to it, its output back, and nothing left behind.

It sees enough of the environment to run, and none of the gateway's secrets. It has a process group of its own, which is
killed as a whole where the program outlasts its time or whoever waits for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Mapping, Sequence

_QUOTED_CHARS = 300
_SEEN = ("PATH", "HOME", "LANG", "TZ", "TMPDIR")


class ProgramError(Exception):
    """It could not be run, timed out, or ended with another status than 0."""


def seen_environment() -> dict[str, str]:
    """What programs see of the gateway's environment: enough to run, and none of its secrets."""
    return {name: os.environ[name] for name in _SEEN if name in os.environ}


async def run_program(
    arguments: Sequence[str],
    said: bytes,
    timeout_s: float,
    *,
    environ: Mapping[str, str] | None = None,
    silenced: bool = False,
    quoted: bool = False,
) -> bytes:
    """What the program prints, with ``said`` on its standard input. ``environ`` are further variables.

    What it prints is dropped when it is ``silenced``. Its errors go where the gateway's own go, or are ``quoted`` in
    the exception. Raises ProgramError.
    """
    null = asyncio.subprocess.DEVNULL
    try:
        process = await asyncio.create_subprocess_exec(
            *arguments,
            stdin=asyncio.subprocess.PIPE,
            stdout=null if silenced else asyncio.subprocess.PIPE,
            stderr=null if silenced else asyncio.subprocess.PIPE if quoted else None,
            env=seen_environment() | dict(environ or {}),
            start_new_session=True,
        )
    except OSError as error:
        raise ProgramError(f"cannot run {arguments[0]}: {error.strerror}") from None
    try:
        async with asyncio.timeout(timeout_s):
            printed, complaint = await process.communicate(said)
    except TimeoutError:
        raise ProgramError(f"{arguments[0]} timed out after {timeout_s:g} s") from None
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):  # it ended this very moment
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
    if process.returncode != 0:
        raise ProgramError(f"{arguments[0]} exited with status {process.returncode}{_end_of(complaint)}")
    return printed or b""


def _end_of(complaint: bytes | None) -> str:
    """The end of what a program said of its failure, on one line."""
    words = " ".join((complaint or b"").decode("utf-8", "replace").split())
    return f": {words if len(words) <= _QUOTED_CHARS else '...' + words[-_QUOTED_CHARS:]}" if words else ""
