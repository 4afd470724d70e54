"""What every store has to do: SQLite, and one in memory that knows no SQL."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest
from msgspec.structs import replace

from gateway.config.stored import Stored
from gateway.control.journal.rows import (
    AuditEntry,
    ConfigurationRevision,
    HandWeight,
    KeptAnswer,
    KeptPast,
    Roles,
    RoutePast,
    Snapshot,
)
from gateway.control.journal.sqlite_store import SqliteStore
from gateway.control.journal.store import Store, StoreBusyError
from gateway.core.analysis.bursts.past import StablePast
from gateway.core.errors import ConflictError, InvalidValueError, JournalError, NotFoundError, TransitionError
from gateway.core.rollout import (
    AbortRequested,
    Event,
    PauseRequested,
    Phase,
    Plan,
    PromoteRequested,
    ResumeRequested,
    Rollout,
    Started,
    Step,
    step,
)
from tests.support.memory_store import MemoryStore, Shelf

PLAN = Plan(steps=(Step(500, 0.0, 10), Step(2500, 0.0, 10)), deadline_s=600.0)
KINDS = (PauseRequested, ResumeRequested, AbortRequested)
Opening = Callable[[], Store]


@pytest.fixture(params=["sqlite", "memory"])
def opening(request: pytest.FixtureRequest, tmp_path: Path) -> Opening:
    """What opens the same store, again and again."""
    if request.param == "sqlite":
        return lambda: SqliteStore.open(tmp_path / "state.sqlite3")
    shelf = Shelf()
    return lambda: MemoryStore(shelf)


def start(rollout_id: str = "r1", route: str = "digits") -> Started:
    return Started(rollout_id, route, "v1", "v2", PLAN, 1.5, "alice")


def live(store: Store, *events: Event) -> Rollout:
    """Append the events of one rollout, each that changes something."""
    state = Rollout()
    for event in events:
        state, _ = step(state, event)
        store.journal.append(state.rollout_id, event, state, None, 1_700_000_000.25)
    return state


def answer(key: str, at_s: float = 1.0, principal: str = "ci") -> KeptAnswer:
    return KeptAnswer(principal, key, "print", 201, {"location": "/x"}, f"body of {key}", at_s)


def entry(number: int) -> AuditEntry:
    return AuditEntry(number, "2026-11-30", "ops", "ops", "127.0.0.1", "POST", f"/{number}", 200, said="zoë")


def stored(text: str) -> Stored:
    return Stored("0" * 64, text, "alice", "2026-11-30")


# one writer


def test_a_second_one_is_refused_and_the_first_goes_on(opening: Opening) -> None:
    first = opening()
    with pytest.raises(StoreBusyError, match="another process has it open"):
        opening()
    live(first, start())
    first.close()
    first.close()
    second = opening()
    assert second.journal.last_seq == 1
    for work in (
        lambda: first.journal.set_weight("digits", "v1", "v2", 0, "bob", 1.0),
        lambda: first.configurations.replace(None, 0),
        lambda: first.audit.append([entry(1)], kept=10),
        first.answers.all,
    ):
        with pytest.raises(JournalError):
            work()
    live(second, start("r2"))
    second.close()


# the journal


def test_an_event_its_state_and_what_follows_from_it_are_one(opening: Opening) -> None:
    store = opening()
    store.journal.set_weight("digits", "v1", "v2", 1250, "bob", 3.0)
    store.journal.set_weight("faces", "v1", "v2", 70, "bob", 3.0)
    state = live(
        store, start(), PauseRequested(2.0, "bob", "µ"), ResumeRequested(3.0, "bob"), PromoteRequested(4.0, "eve")
    )
    store.close()
    store = opening()
    entries = store.journal.events("r1")
    assert [(e.seq, e.kind) for e in entries] == [
        (1, "Started"),
        (2, "PauseRequested"),
        (3, "ResumeRequested"),
        (4, "PromoteRequested"),
    ]
    assert store.journal.replay("r1") == store.journal.latest("digits") == entries[-1].state == state
    assert store.journal.roles() == {"digits": Roles("digits", "v1", "v2", "r1", 1_700_000_000.25)}
    assert store.journal.weights() == {"faces": HandWeight("faces", "v1", "v2", 70, "bob", 3.0)}
    back, _ = step(state, AbortRequested(5.0, "eve"))
    store.journal.append("r1", AbortRequested(5.0, "eve"), back, None, 1.0)
    assert store.journal.roles() == {}, "the promotion was taken back"
    store.close()


def test_a_role_outlives_until_it_is_dropped(opening: Opening) -> None:
    store = opening()
    store.journal.keep_roles(Roles("digits", "v1", "v2", "", 1.0))
    store.close()
    store = opening()
    assert store.journal.roles()["digits"].stable == "v2"
    store.journal.drop_roles("digits")
    store.journal.drop_roles("digits")
    assert store.journal.roles() == {}
    store.close()


def test_rollouts_come_newest_first_page_by_page_and_by_route(opening: Opening) -> None:
    store = opening()
    for n in range(5):
        live(store, start(f"r{n}", f"route-{n % 2}"))
    old, _ = step(store.journal.rollouts(before="r1")[0], AbortRequested(9.0, "bob"))
    store.journal.append("r0", AbortRequested(9.0, "bob"), old, None, 2.0)

    def ids(**query: object) -> list[str]:
        return [rollout.rollout_id for rollout in store.journal.rollouts(**query)]  # type: ignore[arg-type]  # keyword arguments as data

    assert ids() == ["r4", "r3", "r2", "r1", "r0"]
    assert ids(limit=2, before="r3") == ["r2", "r1"]
    assert ids(route="route-0", before="r2") == ["r0"]
    assert ids(limit=0) == ids(route="nowhere") == []
    assert store.journal.latest("route-0") == old and store.journal.latest("nowhere") is None
    assert [e.seq for e in store.journal.entries_after(4)] == [5, 6]
    for look_up in (lambda: ids(before="r9"), lambda: store.journal.events("r9"), lambda: store.journal.replay("r9")):
        with pytest.raises(NotFoundError, match="no rollout 'r9'"):
            look_up()
    store.close()


def test_what_is_taken_out_is_known_to_have_been_there(opening: Opening) -> None:
    store = opening()
    for n in range(8):
        live(store, start(f"r{n}"), AbortRequested(2.0, "bob"))
    live(store, start("quiet", "quiet"))
    steered = [kind(2.0 + n, "bob") for n in range(20) for kind in (PauseRequested, ResumeRequested)]
    state = live(store, start("long", "long"), *steered)
    last = store.journal.last_seq
    assert store.journal.prune(2) == 10
    assert store.journal.shorten("long", 5) == 35
    store.close()
    store = opening()
    assert [r.rollout_id for r in store.journal.rollouts()] == ["long", "quiet", "r7", "r6", "r5"]
    assert store.journal.replay("long") == state and len(store.journal.events("long")) == 6
    assert store.journal.pruned_between(0, 11) and not store.journal.pruned_between(11, 14)
    assert store.journal.prune(2) == store.journal.shorten("long", 5) == 0
    archive = store.journal.archive
    assert [one.rollout.rollout_id for one in archive.page()] == ["r4", "r3", "r2", "r1", "r0"]
    assert [len(store.journal.events(f"r{n}")) for n in range(8)] == [2] * 8
    assert store.journal.replay("r1") == archive.find("r1").rollout
    live(store, start("after"))
    assert store.journal.last_seq == last + 1, "their numbers are not used again"
    store.close()


def test_old_rollouts_are_listed_searched_and_bounded(opening: Opening) -> None:
    store = opening()
    for n in range(12):
        live(store, start(f"r{n:02}", f"route-{n % 2}"), AbortRequested(2.0, "bob" if n % 3 else "zoë_%"))
    assert store.journal.prune(2, archived=6) == 16
    store.close()
    store = opening()
    archive = store.journal.archive

    def names(**query: object) -> list[str]:
        return [one.rollout.rollout_id for one in archive.page(**query)]  # type: ignore[arg-type]  # keyword arguments as data

    assert [one.rollout.rollout_id for one in store.journal.recent()] == ["r08", "r09", "r10", "r11"]
    assert names() == ["r07", "r06", "r05", "r04", "r03", "r02"], "the newest six of what was taken out"
    assert names(limit=2, before=archive.find("r06").opened) == ["r05", "r04"]
    assert names(route="route-1") == ["r07", "r05", "r03"] and names(route="other") == []
    assert names(search="ROUTE-0 rolled_back ZOË") == ["r06"] and names(search="_% r03") == ["r03"]
    assert names(search="b_b") == [] == names(search="r06 r05")
    assert archive.last_rollout("route-1", "v2") == archive.find("r07")
    assert archive.last_rollout("route-1", "v3") is None
    for unknown in ("r00", "r08", "never"):
        with pytest.raises(NotFoundError):
            archive.find(unknown)
    with pytest.raises(NotFoundError):
        store.journal.events("r00")
    store.close()


def test_evidence_over_time_is_replaced_and_goes_with_the_events(opening: Opening) -> None:
    store = opening()
    live(store, start("r1"), AbortRequested(2.0, "bob"))
    store.journal.save_series("r1", b"old")
    store.journal.save_series("r1", bytes(range(256)))
    store.close()
    store = opening()
    assert store.journal.load_series("r1") == bytes(range(256)) and store.journal.load_series("r2") is None
    live(store, start("r2"))
    store.journal.prune(0)
    assert store.journal.load_series("r1") is None
    store.close()


def test_snapshots_are_replaced_and_go_with_the_next_rollout_of_the_route(opening: Opening) -> None:
    store = opening()
    live(store, start())
    live(store, start("other", "elsewhere"))
    store.journal.save_snapshot("r1", b"\x00state", b"counts", 1.0)
    store.journal.save_snapshot("r1", b"\xffnewer", b"more", 2.0)
    store.journal.save_snapshot("other", b"o", b"", 3.0)
    store.close()
    store = opening()
    assert store.journal.load_snapshot("r1") == Snapshot("r1", 1, 2.0, b"\xffnewer", b"more")
    live(store, start("r2"))
    assert store.journal.load_snapshot("r1") is None
    assert store.journal.load_snapshot("other") == Snapshot("other", 2, 3.0, b"o", b"")
    with pytest.raises(NotFoundError, match="no rollout 'r9'"):
        store.journal.save_snapshot("r9", b"", b"", 1.0)
    store.close()


def test_deliveries_never_move_back(opening: Opening) -> None:
    store = opening()
    live(store, start(), PauseRequested(2.0, "bob"), ResumeRequested(3.0, "bob"))
    for revision in (2, 1, 9):
        store.journal.remember_delivery("slack", "r1", revision)
    store.journal.remember_delivery("slack", "nothing", 1)
    store.journal.move_delivery("mail", 3)
    store.journal.move_delivery("mail", 1)
    assert store.journal.deliveries() == {"mail": 3, "slack": 2}
    store.close()


def test_bad_values_are_refused_and_change_nothing(opening: Opening) -> None:
    store = opening()
    state, _ = step(Rollout(), start())
    for work in (
        lambda: store.journal.append("r2", start(), state, None, 1.0),
        lambda: store.journal.append("r1", start(), state, None, float("nan")),
        lambda: store.journal.set_weight("digits", "v1", "v2", 10_001, "bob", 1.0),
    ):
        with pytest.raises(InvalidValueError):
            work()
    assert store.journal.last_seq == 0 and store.journal.weights() == {} and not store.broken
    assert live(store, start()).phase is Phase.PROGRESSING
    store.close()


def test_a_state_that_does_not_follow_from_its_events_is_named(opening: Opening) -> None:
    store = opening()
    state = live(store, start(), PauseRequested(2.0, "bob"))
    resumed = ResumeRequested(3.0, "bob")
    store.journal.append("r1", resumed, replace(step(state, resumed)[0], weight_bp=9000), None, 1.0)
    with pytest.raises(JournalError, match=r"event 3 \(ResumeRequested\) was stored with PROGRESSING at 9000 bp"):
        store.journal.replay("r1")
    store.close()


# the configuration


def test_a_configuration_is_replaced_by_whoever_knows_the_newest(opening: Opening) -> None:
    store = opening()
    assert (store.configurations.newest().revision, store.configurations.newest().stored) == (0, None)
    assert store.configurations.replace(stored("a: 1"), 0) == 1
    for stale in (0, 2):
        with pytest.raises(ConflictError, match="replaced meanwhile"):
            store.configurations.replace(stored("a: 2"), stale)
    store.close()
    store = opening()
    newest = store.configurations.newest()
    assert (newest.revision, newest.stored, newest.damage) == (1, stored("a: 1"), "")
    assert store.configurations.replace(None, 1) == 2
    assert store.configurations.newest().stored is None
    for revision in range(2, 40):
        store.configurations.replace(stored(f"a: {revision}"), revision)
    assert store.configurations.newest() == ConfigurationRevision(40, stored("a: 39"))
    store.close()


# answers and the audit trail


def test_answers_are_kept_by_number_and_age_whatever_the_clock_says(opening: Opening) -> None:
    store = opening()
    for n in range(6):
        store.answers.add(answer(f"k{n}", 100.0 + n), kept=4, expired_s=0.0)
    store.answers.add(replace(answer("k3", 110.0), body="anew"), kept=4, expired_s=0.0)
    store.answers.add(answer("k3", 110.0, "other"), kept=4, expired_s=0.0)
    store.close()
    store = opening()
    assert [(a.principal, a.key, a.body) for a in store.answers.all()] == [
        ("ci", "k4", "body of k4"),
        ("ci", "k5", "body of k5"),
        ("ci", "k3", "anew"),
        ("other", "k3", "body of k3"),
    ]
    # The clock was set back by an hour: nothing expires that had not, and the number is bounded all the same.
    store.answers.add(answer("back", -3600.0), kept=4, expired_s=-90_000.0)
    assert [a.key for a in store.answers.all()] == ["k5", "k3", "k3", "back"]
    store.answers.add(answer("on", 90_000.0), kept=4, expired_s=3_600.0)
    assert [a.key for a in store.answers.all()] == ["on"]
    store.close()


def test_the_audit_trail_pages_from_the_newest_and_is_bounded(opening: Opening) -> None:
    store = opening()
    store.audit.append([entry(n) for n in range(1, 8)], kept=5)
    store.audit.append([], kept=5)
    store.close()
    store = opening()
    store.audit.append([entry(8)], kept=5)
    assert store.audit.page(100) == [entry(n) for n in (8, 7, 6, 5, 4)]
    assert store.audit.page(2, before=7) == [entry(6), entry(5)]
    assert store.audit.page(0) == store.audit.page(10, before=4) == []
    store.close()


# a copy


def test_a_copy_is_a_store_with_everything_up_to_then(opening: Opening, tmp_path: Path) -> None:
    store = opening()
    state = live(store, start(), PauseRequested(2.0, "bob"))
    store.configurations.replace(stored("a: 1"), 0)
    store.answers.add(answer("k"), kept=9, expired_s=0.0)
    store.audit.append([entry(1)], kept=9)
    copied = store.copy()
    live(store, start("r2"))
    if isinstance(store, SqliteStore):
        (tmp_path / "copy").write_bytes(copied)
        other: Store = SqliteStore.open(tmp_path / "copy")
    else:
        other = MemoryStore(Shelf(copied))
    assert [r.rollout_id for r in store.journal.rollouts()] == ["r2", "r1"]
    assert other.journal.rollouts() == [state] and other.journal.replay("r1") == state
    assert other.configurations.newest().stored == stored("a: 1")
    assert (other.answers.all(), other.audit.page(9)) == ([answer("k")], [entry(1)])
    live(other, start("r3"))
    assert store.journal.last_seq == other.journal.last_seq == 3
    store.close()
    other.close()


@pytest.mark.parametrize("seed", range(2))
def test_two_stores_answer_the_same_to_the_same(tmp_path: Path, seed: int) -> None:
    """Random calls on both, and everything that can be asked compared: a third implementation is put in here too."""
    dice, stores = random.Random(seed), (SqliteStore.open(tmp_path / "state.sqlite3"), MemoryStore(Shelf()))
    states: dict[str, Rollout] = {}
    for turn in range(120):
        name, route = f"r{dice.randrange(6)}", f"route-{dice.randrange(2)}"
        known = states.get(name, Rollout())
        events: list[Event] = [start(name, route), *(kind(turn, "b") for kind in KINDS)]
        event = dice.choice(events)
        try:
            state, _ = step(known, event)
        except TransitionError:  # the machine does not allow it: nothing to store
            continue
        if state is known or not state.rollout_id:
            continue
        states[name] = state
        what, number = dice.randrange(4), dice.randrange(1, 4)
        for store in stores:
            store.journal.append(state.rollout_id, event, state, None, float(turn))
            if what == 0:
                store.journal.prune(number)
            elif what == 1:
                store.journal.set_weight(route, "v1", "v2", number, "bob", float(turn))
            elif what == 2:
                store.journal.remember_delivery("hook", state.rollout_id, state.revision - number)
    first, second = (
        (
            *(s.journal.rollouts(), s.journal.recent(), s.journal.archive.page()),
            *(s.journal.weights(), s.journal.deliveries(), s.journal.entries_after(0)),
        )
        for s in stores
    )
    assert first == second, f"seed {seed}"
    for store in stores:
        store.close()


# the pasts of stable versions


def test_pasts_are_replaced_by_route_and_go_with_it(opening: Opening) -> None:
    store = opening()
    assert store.pasts.all() == []
    one, two = (KeptPast(name, RoutePast("v1", {"": StablePast(known_s=n)})) for name, n in (("a", 1.0), ("b", 2.0)))
    store.pasts.save([one, two], frozenset("ab"), 1.0)
    newer = KeptPast("a", RoutePast("v2", {"errors": StablePast(at_s=3.0, known_s=9.5, total_s=2.0)}))
    store.pasts.save([newer], frozenset("ab"), 2.0)
    store.close()
    again = opening()
    assert again.pasts.all() == [newer, two]
    again.pasts.save([], frozenset("b"), 3.0)
    assert again.pasts.all() == [two]
