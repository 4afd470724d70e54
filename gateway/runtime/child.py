"""What every child of the supervisor runs through: it ends with its parent, whatever kills that.

    python -m gateway.runtime.child PARENT_PID MODULE

A supervisor that is killed cannot tell its children. On Linux the kernel does (prctl, PR_SET_PDEATHSIG); elsewhere the
children look for themselves, once a second. Nothing is imported here that a worker would not have anyway.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import runpy
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Tie this process to its parent and become the module."""
    parent, module = int(sys.argv[1]), sys.argv[2]
    if sys.platform == "linux":
        # SIGTERM: a worker still finishes what it has in hand, but lets go of the port at once.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)
    if os.getppid() != parent:
        sys.exit(1)  # it died before the kernel knew of our wish
    runpy.run_module(module, run_name="__main__", alter_sys=True)


async def orphaned() -> None:
    """Return when the parent is gone: for where no kernel says so, and a child that looks after itself."""
    parent = os.getppid()
    while os.getppid() == parent:
        await asyncio.sleep(1.0)


if __name__ == "__main__":
    main()
