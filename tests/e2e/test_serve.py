"""The whole process tree: what operators and users may rely on while parts of it are changed, stopped and killed."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
import yaml

from tests.support.backend import Backend, answer
from tests.support.gateway import RunningGateway, Traffic, config
from tests.support.worker import eventually

pytestmark = pytest.mark.anyio
# The next request comes on another connection, and so, sooner or later, to the other worker.
FRESH = {"connection": "close"}


async def test_a_weight_change_holds_from_the_next_request_on_in_every_worker(tmp_path: Path) -> None:
    async with Backend() as s, Backend() as c, RunningGateway(tmp_path, config(s.url, c.url)) as gateway:
        assert len(gateway.children()["worker"]) == 2
        for percent, expected in ((100, "canary"), (0, "stable"), (100, "canary")):
            await gateway.set_weight(percent)
            for _ in range(20):
                assert (await gateway.client.get("/", headers=FRESH)).headers["x-gateway-variant"] == expected


async def test_a_good_canary_is_promoted_and_nobody_notices(tmp_path: Path) -> None:
    async with Backend() as s, Backend() as c, RunningGateway(tmp_path, config(s.url, c.url)) as gateway:
        async with Traffic(gateway.url, rate_hz=400) as traffic:
            rollout = await gateway.start_rollout()
            view = await gateway.until_phase(rollout, "PROMOTED", "ROLLED_BACK")
            await traffic.reaches(traffic.total + 50)
        assert view["phase"] == "PROMOTED", view["reason"]
        assert traffic.failures == []
        (route,) = (await gateway.admin.get("/api/v1/routes")).json()["routes"]
        assert (route["stable"], route["canary"], route["configured_stable"]) == (view["canary"], None, view["stable"])
        assert (await gateway.client.get("/")).headers["x-gateway-variant"] == "stable", "the roles are swapped"
        metrics = (await gateway.admin.get("/metrics")).text
        assert 'gateway_rollout_phase{phase="PROMOTED",route="r"} 1.0' in metrics


async def test_a_failing_canary_is_rolled_back_without_a_failure_seen_and_stays_back(tmp_path: Path) -> None:
    async with Backend() as s, Backend(answer(500, b"boom")) as c:
        async with RunningGateway(tmp_path, config(s.url, c.url)) as gateway:
            async with Traffic(gateway.url) as traffic:
                rollout = await gateway.start_rollout()
                view = await gateway.until_phase(rollout, "PROMOTED", "ROLLED_BACK")
                await traffic.reaches(traffic.total + 50)
            assert (view["phase"], view["causes"]) == ("ROLLED_BACK", ["errors"])
            assert traffic.failures == []
        async with RunningGateway(tmp_path, config(s.url, c.url, canary_percent=50)) as again:
            assert (await again.rollout(rollout))["phase"] == "ROLLED_BACK"
            (route,) = (await again.admin.get("/api/v1/routes")).json()["routes"]
            assert (route["canary_percent"], route["phase"]) == (0, "ROLLED_BACK")


async def test_a_dying_control_plane_costs_no_request_and_resumes_where_it_was(tmp_path: Path) -> None:
    slow_plan = {"steps": [{"percent": 20, "min_time_s": 0.3, "min_requests": 5}, {"percent": 50, "min_time_s": 3600}]}
    async with Backend() as s, Backend() as c:
        async with RunningGateway(tmp_path, config(s.url, c.url, plan=slow_plan)) as gateway:
            async with Traffic(gateway.url, rate_hz=400) as traffic:
                rollout = await gateway.start_rollout()
                while (await gateway.rollout(rollout))["step"] < 2:
                    await asyncio.sleep(0.05)
                before = await gateway.rollout(rollout)
                (control,) = gateway.children()["control"]
                os.kill(control, signal.SIGKILL)
                await eventually(lambda: control not in gateway.children()["control"], "control is gone")
                served = traffic.total
                await traffic.reaches(served + 100)
                await gateway.ready()
                after = await gateway.rollout(rollout)
                await traffic.reaches(traffic.total + 100)
            assert traffic.failures == []
            assert (after["phase"], after["step"], after["canary_percent"]) == ("PROGRESSING", 2, 50)
            assert after["canary_requests"] >= before["canary_requests"] * 0.5, "the evidence was restored"
            (route,) = (await gateway.admin.get("/api/v1/routes")).json()["routes"]
            assert route["canary_percent"] == 50


async def test_a_killed_worker_is_replaced_and_the_counts_go_on(tmp_path: Path) -> None:
    async with Backend() as s, Backend() as c:
        async with RunningGateway(tmp_path, config(s.url, c.url, plan=_endless())) as gateway:
            async with Traffic(gateway.url) as traffic:
                rollout = await gateway.start_rollout()
                await traffic.reaches(200)
                victim = gateway.children()["worker"][0]
                before = (await gateway.rollout(rollout))["canary_requests"]
                os.kill(victim, signal.SIGKILL)
                await eventually(lambda: victim not in gateway.children()["worker"], "the worker is gone")
                await gateway.ready()
                await traffic.reaches(traffic.total + 300)
                view = await gateway.rollout(rollout)
            # Only what the victim had in hand may be lost: at most one request per client connection.
            assert len(traffic.failures) <= 8, traffic.failures
            assert view["canary_requests"] > before
            assert view["analysis"]["verdict"] != "ERROR", view["analysis"]["reason"]
            assert len(gateway.children()["worker"]) == 2


async def test_sigterm_under_load_drains_without_a_loss(tmp_path: Path) -> None:
    async def slowly(seen: object, peer: object) -> None:
        await asyncio.sleep(0.3)
        await answer()(seen, peer)  # type: ignore[arg-type]  # scripts are given what Backend gives them

    async with Backend(slowly) as s, RunningGateway(tmp_path, config(s.url, None)) as gateway:
        pending = [asyncio.create_task(gateway.client.get("/")) for _ in range(20)]
        await eventually(lambda: len(s.seen) == 20, "all are under way")
        assert await gateway.stop() == 0
        replies = await asyncio.gather(*pending)
    assert {reply.status_code for reply in replies} == {200}
    # On a busy machine control may start later than a worker waits for its first table, and look at its readiness
    # before the end.
    normal = b"no routing table from control|not ready: the gateway is shutting down"
    said = [line for line in gateway.log.splitlines() if not re.search(normal, line)]
    assert said == [], gateway.log.decode()


async def test_an_unreadable_journal_means_stable_only_and_an_alarm(tmp_path: Path) -> None:
    settings = config("http://127.0.0.1:9", "http://127.0.0.1:9", canary_percent=50)
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "state.sqlite3").write_bytes(b"this is no journal" * 1000)
    async with Backend() as s, Backend() as c:
        settings["backends"]["stable"]["endpoints"] = [s.url]
        settings["backends"]["canary"]["endpoints"] = [c.url]
        gateway = RunningGateway(tmp_path, settings)
        await gateway.start()
        try:
            async with httpx.AsyncClient(base_url=gateway.admin_url, timeout=20) as admin:
                # Serving and ready, for traffic does not suffer; the alarm stands.
                async with asyncio.timeout(60):
                    said = ""
                    while "stable only" not in said:
                        await asyncio.sleep(0.05)
                        with contextlib.suppress(httpx.TransportError):
                            said = (await admin.get("/readyz")).text
                assert (await admin.post("/api/v1/routes/r/rollouts")).status_code == 503
                raised = await admin.put("/api/v1/routes/r/weight", json={"canary_percent": 10})
                assert raised.status_code == 503
            async with httpx.AsyncClient(base_url=gateway.url, timeout=20) as client:
                for _ in range(30):
                    assert (await client.get("/")).headers["x-gateway-variant"] == "stable"
        finally:
            await gateway.admin.aclose()
            await gateway.client.aclose()
            await gateway.stop()


async def test_an_operator_steers_by_hand(tmp_path: Path) -> None:
    async with Backend() as s, Backend() as c:
        async with RunningGateway(tmp_path, config(s.url, c.url, plan=_endless())) as gateway, Traffic(gateway.url):
            rollout = await gateway.start_rollout()

            async def command(verb: str) -> httpx.Response:
                return await gateway.admin.post(f"/api/v1/rollouts/{rollout}/{verb}")

            assert (await command("pause")).json()["phase"] == "PAUSED"
            assert (await command("pause")).status_code == 409
            assert (await gateway.admin.post("/api/v1/routes/r/rollouts")).status_code == 409
            reply = await gateway.admin.put("/api/v1/routes/r/weight", json={"canary_percent": 33.33})
            assert reply.json()["canary_percent"] == 33.33
            assert (await command("resume")).json()["canary_percent"] == 20
            assert (await command("promote")).json()["phase"] == "PROMOTED"
            assert (await command("pause")).status_code == 409
            assert (await command("abort")).json()["phase"] == "ROLLED_BACK"
            assert (await gateway.admin.post("/api/v1/routes/r/rollouts")).status_code == 409, "it was rolled back"
            reply = await gateway.admin.post("/api/v1/routes/r/rollouts", json={"retry": True})
            second = reply.json()["id"]
            rollout, first = second, rollout
            assert (await command("abort")).json()["phase"] == "ROLLED_BACK"
            listed = (await gateway.admin.get("/api/v1/rollouts")).json()["rollouts"]
            assert [r["id"] for r in listed] == [second, first]
            rollout = first
            assert (await command("abort")).status_code == 409, "an older rollout cannot touch its successor's route"


async def test_a_forced_variant_is_honoured_when_allowed_and_never_counted(tmp_path: Path) -> None:
    settings = config("", "", plan=_endless(), forced_variant_header="x-variant")
    async with Backend() as s, Backend() as c:
        settings["backends"]["stable"]["endpoints"] = [s.url]
        settings["backends"]["canary"]["endpoints"] = [c.url]
        async with RunningGateway(tmp_path, settings) as gateway:
            rollout = await gateway.start_rollout()
            for _ in range(50):
                forced = await gateway.client.get("/", headers={"x-variant": "canary"})
                assert forced.headers["x-gateway-variant"] == "canary"
            drawn = 0
            for _ in range(100):
                drawn += (await gateway.client.get("/")).headers["x-gateway-variant"] == "canary"

            counted = -1

            async def all_counted() -> None:
                nonlocal counted
                while counted < drawn:
                    await asyncio.sleep(0.05)
                    counted = (await gateway.rollout(rollout))["canary_requests"]

            await asyncio.wait_for(all_counted(), 30)
            await asyncio.sleep(0.3)
            assert (await gateway.rollout(rollout))["canary_requests"] == drawn


async def test_sticky_routing_keeps_a_user_on_a_variant_and_only_moves_users_up(tmp_path: Path) -> None:
    async with Backend() as s, Backend() as c:
        settings = config(s.url, c.url, sticky={"cookie": "session"})
        async with RunningGateway(tmp_path, settings) as gateway:
            users = [f"u{i}" for i in range(60)]

            async def variants() -> dict[str, str]:
                found: dict[str, str] = {}
                for user in users:
                    for _ in range(2):
                        reply = await gateway.client.get("/", headers=FRESH | {"cookie": f"a=b; session={user}"})
                        variant = reply.headers["x-gateway-variant"]
                        assert found.setdefault(user, variant) == variant
                return found

            await gateway.set_weight(30)
            low = await variants()
            await gateway.set_weight(60)
            high = await variants()
    assert {"stable", "canary"} == set(low.values())
    moved_down = [user for user in users if low[user] == "canary" and high[user] == "stable"]
    assert moved_down == []
    assert list(high.values()).count("canary") > list(low.values()).count("canary")


async def test_events_are_streamed(tmp_path: Path) -> None:
    async with Backend() as s, Backend() as c:
        async with RunningGateway(tmp_path, config(s.url, c.url, plan=_endless())) as gateway:
            kinds: list[str] = []
            async with gateway.admin.stream("GET", "/api/v1/events") as stream:
                rollout = await gateway.start_rollout()
                await gateway.admin.post(f"/api/v1/rollouts/{rollout}/abort")
                async with asyncio.timeout(30):
                    async for line in stream.aiter_lines():
                        if line.startswith("event: "):
                            kinds.append(line.removeprefix("event: "))
                        if "rolled_back" in kinds:
                            break
            assert [kind for kind in kinds if kind in ("started", "rolled_back")] == ["started", "rolled_back"]
            assert kinds.index("weight") < kinds.index("rolled_back")


async def test_header_fields_and_the_access_log_are_as_configured(tmp_path: Path) -> None:
    settings = config("", None)
    settings |= {"headers": {"via": "edge"}, "access_log": {"path": "access.log"}}
    async with Backend() as s:
        settings["backends"]["stable"]["endpoints"] = [s.url]
        async with RunningGateway(tmp_path, settings) as gateway:
            replies = [await gateway.client.get(f"/{i}") for i in range(20)]
            path = tmp_path / "access.log"
            await eventually(lambda: path.exists() and path.read_bytes().count(b"\n") == 20, "each has its line")
            lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert {seen.all(b"via")[0] for seen in s.seen} == {b"1.1 edge"}
    assert {line["request_id"] for line in lines} == {reply.headers["x-request-id"] for reply in replies}


def test_a_port_in_use_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        settings = config("http://127.0.0.1:9", None) | {"listen": f"127.0.0.1:{port}"}
        path = tmp_path / "gateway.yaml"
        path.write_text(yaml.safe_dump(settings))
        done = subprocess.run(
            [sys.executable, "-m", "gateway", "serve", str(path)],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
    assert done.returncode == 1
    assert f"127.0.0.1:{port}" in done.stderr
    assert "Traceback" not in done.stderr


def _endless() -> dict[str, object]:
    return {"steps": [{"percent": 20, "min_time_s": 3600}]}
