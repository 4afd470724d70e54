"""The journal against a real file: kills, a full disk, failed syncs, flipped bits, a second opener, odd files."""

from __future__ import annotations

import math
import os
import random
import signal
import sqlite3
import stat
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace

import gateway
from gateway.control.journal.rows import HandWeight, Snapshot
from gateway.control.journal.sqlite_schema import APPLICATION_ID, VERSION
from gateway.control.journal.sqlite_store import SqliteStore
from gateway.control.journal.store import Journal
from gateway.core.analysis.types import Analysis, Finding, Verdict
from gateway.core.errors import InvalidValueError, JournalError, NotFoundError, TransitionError
from gateway.core.rollout import (
    AbortRequested,
    Analysed,
    Event,
    PauseRequested,
    Phase,
    Plan,
    PromoteRequested,
    Restarted,
    ResumeRequested,
    Rollout,
    Started,
    Step,
    WeightRequested,
    step,
)

ROOT = Path(gateway.__file__).parents[1]
PLAN = Plan(steps=(Step(500, 0.0, 10), Step(2500, 0.0, 10)), deadline_s=600.0)
FINDING = Finding("errors", Verdict.FAIL, "9% against 1%", True, 9.5, -math.inf, 3, 300, 27, 300, {"ratio": 9.0})
ANALYSIS = Analysis(Verdict.FAIL, "errors", ("errors",), (FINDING,), 9.5, 4.6, math.inf, 300, 300)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "state.sqlite3"


@contextmanager
def opened(path: Path) -> Iterator[Journal]:
    """The journal of the store in that file."""
    with SqliteStore.open(path) as store:
        yield store.journal


def start(rollout_id: str = "r1", route: str = "digits", plan: Plan = PLAN) -> Started:
    return Started(rollout_id, route, "v1", "v2", plan, 1.5, "alice")


def write(journal: Journal, *events: Event, analysis: Analysis | None = None) -> Rollout:
    """Live through the events of one rollout, appending each that changes something."""
    state = Rollout()
    for event in events:
        new, _ = step(state, event)
        if new is not state:
            journal.append(new.rollout_id, event, new, analysis, 1_700_000_000.25)
        state = new
    return state


def random_life(rng: random.Random, rollout_id: str, route: str) -> list[Event]:
    """Events that the machine allows, one after the other, in a random order."""
    state, _ = step(Rollout(), start(rollout_id, route))
    life: list[Event] = [start(rollout_id, route)]
    for tick in range(rng.randrange(2, 12)):
        at_s, by = 2.0 + tick, rng.choice(["bob", "zoë", "\ud800", "O'Neill\n\0"])
        choices: list[Event] = [
            Analysed(at_s, rng.choice(list(Verdict)), "why", ("errors",), rng.randrange(100)),
            PauseRequested(at_s, by, "µ"),
            ResumeRequested(at_s, by, rng.randrange(100)),
            WeightRequested(at_s, by, rng.randrange(10_001)),
            Restarted(rng.random(), rng.choice([None, 0, 500, 10_000]), 3),
            PromoteRequested(at_s, by),
            AbortRequested(at_s, by),
        ]
        event = rng.choice(choices)
        try:
            state, _ = step(state, event)
        except TransitionError:
            continue
        life.append(event)
    return life


def contents(journal: Journal) -> object:
    """Everything that can be read from the journal."""
    rollouts = journal.rollouts(limit=1000)
    ids = [rollout.rollout_id for rollout in rollouts]
    return (
        rollouts,
        [journal.events(rollout_id) for rollout_id in ids],
        [journal.replay(rollout_id) for rollout_id in ids],
        [journal.load_snapshot(rollout_id) for rollout_id in ids],
        {rollout.route: journal.latest(rollout.route) for rollout in rollouts},
        journal.weights(),
    )


def child(script: str, *arguments: object) -> subprocess.Popen[str]:
    """A Python process that has this test's imports and runs the script."""
    prelude = """
        import os, resource, sys
        from gateway.control.journal.sqlite_store import SqliteStore
        from gateway.core.errors import JournalError
        from gateway.core.rollout import *
        PLAN = Plan(steps=(Step(500, 0.0, 10), Step(2500, 0.0, 10)))
        START = Started("r1", "digits", "v1", "v2", PLAN, 0.0, "alice")
        def appended(journal, state, event):
            state, _ = step(state, event)
            return state, journal.append(state.rollout_id, event, state, None, 1.0)
    """
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(prelude) + textwrap.dedent(script), *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


