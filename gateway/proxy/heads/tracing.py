"""Names for one request that all who see it share: the request id, and W3C trace context.

Rules:

1. A request id is kept from a trusted proxy if it is printable and short, and made here otherwise: what strangers send
   must not let them write into other people's logs, or pass their request off as another.
2. ``traceparent`` belongs to the caller, trusted or not (W3C Trace Context, 3.2): a valid one is passed on unchanged
   where the gateway records no spans, and so must not become a parent. An invalid one is dropped with its
   ``tracestate`` (3.3), and a new trace is begun where that is configured. With tracing, each attempt's span is its
   backend's parent (proxy/spans.py).
3. A trace that is begun here has version 00 and the sampled flag: a backend whose sampler follows its parent would
   otherwise record nothing for clients that do not trace.
4. Where both are made they are one number: the request id is the trace id.
"""

from __future__ import annotations

import os
import re
from typing import Final

_TRACEPARENT: Final = re.compile(rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}(-.*)?\Z")
_REQUEST_ID: Final = re.compile(rb"[\x21-\x7e]{1,128}\Z")
_SUFFIX: Final = b"-%016x-01"
_DRAWN: Final = 128


def trace_id_of(traceparent: bytes) -> bytes | None:
    """The trace id of a valid ``traceparent``, None for anything else.

    >>> trace_id_of(b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
    b'0af7651916cd43dd8448eb211c80319c'
    >>> trace_id_of(b"ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01") is None
    True
    """
    found = _TRACEPARENT.match(traceparent)
    if found is None:
        return None
    version, trace_id, parent_id, rest = found.groups()
    if version == b"ff" or (version == b"00" and rest is not None):
        return None
    if not trace_id.strip(b"0") or not parent_id.strip(b"0"):
        return None
    return trace_id


def parent_of(traceparents: list[bytes]) -> tuple[bytes, bool] | None:
    """The parent's span id in the one valid ``traceparent`` of a request, and whether it is sampled; None without one.

    >>> parent_of([b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"])
    (b'b7ad6b7169203331', True)
    >>> parent_of([b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"] * 2) is None
    True
    """
    if len(traceparents) != 1 or trace_id_of(traceparents[0]) is None:
        return None
    return traceparents[0][36:52], bool(int(traceparents[0][53:55], 16) & 1)


def valid_request_id(value: bytes) -> bool:
    """Whether a request id may be kept: visible ASCII, at most 128 of it."""
    return _REQUEST_ID.match(value) is not None


class Ids:
    """Makes ids: 128 random bits each, a hundred of them with one system call."""

    __slots__ = ("_at", "_drawn", "_parent")

    def __init__(self) -> None:
        self._drawn = b""
        self._at = 0
        self._parent = _SUFFIX % (int.from_bytes(os.urandom(8)) or 1)

    def new(self) -> bytes:
        """A fresh id: 32 hexadecimal digits."""
        at = self._at
        if at >= len(self._drawn):
            self._drawn = os.urandom(16 * _DRAWN).hex().encode()
            at = 0
        self._at = at + 32
        return self._drawn[at : at + 32]

    @property
    def parent(self) -> bytes:
        """What follows the trace id in the ``traceparent`` of a trace that begins here."""
        return self._parent

    def traceparent(self, trace_id: bytes) -> bytes:
        """The ``traceparent`` of a trace that begins here."""
        return b"00-" + trace_id + self._parent
