"""An event loop whose time is virtual: when nothing is left to do, it is at once the moment of the next timer.

Nothing in it waits for the world, so what runs on it is deterministic and as fast as its own computation. There are no
sockets and no threads in it; a coroutine that waits for something that nobody will ever do is an error, not a hang.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class _NoSockets(selectors.SelectSelector):
    """Never looks at a socket; lets time pass instead."""

    loop: VirtualLoop

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None:
            raise RuntimeError("deadlock: everything waits, and no timer is left")
        self.loop.now_s += max(0.0, timeout)
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """See the module."""

    def __init__(self) -> None:
        selector = _NoSockets()
        selector.loop = self
        self.now_s = 0.0
        super().__init__(selector)

    def time(self) -> float:
        """Virtual seconds since the loop's birth."""
        return self.now_s


def run(main: Coroutine[Any, Any, T]) -> T:
    """As asyncio.run, in virtual time."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)
