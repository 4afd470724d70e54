"""Faults: their options, their dice, and what a client sees of them."""

from __future__ import annotations

import json
import random
import signal
import socket
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import bundled
from gateway.serving.errors import FaultError
from gateway.serving.faults import CRASH_STATUS, KEYS, Fate, FaultSource, InjectedFaults

CONTENT = {
    "inputs": [{"name": "pixels", "datatype": "FP32", "shape": [1, 64], "data": bundled.heldout().pixels[0]}],
}

_shares = st.floats(0, 1)
_faults = st.builds(
    InjectedFaults,
    error_rate=_shares,
    latency_ms=st.floats(0, 1e6),
    hang=_shares,
    wrong_name=_shares,
    login=_shares,
    stall=_shares,
    stream_error=_shares,
    crash_after_s=st.none() | st.floats(0, 1e6),
    crash_after_requests=st.none() | st.integers(1, 10**6),
)


@given(_faults)
def test_faults_round_trip_through_their_keys(faults: InjectedFaults) -> None:
    values = {key: value for key, value in faults.to_mapping().items() if value is not None}
    assert InjectedFaults.from_mapping(values) == faults
    assert InjectedFaults.from_options(f"{key}={value!r}" for key, value in values.items()) == faults


@given(st.integers(), _shares, _shares)
def test_one_seed_gives_one_sequence_and_shares_only_move_the_threshold(seed: int, low: float, high: float) -> None:
    """Whatever fails at a low rate fails at a higher one: a demo can be rerun with more of the same fault."""
    low, high = sorted((low, high))
    few, many = (FaultSource(InjectedFaults(error_rate=rate), seed) for rate in (low, high))
    for _ in range(50):
        fates = few.draw(), many.draw()
        assert fates != (Fate.ERROR, Fate.SERVE)


def test_the_gravest_fault_wins() -> None:
    source = FaultSource(InjectedFaults(error_rate=1, hang=1, crash_after_requests=2))
    assert [source.draw(), source.draw()] == [Fate.HANG, Fate.CRASH]


@pytest.mark.parametrize(
    ("option", "complaint"),
    [
        ("error-rate=1.5", "from 0 to 1"),
        ("error-rate", "needs a number, as in error-rate=1"),
        ("error-rate=nan", "from 0 to 1"),
        ("latency-ms=-1", "from 0"),
        ("latency-ms=inf", "from 0"),
        ("hang=", "needs a number"),
        ("hang=2", "from 0 to 1"),
        ("login=", "needs a number"),
        ("stall=1.1", "from 0 to 1"),
        ("crash-after-requests=0", "whole number from 1"),
        ("crash-after-requests=1.5", "whole number from 1"),
        ("explode=1", "unknown fault explode; there are: error-rate, latency-ms, hang, wrong-name, login"),
    ],
)
def test_bad_fault_options_are_refused(option: str, complaint: str) -> None:
    with pytest.raises(FaultError, match=complaint):
        InjectedFaults.from_options([option])
    with pytest.raises(FaultError, match="given twice"):
        InjectedFaults.from_options(["hang", "hang=0.5"])


def test_error_rate_fails_the_drawn_share_and_nothing_but_inference(start: Any) -> None:
    server = start("digits-logreg", "--fault", "error-rate=0.3", "--fault", "latency-ms=1", "--fault-seed", "5")
    statuses = [server.infer(CONTENT).status_code for _ in range(60)]
    dice = random.Random(5)
    expected = [500 if [dice.random() for _ in range(7)][1] < 0.3 else 200 for _ in range(60)]
    assert statuses == expected
    assert all(server.client.get("/v2/health/ready").status_code == 200 for _ in range(20))


def test_latency_is_added_to_every_inference(start: Any) -> None:
    server = start("digits-logreg", "--fault", "latency-ms=150")
    responses = [server.infer(CONTENT) for _ in range(3)]
    assert all(response.status_code == 200 and response.elapsed.total_seconds() >= 0.15 for response in responses)


def test_a_hanging_request_is_never_answered_and_does_not_block_the_rest(start: Any) -> None:
    server = start("digits-logreg", "--fault", "hang")
    with pytest.raises(httpx.ReadTimeout):
        server.infer(CONTENT, timeout=0.3)
    assert server.client.get("/v2/health/live").status_code == 200


def test_a_wrong_name_and_a_login_page(start: Any) -> None:
    server = start("digits-logreg", "--fault", "wrong-name", "--fault-control")
    response = server.infer(CONTENT)
    assert response.status_code == 404 and "unknown model" in response.json()["error"]
    server.client.put("/v2/faults", json={"login": 1})
    response = server.infer(CONTENT)
    assert (response.status_code, response.headers["location"], response.content) == (302, "/login", b"")


