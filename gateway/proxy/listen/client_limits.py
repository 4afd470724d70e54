"""The open connections of a worker, and how many of them each client has."""

from __future__ import annotations

from typing import Any


class ClientRegistry(set[Any]):
    """The open connections, and how many of them each client has."""

    def __init__(self) -> None:
        super().__init__()
        self.clients: dict[str, int] = {}

    def enter(self, client: str) -> None:
        """A connection of this client begins."""
        self.clients[client] = self.clients.get(client, 0) + 1

    def leave(self, client: str) -> None:
        """One of them is over."""
        left = self.clients.get(client, 0) - 1
        if left > 0:
            self.clients[client] = left
        else:
            self.clients.pop(client, None)

    def discard(self, connection: Any) -> None:
        """The connection is gone (its protocol says so, exactly once)."""
        if connection in self:
            super().discard(connection)
            self.leave(connection.client)
