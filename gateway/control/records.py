"""The rollouts that are remembered for showing: latest state, last analysis, and when it began and changed."""

from __future__ import annotations

import msgspec

from gateway.control.journal import Journal
from gateway.control.views import RolloutView
from gateway.core.analysis.types import Analysis
from gateway.core.errors import NotFoundError
from gateway.core.rollout import Rollout
from gateway.core.types import percent_from_weight_bp
from gateway.runtime.clock import iso

# Read from the journal at start; older ones stay in the journal.
_LOADED = 500


class Record(msgspec.Struct):
    """One rollout as the journal has it. Wall times in seconds since the Unix epoch."""

    rollout: Rollout
    analysis: Analysis | None
    started_s: float
    updated_s: float

    def view(self, rollout: Rollout, analysis: Analysis | None, canary_requests: int | None) -> RolloutView:
        """What people see of it."""
        if canary_requests is None:
            canary_requests = analysis.canary_requests if analysis is not None else 0
        return RolloutView(
            id=rollout.rollout_id,
            route=rollout.route,
            stable=rollout.stable,
            canary=rollout.canary,
            phase=rollout.phase.value,
            step=rollout.step_index + 1,
            steps=len(rollout.plan.steps),
            canary_percent=percent_from_weight_bp(rollout.weight_bp),
            reason=rollout.reason,
            causes=rollout.causes,
            by=rollout.by,
            started_at=iso(self.started_s),
            updated_at=iso(self.updated_s),
            plan=rollout.plan,
            canary_requests=canary_requests,
            analysis=analysis,
        )


class Records:
    """All remembered rollouts, oldest first."""

    def __init__(self) -> None:
        self._records: dict[str, Record] = {}

    def load(self, journal: Journal) -> dict[str, Record]:
        """Read the newest rollouts from the journal. Blocks."""
        for rollout in reversed(journal.rollouts(limit=_LOADED)):
            entries = journal.events(rollout.rollout_id)
            analysis = next((e.analysis for e in reversed(entries) if e.analysis is not None), None)
            record = Record(rollout, analysis, entries[0].wall_time_s, entries[-1].wall_time_s)
            self._records[rollout.rollout_id] = record
        return self._records

    def put(self, rollout: Rollout, analysis: Analysis | None, wall_s: float) -> None:
        """A rollout began or changed."""
        known = self._records.get(rollout.rollout_id)
        if known is None:
            self._records[rollout.rollout_id] = Record(rollout, analysis, wall_s, wall_s)
        else:
            known.rollout, known.updated_s = rollout, wall_s
            known.analysis = analysis or known.analysis

    def get(self, rollout_id: str) -> Record:
        """One rollout, or NotFoundError."""
        try:
            return self._records[rollout_id]
        except KeyError:
            raise NotFoundError(f"no rollout has the id {rollout_id!r}") from None

    def page(self, route: str | None, limit: int, before: str | None) -> list[Record]:
        """Newest first, from the one before ``before`` on."""
        found = [r for r in reversed(self._records.values()) if route is None or r.rollout.route == route]
        if before is not None:
            self.get(before)
            ids = [r.rollout.rollout_id for r in found]
            found = found[ids.index(before) + 1 :] if before in ids else []
        return found[: max(0, limit)]
