"""What is known of stable before a rollout: kept while it is served, stored, and of the backend that serves."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from gateway.control.journal.rows import KeptPast, RoutePast
from gateway.control.journal.sqlite_store import SqliteStore
from gateway.core.analysis.bursts.past import StablePast
from gateway.core.rollout import Phase
from tests.support.control import Plane, text

pytestmark = pytest.mark.anyio


async def moments(plane: Plane, count: int, route: str = "r") -> None:
    """So many times: stable serves well for a while, fails half a second, and serves well again: three seconds."""
    for _ in range(count):
        for failed in (0, 0, 0, 0, 0, 20, 20, 0, 0, 0, 0, 0):
            await plane.serve(20, 0, route=route, stable_errors=failed)
            plane.tick(0.25)


async def test_stable_is_watched_without_a_rollout_and_at_any_weight(tmp_path: Path) -> None:
    async with Plane(tmp_path, text("r", "s"), workers=1) as plane:
        await plane.serve(10, 0)
        assert not plane.past().classes, "a worker's first report is where counting begins"
        await moments(plane, 2)
        assert plane.weather().moments == 2.0
        assert 0.3 <= plane.weather().mean_s <= 0.7
        assert 5.0 <= plane.weather().known_s <= 6.0
        never = plane.weather("overload")
        assert (never.moments, never.known_s) == (0.0, pytest.approx(plane.weather().known_s))
        assert not plane.past("s").classes, "a route without requests knows nothing"
        await plane.controller.commands.set_weight("r", 5000, "bob")
        await moments(plane, 1)
        assert plane.weather().moments == 3.0


async def test_what_a_rollout_knows_is_frozen_when_it_begins(tmp_path: Path) -> None:
    async with Plane(tmp_path, text(), workers=1) as plane:
        await plane.serve(10, 0)
        await moments(plane, 1)
        await plane.controller.commands.start("r", "alice")
        before = plane.weather_of_rollout()
        assert before["errors"].moments == 1.0
        await moments(plane, 1)
        assert plane.weather_of_rollout() == before
        assert plane.weather().moments == 2.0


async def test_it_survives_a_restart_which_is_no_moment_itself(tmp_path: Path) -> None:
    async with Plane(tmp_path, text(), workers=1) as plane:
        await plane.serve(10, 0)
        await moments(plane, 2)
        before = plane.weather()
        plane.save_pasts()
        await plane.quiet()
        # While control is away stable fails for long: nobody knows when that was.
        for worker in plane.workers:
            worker.serve(500, 0, stable_errors=500)
        await plane.restart()
        assert plane.weather() == before
        await plane.serve(10, 0)
        plane.tick()
        await moments(plane, 1)
        assert (plane.weather().moments, plane.weather().longest_s < 1.0) == (3.0, True)


async def test_it_is_stored_now_and_then_and_when_control_stops(tmp_path: Path) -> None:
    plane = Plane(tmp_path, text(), workers=1)
    async with plane:
        await plane.serve(10, 0)
        await moments(plane, 1)
        assert plane.store.pasts.all() == []
        plane.clock.now_s += 60.0
        await plane.serve(10, 0)
        plane.tick()
        await plane.quiet()
        (kept,) = plane.store.pasts.all()
        assert kept.past is not None and kept.past.classes["errors"].moments == 1.0
        await plane.serve(10, 0)
        plane.tick()
        await moments(plane, 1)
    with SqliteStore.open(plane.journal_path) as store:
        (kept,) = store.pasts.all()
    assert kept.past is not None and kept.past.classes["errors"].moments == 2.0


async def test_a_promoted_canary_inherits_it_and_a_stranger_does_not(tmp_path: Path) -> None:
    async with Plane(tmp_path, text(), workers=1) as plane:
        await plane.serve(10, 0)
        await moments(plane, 2)
        await plane.controller.commands.start("r", "alice")
        rollout = plane.state().rollout_id
        await plane.controller.commands.promote(rollout, "alice")
        await plane.quiet()
        assert (plane.stable(), plane.state().phase) == ("v2", Phase.PROMOTED)
        plane.tick()
        assert plane.past().stable == "v2"
        assert plane.weather().moments == 2.0
        await plane.restart(text().replace("stable: v1", "stable: v3"))
        assert plane.stable() == "v3"
        plane.tick()
        assert plane.past() == RoutePast("v3")


def test_a_state_file_of_an_older_gateway_gets_the_table_with_the_first_past(tmp_path: Path) -> None:
    path = tmp_path / "state.sqlite3"
    one = KeptPast("r", RoutePast("v1", {"": StablePast(known_s=7.0)}))
    with SqliteStore.open(path) as store:
        assert not store.file.rows("SELECT 1 FROM sqlite_schema WHERE name = 'pasts'"), "as older gateways wrote them"
        assert store.pasts.all() == []
        store.pasts.save([one], frozenset({"r"}), 1.0)
        assert store.pasts.all() == [one]


@pytest.mark.parametrize(("column", "value"), [("past", "'{}'"), ("wall_time_s", "2.0")])
def test_a_damaged_past_costs_that_row_alone(tmp_path: Path, column: str, value: str) -> None:
    path = tmp_path / "state.sqlite3"
    sound = KeptPast("b", RoutePast("v1", {"": StablePast(known_s=7.0)}))
    with SqliteStore.open(path) as store:
        store.pasts.save([KeptPast("a", RoutePast("v1")), sound], frozenset("ab"), 1.0)
    connection = sqlite3.connect(path)
    connection.execute(f"UPDATE pasts SET {column} = {value} WHERE route = 'a'")
    connection.commit()
    connection.close()
    with SqliteStore.open(path) as store:
        assert "1 damaged row of table pasts" in store.damage[0]
        damaged, found = store.pasts.all()
        assert (damaged.past, found) == (None, sound)
        assert damaged.damage
