"""The store in memory: what `gateway.control.journal.store` promises but for durability, without SQL.

It shows that the interface asks for nothing that SQLite alone has. A `Shelf` outlives the stores that are opened on it,
as a file or a cluster does; the one that was opened last holds the fence.
"""

from __future__ import annotations

import itertools
import pickle
from collections.abc import Sequence

from gateway.config.stored import Stored
from gateway.control.journal.rows import (
    AuditEntry,
    ConfigurationRevision,
    HandWeight,
    JournalEntry,
    KeptAnswer,
    KeptPast,
    PastRollout,
    Roles,
    Snapshot,
    finite,
    search_text,
    search_words,
)
from gateway.control.journal.store import (
    ARCHIVED_MAX,
    Answers,
    Archive,
    Audit,
    Configurations,
    Journal,
    Pasts,
    Store,
    StoreBusyError,
)
from gateway.core.analysis.types import Analysis
from gateway.core.errors import ConflictError, InvalidValueError, JournalError, NotFoundError
from gateway.core.rollout import Event, Phase, Rollout, Started
from gateway.core.types import WEIGHT_BP_MAX


class Contents:
    """What is kept."""

    def __init__(self) -> None:
        self.last_seq = 0
        self.entries: dict[int, JournalEntry] = {}
        self.pruned: set[int] = set()
        self.roles: dict[str, Roles] = {}
        self.weights: dict[str, HandWeight] = {}
        self.snapshots: dict[str, Snapshot] = {}
        self.series: dict[str, bytes] = {}
        self.archive: dict[str, list[JournalEntry]] = {}
        self.deliveries: dict[str, int] = {}
        self.configuration = ConfigurationRevision(0, None)
        self.answers: dict[tuple[str, str], KeptAnswer] = {}
        self.audit: dict[int, AuditEntry] = {}
        self.pasts: dict[str, KeptPast] = {}


class Shelf:
    """Where stores are opened. ``holder`` has the fence."""

    place = "the shelf"

    def __init__(self, copy: bytes | None = None) -> None:
        self.contents: Contents = Contents() if copy is None else pickle.loads(copy)
        self.holder: MemoryStore | None = None

    def check(self, store: MemoryStore) -> None:
        """Raise JournalError for a caller that has not got the fence."""
        if self.holder is not store:
            raise JournalError(f"{self.place} is closed, or another process holds it")