def said(process: subprocess.Popen[str]) -> list[str]:
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    return out.split("\n")


# --- what is written is there ---


def test_what_was_written_is_read_after_reopening(path: Path) -> None:
    with opened(path) as journal:
        events = (start(), PauseRequested(2.0, "bob", "why"), Analysed(3.0, Verdict.FAIL, "bad", ("errors",), 300))
        state = write(journal, *events, analysis=ANALYSIS)
    with opened(path) as journal:
        entries = journal.events("r1")
        assert [entry.event for entry in entries] == list(events)
        assert [(entry.seq, entry.kind) for entry in entries] == [
            (1, "Started"),
            (2, "PauseRequested"),
            (3, "Analysed"),
        ]
        assert (entries[-1].state, entries[-1].analysis, entries[-1].wall_time_s) == (state, ANALYSIS, 1_700_000_000.25)
        assert journal.latest("digits") == journal.replay("r1") == state
        assert state.phase is Phase.ROLLED_BACK
        assert journal.append("r2", start("r2"), step(Rollout(), start("r2"))[0], None, 5) == 4


@pytest.mark.parametrize("seed", range(3))
def test_replaying_random_lives_gives_the_live_states(path: Path, seed: int) -> None:
    rng = random.Random(seed)
    with opened(path) as journal:
        lived = {f"r{n}": write(journal, *random_life(rng, f"r{n}", f"route-{n % 3}")) for n in range(12)}
        before = contents(journal)
    with opened(path) as journal:
        assert {rollout_id: journal.replay(rollout_id) for rollout_id in lived} == lived
        assert contents(journal) == before


def test_rollouts_come_newest_first_page_by_page_and_by_route(path: Path) -> None:
    with opened(path) as journal:
        for n in range(5):
            write(journal, start(f"r{n}", f"route-{n % 2}"))
        write_more = AbortRequested(9.0, "bob")
        old, _ = step(journal.rollouts(before="r1")[0], write_more)
        journal.append("r0", write_more, old, None, 2.0)

        def ids(**query: object) -> list[str]:
            return [rollout.rollout_id for rollout in journal.rollouts(**query)]  # type: ignore[arg-type]  # keyword arguments as data

        assert ids() == ["r4", "r3", "r2", "r1", "r0"]
        assert ids(limit=2) == ["r4", "r3"]
        assert ids(limit=2, before="r3") == ["r2", "r1"]
        assert ids(route="route-0") == ["r4", "r2", "r0"]
        assert ids(route="route-0", before="r2") == ["r0"]
        assert ids(route="nowhere") == ids(limit=0) == []
        assert journal.rollouts()[-1] == old
        assert journal.latest("route-0") == old  # the one that changed last
        assert journal.latest("nowhere") is None
        for look_up in (lambda: ids(before="r9"), lambda: journal.events("r9"), lambda: journal.replay("r9")):
            with pytest.raises(NotFoundError, match="no rollout 'r9'"):
                look_up()


def test_infinities_survive(path: Path) -> None:
    plan = replace(PLAN, deadline_s=math.inf)
    with opened(path) as journal:
        state = write(journal, start(plan=plan))
    with opened(path) as journal:
        assert journal.replay("r1") == state
        assert state.plan.deadline_s == math.inf


def test_numbers_of_numpys_kind_are_written_as_numbers(path: Path) -> None:
    finding = replace(FINDING, log_e_bad=np.float64(9.5), canary_events=np.int64(27), details={"ratio": np.float64(9)})
    with opened(path) as journal:
        write(journal, start(), analysis=replace(ANALYSIS, findings=(finding,)))
        assert journal.events("r1")[0].analysis == ANALYSIS


def test_order_is_by_seq_whatever_the_wall_clock_says(path: Path) -> None:
    with opened(path) as journal:
        state, _ = step(Rollout(), start())
        journal.append("r1", start(), state, None, 1_700_003_600.0)
        paused = PauseRequested(2.0, "bob")
        state, _ = step(state, paused)
        journal.append("r1", paused, state, None, 1_700_000_000.0)
    with opened(path) as journal:
        assert [entry.wall_time_s for entry in journal.events("r1")] == [1_700_003_600.0, 1_700_000_000.0]
        assert journal.latest("digits") == journal.replay("r1") == state


