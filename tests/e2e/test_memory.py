"""Which version is served when control, the journal, or all of the state is away: never one that was replaced."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from pathlib import Path

import httpx
import pytest

from tests.support.backend import Backend, answer
from tests.support.gateway import RunningGateway, config
from tests.support.worker import eventually

pytestmark = pytest.mark.anyio


async def served_by(gateway: RunningGateway, requests: int = 20) -> set[str]:
    """Who answers, over so many connections."""
    limits = httpx.Limits(max_keepalive_connections=0)
    async with httpx.AsyncClient(base_url=gateway.url, timeout=30, limits=limits) as client:
        replies = await asyncio.gather(*(client.post("/infer", content=b"{}") for _ in range(requests)))
    assert {reply.status_code for reply in replies} == {200}
    return {reply.text for reply in replies}


async def until_alarm(gateway: RunningGateway, what: str) -> str:
    """Wait until this alarm stands; returns its reason."""
    async with asyncio.timeout(20):
        while True:
            alarms = (await gateway.admin.get("/api/v1/alarms")).json()["alarms"]
            if found := [alarm["reason"] for alarm in alarms if alarm["what"] == what]:
                reason: str = found[0]
                return reason
            await asyncio.sleep(0.05)


async def control_of(gateway: RunningGateway, *others: int) -> int:
    """The process id of control, once there is one that is none of these."""
    await eventually(lambda: bool(set(gateway.children()["control"]) - set(others)), "control was started")
    (found,) = set(gateway.children()["control"]) - set(others)
    return found


async def new_workers(gateway: RunningGateway) -> None:
    """Kill all workers, and wait for their successors."""
    before = gateway.children()["worker"]
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    await eventually(
        lambda: len(gateway.children()["worker"]) == 2 and not set(before) & set(gateway.children()["worker"]),
        "the workers were replaced",
    )


async def promoted(gateway: RunningGateway) -> None:
    """Promote the canary of route r by hand."""
    rollout = await gateway.start_rollout()
    reply = await gateway.admin.post(f"/api/v1/rollouts/{rollout}/promote")
    assert reply.json()["phase"] == "PROMOTED", reply.text


async def test_a_replaced_version_never_comes_back_while_anything_remembers(tmp_path: Path) -> None:
    state = tmp_path / "state"
    async with Backend(answer(200, b"v1")) as s, Backend(answer(200, b"v2")) as c:
        settings = config(s.url, c.url)
        async with RunningGateway(tmp_path, settings) as gateway:
            assert (await gateway.admin.get("/api/v1/alarms")).json()["alarms"] == [], "a first start is no alarm"
            assert await served_by(gateway) == {"v1"}
            await promoted(gateway)
            # control hangs, and all workers are new
            first = await control_of(gateway)
            os.kill(first, signal.SIGSTOP)
            await new_workers(gateway)
            assert await served_by(gateway) == {"v2"}
            os.kill(first, signal.SIGCONT)
            # all state vanishes: an alarm, refusals, and an abort that works in memory
            moved = tmp_path / "moved"
            state.rename(moved)
            assert "deleted or replaced" in await until_alarm(gateway, "state")
            weight = {"canary_percent": 0}
            assert (await gateway.admin.put("/api/v1/routes/r/weight", json=weight)).status_code == 200
            tree = (await gateway.admin.get("/api/v1/config")).json()
            tree["backends"]["v3"] = {"endpoints": [s.url]}
            refused = await gateway.admin.put("/api/v1/config", json=tree)
            assert (refused.status_code, "nothing was changed" in refused.text) == (503, True), refused.text
            ready = await gateway.admin.get("/readyz")
            assert (ready.status_code, "decisions cannot be stored" in ready.text) == (200, True), ready.text
            moved.rename(state)
            await eventually_no_alarm(gateway, "state")
            # and for good, with a control process that knows it from the shared memory alone
            shutil.rmtree(state)
            os.kill(first, signal.SIGKILL)
            await control_of(gateway, first)
            assert "has lost decisions" in await until_alarm(gateway, "journal lost")
            await new_workers(gateway)
            await gateway.ready()
            assert await served_by(gateway) == {"v2"}
        # a full restart, and control never speaks
        gateway = RunningGateway(tmp_path, settings)
        await gateway.start()
        stuck = await control_of(gateway)
        os.kill(stuck, signal.SIGSTOP)
        assert await served_by(gateway) == {"v2"}
        os.kill(stuck, signal.SIGCONT)
        await gateway.ready()
        assert (await gateway.admin.get("/api/v1/alarms")).json()["alarms"] == []
        assert await served_by(gateway) == {"v2"}
        await gateway.__aexit__()
        # nothing remembers: the configuration is served, and says so
        (state / "state.sqlite3").write_bytes(b"")
        (state / "table.json").unlink()
        settings["routes"][0]["canary_percent"] = 100
        async with RunningGateway(tmp_path, settings) as gateway:
            assert "names the right version" in await until_alarm(gateway, "state lost")
            ready = await gateway.admin.get("/readyz")
            assert (ready.status_code, "was lost" in ready.text) == (200, True), ready.text
            assert await served_by(gateway) == {"v1"}


async def eventually_no_alarm(gateway: RunningGateway, what: str) -> None:
    """Wait until this alarm stands no more."""
    async with asyncio.timeout(20):
        while what in [a["what"] for a in (await gateway.admin.get("/api/v1/alarms")).json()["alarms"]]:
            await asyncio.sleep(0.05)


async def test_what_cannot_be_kept_is_refused_when_the_journal_is_gone(tmp_path: Path) -> None:
    async with Backend() as s, Backend() as c, RunningGateway(tmp_path, config(s.url, c.url)) as gateway:
        rollout = await gateway.start_rollout()
        (tmp_path / "state" / "state.sqlite3").unlink()
        # at once, before anybody has looked
        refused = await gateway.admin.post(f"/api/v1/rollouts/{rollout}/promote")
        assert (refused.status_code, refused.json()["type"]) == (503, "urn:canary-gateway:problem:journal-unavailable")
        assert "was deleted or replaced" in refused.json()["detail"]
        higher = await gateway.admin.put("/api/v1/routes/r/weight", json={"canary_percent": 90})
        assert higher.status_code == 503
        await until_alarm(gateway, "state")
        aborted = await gateway.admin.post(f"/api/v1/rollouts/{rollout}/abort")
        assert (aborted.status_code, aborted.json()["phase"]) == (200, "ROLLED_BACK")
        again = await gateway.admin.post("/api/v1/routes/r/rollouts", json={"retry": True})
        assert again.status_code == 503
