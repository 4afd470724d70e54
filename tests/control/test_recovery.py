"""What a control plane makes of the journal and of the workers when it comes back, whatever has changed meanwhile."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gateway.control.journal.sqlite_file import checksum
from gateway.control.journal.sqlite_schema import EVENT_COLUMNS
from gateway.core.analysis import AnalysisSpec, Verdict, fresh_state
from gateway.core.rollout import Phase
from tests.support.control import Plane, text
from tests.support.worker import eventually

pytestmark = pytest.mark.anyio


def exposure(plane: Plane, since: list[int], route: str = "r") -> int:
    """The most that any table since gave the canary."""
    tables = [t for worker, n in zip(plane.workers, since, strict=True) for t in worker.tables[n:]]
    assert tables
    return max(table.route(route).weight_bp for table in tables)


def so_far(plane: Plane) -> list[int]:
    return [len(worker.tables) for worker in plane.workers]


async def test_no_table_of_a_restart_gives_a_rolled_back_canary_anything(tmp_path: Path) -> None:
    async with Plane(tmp_path, text(canary_percent=50)) as plane:
        rollout = (await plane.controller.commands.start("r", "alice")).id
        await plane.controller.commands.abort(rollout, "alice")
        await plane.quiet()
        since = so_far(plane)
        await plane.restart()
        await eventually(lambda: all(len(w.tables) > n for w, n in zip(plane.workers, since, strict=True)), "tables")
        assert exposure(plane, since) == 0, "not for a moment"


async def test_a_rollout_is_judged_on_after_everything_was_stopped_and_started(tmp_path: Path) -> None:
    async with Plane(tmp_path, text()) as plane:
        await plane.controller.commands.start("r", "alice")
        await plane.serve(100, 100)
        await plane.quiet()
        plane.tick(1.5)
        await plane.controller.commands.set_weight("r", 1000, "alice")
        await plane.serve(100, 100)
        await plane.quiet()  # evidence is not saved while the disk has something else to do
        plane.tick(1.5)
        before = plane.controller.rollouts()[0].canary_requests
        assert before == 400
        await plane.quiet()
        await plane.kill()
        for index in range(2):
            await plane.newborn(index)
        rollout = plane.state().rollout_id
        drawn = (await plane.controller.series(rollout)).at
        await plane.begin()
        kept = (await plane.controller.series(rollout)).at
        assert kept and kept == drawn[: len(kept)], "what was drawn until it was last journaled"
        await plane.serve(20, 20)
        plane.tick()
        view = plane.controller.rollouts()[0]
        assert view.analysis is not None
        assert view.analysis.verdict is not Verdict.ERROR, view.analysis.reason
        assert view.canary_requests == before + 40
        await plane.bad()
        assert plane.state().phase is Phase.ROLLED_BACK
        await plane.quiet()
        ended = await plane.controller.series(rollout)
        await plane.restart()
        assert await plane.controller.series(rollout) == ended, "an ended one is journaled at its end"


async def test_epochs_grow_over_lives_and_evidence_of_another_life_is_not_ours(tmp_path: Path) -> None:
    async with Plane(tmp_path, text()) as plane:
        for _ in range(3):
            epoch = plane.controller.route("r").epoch
            plane.workers[0].hang()  # misses the restart
            for weight_bp in (100, 200):
                await plane.controller.commands.set_weight("r", weight_bp, "alice")
            await plane.restart()
            assert plane.controller.route("r").epoch > epoch
            plane.workers[0].wake()
            await eventually(lambda: len({w.epoch for w in plane.workers}) == 1, "both route by the same table")
            epochs = [table.epoch for table in plane.workers[1].tables]
            assert epochs == sorted(set(epochs))


async def test_a_table_is_numbered_above_a_worker_that_is_far_ahead_whose_counts_are_ignored(
    tmp_path: Path,
) -> None:
    async with Plane(tmp_path, text()) as plane:
        await plane.controller.commands.start("r", "alice")
        stranger = await plane.newborn(0)
        table = plane.workers[1].table
        assert table is not None
        stranger.table = type(table)(50_000, table.routes, table.backends)
        stranger.tallies = stranger.tally.enter_table(50_000, table.routes)
        stranger.serve(500, 500, 400)
        await stranger.connect(plane.socket)
        await eventually(lambda: plane.workers[1].epoch > 50_000 and stranger.epoch > 50_000, "a table above its epoch")
        for _ in range(3):
            await plane.serve(5, 5)
            plane.tick()
        view = plane.controller.rollouts()[0]
        assert view.phase == "PROGRESSING" and view.canary_requests == 30
        assert view.analysis is not None and view.analysis.verdict is Verdict.UNDECIDED


async def test_some_workers_live_and_some_are_new(tmp_path: Path) -> None:
    async with Plane(tmp_path, text()) as plane:
        await plane.controller.commands.start("r", "alice")
        await plane.kill()
        await plane.newborn(0)
        await plane.begin()
        assert (plane.state().phase, plane.weight_bp()) == (Phase.PROGRESSING, 2000)
        assert {w.weight_bp() for w in plane.workers} == {2000}


async def test_a_rollback_that_never_reached_the_journal_holds(tmp_path: Path) -> None:
    async with Plane(tmp_path, text()) as plane:
        await plane.controller.commands.start("r", "alice")
        plane.disk.hold()
        await plane.bad()
        await eventually(lambda: all(w.weight_bp() == 0 for w in plane.workers), "the workers know")
        since = so_far(plane)
        await plane.restart()
        assert (plane.state().phase, plane.weight_bp()) == (Phase.PAUSED, 0)
        assert exposure(plane, since) == 0
        await plane.quiet()
        assert plane.journaled() == plane.state()


@pytest.mark.parametrize("config_percent", [0.0, 60.0])
async def test_a_lower_weight_by_hand_that_never_reached_the_journal_holds(
    tmp_path: Path, config_percent: float
) -> None:
    async with Plane(tmp_path, text(canary_percent=config_percent)) as plane:
        if not config_percent:
            await plane.controller.commands.set_weight("r", 6000, "alice")
        assert plane.weight_bp() == 6000
        plane.disk.hold()
        await plane.controller.commands.set_weight("r", 100, "alice")
        since = so_far(plane)
        await plane.restart()
        assert plane.weight_bp() == 100 == exposure(plane, since)
        await plane.quiet()
        await plane.kill()
        for index in range(2):
            await plane.newborn(index)
        await plane.begin()
        assert plane.weight_bp() == 100, "also when no worker remembers it any more"


async def test_a_weight_by_hand_was_meant_for_the_backends_of_then(tmp_path: Path) -> None:
    async with Plane(tmp_path, text()) as plane:
        await plane.controller.commands.set_weight("r", 10_000, "alice")
        await plane.kill()
        for index in range(2):
            await plane.newborn(index)
        plane.config_path.write_text(text(stable="v2", canary="v3"))
        await plane.begin()
        assert plane.weight_bp() == 0, "v3 has not earned what v2 was given"


@pytest.mark.parametrize("changes", [{"canary": "v3"}, {"stable": "v3"}, {"canary": None}])
async def test_a_rollout_about_other_backends_is_over(tmp_path: Path, changes: dict[str, Any]) -> None:
    async with Plane(tmp_path, text()) as plane:
        rollout = (await plane.controller.commands.start("r", "alice")).id
        since = so_far(plane)
        await plane.restart(text(**changes))
        view = plane.controller.rollout(rollout)
        assert (view.phase, view.by) == ("WITHDRAWN", "the configuration")
        assert exposure(plane, since) == 0
        await plane.quiet()
        assert plane.journaled() == plane.state()
        await plane.restart(text(**changes))
        assert plane.controller.route("r").phase == "IDLE"


async def test_a_rollout_on_a_route_that_was_removed_is_over_for_good(tmp_path: Path) -> None:
    async with Plane(tmp_path, text("r", "s")) as plane:
        rollout = (await plane.controller.commands.start("s", "alice")).id
        await plane.restart(text("r"))
        assert plane.controller.rollout(rollout).phase == "WITHDRAWN"
        await plane.quiet()
        await plane.restart(text("r", "s"))
        assert (plane.state("s").phase, plane.weight_bp("s")) == (Phase.WITHDRAWN, 0)


async def test_the_promise_of_a_rollout_under_way_outlives_a_changed_analysis(tmp_path: Path) -> None:
    async with Plane(tmp_path, text()) as plane:
        await plane.controller.commands.start("r", "alice")
        await plane.serve(10, 10)
        await plane.quiet()
        plane.tick(1.5)
        await plane.quiet()
        await plane.restart(text(analysis={"alpha_rollback": 0.2, "latency": {"mode": "advise"}}))
        await plane.serve(10, 10)
        plane.tick()
        analysis = plane.controller.rollouts()[0].analysis
        assert analysis is not None and analysis.verdict is Verdict.UNDECIDED
        assert plane.controller.rollouts()[0].canary_requests == 40
        assert analysis.log_e_bad_needed == pytest.approx(4.6, abs=0.1)


def of_an_older_version() -> bytes:
    """A state that can be decoded, with a field that it has no more."""
    state = msgspec.json.encode(msgspec.structs.replace(fresh_state(AnalysisSpec()), version=3))
    return state.replace(b'"incidents":', b'"worth":3.5,"incidents":')


@pytest.mark.parametrize("state", [b'{"from": "another version"}', of_an_older_version()])
async def test_evidence_that_cannot_be_read_any_more_begins_anew(tmp_path: Path, state: bytes) -> None:
    async with Plane(tmp_path, text()) as plane:
        rollout = (await plane.controller.commands.start("r", "alice")).id
        await plane.serve(10, 10)
        await plane.quiet()
        plane.tick(1.5)
        await plane.quiet()
        plane.journal.save_snapshot(rollout, state, b"", 1.0)
        await plane.restart()
        assert (plane.state().phase, plane.weight_bp()) == (Phase.PROGRESSING, 2000)
        await plane.bad()
        assert plane.state().phase is Phase.ROLLED_BACK


def doctor(path: Path, route: str, sql: str) -> None:
    """Change the rows of a route's events in a way that the checksums agree with."""
    with sqlite3.connect(path, isolation_level=None) as connection:
        connection.execute(f"UPDATE events SET {sql} WHERE route = ?", (route,))
        for *row, _ in connection.execute(f"SELECT {EVENT_COLUMNS}, crc FROM events").fetchall():
            connection.execute("UPDATE events SET crc = ? WHERE seq = ?", (checksum(row), row[0]))
    connection.close()


