"""Long answers are read in small pieces, so that a client that stalls holds little memory.

uvloop reads up to 256 KiB at a time. What a slow client has not taken waits in its transport's write buffer: up to the
high water mark, and one piece more. A connection whose answer turns out to be long is therefore given this protocol for
the rest of it, which reads into one buffer of 64 KiB that all connections share (nothing is read while a piece is being
handled), and its client a high water mark of 32 KiB. So at most two pieces are held for a slow client: one that is
partly sent (reading goes on when less than a quarter of the mark is left of it), and the one read after it.
"""

from __future__ import annotations

import asyncio
from typing import Final

SMALL_READ_BYTES: Final = 64 * 1024
UNSENT_BYTES_MAX: Final = 32 * 1024
_BUFFER = memoryview(bytearray(SMALL_READ_BYTES))


class SmallReads(asyncio.BufferedProtocol):
    """Stands between a transport and the protocol of its connection; all but the reading is passed through."""

    def __init__(self, connection: asyncio.Protocol) -> None:
        self._connection = connection

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where the next piece goes."""
        return _BUFFER

    def buffer_updated(self, nbytes: int) -> None:
        """A piece is there."""
        self._connection.data_received(bytes(_BUFFER[:nbytes]))

    def eof_received(self) -> bool | None:
        """Passed through, as all that follows."""
        return self._connection.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        """The backend went away."""
        self._connection.connection_lost(exc)

    def pause_writing(self) -> None:
        """The backend reads slowly."""
        self._connection.pause_writing()

    def resume_writing(self) -> None:
        """The backend caught up."""
        self._connection.resume_writing()
