"""Plain heads mean to us what they mean to llhttp; all others are left to it."""

from __future__ import annotations

import time
from typing import Any

import httptools
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gateway.proxy.plain import BYTES_MAX, PlainHead, PlainReader, Recall

REQUEST = b"POST /v2/models/a/infer?x=1 HTTP/1.1\r\nHost: models.test\r\nContent-Length: 3\r\n\r\n"
RESPONSE = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 3\r\n\r\n"
FIELDS_MAX = 100


class Heard:
    """What llhttp makes of a message."""

    def __init__(self, data: bytes, *, response: bool) -> None:
        self.target = self.reason = self.body = b""
        self.fields: list[tuple[bytes, bytes]] = []
        self.heads = self.ended = 0
        self.error = self.keep_alive = False
        self.parser: Any = httptools.HttpResponseParser(self) if response else httptools.HttpRequestParser(self)
        try:
            self.parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self.error = True

    def on_url(self, piece: bytes) -> None:
        self.target += piece

    def on_status(self, piece: bytes) -> None:
        self.reason += piece

    def on_header(self, name: bytes, value: bytes) -> None:
        self.fields.append((name, value))

    def on_headers_complete(self) -> None:
        self.heads += 1
        self.keep_alive = self.parser.should_keep_alive()

    def on_body(self, piece: bytes) -> None:
        self.body += piece

    def on_message_complete(self) -> None:
        self.ended += 1


# Pieces of heads, good and bad, so that whole heads come about often, and broken ones in every way.
NAMES = st.sampled_from(
    [
        b"Host",
        b"content-length",
        b"Content-Length",
        b"Transfer-Encoding",
        b"Connection",
        b"Upgrade",
        b"Accept",
        b"X-A",
        b"Expect",
        b"TE",
        b"x_y",
        b"X A",
        b"",
        b"X\x00",
        b"Proxy-Connection",
        b" X",
        b"X ",
        b"\xc3\xa4",
    ]
)
VALUES = st.sampled_from(
    [
        b"a",
        b"3",
        b"03",
        b"+3",
        b"3, 3",
        b"0x3",
        b"chunked",
        b"close",
        b"keep-alive",
        b"Keep-Alive",
        b"upgrade",
        b"",
        b"  a",
        b"a ",
        b"a\tb",
        b"\ta",
        b"a\x00b",
        b"a\rb",
        b"a\nb",
        b"a\r\n b",
        b"\xff",
        b"\x7f",
        b"9" * 30,
    ]
) | st.binary(max_size=6)
SEPARATORS = st.sampled_from([b": ", b": ", b": ", b":", b" : ", b":\t", b"", b";"])
ENDS = st.sampled_from([b"\r\n", b"\r\n", b"\r\n", b"\r\n", b"\n", b"\r", b"\r\r\n", b"\r\n\r\n"])
REQUEST_LINES = st.sampled_from(
    [
        b"POST / HTTP/1.1",
        b"GET /a?b=%20 HTTP/1.1",
        b"PUT /%00 HTTP/1.1",
        b"POST /#a HTTP/1.1",
        b"POST  / HTTP/1.1",
        b"POST / HTTP/1.0",
        b"post / HTTP/1.1",
        b"POST * HTTP/1.1",
        b"POST http://a/ HTTP/1.1",
        b"POST /\xff HTTP/1.1",
        b"POST / HTTP/1.1 ",
        b" POST / HTTP/1.1",
        b"CONNECT a:1 HTTP/1.1",
        b"POST /\x00 HTTP/1.1",
        b"\r\nGET / HTTP/1.1",
    ]
)
STATUS_LINES = st.sampled_from(
    [
        b"HTTP/1.1 200 OK",
        b"HTTP/1.1 503 Service Unavailable",
        b"HTTP/1.1 200",
        b"HTTP/1.1 204 No Content",
        b"HTTP/1.1 304 Not Modified",
        b"HTTP/1.1 100 Continue",
        b"HTTP/1.1 99 X",
        b"HTTP/1.1 2000 X",
        b"HTTP/2.0 200 OK",
        b"HTTP/1.1  200 OK",
        b"HTTP/1.0 200 OK",
        b"HTTP/1.1 200 \xc3\xa4",
        b"HTTP/1.1 200 a\x00",
        b"http/1.1 200 OK",
    ]
)
FIELDS = st.lists(st.tuples(NAMES, SEPARATORS, VALUES, ENDS).map(b"".join), max_size=4).map(b"".join)
HEADS = st.tuples(FIELDS, st.sampled_from([b"\r\n", b"\r\n", b"\n", b""])).map(b"".join)


def fed(head: PlainHead, data: bytes) -> bytes:
    """The head with a body of the length it gives: what plain.py takes to be one message."""
    return data[: head.end] + b"x" * min(max(head.length, 0), 4096)


