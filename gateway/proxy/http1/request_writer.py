"""A request as HTTP/1.1 says it: the head in its lines, with framing of our own, and the body's pieces. Pure."""

from __future__ import annotations

from typing import Final

from gateway.proxy.heads.request import Request
from gateway.proxy.heads.trailers import last_chunk

JOINED_BYTES_MAX: Final = 16 * 1024
"""A larger body is not copied once more to be in one piece with its head."""
LAST: Final = b"0\r\n\r\n"


def request_parts(
    request: Request, host: bytes, lines: bytes, pieces: list[bytes], size: int, trailers: list[bytes] | None
) -> list[bytes]:
    """The request as far as it is there, in parts that are written one after the other."""
    head, line = request.head, request.line
    assert head is not None  # it was admitted
    parts = [line.opening if line is not None else b"%b %b HTTP/1.1\r\nhost: " % (request.method, request.target)]
    parts.append(host)
    parts.append(b"\r\n")
    parts += head.lines
    if lines:
        parts.append(lines)
    if head.content_length is not None:
        parts.append(head.length_line)
        parts.append(b"\r\n")
        if size > JOINED_BYTES_MAX:
            parts = [b"".join(parts)]
        parts += pieces
    elif head.chunked:
        parts.append(b"transfer-encoding: chunked\r\n\r\n")
        parts += [chunk(piece) for piece in pieces]
        if trailers is not None:
            parts.append(end_of_chunks(trailers))
    else:
        parts.append(b"\r\n")
    return parts


def chunk(piece: bytes) -> bytes:
    """A piece of a body in chunks; an empty one would be its end."""
    return b"%x\r\n%b\r\n" % (len(piece), piece)


def end_of_chunks(trailers: list[bytes]) -> bytes:
    """The end of a body in chunks."""
    return last_chunk(trailers) if trailers else LAST
