"""Plain heads mean to us what they mean to llhttp; all others are left to it."""

from __future__ import annotations

import time
from typing import Any, Literal

import httptools
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gateway.proxy.heads.fast_heads import BYTES_MAX, CachedHead, FastHeadReader, LastHead
from gateway.proxy.heads.gateway_errors import Fault
from gateway.proxy.heads.headers import field_policy
from gateway.proxy.heads.message_head import RequestHead, ResponseHead
from gateway.proxy.heads.request_head import read_request
from gateway.proxy.heads.response_head import read_response
from gateway.runtime.settings import HeaderPolicy

REQUEST = b"POST /v2/models/a/infer?x=1 HTTP/1.1\r\nHost: models.test\r\nContent-Length: 3\r\n\r\n"
RESPONSE = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 3\r\n\r\n"
FIELDS_MAX = 100


class ParsedRequest:
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


def fed(head: CachedHead, data: bytes) -> bytes:
    """The head with a body of the length it gives: what fast_heads.py takes to be one message."""
    return data[: head.end] + b"x" * min(max(head.length, 0), 4096)


@settings(max_examples=600)
@given(first=REQUEST_LINES, end=ENDS, rest=HEADS)
@example(first=b"POST / HTTP/1.1", end=b"\r\n", rest=b"Host: a\r\nContent-Length: 3\r\n\r\n")
@example(first=b"POST / HTTP/1.1", end=b"\r\n", rest=b"Connection: Close\r\nConnection: keep-alive\r\n\r\n")
def test_a_request_that_is_plain_is_the_same_to_llhttp(first: bytes, end: bytes, rest: bytes) -> None:
    data = first + end + rest
    head = FastHeadReader().request(data, 0, BYTES_MAX, FIELDS_MAX, LastHead())
    if head is None:
        return
    parsed = ParsedRequest(fed(head, data), response=False)
    assert not parsed.error
    assert (parsed.heads, parsed.target, parsed.fields) == (1, head.second, head.fields)
    assert (parsed.parser.get_method(), parsed.parser.get_http_version()) == (head.first, "1.1")
    assert parsed.keep_alive is head.keep_alive and not parsed.parser.should_upgrade()
    assert len(parsed.body) == min(max(head.length, 0), 4096)
    assert bool(parsed.ended) == (head.length <= 4096)


@settings(max_examples=600)
@given(first=STATUS_LINES, end=ENDS, rest=HEADS)
@example(first=b"HTTP/1.1 200 OK", end=b"\r\n", rest=b"Content-Length: 3\r\n\r\n")
def test_an_answer_that_is_plain_is_the_same_to_llhttp(first: bytes, end: bytes, rest: bytes) -> None:
    data = first + end + rest
    head = FastHeadReader().response(data, LastHead())
    if head is None:
        return
    parsed = ParsedRequest(fed(head, data), response=True)
    assert not parsed.error
    assert (parsed.heads, parsed.reason, parsed.fields) == (1, head.second, head.fields)
    assert (parsed.parser.get_status_code(), parsed.parser.get_http_version()) == (head.status, "1.1")
    assert parsed.keep_alive
    assert len(parsed.body) == min(head.length, 4096)
    assert bool(parsed.ended) == (head.length <= 4096)


def seen(head: CachedHead | None) -> object:
    """All that a plain head says."""
    if head is None:
        return None
    framing = (head.length, head.length_line, head.keep_alive)
    return (head.end, head.first, head.second, head.status, head.path, head.fields, *framing)


COMMON = st.lists(
    st.sampled_from(
        [
            *(b"Host: a", b"Accept: */*", b"Cookie: a=b", b"X-A: 1", b"x_y: 1", b"Via: 1.1 x"),
            *(b"Connection: keep-alive", b"Connection: close", b"Connection: Close"),
        ]
    ),
    max_size=4,
)
LENGTHS = st.sampled_from([b"", b"0", b"1", b"7", b"9", b"10", b"007", b"4096", b"99999999999999999", b"1" * 19, b"-1"])


def common_head(first: bytes, before: list[bytes], length: bytes, after: list[bytes]) -> bytes:
    lines = [first, *before, *([b"Content-Length: " + length] if length else []), *after]
    return b"\r\n".join([*lines, b"", b""])


