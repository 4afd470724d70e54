"""Names for one request that all who see it share: the request id, and W3C trace context.

Rules:

1. A request id is kept from a trusted proxy if it is printable and short, and made here otherwise: what strangers send
   must not let them write into other people's logs, or pass their request off as another.
2. ``traceparent`` belongs to the caller, trusted or not (W3C Trace Context, 3.2): a valid one is passed on unchanged,
   since the gateway records no spans and so must not become a parent. An invalid one is dropped with its ``tracestate``
   (3.3), and a new trace is begun where that is configured.
3. A trace that is begun here has version 00 and the sampled flag: a backend whose sampler follows its parent would
   otherwise record nothing for clients that do not trace.
4. Where both are made they are one number: the request id is the trace id.
"""

from __future__ import annotations

import re
from random import SystemRandom

_TRACEPARENT = re.compile(rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}(-.*)?\Z")
_REQUEST_ID = re.compile(rb"[\x21-\x7e]{1,128}\Z")
_SUFFIX = b"-%016x-01"


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


def valid_request_id(value: bytes) -> bool:
    """Whether a request id may be kept: visible ASCII, at most 128 of it."""
    return _REQUEST_ID.match(value) is not None


class Ids:
    """Makes ids: 128 random bits, without a system call for each."""

    def __init__(self) -> None:
        # The middle changes with each request, the ends with each worker: two workers never meet.
        random = SystemRandom()
        self._high = b"%016x" % (random.getrandbits(64) or 1)
        self._next = random.getrandbits(64)
        self._parent = _SUFFIX % (random.getrandbits(64) or 1)

    def new(self) -> bytes:
        """A fresh id: 32 hexadecimal digits, never all zero."""
        # A step that is odd walks through all numbers; this one (the golden ratio's) spreads neighbours far apart, so
        # that samplers which look at a few of the bits see them change.
        self._next = number = (self._next + 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF
        return self._high + b"%016x" % number

    def traceparent(self, trace_id: bytes) -> bytes:
        """The ``traceparent`` of a trace that begins here."""
        return b"00-" + trace_id + self._parent
