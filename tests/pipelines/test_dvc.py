"""Real DVC and GTO: a tag starts a rollout of what the remote has, a promotion assigns the next stage."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.gateway import RunningGateway
from tests.support.pipelines import ROOT, Digits, digits_route, environment, model_server, ran

pytestmark = pytest.mark.anyio
EVENTUALLY_S = 120.0
WHO = {f"GIT_{who}_{what}": "a@example.org" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}


class Repository:
    """A repository with a local remote, as people use them."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "repo"
        self.path.mkdir()
        self._remote = directory / "remote"

    async def run(self, *command: str) -> str:
        program = command[0] if command[0] == "git" else str(environment("dvc") / "bin" / command[0])
        environ = WHO | {"DVC_NO_ANALYTICS": "true", "PATH": f"{environment('dvc') / 'bin'}:{os.environ['PATH']}"}
        return await ran([program, *command[1:]], self.path, environ)

    async def create(self) -> None:
        await self.run("git", "init", "--quiet", "--initial-branch=main")
        await self.run("dvc", "init", "--quiet")
        await self.run("dvc", "remote", "add", "--default", "store", str(self._remote))

    async def release(self, version: str, model: str) -> None:
        """A new version, registered and assigned to the stage canary."""
        shutil.copy(ROOT / "models" / f"{model}.onnx", self.path / "digits.onnx")
        await self.run("dvc", "add", "--quiet", "digits.onnx")
        await self.run("dvc", "push", "--quiet")
        await self.run("git", "add", "--all")
        await self.run("git", "commit", "--quiet", "--message", version)
        await self.run("gto", "register", "digits", "--version", version)
        await self.run("gto", "assign", "digits", "--version", version, "--stage", "canary")


async def test_a_stage_starts_rollouts_and_a_promotion_assigns_the_next(tmp_path: Path) -> None:
    repository = Repository(tmp_path)
    await repository.create()
    await repository.release("v1.0.0", "digits-svm")
    # GTO makes a tag as somebody; the gateway's own programs see none of the variables of this test.
    for key in ("name", "email"):
        await repository.run("git", "config", f"user.{key}", "a@example.org")
    gto = [str(environment("dvc") / "bin" / "gto"), "assign", "{name}", "--version", "{version}", "--stage", "{stage}"]
    source = {"repo": str(repository.path), "path": "digits.onnx", "name": "digits", "route": "digits", "poll_s": 1}
    source |= {"stage": "canary", "promotion_command": [*gto, "--repo", str(repository.path)]}
    async with model_server("digits-logreg") as stable:
        made = {
            "listen": "127.0.0.1:0",
            "admin": {"listen": "127.0.0.1:0"},
            "backends": {"stable": {"endpoints": [stable]}},
            "routes": [digits_route(timeouts={"total_s": 5})],
            "sources": [{"dvc": source}],
        }
        async with RunningGateway(tmp_path, made) as gateway, Digits(gateway.url) as digits:
            try:
                await promoted(repository, gateway)
                await rolled_back(repository, gateway)
            finally:
                sys.stdout.write(gateway.log.decode())  # shown when it fails
            assert digits.failures == []


async def promoted(repository: Repository, gateway: RunningGateway) -> None:
    """It is served by this gateway, promoted, and GTO's stage says so; control dies meanwhile."""
    rollout = (await until(lambda: rollouts(gateway, 1), "a rollout begins"))[0]
    assert rollout["model"]["version"] == "v1.0.0" and rollout["model"]["digest"].startswith("md5:")
    for pid in gateway.children()["control"]:
        os.kill(pid, signal.SIGKILL)

    async def assigned() -> bool:
        return "digits#prod#2" in (await repository.run("git", "tag")).split()

    await until(assigned, "gto assigns the stage prod")
    found = await rollouts(gateway, 1)
    assert [(one["id"], one["phase"]) for one in found] == [(rollout["id"], "PROMOTED")], "a restart repeats nothing"


async def rolled_back(repository: Repository, gateway: RunningGateway) -> None:
    """A bad version is rolled back by what it answers; the stage stays where it was."""
    await repository.release("v1.1.0", "digits-misscaled")

    async def over() -> Any:
        found = await rollouts(gateway, 2)
        return found and found[0]["phase"] == "ROLLED_BACK" and found[0]

    rollout = await until(over, "the second version is rolled back")
    assert "class" in rollout["reason"], rollout["reason"]

    async def gone() -> bool:
        return (await gateway.admin.get("/api/v1/routes/digits")).json()["canary"] is None

    await until(gone, "its backend is taken out")
    assert "digits#prod#4" not in (await repository.run("git", "tag")).split()


async def rollouts(gateway: RunningGateway, count: int) -> list[dict[str, Any]]:
    """The rollouts, newest first, where there are so many."""
    try:
        reply = await gateway.admin.get("/api/v1/rollouts")
    except httpx.TransportError:
        return []
    found: list[dict[str, Any]] = reply.json()["rollouts"] if reply.status_code == 200 else []
    return found if len(found) >= count else []


async def until(condition: Callable[[], Any], what: str) -> Any:
    deadline_s = time.monotonic() + EVENTUALLY_S
    while not (found := await condition()):
        assert time.monotonic() < deadline_s, what
        await asyncio.sleep(0.2)
    return found