class MemoryArchive(Archive):
    """Its archive."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store

    def _all(self) -> list[PastRollout]:
        stories = self._store.checked().archive.values()
        return sorted((_past(story) for story in stories), key=lambda one: one.opened, reverse=True)

    def page(
        self, route: str | None = None, limit: int = 50, before: float | None = None, search: str = ""
    ) -> list[PastRollout]:
        found = (
            one
            for one in self._all()
            if route in (None, one.rollout.route)
            and (before is None or one.opened < before)
            and all(word in search_text(one.rollout) for word in search_words(search))
        )
        return list(itertools.islice(found, max(0, limit)))

    def find(self, rollout_id: str) -> PastRollout:
        return _past(self.events(rollout_id))

    def events(self, rollout_id: str) -> list[JournalEntry]:
        try:
            return self._store.checked().archive[rollout_id]
        except KeyError:
            raise NotFoundError(f"the journal has no rollout {rollout_id!r}") from None

    def last_rollout(self, route: str, canary: str) -> PastRollout | None:
        names = (route, canary)
        found = (one for one in self._all() if (one.rollout.route, one.rollout.canary) == names)
        return next((one for one in found if one.rollout.phase is not Phase.WITHDRAWN), None)


def _past(story: list[JournalEntry]) -> PastRollout:
    analysis = next((entry.analysis for entry in reversed(story) if entry.analysis is not None), None)
    return PastRollout(story[-1].state, analysis, story[0].wall_time_s, story[-1].wall_time_s, story[0].seq)


class MemoryJournal(Journal):
    """Its journal."""

    place = Shelf.place

    def __init__(self, store: MemoryStore) -> None:
        self._store = store
        self.archive = MemoryArchive(store)

    @property
    def last_seq(self) -> int:
        return self._store.contents.last_seq

    def append(
        self,
        rollout_id: str,
        event: Event,
        state: Rollout,
        analysis: Analysis | None,
        wall_time_s: float,
        configured: str | None = None,
    ) -> int:
        if state.rollout_id != rollout_id:
            raise InvalidValueError(f"the state is of rollout {state.rollout_id!r}, not of {rollout_id!r}")
        kept, at_s = self._store.checked(), finite(wall_time_s)
        seq = kept.last_seq + 1
        entry = JournalEntry(seq, rollout_id, at_s, type(event).__name__, event, state, analysis)
        configured = state.stable if configured is None else configured
        known = kept.roles.get(state.route)
        if state.swapped:
            kept.roles[state.route] = Roles(state.route, configured, state.canary, rollout_id, at_s)
        elif known is not None and known.rollout_id == rollout_id:
            kept.roles.pop(state.route)
            if state.stable != configured:
                kept.roles[state.route] = Roles(state.route, configured, state.stable, "", at_s)
        if isinstance(event, Started):
            of_route = {one.rollout_id for one in kept.entries.values() if one.state.route == state.route}
            kept.snapshots = {name: one for name, one in kept.snapshots.items() if name not in of_route}
        kept.weights.pop(state.route, None)
        kept.entries[seq], kept.last_seq = entry, seq
        return seq

    def _all(self) -> list[JournalEntry]:
        return [entry for _, entry in sorted(self._store.checked().entries.items())]

    def latest(self, route: str) -> Rollout | None:
        return next((entry.state for entry in reversed(self._all()) if entry.state.route == route), None)

    def rollouts(self, route: str | None = None, limit: int = 50, before: str | None = None) -> list[Rollout]:
        heads = {entry.rollout_id: entry.state for entry in self._all()}
        newest = list(dict.fromkeys(entry.rollout_id for entry in self._all()))[::-1]
        if before is not None:
            self.events(before)
            newest = newest[newest.index(before) + 1 :]
        found = [heads[rollout_id] for rollout_id in newest]
        return [state for state in found if route in (None, state.route)][: max(0, limit)]

    def events(self, rollout_id: str) -> list[JournalEntry]:
        found = [entry for entry in self._all() if entry.rollout_id == rollout_id]
        return found or self.archive.events(rollout_id)

    def recent(self) -> list[PastRollout]:
        stories: dict[str, list[JournalEntry]] = {}
        for entry in self._all():
            stories.setdefault(entry.rollout_id, []).append(entry)
        return [_past(story) for story in stories.values()]

    def load_series(self, rollout_id: str) -> bytes | None:
        return self._store.checked().series.get(rollout_id)

    def save_series(self, rollout_id: str, points: bytes) -> None:
        self._store.checked().series[rollout_id] = points

    def entries_after(self, seq: int) -> list[JournalEntry]:
        return [entry for entry in self._all() if entry.seq > seq]

    def _take_out(self, seqs: list[int]) -> int:
        kept = self._store.checked()
        kept.entries = {seq: entry for seq, entry in kept.entries.items() if seq not in seqs}
        kept.pruned |= set(seqs)
        return len(seqs)

    def prune(self, rollouts_kept: int, archived: int = ARCHIVED_MAX) -> int:
        routes = {entry.state.route: entry.rollout_id for entry in self._all()}
        others = [r.rollout_id for r in self.rollouts(limit=1 << 30) if r.rollout_id not in routes.values()]
        old = others[max(0, rollouts_kept) :]
        kept = self._store.contents
        for rollout_id in old:
            kept.snapshots.pop(rollout_id, None)
            kept.series.pop(rollout_id, None)
            kept.archive[rollout_id] = self.events(rollout_id)
        newest = sorted(kept.archive.items(), key=lambda item: item[1][0].seq)
        kept.archive = dict(newest[max(0, len(newest) - archived) :])
        return self._take_out([entry.seq for entry in self._all() if entry.rollout_id in old])

    def shorten(self, rollout_id: str, events_kept: int) -> int:
        found = self.events(rollout_id)
        return self._take_out([entry.seq for entry in found[1 : max(1, len(found) - events_kept)]])

    def pruned_between(self, first: int, last: int) -> bool:
        return any(first < seq < last for seq in self._store.checked().pruned)

    def roles(self) -> dict[str, Roles]:
        return dict(sorted(self._store.checked().roles.items()))

    def keep_roles(self, roles: Roles) -> None:
        self._store.checked().roles[roles.route] = roles

    def drop_roles(self, route: str) -> None:
        self._store.checked().roles.pop(route, None)

    def weights(self) -> dict[str, HandWeight]:
        return dict(sorted(self._store.checked().weights.items()))

    def set_weight(self, route: str, stable: str, canary: str, weight_bp: int, by: str, wall_time_s: float) -> None:
        if not 0 <= weight_bp <= WEIGHT_BP_MAX:
            raise InvalidValueError(f"weight_bp must be from 0 to {WEIGHT_BP_MAX} basis points, not {weight_bp!r}")
        at_s = finite(wall_time_s)
        self._store.checked().weights[route] = HandWeight(route, stable, canary, weight_bp, by, at_s)

    def load_snapshot(self, rollout_id: str) -> Snapshot | None:
        return self._store.checked().snapshots.get(rollout_id)

    def save_snapshot(self, rollout_id: str, analysis_state: bytes, evidence: bytes, wall_time_s: float) -> None:
        seq = self.events(rollout_id)[-1].seq
        snapshot = Snapshot(rollout_id, seq, finite(wall_time_s), analysis_state, evidence)
        self._store.checked().snapshots[rollout_id] = snapshot

    def deliveries(self) -> dict[str, int]:
        return dict(sorted(self._store.checked().deliveries.items()))

    def remember_delivery(self, hook: str, rollout_id: str, revision: int) -> None:
        found = [
            entry.seq for entry in self._all() if (entry.rollout_id, entry.state.revision) == (rollout_id, revision)
        ]
        if found:
            self.move_delivery(hook, found[0])

    def move_delivery(self, hook: str, seq: int) -> None:
        known = self._store.checked().deliveries
        known[hook] = max(seq, known.get(hook, -1))


class MemoryConfigurations(Configurations):
    """Its configurations."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store

    def newest(self) -> ConfigurationRevision:
        return self._store.checked().configuration

    def replace(self, stored: Stored | None, revision: int) -> int:
        kept = self._store.checked()
        if self.newest().revision != revision:
            raise ConflictError("the configuration was replaced meanwhile")
        kept.configuration = ConfigurationRevision(revision + 1, stored)
        return revision + 1


