"""The event stream over a real socket: nothing missed, resumed where it was left, ended when the server stops."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from starlette.types import Message

from gateway.admin.sse import EventStream, Streams, frame
from gateway.control.events import EventLog
from gateway.control.views import ControlEvent
from gateway.runtime.clock import SystemClock


def _events(lines: Iterator[str]) -> Iterator[dict[str, Any]]:
    """The events of a stream; a comment is {"comment": text}."""
    event: dict[str, Any] = {}
    for line in lines:
        if not line:
            if event:
                yield event
            event = {}
        elif line.startswith(":"):
            event["comment"] = line[1:].strip()
        else:
            name, _, value = line.partition(": ")
            event[name] = json.loads(value) if name == "data" else value


def test_events_arrive_with_id_kind_and_data(served: Any, client: httpx.Client) -> None:
    with client.stream("GET", "/api/v1/events") as answer:
        assert answer.headers["content-type"] == "text/event-stream"
        events = _events(answer.iter_lines())
        first = next(events)
        boot, _, seen = first.pop("id").rpartition("-")
        assert (first, seen) == ({"retry": "1000", "comment": "listening"}, "0")
        with httpx.Client(base_url=served.url) as other:
            other.put("/api/v1/routes/digits/weight", json={"canary_percent": 5}, headers={"x-actor": "ada"})
            started = other.post("/api/v1/routes/digits/rollouts").json()
        weight, start = next(events), next(events)
    assert (weight["id"], weight["event"]) == (f"{boot}-1", "weight")
    assert (weight["data"]["id"], weight["data"]["cursor"]) == (1, f"{boot}-1")
    assert weight["data"]["data"] == {"canary_percent": 5.0, "epoch": 2, "by": "ada"}
    assert (start["id"], start["event"], start["data"]["rollout_id"]) == (f"{boot}-2", "started", started["id"])
    assert start["data"]["data"] == started, "an event's rollout looks like the API's"


def test_a_client_resumes_after_the_last_event_that_it_saw(served: Any, client: httpx.Client) -> None:
    for percent in range(1, 6):
        client.put("/api/v1/routes/digits/weight", json={"canary_percent": percent})
    with client.stream("GET", "/api/v1/events", headers={"last-event-id": "2"}) as answer:
        events = _events(answer.iter_lines())
        next(events)
        assert [next(events)["data"]["id"] for _ in range(3)] == [3, 4, 5]


def test_an_id_from_the_future_means_from_now_on(served: Any, client: httpx.Client) -> None:
    with client.stream("GET", "/api/v1/events", headers={"last-event-id": "999"}) as answer:
        events = _events(answer.iter_lines())
        next(events)
        httpx.put(f"{served.url}/api/v1/routes/digits/weight", json={"canary_percent": 5})
        assert next(events)["data"]["id"] == 1


def test_a_server_that_stops_ends_its_streams_cleanly(double: Any) -> None:
    with double.Served() as served, httpx.Client(base_url=served.url, timeout=10) as client:
        with client.stream("GET", "/api/v1/events") as answer:
            lines = answer.iter_lines()
            next(lines)
            served.server.should_exit = True
            # Without its last chunk httpx would raise RemoteProtocolError here.
            rest = list(lines)
        assert rest[1:] == [": listening", ""]


def test_a_listener_that_leaves_is_forgotten(served: Any, client: httpx.Client) -> None:
    for _ in range(5):
        with client.stream("GET", "/api/v1/events") as answer:
            next(answer.iter_lines())
    deadline_s = time.monotonic() + 10
    while served.control.listeners and time.monotonic() < deadline_s:
        time.sleep(0.01)
    assert served.control.listeners == 0


async def _run(events: Any, streams: Streams, until: int, heartbeat_s: float) -> list[bytes]:
    sent: list[bytes] = []

    async def send(message: Message) -> None:
        sent.append(message.get("body", b""))
        if len(sent) >= until:
            streams.end()

    async def receive() -> Message:
        await asyncio.sleep(60)
        raise AssertionError

    async with asyncio.timeout(10):
        await EventStream(events, streams, heartbeat_s=heartbeat_s)({}, receive, send)
    return sent


def test_a_quiet_stream_has_heartbeats() -> None:
    async def quiet() -> list[bytes]:
        return await _run(EventLog(SystemClock()).listen(), Streams(), 5, 0.01)

    sent = asyncio.run(quiet())
    assert sent[2:5] == [b": heartbeat\n\n"] * 3 and sent[-1] == b""


def test_a_heartbeat_loses_no_event() -> None:
    async def slow(count: int) -> Any:
        for number in range(count):
            await asyncio.sleep(0.02)
            yield ControlEvent(number, "", "alarm", None, None, {})

    sent = asyncio.run(_run(slow(5), Streams(), 10_000, 0.003))
    assert [body for body in sent if b"id:" in body] == [
        frame(ControlEvent(number, "", "alarm", None, None, {})) for number in range(5)
    ]


def test_a_fault_in_the_events_is_not_swallowed() -> None:
    async def broken() -> Any:
        yield ControlEvent(1, "", "alarm", None, None, {})
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        asyncio.run(_run(broken(), Streams(), 10_000, 1.0))


def test_text_with_line_breaks_stays_one_event() -> None:
    body = frame(ControlEvent(1, "", "alarm", None, None, {"reason": "a\nb\r\n\nid: 7"}))
    assert body.count(b"\n") == 4 and b"\r" not in body
