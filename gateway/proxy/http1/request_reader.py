"""Reads the requests of one client's connection: bytes in, exchanges into its queue.

Rules:

1. llhttp parses with every lenient flag off, but for heads that are plain (fast_heads.py) and bodies whose length such
   a head gave; limits on the head are ours, absolute and counted in bytes.
2. A request whose framing is in doubt is refused (``refusal``), and nothing behind it is read. Where llhttp fails
   because of another version or an unknown method, the answer names that (first_line.py).
3. Bytes of a body are never read as a request.
"""

from __future__ import annotations

from collections import deque
from typing import Any, Final

import httptools

from gateway.proxy.context import WorkerContext
from gateway.proxy.exchange.exchange import Exchange
from gateway.proxy.exchange.types import Downstream
from gateway.proxy.heads import first_line, gateway_errors
from gateway.proxy.heads.fast_heads import CachedHead
from gateway.proxy.heads.gateway_errors import Fault
from gateway.proxy.heads.request import Request
from gateway.proxy.heads.rtsp_ice import foreign_lines, holds_foreign
from gateway.proxy.http1.client_socket import ENDED, ClientSocket
from gateway.proxy.http1.upgrade_parser import HELD_BYTES_MAX, HeldBytes, NoMoreRequests, body_parser
from gateway.runtime.settings import Limits

# Of the name of a field that is over a limit so much is shown to who sent it.
_SHOWN_MAX: Final = 100

# Where in the stream of messages the next byte belongs.
BETWEEN: Final = 0
"""Between two messages: a plain head may pass llhttp by."""
IN_HEAD: Final = 1
"""In a head, or behind one that was the last: for llhttp, or what takes its place."""
_IN_BODY: Final = 2
_IN_OFFERED_BODY: Final = 3
"""In the body of a request that asked to switch in vain; llhttp takes it for something else (upgrade_parser.py)."""


