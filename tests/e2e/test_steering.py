"""What plans and people may ask of a rollout, over real processes and under traffic: one gateway, a route for each."""

from __future__ import annotations

import asyncio
import os
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import httpx
import pytest

from tests.support.backend import Backend, Peer, Seen, answer
from tests.support.gateway import RunningGateway, Traffic, config
from tests.support.worker import EVENTUALLY_S, eventually

pytestmark = pytest.mark.anyio
# Far from UTC, so that a window by the wrong clock is missed; and without a change to summer time.
ZONE = "Asia/Tokyo"
WINDOW = {"days": ["mon"], "opens": "11:00", "closes": "15:00"}
# What every Python process imports first, where it is found: a wall clock that is as many seconds ahead as a file says.
AHEAD = """
import pathlib, time
_time, _ahead = time.time, pathlib.Path({path!r})
time.time = lambda: _time() + float(_ahead.read_text())
"""
ANALYSIS = {
    "errors": {"margin_delta": 0.1},
    "client_errors": {"mode": "advise"},
    "overload": {"mode": "advise"},
    "latency": {"mode": "advise"},
}


def settings(*backends: Backend, **plans: dict[str, Any]) -> dict[str, Any]:
    """A route for each plan, by its name, from v1 to v2; and v3, which no route names."""
    made = config(backends[0].url, None)
    made["admin"]["backend_allow"] = ["127.0.0.0/8"]
    made["backends"] = {f"v{i}": {"endpoints": [b.url], "probe": None} for i, b in enumerate(backends, start=1)}
    steps = [{"percent": 40, "min_time_s": 0.2, "min_requests": 10}, {"percent": 60, "min_time_s": 0.2}]
    made["routes"] = [
        {
            "name": name,
            "match": {"path_prefix": f"/{name}"},
            "stable": "v1",
            "canary": "v2",
            "timeouts": {"connect_s": 5.0, "first_byte_s": 20.0},
            "analysis": ANALYSIS,
            "plan": {"steps": steps} | plan,
        }
        for name, plan in plans.items()
    ]
    return made


class Steered:
    """The admin API of a gateway, as these tests use it."""

    def __init__(self, admin: httpx.AsyncClient) -> None:
        self.admin = admin

    async def command(self, method: str, path: str, status: int = 200, **body: Any) -> Any:
        answer = await self.admin.request(method, f"/api/v1{path}", json=body or None)
        assert answer.status_code == status, answer.text
        return answer.json()

    async def until(self, rollout_id: str, condition: Any, what: str) -> Any:
        """Wait for a state of the rollout."""
        deadline_s = asyncio.get_running_loop().time() + 60
        while not condition(view := await self.command("GET", f"/rollouts/{rollout_id}")):
            assert asyncio.get_running_loop().time() < deadline_s, f"{what}: {view}"
            await asyncio.sleep(0.05)
        return view


class WallClock:
    """The wall clock of a gateway's processes (`environ` is theirs), to be moved; nothing else knows of it."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        self._ahead = directory / "ahead"
        self._move(0.0)
        (directory / "sitecustomize.py").write_text(AHEAD.format(path=str(self._ahead)))
        self.environ = {"PYTHONPATH": os.pathsep.join(filter(None, (str(directory), os.environ.get("PYTHONPATH"))))}

    def set(self, moment: datetime) -> None:
        """From now on it goes from that moment."""
        self._move(moment.timestamp() - time.time())

    def _move(self, ahead_s: float) -> None:
        whole = self._ahead.with_suffix(".whole")
        whole.write_text(str(ahead_s))
        whole.rename(self._ahead)  # no process reads half of it


async def test_plans_and_people_have_their_way(tmp_path: Path) -> None:
    today = datetime.now(UTC).date()
    closed = [(today + timedelta(days=days)).isoformat() for days in (-1, 0, 1, 2)]
    clock = WallClock(tmp_path / "clock")
    async with Backend() as v1, Backend() as v2, Backend() as v3:
        made = settings(
            v1,
            v2,
            v3,
            closed={"closed_dates": closed},
            ramped={"rollback_ramp_s": 2.0},
            taken={"on_new_canary": "supersede"},
            kept={},
            weekly={"timezone": ZONE, "windows": [WINDOW]},
        )
        async with RunningGateway(tmp_path, made, environ=clock.environ) as gateway:
            steered = Steered(gateway.admin)
            await window(steered, gateway.url)
            await ramp(steered, gateway.url, v2)
            await supersede(steered)
            await drain(steered, gateway.url, v3)
            await week(steered, gateway.url, clock)


async def window(steered: Steered, url: str) -> None:
    """Where no window opens a passed step stays, says why, and goes up when a person asks for it."""
    async with Traffic(f"{url}/closed") as traffic:
        rollout = (await steered.command("POST", "/routes/closed/rollouts", 201))["id"]
        view = await steered.until(
            rollout, lambda v: "no weight is raised on" in v["waiting_for"], "it says why it stays"
        )
        assert (view["phase"], view["canary_percent"]) == ("PROGRESSING", 40)
        view = await steered.command("POST", f"/rollouts/{rollout}/promote", next_step=True)
        assert view["canary_percent"] == 60
        assert traffic.failures == []
    await steered.command("POST", f"/rollouts/{rollout}/abort")


async def week(steered: Steered, url: str, clock: WallClock) -> None:
    """Automation goes up when the window of the week opens, by the clock of the plan's zone, and not before."""
    now = datetime.now(ZoneInfo(ZONE))
    monday = (now + timedelta(days=14 - now.weekday())).replace(hour=0, minute=0)
    async with Traffic(f"{url}/weekly") as traffic:
        rollout = (await steered.command("POST", "/routes/weekly/rollouts", 201))["id"]
        for moment in (monday - timedelta(hours=11), monday + timedelta(hours=9)):  # the right hour, the right day
            clock.set(moment)
            said = f"outside the plan's windows: it is {moment:%A %H}:"
            view = await steered.until(rollout, lambda v, said=said: said in v["waiting_for"], "it says why it stays")
            assert (view["phase"], view["canary_percent"]) == ("PROGRESSING", 40)
            assert view["waiting_for"].endswith(f"({ZONE})")
        clock.set(monday + timedelta(hours=13))
        await steered.until(rollout, lambda v: v["phase"] == "PROMOTED", "it is promoted")
        assert traffic.failures == []
    history = (await steered.command("GET", f"/rollouts/{rollout}/story"))["decisions"]
    assert [decision["canary_percent"] for decision in history] == [40, 60, 100]