def test_a_snapshot_is_overwritten_and_goes_when_the_routes_next_rollout_starts(path: Path) -> None:
    with opened(path) as journal:
        write(journal, start(), AbortRequested(2.0, "bob"))
        write(journal, start("other", "elsewhere"))
        assert journal.load_snapshot("r1") is None
        journal.save_snapshot("r1", b"\x00state", b"counts", 1.0)
        journal.save_snapshot("r1", b"\xffnewer", b"more", 2.0)
        journal.save_snapshot("other", b"o", b"", 3.0)
    with opened(path) as journal:
        assert journal.load_snapshot("r1") == Snapshot("r1", 2, 2.0, b"\xffnewer", b"more")
        write(journal, start("r2"))
        assert journal.load_snapshot("r1") is None
        assert journal.load_snapshot("other") == Snapshot("other", 3, 3.0, b"o", b"")
        with pytest.raises(NotFoundError, match="no rollout 'r9'"):
            journal.save_snapshot("r9", b"", b"", 1.0)


def test_a_weight_set_by_hand_is_kept_until_a_rollout_decides_on_that_route(path: Path) -> None:
    with opened(path) as journal:
        journal.set_weight("digits", "v1", "v2", 1250, "bob", 1.0)
        journal.set_weight("digits", "v1", "v2", 2000, "carol", 2.0)
        journal.set_weight("faces", "v1", "v2", 0, "bob", 3.0)
    with opened(path) as journal:
        faces = HandWeight("faces", "v1", "v2", 0, "bob", 3.0)
        assert journal.weights() == {"digits": HandWeight("digits", "v1", "v2", 2000, "carol", 2.0), "faces": faces}
        write(journal, start())
        assert journal.weights() == {"faces": faces}


# --- bad input ---


@pytest.mark.parametrize("weight_bp", [-1, 10_001])
def test_a_weight_outside_its_domain_is_refused(path: Path, weight_bp: int) -> None:
    with opened(path) as journal:
        with pytest.raises(InvalidValueError, match="from 0 to 10000"):
            journal.set_weight("digits", "v1", "v2", weight_bp, "bob", 1.0)
        assert journal.weights() == {}
        journal.set_weight("digits", "v1", "v2", 5, "bob", 1.0)


def test_a_callers_error_does_not_break_the_journal(path: Path) -> None:
    state, _ = step(Rollout(), start())
    with opened(path) as journal:
        with pytest.raises(InvalidValueError, match="of rollout 'r1', not of 'r2'"):
            journal.append("r2", start(), state, None, 1.0)
        with pytest.raises(InvalidValueError, match="wall_time_s"):
            journal.append("r1", start(), state, None, math.nan)
        with pytest.raises(UnicodeEncodeError):
            journal.set_weight("digits", "v1", "v2", 5, "\ud800", 1.0)
        assert journal.append("r1", start(), state, None, 1.0) == 1


def test_a_state_that_does_not_follow_from_its_events_is_named_by_seq(path: Path) -> None:
    with opened(path) as journal:
        state = write(journal, start(), PauseRequested(2.0, "bob"))
        resumed = ResumeRequested(3.0, "bob")
        journal.append("r1", resumed, replace(step(state, resumed)[0], weight_bp=9000), None, 1.0)
        with pytest.raises(JournalError, match=r"event 3 \(ResumeRequested\) was stored with PROGRESSING at 9000 bp"):
            journal.replay("r1")
        journal.append("r1", start(), state, None, 1.0)
        write(journal, start("r2"), AbortRequested(2.0, "bob"))
        refused = PauseRequested(3.0, "bob")
        journal.append("r2", refused, replace(state, rollout_id="r2"), None, 1.0)
        with pytest.raises(JournalError, match=r"event 7 \(PauseRequested\).*cannot pause"):
            journal.replay("r2")


def test_other_words_for_the_same_decision_still_replay(path: Path) -> None:
    with opened(path) as journal:
        state = replace(step(Rollout(), start())[0], reason="begun, as an older version put it")
        journal.append("r1", start(), state, None, 1.0)
        assert journal.replay("r1") == state


# --- one writer, a private file ---


