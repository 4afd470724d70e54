"""Messages between workers and the process that looks features up (gateway/integrations/feast/server.py).

A worker asks for the features of one entity at a time and goes on with other requests; answers come as they are known.
"""

from __future__ import annotations

import asyncio
import enum

import msgspec

from gateway.runtime.wire import frame, read_frame

SOCKET_NAME = "features.sock"
Scalar = bool | int | float | str | None


class LookedUp(enum.StrEnum):
    """What came of a lookup. The last ones come of the worker itself."""

    OK = "ok"
    MISSING = "missing"  # the store knows the entity not, or not all of its features
    UNAVAILABLE = "unavailable"
    TIMEOUT = "timeout"
    OVERLOAD = "overload"
    NO_KEY = "no_key"  # the request does not name the entity
    UNREADABLE = "unreadable"  # the request has no JSON object for a body, or one that is too large


class Lookup(msgspec.Struct, frozen=True, array_like=True):
    """The features of one entity, asked for under a number of the worker's own."""

    number: int
    url: str
    token_env: str | None
    service: str | None
    features: tuple[str, ...]
    entity: dict[str, Scalar]
    timeout_s: float
    ttl_s: float


class Found(msgspec.Struct, frozen=True, array_like=True):
    """Its features, None for those that are missing, and how old the oldest is (-1: not known)."""

    number: int
    result: LookedUp
    values: dict[str, Scalar] = {}
    age_s: float = -1.0


_encoder = msgspec.msgpack.Encoder()
_lookup = msgspec.msgpack.Decoder(Lookup)
_found = msgspec.msgpack.Decoder(Found)


def encode(message: Lookup | Found) -> bytes:
    """One frame, ready to be written."""
    return frame(_encoder.encode(message))


async def read_lookup(reader: asyncio.StreamReader) -> Lookup:
    """The next question; asyncio.IncompleteReadError at the end, ValueError when it is broken."""
    return _lookup.decode(await read_frame(reader))


async def read_found(reader: asyncio.StreamReader) -> Found:
    """The next answer; errors as above."""
    return _found.decode(await read_frame(reader))
