"""The server of the admin listener: uvicorn, which ends its event streams when it stops and knows client certificates.

With TLS and a CA for clients (`gateway.config.host_checks.admin_tls`) the common name of the verified certificate is
put into the scope as ``client_certificate``; auth.py decides what it may do. On a Unix socket the client's address is
the user at its other end (SO_PEERCRED), which the kernel vouches for.
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

from gateway.admin import connections
from gateway.admin.connections import Connections
from gateway.config.admin import AdminConfig

# Longer than clients keep a connection (httpx five seconds, most others a minute): who closes first should be the one
# that knows whether the next request is on its way (RFC 9112, 9.5).
KEEP_ALIVE_S = 75
_FULL = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\nretry-after: 1\r\nconnection: close\r\n\r\n"
_SLOW = b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
# struct ucred of unix(7): process, user, group.
_UCRED = struct.Struct("3i")


class AdminServerConfig(uvicorn.Config):
    """As uvicorn's, with what the connections of this listener share."""

    connections: Connections


class AdminServer(uvicorn.Server):
    """A uvicorn server for the application of `build_admin` that ends its event streams when it stops."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End the streams, then wait for the rest as usual."""
        self.config.app.state.streams.end()  # type: ignore[union-attr]  # a Starlette, by construction
        await super().shutdown(sockets)


class AdminProtocol(HttpToolsProtocol):
    """A connection within the bounds of connections.py, which passes to the application whose certificate it has."""

    def __init__(self, config: AdminServerConfig, *args: Any, **options: Any) -> None:
        super().__init__(config, *args, **options)
        self._connections = config.connections
        # What the other side has to send or take: a head, the rest of a body, reading its answer.
        self._owes: asyncio.TimerHandle | None = None
        self._reads: asyncio.TimerHandle | None = None
        self._unread = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """Refuse it where there is no room; look at the certificate that the handshake has verified, or at the user."""
        super().connection_made(transport)
        if not self._connections.enter(self):
            transport.write(_FULL)
            transport.close()
            return
        self._expect(connections.HEAD_S, "slow_head")
        name = common_name(transport.get_extra_info("peercert"))
        user = peer_user(transport.get_extra_info("socket"))
        app: Any = self.app

        async def certified(scope: Scope, receive: Receive, send: Send) -> None:
            scope["client_certificate"] = name
            scope["client"] = scope.get("client") or user
            await app(scope, receive, send)

        if name is not None or user is not None:
            self.app = certified

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is awaited from the other side any more."""
        self._connections.leave(self)
        self._expect_nothing()
        self._read_on()
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        """The first bytes of a head: the rest is owed."""
        super().on_message_begin()
        if self._owes is None:
            self._expect(connections.HEAD_S, "slow_head")

    def on_headers_complete(self) -> None:
        """A request: its body is owed."""
        self._connections.busy(self)
        self._expect(connections.BODY_S, "slow_body")
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """The request is whole."""
        self._expect_nothing()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """The answer is whole; one that waits behind it comes next."""
        more = bool(self.pipeline)
        super().on_response_complete()
        if not more:
            self._connections.idle(self)

    def pause_writing(self) -> None:
        """The client takes its answer slowly."""
        super().pause_writing()
        self._look_at_reading()

    def resume_writing(self) -> None:
        """It has caught up."""
        super().resume_writing()
        self._read_on()

    def end(self, reason: str) -> None:
        """Close the connection, and count why."""
        self._connections.ended[reason] += 1
        self._connections.leave(self)
        self._expect_nothing()
        if reason == "slow_head":
            self.transport.write(_SLOW)
        if reason == "slow_reader":
            self.transport.abort()
        else:
            self.transport.close()

    def _expect(self, within_s: float, reason: str) -> None:
        self._expect_nothing()
        self._owes = self.loop.call_later(within_s, self.end, reason)

    def _expect_nothing(self) -> None:
        if self._owes is not None:
            self._owes.cancel()
            self._owes = None

    def _look_at_reading(self) -> None:
        """Now and every so often, until the client has caught up: has it taken anything meanwhile?"""
        self._read_on()
        unread = self.transport.get_write_buffer_size()
        if unread and unread == self._unread:
            self.end("slow_reader")
            return
        self._unread = unread
        self._reads = self.loop.call_later(connections.READ_S, self._look_at_reading)

    def _read_on(self) -> None:
        if self._reads is not None:
            self._reads.cancel()
            self._reads = None


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


def server_config(
    app: Starlette, tls: ssl.SSLContext | None = None, shared: Connections | None = None
) -> AdminServerConfig:
    """What a server of the admin application is configured with."""
    config = AdminServerConfig(
        app,
        http=AdminProtocol,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=2,
        ssl_context_factory=None if tls is None else lambda *_: tls,
    )
    config.connections = shared or Connections(AdminConfig().connections_max)
    return config
