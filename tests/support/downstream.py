"""A listener whose connections a test holds in hand: for moments that a process of its own would not show."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import cast

from gateway.core.traffic.table import RoutingTable
from gateway.proxy.context import WorkerContext
from gateway.proxy.http1.client_connection import http1_connections
from gateway.proxy.http1.server_connection import DownstreamConnection
from gateway.runtime.settings import Limits
from tests.support.worker import eventually


class InHand:
    """``address`` to connect to; ``made`` are the connections so far, each with the state of its worker."""

    def __init__(self, table: RoutingTable | None = None) -> None:
        first = table or RoutingTable(1, (), {})
        self.worker = WorkerContext(
            asyncio.get_running_loop(), first, Limits(), boot="b", connections=http1_connections
        )
        self.made: list[DownstreamConnection] = []
        self.address: tuple[str, int] = ("", 0)

    def connection(self) -> asyncio.Protocol:
        """What the loop asks for when somebody connects."""
        self.made.append(DownstreamConnection(self.worker, "127.0.0.1"))
        return cast("asyncio.Protocol", self.made[-1])

    async def connected(self, count: int = 1) -> DownstreamConnection:
        """The newest of ``count`` connections, as soon as it is one."""
        await eventually(
            lambda: len(self.made) == count and self.made[-1].socket.transport is not None, "it is connected"
        )
        return self.made[-1]


@contextlib.asynccontextmanager
async def in_hand(table: RoutingTable | None = None) -> AsyncIterator[InHand]:
    """Without a table no route leads anywhere: what is whole is answered with 404."""
    hand = InHand(table)
    server = await asyncio.get_running_loop().create_server(hand.connection, "127.0.0.1", 0)
    async with server:
        hand.address = server.sockets[0].getsockname()[:2]
        yield hand
