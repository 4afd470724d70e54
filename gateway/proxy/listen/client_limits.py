"""How many connections each client has, and whether it may have one more.

A client's cap is looked at before anything is read. Trusted proxies have none: many clients are behind them.
"""

from __future__ import annotations

from gateway.proxy.context import WorkerContext


class ClientLimits:
    """The connections of a worker by client (``limits.connections_per_client_max``)."""

    def __init__(self, worker: WorkerContext) -> None:
        self._worker = worker
        self._most = worker.limits.connections_per_client_max
        self._open: dict[str, int] = {}

    def admits(self, client: str) -> bool:
        """Whether this client may have one more connection."""
        most = self._most
        return most is None or self._open.get(client, 0) < most or self._worker.trusts(client)

    def enter(self, client: str) -> None:
        """A connection of this client begins."""
        self._open[client] = self._open.get(client, 0) + 1

    def leave(self, client: str) -> None:
        """One of them is over."""
        left = self._open[client] - 1
        if left:
            self._open[client] = left
        else:
            del self._open[client]
