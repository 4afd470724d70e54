"""The store of control's state: what every implementation guarantees. There is one: SQLite (`sqlite_store`).

Five things are kept: the *journal* (decisions on rollouts and what belongs to them), the *configuration* that was given
at run time, the *answers* to requests with an idempotency key, the *audit* trail, and the *pasts*: what stable versions
did while they were served. Nothing of how they are kept
shows here, so that a second implementation (etcd) can take SQLite's place; `tests/control/test_store_contract.py` is
what it has to pass.

Durability
----------
1. **One writer.** An open store holds a fence (SQLite: the lock on the file; etcd: a lease). A process that cannot get
   it is refused with `StoreBusyError`; one that has lost it has every later write refused. Two control processes never
   write.
2. **Each operation is one transaction**, and what returned is durable: it was synced. A crash during an operation
   leaves all of it or nothing; a crash between two leaves the first. What must not come apart is therefore one
   operation: an event with the state after it, the role that it gives, and the weight that it replaces.
3. **Order.** Operations are carried out in the order of the calls (`writer.JournalWriter`, one thread). What gives a
   canary more is stored before it is in force; what gives it less is in force first. A configuration is stored before
   it is in force. An idempotency answer and an audit entry follow what they record: a crash before them forgets
   that it was answered, never what was decided.
4. **A write that failed leaves the store in doubt**: no space, a read-only disk, an I/O error, a failed sync. Every
   later write is refused, reads answer as far as the disk allows, and only opening it again ends that. After
   `NoRoomError` control does so by itself as soon as there is room; after any other error an operator does.
5. **Damage is found when the store is opened** (SQLite: every page, and the checksum of every row). Damage to what
   decides, or to the file as a whole, refuses the store: stable only, no rollout. Damage to a row of the
   configurations, the answers, the audit trail or the pasts costs that row alone. Row and file stay as they are, and
   it is said.
   What is only shown (the archive, the series of evidence) is checked when it is read, so that a long history makes no
   start slow; a damaged row of it counts as absent.
6. **Clocks are for people.** Decisions are ordered by ``seq`` (1, 2, 3, … without gaps), configurations by
   ``revision``, audit entries by ``id``. Only answers expire by the wall clock: set back, it keeps them longer,
   and their number is bounded whatever it says.
7. **A configuration is replaced by comparing its revision**: a write that does not know the newest revision is refused.
8. **A copy** (`Store.copy`) holds everything up to one moment between two operations, and is a store by itself.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

from msgspec.structs import replace

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
)
from gateway.core.analysis.types import Analysis
from gateway.core.errors import GatewayError, JournalError
from gateway.core.rollout import Event, Rollout, step


class StoreBusyError(JournalError):
    """Another process holds the store."""


class NoRoomError(JournalError):
    """The disk was full or read-only: nothing was written, and nothing that was written before is in doubt."""

    def __init__(self, text: str, path: Path | None = None) -> None:
        """``path`` is the file that could not be opened or written."""
        super().__init__(text)
        self.path = path


# So many old rollouts are in the archive.
ARCHIVED_MAX = 10_000


class Archive(ABC):
    """Old rollouts, whose events `Journal.prune` took out: they decide nothing any more. All methods block."""

    @abstractmethod
    def page(
        self, route: str | None = None, limit: int = 50, before: float | None = None, search: str = ""
    ) -> list[PastRollout]:
        """Those that began before the seq ``before`` and have all words of ``search``, newest first."""

    @abstractmethod
    def find(self, rollout_id: str) -> PastRollout:
        """One of them, or NotFoundError."""

    @abstractmethod
    def events(self, rollout_id: str) -> list[JournalEntry]:
        """All that happened to it, oldest first, or NotFoundError."""

    @abstractmethod
    def last_rollout(self, route: str, canary: str) -> PastRollout | None:
        """The last one of this canary on this route that had begun."""


class Journal(ABC):
    """The decisions on rollouts, and what belongs to them.

    An event-sourced log: each entry holds the event *and* the state after it, so that the latest state is one look-up,
    and folding the events through `step` must reproduce it (`replay`). Old rollouts are pruned, and so is the middle of
    one that is steered for ever; their seqs are kept. All methods block, and raise JournalError when the disk fails.
    """

    place: str
    archive: Archive

    @property
    @abstractmethod
    def last_seq(self) -> int:
        """The seq of the newest event, 0 before the first."""

    # decisions

    @abstractmethod
    def append(
        self,
        rollout_id: str,
        event: Event,
        state: Rollout,
        analysis: Analysis | None,
        wall_time_s: float,
        configured: str | None = None,
    ) -> int:
        """Store an event that changed a rollout, with the state after it, and return its seq.

        ``configured`` is what the configuration names as the route's stable backend, the rollout's own if not given:
        with it a promotion is kept, in the same transaction, for as long as the configuration says so. A weight that
        was set by hand on the route ends, for the rollout owns the weight; snapshots end with the route's next rollout.
        """

    @abstractmethod
    def latest(self, route: str) -> Rollout | None:
        """Return the state of the rollout that last changed on a route, None without one."""

    @abstractmethod
    def rollouts(self, route: str | None = None, limit: int = 50, before: str | None = None) -> list[Rollout]:
        """Return the latest state of each rollout, last started first; ``before`` a rollout's id goes on from there.

        Raises NotFoundError for an unknown ``before``.
        """

    @abstractmethod
    def recent(self) -> list[PastRollout]:
        """Return all rollouts that are not in the archive, oldest first."""

    @abstractmethod
    def events(self, rollout_id: str) -> list[JournalEntry]:
        """Return all that happened to a rollout, oldest first. Raises NotFoundError for an unknown one."""

    @abstractmethod
    def entries_after(self, seq: int) -> list[JournalEntry]:
        """Return all events after ``seq``, oldest first."""

    @abstractmethod
    def prune(self, rollouts_kept: int, archived: int = ARCHIVED_MAX) -> int:
        """Move the oldest rollouts into the archive, but for the newest so many and the last one of each route.

        Of the archive the newest so many as ``archived`` are kept. Returns how many events were moved.
        """

    @abstractmethod
    def shorten(self, rollout_id: str, events_kept: int) -> int:
        """Take out what happened in the middle of a long rollout, but for its start and the newest so many events.

        Returns how many events went. What is left still replays: after the gap it is taken from the stored state.
        """

    @abstractmethod
    def pruned_between(self, first: int, last: int) -> bool:
        """Whether events between these two seqs were taken out by `prune` or `shorten`."""

    def replay(self, rollout_id: str) -> Rollout:
        """Fold a rollout's events through `step` and return its state, which is the stored one.

        Only ``reason`` is taken from the store unchecked: a later version may say the same thing in other words.
        Raises JournalError with the seq where the two part, NotFoundError for an unknown rollout.
        """
        state, seq = Rollout(), 0
        for entry in self.events(rollout_id):
            if entry.state.revision > state.revision + 1 and self.pruned_between(seq, entry.seq):
                state, seq = entry.state, entry.seq
                continue
            seq = entry.seq
            try:
                stepped, _ = step(state, entry.event)
            except GatewayError as error:
                raise self._diverged(entry, str(error)) from error
            state = replace(stepped, reason=entry.state.reason)
            if state != entry.state:
                raise self._diverged(entry, f"replayed, it is {stepped.phase} at {stepped.weight_bp} bp")
        return state

    def _diverged(self, entry: JournalEntry, why: str) -> JournalError:
        return JournalError(
            f"{self.place}: rollout {entry.rollout_id} cannot be replayed: event {entry.seq} ({entry.kind}) was stored"
            f" with {entry.state.phase} at {entry.state.weight_bp} bp: {why};"
            " abort the rollout with the version that wrote it, or start a new one"
        )

    # what belongs to them

    @abstractmethod
    def roles(self) -> dict[str, Roles]:
        """Return which backends promotions have made stable, by route."""

    @abstractmethod
    def keep_roles(self, roles: Roles) -> None:
        """Store a promotion that is missing in this journal."""

    @abstractmethod
    def drop_roles(self, route: str) -> None:
        """Forget a route's promotion: the configuration names another stable backend now."""

    @abstractmethod
    def weights(self) -> dict[str, HandWeight]:
        """Return the weights set by hand that are in force, by route."""

    @abstractmethod
    def set_weight(self, route: str, stable: str, canary: str, weight_bp: int, by: str, wall_time_s: float) -> None:
        """Store a weight that was set by hand on a route without a rollout, 0..10000 bp."""

    @abstractmethod
    def load_snapshot(self, rollout_id: str) -> Snapshot | None:
        """Return the last snapshot of a rollout, None without one."""

    @abstractmethod
    def save_snapshot(self, rollout_id: str, analysis_state: bytes, evidence: bytes, wall_time_s: float) -> None:
        """Store what the analysis knows, in place of what was stored before. Raises NotFoundError without events."""

    @abstractmethod
    def load_series(self, rollout_id: str) -> bytes | None:
        """Return what `save_series` has stored, None without anything, or where it is damaged."""

    @abstractmethod
    def save_series(self, rollout_id: str, points: bytes) -> None:
        """Store a rollout's evidence over time, in place of what was stored before; it goes with its events."""

    @abstractmethod
    def deliveries(self) -> dict[str, int]:
        """Return the seq up to which each hook has been notified."""

    @abstractmethod
    def remember_delivery(self, hook: str, rollout_id: str, revision: int) -> None:
        """Remember that ``hook`` has been notified of everything up to this change of this rollout.

        A change that is not in the journal, or lies before what is known, moves nothing.
        """

    @abstractmethod
    def move_delivery(self, hook: str, seq: int) -> None:
        """Remember that ``hook`` has been notified of everything up to ``seq``; never moves back."""


