"""The facts of a report, asked of the control plane."""

from __future__ import annotations

from gateway.control.api import ControlPlane
from gateway.report import ReportFacts


async def report_facts(control: ControlPlane, rollout_id: str) -> ReportFacts:
    """All that a report needs. Raises NotFoundError, JournalError."""
    rollout = await control.find_rollout(rollout_id)
    decisions = await control.decision_history(rollout_id)
    return ReportFacts(rollout, tuple(decisions), await control.series(rollout_id), await control.latencies(rollout_id))
