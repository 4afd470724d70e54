"""Whole rollouts that begin with a mirror step: what is caught before a user sees it, and what goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.backend import Backend, Script, answer
from tests.support.gateway import RunningGateway, Traffic, config

pytestmark = pytest.mark.anyio

PLAN: dict[str, Any] = {
    "mirror": {"min_time_s": 1, "min_requests": 50, "compare": {"latency": False}},
    "steps": [{"percent": 50, "min_time_s": 0.5, "min_requests": 10}],
}


def label(number: int) -> Script:
    """An answer of the Open Inference Protocol that says this class."""
    body = b'{"outputs":[{"name":"label","datatype":"INT64","shape":[1],"data":[%d]}]}' % number
    return answer(body=body, headers=b"content-type: application/json\r\n")


async def test_a_canary_whose_answers_differ_is_rolled_back_before_a_user_got_one(tmp_path: Path) -> None:
    async with Backend(label(3)) as stable, Backend(label(4)) as canary:
        async with RunningGateway(tmp_path, config(stable.url, canary.url, plan=PLAN)) as gateway:
            async with Traffic(gateway.url, rate_hz=100) as users:
                view = await gateway.until_phase(await gateway.start_rollout(), "ROLLED_BACK", "PROMOTED")
            assert (view["phase"], view["causes"]) == ("ROLLED_BACK", ["disagreement"])
            assert "outputs differ from stable's on the same request" in view["reason"]
            assert users.failures == [] and set(users.variants) == {"stable"}


async def test_a_canary_that_fails_is_rolled_back_and_no_request_of_a_user_has_met_it(tmp_path: Path) -> None:
    async with Backend(answer(body=b"{}")) as stable, Backend(answer(status=500)) as canary:
        async with RunningGateway(tmp_path, config(stable.url, canary.url, plan=PLAN)) as gateway:
            async with Traffic(gateway.url, rate_hz=200) as users:
                view = await gateway.until_phase(await gateway.start_rollout(), "ROLLED_BACK", "PROMOTED")
                assert (view["phase"], view["causes"]) == ("ROLLED_BACK", ["errors"])
                assert view["reason"].startswith("rolled back at the mirror step: errors: of ")
                copies = len(canary.seen)
                await users.reaches(users.total + 50)
            assert users.failures == [] and set(users.variants) == {"stable"}
            assert all(seen.all(b"x-gateway-mirror") == [b"true"] for seen in canary.seen)
            assert len(canary.seen) - copies <= 40, "mirroring ends with the rollout"
            metrics = (await gateway.admin.get("/metrics")).text
            assert 'gateway_mirror_differing_pairs_total{class="errors",route="r",variant="stable"} 0.0' in metrics


async def test_a_canary_that_does_as_well_goes_on_to_the_first_step(tmp_path: Path) -> None:
    async with Backend(label(3)) as stable, Backend(label(3)) as canary:
        async with RunningGateway(tmp_path, config(stable.url, canary.url, plan=PLAN)) as gateway:
            async with Traffic(gateway.url, rate_hz=200) as users:
                rollout_id = await gateway.start_rollout()
                view = await gateway.rollout(rollout_id)
                assert (view["phase"], view["canary_percent"], view["mirror_percent"]) == ("PROGRESSING", 0.0, 100.0)
                view = await gateway.until_phase(rollout_id, "PROMOTED", "ROLLED_BACK")
                assert view["phase"] == "PROMOTED", view
            assert users.failures == []
            story = (await gateway.admin.get(f"/api/v1/rollouts/{rollout_id}/story")).text
            assert "the mirror step passed: " in story
            metrics = (await gateway.admin.get("/metrics")).text
            assert 'gateway_mirror_outputs_total{result="disagreed",route="r"} 0.0' in metrics
            assert 'gateway_mirror_outputs_total{result="agreed",route="r"} 0.0' not in metrics
