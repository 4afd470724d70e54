"""The server of the admin listener: uvicorn, which ends its event streams when it stops and knows client certificates.

With TLS and a CA for clients (`gateway.config.world.admin_tls`) the common name of the verified certificate is put into
the scope as ``client_certificate``; the guard asks what it may do. On a Unix socket the client's address is the user at
its other end (SO_PEERCRED), which the kernel vouches for.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

# Longer than clients keep a connection (httpx five seconds, most others a minute): who closes first should be the one
# that knows whether the next request is on its way (RFC 9112, 9.5).
KEEP_ALIVE_S = 75
# struct ucred of unix(7): process, user, group.
_UCRED = struct.Struct("3i")


class AdminServer(uvicorn.Server):
    """A uvicorn server for the application of `build_admin` that ends its event streams when it stops."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End the streams, then wait for the rest as usual."""
        self.config.app.state.streams.end()  # type: ignore[union-attr]  # a Starlette, by construction
        await super().shutdown(sockets)


class AdminProtocol(HttpToolsProtocol):
    """A connection that tells the application whose certificate it was opened with."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """Look at the certificate that the handshake has verified, or at the user."""
        super().connection_made(transport)
        name = common_name(transport.get_extra_info("peercert"))
        user = peer_user(transport.get_extra_info("socket"))
        app: Any = self.app

        async def certified(scope: Scope, receive: Receive, send: Send) -> None:
            scope["client_certificate"] = name
            scope["client"] = scope.get("client") or user
            await app(scope, receive, send)

        if name is not None or user is not None:
            self.app = certified


def peer_user(connection: Any) -> tuple[str, int] | None:
    """Who is at the other end of a Unix socket, in place of an address; None for any other connection."""
    if connection is None or connection.family != socket.AF_UNIX or not hasattr(socket, "SO_PEERCRED"):
        return None
    _, uid, _ = _UCRED.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    return f"user {uid}", 0


def common_name(certificate: dict[str, Any] | None) -> str | None:
    """The one common name in the subject of a certificate, as ``ssl`` gives it; None without one, or with several."""
    subject = (certificate or {}).get("subject", ())
    names = [value for part in subject for key, value in part if key == "commonName"]
    return names[0] if len(names) == 1 else None


def server_config(app: Starlette, tls: ssl.SSLContext | None = None) -> uvicorn.Config:
    """What a server of the admin application is configured with."""
    return uvicorn.Config(
        app,
        http=AdminProtocol,
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=2,
        ssl_context_factory=None if tls is None else lambda *_: tls,
    )
