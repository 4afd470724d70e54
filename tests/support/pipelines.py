"""What the tests with real registries and pipelines share: environments, commands in them, digits as traffic."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple, Self

import httpx

from gateway import bundled
from tests.support.gateway import QUICK, RunningGateway

ROOT = Path(__file__).parents[2]
INFER = "/v2/models/digits/infer"
# One step that needs a proof: some 150 answers of each version.
PLAN = {"steps": [{"percent": 50, "min_time_s": 0.5, "min_requests": 50}]}
RATE_HZ = 30.0


def environment(name: str) -> Path:
    """The folder of the environment of that name."""
    return Path(os.environ["GATEWAY_PIPELINES"], name).resolve()


async def ran(
    command: list[str], directory: Path, environ: Mapping[str, str] | None = None, *, status: int | None = 0
) -> str:
    """The output of a program that ends with ``status`` (None: any)."""
    process = await asyncio.create_subprocess_exec(
        *command, cwd=directory, env=os.environ | (environ or {}), stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    output, _ = await process.communicate()
    text = output.decode(errors="replace")
    assert status is None or process.returncode == status, f"status {process.returncode}: {text[-4000:]}"
    return text


def gateway_path() -> dict[str, str]:
    """Where another environment finds this package: as it lies here, with none of its dependencies but httpx."""
    return {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}


def digits_route(stable: str = "stable", **changes: Any) -> dict[str, Any]:
    """A route for the bundled digits models that decides within seconds."""
    analysis = {"latency": {"mode": "advise"}, **QUICK}
    return {
        "name": "digits",
        "match": {"path_prefix": "/v2/models/digits"},
        "stable": stable,
        "analysis": analysis,
        "plan": PLAN,
    } | changes


class Pair(NamedTuple):
    """A gateway with the routes `good` and `bad` under traffic, and where their next versions are served."""

    gateway: RunningGateway
    good: str
    bad: str


@asynccontextmanager
async def good_and_bad(directory: Path) -> AsyncIterator[Pair]:
    """A pair; the version for `bad` fails half of its requests. Afterwards no user has seen a failure."""
    async with contextlib.AsyncExitStack() as held:
        stable = await held.enter_async_context(model_server("digits-logreg"))
        good = await held.enter_async_context(model_server("digits-svm"))
        bad = await held.enter_async_context(model_server("digits-logreg", "--fault", "error-rate=0.5"))
        made = {
            "listen": "127.0.0.1:0",
            "admin": {"listen": "127.0.0.1:0", "backend_allow": ["127.0.0.0/8"]},
            "backends": {"stable": {"endpoints": [stable]}},
            "routes": [
                digits_route(name=name, match={"path_prefix": "/v2/models/digits", "hosts": [f"{name}.test"]})
                for name in ("good", "bad")
            ],
        }
        gateway = await held.enter_async_context(RunningGateway(directory, made))
        traffic = [await held.enter_async_context(Digits(gateway.url, f"{name}.test")) for name in ("good", "bad")]
        yield Pair(gateway, good, bad)
        assert [one.failures for one in traffic] == [[], []]


@asynccontextmanager
async def model_server(name: str, *options: str) -> AsyncIterator[str]:
    """One of the bundled models, served; the URL."""
    file = ROOT / "models" / f"{name}.onnx"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gateway", "model-server", str(file), "--name", "digits", "--port", "0", *options),
        stdout=subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        line = (await asyncio.wait_for(process.stdout.readline(), 60)).decode()
        yield line.rpartition(" on ")[2].strip()
    finally:
        process.terminate()
        await process.wait()


class Digits:
    """Handwritten digits as a steady stream of requests; ``failures`` are answers that are no 200."""

    def __init__(self, url: str, host: str = "localhost") -> None:
        self._url, self._headers = f"{url}{INFER}", {"host": host}
        self.failures: list[str] = []
        self.sent = 0

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._send())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _send(self) -> None:
        pixels = bundled.heldout().pixels
        async with httpx.AsyncClient(timeout=30) as client, asyncio.TaskGroup() as group:
            while True:
                data = list(map(float, pixels[self.sent % len(pixels)]))
                body = {"inputs": [{"name": "pixels", "shape": [1, 64], "datatype": "FP32", "data": data}]}
                group.create_task(self._ask(client, body))
                self.sent += 1
                await asyncio.sleep(1 / RATE_HZ)

    async def _ask(self, client: httpx.AsyncClient, body: Any) -> None:
        try:
            reply = await client.post(self._url, json=body, headers=self._headers)
        except httpx.HTTPError as error:
            self.failures.append(repr(error))
        else:
            if reply.status_code != 200:
                self.failures.append(f"{reply.status_code} {reply.text[:200]}")
