"""How clients get in: the accept loop, the caps before a connection costs anything, PROXY header and TLS, the drain.

Rules:

1. Accepting pauses while descriptors are short, without a busy loop; what is under way goes on, and so does accepting,
   by itself, as soon as there is room. The kernel's queue holds the others meanwhile.
2. A client's cap is looked at before anything is read. Trusted proxies have none: many clients are behind them.
3. PROXY header, then TLS, each with an absolute deadline; whoever misses it, or breaks it, is closed and counted.
4. Drain: everything in the kernel's queue is still accepted, then the socket is let go; whoever is connected finishes.
   What is not finished at the deadline is cut.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import logging
import socket
import ssl
from collections.abc import Callable
from typing import cast

from gateway.core.traffic.addresses import plain_address, plain_network
from gateway.proxy.context import WorkerContext
from gateway.proxy.heads import gateway_errors
from gateway.proxy.listen.client_connection import ClientConnection
from gateway.proxy.listen.client_limits import ClientRegistry
from gateway.proxy.listen.descriptor_limit import DescriptorLimit
from gateway.proxy.listen.proxy_protocol import BadProxyHeader, read_source
from gateway.proxy.listen.reset_watch import ResetWatch
from gateway.proxy.listen.tls import ServerTls
from gateway.runtime.settings import ProxyProtocolSettings

_log = logging.getLogger("gateway.worker")
_ACCEPTS_PER_TURN = 64
_PAUSE_S = 0.1
_DRAIN_LOOK_S = 0.02
# What accept(2) says when something is short; a connection that ended in the queue is not among them.
_SHORT = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))


class Listener:
    """Accepts on one inherited socket until it is told to drain."""

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
        self._descriptors = DescriptorLimit(worker.limits.connections_max)
        self.registry = ClientRegistry()
        # Accepted, and not yet a connection: tasks that read the PROXY header or shake hands.
        self._arriving: set[asyncio.Task[None]] = set()
        self._accepting = False
        self._draining = False

    def start(self) -> None:
        """Accept from now on."""
        self._socket.setblocking(False)
        with contextlib.suppress(OSError):  # a Unix socket has no such thing
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # accepted sockets inherit it
        self._resume()

    async def drain(self, timeout_s: float) -> None:
        """Rule 4; returns when nobody is connected any more."""
        self._draining = True
        self._pause()
        while self._accept_one():
            pass
        self._socket.close()
        for connection in list(self.registry):
            connection.shutdown()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while self._arriving or self.registry:
                    await asyncio.sleep(_DRAIN_LOOK_S)
        for task in list(self._arriving):
            task.cancel()
        if unfinished := sum(connection.busy for connection in self.registry):
            _log.warning("%d connection(s) were not finished in %g s and are cut", unfinished, timeout_s)
        self._worker.cutting = True
        for connection in list(self.registry):
            connection.transport.abort()
        await asyncio.sleep(0)

    # accepting

    def _resume(self) -> None:
        if not self._accepting and not self._draining:
            self._accepting = True
            self._loop.add_reader(self._socket.fileno(), self._readable)

    def _pause(self) -> None:
        if self._accepting:
            self._accepting = False
            self._loop.remove_reader(self._socket.fileno())

    def _readable(self) -> None:
        for _ in range(_ACCEPTS_PER_TURN):
            if not self._room():
                self._wait_for_room()
                return
            if not self._accept_one():
                return

    def _room(self) -> bool:
        return self._descriptors.room(len(self.registry) + len(self._arriving), self._worker.pools.connections_max)

    def _wait_for_room(self) -> None:
        self._pause()
        self._worker.counts.accept_pauses += 1
        self._loop.call_later(_PAUSE_S, self._resume)

    def _accept_one(self) -> bool:
        """Take one connection from the queue; False when there is none, or none can be taken."""
        try:
            sock, address = self._socket.accept()
        except (BlockingIOError, InterruptedError):
            return False
        except OSError as error:
            if error.errno in _SHORT:
                if not self._draining:
                    self._wait_for_room()
                return False
            return error.errno != errno.EBADF  # it ended in the queue (ECONNABORTED and the like): on to the next
        sock.setblocking(False)
        task = self._loop.create_task(
            self._arrive(sock, plain_address(address[0]) if isinstance(address, tuple) else "")
        )
        self._arriving.add(task)
        task.add_done_callback(self._arriving.discard)
        return True

    # arriving

    async def _arrive(self, sock: socket.socket, peer: str) -> None:
        client = peer
        try:
            if self._proxy is not None:
                client = await self._named(sock, peer, self._proxy.timeout_s)
            if not self._may_enter(client):
                self._turn_away(sock, gateway_errors.TOO_MANY_FROM_CLIENT)
                return
        except (OSError, BadProxyHeader, TimeoutError) as error:
            self._worker.counts.fault(gateway_errors.BAD_PROXY_HEADER.reason)
            _log.info("%s sent no PROXY header that can be used: %s", peer, str(error) or "it took too long")
            sock.close()
            return
        except asyncio.CancelledError:
            sock.close()
            raise
        self.registry.enter(client)
        connection = ClientConnection(
            self._worker, self.registry, self._reset_watch, client, named=self._proxy is not None
        )
        if not await self._connect(sock, connection):
            self.registry.leave(client)
        elif self._draining:
            connection.shutdown()

    async def _connect(self, sock: socket.socket, connection: ClientConnection) -> bool:
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
                _log.info("%s: no TLS handshake: %s", connection.client, error)
            sock.close()
            return False
        return True

    async def _named(self, sock: socket.socket, peer: str, timeout_s: float) -> str:
        if not self._from_balancer(peer):
            raise BadProxyHeader("it is not in proxy_protocol.trusted")
        async with asyncio.timeout(timeout_s):
            return plain_address(await read_source(sock) or peer)

    def _from_balancer(self, peer: str) -> bool:
        try:
            address = ipaddress.ip_address(peer)
        except ValueError:
            return False
        return any(address in network for network in self._balancers)

    def _may_enter(self, client: str) -> bool:
        most = self._worker.limits.connections_per_client_max
        return most is None or self.registry.clients.get(client, 0) < most or self._worker.trusts(client)

    def _turn_away(self, sock: socket.socket, fault: gateway_errors.Fault) -> None:
        self._worker.counts.fault(fault.reason)
        if self._tls is None:
            with contextlib.suppress(OSError):  # what does not fit into an empty buffer is not worth waiting for
                sock.send(gateway_errors.response(fault))
        sock.close()