def test_the_file_and_its_folder_are_the_owners_alone(path: Path) -> None:
    SqliteStore.open(path).close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_a_second_opener_is_refused_with_the_path(path: Path) -> None:
    with opened(path) as journal:
        for _ in range(2):  # the first refusal must not have cost the holder its lock
            with pytest.raises(JournalError, match=f"{path}: database is locked; another process has it open"):
                SqliteStore.open(path)
        other = child(
            """
            try:
                SqliteStore.open(sys.argv[1])
            except JournalError as error:
                print(error)
            """,
            path,
        )
        assert f"{path}: database is locked; another process has it open" in said(other)[0]
        reader = sqlite3.connect(path, timeout=0.0)
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            reader.execute("SELECT * FROM events")
        reader.close()
        write(journal, start())
    with opened(path) as journal:
        assert journal.replay("r1").phase is Phase.PROGRESSING


def test_a_closed_journal_says_so(path: Path) -> None:
    store = SqliteStore.open(path)
    journal = store.journal
    store.close()
    store.close()
    with pytest.raises(JournalError, match="closed"):
        journal.weights()
    with pytest.raises(JournalError, match="closed"):
        journal.set_weight("digits", "v1", "v2", 0, "bob", 1.0)


@pytest.mark.parametrize("where", ["file/state.sqlite3", "folder"])
def test_a_path_that_cannot_be_a_file_is_named_with_the_fix(tmp_path: Path, where: str) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    with pytest.raises(JournalError, match=f"cannot open state file {tmp_path / where}: .*; make the file .* writable"):
        SqliteStore.open(tmp_path / where)


# --- old and odd files ---


def test_an_empty_file_gets_the_schema(path: Path) -> None:
    path.parent.mkdir()
    path.touch()
    SqliteStore.open(path).close()
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA user_version").fetchone() == (VERSION,)
    assert connection.execute("PRAGMA application_id").fetchone() == (APPLICATION_ID,)
    connection.close()
    with opened(path) as journal:
        assert write(journal, start()) == journal.latest("digits")


@pytest.mark.parametrize(
    ("statements", "message"),
    [
        (["CREATE TABLE accounts (id INTEGER)"], "is a SQLite file of another program"),
        (["CREATE TABLE accounts (id INTEGER)", "PRAGMA user_version = 1"], "is a SQLite file of another program"),
        (
            ["PRAGMA user_version = 99"],
            f"schema is version 99, this gateway reads version {VERSION}: start the newer gateway",
        ),
    ],
)
def test_a_file_of_something_else_or_of_the_future_is_refused(path: Path, statements: list[str], message: str) -> None:
    path.parent.mkdir()
    connection = sqlite3.connect(path)
    for statement in statements:
        connection.execute(statement)
    connection.commit()
    connection.close()
    before = path.read_bytes()
    with pytest.raises(JournalError, match=message):
        SqliteStore.open(path)
    assert path.read_bytes() == before


def test_a_file_that_is_no_database_is_refused(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"not a database, " * 300)
    with pytest.raises(JournalError, match=r"not a database; the file is damaged: restore a backup, or move it away"):
        SqliteStore.open(path)


# --- damage ---


def _full_journal(path: Path) -> object:
    with opened(path) as journal:
        rng = random.Random(1)
        for n in range(6):
            write(journal, *random_life(rng, f"r{n}", f"route-{n % 2}"), analysis=ANALYSIS)
            journal.save_snapshot(f"r{n}", rng.randbytes(9000), b"counts", 1.0)
        journal.set_weight("faces", "v1", "v2", 1250, "bob", 1.0)
        return contents(journal)


def test_a_flipped_bit_in_a_row_names_its_seq(path: Path) -> None:
    with opened(path) as journal:
        write(journal, start(), PauseRequested(2.0, "mallory"), ResumeRequested(3.0, "bob"))
    data = bytearray(path.read_bytes())
    data[data.index(b"mallory")] ^= 1
    path.write_bytes(data)
    with pytest.raises(JournalError, match=r"event 2 is altered; the file is damaged"):
        SqliteStore.open(path)


@pytest.mark.parametrize("seed", range(4))
def test_any_flipped_bit_is_either_detected_or_changes_nothing(path: Path, seed: int) -> None:
    whole, rng = _full_journal(path), random.Random(seed)
    pristine = path.read_bytes()
    detected = 0
    for _ in range(60):
        data, place, bit = bytearray(pristine), rng.randrange(len(pristine)), rng.randrange(8)
        data[place] ^= 1 << bit
        path.write_bytes(data)
        try:
            store = SqliteStore.open(path)
        except JournalError:
            detected += 1
            continue
        with store:
            assert contents(store.journal) == whole, f"bit {bit} of byte {place} went unnoticed (seed {seed})"
    assert detected > 10


