"""One client connection: bytes in, exchanges in their order out.

Rules:

1. Requests are read by request_reader.py, the socket is client_socket.py's; here is whose turn it is.
2. Pipelined requests are answered in order, one exchange at a time; reading stops while others wait.
3. A refusal of what was read is written after the answers to all that came before it; then the connection is closed.
4. A client that has shut down its sending half with its request still gets its answers; one that does so later, or
   resets, is gone. The former is asked after a second: to an interim answer, which every client has to take (RFC 9110,
   15.2), the kernel of one that closed its socket replies with a reset.
5. A response that ends before its request did closes the connection, after the client had time to read it.
6. A client that does not read is sent nothing new: its next request waits, and in the end the connection is dropped.
7. A server that drains answers all that has begun, and what still comes on a connection within a moment; a client that
   has only just connected has the time for a head to ask at all.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, cast

from gateway.proxy.context import WorkerContext
from gateway.proxy.exchange.types import Downstream, Settling, TunnelEnded
from gateway.proxy.heads import first_line, gateway_errors
from gateway.proxy.heads.gateway_errors import Fault
from gateway.proxy.heads.message_head import ResponseHead
from gateway.proxy.heads.request import Request
from gateway.proxy.http1.client_socket import ENDED, LAST, LINGERING, ClientSocket
from gateway.proxy.http1.request_reader import RequestReader
from gateway.proxy.http1.response_writer import ResponseWriter
from gateway.proxy.http1.small_reads import UNSENT_BYTES_MAX
from gateway.proxy.http1.tunnel import Tunnel
from gateway.proxy.reset_watch import ResetWatch
from gateway.proxy.upstream.types import UpstreamConnection

# How long a kept connection may stand idle once the server drains: a request may be on its way already, and one that
# was lost on it once is sent again after a second (RFC 6298, 2.4).
_DRAIN_IDLE_S: Final = 3.0
# So long after its FIN a client that stays without an answer is asked whether it is still there.
_ASK_S: Final = 1.0
_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"


class DownstreamConnection(Downstream):
    """The protocol of a client's connection: one instance per accepted connection.

    An asyncio.Protocol by its methods alone: compiled classes have no base that is not. ``left`` is called once, when
    the connection is over or never came about; ``watch`` notices resets while nothing is read.
    """

    __slots__ = ("_draining", "_left", "_queue", "_reader", "_tunnel", "_worker", "_writer", "socket")

    def __init__(
        self,
        worker: WorkerContext,
        peer: str,
        *,
        tls: bool = False,
        watch: ResetWatch | None = None,
        left: Callable[[], None] | None = None,
    ) -> None:
        super().__init__()
        self._worker = worker
        self.socket = ClientSocket(worker, watch)
        self._reader = RequestReader(worker, self.socket)
        self._queue = self._reader.queue
        self._writer = ResponseWriter()
        self._tunnel: Tunnel | None = None
        self._left = left
        self._draining = False
        self.peer = peer.encode()
        self.trusted = worker.trusts(peer)
        self.tls = tls

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Refuse when there are too many."""
        self.socket.transport = cast("asyncio.Transport", transport)
        self._reader.downstream = self
        self._worker.connections.add(self)
        if len(self._worker.connections) > self._worker.limits.connections_max:
            self._worker.counts.fault(gateway_errors.TOO_MANY_CONNECTIONS.reason)
            self.write_problem(gateway_errors.TOO_MANY_CONNECTIONS, keep=False)
            self._linger()

    def data_received(self, data: bytes) -> None:
        """Read, then act."""
        if self.socket.state >= ENDED or self._reader.refusal is not None:
            if self.socket.state >= LINGERING:
                self.socket.linger_on()
            return
        self._reader.read(data)
        self._advance()

    def eof_received(self) -> bool:
        """The client sends no more; what it has asked for is still answered."""
        self.socket.eof = True
        self.socket.enter(LAST)
        # A request that can no longer become whole is as good as gone.
        if self._queue and self._queue[0].ends_with_half_close:
            return False
        incomplete = self._reader.body_of
        if incomplete is not None and incomplete in self._queue:
            return False
        # TLS has no half-close: uvloop ends the connection in any case, and warns if this says otherwise.
        stays = bool(self._queue) and self.socket.state < ENDED and not self.tls
        if stays:
            self._worker.loop.call_later(_ASK_S, self._ask)
            self.socket.watch()
        return stays

    def _ask(self) -> None:
        """Find out whether a client that sends no more is still there; an answer that has begun does so by itself."""
        if self._tunnel is None and self._queue and self.socket.state < ENDED and self._queue[0].may_be_asked:
            self.write_continue()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client is gone: every exchange of it ends now."""
        self.socket.unwatch()
        self.socket.enter(ENDED)
        self._worker.connections.discard(self)
        while self._queue:
            exchange = self._queue.popleft()
            exchange.downstream_lost()
        self._reader.drop()
        self._reader.downstream = None
        self.not_connected()

    def not_connected(self) -> None:
        """The connection is over, or never came about."""
        left, self._left = self._left, None
        if left is not None:
            left()

    def pause_writing(self) -> None:
        """The client reads slowly: stop reading from upstream."""
        self.stalled = True
        if self._queue and self._queue[0].started:
            self._queue[0].pause_upstream()

    def resume_writing(self) -> None:
        """The client caught up."""
        self.stalled = False
        if self._queue and self._queue[0].started:
            self._queue[0].resume_upstream()
        else:
            self._advance()

    # a request that asks to switch protocols (upgrade_parser.py)

    def _read_held(self) -> None:
        """The offer to switch was not passed on: what was held are requests."""
        reader = self._reader
        if reader.held is None or self.socket.state >= ENDED:
            return
        held = reader.held_requests()
        if held:
            self.data_received(held)
        if not self._queue and reader.refusal is None and self.socket.state < ENDED:
            if self.socket.eof:
                self._linger()
            else:
                self.resume_reading()

    def begin_tunnel(
        self, connection: UpstreamConnection, head: bytes, rest: bytes, idle_s: float, ended: TunnelEnded
    ) -> None:
        """The backend has switched: both connections belong to a tunnel from now on."""
        assert len(self._queue) == 1 and connection.transport is not None  # nothing is parsed behind such a request
        self._queue.clear()
        held, self._reader.held = self._reader.held, None
        self.socket.write(head)
        self._tunnel = Tunnel(
            self.socket.transport, connection.transport, idle_s, self.connection_lost, connection.tunnel_lost, ended
        )
        self._tunnel.open(
            b"" if held is None else bytes(held.data), rest, client_ended=self.socket.eof, client_paused=self.stalled
        )
        if self._draining:
            self._tunnel.drain(self._worker.loop, self._worker.limits.drain_timeout_s)

    # the answer of the exchange whose turn it is

    def write_interim(self, status: int, reason: bytes, lines: list[bytes]) -> None:
        """Pass an interim answer on."""
        self.socket.write(b"HTTP/1.1 %d %b\r\n%b\r\n" % (status, reason, b"".join(lines)))

    def write_continue(self) -> None:
        """Let the client send its body; also to find out whether it is still there."""
        self.socket.write(_CONTINUE)

    def write_problem(
        self, fault: Fault, *, keep: bool, head_only: bool = False, detail: str = "", lines: bytes = b""
    ) -> int:
        """Write an answer of the gateway's own; returns its size. ``lines`` are further ones of its head."""
        answer = gateway_errors.response(fault, keep=keep, head_only=head_only, detail=detail, lines=lines)
        self.socket.write(answer)
        return len(answer)

    def write_head(
        self,
        request: Request,
        status: int,
        reason: bytes,
        head: ResponseHead,
        lines: bytes,
        *,
        bodyless: bool,
        trailers: bool,
    ) -> None:
        """Begin the answer to ``request``."""
        if self.last:
            request.keep_alive = False
        self._writer.head(request, status, reason, head, lines, bodyless=bodyless, trailers=trailers)

    def write_body(self, piece: bytes) -> None:
        """A piece of the answer's body."""
        self._writer.body(piece)

    def write_end(self, trailers: list[bytes]) -> None:
        """The answer's body is whole."""
        self._writer.end(trailers)

    def flush(self) -> int:
        """Send what was written since."""
        data = self._writer.take()
        if data:
            self.socket.write(data)
        return len(data)

    def discard(self) -> None:
        """Drop what was written and not flushed."""
        self._writer.discard()

    def keep_unsent_small(self) -> None:
        """Keep little of what the client does not take."""
        self.socket.transport.set_write_buffer_limits(high=UNSENT_BYTES_MAX)

    # the turn of exchanges

    def _advance(self) -> None:
        """Start the exchange whose turn it is; refuse the connection when nothing is left before the bad part."""
        if self.socket.state >= ENDED:
            return
        reader = self._reader
        if reader.refusal is not None and reader.body_of is not None:
            torn, reader.body_of = reader.body_of, None
            torn.malformed(reader.refusal)
        if self._queue:
            head = self._queue[0]
            waits = not head.started and self.stalled
            if waits or len(self._queue) > 1:
                self.pause_reading()  # nobody takes its body before its turn
            if not head.started and not waits:
                head.start()
        elif reader.refusal is not None and self.socket.state < ENDED:
            self._refuse(reader.refusal)

    def _refuse(self, fault: Fault) -> None:
        """Rule 3."""
        self._worker.counts.fault(fault.reason)
        if self._worker.access is not None:
            self._worker.access.refused(self.peer, fault)
        if fault is gateway_errors.HTTP2_UNSUPPORTED:
            self.socket.write(first_line.HTTP2_REFUSAL)
        else:
            self.write_problem(fault, keep=False)
        self._linger()

    @property
    def last(self) -> bool:
        """Whether the exchange whose turn it is will be the connection's last one."""
        return self.socket.state >= LAST and len(self._queue) <= 1

    @property
    def busy(self) -> bool:
        """Whether a request has begun that is not answered yet, or an answer is not yet with the client."""
        begun = bool(self._queue) or self._reader.head_bytes > 0 or self._tunnel is not None
        return begun or self.socket.transport.get_write_buffer_size() > 0

    def exchange_done(self, exchange: Settling, *, keep: bool, cut: bool) -> None:
        """An exchange has settled: go on with the next, keep the connection, or end it."""
        if not self._queue or self._queue[0] is not exchange:
            return  # the connection itself is gone
        reader = self._reader
        self._queue.popleft()
        self.socket.since_s = reader.head_since_s = self._worker.now_s()
        if cut:
            reader.drop()
            self.socket.cut(unframed=self._writer.unframed)
        elif reader.held is not None and keep:
            self._worker.loop.call_soon(self._read_held)
        elif not keep or (self.socket.eof and not self._queue):
            self._linger()
        elif self._queue:
            # Not from here: a long pipeline must not become a deep stack.
            self._worker.loop.call_soon(self._advance)
        elif reader.refusal is not None:
            self._advance()
        else:
            self.socket.resume_reading()

    def shutdown(self) -> None:
        """The server drains: finish what is under way, keep nothing (rule 7)."""
        self._draining = True
        self.socket.enter(LAST)
        self.socket.since_s = self._worker.now_s()  # from here on "within a moment" is measured
        if self._tunnel is not None:
            self._tunnel.drain(self._worker.loop, self._worker.limits.drain_timeout_s)

    def sweep(self, now_s: float) -> None:
        """Close what idles, sends its head too slowly, or lingers."""
        limits, socket, reader = self._worker.limits, self.socket, self._reader
        if self._tunnel is not None:
            self._tunnel.sweep(now_s)
        elif socket.state >= LINGERING:
            socket.sweep_lingering(now_s)
        elif socket.state >= ENDED or (self.stalled and not (self._queue and self._queue[0].started)):
            socket.sweep_unread(now_s)
        elif self._queue:
            return
        elif reader.head_bytes:
            if now_s - reader.head_since_s > limits.head_timeout_s:
                reader.refusal = gateway_errors.HEAD_TIMEOUT
                self._advance()
        elif now_s - socket.since_s > self._idle_s_max() and not socket.readable():
            socket.end()

    def _idle_s_max(self) -> float:
        limits = self._worker.limits
        if not self._draining:
            return limits.keepalive_s
        return _DRAIN_IDLE_S if self._reader.asked else limits.head_timeout_s

    def forgive(self, late_s: float) -> None:
        """The loop stood still for that long: it is not the client's fault."""
        self._reader.head_since_s += late_s
        self.socket.since_s += late_s

    # the end, and reading

    def pause_reading(self) -> None:
        """Read no more from the client until `resume_reading`."""
        self.socket.pause_reading()

    def resume_reading(self) -> None:
        """Read on, unless pipelined requests are still waiting."""
        if len(self._queue) <= 1:
            self.socket.resume_reading()

    def abort(self) -> None:
        """Close at once, dropping what was not sent."""
        self.socket.transport.abort()

    def _linger(self) -> None:
        """Close, but let the client read the answer first (RFC 9112, 9.6)."""
        reader = self._reader
        more_comes = bool(self._queue) or reader.body_of is not None or reader.refusal is not None
        reader.drop()
        self.socket.leave(more_comes=more_comes)
