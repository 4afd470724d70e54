"""Notices of the supervisor to control: small messages over a pair of datagram sockets.

A message is whole or absent. None is waited for: a control process that hangs misses some, and one that is started
again gets the newest at its start. A new configuration comes as a file (of the gateway's own private directory), for
a message has to be small.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable

import msgspec

_log = logging.getLogger("gateway.supervisor")
_BYTES_MAX = 65_536


class Notice(msgspec.Struct, frozen=True):
    """How the supervisor is doing; each notice says everything.

    ``refused_why`` is the error of the last reload (SIGHUP), empty when it succeeded.
    ``config_file``: a checked configuration to go by from now on, None for the one that control was born with.
    ``restarts`` counts children that were started again, by kind and reason; ``hung`` is the last one that hung, and
    ``hung_at_s`` when that was (monotonic).
    """

    draining: bool = False
    reloads_applied: int = 0
    reloads_refused: int = 0
    refused_why: str = ""
    config_file: str | None = None
    restarts: dict[str, dict[str, int]] = {}
    hung: str = ""
    hung_at_s: float = 0.0


def pair() -> tuple[socket.socket, socket.socket]:
    """The supervisor's end and control's end."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    ours.setblocking(False)
    return ours, theirs


def send(ours: socket.socket, notice: Notice) -> None:
    """Send, or drop it when nobody listens."""
    try:
        ours.send(msgspec.json.encode(notice))
    except OSError as error:
        _log.warning("control: a notice could not be sent: %s", error)


def listen(fd: int, take: Callable[[Notice], None]) -> None:
    """Call ``take`` for every notice that comes in at control's end."""
    theirs = socket.socket(fileno=fd)
    theirs.setblocking(False)

    def read() -> None:
        with contextlib.suppress(OSError):
            take(msgspec.json.decode(theirs.recv(_BYTES_MAX), type=Notice))

    asyncio.get_running_loop().add_reader(fd, read)
