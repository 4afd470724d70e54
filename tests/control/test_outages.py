"""Stable answers nothing, alone or together with the canary: nothing is decided of it, and nothing is credited."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.control.decide.liveness import Liveness
from gateway.core.rollout import Phase
from tests.support.control import Plane, text
from tests.support.worker import eventually

pytestmark = pytest.mark.anyio

GUARDED = text(
    analysis={
        "latency": {"mode": "advise"},
        "guardrails": [{"metric": "errors", "limit": 0.2}],
    }
)


@pytest.mark.parametrize("probed", [True, False])
async def test_when_both_die_at_once_nobody_is_rolled_back_or_promoted(tmp_path: Path, probed: bool) -> None:
    async with Plane(tmp_path, GUARDED) as plane:
        rollout = (await plane.controller.commands.start("r", "alice")).id
        await plane.serve(400, 100)
        plane.tick()
        before = plane.controller.rollout(rollout)
        if probed:
            for one in plane.controller.prober.endpoints:
                one.up = False
        for _ in range(30):
            await plane.serve(400, 100, 100, stable_errors=400)
            plane.tick(1.0)
        assert (plane.state().phase, plane.weight_bp()) == (Phase.PROGRESSING, 2000)
        words = "neither side has a healthy endpoint" if probed else "stable answers no request successfully"
        assert [words in reason for reason in plane.alarms()] == [True]
        assert words in plane.controller.rollout(rollout).waiting_for
        assert [e.data["what"] for e in plane.reported("alarm")].count("no verdict on r") == 1, "said once"
        for one in plane.controller.prober.endpoints:
            one.up = True if probed else None
        epoch = plane.controller.route("r").epoch
        await plane.serve(400, 100)
        plane.tick()
        assert plane.alarms() == []
        assert plane.controller.route("r").epoch > epoch
        await eventually(lambda: all(w.epoch > epoch for w in plane.workers), "what was counted then is left behind")
        await plane.serve(400, 100)
        plane.tick()
        after = plane.controller.rollout(rollout)
        assert after.phase == "PROGRESSING" and after.analysis is not None
        errors = next(f for f in after.analysis.findings if f.metric == "errors")
        assert (errors.stable_events, errors.canary_events) == (0, 0), "the outage is no evidence"
        assert after.canary_requests == before.canary_requests + 200
        await plane.bad()
        assert plane.state().phase is Phase.ROLLED_BACK, "and the guard is awake again"


async def test_a_dead_stable_takes_nothing_from_a_fine_canary_and_gives_it_nothing(tmp_path: Path) -> None:
    async with Plane(tmp_path, text()) as plane:
        rollout = (await plane.controller.commands.start("r", "alice")).id
        for _ in range(20):
            await plane.serve(4000, 1000, stable_errors=4000)
            plane.tick(1.0)
        await plane.quiet()
        assert (plane.state().phase, plane.state().step_index, plane.weight_bp()) == (Phase.PROGRESSING, 0, 2000)
        readiness = plane.controller.readiness()
        assert readiness.ready and any(
            "stable answers no request successfully" in warning for warning in readiness.warnings
        )
        assert (await plane.controller.commands.abort(rollout, "alice")).phase == "ROLLED_BACK", "an operator may"
        plane.tick()
        assert plane.alarms() == []


async def test_probes_that_are_wrong_about_stable_do_not_protect_a_bad_canary(tmp_path: Path) -> None:
    async with Plane(tmp_path, text()) as plane:
        await plane.controller.commands.start("r", "alice")
        for one in plane.controller.prober.endpoints:
            one.up = one.backend != "v1"
        for _ in range(3):
            await plane.serve(400, 100)
            plane.tick(1.0)
        assert any("stable has no healthy endpoint" in reason for reason in plane.alarms())
        await plane.bad()
        assert plane.state().phase is Phase.ROLLED_BACK


async def test_a_ramp_back_goes_on_while_nothing_can_be_judged(tmp_path: Path) -> None:
    steps = [{"percent": 20, "min_time_s": 0, "min_requests": 0}]
    async with Plane(tmp_path, text(plan={"steps": steps, "rollback_ramp_s": 10})) as plane:
        rollout = (await plane.controller.commands.start("r", "alice")).id
        await plane.controller.commands.abort(rollout, "alice")
        assert plane.state().phase is Phase.RETURNING
        for _ in range(12):
            await plane.serve(10, 10, 10, stable_errors=10)
            plane.tick(1.0)
        assert (plane.state().phase, plane.weight_bp()) == (Phase.ROLLED_BACK, 0)


def test_the_liveness_is_what_is_answered_and_only_then_what_is_probed() -> None:
    liveness = Liveness()
    liveness.update(100, 7, 0.0)
    assert not liveness.stopped(None, 100.0) and not liveness.stopped(0, 4.0) and liveness.stopped(0, 6.0)
    liveness.update(100, 11, 6.0)
    assert not liveness.stopped(None, 6.0) and not liveness.stopped(1, 6.0)
    liveness.update(100, 12, 7.0)
    assert liveness.stopped(None, 7.0) and liveness.stopped(1, 7.0)
    liveness.update(101, 40, 8.0)
    assert not liveness.stopped(0, 8.0) and not liveness.stopped(None, 1e9)
