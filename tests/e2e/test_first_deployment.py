"""The first version on a route, over real processes: refused until it is promoted, and stable ever after."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import pytest

from gateway.config.command import summary
from gateway.config.load import load
from tests.support.backend import Backend, answer
from tests.support.gateway import RunningGateway, config

pytestmark = pytest.mark.anyio


def first(canary: str) -> dict[str, Any]:
    """A configuration without any stable backend."""
    settings = config("http://127.0.0.1:9", canary, forced_variant_header="x-variant")
    del settings["backends"]["stable"], settings["routes"][0]["stable"]
    settings["backends"]["canary"]["probe"] = {"path": "/", "interval_s": 0.1, "rise": 2, "fall": 2}
    return settings


async def said(*arguments: str) -> str:
    """What a command of the CLI prints."""
    command = (sys.executable, "-m", "gateway", *arguments)
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    out, _ = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0
    return out.decode()


async def test_a_first_version_gets_in_by_a_rollout_and_outlives_a_restart(tmp_path: Path) -> None:
    async with Backend(answer(503)) as c:
        async with RunningGateway(tmp_path, first(c.url)) as gateway:
            refused = await gateway.client.get("/")
            assert (refused.status_code, refused.headers["x-gateway-error"]) == (503, "nothing_deployed")
            assert refused.headers["retry-after"] == "1"
            assert "-> nothing until its canary is promoted, canary canary" in summary(load(gateway.path))
            (route,) = (await gateway.admin.get("/api/v1/routes")).json()["routes"]
            assert (route["stable"], route["canary"], route["canary_percent"]) == (None, "canary", 0)
            reply = await gateway.admin.put("/api/v1/routes/r/weight", json={"canary_percent": 10})
            assert (reply.status_code, "nothing is deployed" in reply.text) == (409, True)
            rollout = await gateway.start_rollout()
            waiting = await gateway.until_phase(rollout, "WAITING")
            assert (waiting["stable"], waiting["gate"], waiting["canary_percent"]) == (None, "canary", 0)
            assert (await gateway.client.get("/")).headers["x-gateway-error"] == "nothing_deployed"
            c.script = answer(200)
            tried = await gateway.client.get("/", headers={"x-variant": "canary"})
            assert tried.headers.get("x-gateway-error") in (None, "no_healthy_endpoint"), "it may be looked at before"
            promoted = await gateway.until_phase(rollout, "PROMOTED")
            assert "with nothing to compare it with, 100 %" in await said("status", "--url", gateway.admin_url), (
                promoted
            )
            reply = await gateway.client.get("/")
            assert (reply.status_code, reply.headers["x-gateway-variant"]) == (200, "stable")
        async with RunningGateway(tmp_path, first(c.url)) as again:
            (route,) = (await again.admin.get("/api/v1/routes")).json()["routes"]
            assert (route["stable"], route["canary"], route["configured_stable"]) == ("canary", None, None)
            assert (await again.client.get("/")).status_code == 200
