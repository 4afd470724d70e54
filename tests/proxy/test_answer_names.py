"""A backend that has another name for the model: its answers bear the client's, and are the same otherwise."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.traffic.table import RequestChanges, Route
from gateway.proxy.exchange.answer_names import BEGINNING_BYTES_MAX, LINE_BYTES_MAX, names_of_answer
from gateway.proxy.heads.message_head import ResponseHead
from gateway.proxy.upstream.request_changes import name_span
from tests.support.backend import Backend, Peer, Seen
from tests.support.worker import RunningWorker, table

JSON, EVENTS, LINES = "application/json", "text/event-stream", "application/x-ndjson"
ASKED = b'"digits"'


def head_of(kind: str, length: int | None = None, *more: bytes) -> ResponseHead:
    head = ResponseHead()
    head.lines = [b"Content-Type: %b\r\n" % kind.encode(), *more]
    if length is not None:
        head.take_length(b"%d" % length)
    return head


def passed(kind: str, pieces: list[bytes], length: int | None = None) -> tuple[bytes, int | None]:
    """What a client gets of an answer that comes in these pieces, and the length that its head gives."""
    names = names_of_answer(ASKED, 200, b"OK", head_of(kind, length), bodyless=False)
    assert names is not None
    body = b"".join([*map(names.feed, pieces), names.end()])
    assert not names.holds_head
    return body, names.head.content_length


def chunk(model: str, text: str) -> bytes:
    return b"data: " + json.dumps({"id": "x", "model": model, "choices": [{"delta": {"content": text}}]}).encode()


BODIES: dict[str, tuple[str, bytes, bytes]] = {
    "a chat": (
        JSON,
        b'{"id": "1", "choices": [{"model": "x"}], "model" : "gpt-2024-08-06", "n": 1}',
        b'{"id": "1", "choices": [{"model": "x"}], "model" : "digits", "n": 1}',
    ),
    "an inference": (JSON, b'{"model_name":"digits-v2","outputs":[]}', b'{"model_name":"digits","outputs":[]}'),
    "no name": (JSON, b'{"predictions": ["model"]}', b'{"predictions": ["model"]}'),
    "no text": (JSON, b'{"model": {"model": "a"}}', b'{"model": {"model": "a"}}'),
    "no JSON": (JSON, b"<html>model</html>", b"<html>model</html>"),
    "cut short": (JSON, b'{"model": "dig', b'{"model": "dig'),
    "events": (
        EVENTS,
        b": hi\r\n" + chunk("v2", "a") + b"\r\n\r\n" + chunk("v2", '"model": "v2"') + b"\n\ndata: [DONE]\r\r",
        b": hi\r\n" + chunk("digits", "a") + b"\r\n\r\n" + chunk("digits", '"model": "v2"') + b"\n\ndata: [DONE]\r\r",
    ),
    "a response's event": (
        EVENTS,
        b'event: response.created\ndata: {"type":"response.created","response":{"id":"r","model":"v2"}}\n\n',
        b'event: response.created\ndata: {"type":"response.created","response":{"id":"r","model":"digits"}}\n\n',
    ),
    "lines": (LINES, b'{"model":"v2"}\n{"a":1}\n{"model":"v2"}', b'{"model":"digits"}\n{"a":1}\n{"model":"digits"}'),
    "a long line": (
        EVENTS,
        b'data: {"x": "' + b"y" * LINE_BYTES_MAX * 2 + b'", "model": "v2"}\ndata: {"model": "v2"}\n',
        b'data: {"x": "' + b"y" * LINE_BYTES_MAX * 2 + b'", "model": "v2"}\ndata: {"model": "digits"}\n',
    ),
}


@pytest.mark.parametrize("what", BODIES)
@pytest.mark.parametrize("size", [1, 7, 4096])
def test_however_it_is_cut_the_name_alone_changes(what: str, size: int) -> None:
    kind, body, meant = BODIES[what]
    if what == "a long line" and size == 1:
        size = 100
    length = len(body) if kind == JSON else None
    found, told = passed(kind, [body[at : at + size] for at in range(0, len(body), size)], length)
    assert found == meant
    assert told == (len(meant) if kind == JSON else None)


@settings(max_examples=100)
@given(
    st.lists(
        st.sampled_from([b'data: {"model":"v2"}', b"\r", b"\n", b"\r\n", b'"model"', b"{", b'{"model', b"\xff", b"x"])
    ),
    st.lists(st.integers(1, 9), min_size=1),
    st.sampled_from([EVENTS, LINES, JSON]),
)
def test_bytes_that_are_no_names_stay_as_they_are(parts: list[bytes], sizes: list[int], kind: str) -> None:
    body, at = b"".join(parts), 0
    pieces: list[bytes] = []
    while at < len(body):
        size = sizes[len(pieces) % len(sizes)]
        pieces.append(body[at : at + size])
        at += size
    found, _ = passed(kind, pieces)
    assert found == passed(kind, [body])[0], "the cuts make a difference"
    assert found.replace(ASKED, b'"v2"') == body


def test_a_name_that_comes_too_late_is_not_waited_for() -> None:
    names = names_of_answer(ASKED, 200, b"OK", head_of(JSON, 10**6), bodyless=False)
    assert names is not None and names.feed(b'{"x": "' + b"y" * 1000) == b"" and names.holds_head
    assert len(names.feed(b"y" * BEGINNING_BYTES_MAX)) > BEGINNING_BYTES_MAX and not names.holds_head
    assert (names.feed(b'", "model": "v2"}'), names.end()) == (b'", "model": "v2"}', b"")
    assert names.head.content_length == 10**6


@pytest.mark.parametrize(
    ("status", "head"),
    [
        (404, head_of(JSON, 9)),
        (200, head_of(JSON, 0)),
        (200, head_of("text/plain", 9)),
        (200, head_of(JSON, 9, b"Content-Encoding: gzip\r\n")),
        (200, head_of(JSON, 9, b"Repr-Digest: sha-256=:AA==:\r\n")),
        (200, head_of(EVENTS, 9)),
    ],
)
def test_what_cannot_be_changed_is_passed_on(status: int, head: ResponseHead) -> None:
    assert names_of_answer(ASKED, status, b"OK", head, bodyless=False) is None


INNER = st.dictionaries(st.sampled_from(["model", "b"]), st.text(max_size=3))


@given(st.dictionaries(st.sampled_from(["model", "a", "response"]), st.text(max_size=3) | INNER, max_size=3))
def test_a_name_is_found_in_the_object_or_in_its_response(tree: dict[str, Any]) -> None:
    text, inner = json.dumps(tree).encode(), tree.get("response")
    names = [tree.get("model"), inner.get("model") if isinstance(inner, dict) else None]
    wanted = [name for name in names if isinstance(name, str)]
    span = name_span(text, (b'"model"',), b'"response"')
    if span is None:
        assert not wanted or isinstance(tree.get("model"), dict)
    else:
        assert json.loads(text[slice(*span)]) in wanted


def asking(path: bytes, body: bytes) -> bytes:
    head = b"POST %b HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\nConnection: close\r\n" % path
    return head + b"Content-Length: %d\r\n\r\n%b" % (len(body), body)


def answering(kind: bytes, body: bytes, *, chunked: bool) -> bytes:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: %b\r\n" % kind
    if chunked:
        halves = body[: len(body) // 2], body[len(body) // 2 :]
        chunks = b"".join(b"%x\r\n%b\r\n" % (len(half), half) for half in halves)
        return head + b"Transfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n"
    return head + b"Content-Length: %d\r\n\r\n%b" % (len(body), body)


@pytest.mark.anyio
async def test_a_client_sees_the_name_that_it_asked_for() -> None:
    chat = json.dumps({"id": "1", "model": "hosted-2024", "choices": []}).encode()
    events = b'data: {"model":"hosted-2024"}\n\ndata: [DONE]\n\n'
    tensors = json.dumps({"model_name": "digits-v2", "outputs": []}).encode()
    chats, infer = b"/v1/chat/completions", b"/v2/models/digits/infer"
    cases = [
        (chats, b'{"model": "cha\\"t"}', JSON, chat, chat.replace(b"hosted-2024", b'cha\\"t')),
        (chats, b'{"model": "chat"}', EVENTS, events, events.replace(b"hosted-2024", b"chat")),
        (infer, b'{"inputs": []}', JSON, tensors, tensors.replace(b"digits-v2", b"digits")),
        (chats, b'{"messages": []}', JSON, chat, chat),
    ]
    replies = {}

    async def answers(seen: Seen, peer: Peer) -> None:
        number, chunked = divmod(int(seen.target.partition(b"?")[2]), 2)
        _, _, kind, body, _ = cases[number]
        await peer.send(answering(kind.encode(), body, chunked=bool(chunked) or kind != JSON))

    async with Backend(answers) as backend:
        spec = table(Route("r", "/", stable="a"), a=backend.port)
        renamed = msgspec.structs.replace(spec.backends["a"], request=RequestChanges(model="digits-v2"))
        async with RunningWorker(msgspec.structs.replace(spec, backends={"a": renamed})) as worker:
            for turn in range(2 * len(cases)):
                path, sent, _, _, _ = cases[turn // 2]
                replies[turn] = await worker.raw(asking(b"%b?%d" % (path, turn), sent))
    for turn, reply in replies.items():
        meant = cases[turn // 2][-1]
        head, _, body = reply.partition(b"\r\n\r\n")
        if b"chunked" in head.lower():
            assert b"".join(body.split(b"\r\n")[1::2]) == meant
        else:
            assert body == meant and b"content-length: %d" % len(meant) in head.lower()
