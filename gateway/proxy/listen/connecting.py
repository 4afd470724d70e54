"""From an accepted socket to a connection that is read from, without a task: one would cost as much as all the rest."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any

from gateway.proxy.http1.server_connection import DownstreamConnection


class Connecting:
    """Runs `loop.connect_accepted_socket` step by step, as a task would.

    ``done`` is called once, when the connection has been made or has failed; ``error`` is None, or why it failed.
    """

    __slots__ = ("_coroutine", "_done", "_sock", "connection", "error")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sock: socket.socket,
        connection: DownstreamConnection,
        done: Callable[[Connecting], None],
    ) -> None:
        self.connection = connection
        self.error: Exception | None = None
        self._sock = sock
        self._done = done
        factory: Any = lambda: connection  # noqa: E731  # a protocol by its methods alone
        self._coroutine: Any = loop.connect_accepted_socket(factory, sock)
        self._step(None)

    def _step(self, _: object) -> None:
        try:
            future = self._coroutine.send(None)
        except StopIteration:
            self._done(self)
        except (OSError, RuntimeError) as error:  # uvloop raises the latter for a transport that was closed meanwhile
            self.error = error
            self._sock.close()
            self._done(self)
        else:
            future._asyncio_future_blocking = False  # noqa: SLF001  # by this futures and tasks know each other
            future.add_done_callback(self._step)