def test_a_schema_damaged_beyond_quoting_is_refused(path: Path) -> None:
    _full_journal(path)
    data = path.read_bytes()
    path.write_bytes(data.replace(b"rollout_id TEXT PRIMARY KEY", b"rollout_id TEXT PRIMARY KE\xd9"))
    with pytest.raises(JournalError, match=r"cannot open state file .*; the file is damaged"):
        SqliteStore.open(path)


@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
def test_a_file_cut_short_is_refused(path: Path, share: float) -> None:
    _full_journal(path)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(JournalError, match="the file is damaged"):
        SqliteStore.open(path)


def test_a_row_taken_out_is_missed(path: Path) -> None:
    with opened(path) as journal:
        write(journal, start(), PauseRequested(2.0, "bob"), ResumeRequested(3.0, "bob"))
    connection = sqlite3.connect(path)
    connection.execute("DELETE FROM events WHERE seq = 2")
    connection.commit()
    connection.close()
    with pytest.raises(JournalError, match="event 2 is missing"):
        SqliteStore.open(path)


# --- old rollouts ---


def test_old_rollouts_go_and_a_row_that_is_merely_missing_is_still_missed(path: Path) -> None:
    with opened(path) as journal:
        for n in range(30):
            write(journal, start(f"r{n}"), AbortRequested(2.0, "bob"))
        write(journal, start("quiet", "quiet"))
        assert journal.prune(5) > 0
        kept = [rollout.rollout_id for rollout in journal.rollouts()]
        assert len(kept) == 7 and {"quiet", "r29"} <= set(kept) and "r0" not in kept
        assert journal.prune(5) == 0
        write(journal, start("r30"), AbortRequested(2.0, "bob"))
    with opened(path) as journal:
        assert journal.replay("r30").rollout_id == "r30"
        assert journal.prune(5) > 0
    connection = sqlite3.connect(path)
    connection.execute("DELETE FROM events WHERE rollout_id = 'r29' AND kind = 'AbortRequested'")
    connection.commit()
    connection.close()
    with pytest.raises(JournalError, match="is missing"):
        SqliteStore.open(path)


def test_the_middle_of_a_long_rollout_goes_and_the_rest_replays_and_is_reported(path: Path) -> None:
    with opened(path) as journal:
        write(journal, start("before", "elsewhere"))
        steered = [PauseRequested, ResumeRequested] * 100
        state = write(journal, start("long"), *(kind(2.0 + n, "bob") for n, kind in enumerate(steered)))
        seq = journal.last_seq
        assert journal.shorten("long", 50) == 150
        assert journal.shorten("long", 50) == journal.shorten("before", 50) == 0
        assert [entry.state.revision for entry in journal.events("long")] == [1, *range(152, 202)]
        assert journal.replay("long") == state == journal.latest("digits")
        journal.remember_delivery("slack", "long", 200)
        assert journal.deliveries() == {"slack": seq - 1}
        for revision in (150, 202, 10_000):
            journal.remember_delivery("slack", "long", revision)
        assert journal.deliveries() == {"slack": seq - 1}, "what is not there moves nothing"
        aborted = AbortRequested(999.0, "bob")
        journal.append("long", aborted, step(state, aborted)[0], None, 1.0)
    with opened(path) as journal:
        assert journal.replay("long").phase is Phase.ROLLED_BACK
        assert journal.shorten("long", 10) > 0
    connection = sqlite3.connect(path)
    connection.execute("DELETE FROM events WHERE seq = ?", (seq,))
    connection.commit()
    connection.close()
    with pytest.raises(JournalError, match="is missing"):
        SqliteStore.open(path)


# --- kills, full disks, failed syncs ---

APPEND_FOR_EVER = """
    with SqliteStore.open(sys.argv[1]) as store:
        journal = store.journal
        state = journal.latest("digits") or Rollout()
        if state.phase is Phase.IDLE:
            state, _ = appended(journal, state, START)
        while True:
            more = WeightRequested(2.0, "bob", 7) if state.phase is Phase.PROGRESSING else ResumeRequested(3.0, "bob")
            state, seq = appended(journal, state, more)
            journal.save_snapshot("r1", bytes(20_000), bytes(seq % 5000), 1.0)
            print(seq, flush=True)
"""


