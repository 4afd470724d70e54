"""Takes connections from the listening socket: one by one, as long as there is room for more.

Rules:

1. Accepting pauses while descriptors are short, without a busy loop; what is under way goes on, and so does accepting,
   by itself, as soon as there is room. The kernel's queue holds the others meanwhile.
2. Whether another one waits is asked of the kernel before it is accepted: an accept(2) in vain costs an exception.
"""

from __future__ import annotations

import asyncio
import errno
import select
import socket
from collections.abc import Callable
from typing import Any, Final

from gateway.core.traffic.addresses import plain_address
from gateway.proxy.context import WorkerContext
from gateway.proxy.listen.accepted_socket import accepted_socket_class
from gateway.proxy.listen.descriptor_limit import DescriptorLimit

_ACCEPTS_PER_TURN: Final = 64
_PAUSE_S: Final = 0.1
# What accept(2) says when something is short; a connection that ended in the queue is not among them.
_SHORT: Final = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))


class Acceptor:
    """Calls ``enter`` with the socket and the peer's address of each connection.

    ``arriving`` counts those that were accepted and are no connections yet: ``enter`` and what follows it count them.
    """

    def __init__(
        self, worker: WorkerContext, listening: socket.socket, enter: Callable[[socket.socket, str], None]
    ) -> None:
        self._worker = worker
        self._loop: asyncio.AbstractEventLoop = worker.loop
        self._listening: Any = listening
        self._enter = enter
        self._descriptors = DescriptorLimit(worker.limits.connections_max)
        self._accepting = False
        self._ended = False
        self._socket_class: Any = accepted_socket_class(listening)
        self._family: int = int(listening.family)
        self._kind: int = int(listening.type)
        self._protocol = listening.proto
        self._queue = select.poll()
        self._queue.register(listening.fileno(), select.POLLIN)
        self.arriving = 0

    def resume(self) -> None:
        """Accept from now on."""
        if not self._accepting and not self._ended:
            self._accepting = True
            self._loop.add_reader(self._listening.fileno(), self._readable)

    def end(self) -> None:
        """Take what is in the kernel's queue, and nothing any more."""
        self._ended = True
        self._pause()
        while self._queue.poll(0) and self._accept_one():
            pass

    def _pause(self) -> None:
        if self._accepting:
            self._accepting = False
            self._loop.remove_reader(self._listening.fileno())

    def _readable(self) -> None:
        for _ in range(_ACCEPTS_PER_TURN):
            if not self._room():
                self._wait_for_room()
                return
            if not self._accept_one() or not self._queue.poll(0):
                return

    def _room(self) -> bool:
        worker = self._worker
        return self._descriptors.room(len(worker.connections) + self.arriving, worker.pools.connections_max)

    def _wait_for_room(self) -> None:
        self._pause()
        self._worker.counts.accept_pauses += 1
        self._loop.call_later(_PAUSE_S, self.resume)

    def _accept_one(self) -> bool:
        """Take one connection from the queue; False when there is none, or none can be taken."""
        try:
            fd, address = self._listening._accept()  # noqa: SLF001  # what socket.accept() calls, without its conversions
        except (BlockingIOError, InterruptedError):
            return False
        except OSError as error:
            if error.errno in _SHORT:
                if not self._ended:
                    self._wait_for_room()
                return False
            return error.errno != errno.EBADF  # it ended in the queue (ECONNABORTED and the like): on to the next
        sock = self._socket_class(self._family, self._kind, self._protocol, fd)
        self._enter(sock, plain_address(address[0]) if isinstance(address, tuple) else "")
        return True
