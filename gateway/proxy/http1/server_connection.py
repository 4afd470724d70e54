"""One client connection: bytes in, exchanges in their order out.

Rules:

1. llhttp parses with every lenient flag off, but for heads that are plain (fast_heads.py) and bodies whose length such
   a head gave; limits on the head are ours, absolute and counted in bytes.
2. Pipelined requests are answered in order, one exchange at a time; reading stops while others wait.
3. A request whose framing is in doubt is answered with the smallest honest status, and the connection is closed; what
   llhttp cannot read because it is of another version or has an unknown method is told so (first_line.py).
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
from collections import deque
from typing import Any, Final, cast

import httptools

from gateway.proxy.context import WorkerContext
from gateway.proxy.exchange.exchange import Exchange
from gateway.proxy.exchange.types import Settling, TunnelEnded
from gateway.proxy.heads import first_line, gateway_errors
from gateway.proxy.heads.fast_heads import CachedHead
from gateway.proxy.heads.gateway_errors import Fault
from gateway.proxy.heads.message_head import ResponseHead
from gateway.proxy.heads.request import Request
from gateway.proxy.heads.rtsp_ice import foreign_lines, holds_foreign
from gateway.proxy.http1.downstream import ClientEnd
from gateway.proxy.http1.response_writer import ResponseWriter
from gateway.proxy.http1.small_reads import UNSENT_BYTES_MAX
from gateway.proxy.http1.tunnel import Tunnel
from gateway.proxy.http1.upgrade_parser import HELD_BYTES_MAX, HeldBytes, NoMoreRequests, body_parser
from gateway.proxy.upstream.types import UpstreamConnection
from gateway.runtime.settings import Limits

# How long a kept connection may stand idle once the server drains: a request may be on its way already, and one that
# was lost on it once is sent again after a second (RFC 6298, 2.4).
_DRAIN_IDLE_S: Final = 3.0
# So long after its FIN a client that stays without an answer is asked whether it is still there.
_ASK_S: Final = 1.0
_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
# Of the name of a field that is over a limit so much is shown to who sent it.
_SHOWN_MAX: Final = 100


class DownstreamConnection(ClientEnd):
    """The protocol of a client's connection: one instance per accepted connection.

    An asyncio.Protocol by its methods alone: compiled classes have no base that is not.
    """

    __slots__ = (
        "_asked",
        "_between",
        "_body_of",
        "_draining",
        "_fields",
        "_first_bytes",
        "_first_is_whole",
        "_foreign",
        "_head_bytes",
        "_head_since_s",
        "_head_size",
        "_held",
        "_in_head",
        "_left",
        "_parser",
        "_queue",
        "_recall",
        "_refusal",
        "_reframes",
        "_target",
        "_tunnel",
        "_writer",
    )

    def __init__(self, worker: WorkerContext, peer: str, *, tls: bool = False) -> None:
        super().__init__(worker)
        self._writer = ResponseWriter()
        # llhttp's, made when it is needed; or what takes its place (upgrade_parser.py).
        self._parser: Any = None
        self._held: HeldBytes | None = None
        self._reframes = False
        self._tunnel: Tunnel | None = None
        self._queue: deque[Exchange] = deque()
        self._body_of: Exchange | None = None
        self._target = b""
        self._fields: list[tuple[bytes, bytes]] = []
        self._head_bytes = self._head_size = 0
        # What has come of a request line, and the lines of other protocols among it (rtsp_ice.py). It may have come
        # behind the body of another request: then it is not known where in these bytes it begins.
        self._first_bytes = b""
        self._first_is_whole = False
        self._foreign: frozenset[tuple[bytes, bytes]] = frozenset()
        self._in_head = True
        # Whether llhttp is between two messages, so that a plain one may pass it by; what is owed of that one's body.
        self._between = True
        self._recall = worker.head_reader.recall()
        self._left = 0
        self._refusal: Fault | None = None
        self._head_since_s = self._since_s
        self._asked = False
        self._draining = False
        self.peer = peer.encode()
        self.trusted = worker.trusts(peer)
        self.tls = tls

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Refuse when there are too many."""
        self.transport = cast("asyncio.Transport", transport)
        self._worker.connections.add(self)
        if len(self._worker.connections) > self._worker.limits.connections_max:
            self._worker.counts.fault(gateway_errors.TOO_MANY_CONNECTIONS.reason)
            self.write_problem(gateway_errors.TOO_MANY_CONNECTIONS, keep=False)
            self._linger()

    def data_received(self, data: bytes) -> None:
        """Parse; exchanges act after the whole chunk has been looked at, so that their writes coalesce."""
        if self._ended or self._refusal is not None:
            if self._linger_until_s:
                self._linger_on()
            return
        if self._left or self._between:
            data = self._plainly(data)
            if not data:
                self._advance()
                return
        if not self._head_bytes:
            self._first_is_whole = self._in_head
            if self._in_head:
                self._head_since_s = self._worker.now_s()
        torn = self._first_bytes
        seen = torn + data if torn and not self._fields else data
        if holds_foreign(seen):
            self._foreign |= foreign_lines(seen)
        self._head_bytes += len(data)
        self._parse(data, seen)
        head_bytes_max = self._worker.limits.head_bytes_max
        if self._head_bytes and self._in_head:
            self._first_bytes = seen[-head_bytes_max:]
        else:
            self._first_bytes, self._foreign = b"", frozenset()
        if self._head_bytes > head_bytes_max:
            self._refuse(gateway_errors.HEAD_TOO_LARGE)
        self._advance()

    def _parse(self, data: bytes, seen: bytes) -> None:
        """Let the parser read ``data``; ``seen`` has what came of the same request line before it as well."""
        if self._parser is None:
            self._parser = httptools.HttpRequestParser(self)
        while True:
            try:
                self._parser.feed_data(data)
            except httptools.HttpParserUpgrade as upgrade:
                data = seen = data[upgrade.args[0] :]
                self._parse_behind_upgrade()
            except httptools.HttpParserCallbackError:
                raise  # a mistake of ours, not of the client: it must not pass for a 400
            except httptools.HttpParserError as error:
                understood = self._understood(seen, str(error))
                if understood is None:
                    return
                data = seen = understood
                self._parser = httptools.HttpRequestParser(self)
            else:
                if self._held is not None:
                    self._head_bytes = 0
                    if len(self._held.data) > HELD_BYTES_MAX:
                        self.pause_reading()
                return

    def _understood(self, seen: bytes, error: str) -> bytes | None:
        """llhttp has failed: the message that begins with ``seen``, as HTTP/1.1; None where it is refused instead.

        Bytes of a body are never read as a request: where the message began inside of ``seen`` it is refused as it is.
        """
        if not self._in_head or self._fields or not self._first_is_whole:
            self._refuse(gateway_errors.BAD_REQUEST)
            return None
        understood = first_line.request_as_1_1(seen, error)
        if understood is None:
            self._refuse(first_line.refusal(seen, error))
        return understood

    def _parse_behind_upgrade(self) -> None:
        """llhttp has stopped behind a head that asks to switch: put in its place what the rest is for."""
        exchange = self._body_of
        if self._reframes and exchange is not None:
            self._reframes = False
            self._parser = body_parser(self, exchange.body_length)
        else:
            self._between = False
            self._parser = self._held = HeldBytes()

    def _plainly(self, data: bytes) -> bytes:
        """Take what is owed of a plain body, and plain heads; the rest is for llhttp, or nothing."""
        at, size = 0, len(data)
        while at < size and not self._ended:
            if self._left:
                whole = at == 0 and size <= self._left
                piece = data if whole else data[at : at + self._left]
                at += len(piece)
                self._left -= len(piece)
                self.on_body(piece)
            else:
                head = None
                if self._between:
                    worker = self._worker
                    bytes_max, fields_max = worker.fast_head_bytes_max, worker.header_fields_max
                    head = worker.head_reader.request(data, at, bytes_max, fields_max, self._recall)
                if head is None:
                    return data[at:] if at else data
                at = head.end
                self._left = max(head.length, 0)
                if not head.keep_alive:
                    self._between = False
                    self._parser = NoMoreRequests()
                self._begin(head.first, "1.1", head.second, head.fields, keep_alive=head.keep_alive, plain=head)
            if not self._left:
                self._message_complete()
        return b""

    def eof_received(self) -> bool:
        """The client sends no more; what it has asked for is still answered."""
        self.eof = True
        self.closing = True
        # A request that can no longer become whole is as good as gone.
        if self._queue and self._queue[0].ends_with_half_close:
            return False
        incomplete = self._body_of
        if incomplete is not None and incomplete in self._queue:
            return False
        # TLS knows no half-close: uvloop ends the connection whatever is said here, and complains if told otherwise.
        stays = bool(self._queue) and not self._ended and not self.tls
        if stays:
            self._worker.loop.call_later(_ASK_S, self._ask)
        return stays

    def _ask(self) -> None:
        """Find out whether a client that sends no more is still there; an answer that has begun does so by itself."""
        if not self._ended and self._tunnel is None and self._queue and self._queue[0].may_be_asked:
            self.write_continue()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client is gone: every exchange of it ends now."""
        self.closing = self._ended = True
        self._worker.connections.discard(self)
        while self._queue:
            exchange = self._queue.popleft()
            exchange.downstream_lost()
        self._body_of = None

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

    # httptools callbacks

    def on_message_begin(self) -> None:
        """A request begins."""
        self._target = b""
        self._fields = []
        self._head_size = 0
        self._in_head = True
        self._between = False
        if not self._head_bytes:  # it begins inside a chunk that ended another
            self._head_bytes = 1
            self._head_since_s = self._worker.now_s()

    def on_url(self, piece: bytes) -> None:
        """A piece of the request target."""
        self._target += piece
        if len(self._target) > self._worker.limits.line_bytes_max:
            limit = f"limits.line_bytes_max is {self._worker.limits.line_bytes_max}"
            self._refuse(gateway_errors.TARGET_TOO_LONG.because(f"the request target is over the limit: {limit}"))

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header field; trailers arrive here too, after the head."""
        if not self._in_head:
            exchange = self._body_of
            if exchange is not None and not exchange.request_trailer(name, value):
                self._body_of = None
                self._refuse(gateway_errors.HEAD_TOO_LARGE)
                exchange.malformed(gateway_errors.HEAD_TOO_LARGE)
            return
        limits = self._worker.limits
        self._fields.append((name, value))
        size = len(name) + len(value)
        self._head_size += size
        if (
            len(self._fields) > limits.header_fields_max
            or size > limits.line_bytes_max
            or self._head_size > limits.head_bytes_max
        ):
            self._refuse(gateway_errors.HEAD_TOO_LARGE.because(_limit_of_head(limits, len(self._fields), name, size)))

    def on_headers_complete(self) -> None:
        """The head is whole: make the exchange and queue it."""
        if self._foreign and (self._parser.get_method(), self._target) in self._foreign:
            self._refuse(gateway_errors.BAD_REQUEST)
        if self._refusal is not None or self._ended:
            self._in_head = False
            self._head_bytes = 0
            return
        parser = self._parser
        keep_alive = parser.should_keep_alive()
        self._begin(parser.get_method(), parser.get_http_version(), self._target, self._fields, keep_alive=keep_alive)
        exchange = self._body_of
        if exchange is not None and parser.should_upgrade():
            self._reframes = not exchange.asks_to_switch()

    def _begin(
        self,
        method: bytes,
        version: str,
        target: bytes,
        fields: list[tuple[bytes, bytes]],
        *,
        keep_alive: bool,
        plain: CachedHead | None = None,
    ) -> None:
        self._asked = True
        self._in_head = False
        self._head_bytes = 0
        exchange = Exchange(self._worker, self, Request(method, version, keep_alive=keep_alive))
        exchange.admit(target, fields, plain)
        self._body_of = exchange
        self._queue.append(exchange)

    def on_body(self, piece: bytes) -> None:
        """A piece of the request's body."""
        self._head_bytes = 0  # of what is neither head nor body (trailers, say) no more may come than of a head
        if self._body_of is not None:
            self._body_of.body(piece)

    def on_message_complete(self) -> None:
        """The request is whole. What follows one that ended the connection is llhttp's to refuse."""
        if self._reframes:
            return  # llhttp takes the body for something else
        self._first_is_whole = False  # the next one may begin inside this chunk
        self._between = self._parser.should_keep_alive()
        self._message_complete()

    def _message_complete(self) -> None:
        exchange, self._body_of = self._body_of, None
        self._in_head = True
        self._head_bytes = 0
        self._since_s = self._worker.now_s()
        if exchange is not None:
            exchange.body_complete()

    # a request that asks to switch protocols (upgrade_parser.py)

    def _parse_on(self) -> None:
        """The offer to switch was not passed on: what was held are requests."""
        held, self._held = self._held, None
        if held is None or self._ended:
            return
        self._parser = httptools.HttpRequestParser(self)
        self._between = True
        if held.data:
            self.data_received(bytes(held.data))
        if not self._queue and self._refusal is None and not self._ended:
            if self.eof:
                self._linger()
            else:
                self.resume_reading()

    def begin_tunnel(
        self, connection: UpstreamConnection, head: bytes, rest: bytes, idle_s: float, ended: TunnelEnded
    ) -> None:
        """The backend has switched: both connections belong to a tunnel from now on."""
        assert len(self._queue) == 1 and connection.transport is not None  # nothing is parsed behind such a request
        self._queue.clear()
        held, self._held = self._held, None
        self.write(head)
        self._tunnel = Tunnel(
            self.transport, connection.transport, idle_s, self.connection_lost, connection.tunnel_lost, ended
        )
        self._tunnel.open(
            b"" if held is None else bytes(held.data), rest, client_ended=self.eof, client_paused=self.stalled
        )
        if self._draining:
            self._tunnel.drain(self._worker.loop, self._worker.limits.drain_timeout_s)

    def _refuse(self, fault: Fault) -> None:
        """Take no more of what the client sends; the first reason stands."""
        if self._refusal is None:
            self._refusal = fault

    # the answer of the exchange whose turn it is

    def write_interim(self, status: int, reason: bytes, lines: list[bytes]) -> None:
        """Pass an interim answer on."""
        self.write(b"HTTP/1.1 %d %b\r\n%b\r\n" % (status, reason, b"".join(lines)))

    def write_continue(self) -> None:
        """Let the client send its body; also to find out whether it is still there."""
        self.write(_CONTINUE)

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
            self.write(data)
        return len(data)

    def discard(self) -> None:
        """Drop what was written and not flushed."""
        self._writer.discard()

    def keep_unsent_small(self) -> None:
        """Keep little of what the client does not take."""
        self.transport.set_write_buffer_limits(high=UNSENT_BYTES_MAX)

    # the turn of exchanges

    def _advance(self) -> None:
        """Start the exchange whose turn it is; refuse the connection when nothing is left before the bad part."""
        if self._ended:
            return
        if self._refusal is not None and self._body_of is not None:
            torn, self._body_of = self._body_of, None
            torn.malformed(self._refusal)
        if self._queue:
            head = self._queue[0]
            waits = not head.started and self.stalled
            if waits or len(self._queue) > 1:
                self.pause_reading()  # nobody takes its body before its turn
            if not head.started and not waits:
                head.start()
        elif self._refusal is not None and not self._ended:
            self._worker.counts.fault(self._refusal.reason)
            if self._worker.access is not None:
                self._worker.access.refused(self.peer, self._refusal)
            if self._refusal is gateway_errors.HTTP2_UNSUPPORTED:
                self.write(first_line.HTTP2_REFUSAL)
            else:
                self.write_problem(self._refusal, keep=False)
            self._linger()

    @property
    def last(self) -> bool:
        """Whether the exchange whose turn it is will be the connection's last one."""
        return self.closing and len(self._queue) <= 1

    @property
    def busy(self) -> bool:
        """Whether a request has begun that is not answered yet, or an answer is not yet with the client."""
        begun = bool(self._queue) or self._head_bytes > 0 or self._tunnel is not None
        return begun or self.transport.get_write_buffer_size() > 0

    def exchange_done(self, exchange: Settling, *, keep: bool, cut: bool) -> None:
        """An exchange has settled: go on with the next, keep the connection, or end it."""
        if not self._queue or self._queue[0] is not exchange:
            return  # the connection itself is gone
        self._queue.popleft()
        self._since_s = self._head_since_s = self._worker.now_s()
        if cut:
            self._queue.clear()
            self._body_of = None
            self._cut(unframed=self._writer.unframed)
        elif self._held is not None and keep:
            self._worker.loop.call_soon(self._parse_on)
        elif not keep or (self.eof and not self._queue):
            self._linger()
        elif self._queue:
            # Not from here: a long pipeline must not become a deep stack.
            self._worker.loop.call_soon(self._advance)
        elif self._refusal is not None:
            self._advance()
        else:
            self.resume_reading()

    def shutdown(self) -> None:
        """The server drains: finish what is under way, keep nothing (rule 7)."""
        self.closing = self._draining = True
        self._since_s = self._worker.now_s()  # from here on "within a moment" is measured
        if self._tunnel is not None:
            self._tunnel.drain(self._worker.loop, self._worker.limits.drain_timeout_s)

    def sweep(self, now_s: float) -> None:
        """Close what idles, dawdles over its head, or lingers."""
        limits = self._worker.limits
        if self._tunnel is not None:
            self._tunnel.sweep(now_s)
        elif self._linger_until_s:
            self._sweep_lingering(now_s)
        elif self._ended or (self.stalled and not (self._queue and self._queue[0].started)):
            self._sweep_unread(now_s)
        elif self._queue:
            return
        elif self._head_bytes:
            if now_s - self._head_since_s > limits.head_timeout_s:
                self._refusal = gateway_errors.HEAD_TIMEOUT
                self._advance()
        elif now_s - self._since_s > self._idle_s_max() and not self._unheard():
            self._end()

    def _idle_s_max(self) -> float:
        limits = self._worker.limits
        if not self._draining:
            return limits.keepalive_s
        return _DRAIN_IDLE_S if self._asked else limits.head_timeout_s

    def forgive(self, late_s: float) -> None:
        """The loop stood still for that long: it is not the client's fault."""
        self._head_since_s += late_s
        self._since_s += late_s

    # the end, and reading

    def resume_reading(self) -> None:
        """Read on, unless pipelined requests are still waiting."""
        if self._paused and len(self._queue) <= 1:
            super().resume_reading()

    def _linger(self) -> None:
        """Close, but let the client read the answer first (RFC 9112, 9.6)."""
        more_comes = bool(self._queue) or self._body_of is not None or self._refusal is not None
        self._queue.clear()
        self._body_of = None
        self._leave(more_comes=more_comes)


def _limit_of_head(limits: Limits, fields: int, name: bytes, size: int) -> str:
    """Which limit of a head was exceeded, by its key in the configuration."""
    if fields > limits.header_fields_max:
        return f"more than {limits.header_fields_max} header fields: see limits.header_fields_max"
    if size > limits.line_bytes_max:
        shown = name[:_SHOWN_MAX].decode("latin-1")
        return f"the header field {shown} is over {limits.line_bytes_max} bytes: see limits.line_bytes_max"
    return f"the request head is over {limits.head_bytes_max} bytes: see limits.head_bytes_max"