class Configurations(ABC):
    """The configuration that was given at run time: the newest revision of it. All methods block."""

    @abstractmethod
    def newest(self) -> ConfigurationRevision:
        """The newest revision; revision 0, which holds nothing, before the first."""

    @abstractmethod
    def replace(self, stored: Stored | None, revision: int) -> int:
        """Store another one, None for what the file says, where ``revision`` is the newest; return the new number.

        Raises ConflictError when it is not the newest any more.
        """


class Answers(ABC):
    """The answers to requests that came with an idempotency key. All methods block."""

    @abstractmethod
    def add(self, answer: KeptAnswer, *, kept: int, expired_s: float) -> None:
        """Store an answer in place of the same key's; the oldest beyond ``kept`` and those up to ``expired_s`` go."""

    @abstractmethod
    def all(self) -> list[KeptAnswer]:
        """All of them, oldest first."""


class Audit(ABC):
    """The audit trail. All methods block."""

    @abstractmethod
    def append(self, entries: Sequence[AuditEntry], *, kept: int) -> None:
        """Store entries after all others, in one transaction; the oldest beyond ``kept`` go."""

    @abstractmethod
    def page(self, limit: int, before: int | None = None) -> list[AuditEntry]:
        """Entries, newest first, from the one before the id ``before`` on."""