def test_after_kill_9_every_acknowledged_event_is_there_and_replays(path: Path) -> None:
    acknowledged = 0
    for lines in (1, 40, 97):
        process = child(APPEND_FOR_EVER, path)
        assert process.stdout is not None
        for _ in range(lines):
            line = process.stdout.readline()
            assert line, process.communicate()[1]
            acknowledged = int(line)
        os.kill(process.pid, signal.SIGKILL)
        # Not communicate(), which passes over what readline() has taken into its buffer.
        with process:
            rest = process.stdout.read()
        acknowledged = int(rest.split("\n")[-2]) if rest.count("\n") else acknowledged
        with opened(path) as journal:
            entries = journal.events("r1")
            # One more may have been committed and not yet printed.
            assert len(entries) in (acknowledged, acknowledged + 1)
            assert [entry.seq for entry in entries] == list(range(1, len(entries) + 1))
            assert journal.replay("r1") == entries[-1].state
            assert journal.load_snapshot("r1") is not None


WRITE_UNTIL_REFUSED = """
    store = SqliteStore.open(sys.argv[1])
    journal = store.journal
    state, seq = appended(journal, Rollout(), START)
    SABOTAGE
    try:
        for _ in range(500):
            more = WeightRequested(2.0, "bob", 7) if state.phase is Phase.PROGRESSING else ResumeRequested(3.0, "bob")
            state, seq = appended(journal, state, more)
    except JournalError as error:
        print(seq, store.broken, error, sep="\\n")
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    try:
        journal.set_weight("faces", "v1", "v2", 0, "bob", 1.0)
    except JournalError as error:
        print(error)
    try:
        print(len(journal.events("r1")), journal.latest("digits") == state)
    except JournalError as error:
        print(error)
"""

FILL_THE_DISK = """
    resource.setrlimit(resource.RLIMIT_FSIZE, (os.path.getsize(sys.argv[1]) + 20_000, resource.RLIM_INFINITY))
"""

# A seccomp filter that answers EIO to fsync and fdatasync: load the call's number, compare, allow or refuse.
FAIL_EVERY_SYNC = """
    import ctypes, platform, struct
    fsync, fdatasync = {"x86_64": (74, 75), "aarch64": (82, 83)}[platform.machine()]
    instructions = [(0x20, 0, 0, 0), (0x15, 2, 0, fsync), (0x15, 1, 0, fdatasync), (0x06, 0, 0, 0x7FFF0000),
                    (0x06, 0, 0, 0x00050000 | 5)]
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *i) for i in instructions))
    program = ctypes.create_string_buffer(struct.pack("HP", len(instructions), ctypes.addressof(code)))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(38, 1, 0, 0, 0) or libc.prctl(22, 2, program, 0, 0):
        print("no seccomp"); sys.exit()
"""


def _sabotaged(path: Path, sabotage: str) -> list[str]:
    script = textwrap.dedent(WRITE_UNTIL_REFUSED).replace("SABOTAGE", textwrap.dedent(sabotage).strip())
    return said(child(script, path))


def _assert_refused(path: Path, lines: list[str], *, reads_may_fail: bool) -> int:
    seq, broken, refusal, later, reads = lines[:5]
    assert broken == "True"
    assert f"state file {path}: disk I/O error; free space or repair the disk" in refusal
    assert "an earlier write failed: disk I/O error" in later
    assert reads == f"{seq} True" or (reads_may_fail and f"cannot read state file {path}" in reads)
    return int(seq)


def test_on_a_full_disk_writes_are_refused_reads_answer_and_the_file_stays_whole(path: Path) -> None:
    acknowledged = _assert_refused(path, _sabotaged(path, FILL_THE_DISK), reads_may_fail=False)
    assert acknowledged > 1
    with opened(path) as journal:
        assert len(journal.events("r1")) == acknowledged
        assert journal.replay("r1") == journal.latest("digits")


def test_after_a_failed_fsync_nothing_is_written_any_more(path: Path) -> None:
    lines = _sabotaged(path, FAIL_EVERY_SYNC)
    if lines[0] == "no seccomp":
        pytest.skip("this kernel does not let a process filter its own system calls")
    # SQLite can undo the doubtful write only with a sync: what it cannot undo it does not show.
    assert _assert_refused(path, lines, reads_may_fail=True) == 1
    with opened(path) as journal:
        assert len(journal.events("r1")) in (1, 2)
        assert journal.replay("r1") == journal.latest("digits")