@settings(max_examples=600)
@given(first=REQUEST_LINES, end=ENDS, rest=HEADS)
@example(first=b"POST / HTTP/1.1", end=b"\r\n", rest=b"Host: a\r\nContent-Length: 3\r\n\r\n")
def test_a_request_that_is_plain_is_the_same_to_llhttp(first: bytes, end: bytes, rest: bytes) -> None:
    data = first + end + rest
    head = PlainReader().request(data, 0, BYTES_MAX, FIELDS_MAX, Recall())
    if head is None:
        return
    heard = Heard(fed(head, data), response=False)
    assert not heard.error
    assert (heard.heads, heard.target, heard.fields) == (1, head.second, head.fields)
    assert (heard.parser.get_method(), heard.parser.get_http_version()) == (head.first, "1.1")
    assert heard.keep_alive and not heard.parser.should_upgrade()
    assert len(heard.body) == min(max(head.length, 0), 4096)
    assert bool(heard.ended) == (head.length <= 4096)


@settings(max_examples=600)
@given(first=STATUS_LINES, end=ENDS, rest=HEADS)
@example(first=b"HTTP/1.1 200 OK", end=b"\r\n", rest=b"Content-Length: 3\r\n\r\n")
def test_an_answer_that_is_plain_is_the_same_to_llhttp(first: bytes, end: bytes, rest: bytes) -> None:
    data = first + end + rest
    head = PlainReader().response(data, Recall())
    if head is None:
        return
    heard = Heard(fed(head, data), response=True)
    assert not heard.error
    assert (heard.heads, heard.reason, heard.fields) == (1, head.second, head.fields)
    assert (heard.parser.get_status_code(), heard.parser.get_http_version()) == (head.status, "1.1")
    assert heard.keep_alive
    assert len(heard.body) == min(head.length, 4096)
    assert bool(heard.ended) == (head.length <= 4096)


def test_most_heads_are_plain() -> None:
    reader = PlainReader()
    for _ in range(2):  # parsed, and remembered
        request = reader.request(b"xx" + REQUEST + b"abc", 2, BYTES_MAX, FIELDS_MAX, Recall())
        assert request is not None
        assert (request.first, request.second, request.path) == (
            b"POST",
            b"/v2/models/a/infer?x=1",
            b"/v2/models/a/infer",
        )
        assert (request.end, request.length) == (2 + len(REQUEST), 3)
        assert request.lines == [b"Host: models.test\r\n", b"content-length: 3\r\n"]
        answer = reader.response(RESPONSE + b"abc", Recall())
        assert answer is not None and (answer.status, answer.second, answer.length) == (200, b"OK", 3)


@pytest.mark.parametrize(
    "field",
    [
        b"Transfer-Encoding: chunked",
        b"Connection: close",
        b"Connection: keep-alive, x-a",
        b"Upgrade: websocket",
        b"Expect: 100-continue",
        b"TE: trailers",
        b"Content-Length: 3",  # the second one
        b"X: \xff",
        b"X: a\x00",
        b" folded",
        b"X : a",
    ],
)
def test_whatever_touches_framing_or_connection_is_left_to_llhttp(field: bytes) -> None:
    for head, read in ((REQUEST, False), (RESPONSE, True)):
        odd = head[:-2] + field + b"\r\n\r\n"
        reader = PlainReader()
        found = reader.response(odd, Recall()) if read else reader.request(odd, 0, BYTES_MAX, FIELDS_MAX, Recall())
        assert found is None


def test_a_head_that_is_not_whole_or_too_large_is_left_to_llhttp() -> None:
    reader = PlainReader()
    for cut in range(len(REQUEST)):
        assert reader.request(REQUEST[:cut], 0, BYTES_MAX, FIELDS_MAX, Recall()) is None
    assert reader.request(REQUEST, 0, len(REQUEST) - 1, FIELDS_MAX, Recall()) is None
    assert reader.request(REQUEST, 0, len(REQUEST), FIELDS_MAX, Recall()) is not None
    many = REQUEST[:-2] + b"X: a\r\n" * FIELDS_MAX + b"\r\n"
    assert reader.request(many, 0, BYTES_MAX, FIELDS_MAX, Recall()) is None


def test_what_is_remembered_is_bounded() -> None:
    reader = PlainReader()
    for i in range(5000):
        head = b"POST /%d HTTP/1.1\r\nHost: a\r\nX-Id: %d\r\nLong: %s\r\n\r\n" % (i, i, b"%d" % i * 100)
        assert reader.request(head, 0, BYTES_MAX, FIELDS_MAX, Recall()) is not None
    remembered = [line for kept in (reader._firsts, reader._lines) for line in kept]  # noqa: SLF001  # memory is no answer
    assert len(remembered) <= 2 * 1024 and max(map(len, remembered)) <= 256


def test_a_long_line_of_blanks_costs_no_more_than_its_length() -> None:
    reader = PlainReader()
    began_s = time.process_time()
    for _ in range(200):
        reader.request(REQUEST[:-2] + b"X: a" + b" " * 3900 + b"\r\n\r\n", 0, BYTES_MAX, FIELDS_MAX, Recall())
    assert time.process_time() - began_s < 5  # a search that went back at every blank would take minutes
