"""The floor for Python: bytes from one socket to another on uvloop, without a look at them.

    python relay.py PORT UPSTREAM_PORT

Each connection has an upstream connection of its own. No parsing, no routing, no counting, no timers: what a proxy in
Python costs beyond this, it costs for what it does.
"""

from __future__ import annotations

import asyncio
import sys
from typing import cast

import uvloop


class Side(asyncio.Protocol):
    """One of the two connections of a relay; what it receives goes to its peer."""

    def __init__(self, peer: Side | None = None) -> None:
        self.peer = peer
        self.early: list[bytes] = []  # uvloop hands on what came with the connection, also to one that is paused
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self.transport = cast(asyncio.Transport, transport)  # uvloop's own, which shares no class with asyncio's

    def data_received(self, data: bytes) -> None:
        """Hand the bytes on."""
        if self.peer is None:
            self.early.append(data)
        else:
            self.peer.transport.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """Close the peer."""
        if self.peer is not None:
            self.peer.transport.close()

    def pause_writing(self) -> None:
        """Read no more than can be written."""
        assert self.peer is not None
        self.peer.transport.pause_reading()

    def resume_writing(self) -> None:
        """Read on."""
        assert self.peer is not None
        self.peer.transport.resume_reading()


class Downstream(Side):
    """The client's side: connects upstream before it reads."""

    def __init__(self, upstream_port: int) -> None:
        super().__init__()
        self._upstream_port = upstream_port

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Wait for the upstream connection."""
        super().connection_made(transport)
        self.transport.pause_reading()
        self._connecting = asyncio.get_running_loop().create_task(self._connect())

    async def _connect(self) -> None:
        try:
            loop = asyncio.get_running_loop()
            _, self.peer = await loop.create_connection(lambda: Side(self), "127.0.0.1", self._upstream_port)
        except OSError:
            self.transport.close()
            return
        if self.transport.is_closing():
            self.peer.transport.close()
        else:
            self.peer.transport.writelines(self.early)
            self.transport.resume_reading()


async def serve(port: int, upstream_port: int) -> None:
    """Relay until the process ends."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Downstream(upstream_port), "127.0.0.1", port, backlog=2048)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1]), int(sys.argv[2])))