def events(server: Any) -> list[Any]:
    response = server.client.post("/v2/models/digits-logreg/infer_stream", json=CONTENT)
    assert response.headers["content-type"].startswith("text/event-stream")
    assert "content-length" not in response.headers
    parts = response.text.split("\n\n")
    assert parts.pop() == "", "each event ends with a blank line"
    return [json.loads(part.removeprefix("event: error\n").removeprefix("data: ")) for part in parts]


def test_a_stream_has_the_elements_and_then_the_answer(start: Any) -> None:
    server = start("digits-logreg", "--fault", "stream-error", "--fault-control", "--fault-seed", "3")
    broken = [events(server) for _ in range(20)]
    assert all("error" in one[-1] for one in broken)
    whole = json.loads(server.infer(CONTENT).content)
    assert len({len(one) for one in broken}) == 2, "some hold nothing else, some break in the middle (seed 3)"
    server.client.put("/v2/faults", json={})
    *elements, last = events(server)
    assert last == whole
    assert [one["value"] for one in elements] == [value for output in whole["outputs"] for value in output["data"]]
    binary = server.client.post(
        "/v2/models/digits-logreg/infer_stream", json=CONTENT | {"parameters": {"binary_data_output": True}}
    )
    assert binary.status_code == 400 and "no binary outputs" in binary.json()["error"]


@pytest.mark.parametrize("path", ["infer", "infer_stream"])
def test_a_stalled_answer_begins_and_never_goes_on(start: Any, path: str) -> None:
    server = start("digits-logreg", "--fault", "stall")
    url = f"/v2/models/digits-logreg/{path}"
    with server.client.stream("POST", url, json=CONTENT, timeout=0.5) as response:
        assert response.status_code == 200
        begun = response.iter_raw()
        assert next(begun)
        with pytest.raises(httpx.ReadTimeout):
            next(begun)


def test_a_stop_cuts_off_requests_that_hang(start: Any) -> None:
    server = start("digits-logreg", "--fault", "hang")
    url, body = server.client.base_url, json.dumps(CONTENT)
    head = f"POST /v2/models/digits-logreg/infer HTTP/1.1\r\nHost: {url.host}\r\nContent-Length: {len(body)}\r\n\r\n"
    with socket.create_connection((url.host, url.port)) as hanging:
        hanging.sendall((head + body).encode())
        assert server.client.get("/v2/health/live").status_code == 200
        assert server.stop(signal.SIGTERM) == 0


def test_crash_after_requests_dies_on_that_request(start: Any) -> None:
    server = start("digits-logreg", "--fault", "crash-after-requests=3")
    assert [server.infer(CONTENT).status_code for _ in range(2)] == [200, 200]
    with pytest.raises(httpx.RemoteProtocolError):
        server.infer(CONTENT)
    assert server.process.wait(timeout=20) == CRASH_STATUS


def test_crash_after_seconds_dies_without_a_request(start: Any) -> None:
    server = start("digits-logreg", "--fault", "crash-after-s=0.2")
    assert server.process.wait(timeout=20) == CRASH_STATUS


def test_fault_control_switches_faults_at_run_time(start: Any) -> None:
    server = start("digits-logreg", "--fault-control")
    client = server.client
    off = dict.fromkeys(KEYS, 0) | {"crash-after-s": None, "crash-after-requests": None}
    assert client.get("/v2/faults").json() == off
    assert client.put("/v2/faults", json={"error-rate": 1}).json() == {**off, "error-rate": 1}
    assert server.infer(CONTENT).json() == {"error": "injected fault: error-rate"}
    for bad, complaint in (
        ({"error-rate": 2}, "from 0 to 1"),
        ({"explode": 1}, "unknown fault explode"),
        ({"hang": "yes"}, "faults:"),
        ([], "faults:"),
    ):
        response = client.put("/v2/faults", json=bad)
        assert response.status_code == 400 and complaint in response.json()["error"]
    assert client.get("/v2/faults").json()["error-rate"] == 1
    assert client.put("/v2/faults", json={"hang": True}).json()["hang"] == 1
    assert client.put("/v2/faults", json={}).json() == off
    assert server.infer(CONTENT).status_code == 200
    client.put("/v2/faults", json={"crash-after-s": 0.05})
    assert server.process.wait(timeout=20) == CRASH_STATUS
