"""What operators, gates and another configuration do to a running control plane, and what the journal keeps of it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gateway.config.build import routing_table
from gateway.config.load import load
from gateway.control.show.decision_history import lines
from gateway.core.errors import ConflictError, JournalError, TransitionError
from gateway.core.rollout import Phase
from tests.support.control import Plane, text
from tests.support.worker import eventually

pytestmark = pytest.mark.anyio


def with_plan(*routes: str, canary: str = "v2", **plan: Any) -> str:
    """As `text`, with these fields of the plan and one step."""
    return text(*routes, canary=canary, plan={"steps": [{"percent": 20, "min_time_s": 0, "min_requests": 0}]} | plan)


async def reconfigured(plane: Plane, new: str) -> None:
    """The same control plane serves by another text."""
    plane.config_path.write_text(new)
    config = load(plane.config_path)
    await plane.controller.reconfigure(config, routing_table(config, epoch=0))


async def test_a_promoted_canary_is_stable_over_restarts_until_the_file_names_another(tmp_path: Path) -> None:
    async with Plane(tmp_path, text()) as plane:
        rollout = (await plane.controller.commands.start("r", "alice")).id
        await plane.controller.commands.promote(rollout, "alice")
        view = plane.controller.route("r")
        assert (view.stable, view.canary, view.configured_stable, view.canary_percent) == ("v2", None, "v1", 0)
        with pytest.raises(ConflictError, match="v2 was promoted to stable; name another canary"):
            await plane.controller.commands.start("r", "alice")
        await plane.quiet()
        await plane.restart()
        assert (plane.stable(), plane.state().phase) == ("v2", Phase.PROMOTED)
        await plane.restart(text(canary="v3"))
        assert (plane.stable(), plane.controller.route("r").canary, plane.weight_bp()) == ("v2", "v3", 0)
        started = await plane.controller.commands.start("r", "alice")
        assert (started.stable, started.canary) == ("v2", "v3")
        await plane.restart(text(stable="v3", canary="v1"))
        assert plane.stable() == "v3", "the file names another stable backend: that is the newer word"
        await plane.quiet()
        assert plane.journal.roles() == {}


async def test_an_abort_after_the_promotion_gives_the_roles_back(tmp_path: Path) -> None:
    async with Plane(tmp_path, text()) as plane:
        rollout = (await plane.controller.commands.start("r", "alice")).id
        await plane.controller.commands.promote(rollout, "alice")
        await plane.controller.commands.abort(rollout, "bob")
        assert (plane.stable(), plane.controller.route("r").canary, plane.weight_bp()) == ("v1", "v2", 0)
        await plane.quiet()
        assert plane.journal.roles() == {}
        with pytest.raises(ConflictError, match="ask for a retry"):
            await plane.controller.commands.start("r", "alice")
        assert (await plane.controller.commands.start("r", "alice", retry=True)).phase == "PROGRESSING"


async def test_a_command_for_more_that_the_disk_does_not_take_is_given_up(tmp_path: Path) -> None:
    async with Plane(tmp_path, text()) as plane:
        rollout = (await plane.controller.commands.start("r", "alice")).id
        await plane.quiet()
        plane.disk.hold()
        promoting = asyncio.create_task(plane.controller.commands.promote(rollout, "bob"))
        await asyncio.sleep(0.01)
        plane.tick(4.0)
        assert not promoting.done()
        plane.tick(1.1)
        with pytest.raises(JournalError, match="did not answer in 5 s"):
            await promoting
        assert (plane.state().phase, plane.weight_bp(), plane.stable()) == (Phase.PAUSED, 2000, "v1")
        with pytest.raises(JournalError, match="did not answer"):
            await plane.controller.commands.set_weight("r", 5000, "bob")
        plane.disk.release()
        await plane.quiet()
        assert plane.journaled() == plane.state()
        await plane.restart()
        assert (plane.state().phase, plane.weight_bp(), plane.stable()) == (Phase.PAUSED, 2000, "v1")


async def test_a_start_that_the_disk_does_not_take_never_began(tmp_path: Path) -> None:
    async with Plane(tmp_path, text()) as plane:
        plane.disk.hold()
        starting = asyncio.create_task(plane.controller.commands.start("r", "bob"))
        await asyncio.sleep(0.01)
        plane.tick(5.1)
        with pytest.raises(JournalError, match="did not answer"):
            await starting
        assert (plane.state().phase, plane.weight_bp()) == (Phase.WITHDRAWN, 0)
        plane.disk.release()
        await plane.quiet()
        assert plane.journaled() == plane.state()
        assert (await plane.controller.commands.start("r", "bob")).phase == "PROGRESSING"


async def test_gates_open_by_approval_and_by_answers(tmp_path: Path) -> None:
    gates = {"gates": [{"name": "load-test", "url": "http://127.0.0.1:9/"}]}
    steps = [{"percent": 20, "gate": "manual"}, {"percent": 50, "gate": "load-test"}]
    plan = {"steps": [step | {"min_time_s": 0, "min_requests": 0} for step in steps]}
    document = msgspec.yaml.decode(text(plan=plan)) | gates
    async with Plane(tmp_path, msgspec.yaml.encode(document).decode()) as plane:
        view = await plane.controller.commands.start("r", "alice")
        assert (view.phase, view.gate, plane.weight_bp()) == ("WAITING", "manual", 0)
        await plane.serve(1, 0)
        plane.tick()
        assert "the gate 'manual' before step 1/2 is closed" in plane.controller.rollout(view.id).waiting_for
        await plane.controller.commands.approve(view.id, "bob", "fine")
        assert plane.weight_bp() == 2000
        await plane.good()
        await eventually(lambda: plane.state().phase is Phase.WAITING, "it waits for the load test")
        await plane.controller.commands.answer_gate(view.id, "manual", True, "another's", "the hook")
        assert plane.weight_bp() == 2000
        await plane.controller.commands.answer_gate(view.id, "load-test", True, "p99 is fine", "the hook")
        assert plane.weight_bp() == 5000
        await plane.controller.commands.promote(view.id, "carol", next_step=True)
        assert plane.stable() == "v2"


async def test_a_canary_that_is_down_waits_and_one_whose_stable_is_down_has_no_verdict(tmp_path: Path) -> None:
    async with Plane(tmp_path, text()) as plane:
        health = {one.backend: one for one in plane.controller.prober.endpoints}
        health["v1"].up, health["v2"].up = True, False
        view = await plane.controller.commands.start("r", "alice")
        assert (view.phase, view.gate, plane.weight_bp()) == ("WAITING", "canary", 0)
        health["v2"].up = True
        await plane.serve(1, 0)
        plane.tick()
        await eventually(lambda: plane.weight_bp() == 2000, "it begins")
        health["v1"].up = False
        await plane.good()
        await plane.quiet()
        assert plane.weight_bp() == 2000, "no promotion, and no rollback of the canary"
        assert any("stable has no healthy endpoint" in reason for reason in plane.alarms())
        health["v2"].up = False
        plane.tick()
        assert any("neither side has a healthy endpoint" in reason for reason in plane.alarms())
        assert "stable has 0 of the 1" in plane.controller.rollout(view.id).waiting_for
        health["v1"].up = health["v2"].up = True
        await plane.good()
        await eventually(lambda: plane.weight_bp() == 5000, "it goes on")
        assert plane.alarms() == []


async def test_what_a_warming_canary_answers_is_no_evidence(tmp_path: Path) -> None:
    async with Plane(tmp_path, with_plan(warmup_s=10)) as plane:
        view = await plane.controller.commands.start("r", "alice")
        assert (view.phase, plane.weight_bp()) == ("WARMING", 2000)
        await plane.bad()
        assert plane.state().phase is Phase.WARMING
        assert plane.controller.rollout(view.id).canary_requests == 0
        plane.clock.now_s += 10.0
        await plane.serve(1, 0)
        plane.tick()
        await eventually(lambda: plane.state().phase is Phase.PROGRESSING, "it is warm")
        for worker in plane.workers:
            await eventually(lambda w=worker: w.epoch == plane.controller.route("r").epoch, "the workers know")
        await plane.good()
        await eventually(lambda: plane.stable() == "v2", "nothing was held against it")


async def test_a_canary_that_turns_bad_in_its_bake_is_rolled_back(tmp_path: Path) -> None:
    async with Plane(tmp_path, with_plan(bake_s=600, bake_holdout_percent=5)) as plane:
        rollout = (await plane.controller.commands.start("r", "alice")).id
        await plane.controller.commands.promote(rollout, "alice")
        assert (plane.state().phase, plane.weight_bp(), plane.stable()) == (Phase.BAKING, 9500, "v1")
        for _ in range(30):
            await plane.bad()
            if plane.state().phase is not Phase.BAKING:
                break
        assert (plane.state().phase, plane.weight_bp()) == (Phase.ROLLED_BACK, 0)


async def test_routes_and_backends_come_and_go_without_a_restart(tmp_path: Path) -> None:
    async with Plane(tmp_path, text("r", "s")) as plane:
        rollout = (await plane.controller.commands.start("r", "alice")).id
        await plane.controller.commands.set_weight("s", 1000, "bob")
        epoch = plane.controller.route("r").epoch
        await reconfigured(plane, text("r", "s", "t"))
        assert [route.name for route in plane.controller.routes()] == ["r", "s", "t"]
        assert [plane.weight_bp(name) for name in "rst"] == [2000, 1000, 0]
        assert plane.controller.route("t").epoch > epoch
        assert {w.weight_bp("s") for w in plane.workers} == {1000}
        await plane.good("r")
        await eventually(lambda: plane.weight_bp("r") == 5000, "the rollout goes on")
        with pytest.raises(ConflictError, match="would lose its backends"):
            await reconfigured(plane, text("s", "t"))
        await plane.controller.commands.abort(rollout, "alice")
        await reconfigured(plane, text("s", canary="v3"))
        assert [route.name for route in plane.controller.routes()] == ["s"]
        assert (plane.controller.route("s").canary, plane.weight_bp("s")) == ("v3", 0)
        with pytest.raises(ConflictError, match="no longer has route r"):
            await plane.controller.commands.abort(rollout, "alice")


async def test_a_start_that_waits_for_the_disk_outlives_a_configuration_that_does_not_concern_it(
    tmp_path: Path,
) -> None:
    async with Plane(tmp_path, text()) as plane:
        await plane.controller.commands.abort((await plane.controller.commands.start("r", "alice")).id, "alice")
        await reconfigured(plane, text(canary="v3"))
        plane.disk.hold()
        starting = asyncio.create_task(plane.controller.commands.start("r", "bob"))
        await eventually(lambda: plane.waits("r"), "the start waits for the disk")
        await reconfigured(plane, text(canary="v3"))
        plane.disk.release()
        assert (await starting).phase == "PROGRESSING"
        await plane.quiet()
        assert plane.journaled() == plane.state()


async def test_a_new_canary_supersedes_one_under_way_where_the_plan_says_so(tmp_path: Path) -> None:
    async with Plane(tmp_path, with_plan(on_new_canary="supersede")) as plane:
        rollout = (await plane.controller.commands.start("r", "alice")).id
        await reconfigured(plane, with_plan(canary="v3", on_new_canary="supersede"))
        view = plane.controller.rollout(rollout)
        assert (view.phase, plane.weight_bp(), plane.controller.route("r").canary) == ("WITHDRAWN", 0, "v3")
        assert "superseded" in view.reason
        assert (await plane.controller.commands.start("r", "alice")).canary == "v3"


async def test_the_decision_history_is_shown_from_the_journal_alone(tmp_path: Path) -> None:
    async with Plane(tmp_path, text()) as plane:
        rollout = (await plane.controller.commands.start("r", "alice", reason="release 7")).id
        await plane.good()
        await plane.quiet()
        await plane.bad()
        await plane.quiet()
        await plane.restart()
        decisions = await plane.controller.decision_history(rollout)
        assert [(d.event, d.phase, d.by) for d in decisions] == [
            ("Started", "PROGRESSING", "alice"),
            ("Analysed", "PROGRESSING", "automation"),
            ("Analysed", "ROLLED_BACK", "automation"),
        ]
        assert [d.revision for d in decisions] == [1, 2, 3]
        assert [d.canary_percent for d in decisions] == [20, 50, 0]
        assert decisions[-1].causes == ("errors",) and decisions[-1].verdict == "FAIL"
        errors = next(numbers for numbers in decisions[-1].numbers if numbers.metric == "errors")
        assert errors.canary_events > 0 and errors.canary_trials > errors.canary_events
        reported = "\n".join(lines(decisions))
        assert "release 7" in reported and "50 % -> 0 %" in reported and "errors: FAIL" in reported


async def test_a_command_in_the_wrong_phase_changes_nothing(tmp_path: Path) -> None:
    async with Plane(tmp_path, text()) as plane:
        rollout = (await plane.controller.commands.start("r", "alice")).id
        before = plane.state()
        with pytest.raises(TransitionError, match="allowed now: pause, set-weight, promote, abort"):
            await plane.controller.commands.approve(rollout, "bob")
        assert plane.state() is before


async def test_a_weight_of_100_says_that_nothing_can_be_judged(tmp_path: Path) -> None:
    async with Plane(tmp_path, text()) as plane:
        for weight_bp in (9_999, 10_000, 0):
            view = await plane.controller.commands.set_weight("r", weight_bp, "alice")
            warned = "v2 can neither be judged nor rolled back" in view.warning and "20 % of requests" in view.warning
            assert warned is (weight_bp == 10_000), view.warning
            await plane.quiet()
        await plane.controller.commands.set_weight("r", 10_000, "alice")
        await plane.quiet()
        await plane.restart()
        assert plane.controller.route("r").warning, "also after a restart"
