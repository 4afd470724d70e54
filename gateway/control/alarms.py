"""What is wrong right now and needs a person: each alarm has a name, stands until it is cleared, and is logged once.

An alarm holds readiness back, unless it is a *warning*: what traffic does not suffer from.
"""

from __future__ import annotations

import logging

from gateway.control.events import EventLog
from gateway.control.views import AlarmView

_log = logging.getLogger("gateway.control")


class Alarms:
    """The current alarms."""

    def __init__(self, events: EventLog) -> None:
        self._events = events
        self._standing: dict[str, str] = {}
        self._warnings: set[str] = set()

    @property
    def reasons(self) -> list[str]:
        """Why the instance is not ready, in the order in which it came up."""
        return [reason for what, reason in self._standing.items() if what not in self._warnings]

    @property
    def warnings(self) -> list[str]:
        """The same for warnings."""
        return [reason for what, reason in self._standing.items() if what in self._warnings]

    @property
    def standing(self) -> list[AlarmView]:
        """The same with their names."""
        return [AlarmView(what, reason) for what, reason in self._standing.items()]

    def sound(self, what: str, reason: str, *, warning: bool = False) -> None:
        """Raise an alarm, or update its reason."""
        (self._warnings.add if warning else self._warnings.discard)(what)
        if self._standing.get(what) == reason:
            return
        self._standing[what] = reason
        _log.error("alarm %s: %s", what, reason)
        self._events.publish("alarm", {"what": what, "reason": reason, "standing": True})

    def show(self, what: str, why: str) -> None:
        """Raise a warning, or clear it (``why`` is empty)."""
        if why:
            self.sound(what, why, warning=True)
        else:
            self.clear(what)

    def clear(self, what: str) -> None:
        """Clear the alarm."""
        reason = self._standing.pop(what, None)
        if reason is not None:
            _log.warning("alarm %s cleared: %s", what, reason)
            self._events.publish("alarm", {"what": what, "reason": reason, "standing": False})