class Pasts(ABC):
    """What stable of each route did while it was served. All methods block."""

    @abstractmethod
    def all(self) -> list[KeptPast]:
        """One for each route that has any; one that cannot be read says why."""

    @abstractmethod
    def save(self, pasts: Sequence[KeptPast], routes: frozenset[str], wall_time_s: float) -> None:
        """Store these in place of what was stored of their routes; what is of none of ``routes`` goes."""


class Store(ABC):
    """An open store; the module says what it promises. ``place`` names it in messages."""

    place: str
    journal: Journal
    configurations: Configurations
    answers: Answers
    audit: Audit
    pasts: Pasts

    @property
    @abstractmethod
    def broken(self) -> bool:
        """Whether a write has failed, so that none is accepted any more."""

    @property
    @abstractmethod
    def damage(self) -> tuple[str, ...]:
        """What was found damaged when it was opened and does without, a sentence each (rule 5)."""

    @abstractmethod
    def copy(self) -> bytes:
        """The whole store as it is between two operations, as the content of a file that can be opened (rule 8)."""

    @abstractmethod
    def check_room(self) -> None:
        """Raise JournalError unless as much as is stored could be written once more."""

    @abstractmethod
    def close(self) -> None:
        """Close it and release the fence. Closing again does nothing."""
