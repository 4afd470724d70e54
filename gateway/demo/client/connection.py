"""One kept connection of a user: a request, its answer, the next request."""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import Protocol, cast

import httptools

from gateway.demo.client.answers import CHAT, judge, judge_chat
from gateway.demo.scenarios import GAVE_UP


class ConnectionEvents(Protocol):
    """The callbacks of a connection and its requests."""

    def opened(self, connection: UserConnection) -> None:
        """A connection is there to be used."""

    def done(self, connection: UserConnection, *, reusable: bool) -> None:
        """A connection has its answer."""

    def lost(self, connection: UserConnection) -> None:
        """A connection is gone."""

    def settle(self, variant: str, sent_s: float, failure: str | None, *, correct: bool) -> None:
        """A request has come to its end."""


class UserConnection(asyncio.Protocol):
    """One kept connection: a request, its answer, the next request."""

    def __init__(self, events: ConnectionEvents) -> None:
        self._events = events
        self._transport: asyncio.Transport | None = None
        self._reset()
        self.sent_s = self.last_data_s = 0.0
        self._in_flight = self._streamed = False

    def _reset(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._variant = "none"
        self._rescued = False
        self._body: list[bytes] = []
        self._label = -1

    def send(self, request: bytes, label: int, *, streamed: bool) -> None:
        """Ask."""
        assert self._transport is not None
        self._reset()
        self._label = label
        self._in_flight, self._streamed = True, streamed
        self.sent_s = self.last_data_s = monotonic()
        self._transport.write(request)

    def give_up(self, why: str) -> None:
        """No answer is awaited any more: the user has seen a failure."""
        self._settle(why)
        if self._transport is not None:
            self._transport.abort()

    def leave(self) -> None:
        """The user waits no longer: a failure, and a connection that is closed as any is."""
        self._settle(GAVE_UP)
        self.close()

    def close(self) -> None:
        """The client is done."""
        if self._transport is not None:
            self._transport.close()

    def _settle(self, failure: str | None, *, correct: bool = False) -> None:
        if self._in_flight:
            self._in_flight = False
            variant = "rescued" if self._rescued else self._variant
            self._events.settle(variant, self.sent_s, failure, correct=correct)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Of asyncio."""
        self._transport = cast("asyncio.Transport", transport)
        self._events.opened(self)

    def data_received(self, data: bytes) -> None:
        """Of asyncio."""
        self.last_data_s = monotonic()
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self.give_up("malformed")

    def connection_lost(self, exc: Exception | None) -> None:
        """Of asyncio."""
        self._settle("reset")
        self._events.lost(self)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Of httptools: who answered."""
        match name.lower():
            case b"x-gateway-variant":
                self._variant = value.decode("latin-1")
            case b"x-gateway-rescued":
                self._rescued = True

    def on_body(self, body: bytes) -> None:
        """Of httptools."""
        self._body.append(body)

    def on_message_complete(self) -> None:
        """Of httptools: the answer is whole."""
        body = b"".join(self._body)
        status = self._parser.get_status_code()
        if self._label == CHAT:
            failure, label = judge_chat(status, body)
        else:
            failure, label = judge(status, body, streamed=self._streamed)
        self._settle(failure, correct=label == self._label)
        self._events.done(self, reusable=self._parser.should_keep_alive())
