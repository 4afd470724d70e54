"""The admin listener on a Unix socket: API, probes and command line through a file that this user alone may open."""

from __future__ import annotations

import asyncio
import os
import signal
import stat
import sys
from pathlib import Path

import pytest

from tests.support.gateway import RunningGateway, config
from tests.support.worker import eventually

pytestmark = pytest.mark.anyio


async def command(*arguments: str, **more: str) -> tuple[int | None, str, str]:
    """`gateway ...` as a process: its exit status and what it said."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gateway", *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=os.environ | more,
    )
    out, err = await asyncio.wait_for(process.communicate(), 60)
    return process.returncode, out.decode(), err.decode()


async def test_the_admin_listener_is_a_file(tmp_path: Path) -> None:
    socket = tmp_path / "admin.sock"
    settings = config("http://127.0.0.1:9", "http://127.0.0.1:9")
    settings["admin"] = {"listen": f"unix:{socket}", "token_env": "ADMIN_TOKEN"}
    token = "a-token-of-sixteen-or-more"
    environ = {"ADMIN_TOKEN": token}
    async with RunningGateway(tmp_path, settings, environ=environ) as gateway:
        assert gateway.admin_url == f"unix://{socket}"
        assert stat.S_IMODE(socket.stat().st_mode) == 0o600
        assert (await gateway.admin.get("/healthz")).json() == {"alive": True}
        assert (await gateway.admin.get("/readyz")).json()["ready"] is True
        assert "gateway_ready 1.0" in (await gateway.admin.get("/metrics")).text
        assert (await gateway.admin.get("/api/v1/routes")).status_code == 401, "a token that is configured is asked for"
        gateway.admin.headers["authorization"] = f"Bearer {token}"

        status, out, err = await command("weight", "r", "25", GATEWAY_URL=gateway.admin_url, GATEWAY_TOKEN=token)
        assert (status, err) == (0, "") and out.startswith("r: 25 % to canary")
        entry = (await gateway.admin.get("/api/v1/audit")).json()["entries"][0]
        assert (entry["address"], entry["status"]) == (f"user {os.getuid()}", 200)

        # Another gateway neither takes the socket nor disturbs who has it.
        (tmp_path / "other").mkdir()
        settings["state_dir"] = "state"
        other = RunningGateway(tmp_path / "other", settings)
        status, out, err = await command("serve", str(other.path), **environ)
        assert (status, out) == (1, "")
        assert err.endswith(
            f"gateway: cannot listen (another process listens there): unix:{socket}: stop it, or choose another path\n"
        )
        assert (await gateway.admin.get("/healthz")).status_code == 200

        # Control comes and goes behind the file.
        (control,) = gateway.children()["control"]
        os.kill(control, signal.SIGKILL)
        await eventually(lambda: gateway.children()["control"] not in ([], [control]), "a new control")
        await gateway.ready()
        assert (await gateway.admin.get("/api/v1/routes/r")).json()["canary_percent"] == 25
    assert not socket.exists()
