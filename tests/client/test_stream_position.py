"""Where a client goes on after a broken stream."""

from __future__ import annotations

import json

from gateway.client.sse import Position

EVENT = {"id": 4, "at": "", "kind": "alarm", "route": None, "rollout_id": None, "data": {}}


def test_only_what_arrived_whole_is_behind_the_client() -> None:
    position = Position("5f3a9c1b-3")
    assert position.event("id: 5f3a9c1b-4") is None
    assert position.event("event: alarm") is None
    assert position.headers()["last-event-id"] == "5f3a9c1b-3", "the connection broke before the data"
    position.event("id: 5f3a9c1b-4")
    found = position.event(f"data: {json.dumps(EVENT)}")
    assert found is not None and (found.id, found.cursor) == (4, ""), "a gateway before cursors sends none"
    assert position.headers()["last-event-id"] == "5f3a9c1b-4"


def test_the_stream_says_where_it_begins_before_any_event() -> None:
    position = Position(None)
    assert "last-event-id" not in position.headers()
    for line in ("retry: 1000", "id: 5f3a9c1b-7", ": listening", ""):
        position.event(line)
    assert position.headers()["last-event-id"] == "5f3a9c1b-7"
    assert Position(17).headers()["last-event-id"] == "17"
