"""How clients get in: the accept loop, the caps before a connection costs anything, PROXY header and TLS, the drain.

Rules:

1. A client's cap is looked at before anything is read (client_limits.py), descriptors before anything is accepted
   (acceptor.py).
2. PROXY header, then TLS, each with an absolute deadline; a connection that misses or breaks it is closed and counted.
3. Drain: everything in the kernel's queue is still accepted, then the socket is let go; open connections finish.
   What is not finished at the deadline is cut.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import socket
import ssl
from collections.abc import Callable
from functools import partial
from typing import cast

from gateway.core.traffic.addresses import plain_address, plain_network
from gateway.proxy.context import WorkerContext
from gateway.proxy.heads import gateway_errors
from gateway.proxy.http1.server_connection import DownstreamConnection
from gateway.proxy.listen.acceptor import Acceptor
from gateway.proxy.listen.client_limits import ClientLimits
from gateway.proxy.listen.connecting import Connecting
from gateway.proxy.listen.proxy_protocol import BadProxyHeader, read_source
from gateway.proxy.listen.tls import ServerTls
from gateway.proxy.reset_watch import ResetWatch
from gateway.runtime.settings import ProxyProtocolSettings

_log = logging.getLogger("gateway.worker")
_DRAIN_LOOK_S = 0.02


class Listener:
    """Accepts on one inherited socket until it drains."""

    def __init__(
        self,
        worker: WorkerContext,
        sock: socket.socket,
        *,
        tls: ServerTls | None = None,
        proxy_protocol: ProxyProtocolSettings | None = None,
    ) -> None:
        self._worker = worker
        self._loop = worker.loop
        self._socket = sock
        self._tls = tls
        self._proxy = proxy_protocol
        self._balancers = tuple(plain_network(cidr) for cidr in proxy_protocol.trusted) if proxy_protocol else ()
        self._reset_watch = ResetWatch(worker.loop)
        self._clients = ClientLimits(worker)
        self._acceptor = Acceptor(worker, sock, self._enter)
        # Those that read the PROXY header or shake hands.
        self._tasks: set[asyncio.Task[None]] = set()
        self._draining = False

    def start(self) -> None:
        """Accept from now on."""
        self._socket.setblocking(False)
        with contextlib.suppress(OSError):  # a Unix socket has no such thing
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # accepted sockets inherit it
        self._acceptor.resume()

    async def drain(self, timeout_s: float) -> None:
        """Rule 3; returns when no client is connected any more."""
        self._draining = True
        self._acceptor.end()
        self._socket.close()
        self._worker.stop_mirroring()
        connections = self._worker.connections
        for connection in list(connections):
            connection.shutdown()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while self._acceptor.arriving or connections:
                    await asyncio.sleep(_DRAIN_LOOK_S)
        for task in list(self._tasks):
            task.cancel()
        if unfinished := sum(connection.busy for connection in connections):
            _log.warning(
                "drain timed out after %g s (limits.drain_timeout_s): busy connections cut: %d", timeout_s, unfinished
            )
        self._worker.cutting = True
        for connection in list(connections):
            connection.abort()
        await asyncio.sleep(0)

    # arriving

    def _enter(self, sock: socket.socket, peer: str) -> None:
        """Somebody was accepted."""
        if self._proxy is None and not self._clients.admits(peer):
            self._turn_away(sock, gateway_errors.TOO_MANY_FROM_CLIENT)
            return
        self._acceptor.arriving += 1
        if self._proxy is None and self._tls is None:
            Connecting(self._loop, sock, self._connection(peer), self._connected)
            return
        sock.setblocking(False)
        task = self._loop.create_task(self._arrive(sock, peer))
        self._tasks.add(task)
        task.add_done_callback(self._arrived)

    def _connection(self, client: str) -> DownstreamConnection:
        """``client`` is who the connection is from: its peer, or who a PROXY header named."""
        self._clients.enter(client)
        left = partial(self._clients.leave, client)
        tls = self._tls is not None
        return DownstreamConnection(self._worker, client, tls=tls, watch=self._reset_watch, left=left)

    def _connected(self, connecting: Connecting) -> None:
        self._acceptor.arriving -= 1
        if connecting.error is not None:
            connecting.connection.not_connected()
        elif self._draining:
            connecting.connection.shutdown()

    def _arrived(self, task: asyncio.Task[None]) -> None:
        self._acceptor.arriving -= 1
        self._tasks.discard(task)

    async def _arrive(self, sock: socket.socket, peer: str) -> None:
        client = peer
        try:
            if self._proxy is not None:
                client = await self._named(sock, peer, self._proxy.timeout_s)
                if not self._clients.admits(client):
                    self._turn_away(sock, gateway_errors.TOO_MANY_FROM_CLIENT)
                    return
        except (OSError, BadProxyHeader, TimeoutError) as error:
            self._worker.counts.fault(gateway_errors.BAD_PROXY_HEADER.reason)
            _log.info("%s: PROXY header refused: %s", peer, str(error) or "timed out")
            sock.close()
            return
        except asyncio.CancelledError:
            sock.close()
            raise
        connection = self._connection(client)
        if not await self._connect(sock, connection):
            connection.not_connected()
        elif self._draining:
            connection.shutdown()

    async def _connect(self, sock: socket.socket, connection: DownstreamConnection) -> bool:
        tls = self._tls
        factory = cast("Callable[[], asyncio.Protocol]", lambda: connection)
        try:
            if tls is None:
                await self._loop.connect_accepted_socket(factory, sock)
            else:
                await self._loop.connect_accepted_socket(
                    factory, sock, ssl=tls.context, ssl_handshake_timeout=tls.handshake_timeout_s
                )
        except (OSError, ssl.SSLError, ConnectionError) as error:
            if tls is not None:
                self._worker.counts.fault(gateway_errors.TLS_HANDSHAKE.reason)
                _log.info("%s: TLS handshake failed: %s", connection.peer.decode(), error)
            sock.close()
            return False
        return True

    async def _named(self, sock: socket.socket, peer: str, timeout_s: float) -> str:
        if not self._from_balancer(peer):
            raise BadProxyHeader("the peer is not in proxy_protocol.trusted")
        async with asyncio.timeout(timeout_s):
            return plain_address(await read_source(sock) or peer)

    def _from_balancer(self, peer: str) -> bool:
        try:
            address = ipaddress.ip_address(peer)
        except ValueError:
            return False
        return any(address in network for network in self._balancers)

    def _turn_away(self, sock: socket.socket, fault: gateway_errors.Fault) -> None:
        self._worker.counts.fault(fault.reason)
        if self._tls is None:
            sock.setblocking(False)
            with contextlib.suppress(OSError):  # what does not fit into an empty buffer is not worth waiting for
                sock.send(gateway_errors.response(fault))
        sock.close()
