"""What takes llhttp's place on a client's connection once a request has asked to switch protocols.

llhttp stops at the head of such a request and takes all that follows for the other protocol. It knows neither whether
the gateway passes the wish on nor what the backend says to it. So:

1. A request without a body: what follows is *held* until the exchange is over. After a 101 it is the tunnel's; after
   any other answer to a wish that was not passed on, it is the next request.
2. A request with a body: its wish is never passed on, and the body is parsed by a new parser, which is told the body's
   framing by a head of the gateway's own making.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import httptools

if TYPE_CHECKING:
    from gateway.proxy.http1.server_connection import DownstreamConnection

# Beyond this the client is made to wait.
HELD_BYTES_MAX = 64 * 1024


class Held:
    """Takes the parser's place and keeps what comes."""

    __slots__ = ("_connection", "data")

    def __init__(self, connection: DownstreamConnection) -> None:
        self._connection = connection
        self.data = bytearray()

    def feed_data(self, data: bytes) -> None:
        """Keep more."""
        self.data += data
        self._connection.holds(len(self.data))


class NoMoreRequests:
    """Takes the parser's place behind a request that was the last one: to llhttp, too, what follows is malformed."""

    __slots__ = ()

    def feed_data(self, data: bytes) -> None:
        """Let empty lines pass, as llhttp does."""
        if data.strip(b"\r\n"):
            raise httptools.HttpParserError("Data after `Connection: close`")


class Resumed:
    """The callbacks of a parser that begins in the middle: at a body."""

    __slots__ = ("_begun", "_connection")

    def __init__(self, connection: DownstreamConnection) -> None:
        self._connection = connection
        self._begun = False

    def on_message_begin(self) -> None:
        """Of the messages after the first."""
        if self._begun:
            self._connection.on_message_begin()

    def on_url(self, piece: bytes) -> None:
        """Of the messages after the first."""
        if self._begun:
            self._connection.on_url(piece)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Trailers of the first message, and fields of those after it."""
        if self._begun:
            self._connection.on_header(name, value)

    def on_headers_complete(self) -> None:
        """The head of our own making ends."""
        if self._begun:
            self._connection.on_headers_complete()
        self._begun = True

    def on_body(self, piece: bytes) -> None:
        """A piece of a body."""
        self._connection.on_body(piece)

    def on_message_complete(self) -> None:
        """A message is whole."""
        self._connection.on_message_complete()


def body_parser(connection: DownstreamConnection, content_length: int | None) -> httptools.HttpRequestParser:
    """A parser that stands at the beginning of a body: of that length, or in chunks (None)."""
    parser = httptools.HttpRequestParser(Resumed(connection))
    framing = b"transfer-encoding: chunked" if content_length is None else b"content-length: %d" % content_length
    parser.feed_data(b"POST / HTTP/1.1\r\nhost: h\r\n%b\r\n\r\n" % framing)
    return parser
