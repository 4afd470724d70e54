"""A route on which nothing is deployed yet: its first version gets in by a rollout, and is stable from then on."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from gateway.config.build import routing_table
from gateway.config.load import load
from gateway.core.errors import ConflictError, TransitionError
from gateway.core.rollout import Phase
from tests.support.control import Plane, text
from tests.support.worker import eventually

pytestmark = pytest.mark.anyio


def first(**changes: Any) -> str:
    """As `text`, with nothing deployed and v2 to be the first."""
    return text(stable=None, **changes)


def served(plane: Plane) -> list[tuple[str, str | None, int]]:
    """How each worker serves the route."""
    tables = [worker.table for worker in plane.workers if worker.table is not None]
    return [(r.stable, r.canary, r.weight_bp) for r in (table.route("r") for table in tables)]


async def test_the_first_version_is_promoted_and_the_next_one_is_compared_with_it(tmp_path: Path) -> None:
    async with Plane(tmp_path, first()) as plane:
        view = plane.controller.route("r")
        assert (view.stable, view.canary, view.configured_stable) == (None, "v2", None)
        assert served(plane) == [("", "v2", 0)] * 2
        with pytest.raises(ConflictError, match="nothing is deployed on route r yet"):
            await plane.controller.commands.set_weight("r", 1000, "alice")
        rollout = await plane.controller.commands.start("r", "alice")
        assert (rollout.phase, rollout.stable) == ("PROMOTED", None)
        assert "nothing to compare it with" in rollout.reason
        assert served(plane) == [("v2", None, 0)] * 2
        with pytest.raises(TransitionError, match="route r has no stable version to go back to"):
            await plane.controller.commands.abort(rollout.id, "bob")
        await plane.quiet()
        assert plane.journaled() == plane.state()
        for canary, weight_bp in ((None, 0), ("v3", 0)):
            await plane.kill()
            for index in range(2):
                await plane.newborn(index)
            plane.config_path.write_text(first(canary="v2" if canary is None else canary))
            await plane.begin()
            assert served(plane) == [("v2", canary, weight_bp)] * 2, "also when nobody but the journal remembers"
        second = await plane.controller.commands.start("r", "alice")
        assert (second.stable, second.canary, second.phase, plane.weight_bp()) == ("v2", "v3", "PROGRESSING", 2000)
        await plane.bad()
        assert served(plane)[0][0] == "v2" and plane.weight_bp() == 0
        await plane.quiet()
        await plane.restart(text(stable="v2", canary="v3"))
        assert (plane.stable(), plane.state().phase) == ("v2", Phase.ROLLED_BACK), "the file names it by now"
        await plane.quiet()
        assert plane.journal.roles() == {}


async def test_it_waits_until_probes_have_found_it_well_and_never_serves_a_share(tmp_path: Path) -> None:
    async with Plane(tmp_path, first()) as plane:
        health = next(one for one in plane.controller.prober.endpoints if one.backend == "v2")
        health.up, health.settled = True, False
        view = await plane.controller.commands.start("r", "alice")
        assert (view.phase, view.gate) == ("WAITING", "canary"), "what was never asked is not known to be well"
        with pytest.raises(ConflictError, match="its canary cannot get traffic"):
            await plane.controller.commands.set_weight("r", 5000, "bob")
        await plane.serve(0, 0)
        plane.tick()
        await plane.quiet()
        assert served(plane) == [("", "v2", 0)] * 2
        await plane.restart()
        assert (plane.state().phase, plane.state().gate) == (Phase.WAITING, "canary")
        health = next(one for one in plane.controller.prober.endpoints if one.backend == "v2")
        health.up, health.settled = True, True
        await plane.serve(0, 0)
        plane.tick()
        await eventually(lambda: served(plane) == [("v2", None, 0)] * 2, "it serves")
        assert plane.state().phase is Phase.PROMOTED
        assert {route[2] for route in served(plane)} == {0}


async def test_a_promotion_that_waits_for_the_disk_is_not_forgotten_by_another_configuration(tmp_path: Path) -> None:
    async with Plane(tmp_path, first()) as plane:
        plane.disk.hold()
        starting = asyncio.create_task(plane.controller.commands.start("r", "alice"))
        await eventually(lambda: plane.waits("r"), "the promotion waits for the disk")
        plane.config_path.write_text(first(canary="v3"))
        config = load(plane.config_path)
        with pytest.raises(ConflictError, match="while a decision waits for the journal"):
            await plane.controller.reconfigure(config, routing_table(config, epoch=0))
        plane.disk.release()
        assert (await starting).phase == "PROMOTED"
        await plane.controller.reconfigure(config, routing_table(config, epoch=0))
        assert served(plane) == [("v2", "v3", 0)] * 2
        await plane.quiet()
        assert plane.journal.roles()["r"].stable == "v2"


async def test_one_that_never_gets_well_is_withdrawn_or_aborted_or_forced_in(tmp_path: Path) -> None:
    async with Plane(tmp_path, first()) as plane:
        for command, phase in (("abort", "ROLLED_BACK"), ("approve", "PROMOTED")):
            health = next(one for one in plane.controller.prober.endpoints if one.backend == "v2")
            health.up = False
            rollout = (await plane.controller.commands.start("r", "alice", retry=True)).id
            if command == "abort":
                await plane.controller.commands.abort(rollout, "bob")
            else:
                await plane.controller.commands.pause(rollout, "bob")
                await plane.controller.commands.resume(rollout, "bob")
                await plane.controller.commands.approve(rollout, "bob", "its probes are wrong")
            assert plane.controller.rollout(rollout).phase == phase
        assert served(plane) == [("v2", None, 0)] * 2
        await plane.quiet()
        assert plane.journaled() == plane.state()
