"""The admin API of a real gateway: the documented commands, and a configuration that changes under traffic."""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.support.backend import Backend
from tests.support.gateway import RunningGateway, Traffic, config
from tests.support.worker import eventually

pytestmark = pytest.mark.anyio
DOCUMENT = Path(__file__).parents[2] / "docs" / "api.md"
_COMMAND = re.compile(r"^    (curl (?:.*\\\n)*.*)$", re.MULTILINE)


def steerable(stable: str, canary: str | None, **changes: Any) -> dict[str, Any]:
    settings = config(stable, canary, **changes)
    settings["admin"]["backend_allow"] = ["127.0.0.0/8"]
    return settings


async def test_the_documented_commands_do_what_is_said(tmp_path: Path) -> None:
    commands = [command.replace("\\\n", " ") for command in _COMMAND.findall(DOCUMENT.read_text())]
    assert len(commands) >= 6
    settings = steerable("http://127.0.0.1:9", "http://127.0.0.1:9", name="digits")
    settings["admin"]["backend_allow"] = ["10.0.0.0/8"]
    async with RunningGateway(tmp_path, settings) as gateway:
        for command in commands:
            arguments = shlex.split(command.replace("http://127.0.0.1:9900", gateway.admin_url))
            arguments[1:1] = ["--silent", "--show-error", "--fail-with-body"]
            endless = arguments[-1].endswith("/events")
            arguments[1:1] = ["--max-time", "60"]
            process = await asyncio.create_subprocess_exec(
                *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
            )
            assert process.stdout is not None
            if endless:  # a stream of events one leaves when one has seen enough
                assert await process.stdout.readline(), command
                process.terminate()
            out, err = await process.communicate()
            assert process.returncode == (-signal.SIGTERM if endless else 0), (command, out, err)
            assert out or endless


async def test_a_backend_and_a_route_come_without_a_restart_and_outlive_one(tmp_path: Path) -> None:
    async with Backend() as s, Backend() as late:
        settings = steerable(s.url, None)
        async with RunningGateway(tmp_path, settings) as gateway, Traffic(gateway.url, 50) as traffic:
            await traffic.reaches(10)
            workers = gateway.children()["worker"]
            added = await gateway.admin.put("/api/v1/backends/late", json={"endpoints": [late.url], "probe": None})
            assert added.status_code == 201, added.text
            route = {"match": {"path_prefix": "/late"}, "stable": "late"}
            added = await gateway.admin.put("/api/v1/routes/late", json=route)
            assert added.status_code == 201, added.text
            assert (await gateway.client.get("/late/x")).status_code == 200
            assert len(late.seen) == 1
            # Control alone is killed: its successor meets what was given, not the file.
            gateway_control = gateway.children()["control"][0]
            before = traffic.total
            os.kill(gateway_control, signal.SIGKILL)
            await eventually(lambda: gateway.children()["control"] not in ([], [gateway_control]), "a new control")
            await gateway.ready()
            assert (await gateway.admin.get("/api/v1/routes/late")).json()["stable"] == "late"
            assert (await gateway.client.get("/late/x")).status_code == 200
            await traffic.reaches(before + 10)
            assert traffic.failures == []
            assert gateway.children()["worker"] == workers
        async with RunningGateway(tmp_path, settings) as gateway:
            source = (await gateway.admin.get("/api/v1/config/source")).json()
            assert source["source"] == "api"
            assert (await gateway.client.get("/late/x")).status_code == 200
            removed = await gateway.admin.delete("/api/v1/routes/late")
            assert removed.json()["routes_removed"] == ["late"]
            assert (await gateway.admin.delete("/api/v1/backends/late")).status_code == 200
            assert (await gateway.client.get("/late/x")).headers["x-gateway-variant"] == "stable"
            assert len(late.seen) == 3
            assert (await gateway.admin.get("/api/v1/config/source")).json()["source"] == "file", "its words again"
            await gateway.admin.put("/api/v1/backends/late", json={"endpoints": [late.url], "probe": None})
        settings["routes"][0]["timeouts"]["connect_s"] = 0.7
        async with RunningGateway(tmp_path, settings) as gateway:
            assert (await gateway.admin.get("/api/v1/config/source")).json()["source"] == "file"
        assert b"is no longer served, because the file was changed since" in gateway.log
        assert "late" in (tmp_path / "state" / "superseded.yaml").read_text()


