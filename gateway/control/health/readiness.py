"""Whether this instance is ready: what `/readyz` says, and the event when that changes.

Rules:

1. Ready is a statement about the instance: all workers report and route by the table in force, and no alarm
   stands that concerns the instance. A balancer takes it away otherwise.
2. What concerns one route or backend is a warning: every replica sees the same, and emptying all of them would take the
   other routes away as well. ``admin.unready_without_stable`` makes a route without a healthy stable a reason.
"""

from __future__ import annotations

import logging

import msgspec

from gateway.control.events import EventLog
from gateway.control.views import Readiness
from gateway.control.workers.hub import WorkerHub

_log = logging.getLogger("gateway.control")
# A worker reports every 50 ms. One that is silent for so long hangs, and no verdict is based on older evidence.
SILENT_S = 2.0


def instance_readiness(
    reasons: list[str], warnings: list[str], hub: WorkerHub, *, epoch: int, workers: int, draining: bool, now_s: float
) -> Readiness:
    """Readiness from the reasons and warnings that are known already, and from what the workers do."""
    sessions = hub.sessions
    if draining:
        reasons.append("the gateway is shutting down")
    if len(sessions) < workers:
        reasons.append(f"{len(sessions)} of {workers} workers are connected")
    elif hub.applied(epoch) < len(sessions):
        reasons.append(f"{hub.applied(epoch)} of {len(sessions)} workers route by table {epoch}")
    silent = [str(session.hello.index) for session in sessions if now_s - session.last_message_s > SILENT_S]
    if silent:
        reasons.append(f"no report from worker {', '.join(sorted(silent))} for {SILENT_S:g} s")
    return Readiness(not reasons, len(sessions), tuple(reasons), tuple(warnings))


class ReadinessWatch:
    """Logs and publishes each change of readiness."""

    def __init__(self, events: EventLog) -> None:
        self._events = events
        self._ready: bool | None = None

    def look(self, now: Readiness) -> None:
        """Compare with the state before."""
        if self._ready is not None and now.ready != self._ready:
            _log.warning("readiness: %s", "ready again" if now.ready else f"not ready: {'; '.join(now.reasons)}")
            self._events.publish("readiness", msgspec.to_builtins(now))
        self._ready = now.ready