async def ramp(steered: Steered, url: str, canary: Backend) -> None:
    """A rollback by ramp gives back little by little, and ends at nothing."""
    async with Traffic(f"{url}/ramped") as traffic:
        rollout = (await steered.command("POST", "/routes/ramped/rollouts", 201))["id"]
        await traffic.reaches(20)
        canary.script = answer(500)
        await steered.until(rollout, lambda v: v["phase"] == "ROLLED_BACK", "it is rolled back")
        canary.script = answer()
        assert traffic.failures == []
    history = (await steered.command("GET", f"/rollouts/{rollout}/story"))["decisions"]
    shares = [decision["canary_percent"] for decision in history]
    returning = [d["canary_percent"] for d in history if d["phase"] == "RETURNING"]
    assert returning and all(0 < percent < 40 for percent in returning), history
    assert shares == [40, *sorted(returning, reverse=True), 0] and len(set(shares)) == len(shares)


async def supersede(steered: Steered) -> None:
    """A new canary takes the place of one under way where the plan says so, and is refused where it does not."""
    before = {
        name: (await steered.command("POST", f"/routes/{name}/rollouts", 201))["id"] for name in ("taken", "kept")
    }
    for name, status in (("taken", 200), ("kept", 409)):
        route = await steered.command("GET", f"/routes/{name}/config")
        refused = await steered.command("PUT", f"/routes/{name}", status, **route | {"canary": "v3"})
        assert status == 200 or "on_new_canary: supersede" in refused["detail"]
    taken = await steered.command("GET", f"/rollouts/{before['taken']}")
    assert (taken["phase"], taken["canary_percent"]) == ("WITHDRAWN", 0) and "superseded" in taken["reason"]
    assert (await steered.command("GET", f"/rollouts/{before['kept']}"))["phase"] == "PROGRESSING"
    after = await steered.command("POST", "/routes/taken/rollouts", 201)
    assert (after["stable"], after["canary"]) == ("v1", "v3")
    for rollout in (before["kept"], after["id"]):
        await steered.command("POST", f"/rollouts/{rollout}/abort")


async def drain(steered: Steered, url: str, model: Backend) -> None:
    """A backend that is removed answers what it has in hand, and gets nothing more."""
    go = asyncio.Event()

    async def slowly(seen: Seen, peer: Peer) -> None:
        await go.wait()
        await answer(body=b"at last")(seen, peer)

    model.script = slowly
    await steered.command("PUT", "/backends/late", 201, endpoints=[model.url], probe=None)
    await steered.command("PUT", "/routes/late", 201, match={"path_prefix": "/late"}, stable="late")
    async with httpx.AsyncClient(base_url=url, timeout=EVENTUALLY_S) as client:
        under_way = asyncio.create_task(client.get("/late/x"))
        await eventually(lambda: len(model.seen) == 1, "the model has the request")
        assert (await steered.command("DELETE", "/routes/late"))["routes_removed"] == ["late"]
        assert (await steered.command("DELETE", "/backends/late"))["backends_removed"] == ["late"]
        assert (await client.get("/late/y")).status_code == 404
        go.set()
        reply = await under_way
        assert (reply.status_code, reply.text) == (200, "at last")
        assert len(model.seen) == 1