class RequestReader:
    """What is read of a connection. Its ``queue`` has the exchanges that are not over, in their order.

    ``downstream`` is the connection as exchanges know it, as long as it is connected.
    """

    __slots__ = (
        *("_after_body", "_fields", "_first_bytes", "_first_is_whole", "_foreign", "_head_size", "_left", "_parser"),
        *("_recall", "_socket", "_state", "_target", "_worker"),
        *("asked", "body_of", "downstream", "head_bytes", "head_since_s", "held", "queue", "refusal"),
    )

    def __init__(self, worker: WorkerContext, socket: ClientSocket) -> None:
        self._worker = worker
        self._socket = socket
        self.downstream: Downstream | None = None
        self.queue: deque[Exchange] = deque()
        # llhttp's, made when it is needed; or what takes its place (upgrade_parser.py).
        self._parser: Any = None
        self.held: HeldBytes | None = None
        """What came behind a request that asks to switch."""
        self.body_of: Exchange | None = None
        """Whose body is read."""
        self.refusal: Fault | None = None
        """Why no more is read; the first reason stands."""
        self.head_bytes = 0
        """What has come of a head that is not whole yet; 0 while none has begun."""
        self.head_since_s = socket.since_s
        self.asked = False
        """Whether there was a request at all."""
        self._target = b""
        self._fields: list[tuple[bytes, bytes]] = []
        self._head_size = 0
        # What has come of a request line, and the lines of other protocols among it (rtsp_ice.py). It may have come
        # behind the body of another request: then it is not known where in these bytes it begins.
        self._first_bytes = b""
        self._first_is_whole = False
        self._foreign: frozenset[tuple[bytes, bytes]] = frozenset()
        self._state = BETWEEN
        # The state behind the body of a plain head, and what is owed of that body.
        self._after_body = BETWEEN
        self._left = 0
        self._recall = worker.head_reader.recall()

    def read(self, data: bytes) -> None:
        """Parse. Exchanges act after the whole chunk has been looked at, so that their writes coalesce."""
        if self._left or self._state == BETWEEN:
            data = self._plainly(data)
            if not data:
                return
        if not self.head_bytes:
            self._first_is_whole = self._state <= IN_HEAD
            if self._first_is_whole:
                self.head_since_s = self._worker.now_s()
        torn = self._first_bytes
        seen = torn + data if torn and not self._fields else data
        if holds_foreign(seen):
            self._foreign |= foreign_lines(seen)
        self.head_bytes += len(data)
        self._parse(data, seen)
        head_bytes_max = self._worker.limits.head_bytes_max
        if self.head_bytes and self._state <= IN_HEAD:
            self._first_bytes = seen[-head_bytes_max:]
        else:
            self._first_bytes, self._foreign = b"", frozenset()
        if self.head_bytes > head_bytes_max:
            self.refuse(gateway_errors.HEAD_TOO_LARGE)

    def refuse(self, fault: Fault) -> None:
        """Take no more of what the client sends; the first reason stands."""
        if self.refusal is None:
            self.refusal = fault

    def drop(self) -> None:
        """What was asked for is not answered any more."""
        self.queue.clear()
        self.body_of = None

    def held_requests(self) -> bytes:
        """The offer to switch was not passed on: what was held are requests; `read` them now."""
        held, self.held = self.held, None
        self._parser = httptools.HttpRequestParser(self)
        self._state = BETWEEN
        return b"" if held is None else bytes(held.data)

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
                raise  # an error of ours, not of the client: it must not become a 400
            except httptools.HttpParserError as error:
                understood = self._understood(seen, str(error))
                if understood is None:
                    return
                data = seen = understood
                self._parser = httptools.HttpRequestParser(self)
            else:
                if self.held is not None:
                    self.head_bytes = 0
                    if len(self.held.data) > HELD_BYTES_MAX:
                        self._socket.pause_reading()
                return

    def _understood(self, seen: bytes, error: str) -> bytes | None:
        """llhttp has failed: the message that begins with ``seen``, as HTTP/1.1; None where it is refused instead.

        Bytes of a body are never read as a request: where the message began inside of ``seen`` it is refused as it is.
        """
        if self._state > IN_HEAD or self._fields or not self._first_is_whole:
            self.refuse(gateway_errors.BAD_REQUEST)
            return None
        understood = first_line.request_as_1_1(seen, error)
        if understood is None:
            self.refuse(first_line.refusal(seen, error))
        return understood

    def _parse_behind_upgrade(self) -> None:
        """llhttp has stopped behind a head that asks to switch: put in its place what the rest is for."""
        exchange = self.body_of
        if self._state == _IN_OFFERED_BODY and exchange is not None:
            self._state = _IN_BODY
            self._parser = body_parser(self, exchange.body_length)
        else:
            self._state = IN_HEAD
            self._parser = self.held = HeldBytes()

    def _plainly(self, data: bytes) -> bytes:
        """Take what is owed of a plain body, and plain heads; the rest is for llhttp, or nothing."""
        at, size = 0, len(data)
        while at < size and self._socket.state < ENDED:
            if self._left:
                whole = at == 0 and size <= self._left
                piece = data if whole else data[at : at + self._left]
                at += len(piece)
                self._left -= len(piece)
                self.on_body(piece)
            else:
                head = None
                if self._state == BETWEEN:
                    worker = self._worker
                    bytes_max, fields_max = worker.fast_head_bytes_max, worker.header_fields_max
                    head = worker.head_reader.request(data, at, bytes_max, fields_max, self._recall)
                if head is None:
                    return data[at:] if at else data
                at = head.end
                self._left = max(head.length, 0)
                if not head.keep_alive:
                    self._after_body = IN_HEAD
                    self._parser = NoMoreRequests()
                self._begin(head.first, "1.1", head.second, head.fields, keep_alive=head.keep_alive, plain=head)
            if not self._left:
                self._message_complete(self._after_body)
        return b""

    # httptools callbacks

    def on_message_begin(self) -> None:
        """A request begins."""
        self._target = b""
        self._fields = []
        self._head_size = 0
        self._state = IN_HEAD
        if not self.head_bytes:  # it begins inside a chunk that ended another
            self.head_bytes = 1
            self.head_since_s = self._worker.now_s()

    def on_url(self, piece: bytes) -> None:
        """A piece of the request target."""
        self._target += piece
        if len(self._target) > self._worker.limits.line_bytes_max:
            limit = f"limits.line_bytes_max is {self._worker.limits.line_bytes_max}"
            self.refuse(gateway_errors.TARGET_TOO_LONG.because(f"the request target is over the limit: {limit}"))

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header field; trailers arrive here too, after the head."""
        if self._state > IN_HEAD:
            exchange = self.body_of
            if exchange is not None and not exchange.request_trailer(name, value):
                self.body_of = None
                self.refuse(gateway_errors.HEAD_TOO_LARGE)
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
            self.refuse(gateway_errors.HEAD_TOO_LARGE.because(_limit_of_head(limits, len(self._fields), name, size)))

    def on_headers_complete(self) -> None:
        """The head is whole: make the exchange and queue it."""
        if self._foreign and (self._parser.get_method(), self._target) in self._foreign:
            self.refuse(gateway_errors.BAD_REQUEST)
        if self.refusal is not None or self._socket.state >= ENDED:
            self._state = _IN_BODY
            self.head_bytes = 0
            return
        parser = self._parser
        keep_alive = parser.should_keep_alive()
        self._begin(parser.get_method(), parser.get_http_version(), self._target, self._fields, keep_alive=keep_alive)
        exchange = self.body_of
        if exchange is not None and parser.should_upgrade() and not exchange.asks_to_switch():
            self._state = _IN_OFFERED_BODY

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
        downstream = self.downstream
        if downstream is None:
            return
        self.asked = True
        self._state = _IN_BODY
        self.head_bytes = 0
        exchange = Exchange(self._worker, downstream, Request(method, version, keep_alive=keep_alive))
        exchange.admit(target, fields, plain)
        self.body_of = exchange
        self.queue.append(exchange)

    def on_body(self, piece: bytes) -> None:
        """A piece of the request's body."""
        self.head_bytes = 0  # of what is neither head nor body (trailers, say) no more may come than of a head
        if self.body_of is not None:
            self.body_of.body(piece)

    def on_message_complete(self) -> None:
        """The request is whole. What follows one that ended the connection is llhttp's to refuse."""
        if self._state == _IN_OFFERED_BODY:
            return
        self._first_is_whole = False  # the next one may begin inside this chunk
        self._message_complete(BETWEEN if self._parser.should_keep_alive() else IN_HEAD)

    def _message_complete(self, state: int) -> None:
        exchange, self.body_of = self.body_of, None
        self._state = state
        self.head_bytes = 0
        self._socket.since_s = self._worker.now_s()
        if exchange is not None:
            exchange.body_complete()


def _limit_of_head(limits: Limits, fields: int, name: bytes, size: int) -> str:
    """Which limit of a head was exceeded, by its key in the configuration."""
    if fields > limits.header_fields_max:
        return f"more than {limits.header_fields_max} header fields: see limits.header_fields_max"
    if size > limits.line_bytes_max:
        shown = name[:_SHOWN_MAX].decode("latin-1")
        return f"the header field {shown} is over {limits.line_bytes_max} bytes: see limits.line_bytes_max"
    return f"the request head is over {limits.head_bytes_max} bytes: see limits.head_bytes_max"
