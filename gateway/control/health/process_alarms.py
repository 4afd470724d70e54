"""Alarms of the instance's own processes, configuration and certificates: warnings all of them, it stays ready.

What the supervisor says comes as notices (runtime/notices.py), the end of a certificate in the workers' reports.
"""

from __future__ import annotations

from typing import Final

from gateway.control.alarms import Alarms
from gateway.control.workers.report_aggregator import ReportAggregator
from gateway.runtime.clock import Clock
from gateway.runtime.notices import Notice

_HUNG_ALARM_S: Final = 300.0
_CERTIFICATE_ALARM_S: Final = 7 * 86_400.0


class ProcessAlarms:
    """Turns the supervisor's notices and the workers' reports into alarms."""

    def __init__(self, alarms: Alarms, aggregator: ReportAggregator, clock: Clock) -> None:
        self._alarms = alarms
        self._aggregator = aggregator
        self._clock = clock
        self.notice = Notice()

    def take_notice(self, notice: Notice) -> None:
        """Take in how the supervisor is doing."""
        self.notice = notice
        why = "the configuration file is invalid, the previous configuration stays in force: "
        self._alarms.show("configuration file", notice.refused_why and why + notice.refused_why)

    def refuse_configuration(self, why: str) -> None:
        """Why the newest configuration is not in force; traffic goes on by the one before it. Empty: it is in force."""
        self._alarms.show("configuration", why and f"the newest configuration is not in force: {why}")

    def watch_hung(self, now_s: float) -> None:
        """The alarm of a process that hung stands for a while: it was replaced, and somebody should ask why."""
        hung, why = self.notice.hung, ""
        if hung and now_s - self.notice.hung_at_s < _HUNG_ALARM_S:
            why = f"{hung} hung, was killed and replaced; its requests under way were lost: see the supervisor's log"
        self._alarms.show("hung process", why)

    def watch_certificates(self) -> None:
        """Sound the alarm of certificates that clients will no longer accept, or that end soon."""
        ends_s = min((r.tls_not_after_s for r in self._aggregator.present if r.tls_not_after_s), default=None)
        left_s = None if ends_s is None else ends_s - self._clock.wall_s()
        why = ""
        if left_s is not None and left_s <= _CERTIFICATE_ALARM_S:
            when = "has expired" if left_s <= 0 else f"ends in {left_s // 3600:.0f} h"
            why = f"a TLS certificate for clients {when}"
        self._alarms.show("certificate", why)