def conversations(firsts: list[bytes], others: st.SearchStrategy[bytes]) -> st.SearchStrategy[list[bytes]]:
    """Heads in turn: of one sort but for first line and length, and others in between."""

    def alike(before: list[bytes], after: list[bytes]) -> st.SearchStrategy[list[bytes]]:
        same = st.builds(common_head, st.sampled_from(firsts), st.just(before), LENGTHS, st.just(after))
        return st.lists(same | same | others, min_size=2, max_size=5)

    return st.tuples(COMMON, COMMON).flatmap(lambda fields: alike(*fields))


LONG = b"POST /%b HTTP/1.1" % (b"a" * 40)


@settings(max_examples=150)
@given(
    conversations([b"POST / HTTP/1.1", LONG], st.tuples(REQUEST_LINES, ENDS, HEADS).map(b"".join)),
    st.integers(0, 3),
    st.sampled_from([BYTES_MAX, 80]),
    st.sampled_from([FIELDS_MAX, 4]),
)
@example([common_head(b"POST / HTTP/1.1", [b"Host: a"], length, []) for length in (b"7", b"007")], 0, BYTES_MAX, 9)
@example([common_head(first, [b"Host: a"], b"7", []) for first in (b"POST / HTTP/1.1", LONG)], 0, 80, FIELDS_MAX)
def test_what_was_said_before_does_not_change_what_is_read(
    heads: list[bytes], start: int, bytes_max: int, fields_max: int
) -> None:
    """One connection says these heads in turn, twice; each is read as if it were the first."""
    reader, recall = FastHeadReader(), LastHead()
    for data in [b"x" * start + head + b"body" for head in heads * 2]:
        found = reader.request(data, start, bytes_max, fields_max, recall)
        assert seen(found) == seen(FastHeadReader().request(data, start, bytes_max, fields_max, LastHead()))


@settings(max_examples=100)
@given(conversations([b"HTTP/1.1 200 OK", b"HTTP/1.1 503 No"], st.tuples(STATUS_LINES, ENDS, HEADS).map(b"".join)))
def test_what_a_backend_said_before_does_not_change_what_is_read(heads: list[bytes]) -> None:
    reader, recall = FastHeadReader(), LastHead()
    for data in heads * 2:
        assert seen(reader.response(data, recall)) == seen(FastHeadReader().response(data, LastHead()))


@settings(max_examples=120)
@given(
    fields=st.lists(COMMON | st.just([b"X-Forwarded-For: 1.2.3.4", b"traceparent: x"]), max_size=3).map(
        lambda parts: [line for part in parts for line in part]
    ),
    length=LENGTHS,
    other=st.sampled_from([b"5", b"66", b"777"]),
    trusted=st.booleans(),
    tls=st.booleans(),
    peer=st.sampled_from([b"", b"10.0.0.1"]),
    forwarded=st.booleans(),
    underscores=st.sampled_from(["reject", "drop", "pass"]),
    via=st.sampled_from([None, "gw"]),
)
def test_fields_that_are_known_are_passed_on_as_if_they_were_not(
    fields: list[bytes],
    length: bytes,
    other: bytes,
    trusted: bool,
    tls: bool,
    peer: bytes,
    forwarded: bool,
    underscores: Literal["reject", "drop", "pass"],
    via: str | None,
) -> None:
    policy = field_policy(
        HeaderPolicy(request_id=None, traceparent="pass", forwarded=forwarded, underscores=underscores, via=via)
    )
    reader, recall, recall_back = FastHeadReader(), LastHead(), LastHead()
    for number in (length, length, other if length else length):
        data = common_head(b"POST / HTTP/1.1", fields, number, [b"X-B: 2"])
        answer = data.replace(b"POST / HTTP/1.1", b"HTTP/1.1 200 OK", 1)
        known = reader.request(data, 0, BYTES_MAX, FIELDS_MAX, recall)
        fresh = FastHeadReader().request(data, 0, BYTES_MAX, FIELDS_MAX, LastHead())
        if known is None or fresh is None:
            return
        fresh.block = None
        results = [read_request(head.fields, "1.1", peer, trusted, tls, None, policy, head) for head in (known, fresh)]
        assert described(results[0]) == described(results[1])
        back, new = reader.response(answer, recall_back), FastHeadReader().response(answer, LastHead())
        if back is not None and new is not None:
            new.block = None
            for _ in range(2):
                one, two = (read_response(head.fields, policy, "1.1", head) for head in (back, new))
                assert isinstance(one, ResponseHead) and isinstance(two, ResponseHead)
                assert (b"".join(one.lines), one.length_line) == (b"".join(two.lines), two.length_line)
                assert (one.content_length, one.wants_close) == (two.content_length, two.wants_close)


