"""The client's end of a connection: what is written to it, whether it is read from, and how it is closed.

Rules:

1. A closed connection is read from as long as its client sends, and a moment longer, up to half a minute: so that no
   reset overtakes the answer (RFC 9112, 9.6).
2. A client that takes nothing of what is left for it is dropped.
3. Of an answer that cannot be completed the client gets all that there is. That it was cut shows in its framing; where
   it has none, in a reset once everything has arrived, since a FIN would be a clean end.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import select
import socket
import struct
import termios
from typing import Final

from gateway.proxy.context import WorkerContext
from gateway.proxy.exchange.types import Downstream
from gateway.proxy.heads import gateway_errors
from gateway.proxy.heads.gateway_errors import Fault

# How long a closed-for-writing connection is read from, so that a reset does not overtake the answer.
_LINGER_S: Final = 1.0
_LINGER_MAX_S: Final = 30.0
_LINGER_ZERO: Final = struct.pack("ii", 1, 0)


class ClientEnd(Downstream):
    """What a client's connection is, whatever is spoken on it."""

    __slots__ = (
        *("_ended", "_linger_end_s", "_linger_until_s", "_paused", "_resets", "_since_s", "_unread", "_worker"),
        *("closing", "eof", "transport"),
    )

    def __init__(self, worker: WorkerContext) -> None:
        super().__init__()
        self._worker = worker
        self.transport: asyncio.Transport = None  # type: ignore[assignment]  # set by connection_made, before any use
        self._since_s = worker.now_s()
        self._linger_until_s = self._linger_end_s = 0.0
        self._resets = False
        self._paused = False
        self._unread = 0
        self._ended = False
        self.closing = False
        self.eof = False

    def write(self, data: bytes) -> None:
        """Write response bytes."""
        if not self.transport.is_closing():
            self.transport.write(data)

    def write_problem(
        self, fault: Fault, *, keep: bool, head_only: bool = False, detail: str = "", lines: bytes = b""
    ) -> int:
        """Write an answer of the gateway's own; returns its size. ``lines`` are further ones of its head."""
        answer = gateway_errors.response(fault, keep=keep, head_only=head_only, detail=detail, lines=lines)
        self.write(answer)
        return len(answer)

    def pause_reading(self) -> None:
        """Read no more from the client until `resume_reading`."""
        if not self._paused and not self.transport.is_closing():
            self._paused = True
            self.transport.pause_reading()

    def resume_reading(self) -> None:
        """Read on."""
        if self._paused and not self.transport.is_closing():
            self._paused = False
            self.transport.resume_reading()

    def _unheard(self) -> bool:
        """Whether something has come that a late loop has not looked at yet: a request, most likely."""
        poll = select.poll()
        poll.register(self.transport.get_extra_info("socket").fileno(), select.POLLIN)
        return bool(poll.poll(0))

    def _sweep_lingering(self, now_s: float) -> None:
        if self.transport.get_write_buffer_size():  # a slow reader is not done with the answer yet
            self._linger_until_s = now_s + _LINGER_S
            self._sweep_unread(now_s)
        elif self._resets and (self._delivered() or now_s >= self._linger_end_s):
            self._reset()
        elif self._resets:
            return
        elif now_s >= self._linger_until_s:
            self.transport.abort()

    def _sweep_unread(self, now_s: float) -> None:
        """Drop a client that takes nothing of what is left for it (an exchange under way has deadlines of its own)."""
        unread = self.transport.get_write_buffer_size()
        if unread != self._unread:
            self._unread = unread
            self._since_s = now_s
        elif now_s - self._since_s > self._worker.limits.keepalive_s:
            self.transport.abort()

    def _leave(self, *, more_comes: bool) -> None:
        """Close, but let a client that sends more read the answer first (RFC 9112, 9.6)."""
        if self.eof or not more_comes or self.transport.is_closing():
            self._end()
            return
        self._linger_on()
        self.resume_reading()
        if self.transport.can_write_eof():  # over TLS there is no such thing, but a time to read all the same
            self.transport.write_eof()

    def abort(self) -> None:
        """Close at once, dropping what was not sent."""
        self.transport.abort()

    def _end(self) -> None:
        """Close as soon as all is sent; nothing that still comes is looked at."""
        self.closing = self._ended = True
        self.transport.close()

    def _linger_on(self) -> None:
        """Wait a moment (more) for the client; what it still sends is dropped."""
        self.closing = self._ended = True
        now_s = self._worker.now_s()
        if not self._linger_end_s:
            self._linger_end_s = now_s + _LINGER_MAX_S
        self._linger_until_s = min(now_s + _LINGER_S, self._linger_end_s)

    def _cut(self, *, unframed: bool) -> None:
        """End a response that cannot be completed, so that no client takes it for whole (rule 3)."""
        if not unframed:
            self._leave(more_comes=True)
        elif not self.transport.get_write_buffer_size() and self._delivered():
            self._reset()
        else:
            self._resets = True
            self._linger_on()

    def _delivered(self) -> bool:
        """Whether the client's side has confirmed everything that was sent to it."""
        if self.transport.is_closing():
            return True
        unsent = bytearray(4)
        fcntl.ioctl(self.transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, unsent)
        return not any(unsent)

    def _reset(self) -> None:
        self.closing = self._ended = True
        peer = self.transport.get_extra_info("socket")
        if peer is not None:
            # A FIN would be a clean end for a body that only the connection's end delimits.
            with contextlib.suppress(OSError):  # it may be gone already
                peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_ZERO)
        self.transport.abort()
