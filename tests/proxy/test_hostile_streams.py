"""Streams that are hostile or broken reach the client byte by byte, wherever they are cut; who leaves ends them."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import socket
import struct

import pytest

from gateway.core.traffic.table import Hold, Rescue, Route
from tests.support.backend import Backend, Peer, Script, Seen
from tests.support.worker import RunningWorker, eventually, table

pytestmark = pytest.mark.anyio
SEED = 20_261
ROLE = b'data: {"choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}]}\n\n'
TOKEN = b'data: {"choices":[{"index":0,"delta":{"content":"Hi"},"finish_reason":null}]}\n\n'
DONE = b"data: [DONE]\n\n"
STREAMS = {
    "crlf": (ROLE + TOKEN + DONE).replace(b"\n", b"\r\n"),
    "cr": (ROLE + TOKEN + DONE).replace(b"\n", b"\r"),
    "bom and comments": b"\xef\xbb\xbf: hello\n\n: \n" + TOKEN + b":\n\n" + DONE,
    "an event of a megabyte": ROLE + b"data: " + b"x" * (1 << 20) + b"\n\n" + DONE,
    "1e5 events at once": b"data: 1\n\n" * 100_000,
    "no JSON": TOKEN + b"data: {]\n\ndata: nul\n\n" + DONE,
    "deep JSON": b"data: " + b"[" * 20_000 + b"\n\n" + TOKEN,
    "cut UTF-8": TOKEN + b'data: {"choices":[{"delta":{"content":"\xe2\x82"}}]}\n\n' + b"data: \xff\xfe\n\n" + DONE,
    "done twice": TOKEN + DONE + DONE + TOKEN,
    "turns into HTML": TOKEN + b"<!doctype html><html><body>502 Bad Gateway</body></html>",
    "errors of two forms": TOKEN + b'event: error\ndata: {"error":"x"}\n\ndata: {"error":{"message":"y"}}\n\n',
    "never a blank line": b"data: a\n" * 500,
    "only line ends": b"\n\r\n\r" * 5_000,
    "zeros": TOKEN + b"\0" * 5_000 + DONE,
}
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: %b\r\n%b\r\n"


def sending(stream: bytes, cuts: list[int], *, kind: bytes, framing: str) -> Script:
    """The stream in these pieces; ``framing``: in chunks (with a trailer), of a known length, or to the end."""
    places = [0, *sorted(cuts), len(stream)]
    pieces = [piece for start, end in itertools.pairwise(places) if (piece := stream[start:end])]

    async def script(_: Seen, peer: Peer) -> None:
        fields = {"chunked": b"Transfer-Encoding: chunked\r\n", "length": b"Content-Length: %d\r\n" % len(stream)}
        await peer.send(HEAD % (kind, fields.get(framing, b"Connection: close\r\n")))
        for piece in pieces:
            await peer.send(b"%x\r\n%b\r\n" % (len(piece), piece) if framing == "chunked" else piece)
            await asyncio.sleep(0)
        if framing == "chunked":
            await peer.send(b"0\r\nx-checksum: 1\r\n\r\n")
        else:
            peer.close()

    return script


def body_of(answer: bytes) -> bytes:
    head, _, rest = answer.partition(b"\r\n\r\n")
    if b"transfer-encoding: chunked" not in head.lower():
        return rest
    parts: list[bytes] = []
    while True:
        size, _, rest = rest.partition(b"\r\n")
        if not int(size, 16):
            return b"".join(parts)
        parts.append(rest[: int(size, 16)])
        rest = rest[int(size, 16) + 2 :]


@pytest.mark.parametrize("framing", ["chunked", "length", "close"])
async def test_not_a_byte_of_a_stream_is_changed(framing: str) -> None:
    """Each stream once in random pieces, as an event stream or JSON lines, held back at first or not."""
    draw = random.Random(f"{SEED} {framing}")
    scripts: dict[str, Script] = {}
    for name, stream in STREAMS.items():
        near = min(len(stream), 400)
        cuts = [draw.randrange(near) for _ in range(draw.choice((0, 3, 40)))] + [draw.randrange(len(stream))]
        kind = draw.choice((b"text/event-stream", b"text/event-stream; charset=utf-8", b"application/x-ndjson"))
        scripts[name] = sending(stream, cuts, kind=kind, framing=framing)
    turn = iter(scripts.values())

    async def canary(seen: Seen, peer: Peer) -> None:
        await next(turn)(seen, peer)

    hold = draw.choice((Hold.OFF, Hold.FIRST_TOKEN))
    route = Route("r", "/", stable="a", canary="b", weight_bp=10_000, rescue=Rescue(hold=hold))
    async with Backend() as a, Backend(canary) as b, RunningWorker(table(route, a=a.port, b=b.port)) as w:
        for name in scripts:
            got = await w.raw(b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", timeout_s=60)
            assert b"x-gateway-variant: canary" in got, (SEED, framing, name)
            assert body_of(got) == STREAMS[name], (SEED, framing, name, hold)


async def leaves(w: RunningWorker, how: str) -> None:
    """A client that has seen the first token, and goes: by a FIN, a reset, or the end of its sending side alone."""
    reader, writer = await asyncio.open_connection("127.0.0.1", w.port)
    writer.write(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
    await reader.readuntil(b'"Hi"')
    await asyncio.sleep(0.3)
    if how == "half-close":
        writer.write_eof()
        with contextlib.suppress(ConnectionError):
            await reader.read()  # until the gateway ends it, too
    elif how == "reset":
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()
    writer.close()


@pytest.mark.parametrize("how", ["close", "reset", "half-close"])
async def test_a_client_that_leaves_cancels_the_backend_and_no_connection_is_used_again(how: str) -> None:
    ended = 0

    async def endless(_: Seen, peer: Peer) -> None:
        nonlocal ended
        await peer.send(HEAD % (b"text/event-stream", b"Transfer-Encoding: chunked\r\n"))
        await peer.send(b"%x\r\n%b\r\n" % (len(TOKEN), TOKEN))
        await peer.reader.read(1)  # returns when the gateway closes
        ended += 1
        peer.close()

    route = Route("r", "/", stable="a", canary="b", weight_bp=10_000)
    async with Backend() as a, Backend(endless) as b, RunningWorker(table(route, a=a.port, b=b.port)) as w:
        for turn in (1, 2):
            await leaves(w, how)
            await eventually(lambda turn=turn: ended == turn, "the backend's request is cancelled")
        assert len(b.seen) == 2, "a connection with half an answer on it is not used for the next request"