async def test_a_rollout_that_does_not_follow_from_its_events_freezes_its_route_only(tmp_path: Path) -> None:
    async with Plane(tmp_path, text("r", "s", canary_percent=30)) as plane:
        for route in ("r", "s"):
            await plane.controller.commands.start(route, "alice")
        await plane.kill()
        doctor(plane.journal_path, "r", "state = replace(state, '\"step_index\":0', '\"step_index\":1')")
        await plane.begin()
        assert (plane.weight_bp("r"), plane.weight_bp("s")) == (0, 2000)
        assert any("route r serves stable only" in reason for reason in plane.alarms())
        await plane.controller.commands.start("r", "bob")
        assert (plane.alarms(), plane.weight_bp("r")) == ([], 2000)


async def test_rows_of_another_version_mean_stable_only(tmp_path: Path) -> None:
    async with Plane(tmp_path, text(canary_percent=30)) as plane:
        await plane.controller.commands.start("r", "alice")
        await plane.kill()
        doctor(plane.journal_path, "r", "state = replace(state, 'PROGRESSING', 'FLYING')")
        await plane.begin()
        assert plane.weight_bp() == 0
        assert any("stable only" in reason for reason in plane.alarms())


async def test_a_disk_that_hangs_at_start_means_stable_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with Plane(tmp_path, text(canary_percent=30)) as plane:
        await plane.kill()
        monkeypatch.setattr("gateway.control.journal.writer._READ_TIMEOUT_S", 0.1)
        hanging = asyncio.get_running_loop().create_future()
        monkeypatch.setattr("gateway.control.journal.writer.DiskThread.do", lambda *_: hanging)
        await plane.begin()
        assert plane.weight_bp() == 0
        assert any("did not answer" in reason for reason in plane.alarms())
        assert len(plane.alarms()) == 1
        monkeypatch.undo()
