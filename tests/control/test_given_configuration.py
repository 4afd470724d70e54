"""A configuration given at run time against a disk that hangs or refuses, and rows that are damaged one by one."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from pathlib import Path
from typing import Any

import pytest

from gateway.config.keeping import roles_of
from gateway.config.load import check_text, reload
from gateway.config.plain import plain
from gateway.config.stored import Stored, sha256_of
from gateway.config.yaml_text import to_yaml
from gateway.control.alarms import Alarms
from gateway.control.events import EventLog
from gateway.control.journal import given_configuration
from gateway.control.journal.given_configuration import GivenConfiguration, configuration_at_start
from gateway.control.journal.rows import AuditEntry, KeptAnswer
from gateway.control.journal.sqlite_records import SqliteConfigurations
from gateway.control.journal.sqlite_store import SqliteStore
from gateway.control.journal.store import Store
from gateway.control.journal.writer import JournalWriter
from gateway.core.errors import JournalError
from gateway.core.traffic.table import RoutingTable
from gateway.runtime.clock import SystemClock
from gateway.runtime.table_memory import Given, Remembered
from tests.support.worker import eventually

pytestmark = pytest.mark.anyio

FILE = b"the text of the file"
FIRST, SECOND = (Stored(sha256_of(FILE), text, "alice", "2026-11-30") for text in ("first", "second"))


class HangingConfigurations(SqliteConfigurations):
    """On a disk that answers when the test lets it."""

    def __init__(self, store: SqliteStore) -> None:
        super().__init__(store.file)
        self.go = threading.Event()
        self.go.set()

    def replace(self, stored: Stored | None, revision: int) -> int:
        self.go.wait()
        return super().replace(stored, revision)


def writer_of(store: Store) -> JournalWriter:
    return JournalWriter(store, SystemClock(), Alarms(EventLog(SystemClock())))


async def test_what_was_refused_for_a_hanging_disk_is_not_what_a_restart_finds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copies: list[Given | None] = []
    with SqliteStore.open(tmp_path / "state.sqlite3") as store:
        disk = store.configurations = HangingConfigurations(store)
        writer = writer_of(store)
        given = GivenConfiguration(writer, copies.append)
        await given.keep(FIRST)
        disk.go.clear()
        monkeypatch.setattr(given_configuration, "KEEP_WAIT_S", 0.05)
        with pytest.raises(JournalError, match=r"the disk did not answer in 0\.05 s: nothing was changed"):
            await given.keep(SECOND)
        monkeypatch.undo()
        disk.go.set()
        await eventually(lambda: writer.idle, "the disk has answered")
        newest = store.configurations.newest()
        assert (newest.revision, newest.stored) == (3, FIRST), "what was in force follows what was refused"
        assert [copy and copy.text for copy in copies] == ["first"], "the copy is of what is in force"
        await given.keep(SECOND)
        assert store.configurations.newest().revision == 4 and copies[-1] == Given(*_fields(SECOND))


async def test_where_nothing_can_be_stored_nothing_is_given_and_the_file_still_wins(tmp_path: Path) -> None:
    copies: list[Given | None] = []
    with SqliteStore.open(tmp_path / "state.sqlite3") as store:
        given = GivenConfiguration(writer_of(store), copies.append)
        await given.keep(FIRST)
        store.file.connection.execute("PRAGMA query_only = ON")
        for _ in range(2):
            with pytest.raises(JournalError, match="readonly"):
                await given.keep(SECOND)
        given.drop()
        await asyncio.sleep(0)
        assert store.configurations.newest().stored == FIRST
    assert [copy and copy.text for copy in copies] == ["first", None]
    with SqliteStore.open(tmp_path / "state.sqlite3") as store:
        other = await configuration_at_start(store, None, b"another text", tmp_path, lambda _: None)
        assert (other.text, other.stored) == (b"another text", None), "what was stored is of another text of the file"
        assert (tmp_path / "superseded.yaml").read_text() == "first"
        assert store.configurations.newest().stored is None


async def test_a_start_with_a_changed_file_keeps_the_versions_that_the_file_does_not_change(tmp_path: Path) -> None:
    backends = {"a": {"endpoints": ["http://127.0.0.1:1"]}}
    route = {"name": "r", "match": {"path_prefix": "/"}, "stable": "a"}
    tree: dict[str, Any] = {"backends": backends, "routes": [route]}
    given = {"backends": backends | {"r-7": backends["a"]}, "routes": [route | {"canary": "r-7"}]}
    stored = Stored(sha256_of(to_yaml(tree).encode()), to_yaml(given), "alice", "2026-11-30", roles_of(tree))
    changed = to_yaml(tree | {"limits": {"keepalive_s": 9}}).encode()
    path = tmp_path / "gateway.yaml"
    readers = (lambda text: check_text(path, text)), (lambda text: plain(reload(path, text)))
    with SqliteStore.open(tmp_path / "state.sqlite3") as store:
        store.configurations.replace(stored, 0)
        for _ in range(2):  # the second start finds what the first one has stored
            served = await configuration_at_start(store, None, changed, tmp_path, *readers)
            kept = plain(reload(path, served.text))
            assert served.stored is not None and kept == given | {"limits": {"keepalive_s": 9.0}}
        store.configurations.replace(stored, 2)
        unfit = changed.replace(b"routes:", b"sources: [{mlflow: {uri: 'http://h', model: m, route: q}}]\nroutes:")
        served = await configuration_at_start(store, None, unfit, tmp_path, *readers)
        assert (served.text, served.stored) == (unfit, None), "what is no configuration is not served"


async def test_a_fault_beside_the_journal_refuses_itself_and_one_in_the_journal_everything(tmp_path: Path) -> None:
    def fail(_: object) -> None:
        raise ValueError("a fault of our own")

    with SqliteStore.open(tmp_path / "state.sqlite3") as store:
        writer = writer_of(store)
        with pytest.raises(JournalError, match="a fault of our own"):
            await writer.keep(fail)
        await writer.keep(lambda store: store.configurations.replace(FIRST, 0))
        with pytest.raises(JournalError, match="a fault of our own"):
            await writer.write(fail)
        with pytest.raises(JournalError, match="a fault of our own"):
            await writer.keep(lambda store: store.configurations.replace(SECOND, 1))
        assert store.configurations.newest().stored == FIRST


async def test_a_damaged_row_beside_the_journal_costs_itself_alone(tmp_path: Path) -> None:
    path = tmp_path / "state.sqlite3"
    entries = [AuditEntry(n, "2026-11-30", "ops", "ops", "127.0.0.1", "POST", f"/{n}", 200) for n in (1, 2, 3)]
    answers = [KeptAnswer("ci", f"k{n}", "print", 201, {}, "", 1.0) for n in (1, 2)]
    with SqliteStore.open(path) as store:
        store.configurations.replace(FIRST, 0)
        store.audit.append(entries, kept=9)
        for one in answers:
            store.answers.add(one, kept=9, expired_s=0.0)
        assert store.damage == ()
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("UPDATE configurations SET stored = replace(stored, 'first', 'wrong')")
    connection.execute("UPDATE audit SET entry = '{' WHERE id = 2")
    connection.execute("UPDATE answers SET at_s = 9.0 WHERE key = 'k1'")
    connection.close()
    with SqliteStore.open(path) as store:
        assert len(store.damage) == 3
        assert all(f"{path}: 1 damaged row of table" in said for said in store.damage)
        assert store.audit.page(9) == [entries[2], entries[0]]
        assert store.answers.all() == answers[1:]
        memory = Remembered("", 0, {}, RoutingTable(1, (), {}), given=Given(*_fields(FIRST)))
        served = await configuration_at_start(store, memory, FILE, tmp_path, lambda _: None)
        assert (served.text, served.stored) == (b"first", FIRST)
        assert "revision 1 of the configuration is damaged" in served.trouble
        without = await configuration_at_start(store, None, FILE, tmp_path, lambda _: None)
        assert (without.text, without.stored) == (FILE, None)
        assert "the configuration file is served" in without.trouble
        assert store.configurations.replace(SECOND, 1) == 2, "and it can be given again"
    with sqlite3.connect(path) as reader:
        assert reader.execute("SELECT count(*) FROM audit").fetchone() == (3,), "it stays in the file"


def _fields(stored: Stored) -> tuple[str, str, str, str]:
    return stored.replaces_sha256, stored.text, stored.by, stored.at
