"""Real model servers as processes, and many rollouts at once through one gateway in front of them."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import httpx

from tests.support.gateway import WARM, RunningGateway

FOREIGN = Path(__file__).parents[1] / "systems" / "foreign"
# Starting these takes seconds on a quiet machine, and much longer on a busy one.
STARTS_S = 180.0
RATE_HZ = 25.0


def environment(name: str) -> Path:
    """The folder of the environment of that name."""
    return Path(os.environ["GATEWAY_SYSTEMS"], name).resolve()


@contextlib.asynccontextmanager
async def server(
    command: list[str], ready: str, directory: Path, environ: Mapping[str, str] | None = None
) -> AsyncIterator[None]:
    """A process in a directory, from when the URL ``ready`` answers 200. Its output is shown when it does not."""
    log = directory / "server.log"
    with log.open("wb") as out:
        process = await asyncio.create_subprocess_exec(
            *command, cwd=directory, env=os.environ | (environ or {}), stdout=out, stderr=subprocess.STDOUT
        )
    try:
        async with httpx.AsyncClient() as client, asyncio.timeout(STARTS_S):
            while True:
                assert process.returncode is None, f"{command[0]} ended: {log.read_text()[-2000:]}"
                with contextlib.suppress(httpx.TransportError):
                    if (await client.get(ready)).status_code == 200:
                        break
                await asyncio.sleep(0.2)
        yield
    finally:
        if process.returncode is None:
            process.terminate()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), 10)
        if process.returncode is None:
            process.kill()
            await process.wait()


class Case(NamedTuple):
    """One route: two versions of a model at these URLs, asked at ``path`` with one body after the other.

    ``analysis``: what is not at its default.
    """

    stable: str
    canary: str
    path: str
    bodies: Callable[[int], dict[str, Any]]
    probe: str
    # What the backends see as Host, where one address stands for both.
    hosts: tuple[str, str] | None = None
    analysis: Mapping[str, Any] = MappingProxyType({})


class Judged(NamedTuple):
    """How a route's rollout ended, what its users saw that was no 200, and in which protocol answers were read."""

    phase: str
    causes: list[str]
    reason: str
    failures: list[str]
    protocol: str = ""


def configuration(cases: Mapping[str, Case]) -> dict[str, Any]:
    """Routes and backends, and a plan and no warm-up, so that a test can wait; the rest is left at its default."""
    backends: dict[str, Any] = {}
    routes = []
    for name, case in cases.items():
        for number, (role, url) in enumerate((("stable", case.stable), ("canary", case.canary))):
            backend = backends[f"{name}-{role}"] = {"endpoints": [url], "probe": {"path": case.probe}}
            if case.hosts is not None:
                backend["host_header"] = case.hosts[number]
        routes.append(
            {
                "name": name,
                "match": {"path_prefix": "/", "hosts": [f"{name}.test"]},
                "stable": f"{name}-stable",
                "canary": f"{name}-canary",
                "analysis": {**WARM, **case.analysis},
                "plan": {"steps": [{"percent": 50, "min_time_s": 5, "min_requests": 50}]},
            }
        )
    return {"listen": "127.0.0.1:0", "admin": {"listen": "127.0.0.1:0"}, "backends": backends, "routes": routes}


async def judged(directory: Path, cases: Mapping[str, Case], timeout_s: float = 300.0) -> dict[str, Judged]:
    """Send traffic on every route, start every rollout at once, and wait until each has ended."""
    async with RunningGateway(directory, configuration(cases)) as gateway:
        failures: dict[str, list[str]] = {name: [] for name in cases}
        ended = asyncio.Event()
        async with asyncio.TaskGroup() as traffic:
            for name, case in cases.items():
                traffic.create_task(_ask(gateway.url, name, case, failures[name], ended))
            try:
                rollouts = (_rollout(gateway, name, failures[name], timeout_s) for name in cases)
                return dict(await asyncio.gather(*rollouts))
            finally:
                ended.set()


async def _rollout(gateway: RunningGateway, name: str, failures: list[str], timeout_s: float) -> tuple[str, Judged]:
    reply = await gateway.admin.post(f"/api/v1/routes/{name}/rollouts")
    assert reply.status_code == 201, reply.text
    rollout, protocol = reply.json()["id"], ""
    async with asyncio.timeout(timeout_s):
        while not protocol:
            view = (await gateway.admin.get(f"/api/v1/rollouts/{rollout}")).json()
            protocol = view["protocol"] or ("unknown" if view["phase"] in ("PROMOTED", "ROLLED_BACK") else "")
            await asyncio.sleep(0.2)
    view = await gateway.until_phase(rollout, "PROMOTED", "ROLLED_BACK", timeout_s=timeout_s)
    return name, Judged(view["phase"], view["causes"], view["reason"], failures, protocol)


async def _ask(url: str, name: str, case: Case, failures: list[str], ended: asyncio.Event) -> None:
    """At a steady rate, each request on its own: one that is slow holds up no other."""
    # As Traffic has it: a client that keeps no connection for long meets none that is just being closed.
    limits = httpx.Limits(keepalive_expiry=0.5)

    async def ask(client: httpx.AsyncClient, number: int) -> None:
        try:
            reply = await client.post(case.path, json=case.bodies(number))
        except httpx.HTTPError as error:
            failures.append(repr(error))
        else:
            if reply.status_code != 200:
                failures.append(f"{reply.status_code} {reply.text[:200]}")

    headers = {"host": f"{name}.test"}
    async with (
        httpx.AsyncClient(base_url=url, headers=headers, timeout=60, limits=limits) as client,
        asyncio.TaskGroup() as requests,
    ):
        for number in itertools.count():
            if ended.is_set():
                break
            requests.create_task(ask(client, number))
            await asyncio.sleep(1 / RATE_HZ)


def core_python() -> str:
    """The interpreter of this environment."""
    return sys.executable


def copied(folder: Path, *names: str) -> Path:
    """The folder, made, with these files of `FOREIGN` in it."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        shutil.copy(FOREIGN / name, folder)
    return folder
