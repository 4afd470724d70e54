"""Messages of workers to the exporter of traces: what became of a request and of each of its attempts, as plain values.

A worker hands these over and knows nothing of OpenTelemetry; the exporter makes spans of them (gateway/tracing). Times
are seconds since the Unix epoch. Ids are hexadecimal, as in W3C Trace Context.
"""

from __future__ import annotations

import asyncio

import msgspec

from gateway.runtime.wire import frame, read_frame

SOCKET_NAME = "tracing.sock"


class AttemptSpan(msgspec.Struct, array_like=True):
    """One attempt: a client span. ``result`` is its outcome class, ``fault`` the failure; ``status`` 0: no answer.

    ``mirrored``: it was a copy of the request, whose answer nobody got.
    """

    span_id: str
    variant: str
    backend: str
    host: str
    port: int
    began_s: float
    ended_s: float = 0.0
    first_byte_s: float = 0.0
    status: int = 0
    result: str = ""
    fault: str = ""
    mirrored: bool = False


class RequestSpan(msgspec.Struct, array_like=True):
    """One request: a server span, with its attempts. ``kept``: not sampled, but kept for what became of it.

    ``copy_only``: the server span is in another record; here is the copy that outlasted it.
    """

    trace_id: str
    span_id: str
    parent_id: str
    state: str
    kept: bool
    method: str
    path: str
    host: str
    scheme: str
    version: str
    client: str
    request_id: str
    began_s: float
    ended_s: float
    status: int
    fault: str
    route: str
    assigned: str
    variant: str
    rescued: bool
    forced: bool
    epoch: int
    request_bytes: int
    attempts: list[AttemptSpan]
    copy_only: bool = False


class Spans(msgspec.Struct, tag=True):
    """What a worker has gathered since its last message."""

    requests: list[RequestSpan]


class SpansTaken(msgspec.Struct, frozen=True, tag=True):
    """What became of a worker's spans so far, in numbers of spans."""

    exported: int
    failed: int


_encoder = msgspec.msgpack.Encoder()
_spans = msgspec.msgpack.Decoder(Spans)
_taken = msgspec.msgpack.Decoder(SpansTaken)


def encode(message: Spans | SpansTaken) -> bytes:
    """One frame, ready to be written."""
    return frame(_encoder.encode(message))


async def read_spans(reader: asyncio.StreamReader) -> Spans:
    """The exporter's next message; asyncio.IncompleteReadError at the end, ValueError when it is broken."""
    return _spans.decode(await read_frame(reader))


async def read_taken(reader: asyncio.StreamReader) -> SpansTaken:
    """A worker's next message; errors as above."""
    return _taken.decode(await read_frame(reader))
