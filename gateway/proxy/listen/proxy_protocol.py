"""The PROXY protocol, versions 1 and 2: who the client behind a load balancer is (haproxy.org, proxy-protocol.txt).

Rules:

1. Version 1 is one line of at most 107 bytes; version 2 a signature, four bytes, and as many more as they say.
2. Exactly the header's bytes are taken from the socket, so that TLS or HTTP can follow on it.
3. LOCAL (a balancer's own check) and UNKNOWN name nobody: the connection's own peer stands.
4. Anything else, and anything longer than the limits, is malformed. There is no guessing: the connection is closed.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import struct

SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
_V1_BYTES_MAX = 107
# Addresses and TLVs; balancers send a few hundred bytes at most.
_V2_BYTES_MAX = 2048
_STREAM_4, _STREAM_6 = 0x11, 0x21
_LOCAL, _PROXY = 0x20, 0x21


class BadProxyHeader(ValueError):
    """What the connection began with is not a PROXY header."""


async def read_source(sock: socket.socket) -> str | None:
    """Take the header from a connected, non-blocking socket; the client's address, None when it names none.

    Raises BadProxyHeader, or OSError.
    """
    start = await _exactly(sock, len(SIGNATURE))
    if start == SIGNATURE:
        command, family, length = struct.unpack("!BBH", await _exactly(sock, 4))
        if length > _V2_BYTES_MAX:
            raise BadProxyHeader(f"its address block has {length} bytes, the limit is {_V2_BYTES_MAX}")
        return parse_v2(command, family, await _exactly(sock, length))
    if not start.startswith(b"PROXY "):
        raise BadProxyHeader("no signature of version 1 or 2")
    line = start
    while not line.endswith(b"\r\n"):
        if len(line) >= _V1_BYTES_MAX:
            raise BadProxyHeader(f"the line is longer than {_V1_BYTES_MAX} bytes")
        await _readable(sock)
        seen = sock.recv(_V1_BYTES_MAX - len(line), socket.MSG_PEEK)
        if not seen:
            raise BadProxyHeader("the connection was closed before the header was complete")
        # A CR may be here and its LF in the next segment: then all that is here belongs to the line.
        at = (line[-1:] + seen).find(b"\r\n")
        line += await _exactly(sock, len(seen) if at < 0 else at + 1)
    return parse_v1(line)


def parse_v1(line: bytes) -> str | None:
    """The source address of a whole line, None for UNKNOWN. Raises BadProxyHeader.

    >>> parse_v1(b"PROXY TCP4 192.0.2.1 192.0.2.2 1 80" + bytes((13, 10)))
    '192.0.2.1'
    """
    if not line.endswith(b"\r\n"):
        raise BadProxyHeader("the line does not end in CR LF")
    words = line[:-2].split(b" ")
    if words[:2] == [b"PROXY", b"UNKNOWN"]:
        return None
    if len(words) != 6 or words[0] != b"PROXY" or words[1] not in (b"TCP4", b"TCP6"):
        raise BadProxyHeader("the line must have six words and name TCP4 or TCP6")
    version = 4 if words[1] == b"TCP4" else 6
    for port in words[4:]:
        if not port.isdigit() or not 0 <= int(port) <= 65535 or (port != b"0" and port.startswith(b"0")):
            raise BadProxyHeader("invalid port, must be from 0 to 65535")
    source, _ = (_address(word, version) for word in words[2:4])
    return source


def parse_v2(command: int, family: int, rest: bytes) -> str | None:
    """The source address of a version 2 header after its signature, None for LOCAL and for families without one.

    Raises BadProxyHeader.
    """
    if command == _LOCAL:
        return None
    if command != _PROXY:
        raise BadProxyHeader(f"unknown version and command {command:#04x}")
    size = {_STREAM_4: 4, _STREAM_6: 16}.get(family)
    if size is None:
        if family == 0:
            return None
        raise BadProxyHeader(f"family and protocol {family:#04x} are unsupported: only TCP over IPv4 or IPv6")
    if len(rest) < 2 * size + 4:
        raise BadProxyHeader("the address block is too short")
    return str(ipaddress.ip_address(rest[:size]))


def _address(word: bytes, version: int) -> str:
    try:
        found = ipaddress.ip_address(word.decode("ascii"))
    except ValueError:
        raise BadProxyHeader("invalid address") from None
    if b"%" in word:  # a zone is of no use to others, and may be any text
        raise BadProxyHeader("invalid address: it has a zone")
    if found.version != version:
        raise BadProxyHeader("an address is not of the family that the header names")
    return str(found)


async def _exactly(sock: socket.socket, count: int) -> bytes:
    out = b""
    loop = asyncio.get_running_loop()
    while len(out) < count:
        piece = await loop.sock_recv(sock, count - len(out))
        if not piece:
            raise BadProxyHeader("the connection was closed before the header was complete")
        out += piece
    return out


async def _readable(sock: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()
    loop.add_reader(sock.fileno(), _settle, ready)
    try:
        await ready
    finally:
        loop.remove_reader(sock.fileno())


def _settle(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)
