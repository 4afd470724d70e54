"""What takes llhttp's place on a client's connection once a request has asked to switch protocols.

llhttp stops at the head of such a request and takes all that follows for the other protocol. It knows neither whether
the gateway passes the offer on nor what the backend says to it. So:

1. A request without a body: what follows is *held* until the exchange is over. After a 101 it is the tunnel's; after
   any other answer to an offer that was not passed on, it is the next request.
2. A request with a body: its offer is never passed on, and the body is parsed by a new parser, which gets the body's
   framing by a head of the gateway's own making.
"""

from __future__ import annotations

from typing import Final, Protocol

import httptools

HELD_BYTES_MAX: Final = 64 * 1024
"""Beyond this the client is made to wait."""


class ParserEvents(Protocol):
    """What a parser calls."""

    def on_message_begin(self) -> None:
        """A message begins."""

    def on_url(self, piece: bytes) -> None:
        """A piece of the request target."""

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header field, or a trailer."""

    def on_headers_complete(self) -> None:
        """The head is whole."""

    def on_body(self, piece: bytes) -> None:
        """A piece of the body."""

    def on_message_complete(self) -> None:
        """The message is whole."""


class HeldBytes:
    """Takes the parser's place and keeps what comes (rule 1)."""

    __slots__ = ("data",)

    def __init__(self) -> None:
        self.data = bytearray()

    def feed_data(self, data: bytes) -> None:
        """Keep more."""
        self.data += data


class NoMoreRequests:
    """Takes the parser's place behind a request that was the last one: to llhttp, too, what follows is malformed."""

    __slots__ = ()

    def feed_data(self, data: bytes) -> None:
        """Let empty lines pass, as llhttp does."""
        if data.strip(b"\r\n"):
            raise httptools.HttpParserError("Data after `Connection: close`")


class _BodyEvents:
    """Passes on the events of a parser that begins in the middle: at a body (rule 2)."""

    __slots__ = ("_begun", "_events")

    def __init__(self, events: ParserEvents) -> None:
        self._events = events
        # The head of our own making is over.
        self._begun = False

    def on_message_begin(self) -> None:
        """Of the messages after the first."""
        if self._begun:
            self._events.on_message_begin()

    def on_url(self, piece: bytes) -> None:
        """Of the messages after the first."""
        if self._begun:
            self._events.on_url(piece)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Trailers of the first message, and fields of those after it."""
        if self._begun:
            self._events.on_header(name, value)

    def on_headers_complete(self) -> None:
        """Of the messages after the first."""
        if self._begun:
            self._events.on_headers_complete()
        self._begun = True

    def on_body(self, piece: bytes) -> None:
        """Of any message."""
        self._events.on_body(piece)

    def on_message_complete(self) -> None:
        """Of any message."""
        self._events.on_message_complete()


def body_parser(events: ParserEvents, content_length: int | None) -> httptools.HttpRequestParser:
    """A parser that stands at the beginning of a body: of that length, or in chunks (None)."""
    parser = httptools.HttpRequestParser(_BodyEvents(events))
    framing = b"transfer-encoding: chunked" if content_length is None else b"content-length: %d" % content_length
    parser.feed_data(b"POST / HTTP/1.1\r\nhost: h\r\n%b\r\n\r\n" % framing)
    return parser
