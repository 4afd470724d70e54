"""Answers that come in pieces: the event stream of `infer_stream`, and answers that begin and never go on.

Rules (text/event-stream: the HTML standard, "Server-sent events"):

1. Each element of each output is an event, `{"name": ..., "index": ..., "value": ...}`, and the last event is the whole
   answer, as `infer` gives it. Binary outputs are refused: events are text.
2. An error is an event of the type `error` whose data are `{"error": ...}`; nothing follows it.
3. An answer that stalls has begun: a stream's head and first event, of another answer the head and half of the body.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import msgspec
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from gateway.serving.errors import RequestError
from gateway.serving.protocol import InferAnswer

_ERROR = b'event: error\ndata: {"error":"injected fault: stream-error"}\n\n'
_encoder = msgspec.json.Encoder()


def events(answer: InferAnswer) -> list[bytes]:
    """The events of an answer; RequestError for a binary one."""
    if answer.json_bytes is not None:
        raise RequestError("an event stream has no binary outputs; ask for them in JSON")
    body = answer.body
    outputs: list[dict[str, Any]] = msgspec.json.decode(body)["outputs"]
    elements = [
        _event({"name": output["name"], "index": index, "value": value})
        for output in outputs
        for index, value in enumerate(output["data"])
    ]
    return [*elements, b"data: %b\n\n" % body]


def broken(whole: Sequence[bytes], *, alone: bool) -> list[bytes]:
    """The events of a stream that fails: an error and nothing else, or in the middle."""
    return [_ERROR] if alone else [*whole[: len(whole) // 2], _ERROR]


async def until_left(receive: Receive) -> None:
    """Wait until the client is gone."""
    while (await receive())["type"] != "http.disconnect":
        pass


class EventStreamResponse(Response):
    """Events as they come; with ``stalls`` only the first of them ever does."""

    media_type = "text/event-stream"

    def __init__(self, sent: Sequence[bytes], *, stalls: bool = False) -> None:
        super().__init__()
        del self.headers["content-length"]
        self._events = sent
        self._stalls = stalls

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send them."""
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        for event in self._events:
            await send({"type": "http.response.body", "body": event, "more_body": True})
            if self._stalls:
                await until_left(receive)
                return
            await asyncio.sleep(0)  # one event, one write
        await send({"type": "http.response.body", "body": b"", "more_body": False})


class StalledResponse(Response):
    """An answer of known length of which half ever comes."""

    media_type = "application/json"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send that half."""
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        half = bytes(self.body[: len(self.body) // 2])
        await send({"type": "http.response.body", "body": half, "more_body": True})
        await until_left(receive)


def _event(value: object) -> bytes:
    return b"data: %b\n\n" % _encoder.encode(value)
