"""Rollouts of any age: the recent ones from memory, the older ones from the journal's archive.

Rules:

1. Lists are newest first, by when a rollout began. What is in memory and not the newest of its route is newer than all
   that is in the archive, so a page that memory fills asks no disk.
2. While the disk does not answer, lists end with what is in memory; an alarm says that the disk does not answer.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable

from gateway.control.decide.evidence_series import EvidenceSeries, SeriesLog
from gateway.control.decide.rollout_records import RolloutRecord, RolloutRecords
from gateway.control.journal.rows import PastRollout
from gateway.control.journal.store import Journal
from gateway.control.journal.writer import JournalWriter
from gateway.control.views import RolloutSeries, RolloutView


class PastRollouts:
    """Answers about rollouts that may be archived. ``view`` makes the view of one that is in memory."""

    def __init__(
        self,
        records: RolloutRecords,
        series: SeriesLog,
        journal_writer: JournalWriter,
        view: Callable[[RolloutRecord], RolloutView],
    ) -> None:
        self._records = records
        self._series = series
        self._journal_writer = journal_writer
        self._view = view

    async def page(self, route: str | None, limit: int, before: str | None, search: str) -> list[RolloutView]:
        """A page of a list. Raises NotFoundError for an unknown ``before``, JournalError."""
        start: str | float | None = before
        opened: float | None = None
        if before is not None and (known := self._records.find(before)) is not None:
            opened = known.opened
        elif before is not None:
            start = opened = (await self._archived(before)).opened
        recent = self._records.page(route, limit, start, search)
        if not self._asks_archive(recent, limit):
            return [self._view(record) for record in recent]
        older = await self._journal_writer.read(lambda journal: journal.archive.page(route, limit, opened, search))
        archived = [RolloutRecord.of(past) for past in older if self._records.find(past.rollout.rollout_id) is None]
        merged = list(heapq.merge(recent, archived, key=lambda record: -record.opened))[:limit]
        known_ids = {id(record) for record in recent}
        return [self._view(record) if id(record) in known_ids else _view(record) for record in merged]

    def _asks_archive(self, recent: list[RolloutRecord], limit: int) -> bool:
        if not self._records.archived or not self._journal_writer.readable or self._journal_writer.hangs:
            return False
        return len(recent) < limit or recent[-1].opened < self._records.archived_before

    async def find(self, rollout_id: str) -> RolloutView:
        """One rollout. Raises NotFoundError, JournalError."""
        known = self._records.find(rollout_id)
        if known is not None:
            return self._view(known)
        return _view(RolloutRecord.of(await self._archived(rollout_id)))

    async def series(self, rollout_id: str) -> RolloutSeries:
        """Its evidence over time: what is in memory, else what the journal has. Raises NotFoundError, JournalError."""
        if self._records.find(rollout_id) is None:
            await self._archived(rollout_id)
        found = self._series.series(rollout_id)
        if found.at or not self._journal_writer.readable:
            return found
        stored = await self._journal_writer.read(lambda journal: journal.load_series(rollout_id))
        series = None if stored is None else EvidenceSeries.decode(stored)
        return found if series is None else series.view(rollout_id)

    async def _archived(self, rollout_id: str) -> PastRollout:
        if not (self._records.archived and self._journal_writer.readable):
            self._records.get(rollout_id)

        def read(journal: Journal) -> PastRollout:
            return journal.archive.find(rollout_id)

        return await self._journal_writer.read(read)


def _view(record: RolloutRecord) -> RolloutView:
    return record.view(record.rollout, record.analysis, None)
