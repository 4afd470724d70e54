"""Recent rollouts for the API: latest state, last analysis, and when it began and changed."""

from __future__ import annotations

import itertools

import msgspec

from gateway.control.journal.store import Journal
from gateway.control.views import RolloutView
from gateway.core.analysis.types import Analysis
from gateway.core.errors import NotFoundError
from gateway.core.rollout import Phase, Rollout
from gateway.core.types import percent_from_weight_bp
from gateway.runtime.clock import iso

# Older ones stay in the journal.
_KEPT = 500


class RolloutRecord(msgspec.Struct):
    """One rollout as the journal has it. Wall times in seconds since the Unix epoch."""

    rollout: Rollout
    analysis: Analysis | None
    started_s: float
    updated_s: float

    def has(self, words: list[str]) -> bool:
        """Whether each of these words, in lower case, is in what people know the rollout by."""
        if not words:
            return True
        one = self.rollout
        text = f"{one.rollout_id} {one.route} {one.stable} {one.canary} {one.phase} {one.reason} {one.by}".lower()
        return all(word in text for word in words)

    def view(
        self, rollout: Rollout, analysis: Analysis | None, canary_requests: int | None, waiting_for: str = ""
    ) -> RolloutView:
        """Its view in the API."""
        if canary_requests is None:
            canary_requests = analysis.canary_requests if analysis is not None else 0
        return RolloutView(
            id=rollout.rollout_id,
            route=rollout.route,
            stable=rollout.stable or None,
            canary=rollout.canary,
            phase=rollout.phase.value,
            step=min(max(rollout.step_index, 0), len(rollout.plan.steps) - 1) + 1,
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
            revision=rollout.revision,
            gate=rollout.gate,
            waiting_for=waiting_for,
            model=rollout.model,
            stable_model=rollout.stable_model,
        )


class RolloutRecords:
    """All remembered rollouts, oldest first."""

    def __init__(self) -> None:
        self._records: dict[str, RolloutRecord] = {}

    def adopt(self, records: list[RolloutRecord]) -> None:
        """Begin with what `read_records` has found, oldest first."""
        self._records = {record.rollout.rollout_id: record for record in records}

    def all(self) -> list[RolloutRecord]:
        """Every one of them, oldest first."""
        return list(self._records.values())

    def put(self, rollout: Rollout, analysis: Analysis | None, wall_s: float) -> None:
        """A rollout began or changed."""
        known = self._records.get(rollout.rollout_id)
        if known is None:
            self._records[rollout.rollout_id] = RolloutRecord(rollout, analysis, wall_s, wall_s)
            self._drop_oldest()
        else:
            known.rollout, known.updated_s = rollout, wall_s
            known.analysis = analysis or known.analysis

    def _drop_oldest(self) -> None:
        """Keep so many, and each route's newest whatever its age."""
        if len(self._records) <= _KEPT:
            return
        newest = {record.rollout.route: rollout_id for rollout_id, record in self._records.items()}
        droppable = (rollout_id for rollout_id in self._records if rollout_id not in newest.values())
        if (oldest := next(droppable, None)) is not None:
            del self._records[oldest]

    def get(self, rollout_id: str) -> RolloutRecord:
        """One rollout, or NotFoundError."""
        try:
            return self._records[rollout_id]
        except KeyError:
            raise NotFoundError(f"no rollout has the id {rollout_id!r}") from None

    def find(self, rollout_id: str) -> RolloutRecord | None:
        """One rollout, if it is remembered."""
        return self._records.get(rollout_id)

    def rolled_back(self, route: str, canary: str) -> Rollout | None:
        """The last rollout of this canary on this route, if it was rolled back."""
        found = [r.rollout for r in self._records.values() if (r.rollout.route, r.rollout.canary) == (route, canary)]
        begun = [rollout for rollout in found if rollout.phase is not Phase.WITHDRAWN]
        return begun[-1] if begun and begun[-1].phase is Phase.ROLLED_BACK else None

    def page(self, route: str | None, limit: int, before: str | None, search: str = "") -> list[RolloutRecord]:
        """Newest first, from the one before ``before`` on; those that have all words of ``search`` in them."""
        newest = reversed(self._records.values())
        if before is not None:
            self.get(before)
            newest = itertools.islice(itertools.dropwhile(lambda r: r.rollout.rollout_id != before, newest), 1, None)
        words = search.lower().split()
        found = (r for r in newest if (route is None or r.rollout.route == route) and r.has(words))
        return list(itertools.islice(found, max(0, limit)))


def read_records(journal: Journal, routes: list[str]) -> list[RolloutRecord]:
    """The newest rollouts in the journal and the last one of each of these routes, oldest first. Blocks."""
    found = {rollout.rollout_id: rollout for rollout in journal.rollouts(limit=_KEPT)}
    for route in routes:
        latest = journal.latest(route)
        if latest is not None:
            found.setdefault(latest.rollout_id, latest)
    records = []
    for rollout in found.values():
        entries = journal.events(rollout.rollout_id)
        analysis = next((e.analysis for e in reversed(entries) if e.analysis is not None), None)
        records.append(RolloutRecord(rollout, analysis, entries[0].wall_time_s, entries[-1].wall_time_s))
    return records[::-1]