async def test_what_was_given_at_run_time_is_served_when_the_state_file_is_damaged(tmp_path: Path) -> None:
    async with Backend() as s, Backend() as late:
        settings = steerable(s.url, None)
        async with RunningGateway(tmp_path, settings) as gateway:
            await gateway.admin.put("/api/v1/backends/late", json={"endpoints": [late.url], "probe": None})
            await gateway.admin.put("/api/v1/routes/late", json={"match": {"path_prefix": "/late"}, "stable": "late"})
        (tmp_path / "state" / "state.sqlite3").write_bytes(b"not a database" * 1000)
        async with RunningGateway(tmp_path, settings) as gateway:
            assert (await gateway.client.get("/late/x")).status_code == 200
            assert len(late.seen) == 1
            alarms = {a["what"]: a["reason"] for a in (await gateway.admin.get("/api/v1/alarms")).json()["alarms"]}
            assert "the copy of the configuration that admin gave at" in alarms["stored configuration"]
            assert "file is not a database" in alarms["journal"]
            refused = await gateway.admin.put("/api/v1/backends/more", json={"endpoints": [late.url]})
            assert (refused.status_code, refused.json()["type"]) == (
                503,
                "urn:canary-gateway:problem:journal-unavailable",
            )
        assert (tmp_path / "state" / "state.sqlite3").read_bytes() == b"not a database" * 1000, "it is left as it was"


async def test_readiness_says_that_a_route_has_nobody_to_serve_it(tmp_path: Path) -> None:
    settings = steerable("http://127.0.0.1:9", None)
    settings["backends"]["stable"]["probe"] = {"path": "/", "interval_s": 0.1, "fall": 1, "rise": 1}
    settings["admin"]["unready_without_stable"] = True
    async with Backend() as s:
        settings["backends"]["stable"]["endpoints"] = [s.url]
        async with RunningGateway(tmp_path, settings) as gateway:
            await s.stop()
            answer: dict[str, Any] = {"reasons": []}

            async def ask() -> None:
                nonlocal answer
                while not answer["reasons"]:
                    answer = (await gateway.admin.get("/readyz")).json()
                    await asyncio.sleep(0.05)

            await asyncio.wait_for(ask(), 20)
            assert answer["ready"] is False
            assert "every endpoint of route r's stable backend stable is down" in answer["reasons"][0]


async def test_a_token_of_the_configuration_is_accepted_and_its_commands_are_audited(tmp_path: Path) -> None:
    settings = steerable("http://127.0.0.1:9", "http://127.0.0.1:9")
    settings["admin"]["tokens"] = [
        {"name": "ops", "scopes": ["operate"], "env": "OPS_TOKEN"},
        {"name": "chief", "scopes": ["admin"], "env": "CHIEF_TOKEN"},
    ]
    environ = {"OPS_TOKEN": "the-operators-own-token", "CHIEF_TOKEN": "the-chiefs-own-token-too"}

    def bearer(name: str) -> dict[str, str]:
        return {"authorization": f"Bearer {environ[name]}"}

    async with RunningGateway(tmp_path, settings, environ=environ) as gateway:
        assert (await gateway.admin.post("/api/v1/routes/r/rollouts")).status_code == 401
        started = await gateway.admin.post("/api/v1/routes/r/rollouts", headers=bearer("OPS_TOKEN"))
        assert started.json()["by"] == "ops"
        assert (await gateway.admin.delete("/api/v1/config", headers=bearer("OPS_TOKEN"))).status_code == 403
    async with RunningGateway(tmp_path, settings, environ=environ) as gateway:
        trail = await gateway.admin.get("/api/v1/audit", headers=bearer("CHIEF_TOKEN"))
        found = [(e["principal"], e["method"], e["status"]) for e in trail.json()["entries"]]
        assert found == [("ops", "DELETE", 403), ("ops", "POST", 201), ("", "POST", 401)]
    state = (tmp_path / "state" / "state.sqlite3").read_bytes()
    assert not any(token.encode() in state or token.encode() in gateway.log for token in environ.values())
