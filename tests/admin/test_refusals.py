"""Bad input: each gets its status and a problem document, and changes nothing."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Iterator
from typing import Any, NamedTuple

import httpx
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from gateway.admin.problems import KINDS
from gateway.admin.request_parsing import BODY_BYTES_MAX

WEIGHT = "/api/v1/routes/digits/weight"
START = "/api/v1/routes/digits/rollouts"
JSON = {"content-type": "application/json"}
DEEP = b'{"canary_percent": ' + b"[" * 30_000 + b"]" * 30_000 + b"}"


class Case(NamedTuple):
    status: int
    path: str
    body: bytes
    says: str = ""
    method: str = "PUT"
    headers: dict[str, str] = JSON


def weight(status: int, body: str | bytes, says: str = "") -> Case:
    return Case(status, WEIGHT, body.encode() if isinstance(body, str) else body, says)


def plan(body: str, says: str) -> Case:
    return Case(422, START, f'{{"plan": {body}}}'.encode(), says, "POST")


def steps(body: str, says: str) -> Case:
    return plan(f'{{"steps": [{body}]}}', says)


CASES = [
    weight(400, "", "not JSON"),
    weight(400, "{", "not JSON"),
    weight(400, "{'canary_percent': 5}", "not JSON"),
    weight(400, '{"canary_percent": 5} x', "not JSON"),
    weight(400, '{"canary_percent": 5,}', "not JSON"),
    weight(400, b'{"canary_percent": "\xff"}', "not UTF-8"),
    weight(400, b'\xef\xbb\xbf{"canary_percent": 5}', "not JSON"),
    weight(400, '{"canary_percent": 5}'.encode("utf-16"), "not UTF-8"),
    weight(422, "null", "the body: null is not a section; expected a section with the keys canary_percent"),
    weight(422, "[]", "the body: a list is not a section"),
    weight(422, "5", "the body: 5 is not a section"),
    weight(422, "{}", "canary_percent: is missing; add it: a percentage from 0 to 100"),
    weight(
        422,
        '{"canary_percent": null}',
        "canary_percent: null is not a number; expected a percentage",
    ),
    weight(422, '{"canary_percent": true}', "canary_percent: true is not a number"),
    weight(422, '{"canary_percent": "5"}', "canary_percent: '5' is text, not a number (write 5, without quotes)"),
    weight(422, '{"canary_percent": "1e9"}', "canary_percent: '1e9' is text, not a number"),
    weight(422, '{"canary_percent": NaN}', "NaN is not valid in JSON"),
    weight(422, '{"canary_percent": -Infinity}', "-Infinity is not valid in JSON"),
    weight(422, '{"canary_percent": 1e999}', "canary_percent: inf is not a finite number"),
    weight(422, '{"canary_percent": ' + "9" * 5000 + "}", "canary_percent: inf is not a finite number"),
    weight(422, '{"canary_percent": -1}', "canary_percent: -1 is less than 0"),
    weight(422, '{"canary_percent": -0.001}', "canary_percent: -0.001 is less than 0"),
    weight(422, '{"canary_percent": 101}', "canary_percent: 101 is greater than 100; expected a percentage"),
    weight(422, '{"canary_percent": 100.01}', "canary_percent: 100.01 is greater than 100"),
    weight(422, '{"canary_percent": 0.001}', "is finer than 0.01"),
    weight(422, '{"canary_percent": 12.345}', "is finer than 0.01"),
    weight(422, '{"canary_percent": 5, "force": true}', "force: unknown key 'force'; known: canary_percent"),
    weight(422, '{"canary_percent": 5, "canary_percent": 6}', "duplicate key"),
    weight(422, '{"canary_percent": 5, "\\ud800": 6}', "printable"),
    weight(422, DEEP, "nested too deeply"),
    weight(413, b'{"canary_percent": 5' + b" " * BODY_BYTES_MAX + b"}", str(BODY_BYTES_MAX)),
    Case(415, WEIGHT, b'{"canary_percent": 5}', "application/json", headers={}),
    Case(415, WEIGHT, b"canary_percent=5", headers={"content-type": "application/x-www-form-urlencoded"}),
    Case(415, WEIGHT, b'{"canary_percent": 5}', headers={"content-type": "text/plain"}),
    Case(415, WEIGHT, b'{"canary_percent": 5}', headers={"content-type": "application/json; charset=utf-16"}),
    Case(404, "/api/v1/routes/nope/weight", b'{"canary_percent": 5}', "there are: digits, plain"),
    Case(404, "/api/v1/routes/nope", b"", "no route is named 'nope'", "GET", {}),
    Case(404, "/api/v1/routes/%00%0a", b"", "no route is named", "GET", {}),
    Case(404, "/api/v1/routes/nope/rollouts", b"", method="POST", headers={}),
    Case(404, "/api/v1/rollouts/nope", b"", "'nope'", "GET", {}),
    Case(404, "/api/v1/rollouts/nope/abort", b"", "'nope'", "POST", {}),
    Case(404, "/api/v1/rollouts?route=nope", b"", "'nope'", "GET", {}),
    Case(404, "/api/v1/rollouts?before=nope", b"", "'nope'", "GET", {}),
    Case(404, "/api/v1/nowhere", b"", "/openapi.json", "GET", {}),
    Case(404, "/api/v1/routes/", b"", method="GET", headers={}),
    Case(404, "/api/v1/rollouts/digits-0001/explode", b"", method="POST", headers={}),
    Case(405, WEIGHT, b'{"canary_percent": 5}', method="POST"),
    Case(405, "/api/v1/routes", b"", method="DELETE", headers={}),
    Case(405, "/healthz", b"", method="POST", headers={}),
    Case(405, "/api/v1/rollouts/digits-0001/abort", b"", method="GET", headers={}),
    Case(405, "/api/v1/routes", b"", method="OPTIONS", headers={}),
    Case(409, "/api/v1/routes/plain/weight", b'{"canary_percent": 5}', "no canary"),
    Case(409, "/api/v1/routes/plain/rollouts", b"", "no canary", "POST", {}),
    Case(409, START, b"", "cannot start", "POST", {}),
    Case(409, "/api/v1/rollouts/digits-0001/resume", b"", "cannot resume", "POST", {}),
    Case(422, "/api/v1/rollouts?limit=0", b"", "from 1 to 200", "GET", {}),
    Case(422, "/api/v1/rollouts?limit=1e2", b"", "from 1 to 200", "GET", {}),
    Case(422, "/api/v1/rollouts?limit=" + "9" * 5000, b"", "from 1 to 200", "GET", {}),
    Case(422, "/api/v1/rollouts?limit=5&limit=6", b"", "twice", "GET", {}),
    Case(422, "/api/v1/rollouts?rout=digits", b"", "unknown query parameter 'rout'", "GET", {}),
    Case(
        422,
        "/api/v1/rollouts/digits-0001/pause",
        b'{"reasons": "x"}',
        "reasons: unknown key 'reasons'; did you mean 'reason'? known: ",
        "POST",
    ),
    Case(
        422,
        "/api/v1/rollouts/digits-0001/pause",
        b'{"reason": 5}',
        "reason: 5 is not text; expected text of at most 500 characters",
        "POST",
    ),
    Case(422, "/api/v1/rollouts/digits-0001/pause", b'{"reason": "a\\nb"}', "printable", "POST"),
    Case(422, "/api/v1/rollouts/digits-0001/pause", b'{"reason": "\\ud800"}', "printable", "POST"),
    Case(
        422,
        "/api/v1/rollouts/digits-0001/pause",
        b'{"reason": "%s"}' % (b"x" * 501),
        "reason: has 501 characters; expected text of at most 500",
        "POST",
    ),
    Case(415, "/api/v1/rollouts/digits-0001/abort", b"{}", method="POST", headers={}),
    Case(413, "/api/v1/rollouts/digits-0001/abort", b" " * (BODY_BYTES_MAX + 1), method="POST"),
    Case(422, "/api/v1/events", b"", "Last-Event-ID", "GET", {"last-event-id": "-1"}),
    Case(422, "/api/v1/events", b"", "Last-Event-ID", "GET", {"last-event-id": "9" * 40}),
    plan("[]", "plan: a list is not a section; expected a section with the keys"),
    plan("{}", "steps"),
    steps("", "plan.steps: is empty; add at least one"),
    steps('{"percent": 1}, ' * 100 + '{"percent": 1}', "plan.steps: has 101 items"),
    steps('{"percent": 0}', "plan.steps[0].percent"),
    steps('{"percent": 101}', "plan.steps[0].percent"),
    steps('{"percent": 100}', "plan.steps[0].percent: a step of 100 % leaves no requests on stable"),
    steps('{"percent": 0.005}', "plan.steps[0].percent: 0.005 is finer than 0.01"),
    steps('{"percent": 5}, {"percent": 5}', "plan.steps[1].percent: 5 is not greater than the 5 before it"),
    steps('{"weight_bp": 5}', "plan.steps[0].weight_bp: unknown key 'weight_bp'; known: percent"),
    steps('{"percent": 5, "min_time_s": -1}', "min_time_s"),
    steps(
        '{"percent": 5, "min_requests": 1.5}',
        "min_requests: 1.5 is not a whole number; expected a whole number from 0 to 1000000000",
    ),
    plan('{"steps": [{"percent": 5}], "deadline_s": 0}', "plan.deadline_s"),
    plan('{"steps": [{"percent": 5}], "on_deadline": "explode"}', "plan.on_deadline"),
    plan(
        '{"steps": [{"percent": 5}], "deadline": 5}',
        "plan.deadline: unknown key 'deadline'; did you mean",
    ),
]


def _name(case: Case) -> str:
    return f"{case.status} {case.method} {case.path[:40]} {case.body[:40]!r}"


@pytest.fixture(scope="module")
def running(double: Any) -> Iterator[Any]:
    """One server for the whole table: nothing in it may change anything."""
    with double.Served() as served, httpx.Client(base_url=served.url, timeout=10) as client:
        assert client.post(START).json()["id"] == "digits-0001"
        served.client = client
        yield served


@pytest.mark.parametrize("case", CASES, ids=_name)
def test_bad_input_is_refused_and_changes_nothing(running: Any, case: Case) -> None:
    before = running.control.state()
    answer = running.client.request(case.method, case.path, content=case.body, headers=case.headers)
    assert answer.status_code == case.status, answer.text
    assert_problem(answer)
    assert case.says in answer.json()["detail"], answer.json()["detail"]
    assert running.control.state() == before


def assert_problem(answer: httpx.Response) -> None:
    document = answer.json()
    assert answer.headers["content-type"] == "application/problem+json"
    assert set(document) == {"type", "title", "status", "detail", "instance"}
    slug = document["type"].removeprefix("urn:canary-gateway:problem:")
    assert KINDS[slug] == (answer.status_code, document["title"])
    assert document["status"] == answer.status_code
    if answer.status_code == 405:
        assert answer.headers["allow"]


def test_a_head_request_for_events_ends(running: Any) -> None:
    assert running.client.head("/api/v1/events").headers["content-type"].startswith("text/event-stream")


def test_a_body_without_a_length_is_refused_when_it_grows_too_large(running: Any) -> None:
    before = running.control.state()

    def endless() -> Iterator[bytes]:
        for _ in range(200):
            yield b" " * 8192

    answer = running.client.put(WEIGHT, content=endless(), headers=JSON)
    assert (answer.status_code, running.control.state()) == (413, before)
    assert_problem(answer)


def _head(length: int) -> bytes:
    fields = f"Host: localhost\r\nContent-Type: application/json\r\nContent-Length: {length}"
    return f"PUT {WEIGHT} HTTP/1.1\r\n{fields}\r\n\r\n".encode()


def test_a_declared_length_is_refused_before_the_body_is_sent(running: Any) -> None:
    with socket.create_connection(("127.0.0.1", running.port), timeout=10) as connection:
        connection.sendall(_head(10_000_000))
        assert connection.recv(4096).startswith(b"HTTP/1.1 413 ")


def test_a_client_that_leaves_amid_its_body_changes_nothing(running: Any) -> None:
    before = running.control.state()
    with socket.create_connection(("127.0.0.1", running.port), timeout=10) as connection:
        connection.sendall(_head(21) + b'{"canary_percent":')
    assert running.client.get("/api/v1/routes").status_code == 200
    assert running.control.state() == before


def test_a_journal_that_fails_is_503_and_changes_nothing(served: Any, client: httpx.Client) -> None:
    served.control.journal_fails = True
    before = served.control.state()
    answer = client.put(WEIGHT, json={"canary_percent": 5})
    assert (answer.status_code, served.control.state()) == (503, before)
    assert "disk full" in answer.json()["detail"]
    assert_problem(answer)


def test_a_fault_of_the_gateway_is_500_without_its_details(served: Any, client: httpx.Client) -> None:
    def broken() -> None:
        raise ZeroDivisionError("secret")

    served.control.routes = broken
    answer = client.get("/api/v1/routes")
    assert answer.status_code == 500 and "secret" not in answer.text
    assert_problem(answer)
    assert client.get("/healthz").status_code == 200


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
WEIGHT_BODIES = (
    st.fixed_dictionaries({"canary_percent": JSON_VALUES | st.integers(-1, 101) | st.floats(-1, 101)})
    | st.fixed_dictionaries({"canary_percent": st.integers(0, 10_000).map(lambda bp: bp / 100)})
    | st.fixed_dictionaries({"canary_percent": st.just(5)}, optional={"by": JSON_VALUES})
    | JSON_VALUES
)


def _valid(body: object) -> bool:
    if not isinstance(body, dict) or set(body) != {"canary_percent"}:
        return False
    percent = body["canary_percent"]
    if isinstance(percent, bool) or not isinstance(percent, int | float) or not 0 <= percent <= 100:
        return False
    return abs(percent * 100 - round(percent * 100)) <= 1e-6


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=WEIGHT_BODIES)
@example(body={"canary_percent": 10**400})
@example(body={"canary_percent": float("nan")})
@example(body={"canary_percent": -0.0})
@example(body={"\ud800": 1})
def test_any_json_as_a_weight_is_taken_when_valid_and_refused_otherwise(running: Any, body: object) -> None:
    before = running.control.state()
    answer = running.client.put(WEIGHT, content=json.dumps(body), headers=JSON)
    if _valid(body):
        assert isinstance(body, dict)
        assert answer.status_code == 200
        assert answer.json()["canary_percent"] == pytest.approx(body["canary_percent"], abs=1e-6)
    else:
        assert answer.status_code == 422, answer.text
        assert_problem(answer)
        assert running.control.state() == before


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=st.binary(max_size=60) | st.text(alphabet='{}[]":,0123456789.eE+-ntcanary_percent\\u ', max_size=60))
def test_any_bytes_are_answered_and_never_a_fault(running: Any, body: bytes | str) -> None:
    for path in (WEIGHT, START):
        answer = running.client.request("PUT" if path == WEIGHT else "POST", path, content=body, headers=JSON)
        assert answer.status_code in {200, 201, 400, 409, 422}, (path, answer.text)


def test_every_kind_of_problem_has_a_name_that_can_be_a_urn() -> None:
    assert all(re.fullmatch(r"[a-z]+(-[a-z]+)*", slug) for slug in KINDS)
