"""Request lines of other protocols are found wherever they stand, and in one pass."""

from __future__ import annotations

import asyncio
import time

import httptools
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.proxy.heads.rtsp_ice import foreign_lines, holds_foreign
from tests.support.downstream import in_hand

METHODS = [
    "GET",
    "POST",
    "OPTIONS",
    "SOURCE",
    "DESCRIBE",
    "SETUP",
    "GET_PARAMETER",
    "SET_PARAMETER",
    "REDIRECT",
    "FLUSH",
]


class ParsedRequest:
    """What llhttp makes of a request."""

    def __init__(self, data: bytes) -> None:
        self.target = b""
        self.taken = False
        self.parser = httptools.HttpRequestParser(self)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError:
            self.taken = False

    def on_url(self, piece: bytes) -> None:
        self.target += piece

    def on_headers_complete(self) -> None:
        self.taken = True


@given(
    method=st.sampled_from([*METHODS, "PUT", "HEAD", "BREW"]),
    protocol=st.sampled_from(["RTSP", "ICE", "HTTP", "rtsp", "SIP"]),
    version=st.sampled_from(["1.0", "1.1", "2.0", "0.9"]),
    target=st.sampled_from(["/", "/a?b=RTSP/1.0", "*", "rtsp://h/a", "/ICE/1"]),
    blanks=st.sampled_from([" ", "  "]),
    before=st.sampled_from([b"", b"body", b"GET / RTSP/1.0", b"\r\n"]),
)
def test_whatever_llhttp_takes_for_http_is_http_or_found(
    method: str, protocol: str, version: str, target: str, blanks: str, before: bytes
) -> None:
    request = f"{method}{blanks}{target}{blanks}{protocol}/{version}\r\nHost: h\r\n\r\n".encode()
    parsed = ParsedRequest(request)
    if parsed.taken and protocol != "HTTP" and version.startswith("1"):
        assert holds_foreign(before + request)
        assert (parsed.parser.get_method(), parsed.target) in foreign_lines(before + request)
    if protocol == "HTTP" and not before.endswith(b"1.0"):
        assert (method.encode(), target.encode()) not in foreign_lines(before + request)


@pytest.mark.parametrize("dense", [b" RTSP/1", b"GET / RTSP/1", b"GET /%b RTSP/1" % (b"a" * 4000)])
def test_many_of_them_cost_no_more_than_their_length(dense: bytes) -> None:
    chunk = (dense * (1 << 16))[: 1 << 18]
    began_s = time.process_time()
    foreign_lines(chunk)
    assert time.process_time() - began_s < 5  # a look at the whole for each of them would take a minute


@pytest.mark.anyio
async def test_a_line_is_known_wherever_it_is_torn() -> None:
    """Each piece by itself, as the loop would hand it over: how segments meet is not left to chance."""
    asks = b"GET /a RTSP/1.0\r\nHost: h\r\nX: y\r\n\r\n"
    async with in_hand() as hand:
        for at in range(1, len(asks)):
            reader, writer = await asyncio.open_connection(*hand.address)
            connection = await hand.connected(at)
            connection.data_received(asks[:at])
            connection.data_received(asks[at:])
            got = await asyncio.wait_for(reader.readuntil(b"\r\n"), 20)
            assert got.startswith(b"HTTP/1.1 400 "), (at, got)
            writer.close()
