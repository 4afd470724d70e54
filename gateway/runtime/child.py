"""What every child process runs through: it ends with its parent, however that ends.

    python -m gateway.runtime.child PARENT_PID MODULE [ARGUMENTS]

A killed supervisor cannot notify its children. On Linux the kernel does (prctl, PR_SET_PDEATHSIG); elsewhere the
children look for themselves, once a second. Nothing is imported here that a worker would not have anyway.

The other way a child speaks to its parent over a pipe, one byte at a time: `say_ready` when it does its work,
`say_retiring` when it takes no more of it, so that a successor can begin while it still finishes what it has in hand.
`beat` says every second that its event loop turns: a process that lives and does nothing looks well from outside. What
cannot be written at once (a supervisor that stands still) is dropped: nobody waits for the supervisor.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import runpy
import shutil
import signal
import sys
from collections.abc import Coroutine
from typing import Any

_PR_SET_PDEATHSIG = 1
READY_FD_VARIABLE = "GATEWAY_READY_FD"
# Where the gateway's processes meet; an orphan takes it away when it ends.
DIRECTORY_VARIABLE = "GATEWAY_RUNTIME_DIRECTORY"
READY = b"1"
RETIRING = b"0"
ALIVE = b"."
BEAT_S = 1.0


def main() -> None:
    """Tie this process to its parent and become the module."""
    parent, module = int(sys.argv[1]), sys.argv[2]
    sys.argv = [module, *sys.argv[3:]]
    # SIGHUP asks for something to be read again; one who does not listen for it (yet) is not to die of it.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    if READY_FD_VARIABLE in os.environ:
        os.set_blocking(int(os.environ[READY_FD_VARIABLE]), False)
    if sys.platform == "linux":
        # SIGTERM: a worker still finishes what it has in hand, but lets go of the port at once.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)
    if os.getppid() != parent:
        sys.exit(1)  # it died before the kernel knew of our request
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    finally:
        directory = os.environ.get(DIRECTORY_VARIABLE)
        if directory is not None and os.getppid() != parent:
            shutil.rmtree(directory, ignore_errors=True)


def say_ready() -> None:
    """Report to the supervisor, if there is one, that this process does its work now."""
    _say(READY)


def say_retiring() -> None:
    """Report to the supervisor, if there is one, that this process takes no new work."""
    _say(RETIRING)


async def beat(silence_s_max: float | None = None) -> None:
    """Report to the supervisor, for ever, that the loop runs: several times within the silence that it allows."""
    pause_s = BEAT_S if not silence_s_max else min(BEAT_S, silence_s_max / 4)
    while True:
        _say(ALIVE)
        await asyncio.sleep(pause_s)


def _say(what: bytes) -> None:
    number = os.environ.get(READY_FD_VARIABLE)
    if number is not None:
        with contextlib.suppress(OSError):  # the supervisor is gone
            os.write(int(number), what)


async def orphaned() -> None:
    """Return when the parent is gone: for where no kernel says so, and a child that looks after itself."""
    parent = os.getppid()
    while os.getppid() == parent:
        await asyncio.sleep(1.0)


async def serve_until_stopped(work: Coroutine[Any, Any, None]) -> None:
    """Do the work until SIGTERM or SIGINT comes or the parent is gone; what ended it with an error is raised."""
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    tasks: list[asyncio.Task[Any]] = [asyncio.create_task(each) for each in (work, stopping.wait(), orphaned(), beat())]
    done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    for task in done:
        task.result()


if __name__ == "__main__":
    main()
