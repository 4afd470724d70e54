"""An answer as HTTP/1.1 says it: gathered piece by piece, and taken in one go.

Rules:

1. An answer without a length goes out in chunks. A client of HTTP/1.0 knows none: there only the connection's end
   delimits it (*unframed*), and the connection can serve nothing else.
2. What the head says of the connection is ours: ``close`` where it ends, ``keep-alive`` for HTTP/1.0 where it goes on.
"""

from __future__ import annotations

from typing import Final

from gateway.proxy.heads.message_head import ResponseHead
from gateway.proxy.heads.request import Request
from gateway.proxy.http1.request_writer import end_of_chunks

_STATUS_OK: Final = b"HTTP/1.1 200 OK\r\n"

# How the body's end shows.
BY_LENGTH: Final = 0
BY_CHUNKS: Final = 1
BY_CLOSE: Final = 2


class ResponseWriter:
    """The answers on one client's connection, one after the other."""

    __slots__ = ("_framing", "_out")

    def __init__(self) -> None:
        self._out: list[bytes] = []
        self._framing = BY_LENGTH

    @property
    def unframed(self) -> bool:
        """Whether only the connection's end says where the answer ends."""
        return self._framing == BY_CLOSE

    def head(
        self,
        request: Request,
        status: int,
        reason: bytes,
        head: ResponseHead,
        lines: bytes,
        *,
        bodyless: bool,
        trailers: bool,
    ) -> None:
        """Begin an answer. Where the connection cannot go on after it, ``request.keep_alive`` says so from now on."""
        out = self._out
        out.append(_STATUS_OK if status == 200 and reason == b"OK" else b"HTTP/1.1 %d %b\r\n" % (status, reason))
        out += head.lines if status != 426 else head.lines_of_426()
        out.append(lines)
        if request.head is not None:
            out.append(request.head.id_line)
        self._framing = BY_LENGTH
        if head.content_length is not None:
            if status != 204:
                out.append(head.length_line)
        elif not bodyless:
            if request.version == "1.1":
                out.append(b"transfer-encoding: chunked\r\n")
                self._framing = BY_CHUNKS
                if trailers:
                    out += [b"trailer: %b\r\n" % value for value in head.trailer]
            else:
                request.keep_alive = False
                self._framing = BY_CLOSE
        if not request.keep_alive:
            out.append(b"connection: close\r\n")
        elif request.version == "1.0":
            out.append(b"connection: keep-alive\r\n")
        out.append(b"\r\n")

    def body(self, piece: bytes) -> None:
        """A piece of the body."""
        if self._framing == BY_CHUNKS:
            self._out += (b"%x\r\n" % len(piece), piece, b"\r\n")
        else:
            self._out.append(piece)

    def end(self, trailers: list[bytes]) -> None:
        """The body is whole."""
        if self._framing == BY_CHUNKS:
            self._out.append(end_of_chunks(trailers))

    def take(self) -> bytes:
        """All that was gathered since the last time."""
        if not self._out:
            return b""
        data = b"".join(self._out)
        self._out.clear()
        return data

    def discard(self) -> None:
        """Forget what was gathered. What went out already keeps its framing."""
        self._out.clear()
