"""The last table in force: what a control process and a worker make of it when others have forgotten."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest

from gateway.config.build import routing_table
from gateway.config.load import load
from gateway.core.rollout import Phase
from gateway.core.traffic.table import Backend, Endpoint, Route, RoutingTable
from gateway.runtime.table_memory import Remembered, SharedTable, decode, encode, first_table
from tests.support.control import Plane, text

pytestmark = pytest.mark.anyio


def table(stable: str, canary: str | None = "v2", epoch: int = 7, weight_bp: int = 0, *names: str) -> RoutingTable:
    backends = {name: Backend(name, (Endpoint("h", 1),)) for name in names or ("v1", "v2")}
    return RoutingTable(epoch, (Route("r", "/", stable, canary, weight_bp),), backends)


async def fresh_workers(plane: Plane) -> None:
    for index in range(len(plane.workers)):
        await plane.newborn(index)


@pytest.mark.parametrize("kept", [True, False], ids=["full restart", "control and workers"])
async def test_a_promotion_outlives_a_journal_that_is_lost(tmp_path: Path, kept: bool) -> None:
    async with Plane(tmp_path, text()) as plane:
        rollout = await plane.controller.commands.start("r", "alice")
        await plane.controller.commands.promote(rollout.id, "alice")
        assert plane.stable() == "v2"
        epoch = plane.controller.route("r").epoch
        await plane.kill()
        plane.journal_path.unlink()
        await fresh_workers(plane)
        if kept:
            plane.forget(kept=True)
        await plane.begin()
        assert plane.stable() == "v2" and plane.controller.route("r").epoch > epoch
        (warning,) = plane.controller.readiness().warnings
        assert "the journal has lost decisions" in warning
        assert plane.controller.table_source == "memory"
        await plane.quiet()
        assert plane.journal.roles()["r"].stable == "v2", "it is journaled anew"
        # and the next life has nothing to complain of
        await plane.restart()
        assert (plane.stable(), plane.controller.readiness().warnings) == ("v2", ())


@pytest.mark.parametrize("kept", [True, False], ids=["full restart", "control and workers"])
async def test_a_promotion_outlives_a_journal_that_is_lost_again(tmp_path: Path, kept: bool) -> None:
    """After the first loss journal and memory are both at event 0: what is missing shows in the promotion alone."""
    async with Plane(tmp_path, text()) as plane:
        rollout = await plane.controller.commands.start("r", "alice")
        await plane.controller.commands.promote(rollout.id, "alice")
        for _ in range(3):
            await plane.kill()
            plane.journal_path.unlink()
            await fresh_workers(plane)
            if kept:
                plane.forget(kept=True)
            await plane.begin()
            assert plane.stable() == "v2"
            (warning,) = plane.controller.readiness().warnings
            assert "the journal has lost decisions" in warning
            await plane.quiet()


@pytest.mark.parametrize("newborn", [0, 1, 2], ids=["workers live on", "one is new", "all are new"])
async def test_a_promotion_outlives_a_reconfiguration_while_the_journal_cannot_be_read(
    tmp_path: Path, newborn: int
) -> None:
    async with Plane(tmp_path, text()) as plane:
        rollout = await plane.controller.commands.start("r", "alice")
        await plane.controller.commands.promote(rollout.id, "alice")
        await plane.quiet()
        await plane.kill()
        plane.journal_path.write_bytes(b"no database" * 1000)
        for index in range(newborn):
            await plane.newborn(index)
        await plane.begin()
        assert plane.stable() == "v2"
        plane.config_path.write_text(text(canary_percent=5.0))
        config = load(plane.config_path)
        await plane.controller.reconfigure(config, routing_table(config, epoch=0))
        assert (plane.stable(), plane.weight_bp()) == ("v2", 0)


async def test_a_canary_that_was_rolled_back_gets_nothing_when_the_journal_is_lost(tmp_path: Path) -> None:
    async with Plane(tmp_path, text(canary_percent=30.0)) as plane:
        assert plane.weight_bp() == 3000
        rollout = await plane.controller.commands.start("r", "alice")
        await plane.controller.commands.abort(rollout.id, "alice")
        assert plane.weight_bp() == 0
        await plane.kill()
        plane.journal_path.unlink()
        await fresh_workers(plane)
        plane.forget(kept=True)
        await plane.begin()
        assert plane.weight_bp() == 0


async def test_a_rollback_that_no_disk_took_stays_when_all_workers_and_control_are_new(tmp_path: Path) -> None:
    async with Plane(tmp_path, text()) as plane:
        rollout = await plane.controller.commands.start("r", "alice")
        plane.disk.broken = True
        await plane.controller.commands.abort(rollout.id, "alice")
        assert plane.weight_bp() == 0
        await plane.kill()
        await fresh_workers(plane)
        await plane.begin()
        assert (plane.weight_bp(), plane.state().phase) == (0, Phase.PAUSED)


async def test_a_weight_that_was_answered_is_not_lowered_by_a_file_that_missed_it(tmp_path: Path) -> None:
    async with Plane(tmp_path, text()) as plane:
        await plane.controller.commands.set_weight("r", 1000, "alice")
        before = plane.shared.read()
        await plane.controller.commands.set_weight("r", 3000, "alice")
        assert before is not None
        await plane.kill()
        await fresh_workers(plane)
        plane.forget(kept=False)
        plane.shared.write(encode(msgspec.structs.replace(before, from_file=True)))
        await plane.begin()
        assert plane.weight_bp() == 3000


async def test_another_file_is_a_newer_word_than_memory(tmp_path: Path) -> None:
    async with Plane(tmp_path, text(canary_percent=5.0)) as plane:
        rollout = await plane.controller.commands.start("r", "alice")
        await plane.controller.commands.promote(rollout.id, "alice")
        await plane.kill()
        plane.journal_path.unlink()
        plane.config_path.write_text(text(canary_percent=10.0, stable="v3"))
        await fresh_workers(plane)
        plane.forget(kept=True)
        await plane.begin()
        assert (plane.stable(), plane.weight_bp()) == ("v3", 1000)


def test_a_worker_takes_the_whole_table_under_the_same_file_and_gives_no_canary_anything() -> None:
    own = table("v1")
    remembered = Remembered("a", 3, {"r": "v1"}, table("v1", "v3", 7, 2500, "v1", "v3"))
    found = first_table(own, "a", remembered)
    assert (found.route("r").canary, found.route("r").weight_bp, found.epoch) == ("v3", 0, 0)
    assert first_table(own, "a", None) == msgspec.structs.replace(own, epoch=0)


@pytest.mark.parametrize(
    ("configured", "promoted", "serves"),
    [("v1", "v2", "v2"), ("v0", "v2", "v1"), ("v1", "gone", "v1"), ("v1", "v1", "v1"), ("v1", "", "v1")],
    ids=["promoted", "the file names another", "its backend is gone", "none", "nothing deployed"],
)
def test_under_another_file_a_worker_takes_over_what_was_promoted(configured: str, promoted: str, serves: str) -> None:
    remembered = Remembered("a", 3, {"r": configured}, table(promoted, None, 7))
    found = first_table(table("v1"), "b", remembered)
    assert found.route("r").stable == serves
    assert found.route("r").canary != serves and found.backends == table("v1").backends


def test_a_write_that_is_cut_short_leaves_the_one_before() -> None:
    shared = SharedTable.create()
    for epoch in (1, 2, 3):
        shared.write(encode(Remembered("a", epoch, {}, table("v1", epoch=epoch))))
    reader = SharedTable(shared.fds)
    found = reader.read()
    assert found is not None and found.table.epoch == 3
    torn = encode(Remembered("a", 4, {}, table("v2", epoch=4)))
    for length in range(0, len(torn), 7):
        os.ftruncate(shared.fds[1], 0)
        os.pwrite(shared.fds[1], torn[:length], 0)
        left = SharedTable(shared.fds).read()
        assert left is not None and left.table.epoch == 3, length
    shared.write(torn)
    newest = reader.read()
    assert newest is not None and newest.table.epoch == 4
    shared.close()


def test_what_is_altered_is_no_memory() -> None:
    data = encode(Remembered("a", 1, {"r": "v1"}, table("v2")))
    assert decode(data) is not None
    for at in range(len(data)):
        altered = bytearray(data)
        altered[at] ^= 1
        assert decode(bytes(altered)) is None, at
    assert decode(b"") is None and decode(b"{}") is None
