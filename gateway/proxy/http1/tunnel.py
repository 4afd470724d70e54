"""A tunnel: what becomes of both connections once a backend has agreed to switch protocols.

Rules (RFC 9110, 7.8):

1. It begins after a 101 that names the protocol asked for, never before; until then the bytes that follow the request
   are held (request_reader.py).
2. The gateway looks at nothing in it. Each direction is paused while the other side does not take more, so memory is
   bounded by the write buffers of two sockets.
3. The end of one direction is passed on and the other goes on (half-close); a reset is passed on as a reset.
4. One in which nothing moves for the route's ``tunnel_idle_s`` is closed, and so is one that outlives a drain.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import monotonic
from typing import cast

# A tunnel is closed before the drain's deadline: the process must be able to end in order.
_OF_THE_DRAIN = 0.9


class TunnelEnd:
    """One of the two connections; takes the place of the protocol that brought it here.

    An asyncio.Protocol by its methods alone: compiled classes have no base that is not.
    """

    __slots__ = ("_on_lost", "ended", "lost", "moved_bytes", "peer", "transport", "tunnel")

    def __init__(
        self, tunnel: Tunnel, transport: asyncio.Transport, on_lost: Callable[[Exception | None], None]
    ) -> None:
        self.tunnel = tunnel
        self.transport = transport
        self.peer: TunnelEnd = self  # joined by Tunnel
        self.moved_bytes = 0
        self.ended = False
        self.lost = False
        self._on_lost = on_lost

    def data_received(self, data: bytes) -> None:
        """Pass on."""
        self.tunnel.moved_s = monotonic()
        self.moved_bytes += len(data)
        if not self.peer.lost:
            self.peer.transport.write(data)

    def eof_received(self) -> bool:
        """This side sends no more: end the other's writing; when both have ended, close."""
        self.ended = True
        peer = self.peer
        if peer.ended or peer.lost or not (peer.transport.can_write_eof() and self.transport.can_write_eof()):
            # TLS knows no half-close that both ends could rely on: there the end of one side ends it all.
            peer.transport.close()
            return False
        self.tunnel.moved_s = monotonic()
        peer.transport.write_eof()
        return True

    def pause_writing(self) -> None:
        """This side takes no more: read no more from the other."""
        if not self.peer.lost:
            self.peer.transport.pause_reading()

    def resume_writing(self) -> None:
        """It takes more."""
        if not self.peer.lost:
            self.peer.transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        """This side is gone, and with it the tunnel."""
        self.lost = True
        if not self.peer.lost:
            if exc is None:
                self.peer.transport.close()
            else:
                self.peer.transport.abort()
        self._on_lost(exc)
        self.tunnel.end_lost()


class Tunnel:
    """Both ends, joined. ``ended`` is called once, when both are gone: with the bytes from and to the client."""

    __slots__ = ("_ended", "_idle_s", "downstream", "moved_s", "upstream")

    def __init__(
        self,
        downstream: asyncio.Transport,
        upstream: asyncio.Transport,
        idle_s: float,
        downstream_lost: Callable[[Exception | None], None],
        upstream_lost: Callable[[Exception | None], None],
        ended: Callable[[int, int], None],
    ) -> None:
        self._ended = ended
        self._idle_s = idle_s
        self.moved_s = monotonic()
        self.downstream = TunnelEnd(self, downstream, downstream_lost)
        self.upstream = TunnelEnd(self, upstream, upstream_lost)
        self.downstream.peer, self.upstream.peer = self.upstream, self.downstream

    def open(self, to_upstream: bytes, to_downstream: bytes, *, client_ended: bool, client_paused: bool) -> None:
        """Take over both connections and pass on what was held.

        ``client_paused``: its transport has said already that it takes no more, and will not say so again.
        """
        self.downstream.transport.set_protocol(cast("asyncio.Protocol", self.downstream))
        self.upstream.transport.set_protocol(cast("asyncio.Protocol", self.upstream))
        # A side that was paused for the handshake is read again, before what follows may pause it anew.
        self.downstream.transport.resume_reading()
        if client_paused:
            self.upstream.transport.pause_reading()
        else:
            self.upstream.transport.resume_reading()
        for end, data in ((self.downstream, to_upstream), (self.upstream, to_downstream)):
            if data:
                end.data_received(data)
        if client_ended:
            self.downstream.ended = True
            if self.upstream.transport.can_write_eof():
                self.upstream.transport.write_eof()

    def sweep(self, now_s: float) -> None:
        """Close it when nothing has moved for too long."""
        if now_s - self.moved_s > self._idle_s:
            self.close()

    def drain(self, loop: asyncio.AbstractEventLoop, timeout_s: float) -> None:
        """The server drains: the tunnel may live on until shortly before the deadline."""
        loop.call_later(timeout_s * _OF_THE_DRAIN, self.close)

    def close(self) -> None:
        """End both sides now. What a peer has not taken yet is dropped: it may never take it."""
        for end in (self.downstream, self.upstream):
            if not end.lost:
                if end.transport.get_write_buffer_size():
                    end.transport.abort()
                else:
                    end.transport.close()

    def end_lost(self) -> None:
        """One end is gone (called by it)."""
        if self.downstream.lost and self.upstream.lost:
            self._ended(self.downstream.moved_bytes, self.upstream.moved_bytes)
