"""A receiver that is a program of this machine: each attempt runs it once.

It gets the message on standard input and its id in ``GATEWAY_EVENT_ID``; no shell is between. One that takes too long
is killed, with all that it has started.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Sequence

from gateway.hooks.delivery import NotDeliveredError
from gateway.hooks.envelope import Message


class Command:
    """A receiver that is a program of this machine."""

    def __init__(self, arguments: Sequence[str], timeout_s: float) -> None:
        self._arguments = arguments
        self._timeout_s = timeout_s

    async def deliver(self, message: Message) -> None:
        """Run the program with the message on its standard input."""
        try:
            process = await asyncio.create_subprocess_exec(
                *self._arguments,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.DEVNULL,
                env={**_environment(), "GATEWAY_EVENT_ID": message.id},
                start_new_session=True,
            )
        except OSError as error:
            raise NotDeliveredError(f"cannot run {self._arguments[0]}: {error.strerror}") from None
        try:
            async with asyncio.timeout(self._timeout_s):
                await process.communicate(message.body)
        except TimeoutError:
            raise NotDeliveredError(f"{self._arguments[0]} timed out after {self._timeout_s:g} s") from None
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):  # it ended this very moment
                    os.killpg(process.pid, signal.SIGKILL)
                await process.wait()
        if process.returncode != 0:
            raise NotDeliveredError(f"{self._arguments[0]} exited with status {process.returncode}")


def _environment() -> dict[str, str]:
    """What a command may see: enough to run, none of the gateway's secrets."""
    return {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TZ", "TMPDIR") if name in os.environ}
