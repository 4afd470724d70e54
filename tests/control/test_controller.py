"""The controller with the real journal, hub and counters: the order of effects while the disk hangs or fails."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from gateway.core.errors import ConflictError, JournalError, NotFoundError, TransitionError
from gateway.core.rollout import Phase
from tests.support.control import Plane, text
from tests.support.worker import eventually

pytestmark = pytest.mark.anyio


async def started(plane: Plane, route: str = "r") -> str:
    """Start a rollout that has not been judged yet; returns its id."""
    view = await plane.controller.commands.start(route, "alice")
    assert view.canary_percent == 20
    return view.id


async def test_a_good_canary_climbs_and_each_step_is_in_the_journal_before_it_is_live(tmp_path: Path) -> None:
    async with Plane(tmp_path, text()) as plane:
        await started(plane)
        for served, phase in (((5000, "v1"), Phase.PROGRESSING), ((0, "v2"), Phase.PROMOTED)):
            plane.disk.hold()
            before = (plane.weight_bp(), plane.stable())
            await plane.good()
            await asyncio.sleep(0.05)
            assert (plane.weight_bp(), plane.stable()) == before, "not before the journal has it"
            plane.disk.release()
            await eventually(lambda served=served: (plane.weight_bp(), plane.stable()) == served, f"{served}")
            await plane.quiet()
            assert plane.state().phase is phase
            assert plane.journaled() == plane.state()
        assert [event.kind for event in plane.reported("started", "advanced", "promoted")] == [
            "started",
            "advanced",
            "promoted",
        ]


async def test_a_rollback_does_not_wait_for_a_snapshot_that_hangs(tmp_path: Path) -> None:
    async with Plane(tmp_path, text()) as plane:
        await started(plane)
        plane.disk.hold()
        await plane.serve(5, 5)
        plane.tick(1.5)  # saves what the analysis knows
        await plane.serve(5, 5)
        plane.tick()
        await plane.bad()
        assert plane.state().phase is Phase.ROLLED_BACK
        assert plane.weight_bp() == 0
        await eventually(lambda: all(w.weight_bp() == 0 for w in plane.workers), "the workers know")
        plane.disk.release()
        await plane.quiet()
        assert plane.journaled() == plane.state()


@pytest.mark.parametrize("verb", ["advance", "promote"])
async def test_a_rollback_overtakes_more_exposure_that_waits_for_the_disk(tmp_path: Path, verb: str) -> None:
    async with Plane(tmp_path, text()) as plane:
        rollout = await started(plane)
        plane.disk.hold()
        promotions = []
        if verb == "promote":
            promotions.append(asyncio.create_task(plane.controller.commands.promote(rollout, "bob")))
            await asyncio.sleep(0)
        else:
            await plane.good()
        await asyncio.sleep(0.01)
        assert plane.weight_bp() == 2000
        for _ in range(5):
            if plane.state().phase is Phase.PROGRESSING:
                await plane.bad()
        assert plane.state().phase is Phase.ROLLED_BACK and plane.weight_bp() == 0
        assert "worse than stable" in plane.state().reason
        plane.disk.release()
        await plane.quiet()
        assert plane.state().phase is Phase.ROLLED_BACK and plane.weight_bp() == 0, "the late answer changes nothing"
        assert max(table.route("r").weight_bp for w in plane.workers for table in w.tables) == 2000
        assert plane.journaled() == plane.state()
        for promotion in promotions:
            with pytest.raises(ConflictError, match="superseded"):
                await promotion


async def test_an_abort_and_a_lower_weight_do_not_wait_for_the_disk_either(tmp_path: Path) -> None:
    async with Plane(tmp_path, text()) as plane:
        rollout = await started(plane)
        plane.disk.hold()
        await plane.controller.commands.set_weight("r", 500, "bob")
        assert (plane.state().phase, plane.weight_bp()) == (Phase.PAUSED, 500)
        resumed = asyncio.create_task(plane.controller.commands.resume(rollout, "bob"))
        await asyncio.sleep(0.01)
        view = await plane.controller.commands.abort(rollout, "carol", "enough")
        assert (view.phase, plane.weight_bp()) == ("ROLLED_BACK", 0)
        plane.disk.release()
        with pytest.raises(ConflictError, match="superseded"):
            await resumed
        await plane.quiet()
        assert plane.journaled() == plane.state()
        assert plane.state().by == "carol"


async def test_one_routes_disk_wait_holds_no_other_route_up(tmp_path: Path) -> None:
    async with Plane(tmp_path, text("a", "b")) as plane:
        await started(plane, "a")
        plane.disk.hold()
        starting = asyncio.create_task(plane.controller.commands.start("b", "bob"))
        await asyncio.sleep(0.01)
        await plane.bad("a")
        assert plane.state("a").phase is Phase.ROLLED_BACK
        assert plane.state("b").phase is Phase.IDLE
        plane.disk.release()
        assert (await starting).phase == "PROGRESSING"
        await plane.quiet()
        assert [plane.journaled(route) for route in "ab"] == [plane.state(route) for route in "ab"]


async def test_a_lower_weight_takes_back_what_waits_for_the_disk(tmp_path: Path) -> None:
    async with Plane(tmp_path, text()) as plane:
        await plane.controller.commands.set_weight("r", 3000, "bob")
        plane.disk.hold()
        raising = asyncio.create_task(plane.controller.commands.set_weight("r", 9000, "bob"))
        await asyncio.sleep(0.01)
        assert (await plane.controller.commands.set_weight("r", 1000, "carol")).canary_percent == 10
        plane.disk.release()
        with pytest.raises(ConflictError, match="lowered meanwhile"):
            await raising
        assert plane.weight_bp() == 1000
        plane.disk.hold()
        starting = asyncio.create_task(plane.controller.commands.start("r", "bob"))
        await asyncio.sleep(0.01)
        await asyncio.wait_for(plane.controller.commands.set_weight("r", 0, "carol"), 5)
        assert plane.weight_bp() == 0
        plane.disk.release()
        with pytest.raises(ConflictError, match="superseded"):
            await starting
        await plane.quiet()
        assert (plane.weight_bp(), plane.state().phase) == (0, Phase.WITHDRAWN)
        assert plane.journaled() == plane.state()


async def test_a_disk_that_hangs_is_an_alarm_until_it_answers(tmp_path: Path) -> None:
    async with Plane(tmp_path, text()) as plane:
        await started(plane)
        plane.disk.hold()
        await plane.good()
        plane.tick(3.0)
        assert any("does not answer" in reason for reason in plane.alarms())
        readiness = plane.controller.readiness()
        assert any("does not answer" in warning for warning in readiness.warnings), "traffic does not suffer from it"
        assert not any("disk" in reason for reason in readiness.reasons)
        plane.disk.release()
        await plane.quiet()
        plane.tick()
        assert plane.alarms() == []
        assert [event.data["standing"] for event in plane.reported("alarm")] == [True, False]


async def test_a_step_up_that_the_disk_does_not_take_in_time_is_taken_back_and_tried_again(tmp_path: Path) -> None:
    async with Plane(tmp_path, text()) as plane:
        rollout = await started(plane)
        plane.disk.hold()
        await plane.good()
        await eventually(lambda: plane.waits("r"), "the step up waits for the disk")
        for _ in range(100):
            await plane.serve(1, 1)
            plane.tick(1.0)
            await asyncio.sleep(0)
        await eventually(lambda: not plane.waits("r"), "it is taken back")
        assert (plane.state().phase, plane.state().step_index, plane.weight_bp()) == (Phase.PROGRESSING, 0, 2000)
        assert (
            "its minimum time and requests start again: the journal's disk did not answer in 5 s"
            in plane.state().reason
        )
        assert plane.queued() <= 4, "one try, however long the disk hangs"
        assert plane.weight_bp() == 2000
        plane.disk.release()
        await plane.quiet()
        assert plane.journaled() == plane.state()
        assert max(table.route("r").weight_bp for w in plane.workers for table in w.tables) == 2000, "nothing late"
        await plane.good()
        await eventually(lambda: plane.weight_bp() == 5000, "it goes on by itself")
        kinds = [decision.event for decision in await plane.controller.decision_history(rollout)]
        assert kinds == ["Started", "Analysed", "JournalTimedOut", "Analysed"]


async def test_a_ramp_back_begins_at_what_is_in_force_and_not_at_what_waits_for_the_disk(tmp_path: Path) -> None:
    steps = [{"percent": 20, "min_time_s": 0, "min_requests": 0}]
    async with Plane(tmp_path, text(plan={"steps": steps, "rollback_ramp_s": 60})) as plane:
        rollout = await started(plane)
        await plane.controller.commands.set_weight("r", 1800, "bob")
        await plane.quiet()
        plane.disk.hold()
        resumed = asyncio.create_task(plane.controller.commands.resume(rollout, "bob"))
        await eventually(lambda: plane.waits("r"), "the resume waits for the disk")
        await plane.bad()
        assert (plane.state().phase, plane.weight_bp()) == (Phase.RETURNING, 1620)
        plane.disk.release()
        with pytest.raises(ConflictError, match="superseded"):
            await resumed
        await plane.quiet()
        assert plane.journaled() == plane.state()


async def test_a_deadline_over_a_step_that_waits_for_the_disk_takes_it_back_and_says_so_once(tmp_path: Path) -> None:
    steps = [{"percent": 20, "min_time_s": 0, "min_requests": 0, "gate": "manual"}]
    plan = {"steps": steps, "rollback_ramp_s": 60, "deadline_s": 3, "on_deadline": "rollback"}
    async with Plane(tmp_path, text(plan=plan)) as plane:
        rollout = (await plane.controller.commands.start("r", "alice")).id
        await plane.quiet()
        plane.disk.hold()
        approved = asyncio.create_task(plane.controller.commands.approve(rollout, "bob"))
        await eventually(lambda: plane.waits("r"), "the approval waits for the disk")
        for _ in range(3):
            await plane.serve(10, 0)
            plane.tick(1.5)
        plane.disk.release()
        with pytest.raises(ConflictError, match="superseded"):
            await approved
        await plane.quiet()
        assert plane.weight_bp() == 0
        assert plane.journaled() == plane.state()
        history = await plane.controller.decision_history(rollout)
        assert [decision.revision for decision in history] == list(range(1, len(history) + 1))


async def test_a_pause_holds_what_is_in_force_and_not_the_step_that_waits_for_the_disk(tmp_path: Path) -> None:
    async with Plane(tmp_path, text()) as plane:
        rollout = await started(plane)
        await plane.quiet()
        plane.disk.hold()
        await plane.good()
        await eventually(lambda: plane.waits("r"), "the step up waits for the disk")
        view = await plane.controller.commands.pause(rollout, "carol", "wait a moment")
        assert (view.phase, plane.weight_bp()) == ("PAUSED", 2000)
        assert "paused by carol: wait a moment" in view.reason
        plane.disk.release()
        await plane.quiet()
        assert (plane.state().phase, plane.weight_bp()) == (Phase.PAUSED, 2000)
        assert plane.journaled() == plane.state()


async def test_a_failing_journal_freezes_what_rises_and_lets_fall(tmp_path: Path) -> None:
    async with Plane(tmp_path, text("r", "s")) as plane:
        rollout = await started(plane)
        plane.disk.broken = True
        with pytest.raises(JournalError):
            await plane.controller.commands.start("s", "bob")
        assert (plane.state("s").phase, plane.weight_bp("s")) == (Phase.IDLE, 0)
        with pytest.raises(JournalError):
            await plane.controller.commands.set_weight("s", 100, "bob")
        with pytest.raises(JournalError):
            await plane.controller.commands.promote(rollout, "bob")
        for _ in range(20):
            await plane.good()
        await plane.quiet()
        assert (plane.state().phase, plane.weight_bp()) == (Phase.PROGRESSING, 2000), "a PASS that cannot be journaled"
        assert len(plane.reported("alarm")) == 1, "said once"
        with pytest.raises(TransitionError):
            await plane.controller.commands.start("r", "bob")
        assert (await plane.controller.commands.abort(rollout, "bob")).phase == "ROLLED_BACK"
        assert plane.weight_bp() == 0
        assert any("disk I/O error" in reason for reason in plane.controller.readiness().warnings)
    assert plane.state().phase is Phase.ROLLED_BACK


async def test_a_fault_in_one_routes_analysis_is_its_own_and_is_over_when_it_is_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Plane(tmp_path, text("a", "b")) as plane:
        await started(plane, "a")
        await started(plane, "b")
        plane.stumble_over("a", monkeypatch)
        await plane.bad("b")
        assert plane.state("b").phase is Phase.ROLLED_BACK
        assert plane.alarms() == ["route a: no verdict, because the analysis failed; see the control process's log"]
        monkeypatch.undo()
        plane.tick()
        assert plane.alarms() == []


async def test_nothing_is_decided_from_stale_counts(tmp_path: Path) -> None:
    async with Plane(tmp_path, text()) as plane:
        await started(plane)
        await plane.serve(3000, 3000)
        plane.tick(10.0)
        assert plane.state().step_index == 0
        assert plane.controller.verdict_counts() == {}
        reasons = plane.controller.readiness().reasons
        assert any("no report from worker 0, 1" in reason for reason in reasons)
        await plane.serve(0, 0)
        plane.tick()
        await plane.quiet()
        assert plane.state().step_index == 1


async def test_the_wall_clock_decides_nothing(tmp_path: Path) -> None:
    async with Plane(tmp_path, text()) as plane:
        await started(plane)
        for jump_s in (-3600.0, 7200.0, -1e9):
            plane.clock.wall_now_s += jump_s
            await plane.serve(10, 10)
            plane.tick()
        assert plane.state().phase is Phase.PROGRESSING and plane.state().step_index == 0
        await plane.bad()
        assert plane.state().phase is Phase.ROLLED_BACK
        await plane.quiet()
        assert plane.journaled() == plane.state()


async def every_age(plane: Plane, first: str, last: str) -> None:
    """Archived rollouts are found as those in memory are: 510 of ``busy``, and one of ``quiet`` before them."""
    control, found, before = plane.controller, [], None
    while page := await control.rollout_page(limit=100, before=before):
        found += [view.id for view in page]
        before = found[-1]
    assert len(found) == len(set(found)) == 511 and found[0] == last and found[-1] != first == found[-2]
    assert (await control.find_rollout(first)).phase == "ROLLED_BACK"
    assert [view.id for view in await control.rollout_page(search=f"{first} bob")] == [first]
    assert [view.id for view in await control.rollout_page("busy", 1, found[-3])] == [first]
    assert len(await control.decision_history(first)) == 2
    assert (await control.series(first)).at == () and (await control.latencies(first)).stable == ()
    for unknown in (control.find_rollout, control.decision_history, control.series, control.latencies):
        with pytest.raises(NotFoundError):
            await unknown("busy-never")
    with pytest.raises(NotFoundError):
        await control.rollout_page(before="busy-never")


async def test_what_is_remembered_of_old_rollouts_is_bounded(tmp_path: Path) -> None:
    async with Plane(tmp_path, text("quiet", "busy")) as plane:
        quiet = await started(plane, "quiet")
        first = last = ""
        plane.never_sync()  # it is about numbers, not about power cuts
        for _ in range(510):
            last = (await plane.controller.commands.start("busy", "bob", retry=True)).id
            first = first or last
            await plane.controller.commands.abort(last, "bob")
        kept = [view.id for view in plane.controller.rollouts(limit=10_000)]
        assert len(kept) == 502 and quiet in kept and last in kept and first not in kept
        await plane.quiet()
        await every_age(plane, first, last)
        await plane.restart()
        await every_age(plane, first, last)
        assert plane.controller.rollout(quiet).phase == "PROGRESSING"
        assert plane.controller.rollouts("quiet")[0].id == quiet


async def test_analyses_are_announced_more_often_while_somebody_looks_on(tmp_path: Path) -> None:
    async with Plane(tmp_path, text(), workers=1) as plane:
        await started(plane)

        async def announced() -> int:
            before = len(plane.reported("analysis"))
            for _ in range(12):
                await plane.serve(4, 1)
                plane.tick(0.3)
            return len(plane.reported("analysis")) - before

        assert 2 <= await announced() <= 5
        upcoming = asyncio.ensure_future(anext(plane.controller.decision_events()))
        await asyncio.sleep(0)
        assert 2 <= await announced() <= 5, "hooks wait for decisions"
        looking = plane.controller.events()
        first = asyncio.ensure_future(anext(looking))
        await asyncio.sleep(0)
        assert await announced() == 12
        await first
        assert isinstance(looking, AsyncGenerator)
        await looking.aclose()
        assert 2 <= await announced() <= 5
        upcoming.cancel()
