"""What keeps a worker on its feet when something is short: descriptors, the loop's time, a paused client's last word.

`DescriptorGuard` says whether one more client can be taken in. `Patience` says how much of a stall is forgiven to
deadlines. `DeathWatch` hears that a client has reset its connection although nobody reads from it.
"""

from __future__ import annotations

import asyncio
import contextlib
import resource
import select
from collections.abc import Callable
from pathlib import Path

# Beside clients and backends: the loop's own, control, log, files that are being read.
_OWN = 16


class DescriptorGuard:
    """Leaves descriptors for upstream connections, so that whoever was let in can be served.

    Of what the process may open (RLIMIT_NOFILE, raised to the hard limit as far as it is of use), up to a half is kept
    for connections to backends.
    """

    def __init__(self, clients_max: int) -> None:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = 2 * clients_max + 1024
        if soft < wanted:
            soft = wanted if hard == resource.RLIM_INFINITY else max(soft, min(wanted, hard))
            with contextlib.suppress(OSError, ValueError):
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        self._usable = max(2, soft - _already_open() - _OWN)

    def room(self, clients: int, upstream_wanted: int) -> bool:
        """Whether one more client can be taken, beside ``clients``, when backends may want that many connections."""
        return clients < self._usable - min(upstream_wanted, self._usable // 2)


def _already_open() -> int:
    try:
        return len(list(Path("/proc/self/fd").iterdir()))
    except OSError:
        return _OWN


class Patience:
    """How much lateness of the event loop is forgiven to deadlines.

    A loop that stood still has missed answers that were there in time, so deadlines move by as much. A loop that is
    always late would forgive for ever: so at most ``burst_s`` in one go, and ``share`` of the time in the long run.
    """

    def __init__(self, burst_s: float = 30.0, share: float = 0.1) -> None:
        self._burst_s = burst_s
        self._share = share
        self._left_s = burst_s

    def forgive(self, late_s: float, since_s: float) -> float:
        """How much of ``late_s`` is forgiven, ``since_s`` after the last time this was asked."""
        self._left_s = min(self._burst_s, self._left_s + self._share * since_s)
        forgiven_s = min(late_s, self._left_s)
        self._left_s -= forgiven_s
        return forgiven_s


class DeathWatch:
    """Watches connections that nobody reads from: a reset is told all the same (Linux; elsewhere it is not).

    A second epoll that asks for no event at all still reports EPOLLERR and EPOLLHUP, which is what a reset is. Its own
    descriptor becomes readable then, and wakes the event loop. A half-close is neither and does not wake it.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._watched: dict[int, Callable[[], None]] = {}
        self._epoll = select.epoll() if hasattr(select, "epoll") else None
        if self._epoll is not None:
            loop.add_reader(self._epoll.fileno(), self._wake)

    def add(self, fd: int, on_death: Callable[[], None]) -> None:
        """Call ``on_death`` once when the connection of this descriptor is reset."""
        if self._epoll is not None and fd >= 0 and fd not in self._watched:
            with contextlib.suppress(OSError):  # it is closed already, which its transport will tell
                self._epoll.register(fd, 0)
                self._watched[fd] = on_death

    def remove(self, fd: int) -> None:
        """Watch it no longer; must come before the descriptor is closed."""
        if self._epoll is not None and self._watched.pop(fd, None) is not None:
            with contextlib.suppress(OSError):
                self._epoll.unregister(fd)

    def _wake(self) -> None:
        assert self._epoll is not None
        for fd, _ in self._epoll.poll(0):
            on_death = self._watched.get(fd)
            self.remove(fd)
            if on_death is not None:
                on_death()
