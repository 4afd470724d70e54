"""What becomes known of answers later decides, too: a real gateway, labels over its admin API, its inspector killed."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
from pathlib import Path
from typing import Any, Self

import pytest

from tests.support.backend import Backend
from tests.support.gateway import RunningGateway, config
from tests.support.worker import eventually

pytestmark = pytest.mark.anyio
EVENTS = [
    {"name": "click", "trial": "request", "worse": "lower", "tolerance_delta": 0.05, "mode": "decide"},
    {"name": "complaint", "trial": "request", "margin_delta": 0.2, "mode": "decide"},
]
ANALYSIS = {
    "latency": {"mode": "off"},
    "errors": {"margin_delta": 0.2},
    "client_errors": {"mode": "off"},
    "overload": {"mode": "off"},
    "labels": {"window_s": 0.3},
}
SEED = 20_261


def inspector_of(gateway: RunningGateway) -> int:
    """The inspector's process id; 0 while there is none."""
    found = [0]
    for pid in Path(f"/proc/{gateway.process.pid}/task/{gateway.process.pid}/children").read_text().split():
        with contextlib.suppress(OSError):  # it may end meanwhile
            if b"gateway.inspector" in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.append(int(pid))
    assert len(found) <= 2, found
    return found[-1]


class Users:
    """Users who ask, read the answer, and now and then post a label; ``shares`` by variant."""

    def __init__(self, gateway: RunningGateway, event: str, shares: dict[str, float]) -> None:
        self._gateway = gateway
        self._event = event
        self._shares = shares
        self._random = random.Random(SEED)

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.create_task(self._run()) for _ in range(6)]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        ended = await asyncio.gather(*self._tasks, return_exceptions=True)
        assert all(isinstance(end, asyncio.CancelledError) for end in ended), ended

    async def _run(self) -> None:
        while True:
            reply = await self._gateway.client.post("/infer", content=b"{}")
            assert reply.status_code == 200
            if self._random.random() < self._shares[reply.headers["x-gateway-variant"]]:
                label = {"request_id": reply.headers["x-request-id"], "name": self._event}
                taken = await self._gateway.admin.post("/api/v1/routes/r/events", json={"events": [label]})
                assert taken.status_code in (202, 409), taken.text


async def metric(gateway: RunningGateway, line: str) -> float:
    text = (await gateway.admin.get("/metrics")).text
    return next((float(found.split()[-1]) for found in text.splitlines() if found.startswith(line)), -1.0)


def settings(stable: Backend, canary: Backend, event: dict[str, Any]) -> dict[str, Any]:
    """A gateway that judges failures and this event."""
    urls = [f"http://127.0.0.1:{backend.port}" for backend in (stable, canary)]
    return config(urls[0], urls[1], analysis=ANALYSIS | {"events": [event]})


async def test_a_canary_that_nobody_clicks_on_is_rolled_back(tmp_path: Path) -> None:
    async with Backend() as stable, Backend() as canary:
        async with RunningGateway(tmp_path, settings(stable, canary, EVENTS[0])) as gateway:
            async with Users(gateway, "click", {"stable": 0.5, "canary": 0.02}):
                view = await gateway.until_phase(await gateway.start_rollout(), "ROLLED_BACK", "PROMOTED")
            reported = f"seed {SEED}: {view}"
            assert view["phase"] == "ROLLED_BACK" and view["causes"] == ["click"], reported
            for wrong, status in (({"name": "clock"}, 404), ({"request_id": ""}, 422), ({"value": 1}, 422)):
                label: dict[str, Any] = {"request_id": "a", "name": "click"} | wrong
                reply = await gateway.admin.post("/api/v1/routes/r/events", json={"events": [label]})
                assert reply.status_code == status, reply.text
            unexpected = await gateway.admin.post("/api/v1/routes/x/events", json={"events": []})
            assert unexpected.status_code in (404, 422)


async def test_an_inspector_that_is_killed_comes_back_and_users_notice_nothing(tmp_path: Path) -> None:
    async with Backend() as stable, Backend() as canary:
        async with RunningGateway(tmp_path, settings(stable, canary, EVENTS[1])) as gateway:
            async with Users(gateway, "complaint", {"stable": 0.1, "canary": 0.1}):
                rollout = await gateway.start_rollout()
                await eventually(lambda: inspector_of(gateway), "there is one")
                first = inspector_of(gateway)
                os.kill(first, signal.SIGKILL)
                view = await gateway.until_phase(rollout, "ROLLED_BACK", "PROMOTED")
            assert view["phase"] == "PROMOTED", f"seed {SEED}: {view}"
            await eventually(lambda: inspector_of(gateway) not in (0, first), "there is another")
            async with asyncio.timeout(30):
                while await metric(gateway, "gateway_inspector_up") != 1.0:
                    await asyncio.sleep(0.05)
            assert await metric(gateway, 'gateway_labels_total{event="complaint",result="matched"') > 0
            finding = next(f for f in view["analysis"]["findings"] if f["metric"] == "complaint")
            assert finding["canary_trials"] > 10
