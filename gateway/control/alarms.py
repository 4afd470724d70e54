"""What is wrong right now and needs a person: each alarm has a name, stands until it is cleared, and is told once."""

from __future__ import annotations

import logging

from gateway.control.events import EventLog
from gateway.control.views import AlarmView

_log = logging.getLogger("gateway.control")


class Alarms:
    """The alarms that stand. They hold readiness back."""

    def __init__(self, events: EventLog) -> None:
        self._events = events
        self._standing: dict[str, str] = {}
        # Those that traffic does not suffer from: they are told, and do not hold readiness back.
        self._mild: set[str] = set()

    @property
    def reasons(self) -> list[str]:
        """Why people should look, in the order in which it came up."""
        return [reason for what, reason in self._standing.items() if what not in self._mild]

    @property
    def warnings(self) -> list[str]:
        """The same of alarms that traffic does not suffer from."""
        return [reason for what, reason in self._standing.items() if what in self._mild]

    @property
    def standing(self) -> list[AlarmView]:
        """The same with their names."""
        return [AlarmView(what, reason) for what, reason in self._standing.items()]

    def sound(self, what: str, reason: str, *, mild: bool = False) -> None:
        """Something is wrong. Saying the same again does nothing. ``mild``: traffic does not suffer from it."""
        (self._mild.add if mild else self._mild.discard)(what)
        if self._standing.get(what) == reason:
            return
        self._standing[what] = reason
        _log.error("alarm: %s", reason)
        self._events.publish("alarm", {"what": what, "reason": reason, "standing": True})

    def show(self, what: str, why: str) -> None:
        """An alarm that traffic does not suffer from stands, or is over (``why`` is empty)."""
        if why:
            self.sound(what, why, mild=True)
        else:
            self.clear(what)

    def clear(self, what: str) -> None:
        """It is mended."""
        reason = self._standing.pop(what, None)
        if reason is not None:
            _log.warning("no longer: %s", reason)
            self._events.publish("alarm", {"what": what, "reason": reason, "standing": False})
