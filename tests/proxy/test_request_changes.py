"""What a backend's requests say other than the client's: path, model, fields; for each attempt by its own backend."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.core.traffic.table import RequestChanges, Route, RoutingTable, SetHeader
from gateway.proxy.heads.message_head import RequestHead
from gateway.proxy.heads.request import Request
from gateway.proxy.upstream.request_changes import RequestChanger, with_model
from tests.support.backend import Backend, raw
from tests.support.worker import RunningWorker, table

# the model's name in a body

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["model", "a", 'm"', "\\"]), inner),
    max_leaves=12,
)


@given(st.dictionaries(st.sampled_from(["model", "messages", "x", ""]), JSON, max_size=4), st.booleans())
@example({"messages": [{"model": "other"}], "model": "m"}, True)
@example({"x": "model", "model": "m"}, False)
@example({"x": '{"model": "other"}', "model": "m"}, False)
def test_only_the_member_of_the_outermost_object_is_renamed(body: dict[str, object], spaced: bool) -> None:
    text = json.dumps(body, indent=1 if spaced else None).encode()
    changed = with_model(text, b"digits-2")
    if isinstance(body.get("model"), str):
        assert changed is not None
        assert json.loads(changed[1]) == body["model"]
        assert json.loads(changed[0]) == {**body, "model": "digits-2"}
    else:
        assert changed is None


@given(st.integers(0, 60))
def test_a_name_that_is_not_there_yet_is_left_alone(size: int) -> None:
    body = b'{"messages": [{"content": "hi"}], "model": "digits", "n": 1}'[:size]
    changed = with_model(body, b"digits-2")
    whole = body.replace(b'"digits"', b'"digits-2"'), b'"digits"'
    assert changed == (whole if b'"digits"' in body else None)


@pytest.mark.parametrize(
    "body", [b"", b"[1]", b'"model"', b'[{"model": "a"}]', b"model", b'x {"model": "a"}', b"}{", b'{"model": 1}']
)
def test_what_is_no_object_with_that_name_stays_as_it_is(body: bytes) -> None:
    assert with_model(body, b"b") is None


# the path


@pytest.mark.parametrize(
    ("changes", "target", "expected"),
    [
        (("/v2/models/digits", "/v2/models/digits-2"), "/v2/models/digits/infer?/v2", "/v2/models/digits-2/infer?/v2"),
        (("/v2/models/digits", "/v2/models/digits-2"), "/v2/models/digits", "/v2/models/digits-2"),
        (("/v1/models/digits", "/v1/models/d2"), "/v1/models/digits:predict", "/v1/models/d2:predict"),
        (("/v2/models/digits", "/v2/models/digits-2"), "/v2/models/digits2/infer", "/v2/models/digits2/infer"),
        (("/api", "/"), "/api", "/"),
        (("/api", "/"), "/api/v1?x", "/v1?x"),
        (("/api/", "/v1/"), "/api/chat", "/v1/chat"),
        (("/", "/openai"), "/v1/chat", "/openai/v1/chat"),
        (("/api", "/v1"), "*", "*"),
    ],
)  # fmt: skip
def test_a_path_begins_otherwise_by_whole_segments(changes: tuple[str, str], target: str, expected: str) -> None:
    assert target_of(RequestChanges(path_prefix=changes[0], path_replacement=changes[1]), target) == expected


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("/v2/models/digits/infer", "/v2/models/d2/infer"),
        ("/v2/models/digits/versions/3/infer?q", "/v2/models/d2/versions/3/infer?q"),
        ("/v1/models/digits:predict", "/v1/models/d2:predict"),
        ("/tenant/v1/models/digits", "/tenant/v1/models/d2"),
        ("/v1/models", "/v1/models"),
        ("/v1/chat/completions", "/v1/chat/completions"),
    ],
)
def test_the_models_name_in_a_path_is_the_backends(target: str, expected: str) -> None:
    assert target_of(RequestChanges(model="d2"), target) == expected


def target_of(spec: RequestChanges, target: str) -> str:
    request = Request(b"GET", "1.1", keep_alive=True)
    request.target, request.head = target.encode(), RequestHead()
    return RequestChanger(spec, "a").change(request, [], 0, 0.0).request.target.decode()


# over sockets


def changed(spec: RoutingTable, name: str, changes: RequestChanges) -> RoutingTable:
    backends = {**spec.backends, name: msgspec.structs.replace(spec.backends[name], request=changes)}
    return msgspec.structs.replace(spec, backends=backends)


@pytest.mark.anyio
async def test_a_rescue_gets_the_request_in_its_own_backends_form(tmp_path: Path) -> None:
    secret = tmp_path / "key"
    secret.write_text("first\n")
    canary = RequestChanges(
        path_prefix="/v1",
        path_replacement="/hosted/v1",
        model="hosted-model",
        set_headers=(SetHeader("authorization", "Bearer ", value_file=str(secret)), SetHeader("x-team", value="fraud")),
        remove_headers=("cookie", "x-forwarded-for"),
    )
    body = b'{"messages": [], "model": "digits"}'
    head = b"POST /v1/chat?q=1 HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer mine\r\nCookie: c=1\r\nX-Kept: k\r\n"
    request = head + b"Content-Type: application/json\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%b" % (
        len(body),
        body,
    )
    failing = raw(b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n")
    route = Route("r", "/", stable="a", canary="b", weight_bp=10_000)
    async with Backend() as a, Backend(failing) as b:
        spec = changed(table(route, a=a.port, b=b.port), "b", canary)
        spec = changed(spec, "a", RequestChanges(model="own-model"))
        async with RunningWorker(spec) as w:
            assert (await w.raw(request)).startswith(b"HTTP/1.1 200")
            (by_canary,), (by_stable,) = b.seen, a.seen
            assert by_canary.target == b"/hosted/v1/chat?q=1"
            assert json.loads(by_canary.body) == {"messages": [], "model": "hosted-model"}
            assert by_canary.all(b"authorization") == [b"Bearer first"] and by_canary.all(b"x-team") == [b"fraud"]
            assert by_canary.all(b"cookie") == by_canary.all(b"x-forwarded-for") == []
            assert by_canary.all(b"x-kept") == [b"k"] and by_canary.all(b"content-length") == [b"41"]
            assert by_stable.target == b"/v1/chat?q=1" and json.loads(by_stable.body)["model"] == "own-model"
            assert by_stable.all(b"authorization") == [b"Bearer mine"] and by_stable.all(b"cookie") == [b"c=1"]
            assert by_stable.all(b"x-forwarded-for") == [b"127.0.0.1"]


def test_a_secret_follows_its_file_and_stays_when_the_file_goes(tmp_path: Path) -> None:
    secret = tmp_path / "key"
    secret.write_text("first\n")
    header = SetHeader("authorization", "Bearer ", value_file=str(secret))
    changer = RequestChanger(RequestChanges(set_headers=(header,)), "a")

    def sent(now_s: float) -> bytes:
        request = Request(b"GET", "1.1", keep_alive=True)
        request.target, request.head = b"/", RequestHead()
        head = changer.change(request, [], 0, now_s).request.head
        assert head is not None
        return b"".join(head.lines)

    assert sent(1.0) == b"authorization: Bearer first\r\n"
    replacement = tmp_path / "new"
    replacement.write_text("second\n")
    replacement.replace(secret)
    assert sent(1.5) == b"authorization: Bearer first\r\n", "looked at once a second"
    assert sent(2.1) == b"authorization: Bearer second\r\n"
    secret.unlink()
    assert sent(4.0) == b"authorization: Bearer second\r\n", "the last value stays"


def test_without_any_value_the_clients_own_is_not_sent_either(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    header = SetHeader("authorization", "Bearer ", value_env="NO_SUCH_KEY")
    request = Request(b"GET", "1.1", keep_alive=True)
    request.target, request.head = b"/", RequestHead()
    request.head.lines = [b"Authorization", b": ", b"mine", b"\r\n", b"x-a: b\r\n"]
    head = RequestChanger(RequestChanges(set_headers=(header,)), "a").change(request, [], 0, 1.0).request.head
    assert head is not None and head.lines == [b"x-a: b\r\n"]