def described(head: RequestHead | Fault) -> object:
    """All that the rules found in a request's fields."""
    if isinstance(head, Fault):
        return head.reason
    read = (head.host, head.content_length, head.length_line, head.cookies, head.fields, head.id_line, head.trace_id)
    return (b"".join(head.lines), *read, head.wants_close, head.chunked, head.rare is None)


def test_connections_that_say_the_same_share_what_is_known_of_it() -> None:
    reader = FastHeadReader()
    one, two = reader.recall(), reader.recall()
    for recall in (one, two):
        for _ in range(3):
            reader.request(REQUEST, 0, BYTES_MAX, FIELDS_MAX, recall)
    assert one.block is two.block is not None
    assert reader.recall().block is one.block, "a new connection is taken to say what others say"


def test_most_heads_are_plain() -> None:
    reader = FastHeadReader()
    for _ in range(2):  # parsed, and remembered
        request = reader.request(b"xx" + REQUEST + b"abc", 2, BYTES_MAX, FIELDS_MAX, LastHead())
        assert request is not None
        assert (request.first, request.second, request.path) == (
            b"POST",
            b"/v2/models/a/infer?x=1",
            b"/v2/models/a/infer",
        )
        assert (request.end, request.length) == (2 + len(REQUEST), 3)
        assert request.lines == [b"Host: models.test\r\n", b"content-length: 3\r\n"]
        answer = reader.response(RESPONSE + b"abc", LastHead())
        assert answer is not None and (answer.status, answer.second, answer.length) == (200, b"OK", 3)


@pytest.mark.parametrize(
    "field",
    [
        b"Transfer-Encoding: chunked",
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
        reader = FastHeadReader()
        found = reader.response(odd, LastHead()) if read else reader.request(odd, 0, BYTES_MAX, FIELDS_MAX, LastHead())
        assert found is None


def test_an_answer_that_is_the_last_of_its_connection_is_as_plain_as_others() -> None:
    answer = FastHeadReader().response(RESPONSE[:-2] + b"Connection: Close\r\n\r\nabc", LastHead())
    assert answer is not None and (answer.status, answer.length, answer.keep_alive) == (200, 3, False)


def test_a_head_that_is_not_whole_or_too_large_is_left_to_llhttp() -> None:
    reader = FastHeadReader()
    for cut in range(len(REQUEST)):
        assert reader.request(REQUEST[:cut], 0, BYTES_MAX, FIELDS_MAX, LastHead()) is None
    assert reader.request(REQUEST, 0, len(REQUEST) - 1, FIELDS_MAX, LastHead()) is None
    assert reader.request(REQUEST, 0, len(REQUEST), FIELDS_MAX, LastHead()) is not None
    many = REQUEST[:-2] + b"X: a\r\n" * FIELDS_MAX + b"\r\n"
    assert reader.request(many, 0, BYTES_MAX, FIELDS_MAX, LastHead()) is None


def test_what_is_remembered_is_bounded() -> None:
    reader = FastHeadReader()
    for i in range(5000):
        head = b"POST /%d HTTP/1.1\r\nHost: a\r\nX-Id: %d\r\nLong: %s\r\n\r\n" % (i, i, b"%d" % i * 100)
        assert reader.request(head, 0, BYTES_MAX, FIELDS_MAX, LastHead()) is not None
    kept = (reader._firsts, reader._lines, reader._blocks)  # noqa: SLF001  # memory is no answer
    assert len(reader._blocks) <= 512 and all(len(raw) <= 1024 for raw in reader._blocks)  # noqa: SLF001  # as above
    remembered = [line for memory in kept[:2] for line in memory]
    assert len(remembered) <= 2 * 1024 and max(map(len, remembered)) <= 256


def test_a_long_line_of_blanks_costs_no_more_than_its_length() -> None:
    reader = FastHeadReader()
    began_s = time.process_time()
    for _ in range(200):
        reader.request(REQUEST[:-2] + b"X: a" + b" " * 3900 + b"\r\n\r\n", 0, BYTES_MAX, FIELDS_MAX, LastHead())
    assert time.process_time() - began_s < 5  # a search that went back at every blank would take minutes
