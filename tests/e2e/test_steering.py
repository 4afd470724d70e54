"""What plans and people may ask of a rollout, over real processes and under traffic: one gateway, a route for each."""

from __future__ import annotations

import asyncio
import os
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
# Far from UTC, so that a window told by the wrong clock is missed; and without a change to summer time.
ZONE = "Asia/Tokyo"
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

    async def wish(self, method: str, path: str, status: int = 200, **body: Any) -> Any:
        answer = await self.admin.request(method, f"/api/v1{path}", json=body or None)
        assert answer.status_code == status, answer.text
        return answer.json()

    async def until(self, rollout_id: str, condition: Any, what: str) -> Any:
        """Wait for a state of the rollout."""
        deadline_s = asyncio.get_running_loop().time() + 60
        while not condition(view := await self.wish("GET", f"/rollouts/{rollout_id}")):
            assert asyncio.get_running_loop().time() < deadline_s, f"{what}: {view}"
            await asyncio.sleep(0.05)
        return view


async def test_plans_and_people_have_their_way(tmp_path: Path) -> None:
    today = datetime.now(UTC).date()
    closed = [(today + timedelta(days=days)).isoformat() for days in (-1, 0, 1, 2)]
    async with Backend() as v1, Backend() as v2, Backend() as v3:
        made = settings(
            v1,
            v2,
            v3,
            closed={"closed_dates": closed},
            ramped={"rollback_ramp_s": 2.0},
            taken={"on_new_canary": "supersede"},
            kept={},
        )
        async with RunningGateway(tmp_path, made) as gateway:
            steered = Steered(gateway.admin)
            await window(steered, gateway.url)
            await ramp(steered, gateway.url, v2)
            await supersede(steered)
            await drain(steered, gateway.url, v3)


async def test_automation_goes_up_when_the_window_of_the_week_opens_and_not_before(tmp_path: Path) -> None:
    """The window is four hours long and begins in two; the wall clock is moved, nothing else knows of it."""
    ahead = tmp_path / "ahead"

    def move(hours: int) -> None:
        (tmp_path / "next").write_text(str(hours * 3600))
        (tmp_path / "next").rename(ahead)  # no process reads half of it

    move(0)
    (tmp_path / "sitecustomize.py").write_text(AHEAD.format(path=str(ahead)))
    path = os.pathsep.join(filter(None, (str(tmp_path), os.environ.get("PYTHONPATH"))))
    now = datetime.now(ZoneInfo(ZONE))
    opens, closes = now + timedelta(hours=2), now + timedelta(hours=6)
    window = {"days": [f"{opens:%a}".lower()], "opens": f"{opens:%H:%M}", "closes": f"{closes:%H:%M}"}
    async with Backend() as v1, Backend() as v2:
        steps = [{"percent": percent, "min_time_s": 0.2, "min_requests": 10} for percent in (40, 60)]
        made = settings(v1, v2, weekly={"steps": steps, "timezone": ZONE, "windows": [window]})
        async with RunningGateway(tmp_path, made, environ={"PYTHONPATH": path}) as gateway:
            steered = Steered(gateway.admin)
            async with Traffic(f"{gateway.url}/weekly") as traffic:
                rollout = (await steered.wish("POST", "/routes/weekly/rollouts", 201))["id"]
                for hours in (0, 28):  # before it opens, and at an hour of it on the day after
                    move(hours)
                    day = f"{now + timedelta(hours=hours):%A}"
                    view = await steered.until(
                        rollout,
                        lambda v, day=day: f"goes up only in its windows, not on {day} " in v["waiting_for"],
                        "it says why it stays",
                    )
                    assert (view["phase"], view["canary_percent"]) == ("PROGRESSING", 40)
                    assert view["waiting_for"].endswith(f"({ZONE})")
                move(4)
                await steered.until(rollout, lambda v: v["phase"] == "PROMOTED", "it is promoted")
                assert traffic.failures == []
            story = (await steered.wish("GET", f"/rollouts/{rollout}/story"))["decisions"]
            assert [decision["canary_percent"] for decision in story] == [40, 60, 100]


