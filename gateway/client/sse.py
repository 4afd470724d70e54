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


class Position:
    """Where a client is in the stream, from one connection to the next.

    It is the stream's `id`, not the event's number, since numbers begin again when the gateway restarts. The stream has
    one before its first event, so a client that got none yet misses nothing either.
    """

    def __init__(self, after: int | str | None) -> None:
        self._after = None if after is None else str(after)
        self._arriving = self._after

    def headers(self) -> Mapping[str, str]:
        """What a stream is asked for with: events after this position, as far as they are remembered."""
        self._arriving = self._after
        return {"accept": "text/event-stream"} | ({} if self._after is None else {"last-event-id": self._after})

    def event(self, line: str) -> ControlEvent | None:
        """The event in a line of the stream; None for all other lines. Raises ValueError for what is no event."""
        found = None
        if line.startswith("id:"):
            self._arriving = line[3:].strip()
        elif line.startswith("data:"):
            found = converted(ControlEvent, json.loads(line[5:]))
        # Only what has arrived whole is behind the client: a connection may break between an event's id and its data.
        if found is not None or not line:
            self._after = self._arriving
        return found
