"""The event stream of the admin API: lines to events, and when a broken stream is taken up again. No I/O."""

from __future__ import annotations

import json
from collections.abc import Mapping

from gateway.api_types import ControlEvent
from gateway.client.decode import converted

PATH = "/api/v1/events"
# The gateway sends a heartbeat every ten seconds; a silence three times as long means that the stream is dead.
SILENCE_S_MAX = 30.0
AGAIN_S = 0.5


def headers(after: int | None) -> Mapping[str, str]:
    """What a stream is asked for with: events after this one, as far as they are remembered."""
    return {"accept": "text/event-stream"} | ({} if after is None else {"last-event-id": str(after)})


def event(line: str) -> ControlEvent | None:
    """The event in a line of the stream; None for all other lines. Raises ValueError for what is no event."""
    return converted(ControlEvent, json.loads(line[5:])) if line.startswith("data:") else None
