"""Resets of connections that nobody reads from."""

from __future__ import annotations

import asyncio
import contextlib
import select
from collections.abc import Callable


class ResetWatch:
    """Watches connections that nobody reads from: a reset is noticed all the same (on Linux only).

    A second epoll that asks for no event at all still reports EPOLLERR and EPOLLHUP, which is what a reset is. Its own
    descriptor becomes readable then, and wakes the event loop. A half-close is neither and does not wake it.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._watched: dict[int, Callable[[], None]] = {}
        self._epoll = select.epoll() if hasattr(select, "epoll") else None
        if self._epoll is not None:
            loop.add_reader(self._epoll.fileno(), self._wake)

    def add(self, fd: int, on_reset: Callable[[], None]) -> None:
        """Call ``on_reset`` once when the connection of this descriptor is reset."""
        if self._epoll is not None and fd >= 0 and fd not in self._watched:
            with contextlib.suppress(OSError):  # it is closed already, as its transport will find out
                self._epoll.register(fd, 0)
                self._watched[fd] = on_reset

    def remove(self, fd: int) -> None:
        """Watch it no longer; must come before the descriptor is closed."""
        if self._epoll is not None and self._watched.pop(fd, None) is not None:
            with contextlib.suppress(OSError):
                self._epoll.unregister(fd)

    def _wake(self) -> None:
        assert self._epoll is not None
        for fd, _ in self._epoll.poll(0):
            on_reset = self._watched.get(fd)
            self.remove(fd)
            if on_reset is not None:
                on_reset()
