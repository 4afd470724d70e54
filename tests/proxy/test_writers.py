"""Requests and answers as HTTP/1.1 says them, as bytes: no socket."""

from __future__ import annotations

import pytest

from gateway.proxy.heads.message_head import RequestHead, ResponseHead
from gateway.proxy.heads.request import Request
from gateway.proxy.http1.request_writer import JOINED_BYTES_MAX, request_parts
from gateway.proxy.http1.response_writer import ResponseWriter


def request(
    *, version: str = "1.1", keep_alive: bool = True, length: int | None = None, chunked: bool = False
) -> Request:
    asked = Request(b"POST", version, keep_alive=keep_alive)
    asked.target = b"/m?q"
    head = asked.head = RequestHead()
    head.lines = [b"accept: */*\r\n"]
    head.id_line = b"x-request-id: 7\r\n"
    if length is not None:
        head.take_length(b"%d" % length)
    head.chunked = chunked
    return asked


# (length, chunked, pieces, trailers) -> what follows the head's own lines
REQUESTS: dict[str, tuple[int | None, bool, list[bytes], list[bytes] | None, bytes]] = {
    "without a body": (None, False, [], [], b"\r\n"),
    "with a length": (3, False, [b"a", b"bc"], [], b"content-length: 3\r\n\r\nabc"),
    "with a length, and more to come": (3, False, [b"a"], None, b"content-length: 3\r\n\r\na"),
    "in chunks": (None, True, [b"ab"], [], b"transfer-encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n"),
    "in chunks, and more to come": (None, True, [b"ab"], None, b"transfer-encoding: chunked\r\n\r\n2\r\nab\r\n"),
    "in chunks, with trailers": (
        *(None, True, [], [b"t: 1\r\n"], b"transfer-encoding: chunked\r\n\r\n0\r\nt: 1\r\n\r\n"),
    ),
}


@pytest.mark.parametrize("case", REQUESTS)
def test_a_request_has_framing_of_our_own(case: str) -> None:
    length, chunked, pieces, trailers, expected = REQUESTS[case]
    parts = request_parts(request(length=length, chunked=chunked), b"h", b"te: x\r\n", pieces, 3, trailers)
    assert b"".join(parts) == b"POST /m?q HTTP/1.1\r\nhost: h\r\naccept: */*\r\nte: x\r\n" + expected


def test_a_large_body_is_not_copied_to_be_in_one_piece_with_its_head() -> None:
    piece = b"x" * (JOINED_BYTES_MAX + 1)
    head, *pieces = request_parts(request(length=len(piece)), b"h", b"", [piece], len(piece), [])
    assert head.endswith(b"\r\n\r\n") and pieces == [piece] and pieces[0] is piece


# (version, keep alive, length, status, bodyless) -> framing and connection lines, "ab" as it is written, keep alive
ANSWERS: dict[str, tuple[str, bool, int | None, int, bool, bytes, bytes, bool]] = {
    "with a length": ("1.1", True, 2, 200, False, b"content-length: 2\r\n", b"ab", True),
    "with a length, the last one": (
        "1.1",
        False,
        2,
        200,
        False,
        b"content-length: 2\r\nconnection: close\r\n",
        b"ab",
        False,
    ),
    "in chunks": ("1.1", True, None, 200, False, b"transfer-encoding: chunked\r\n", b"2\r\nab\r\n0\r\n\r\n", True),
    "to 1.0, with a length": (
        *("1.0", True, 2, 200, False, b"content-length: 2\r\nconnection: keep-alive\r\n", b"ab", True),
    ),
    "to 1.0, which knows no chunks": ("1.0", True, None, 200, False, b"connection: close\r\n", b"ab", False),
    "to HEAD, with the length of what is not there": ("1.1", True, 2, 200, True, b"content-length: 2\r\n", b"", True),
    "a 204 has no length": ("1.1", True, 0, 204, True, b"", b"", True),
}


@pytest.mark.parametrize("case", ANSWERS)
def test_an_answer_is_framed_for_its_client(case: str) -> None:
    version, keep_alive, length, status, bodyless, lines, body, keeps = ANSWERS[case]
    asked, head, writer = request(version=version, keep_alive=keep_alive), ResponseHead(), ResponseWriter()
    if length is not None:
        head.take_length(b"%d" % length)
    writer.head(asked, status, b"OK", head, b"x-v: s\r\n", bodyless=bodyless, trailers=False)
    if not bodyless:
        writer.body(b"ab")
    writer.end([])
    expected = b"HTTP/1.1 %d OK\r\nx-v: s\r\nx-request-id: 7\r\n%b\r\n%b" % (status, lines, body)
    assert (writer.take(), asked.keep_alive) == (expected, keeps)
    assert writer.unframed == (version == "1.0" and length is None)
    assert writer.take() == b"", "once"


def test_what_went_out_keeps_its_framing_when_the_rest_is_discarded() -> None:
    writer = ResponseWriter()
    writer.head(request(version="1.0"), 200, b"OK", ResponseHead(), b"", bodyless=False, trailers=False)
    assert writer.take()
    writer.body(b"never sent")
    writer.discard()
    assert writer.take() == b"" and writer.unframed, "a reset has to show the cut"
