"""Random requests, torn, mutated and split anywhere, against backends that misbehave: the worker stays sound.

What may reach a backend is decided by a reader of its own below, which shares nothing with the gateway: a backend must
never see a request that this reader does not find, whole, in what was sent.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import re

import pytest

from gateway.core.traffic.table import Route, Timeouts
from gateway.runtime.settings import Limits
from tests.support.rawbackend import RawBackend, Wire, reset_on_close
from tests.support.worker import RunningWorker, eventually, table

pytestmark = pytest.mark.anyio
Request = tuple[bytes, bytes, bytes]
CONNECTIONS = 400
_LINE = re.compile(
    rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+) +([\x21-\xff]+) +HTTP/1\.[0-9]\Z"
)  # a later minor version is read as 1.1
_FIELD = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([^\r\n\x00]*?)[ \t]*\Z")
_STATUS = re.compile(rb"HTTP/1\.1 ([2-5][0-9][0-9]) [^\r\n]*\Z")


class NotWholeError(Exception):
    """The bytes end before the message does."""


class BrokenError(Exception):
    """The bytes are no message."""


def read_message(data: bytes, at: int, first_line: re.Pattern[bytes]) -> tuple[re.Match[bytes], bytes, int]:
    """The first line, the body and the end of the message at ``at``."""
    while data[at : at + 1] in (b"\r", b"\n"):
        at += 1  # empty lines, or what is left of them, may come before a message (RFC 9112, 2.2)
    end = data.find(b"\r\n\r\n", at)
    if end < 0:
        raise NotWholeError
    first, *rest = data[at:end].split(b"\r\n")
    line = first_line.match(first)
    fields = [_FIELD.match(field) for field in rest]
    if line is None:
        raise BrokenError(first)
    lengths, codings = [], []
    for field, text in zip(fields, rest, strict=True):
        if field is None:
            raise BrokenError(text)
        lengths += [field[2]] if field[1].lower() == b"content-length" else []
        codings += [field[2].lower()] if field[1].lower() == b"transfer-encoding" else []
    at = end + 4
    if codings == [b"chunked"] and not lengths:
        body, at = _read_chunks(data, at)
    elif codings or len(lengths) > 1 or not all(length.isdigit() for length in lengths):
        raise BrokenError(data[:end])
    else:
        size = int(lengths[0]) if lengths else 0
        body, at = data[at : at + size], at + size
        if len(body) < size:
            raise NotWholeError
    return line, body, at


def _read_chunks(data: bytes, at: int) -> tuple[bytes, int]:
    body = b""
    while True:
        end = data.find(b"\r\n", at)
        if end < 0:
            raise NotWholeError
        size_text = data[at:end].split(b";")[0]
        if not re.fullmatch(rb"[0-9A-Fa-f]{1,8}", size_text):
            raise BrokenError(data[at:end])
        size, at = int(size_text, 16), end + 2
        if not size:
            break
        if len(data) < at + size + 2:
            raise NotWholeError
        if data[at + size : at + size + 2] != b"\r\n":
            raise BrokenError(data[at : at + size + 2])
        body += data[at : at + size]
        at += size + 2
    while data[at : at + 2] != b"\r\n":
        end = data.find(b"\r\n", at)
        if end < 0:
            raise NotWholeError
        at = end + 2
    return body, at + 2


def whole_requests(data: bytes) -> list[Request]:
    """All requests that are whole in ``data``, up to its first fault; two of them may be the same."""
    found: list[Request] = []
    at = 0
    with contextlib.suppress(NotWholeError, BrokenError):
        while True:
            line, body, at = read_message(data, at, _LINE)
            found.append((line[1], line[2], body))
    return found


class StrictBackend(RawBackend):
    """Reads strictly, answers at random, now and then badly; remembers every whole request and every broken one."""

    def __init__(self, rng: random.Random, faulty: float) -> None:
        super().__init__(self._talk)
        self._rng = rng
        self._faulty = faulty
        self.requests: set[Request] = set()
        self.broken: list[str] = []

    async def _talk(self, wire: Wire) -> None:
        at = 0
        while True:
            try:
                line, body, at = read_message(bytes(wire.got), at, _LINE)
            except NotWholeError:
                if self._rng.random() < self._faulty / 4 and wire.got[at:]:
                    await wire.send(b"HTTP/1.1 500 early\r\ncontent-length: 5\r\n\r\nearly")
                    return await wire.rest()
                await wire.more()
                continue
            except BrokenError as error:
                self.broken.append(f"{error!r} in {bytes(wire.got)!r}")
                return None
            self.requests.add((line[1], line[2], body))
            if not await self._answer(wire):
                return None

    async def _answer(self, wire: Wire) -> bool:
        if self._rng.random() < self._faulty:
            await wire.send(self._rng.choice(BAD_ANSWERS))
            return False
        await wire.send(self._rng.choice(GOOD_ANSWERS))
        return True


GOOD_ANSWERS = [
    b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
    b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\no\r\n1;x\r\nk\r\n0\r\nT: 1\r\n\r\n",
    b"HTTP/1.1 422 No\r\ncontent-length: 0\r\n\r\n",
    b"HTTP/1.1 500 No\r\ncontent-length: 4\r\n\r\nboom",
]
BAD_ANSWERS = [
    b"",
    b"HTTP/1.1 200 OK\r\nconte",
    b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\ntorn",
    b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\nok",
    b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\nxyz",
    b"HTTP/1.1 500 No\r\ntransfer-encoding: chunked\r\n\r\nzz",
    b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nokHTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nwrong",
    b"HTTP/1.1 200 OK\r\n\r\nto the end",
    b"nonsense",
]
# What a mutation may put in; the body of every request is itself a request, in case framing ever slips.
SPICE = [
    b"\r\n",
    b"\n",
    b"\r",
    b"\x00",
    b" ",
    b":",
    b"0",
    b"9",
    b"\xff",
    b"Transfer-Encoding: chunked\r\n",
    b"\r\n\r\n",
]
SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n"


def _request(rng: random.Random, name: str) -> bytes:
    body = SMUGGLED * rng.randrange(3) + bytes(rng.randrange(256) for _ in range(rng.randrange(20)))
    head = f"{rng.choice(('GET', 'POST', 'PUT'))} /{name} HTTP/1.1\r\nHost: h\r\nX-Name: {name}\r\n".encode()
    if rng.random() < 0.1:
        head += b"Connection: close\r\n"
    if rng.random() < 0.1:
        head += b"Expect: 100-continue\r\n"
    kind = rng.randrange(3)
    if kind == 0:
        return head + b"\r\n"
    if kind == 1:
        return head + b"Content-Length: %d\r\n\r\n" % len(body) + body
    cut = rng.randrange(len(body) + 1)
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in (body[:cut], body[cut:]) if piece)
    return head + b"Transfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n"


def _stream(rng: random.Random, name: str) -> bytes:
    data = b"".join(_request(rng, f"{name}-{i}") for i in range(rng.randrange(1, 4)))
    for _ in range(rng.choice((0, 0, 1, 1, 2))):
        at = rng.randrange(len(data))
        data = data[:at] + rng.choice((b"", *SPICE)) + data[at + rng.randrange(3) :]
    return data[: rng.randrange(1, len(data))] if rng.random() < 0.2 else data


async def _converse(w: RunningWorker, rng: random.Random, data: bytes) -> bytes:
    """Send ``data`` in random pieces, and end in a random way; returns all that was answered."""
    reader, writer = await asyncio.open_connection("127.0.0.1", w.port)
    got = b""
    try:
        rest = data
        for _ in range(rng.randrange(5)):
            cut = rng.randrange(len(rest) + 1)
            writer.write(rest[:cut])
            rest = rest[cut:]
            await asyncio.sleep(0.002 * rng.randrange(2))
        writer.write(rest)
        if rng.random() < 0.2:
            reset_on_close(writer)
            writer.transport.abort()
            return b""
        writer.write_eof()
        async with asyncio.timeout(10):
            while piece := await reader.read(65536):
                got += piece
    except OSError:
        pass  # the gateway was quicker to hang up
    finally:
        writer.close()
    return got


def _check_answers(got: bytes, whole: int) -> None:
    """Everything that came back is a sequence of sound answers (the last one may be torn), at most one per request."""
    at = count = 0
    got = got.replace(b"HTTP/1.1 100 Continue\r\n\r\n", b"")
    with contextlib.suppress(NotWholeError):
        while at < len(got):
            _, body, at = read_message(got, at, _STATUS)
            assert b"wrong" not in body, "an answer that nobody asked for"
            count += 1
    assert count <= whole + 1, f"{count} answers to {whole} requests"


@pytest.mark.parametrize("seed", [1, 2, random.randrange(1 << 32)], ids=["one", "two", "fresh"])
async def test_whatever_is_thrown_at_it_the_worker_stays_sound(seed: int) -> None:
    rng = random.Random(seed)
    timeouts = Timeouts(connect_s=1.0, first_byte_s=2.0, idle_s=1.0, total_s=5.0)
    route = Route("r", "/", stable="a", canary="b", weight_bp=5000, timeouts=timeouts)
    sent: set[Request] = set()

    async def one(i: int) -> None:
        own = random.Random(f"{seed}/{i}")
        data = _stream(own, f"{i}")
        whole = whole_requests(data)
        sent.update(whole)
        got = await _converse(w, own, data)
        try:
            _check_answers(got, len(whole))
        except (BrokenError, AssertionError) as error:
            raise AssertionError(f"seed {seed}, connection {i}: {error!r}\nsent {data!r}\ngot {got!r}") from error

    async with StrictBackend(rng, 0.1) as a, StrictBackend(rng, 0.3) as b:
        async with RunningWorker(table(route, a=a.port, b=b.port), limits=Limits(head_timeout_s=2.0)) as w:
            for i in range(0, CONNECTIONS, 16):
                await asyncio.gather(*(one(j) for j in range(i, i + 16)))
            assert w.process.returncode is None, f"seed {seed}: the worker is gone"
            assert not a.broken + b.broken, f"seed {seed}"
            never_sent = (a.requests | b.requests) - sent
            assert not never_sent, f"seed {seed}: {never_sent}"
            assert len(a.requests) > CONNECTIONS / 4, "most requests arrive"

            def settled() -> bool:
                report = w.observer.merged().reports[0]
                return (report.in_flight, report.connections) == (0, 0)

            await eventually(settled, f"seed {seed}: nothing is left in flight")
            await eventually(lambda: w.observer.merged().reports[0].upstream_connections == a.open + b.open, "counted")
