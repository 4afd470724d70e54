"""The socket of a client's connection: what is written to it, whether it is read from, and how it is closed.

Rules:

1. A closed connection is read from as long as its client sends, and a moment longer, up to half a minute: so that no
   reset overtakes the answer (RFC 9112, 9.6).
2. A client that takes nothing of what is left for it is dropped.
3. Of an answer that cannot be completed the client gets all that there is. That it was cut shows in its framing; where
   it has none, in a reset once everything has arrived, since a FIN would be a clean end.
4. While it is not read from, a reset is noticed all the same (reset_watch.py), so that upstream is not busy for nobody.
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
from gateway.proxy.reset_watch import ResetWatch

# How long a closed-for-writing connection is read from, so that a reset does not overtake the answer.
_LINGER_S: Final = 1.0
_LINGER_MAX_S: Final = 30.0
_LINGER_ZERO: Final = struct.pack("ii", 1, 0)


# The states of a connection; none goes back to one before it.
OPEN: Final = 0
LAST: Final = 1
"""No request is taken any more that has not begun."""
ENDED: Final = 2
"""What still comes is not looked at."""
LINGERING: Final = 3
"""Rule 1: the client may still read its answer."""
RESETTING: Final = 4
"""Rule 3: it is reset as soon as all that there was has arrived."""


class ClientSocket:
    """What a client's connection stands on, whatever is spoken on it. ``eof``: the client sends no more."""

    __slots__ = (
        *("_linger_end_s", "_linger_until_s", "_unread", "_watch", "_watched_fd", "_worker"),
        *("eof", "paused", "since_s", "state", "transport"),
    )

    def __init__(self, worker: WorkerContext, watch: ResetWatch | None) -> None:
        self._worker = worker
        self._watch = watch
        self._watched_fd = -1
        self.transport: asyncio.Transport = None  # type: ignore[assignment]  # set when it is connected, before any use
        self.state = OPEN
        self.since_s = worker.now_s()
        """Since when it idles, or its client has taken nothing."""
        self._linger_until_s = self._linger_end_s = 0.0
        self._unread = 0
        self.paused = False
        self.eof = False

    def enter(self, state: int) -> None:
        """Go on to this state, unless a later one is reached."""
        self.state = max(self.state, state)

    def write(self, data: bytes) -> None:
        """Write response bytes."""
        if not self.transport.is_closing():
            self.transport.write(data)

    # reading

    def pause_reading(self) -> None:
        """Read no more from the client until `resume_reading` (rule 4)."""
        if not self.paused and not self.transport.is_closing():
            self.paused = True
            self.transport.pause_reading()
            self.watch()

    def resume_reading(self) -> None:
        """Read on: what happens to the connection is noticed that way again."""
        if self.paused and not self.transport.is_closing():
            self.paused = False
            self.transport.resume_reading()
            if not self.eof:
                self.unwatch()

    def watch(self) -> None:
        """Notice a reset although nothing is read (rule 4)."""
        if self._watched_fd < 0 and self._watch is not None and not self.transport.is_closing():
            self._watched_fd = self.transport.get_extra_info("socket").fileno()
            self._watch.add(self._watched_fd, self.transport.abort)

    def unwatch(self) -> None:
        """The opposite; also when it is gone."""
        if self._watched_fd >= 0 and self._watch is not None:
            self._watch.remove(self._watched_fd)
            self._watched_fd = -1

    def readable(self) -> bool:
        """Whether something has come that a late loop has not looked at yet: a request, most likely."""
        poll = select.poll()
        poll.register(self.transport.get_extra_info("socket").fileno(), select.POLLIN)
        return bool(poll.poll(0))

    # the end

    def sweep_lingering(self, now_s: float) -> None:
        """Close it when the client has had its time, or all has arrived."""
        if self.transport.get_write_buffer_size():  # a slow reader is not done with the answer yet
            self._linger_until_s = now_s + _LINGER_S
            self.sweep_unread(now_s)
        elif self.state == RESETTING:
            if self._delivered() or now_s >= self._linger_end_s:
                self._reset()
        elif now_s >= self._linger_until_s:
            self.transport.abort()

    def sweep_unread(self, now_s: float) -> None:
        """Drop a client that takes nothing of what is left for it (an exchange under way has deadlines of its own)."""
        unread = self.transport.get_write_buffer_size()
        if unread != self._unread:
            self._unread = unread
            self.since_s = now_s
        elif now_s - self.since_s > self._worker.limits.keepalive_s:
            self.transport.abort()

    def leave(self, *, more_comes: bool) -> None:
        """Close, but let a client that sends more read the answer first (RFC 9112, 9.6)."""
        if self.eof or not more_comes or self.transport.is_closing():
            self.end()
            return
        self.linger_on()
        self.resume_reading()
        if self.transport.can_write_eof():  # over TLS there is no such thing, but a time to read all the same
            self.transport.write_eof()

    def end(self) -> None:
        """Close as soon as all is sent; nothing that still comes is looked at."""
        self.enter(ENDED)
        self.transport.close()

    def linger_on(self) -> None:
        """Wait a moment (more) for the client; what it still sends is dropped."""
        self.enter(LINGERING)
        now_s = self._worker.now_s()
        if not self._linger_end_s:
            self._linger_end_s = now_s + _LINGER_MAX_S
        self._linger_until_s = min(now_s + _LINGER_S, self._linger_end_s)

    def cut(self, *, unframed: bool) -> None:
        """End a response that cannot be completed, so that no client takes it for whole (rule 3)."""
        if not unframed:
            self.leave(more_comes=True)
        elif not self.transport.get_write_buffer_size() and self._delivered():
            self._reset()
        else:
            self.enter(RESETTING)
            self.linger_on()

    def _delivered(self) -> bool:
        """Whether the client's side has confirmed everything that was sent to it."""
        if self.transport.is_closing():
            return True
        unsent = bytearray(4)
        fcntl.ioctl(self.transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, unsent)
        return not any(unsent)

    def _reset(self) -> None:
        self.enter(ENDED)
        peer = self.transport.get_extra_info("socket")
        if peer is not None:
            # A FIN would be a clean end for a body that only the connection's end delimits.
            with contextlib.suppress(OSError):  # it may be gone already
                peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_ZERO)
        self.transport.abort()
