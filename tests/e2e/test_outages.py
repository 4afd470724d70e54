"""Both versions die at once under real traffic: nobody is convicted, and when they are back the rollout goes on."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.backend import Backend, answer
from tests.support.gateway import RunningGateway, Traffic, config

pytestmark = pytest.mark.anyio


async def test_when_both_die_the_rollout_freezes_and_goes_on_when_they_are_back(tmp_path: Path) -> None:
    analysis = {"latency": {"mode": "advise"}, "guardrails": [{"metric": "errors", "limit": 0.2}]}
    plan = {"steps": [{"percent": 50, "min_time_s": 3600}]}
    async with Backend() as s, Backend() as c:
        settings = config(s.url, c.url, analysis=analysis, plan=plan) | {"workers": 1}
        async with RunningGateway(tmp_path, settings) as gateway, Traffic(gateway.url) as traffic:
            rollout = await gateway.start_rollout()
            await traffic.reaches(100)
            s.script = c.script = answer(503, b"gone")
            (alarm,) = await gateway.until_alarms(1)
            assert "stable answers no request successfully" in alarm["reason"]
            served = len(traffic.failures)
            await traffic.fails(served + 100)
            view = await gateway.rollout(rollout)
            assert (view["phase"], view["canary_percent"]) == ("PROGRESSING", 50)
            s.script = c.script = answer(200)
            await gateway.until_alarms(0)
            await traffic.reaches(traffic.total + 100)
            assert (await gateway.rollout(rollout))["phase"] == "PROGRESSING"
            c.script = answer(500, b"boom")
            assert (await gateway.until_phase(rollout, "ROLLED_BACK"))["causes"], "the guard is awake"
