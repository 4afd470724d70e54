"""A promotion and a rollback at the same moment: the rollback wins, whichever comes first, on a slow disk too."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from gateway.control.views import RolloutView
from gateway.core.errors import GatewayError
from tests.support.control import Plane, text

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("slow_disk", [False, True], ids=["quick disk", "slow disk"])
@pytest.mark.parametrize("first", ["promote", "abort"])
async def test_the_rollback_wins(tmp_path: Path, first: str, slow_disk: bool) -> None:
    async with Plane(tmp_path, text()) as plane:
        rollout_id = (await plane.controller.commands.start("r", "ada")).id
        if slow_disk:
            plane.disk.hold()
        promotion, rollback = (
            plane.controller.commands.promote(rollout_id, "ada"),
            plane.controller.commands.abort(rollout_id, "bob"),
        )
        order = (promotion, rollback) if first == "promote" else (rollback, promotion)
        requested = [asyncio.ensure_future(request) for request in order]
        await asyncio.sleep(0.05)
        plane.disk.release()
        for outcome in await asyncio.gather(*requested, return_exceptions=True):
            assert isinstance(outcome, RolloutView | GatewayError), outcome
        await plane.quiet()
        assert plane.controller.rollout(rollout_id).phase == "ROLLED_BACK"
        assert plane.controller.rollout(rollout_id).by == "bob"
        assert plane.weight_bp() == 0
        assert plane.controller.route("r").stable == "v1"
        journaled = plane.journaled()
        assert journaled is not None and journaled.phase == "ROLLED_BACK"
