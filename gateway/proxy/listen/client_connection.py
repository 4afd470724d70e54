"""A client's connection as the listener makes it: counted for its client; a reset is noticed while nobody reads."""

from __future__ import annotations

from gateway.proxy.context import WorkerContext
from gateway.proxy.http1.server_connection import DownstreamConnection
from gateway.proxy.listen.client_limits import ClientLimits
from gateway.proxy.listen.reset_watch import ResetWatch


class ClientConnection(DownstreamConnection):
    """``client`` is who the connection is from: its peer, or who a PROXY header named."""

    __slots__ = ("_clients", "_counted", "_reset_watch", "_watched_fd", "client")

    def __init__(
        self, worker: WorkerContext, clients: ClientLimits, reset_watch: ResetWatch, client: str, *, tls: bool
    ) -> None:
        super().__init__(worker, client, tls=tls)
        self._clients = clients
        self._reset_watch = reset_watch
        self._watched_fd = -1
        self.client = client
        clients.enter(client)
        self._counted = True

    def connection_lost(self, exc: Exception | None) -> None:
        """The client is gone."""
        self._unwatch()
        super().connection_lost(exc)
        self.not_connected()

    def not_connected(self) -> None:
        """The connection is over, or never came about."""
        if self._counted:
            self._counted = False
            self._clients.leave(self.client)

    def eof_received(self) -> bool:
        """The client sends no more; a reset is still noticed."""
        stays = super().eof_received()
        if stays:
            self._watch()
        return stays

    def pause_reading(self) -> None:
        """Read no more; but a reset is still noticed, so that upstream is not busy for nobody."""
        super().pause_reading()
        if self._paused:
            self._watch()

    def _watch(self) -> None:
        if self._watched_fd < 0 and not self.transport.is_closing():
            self._watched_fd = self.transport.get_extra_info("socket").fileno()
            self._reset_watch.add(self._watched_fd, self.transport.abort)

    def resume_reading(self) -> None:
        """Read on: what happens to the connection is noticed that way again."""
        super().resume_reading()
        if not self._paused and not self.eof:
            self._unwatch()

    def _unwatch(self) -> None:
        if self._watched_fd >= 0:
            self._reset_watch.remove(self._watched_fd)
            self._watched_fd = -1
