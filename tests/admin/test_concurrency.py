"""Two who decide at once, one who asks twice, and one who waits."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

START = "/api/v1/routes/digits/rollouts"


def slug(answer: httpx.Response) -> str:
    found: str = answer.json()["type"].removeprefix("urn:canary-gateway:problem:")
    return found


# If-Match


def test_a_command_about_a_state_that_has_passed_is_refused(served: Any, client: httpx.Client) -> None:
    started = client.post(START)
    here, seen = started.headers["location"], started.headers["etag"]
    assert client.get(here).headers["etag"] == seen
    paused = client.post(f"{here}/pause", headers={"if-match": seen})
    assert paused.status_code == 200 and paused.headers["etag"] != seen
    assert paused.json()["revision"] == started.json()["revision"] + 1
    before = served.control.state()
    for verb in ("promote", "resume", "abort"):
        stale = client.post(f"{here}/{verb}", headers={"if-match": seen})
        assert (stale.status_code, slug(stale)) == (412, "precondition-failed")
        assert paused.headers["etag"] in stale.json()["detail"]
    assert served.control.state() == before
    assert client.post(f"{here}/abort", headers={"if-match": f'"x", {paused.headers["etag"]}'}).status_code == 200


@pytest.mark.parametrize(("given", "status"), [("*", 200), ("W/{}", 412), ("{}", 200), ('"other"', 412), ("{}x", 422)])
def test_the_grammar_of_if_match(client: httpx.Client, given: str, status: int) -> None:
    etag = client.get("/api/v1/routes/digits").headers["etag"]
    answer = client.put(
        "/api/v1/routes/digits/weight", json={"canary_percent": 5}, headers={"if-match": given.format(etag)}
    )
    assert answer.status_code == status, answer.text
    assert (client.get("/api/v1/routes/digits").headers["etag"] == etag) == (status != 200)


def test_a_route_that_was_read_is_not_sent_again(client: httpx.Client) -> None:
    etag = client.get("/api/v1/routes/digits").headers["etag"]
    unchanged = client.get("/api/v1/routes/digits", headers={"if-none-match": f"W/{etag}"})
    assert (unchanged.status_code, unchanged.content, unchanged.headers["etag"]) == (304, b"", etag)


def test_of_two_with_the_same_tag_one_decides(client: httpx.Client, served: Any) -> None:
    started = client.post(START)
    headers = {"if-match": started.headers["etag"]}
    barrier = threading.Barrier(2)

    def command(verb: str) -> int:
        barrier.wait(20)
        return httpx.post(f"{served.url}{started.headers['location']}/{verb}", headers=headers).status_code

    with ThreadPoolExecutor(2) as pool:
        statuses = sorted(pool.map(command, ("promote", "abort")))
    assert statuses == [200, 412]


@pytest.mark.parametrize("_round", range(10))
def test_of_a_promotion_and_a_rollback_at_once_the_rollback_wins(standing: Any, _round: int) -> None:
    barrier = threading.Barrier(2)
    with httpx.Client(base_url=standing.url) as client, ThreadPoolExecutor(2) as pool:
        here = client.post(START, json={"retry": True}).headers["location"]

        def command(verb: str) -> int:
            barrier.wait(20)
            return client.post(f"{here}/{verb}").status_code

        promoted, aborted = pool.map(command, ("promote", "abort"))
        assert aborted == 200 and promoted in (200, 409)
        assert client.get(here).json()["phase"] == "ROLLED_BACK"


# Idempotency-Key


def test_the_same_request_with_the_same_key_is_carried_out_once(served: Any, client: httpx.Client) -> None:
    headers = {"idempotency-key": "build-1187"}
    first = client.post(START, headers=headers)
    again = client.post(START, headers=headers)
    assert (first.status_code, again.status_code) == (201, 201)
    assert again.content == first.content and "idempotency-replayed" not in first.headers
    assert again.headers["idempotency-replayed"] == "true"
    assert {name: again.headers[name] for name in ("location", "etag", "content-type", "cache-control")} == {
        name: first.headers[name] for name in ("location", "etag", "content-type", "cache-control")
    }
    assert len(client.get("/api/v1/rollouts").json()["rollouts"]) == 1


def test_a_key_belongs_to_one_request(served: Any, client: httpx.Client) -> None:
    headers = {"idempotency-key": "k"}
    here = client.post(START, headers=headers).headers["location"]
    before = served.control.state()
    for path, body in ((START, {"reason": "x"}), (f"{here}/abort", None)):
        other = client.post(path, json=body, headers=headers) if body else client.post(path, headers=headers)
        assert (other.status_code, slug(other)) == (422, "idempotency-key-reused")
    for key in ("", "x" * 256, "two words"):
        assert client.post(f"{here}/abort", headers={"idempotency-key": key}).status_code == 422
    assert served.control.state() == before


def test_a_refused_command_may_be_sent_again(served: Any, client: httpx.Client) -> None:
    headers = {"idempotency-key": "k"}
    served.control.journal_fails = True
    assert client.post(START, headers=headers).status_code == 503
    served.control.journal_fails = False
    assert client.post(START, headers=headers).status_code == 201


def test_at_once_with_one_key_is_once(client: httpx.Client) -> None:
    def start(_: int) -> httpx.Response:
        return client.post(START, headers={"idempotency-key": "once"})

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(start, range(8)))
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert sum("idempotency-replayed" not in answer.headers for answer in answers) == 1


def test_keys_outlive_a_restart(double: Any, tmp_path: Path) -> None:
    headers = {"idempotency-key": "build-1187"}
    with double.Served(directory=tmp_path) as served:
        first = httpx.post(f"{served.url}{START}", headers=headers)
    with double.Served(directory=tmp_path) as served:
        again = httpx.post(f"{served.url}{START}", headers=headers)
        assert (again.status_code, again.content) == (201, first.content)
        assert served.control.rollouts() == []


# waiting


def in_background(work: Callable[[], httpx.Response]) -> tuple[threading.Thread, list[httpx.Response]]:
    found: list[httpx.Response] = []
    thread = threading.Thread(target=lambda: found.append(work()))
    thread.start()
    return thread, found


def until(true: Callable[[], bool]) -> None:
    for _ in range(4000):
        if true():
            return
        threading.Event().wait(0.005)
    raise AssertionError("it has not come true in 20 s")


def test_a_wait_ends_with_the_next_decision(served: Any, client: httpx.Client) -> None:
    started = client.post(START)
    here = started.headers["location"]
    thread, found = in_background(lambda: httpx.get(f"{served.url}{here}?wait_s=60", timeout=70))
    until(lambda: served.control.listeners == 1)
    client.put("/api/v1/routes/plain/weight", json={"canary_percent": 0})
    assert thread.is_alive(), "what happens elsewhere is no decision about this rollout"
    client.post(f"{here}/pause")
    thread.join(20)
    assert found[0].json()["phase"] == "PAUSED"
    until(lambda: served.control.listeners == 0)


def test_a_wait_misses_nothing_between_two_reads(client: httpx.Client) -> None:
    started = client.post(START)
    here, seen = started.headers["location"], started.headers["etag"]
    client.post(f"{here}/pause")
    answer = client.get(here, params={"wait_s": 60}, headers={"if-none-match": seen})
    assert (answer.status_code, answer.json()["phase"]) == (200, "PAUSED")
    same = client.get(here, params={"wait_s": "0.05"}, headers={"if-none-match": answer.headers["etag"]})
    assert same.status_code == 304
    client.post(f"{here}/abort")
    assert client.get(here, params={"wait_s": 60}).json()["phase"] == "ROLLED_BACK", "there is nothing to wait for"


@pytest.mark.parametrize("wait_s", ["-1", "301", "nan", "1e1", "", "0x1"])
def test_a_wait_has_bounds(client: httpx.Client, wait_s: str) -> None:
    here = client.post(START).headers["location"]
    assert client.get(here, params={"wait_s": wait_s}).status_code == 422


def test_waits_are_bounded_and_end_when_the_gateway_stops(double: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.admin.long_poll.WAITS_MAX", 4)
    with double.Served() as served, httpx.Client(base_url=served.url, timeout=70) as client:
        here = client.post(START).headers["location"]
        with ThreadPoolExecutor(4) as pool:
            waits = [pool.submit(client.get, here, params={"wait_s": 60}) for _ in range(4)]
            until(lambda: served.control.listeners == 4)
            refused = client.get(here, params={"wait_s": 60})
            assert (refused.status_code, slug(refused), refused.headers["retry-after"]) == (429, "too-many-waits", "1")
            served.stop()
            assert {wait.result(20).status_code for wait in waits} == {200}


def test_a_client_that_leaves_ends_its_wait(served: Any, client: httpx.Client) -> None:
    here = served.url + client.post(START).headers["location"]
    with pytest.raises(httpx.ReadTimeout):
        httpx.get(f"{here}?wait_s=60", timeout=0.3)
    until(lambda: served.control.listeners == 0)
