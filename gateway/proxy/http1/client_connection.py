"""One connection to a backend: bytes in, calls on the exchange out.

Rules:

1. llhttp parses strictly, but for heads that are plain (fast_heads.py) and bodies whose length such a head gave;
   framing is checked once more in response_head.py. Anything malformed is the backend's fault, and the connection is
discarded. 2. A connection goes back to the pool only when the response was complete, framed by length or chunks, not
   marked ``close``, and nothing came after it.
   None of it while a request is still being sent on it: the rest of that would become part of the next.
3. Interim responses (1xx, known ones or not) are messages of their own without a body; 101 is right only where an
   upgrade was asked for.
4. A HEAD response has no body whatever its head says; llhttp cannot be told, so it gets a fresh parser afterwards.
5. A backend may answer before it has read the whole request, and close: what it said is read before the connection
   counts as lost, also when it was a write that failed.
6. Backpressure is passed on both ways by pausing the other side's reads.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
from typing import TYPE_CHECKING, Final

import httptools

from gateway.proxy.heads import first_line, gateway_errors
from gateway.proxy.heads.fast_heads import LastHead
from gateway.proxy.heads.gateway_errors import Fault
from gateway.proxy.heads.response_head import read_response
from gateway.proxy.http1.small_reads import SIP_BYTES, Sips

if TYPE_CHECKING:
    import asyncio

    from gateway.proxy.exchange.exchange import Exchange
    from gateway.proxy.upstream.pool import EndpointPool

HEAD_BYTES_MAX: Final = 64 * 1024
# A failed answer that a rescue made superfluous is read to its end, up to here, so that the connection can be kept.
DRAIN_BYTES_MAX: Final = 64 * 1024
# What no reason phrase has (RFC 9112, 4); llhttp lets it pass.
_CONTROL: Final = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")


class UpstreamConnection:
    """A leased or idle connection. ``exchange`` is the one that leases it, None when idle or draining.

    An asyncio.Protocol by its methods alone: compiled classes have no base that is not.
    """

    __slots__ = (
        "_bodyless",
        "_complete",
        "_drained",
        "_ended",
        "_fault",
        "_fields",
        "_head_bytes",
        "_head_done",
        "_keep",
        "_left",
        "_parser",
        "_reason",
        "_recall",
        "_seen",
        "_sips",
        "_until_close",
        "address",
        "closing",
        "draining",
        "exchange",
        "idle_since_s",
        "pool",
        "reused",
        "transport",
    )

    def __init__(self, pool: EndpointPool) -> None:
        self.pool = pool
        # What the endpoint's name led to when the connection was made.
        self.address = ""
        self.transport: asyncio.Transport = None  # type: ignore[assignment]  # set by connection_made, before any use
        self.exchange: Exchange | None = None
        self.reused = False
        self.closing = False
        self.idle_since_s = 0.0
        self.draining = False
        self._drained = 0
        self._sips = False
        self._recall = LastHead()
        self._ended = False
        self._parser = httptools.HttpResponseParser(self)
        self._reset()

    def _reset(self) -> None:
        self._fields: list[tuple[bytes, bytes]] = []
        self._head_bytes = 0
        self._head_done = False
        self._seen = b""  # what llhttp has got, from the first byte of the head on that it is at
        self._complete = False
        self._bodyless = False
        self._until_close = False
        self._keep = False
        self._left = 0  # of a plain body that llhttp does not see
        self._fault: Fault | None = None
        self._reason = b""

    @property
    def usable(self) -> bool:
        """Whether the connection may be leased: its end has not been seen."""
        return not self.closing and not self.transport.is_closing()

    @property
    def readable(self) -> bool:
        """Whether something has come on an idle connection that the loop has not looked at yet: most likely its end."""
        poll = select.poll()
        poll.register(self.transport.get_extra_info("socket").fileno(), select.POLLIN)
        return bool(poll.poll(0))

    def attach(self, exchange: Exchange) -> None:
        """Lease the connection to an exchange: the next response is its own."""
        self.exchange = exchange
        self._reset()

    def write(self, data: bytes) -> None:
        """Send request bytes."""
        self.transport.write(data)

    def write_all(self, pieces: list[bytes]) -> None:
        """Send request bytes that are in several pieces."""
        self.transport.writelines(pieces)

    def detach(self, *, sent: bool, drain: bool = False) -> None:
        """The exchange needs no more of the response. ``sent``: its request was written to the end.

        ``drain`` reads a small rest of the response so that the connection lives.
        """
        self.exchange = None
        if not sent or self.transport.get_write_buffer_size():
            self._discard()
        elif self._complete and self._fault is None:
            self._release()
        elif drain and self._head_done and self._fault is None and not self.closing:
            self.draining = True
            self._drained = 0
            self.pool.drain(self)
        else:
            self._discard()

    def close(self) -> None:
        """Close at once, dropping what was not sent."""
        self.closing = True
        if self.transport is not None:
            self.transport.abort()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self.transport = transport  # type: ignore[assignment]  # a stream protocol is given a Transport

    def data_received(self, data: bytes) -> None:
        """Parse, then let the exchange act on all that this chunk brought, in one go."""
        exchange = self.exchange
        if exchange is None and not self.draining:
            self.close()  # a backend that speaks unasked is not to be trusted with the next request
            return
        if self._left:
            self._plain_body(data)
        elif self._head_bytes or self._complete or exchange is None or not self._plainly(data, exchange):
            if not self._head_done:
                self._seen += data
                if first_line.is_no_answer(self._seen):
                    self._fault = gateway_errors.BAD_RESPONSE
            self._head_bytes += len(data)
            switched = self._feed(data)
            if switched is not None:
                if exchange is not None and exchange.switched:
                    exchange.upstream_switched(self, switched)
                    return
                self._malformed()
        if self._head_bytes > HEAD_BYTES_MAX and not self._complete:
            self._fault = gateway_errors.BAD_RESPONSE
        if self.draining:
            self._drain(len(data))
        elif exchange is not None:
            exchange.upstream_progress(self, self._fault, complete=self._complete)
            if len(data) >= SIP_BYTES and not self._sips and self.exchange is exchange and not self.closing:
                self._sips = True
                exchange.answer_is_long()
                self.transport.set_protocol(Sips(self))

    def _feed(self, data: bytes) -> bytes | None:
        """Let llhttp parse; returns what follows an answer that switches protocols, None where none does.

        An answer in a later version of HTTP/1 is read as 1.1, an interim one as well.
        """
        while True:
            try:
                self._parser.feed_data(data)
            except httptools.HttpParserUpgrade as upgraded:
                return data[upgraded.args[0] :]
            except httptools.HttpParserCallbackError:
                raise  # a mistake of ours, not of the backend
            except httptools.HttpParserError as error:
                understood = None if self._head_done else first_line.answer_as_1_1(self._seen, str(error))
                if understood is not None:
                    self._parser = httptools.HttpResponseParser(self)
                    self._seen = data = understood
                    continue
                self._malformed()
            if self._head_done:
                self._seen = b""
            return None

    def _plainly(self, data: bytes, exchange: Exchange) -> bool:
        """Take a plain answer's head and what came of its body; False when it is for llhttp to read."""
        if self._head_done or exchange.method == b"HEAD":
            return False
        plain = self.pool.head_reader.response(data, self._recall)
        if plain is None:
            return False
        head = read_response(plain.fields, exchange.policy, "1.1", plain)
        if isinstance(head, Fault):
            self._fault = head
            return True
        self._head_done = True
        self._keep = not head.wants_close
        exchange.upstream_head(plain.status, plain.second, head, bodyless=False)
        self._left = plain.length
        if plain.end < len(data):
            self._plain_body(data[plain.end :])
        elif not plain.length:
            self._complete = True
        return True

    def _plain_body(self, data: bytes) -> None:
        """Take what came of a plain answer's body; nothing may follow it."""
        size = len(data)
        if size > self._left:
            data = data[: self._left]
            self._keep = False
        self._left -= len(data)
        self._complete = not self._left
        if data and self.exchange is not None:
            self.exchange.upstream_body(data)

    def eof_received(self) -> bool:
        """The backend says that it sends no more: over TLS a mere FIN does not say so (RFC 9112, 9.8)."""
        self._ended = True
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """The backend went away: clean end of a close-delimited body, a stale connection, or a failure."""
        self.closing = True
        asks = self.exchange
        if exc is not None and asks is not None:
            self._read_rest()
            # Who closes without having read all that was sent to him sends a reset where a FIN would be.
            self._ended = self._ended or asks.refused_unread
        exchange, self.exchange = self.exchange, None
        if exchange is not None:
            self.pool.leased -= 1
            if self._head_done and not self._complete and self._until_close and self._ended:
                exchange.upstream_ended()
            else:
                stale = self.reused and not self._head_bytes
                exchange.upstream_failed(self._loss(stale))
        elif self.draining:
            self.draining = False
            self.pool.leased -= 1
        self.pool.closed(self)

    def _read_rest(self) -> None:
        """Take what had come before the connection was lost: an answer may be there although a write has failed."""
        if self.transport.get_extra_info("ssl_object") is not None:
            return  # what is there is not decrypted
        fd = self.transport.get_extra_info("socket").fileno()
        with contextlib.suppress(OSError):
            while data := os.read(fd, SIP_BYTES):
                self.data_received(data)
                if self.exchange is None:
                    return

    def pause_writing(self) -> None:
        """The backend reads slowly: stop reading the client's body."""
        if self.exchange is not None:
            self.exchange.pause_downstream()

    def resume_writing(self) -> None:
        """The backend caught up."""
        if self.exchange is not None:
            self.exchange.resume_downstream()

    # httptools callbacks

    def on_message_begin(self) -> None:
        """A message begins; one that follows a complete response was not asked for."""
        if self._complete:
            self._malformed()

    def on_status(self, reason: bytes) -> None:
        """The reason phrase (may come in pieces)."""
        self._reason += reason

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header field; trailers arrive here too, after the head."""
        if not self._head_done:
            self._fields.append((name, value))
        elif self.exchange is not None and not self.exchange.response_trailer(name, value):
            self._malformed()

    def on_headers_complete(self) -> None:
        """The head is whole: check it and hand it on."""
        exchange = self.exchange
        if exchange is None or self._fault is not None or self._complete:
            self._malformed()
            return
        status = self._parser.get_status_code()
        version = self._parser.get_http_version()
        if version not in ("1.1", "1.0") or _CONTROL.search(self._reason) or self._head_size() > HEAD_BYTES_MAX:
            self._fault = gateway_errors.BAD_RESPONSE
            return
        if status < 200:
            if _has_body(self._fields):
                self._fault = gateway_errors.BAD_RESPONSE  # nobody could tell its body from the answer itself
            elif status < 100 or (
                status == 101 and not (self._parser.should_upgrade() and exchange.upstream_agrees(self._fields))
            ):
                self._fault = gateway_errors.BAD_RESPONSE
            return
        head = read_response(self._fields, exchange.policy, version)
        if isinstance(head, Fault):
            self._fault = head
            return
        self._head_done = True
        self._bodyless = exchange.method == b"HEAD" or status in (204, 304)
        self._keep = self._parser.should_keep_alive() and not head.wants_close
        if self._bodyless and status not in (204, 304):
            # Rule 4. llhttp waits for a body that will not come: the message ends here.
            self._complete = True
        self._until_close = head.content_length is None and not head.chunked and not self._bodyless
        exchange.upstream_head(status, self._reason, head, bodyless=self._bodyless)

    def on_body(self, body: bytes) -> None:
        """A piece of the body, without its framing."""
        self._head_bytes = 0  # of what is neither head nor body (trailers, say) no more may come than of a head
        if self._complete or not self._head_done:
            self._malformed()
        elif self.exchange is not None:
            self.exchange.upstream_body(body)

    def on_message_complete(self) -> None:
        """The response, or an interim one, is whole."""
        if self._head_done:
            self._complete = True
            # A trailer may have said `close`; llhttp would refuse whatever else comes.
            self._keep = self._keep and self._parser.should_keep_alive()
        elif self._fault is None:
            exchange = self.exchange
            status = self._parser.get_status_code()
            if exchange is not None and status != 101:
                exchange.upstream_interim(status, self._reason, self._fields)
            self._seen = first_line.behind_head(self._seen)
            self._fields = []
            self._reason = b""

    def _head_size(self) -> int:
        return sum(len(name) + len(value) + 4 for name, value in self._fields)

    def tunnel_lost(self, exc: Exception | None) -> None:
        """The connection was a tunnel's, and is gone."""
        self.pool.leased -= 1
        self.connection_lost(exc)

    # Endings

    def _malformed(self) -> None:
        if self._complete:
            self._keep = False  # the response itself was whole: only what follows is dropped, with the connection
        else:
            self._fault = self._fault or gateway_errors.BAD_RESPONSE

    def _loss(self, stale: bool) -> Fault:
        if self._head_done:
            return gateway_errors.TRUNCATED
        return gateway_errors.STALE if stale else gateway_errors.RESET

    def _drain(self, n: int) -> None:
        self._drained += n
        if self._complete or self._fault is not None:
            self.draining = False
            self._release()
        elif self._drained > DRAIN_BYTES_MAX:
            self.end_drain()

    def end_drain(self) -> None:
        """Wait no longer for the rest of an answer that nobody wants."""
        self.draining = False
        self._discard()

    def _release(self) -> None:
        if self._sips:
            self._sips = False
            self.transport.set_protocol(self)  # type: ignore[arg-type]  # a protocol by its methods alone
        if self._bodyless:
            self._parser = httptools.HttpResponseParser(self)
        self.pool.release(self, reusable=self._keep and self._fault is None and self.usable)

    def _discard(self) -> None:
        self.pool.release(self, reusable=False)


def _has_body(fields: list[tuple[bytes, bytes]]) -> bool:
    """Whether an interim answer says that it has a body: it cannot (RFC 9110, 15.2); an empty one is no harm."""
    return any(
        low == b"transfer-encoding" or (low == b"content-length" and value.strip(b" \t") != b"0")
        for low, value in ((name.lower(), value) for name, value in fields)
    )
