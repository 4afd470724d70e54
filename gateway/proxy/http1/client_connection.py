"""One connection to a backend: bytes in, calls on its user (an attempt) out.

Rules:

1. llhttp parses strictly, but for heads that are plain (fast_heads.py) and bodies whose length such a head gave;
   framing is checked once more in response_head.py. Anything malformed is the backend's fault, and the connection is
   discarded.
2. A connection goes back to the pool only when the response was complete, framed by length or chunks, not marked
   ``close``, and nothing came after it. None of it while a request is still being sent on it: the rest of that would
   become part of the next.
3. Interim responses (1xx, known ones or not) are messages of their own without a body; 101 is right only where an
   upgrade was asked for.
4. A HEAD response has no body whatever its head says; llhttp does not know that, so it gets a fresh parser afterwards.
5. A backend may answer before it has read the whole request, and close: what it said is read before the connection
   counts as lost, also when it was a write that failed.
6. Backpressure is passed on both ways by pausing the other side's reads.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import select
from typing import Final, cast

import httptools

from gateway.proxy.heads import first_line, gateway_errors
from gateway.proxy.heads.fast_heads import FastHeadReader, LastHead
from gateway.proxy.heads.field_policy import FieldPolicy
from gateway.proxy.heads.gateway_errors import Fault
from gateway.proxy.heads.request import Request
from gateway.proxy.heads.response_head import read_response
from gateway.proxy.http1.request_writer import JOINED_BYTES_MAX, chunk, end_of_chunks, request_parts
from gateway.proxy.http1.small_reads import SMALL_READ_BYTES, SmallReads
from gateway.proxy.upstream.types import Connect, ConnectionOwner, UpstreamConnection, UpstreamUser

HEAD_BYTES_MAX: Final = 64 * 1024
# A failed answer that a rescue made superfluous is read to its end, up to here, so that the connection can be kept.
DRAIN_BYTES_MAX: Final = 64 * 1024
# What no reason phrase has (RFC 9112, 4); llhttp lets it pass.
_CONTROL: Final = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")


# How far an answer has come.
_HEAD: Final = 0
_BODY: Final = 1
_COMPLETE: Final = 2

# How its body's end shows.
_FRAMED: Final = 0
_NO_BODY: Final = 1
_UNTIL_CLOSE: Final = 2


class Http1ClientConnection(UpstreamConnection):
    """A leased or idle connection that speaks HTTP/1.1.

    An asyncio.Protocol by its methods alone: compiled classes have no base that is not.
    """

    __slots__ = (
        "_chunked_out",
        "_drained",
        "_ended",
        "_fault",
        "_fields",
        "_framing",
        "_head_bytes",
        "_keep",
        "_left",
        "_owner",
        "_parser",
        "_phase",
        "_policy",
        "_reader",
        "_reason",
        "_recall",
        "_seen",
        "_small_reads",
    )

    def __init__(self, owner: ConnectionOwner, reader: FastHeadReader, policy: FieldPolicy) -> None:
        super().__init__()
        self._owner = owner
        self._reader = reader
        self._policy = policy
        self._drained = 0
        self._small_reads = False
        self._recall = LastHead()
        self._ended = False
        self._chunked_out = False
        self._parser = httptools.HttpResponseParser(self)
        self._reset()

    def _reset(self) -> None:
        self._fields: list[tuple[bytes, bytes]] = []
        self._head_bytes = 0
        self._phase = _HEAD
        self._framing = _FRAMED
        self._seen = b""  # what llhttp has got, from the first byte of the head on that it is at
        self._keep = False
        self._left = 0  # of a plain body that llhttp does not see
        self._fault: Fault | None = None
        self._reason = b""

    @property
    def usable(self) -> bool:
        """Whether the connection may be leased: its end has not been seen."""
        return not self.closing and not self._wire.is_closing()

    @property
    def readable(self) -> bool:
        """Whether something has come on an idle connection that the loop has not looked at yet: most likely its end."""
        poll = select.poll()
        poll.register(self._wire.get_extra_info("socket").fileno(), select.POLLIN)
        return bool(poll.poll(0))

    @property
    def _wire(self) -> asyncio.Transport:
        transport = self.transport
        assert transport is not None, "a connection is used after connection_made"
        return transport

    def send(
        self,
        user: UpstreamUser,
        request: Request,
        host: bytes,
        lines: bytes,
        pieces: list[bytes],
        size: int,
        trailers: list[bytes] | None,
    ) -> None:
        """Lease the connection: the next response is its user's own."""
        self.user = user
        self._reset()
        self._chunked_out = request.head is not None and request.head.chunked
        parts = request_parts(request, host, lines, pieces, size, trailers)
        if size > JOINED_BYTES_MAX:
            self._wire.writelines(parts)
        else:
            self._wire.write(b"".join(parts))

    def send_body(self, piece: bytes) -> None:
        """Write one more piece of the request's body."""
        self._wire.write(chunk(piece) if self._chunked_out else piece)

    def send_end(self, trailers: list[bytes]) -> None:
        """The request's body is whole."""
        if self._chunked_out:
            self._wire.write(end_of_chunks(trailers))

    def pause_reading(self) -> None:
        """Read no more of the answer."""
        if not self.closing:
            self._wire.pause_reading()

    def resume_reading(self) -> None:
        """Read on."""
        if not self.closing:
            self._wire.resume_reading()

    def detach(self, *, sent: bool, drain: bool = False) -> None:
        """The user needs no more of the response. ``sent``: its request was written to the end.

        ``drain`` reads a small rest of the response so that the connection lives.
        """
        self.user = None
        if not sent or self._wire.get_write_buffer_size():
            self._discard()
        elif self._phase == _COMPLETE and self._fault is None:
            self._release()
        elif drain and self._phase != _HEAD and self._fault is None and not self.closing:
            self.draining = True
            self._drained = 0
            self._owner.drain(self)
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
        self.transport = cast("asyncio.Transport", transport)  # a stream protocol is given one

    def data_received(self, data: bytes) -> None:
        """Parse, then let the user act on all that this chunk brought, in one go."""
        user = self.user
        if user is None and not self.draining:
            self.close()  # a backend that speaks unasked is not to be trusted with the next request
            return
        if self._left:
            self._plain_body(data)
        elif self._head_bytes or self._phase == _COMPLETE or user is None or not self._read_fast(data, user):
            if self._phase == _HEAD:
                self._seen += data
                if first_line.is_no_answer(self._seen):
                    self._fault = gateway_errors.BAD_RESPONSE
            self._head_bytes += len(data)
            switched = self._feed(data)
            if switched is not None:
                if user is not None and self._fault is None and self._phase == _HEAD:
                    self.user = None
                    user.on_switched(switched)
                    return
                self._malformed()
        if self._head_bytes > HEAD_BYTES_MAX and self._phase != _COMPLETE:
            self._fault = gateway_errors.BAD_RESPONSE
        if self.draining:
            self._drain(len(data))
        elif user is not None:
            user.on_read(self._fault, complete=self._phase == _COMPLETE)
            if len(data) >= SMALL_READ_BYTES and not self._small_reads and self.user is user and not self.closing:
                self._small_reads = True
                user.on_long_answer()
                self._wire.set_protocol(SmallReads(cast("asyncio.Protocol", self)))

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
                raise  # an error of ours, not of the backend
            except httptools.HttpParserError as error:
                understood = None if self._phase != _HEAD else first_line.answer_as_1_1(self._seen, str(error))
                if understood is not None:
                    self._parser = httptools.HttpResponseParser(self)
                    self._seen = data = understood
                    continue
                self._malformed()
            if self._phase != _HEAD:
                self._seen = b""
            return None

    def _read_fast(self, data: bytes, user: UpstreamUser) -> bool:
        """Take a head that fast_heads.py knows, and what came of its body; False: it is for llhttp to read."""
        if self._phase != _HEAD or user.head_only:
            return False
        cached = self._reader.response(data, self._recall)
        if cached is None:
            return False
        head = read_response(cached.fields, self._policy, "1.1", cached)
        if isinstance(head, Fault):
            self._fault = head
            return True
        self._phase = _BODY
        self._keep = not head.wants_close
        user.on_head(cached.status, cached.second, head, bodyless=False)
        self._left = cached.length
        if cached.end < len(data):
            self._plain_body(data[cached.end :])
        elif not cached.length:
            self._phase = _COMPLETE
        return True

    def _plain_body(self, data: bytes) -> None:
        """Take what came of a body whose length such a head gave; nothing may follow it."""
        size = len(data)
        if size > self._left:
            data = data[: self._left]
            self._keep = False
        self._left -= len(data)
        if not self._left:
            self._phase = _COMPLETE
        if data and self.user is not None:
            self.user.on_body(data)

    def eof_received(self) -> bool:
        """The backend says that it sends no more: over TLS a mere FIN does not say so (RFC 9112, 9.8)."""
        self._ended = True
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """The backend went away: clean end of a close-delimited body, a stale connection, or a failure."""
        self.closing = True
        asks = self.user
        if exc is not None and asks is not None:
            self._read_rest()
            # Who closes without having read all that was sent to him sends a reset where a FIN would be.
            self._ended = self._ended or asks.refused_unread
        user, self.user = self.user, None
        if user is not None:
            self._owner.unleased()
            if self._phase == _BODY and self._framing == _UNTIL_CLOSE and self._ended:
                user.on_end()
            elif self._phase != _HEAD:
                user.on_lost(gateway_errors.TRUNCATED)
            else:
                stale = self.reused and not self._head_bytes
                user.on_lost(gateway_errors.STALE if stale else gateway_errors.RESET)
        elif self.draining:
            self.draining = False
            self._owner.unleased()
        self._owner.closed(self)

    def _read_rest(self) -> None:
        """Take what had come before the connection was lost: an answer may be there although a write has failed."""
        if self._wire.get_extra_info("ssl_object") is not None:
            return  # what is there is not decrypted
        fd = self._wire.get_extra_info("socket").fileno()
        with contextlib.suppress(OSError):
            while data := os.read(fd, SMALL_READ_BYTES):
                self.data_received(data)
                if self.user is None:
                    return

    def pause_writing(self) -> None:
        """The backend reads slowly: stop reading the client's body."""
        if self.user is not None:
            self.user.on_blocked()

    def resume_writing(self) -> None:
        """The backend caught up."""
        if self.user is not None:
            self.user.on_unblocked()

    # httptools callbacks

    def on_message_begin(self) -> None:
        """A message begins; one that follows a complete response was not asked for."""
        if self._phase == _COMPLETE:
            self._malformed()

    def on_status(self, reason: bytes) -> None:
        """The reason phrase (may come in pieces)."""
        self._reason += reason

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header field; trailers arrive here too, after the head."""
        if self._phase == _HEAD:
            self._fields.append((name, value))
        elif self.user is not None and not self.user.on_trailer(name, value):
            self._malformed()

    def on_headers_complete(self) -> None:
        """The head is whole: check it and hand it on."""
        user = self.user
        if user is None or self._fault is not None or self._phase == _COMPLETE:
            self._malformed()
            return
        status = self._parser.get_status_code()
        version = self._parser.get_http_version()
        if version not in ("1.1", "1.0") or _CONTROL.search(self._reason) or self._head_size() > HEAD_BYTES_MAX:
            self._fault = gateway_errors.BAD_RESPONSE
            return
        if status < 200:
            if _has_body(self._fields):
                self._fault = gateway_errors.BAD_RESPONSE  # its body could not be distinguished from the answer itself
            elif status < 100 or (
                status == 101 and not (self._parser.should_upgrade() and user.may_switch(self._fields))
            ):
                self._fault = gateway_errors.BAD_RESPONSE
            return
        head = read_response(self._fields, self._policy, version)
        if isinstance(head, Fault):
            self._fault = head
            return
        self._phase = _BODY
        bodyless = user.head_only or status in (204, 304)
        self._keep = self._parser.should_keep_alive() and not head.wants_close
        if bodyless:
            self._framing = _NO_BODY
            if status not in (204, 304):
                # Rule 4. llhttp waits for a body that will not come: the message ends here.
                self._phase = _COMPLETE
        elif head.content_length is None and not head.chunked:
            self._framing = _UNTIL_CLOSE
        user.on_head(status, self._reason, head, bodyless=bodyless)

    def on_body(self, body: bytes) -> None:
        """A piece of the body, without its framing."""
        self._head_bytes = 0  # of what is neither head nor body (trailers, say) no more may come than of a head
        if self._phase != _BODY:
            self._malformed()
        elif self.user is not None:
            self.user.on_body(body)

    def on_message_complete(self) -> None:
        """The response, or an interim one, is whole."""
        if self._phase != _HEAD:
            self._phase = _COMPLETE
            # A trailer may have said `close`; llhttp would refuse whatever else comes.
            self._keep = self._keep and self._parser.should_keep_alive()
        elif self._fault is None:
            user = self.user
            status = self._parser.get_status_code()
            if user is not None and status != 101:
                user.on_interim(status, self._reason, self._fields)
            self._seen = first_line.behind_head(self._seen)
            self._fields = []
            self._reason = b""

    def _head_size(self) -> int:
        return sum(len(name) + len(value) + 4 for name, value in self._fields)

    def tunnel_lost(self, exc: Exception | None) -> None:
        """The connection was a tunnel's, and is gone."""
        self._owner.unleased()
        self.connection_lost(exc)

    # Endings

    def _malformed(self) -> None:
        if self._phase == _COMPLETE:
            self._keep = False  # the response itself was whole: only what follows is dropped, with the connection
        else:
            self._fault = self._fault or gateway_errors.BAD_RESPONSE

    def _drain(self, n: int) -> None:
        self._drained += n
        if self._phase == _COMPLETE or self._fault is not None:
            self.draining = False
            self._release()
        elif self._drained > DRAIN_BYTES_MAX:
            self.end_drain()

    def end_drain(self) -> None:
        """Wait no longer for the rest of an answer that nobody wants."""
        self.draining = False
        self._discard()

    def _release(self) -> None:
        if self._small_reads:
            self._small_reads = False
            self._wire.set_protocol(cast("asyncio.Protocol", self))
        if self._framing == _NO_BODY:
            self._parser = httptools.HttpResponseParser(self)
        self._owner.release(self, reusable=self._keep and self._fault is None and self.usable)

    def _discard(self) -> None:
        self._owner.release(self, reusable=False)


def http1_connections(reader: FastHeadReader, policy: FieldPolicy) -> Connect:
    """What makes the connections of one worker's pools."""
    return lambda owner: Http1ClientConnection(owner, reader, policy)


def _has_body(fields: list[tuple[bytes, bytes]]) -> bool:
    """Whether an interim answer says that it has a body: it cannot (RFC 9110, 15.2); an empty one is no harm."""
    return any(
        low == b"transfer-encoding" or (low == b"content-length" and value.strip(b" \t") != b"0")
        for low, value in ((name.lower(), value) for name, value in fields)
    )
