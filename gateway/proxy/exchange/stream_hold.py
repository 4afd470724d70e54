"""How long the beginning of a canary's event stream is held back: until it has said something, or has failed.

Rules:

1. A stream that fails before its first content (stream_opening.py) can still be answered by stable: the client has seen
   nothing, and gets one clean stream. From the first content on nothing is held back or hidden.
2. A stream that ends before any content has failed, too; but one that says that it has come to its end is an answer,
   though an empty one, and goes to the client.
3. At most `HELD_BYTES_MAX` are held, and only events within `HELD_S_MAX` of the head: whoever keeps a stream open with
   pings while a model thinks does so to show the client that it lives.
"""

from __future__ import annotations

from typing import Final

from gateway.proxy.exchange import stream_opening

HOLD: Final = 0
CONTENT: Final = 1
FAILED: Final = 2

HELD_BYTES_MAX: Final = 64 * 1024
HELD_S_MAX: Final = 5.0


class StreamHold:
    """The beginning of one event stream; ``since_s`` is when its head came."""

    __slots__ = ("_bytes", "_since_s")

    def __init__(self, since_s: float) -> None:
        self._since_s = since_s
        self._bytes = 0

    def add(self, piece_bytes: int, found: int, now_s: float) -> int:
        """So many bytes came, with which the stream has come to ``found`` (of stream_opening.py).

        Returns HOLD, CONTENT (hold nothing back any more) or FAILED.
        """
        if found == stream_opening.FAILED:
            return FAILED
        self._bytes += piece_bytes
        late = self._bytes > HELD_BYTES_MAX or now_s - self._since_s > HELD_S_MAX
        return CONTENT if late or found != stream_opening.NOTHING_YET else HOLD