class MemoryAnswers(Answers):
    """Its answers."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store

    def add(self, answer: KeptAnswer, *, kept: int, expired_s: float) -> None:
        contents = self._store.checked()
        contents.answers.pop((answer.principal, answer.key), None)
        contents.answers[answer.principal, answer.key] = answer
        found = [one for one in contents.answers.values() if one.at_s > expired_s][-kept:]
        contents.answers = {(one.principal, one.key): one for one in found}

    def all(self) -> list[KeptAnswer]:
        return list(self._store.checked().answers.values())


class MemoryAudit(Audit):
    """Its audit trail."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store

    def append(self, entries: Sequence[AuditEntry], *, kept: int) -> None:
        contents = self._store.checked()
        contents.audit = dict(sorted((contents.audit | {entry.id: entry for entry in entries}).items())[-kept:])

    def page(self, limit: int, before: int | None = None) -> list[AuditEntry]:
        found = [entry for number, entry in self._store.checked().audit.items() if before is None or number < before]
        return found[::-1][: max(0, limit)]


class MemoryPasts(Pasts):
    """Its pasts."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store

    def all(self) -> list[KeptPast]:
        return [one for _, one in sorted(self._store.checked().pasts.items())]

    def save(self, pasts: Sequence[KeptPast], routes: frozenset[str], wall_time_s: float) -> None:
        contents = self._store.checked()
        kept = contents.pasts | {one.route: one for one in pasts}
        contents.pasts = {name: one for name, one in kept.items() if name in routes}


class MemoryStore(Store):
    """An open store on a shelf."""

    place = Shelf.place
    broken = False
    damage = ()

    def __init__(self, shelf: Shelf) -> None:
        if shelf.holder is not None:
            raise StoreBusyError(f"{shelf.place}: another process has it open")
        shelf.holder = self
        self._shelf = shelf
        self.contents = shelf.contents
        self.journal = MemoryJournal(self)
        self.configurations = MemoryConfigurations(self)
        self.answers = MemoryAnswers(self)
        self.audit = MemoryAudit(self)
        self.pasts = MemoryPasts(self)

    def checked(self) -> Contents:
        """The contents, for the caller that has the fence."""
        self._shelf.check(self)
        return self.contents

    def copy(self) -> bytes:
        return pickle.dumps(self.checked())

    def check_room(self) -> None:
        self.checked()

    def close(self) -> None:
        if self._shelf.holder is self:
            self._shelf.holder = None
