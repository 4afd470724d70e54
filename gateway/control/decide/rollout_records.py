"""Recent rollouts for the API: latest state, last analysis, and when it began and changed. Older ones are archived."""

from __future__ import annotations

import itertools
import math

import msgspec

from gateway.control.journal.rows import PastRollout, search_text, search_words
from gateway.control.views import RolloutView
from gateway.core.analysis.types import Analysis
from gateway.core.errors import NotFoundError
from gateway.core.rollout import Phase, Rollout
from gateway.core.rollout.types import MIRROR
from gateway.core.types import percent_from_weight_bp
from gateway.runtime.clock import iso

# Of rollouts that are not the newest of their route the newest so many; older ones are in the journal's archive.
ROLLOUTS_KEPT = 500


class RolloutRecord(msgspec.Struct):
    """One rollout as the journal has it. Wall times in seconds since the Unix epoch.

    ``opened`` is the seq of its start in the journal, infinite until that is stored.
    """

    rollout: Rollout
    analysis: Analysis | None
    started_s: float
    updated_s: float
    opened: float = math.inf

    @classmethod
    def of(cls, past: PastRollout) -> RolloutRecord:
        """What the journal has."""
        return cls(past.rollout, past.analysis, past.started_s, past.updated_s, past.opened)

    def has(self, words: list[str]) -> bool:
        """Whether each of these words, in lower case, is in what people know the rollout by."""
        if not words:
            return True
        text = search_text(self.rollout)
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
            step=0
            if rollout.step_index == MIRROR
            else min(max(rollout.step_index, 0), len(rollout.plan.steps) - 1) + 1,
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
            mirror_percent=0.0 if rollout.mirror is None else percent_from_weight_bp(rollout.mirror.share_bp),
        )


class RolloutRecords:
    """All remembered rollouts, oldest first."""

    def __init__(self) -> None:
        self._records: dict[str, RolloutRecord] = {}
        # Whether there are older ones in the archive.
        self.archived = False

    def adopt(self, records: list[RolloutRecord], *, archived: bool) -> None:
        """Begin with what the journal has, oldest first."""
        self.archived = archived
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

    def note_place(self, rollout_id: str, opened: int) -> None:
        """The start of a rollout was stored."""
        if (known := self._records.get(rollout_id)) is not None:
            known.opened = opened

    @property
    def archived_before(self) -> float:
        """All that is archived began before this: the seq of the oldest here that is not the newest of its route."""
        return min((self._records[rollout_id].opened for rollout_id in self._not_newest()), default=math.inf)

    def _not_newest(self) -> list[str]:
        newest = set({record.rollout.route: rollout_id for rollout_id, record in self._records.items()}.values())
        return [rollout_id for rollout_id in self._records if rollout_id not in newest]

    def _drop_oldest(self) -> None:
        """Keep what `Journal.prune` does not archive, so that each is either here or there."""
        if len(self._records) <= ROLLOUTS_KEPT:
            return
        for rollout_id in self._not_newest()[:-ROLLOUTS_KEPT]:
            del self._records[rollout_id]
            self.archived = True

    def get(self, rollout_id: str) -> RolloutRecord:
        """One rollout, or NotFoundError."""
        try:
            return self._records[rollout_id]
        except KeyError:
            raise NotFoundError(f"no rollout has the id {rollout_id!r}") from None

    def find(self, rollout_id: str) -> RolloutRecord | None:
        """One rollout, if it is remembered."""
        return self._records.get(rollout_id)

    def last_rollout(self, route: str, canary: str) -> Rollout | None:
        """The last rollout of this canary on this route that had begun."""
        found = [r.rollout for r in self._records.values() if (r.rollout.route, r.rollout.canary) == (route, canary)]
        begun = [rollout for rollout in found if rollout.phase is not Phase.WITHDRAWN]
        return begun[-1] if begun else None

    def page(self, route: str | None, limit: int, before: str | float | None, search: str = "") -> list[RolloutRecord]:
        """Newest first, from the one before ``before`` on; those that have all words of ``search`` in them.

        ``before`` is a rollout's id, or the seq of an archived one's start.
        """
        newest = reversed(self._records.values())
        if isinstance(before, str):
            self.get(before)
            newest = itertools.islice(itertools.dropwhile(lambda r: r.rollout.rollout_id != before, newest), 1, None)
        elif before is not None:
            newest = (record for record in newest if record.opened < before)
        words = search_words(search)
        found = (r for r in newest if (route is None or r.rollout.route == route) and r.has(words))
        return list(itertools.islice(found, max(0, limit)))
