"""How many connections the admin listener holds, and for how long it waits for the other side of each.

The control process needs descriptors for its probes, its journal and its workers: a client that sends nothing
must not take them away.

Rules:

1. At most ``connections_max`` are open, and never more than a quarter of the descriptors that the process may have. One
   more takes the place of the connection that has been idle for longest; where all are busy it is answered 503.
2. A request's head has `HEAD_S` from the connection's beginning, or from its own first byte; its body has `BODY_S`
   after that. A client that takes nothing of its answer for `READ_S` is dropped.
3. Whatever is ended here is counted by its reason.

Idle is a connection on which no request is under way: a silent one, one between two requests, one whose head is not
whole.
"""

from __future__ import annotations

import contextlib
import resource
from collections.abc import Hashable
from typing import Protocol

HEAD_S = 10.0
BODY_S = 30.0
READ_S = 30.0
# Why a connection was ended, or refused, by these rules.
REASONS = ("full", "displaced", "slow_head", "slow_body", "slow_reader")
_DESCRIPTORS_SHARE = 4


class Connection(Hashable, Protocol):
    """What is counted: one connection."""

    def end(self, reason: str) -> None:
        """Close it, for one of `REASONS`."""


class Connections:
    """The connections of one listener, those that have been idle for longest first."""

    def __init__(self, connections_max: int) -> None:
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self.most = max(1, min(connections_max, soft // _DESCRIPTORS_SHARE))
        self.ended = dict.fromkeys(REASONS, 0)
        self._idle: dict[Connection, None] = {}
        self._busy: set[Connection] = set()

    @property
    def open(self) -> int:
        """How many there are."""
        return len(self._idle) + len(self._busy)

    def enter(self, connection: Connection) -> bool:
        """A connection has come; False where there is no room for it."""
        if self.open >= self.most:
            if not self._idle:
                self.ended["full"] += 1
                return False
            next(iter(self._idle)).end("displaced")
        self._idle[connection] = None
        return True

    def busy(self, connection: Connection) -> None:
        """A request is under way on it."""
        if self._idle.pop(connection, connection) is None:
            self._busy.add(connection)

    def idle(self, connection: Connection) -> None:
        """No request is under way on it any more."""
        if connection in self._busy:
            self._busy.discard(connection)
            self._idle[connection] = None

    def leave(self, connection: Connection) -> None:
        """It is gone."""
        self._idle.pop(connection, None)
        self._busy.discard(connection)


def raise_descriptor_limit() -> None:
    """Let this process open as many descriptors as the system allows it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):  # it goes on with what it has
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
