"""A client's connection as the listener makes it: the client may be another than the peer, and its reset is noticed."""

from __future__ import annotations

import asyncio

from gateway.proxy.context import WorkerContext
from gateway.proxy.http1.server_connection import DownstreamConnection
from gateway.proxy.listen.client_limits import ClientRegistry
from gateway.proxy.listen.reset_watch import ResetWatch


class ClientConnection(DownstreamConnection):
    """A connection whose client may be another than its peer: the one that a PROXY header named."""

    __slots__ = ("_reset_watch", "_watched_fd", "client", "named")

    def __init__(
        self, worker: WorkerContext, registry: ClientRegistry, reset_watch: ResetWatch, client: str, *, named: bool
    ) -> None:
        super().__init__(worker, registry)
        self._reset_watch = reset_watch
        self.client = client
        self.named = named
        self._watched_fd = -1

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """As without a PROXY header, but for who is there."""
        super().connection_made(transport)
        if self.named:
            self.peer = self.client.encode()
            self.trusted = self._worker.trusts(self.client)

    def connection_lost(self, exc: Exception | None) -> None:
        """The client is gone: watch it no longer."""
        self._unwatch()
        super().connection_lost(exc)

    def eof_received(self) -> bool:
        """The client sends no more; a reset is still noticed."""
        stays = super().eof_received()
        if stays:
            self._watch()
        return stays

    def pause_reading(self) -> None:
        """Read no more; but a reset is still heard, so that upstream is not busy for nobody."""
        super().pause_reading()
        if self._paused:
            self._watch()

    def _watch(self) -> None:
        if self._watched_fd < 0 and not self.transport.is_closing():
            self._watched_fd = self.transport.get_extra_info("socket").fileno()
            self._reset_watch.add(self._watched_fd, self.transport.abort)

    def resume_reading(self) -> None:
        """Read on: what happens to the connection is heard that way again."""
        super().resume_reading()
        if not self._paused and not self.eof:
            self._unwatch()

    def _unwatch(self) -> None:
        if self._watched_fd >= 0:
            self._reset_watch.remove(self._watched_fd)
            self._watched_fd = -1
