"""The state of one gateway is what another one starts from: a backup, an upgrade, and files of other versions."""

from __future__ import annotations

import asyncio
import sqlite3
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gateway.control.journal.sqlite_file import checksum
from gateway.control.journal.sqlite_schema import SNAPSHOT_COLUMNS
from tests.support.backend import Backend
from tests.support.gateway import RunningGateway, Traffic, config

pytestmark = pytest.mark.anyio

STEPS = [{"percent": 20, "min_time_s": 3600}, {"percent": 50, "min_time_s": 3600}]


async def at_second_step(gateway: RunningGateway) -> str:
    """Start a rollout and take it to its second step; returns its id."""
    rollout = await gateway.start_rollout()
    promoted = await gateway.admin.post(f"/api/v1/rollouts/{rollout}/promote", json={"next_step": True})
    assert promoted.status_code == 200, promoted.text
    return rollout


async def shown(gateway: RunningGateway, rollout: str) -> tuple[Any, ...]:
    """Where the rollout is, and what the route gives its canary."""
    view = await gateway.rollout(rollout)
    (route,) = (await gateway.admin.get("/api/v1/routes")).json()["routes"]
    return view["phase"], view["step"], view["canary_percent"], route["canary_percent"]


async def backed_up(gateway: RunningGateway, file: Path) -> tuple[int | None, str]:
    """`gateway backup`: its exit status, and what it says."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gateway", "backup", str(file), "--url", gateway.admin_url),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    out, _ = await process.communicate()
    return process.returncode, out.decode()


async def test_a_backup_of_a_running_gateway_is_what_another_one_starts_from(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    file = tmp_path / "backup.sqlite3"
    file.write_text("an older one")
    for directory in (here, there / "state"):
        directory.mkdir(parents=True)
    async with Backend() as s, Backend() as c:
        settings = config(s.url, c.url, plan={"steps": STEPS})
        async with RunningGateway(here, settings) as gateway, Traffic(gateway.url) as traffic:
            await gateway.admin.put("/api/v1/backends/late", json={"endpoints": [s.url], "probe": None})
            rollout = await at_second_step(gateway)
            status, said = await backed_up(gateway, file)
            assert status == 0 and str(file) in said, said
            assert file.stat().st_mode & 0o777 == 0o600
            status, said = await backed_up(gateway, tmp_path)
            assert status == 1 and "is not a regular file" in said
            # What happens afterwards is not in it.
            await gateway.admin.post(f"/api/v1/rollouts/{rollout}/abort")
            assert traffic.failures == []
        (there / "state" / "state.sqlite3").write_bytes(file.read_bytes())
        async with RunningGateway(there, settings) as gateway:
            assert await shown(gateway, rollout) == ("PROGRESSING", 2, 50, 50)
            backends = [backend["name"] for backend in (await gateway.admin.get("/api/v1/backends")).json()["backends"]]
            assert "late" in backends, "what was given at run time is in it"
            trail = [entry["path"] for entry in (await gateway.admin.get("/api/v1/audit")).json()["entries"]]
            assert f"/api/v1/rollouts/{rollout}/promote" in trail
            assert (await gateway.admin.get("/api/v1/alarms")).json()["alarms"] == []


def of_another_version(path: Path) -> None:
    """Make the kept evidence one that an older gateway has written."""
    connection = sqlite3.connect(path, isolation_level=None)
    (row,) = connection.execute(f"SELECT {SNAPSHOT_COLUMNS} FROM snapshots").fetchall()
    known = msgspec.json.decode(row[3])
    changed = (*row[:3], msgspec.json.encode(known | {"version": known["version"] - 1}), row[4])
    connection.execute("UPDATE snapshots SET analysis_state = ?, crc = ?", (changed[3], checksum(changed)))
    connection.close()


@pytest.mark.parametrize("evidence", ["goes on", "begins anew"])
async def test_a_rollout_under_way_goes_on_at_its_step_after_an_upgrade(tmp_path: Path, evidence: str) -> None:
    async with Backend() as s, Backend() as c:
        settings = config(s.url, c.url, plan={"steps": STEPS})
        async with RunningGateway(tmp_path, settings) as gateway:
            rollout = await at_second_step(gateway)
            async with Traffic(gateway.url, 200) as traffic:
                await traffic.reaches(300)
            async with asyncio.timeout(20):
                while not (before := (await gateway.rollout(rollout))["canary_requests"]):
                    await asyncio.sleep(0.05)
        if evidence == "begins anew":
            of_another_version(tmp_path / "state" / "state.sqlite3")
        async with RunningGateway(tmp_path, settings) as gateway:
            assert await shown(gateway, rollout) == ("PROGRESSING", 2, 50, 50)
            view = await gateway.rollout(rollout)
            assert "goes on, its minimum time and requests start again" in view["reason"]
            assert view["canary_requests"] == 0 if evidence == "begins anew" else view["canary_requests"] >= before
        assert (b"starting to collect again" in gateway.log) is (evidence == "begins anew"), gateway.log.decode()


@pytest.mark.parametrize(
    ("name", "said"),
    [("journal.sqlite3", "holds the state of a pre-release"), ("state.sqlite3", "its schema is version 99")],
)
async def test_state_of_another_version_is_refused_with_what_to_do(tmp_path: Path, name: str, said: str) -> None:
    path = tmp_path / "state" / name
    path.parent.mkdir()
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 99")
    connection.commit()
    connection.close()
    content = path.read_bytes()
    async with Backend() as s, Backend() as c, RunningGateway(tmp_path, config(s.url, c.url)) as gateway:
        (alarm,) = [
            alarm["reason"]
            for alarm in (await gateway.admin.get("/api/v1/alarms")).json()["alarms"]
            if alarm["what"] == "journal"
        ]
        assert said in alarm and str(path.parent) in alarm and alarm.startswith("serving stable only")
        assert (await gateway.admin.post("/api/v1/routes/r/rollouts")).status_code == 503
        assert (await gateway.client.get("/")).headers["x-gateway-variant"] == "stable"
    assert path.read_bytes() == content, "it is left as it was"