async def window(steered: Steered, url: str) -> None:
    """Where no window opens a passed step stays, says why, and goes up when a person wishes it."""
    async with Traffic(f"{url}/closed") as traffic:
        rollout = (await steered.wish("POST", "/routes/closed/rollouts", 201))["id"]
        view = await steered.until(rollout, lambda v: "goes up on no" in v["waiting_for"], "it says why it stays")
        assert (view["phase"], view["canary_percent"]) == ("PROGRESSING", 40)
        view = await steered.wish("POST", f"/rollouts/{rollout}/promote", next_step=True)
        assert view["canary_percent"] == 60
        assert traffic.failures == []
    await steered.wish("POST", f"/rollouts/{rollout}/abort")


async def ramp(steered: Steered, url: str, canary: Backend) -> None:
    """A rollback by ramp gives back little by little, and ends at nothing."""
    async with Traffic(f"{url}/ramped") as traffic:
        rollout = (await steered.wish("POST", "/routes/ramped/rollouts", 201))["id"]
        await traffic.reaches(20)
        canary.script = answer(500)
        await steered.until(rollout, lambda v: v["phase"] == "ROLLED_BACK", "it is rolled back")
        canary.script = answer()
        assert traffic.failures == []
    story = (await steered.wish("GET", f"/rollouts/{rollout}/story"))["decisions"]
    shares = [decision["canary_percent"] for decision in story]
    returning = [d["canary_percent"] for d in story if d["phase"] == "RETURNING"]
    assert returning and all(0 < percent < 40 for percent in returning), story
    assert shares == [40, *sorted(returning, reverse=True), 0] and len(set(shares)) == len(shares)


async def supersede(steered: Steered) -> None:
    """A new canary takes the place of one under way where the plan says so, and is refused where it does not."""
    before = {name: (await steered.wish("POST", f"/routes/{name}/rollouts", 201))["id"] for name in ("taken", "kept")}
    for name, status in (("taken", 200), ("kept", 409)):
        route = await steered.wish("GET", f"/routes/{name}/config")
        refused = await steered.wish("PUT", f"/routes/{name}", status, **route | {"canary": "v3"})
        assert status == 200 or "on_new_canary: supersede" in refused["detail"]
    taken = await steered.wish("GET", f"/rollouts/{before['taken']}")
    assert (taken["phase"], taken["canary_percent"]) == ("WITHDRAWN", 0) and "superseded" in taken["reason"]
    assert (await steered.wish("GET", f"/rollouts/{before['kept']}"))["phase"] == "PROGRESSING"
    after = await steered.wish("POST", "/routes/taken/rollouts", 201)
    assert (after["stable"], after["canary"]) == ("v1", "v3")
    for rollout in (before["kept"], after["id"]):
        await steered.wish("POST", f"/rollouts/{rollout}/abort")


async def drain(steered: Steered, url: str, model: Backend) -> None:
    """A backend that is removed answers what it has in hand, and gets nothing more."""
    go = asyncio.Event()

    async def slowly(seen: Seen, peer: Peer) -> None:
        await go.wait()
        await answer(body=b"at last")(seen, peer)

    model.script = slowly
    await steered.wish("PUT", "/backends/late", 201, endpoints=[model.url], probe=None)
    await steered.wish("PUT", "/routes/late", 201, match={"path_prefix": "/late"}, stable="late")
    async with httpx.AsyncClient(base_url=url, timeout=EVENTUALLY_S) as client:
        under_way = asyncio.create_task(client.get("/late/x"))
        await eventually(lambda: len(model.seen) == 1, "the model has the request")
        assert (await steered.wish("DELETE", "/routes/late"))["routes_removed"] == ["late"]
        assert (await steered.wish("DELETE", "/backends/late"))["backends_removed"] == ["late"]
        assert (await client.get("/late/y")).status_code == 404
        go.set()
        reply = await under_way
        assert (reply.status_code, reply.text) == (200, "at last")
        assert len(model.seen) == 1
