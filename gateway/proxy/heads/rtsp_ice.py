"""Request lines of RTSP and ICE: llhttp takes them for those of HTTP, and does not say so.

They are looked up in the bytes themselves, in one pass over a chunk however many of them it holds.
"""

from __future__ import annotations

_PROTOCOLS = (b" RTSP/1", b" ICE/1")
_METHODS = (
    *(b"GET", b"POST", b"OPTIONS", b"SOURCE", b"DESCRIBE", b"ANNOUNCE", b"SETUP", b"PLAY", b"PAUSE", b"TEARDOWN"),
    *(b"GET_PARAMETER", b"SET_PARAMETER", b"REDIRECT", b"RECORD", b"FLUSH"),
)
_LINE_BYTES_MAX = 16 * 1024


def holds_foreign(seen: bytes) -> bool:
    """Whether a look by `foreign_lines` is worth its while."""
    return seen.find(b" RTSP/1") >= 0 or seen.find(b" ICE/1") >= 0


def foreign_lines(seen: bytes) -> frozenset[tuple[bytes, bytes]]:
    """Method and target of each such line.

    >>> foreign_lines(b"the body before itGET /a RTSP/1.0")
    frozenset({(b'GET', b'/a')})
    """
    found = set()
    for protocol in _PROTOCOLS:
        at = seen.find(protocol)
        while at >= 0:
            before, _, target = seen[max(0, at - _LINE_BYTES_MAX) : at].rstrip(b" ").rpartition(b" ")
            word = before[-64:].rstrip(b" ")
            found |= {(method, target) for method in _METHODS if word.endswith(method)}
            at = seen.find(protocol, at + 1)
    return frozenset(found)
