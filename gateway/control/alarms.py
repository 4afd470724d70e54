"""What is wrong right now and needs a person: each alarm has a name, stands until it is cleared, and is told once."""

from __future__ import annotations

import logging

from gateway.control.events import EventLog

_log = logging.getLogger("gateway.control")


class Alarms:
    """The alarms that stand. They hold readiness back."""

    def __init__(self, events: EventLog) -> None:
        self._events = events
        self._standing: dict[str, str] = {}

    @property
    def reasons(self) -> list[str]:
        """Why people should look, in the order in which it came up."""
        return list(self._standing.values())

    def sound(self, what: str, reason: str) -> None:
        """Something is wrong. Saying the same again does nothing."""
        if self._standing.get(what) == reason:
            return
        self._standing[what] = reason
        _log.error("alarm: %s", reason)
        self._events.publish("alarm", {"what": what, "reason": reason, "standing": True})

    def clear(self, what: str) -> None:
        """It is mended."""
        reason = self._standing.pop(what, None)
        if reason is not None:
            _log.warning("no longer: %s", reason)
            self._events.publish("alarm", {"what": what, "reason": reason, "standing": False})
