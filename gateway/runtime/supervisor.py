"""The supervisor: spawns the children, restarts them with backoff, forwards signals. It holds no other logic.

Rules:

1. Listening sockets belong to the supervisor for its whole life and are inherited; a child that dies loses none of the
   connections that are still queued.
2. A child that dies is started again at once the first time, then ever later, up to five seconds; one that lived for
   ten seconds starts with a clean slate.
3. A child that ends with status 2 says that it cannot work as configured: everything stops with that status.
4. SIGTERM and SIGINT drain: children stop in the order of their ``stop_rank``, each rank before the next, and who has
   not ended after its time is killed. A second signal kills at once.
5. A supervisor that is killed takes its children along (child.py).
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

_log = logging.getLogger("gateway.supervisor")
_BACKOFF_S = 0.1
_BACKOFF_S_MAX = 5.0
_HEALTHY_S = 10.0
CANNOT_WORK = 2


@dataclass
class Child:
    """One process to keep alive: its module, what it reads on standard input, and the descriptors it inherits."""

    name: str
    module: str
    stdin: bytes
    pass_fds: Sequence[int] = ()
    stop_rank: int = 0
    stop_timeout_s: float = 5.0
    process: asyncio.subprocess.Process | None = field(default=None, repr=False)


class Supervisor:
    """Runs the children until told to stop."""

    def __init__(self, children: Sequence[Child]) -> None:
        self._children = children
        self._stopping = asyncio.Event()
        self._status = 0

    def watch_signals(self) -> None:
        """Take signals from now on; one that comes before `run` makes it end at once."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._signalled)

    async def run(self) -> int:
        """Run until a signal or a child that cannot work; returns the exit status."""
        keepers = [asyncio.create_task(self._keep(child)) for child in self._children]
        await self._stopping.wait()
        for rank in sorted({child.stop_rank for child in self._children}):
            await asyncio.gather(*(self._stop(child) for child in self._children if child.stop_rank == rank))
        await asyncio.gather(*keepers)
        return self._status

    def _signalled(self) -> None:
        if self._stopping.is_set():
            for child in self._children:
                _send(child, signal.SIGKILL)
        self._stopping.set()

    async def _keep(self, child: Child) -> None:
        failures = 0
        while not self._stopping.is_set():
            born_s = time.monotonic()
            try:
                status = await self._live(child)
            except OSError as error:
                # No memory, no process ids, no descriptors: they may be there in a moment.
                _log.error("%s cannot be started: %s", child.name, error)
                status = 1
            if self._stopping.is_set():
                return
            if status == CANNOT_WORK:
                _log.error("%s cannot work as configured: stopping", child.name)
                self._status = CANNOT_WORK
                self._stopping.set()
                return
            failures = 0 if time.monotonic() - born_s > _HEALTHY_S else failures + 1
            delay_s = min(_BACKOFF_S * 2 ** (failures - 2), _BACKOFF_S_MAX) if failures > 1 else 0.0
            _log.error("%s ended with status %d: starting it again in %.1f s", child.name, status, delay_s)
            try:
                async with asyncio.timeout(delay_s):
                    await self._stopping.wait()
            except TimeoutError:
                pass

    async def _live(self, child: Child) -> int:
        child.process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "gateway.runtime.child", str(os.getpid()), child.module),
            stdin=asyncio.subprocess.PIPE,
            pass_fds=child.pass_fds,
            # A terminal's Ctrl-C is for the supervisor, who then stops the children in order.
            start_new_session=True,
        )
        if self._stopping.is_set():
            # The wish to stop came while this child was being born, so that `_stop` did not see it. It has nothing in
            # hand yet.
            _send(child, signal.SIGKILL)
        # communicate() writes the settings and ends at the child's end; stdout and stderr are inherited.
        await child.process.communicate(child.stdin)
        assert child.process.returncode is not None
        return child.process.returncode

    async def _stop(self, child: Child) -> None:
        process = child.process
        if process is None or process.returncode is not None:
            return
        _send(child, signal.SIGTERM)
        try:
            async with asyncio.timeout(child.stop_timeout_s):
                await process.wait()
        except TimeoutError:
            _log.error("%s did not stop in %.0f s: killed", child.name, child.stop_timeout_s)
            _send(child, signal.SIGKILL)
            await process.wait()


def _send(child: Child, number: signal.Signals) -> None:
    if child.process is not None and child.process.returncode is None:
        child.process.send_signal(number)
