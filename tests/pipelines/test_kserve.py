"""Routes that KServe splits: their rollouts end by what a real Prometheus has scraped of both revisions."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Self

import pytest
from prometheus_client import CollectorRegistry, Counter, Histogram, start_http_server

from tests.support.gateway import QUICK, WARM, RunningGateway
from tests.support.kserve_api import CANARY, STABLE, Certificates, KubernetesApi
from tests.support.prometheus import prometheus

pytestmark = pytest.mark.anyio
RATE_HZ = 100
PLAN = {"steps": [{"percent": 20, "min_time_s": 2, "min_requests": 20}, {"percent": 50, "min_time_s": 2}]}
REVISIONS = {False: (STABLE, CANARY), True: ("digits-predictor", "digits-v2-predictor")}


class Pods:
    """Both versions of a service, as their metrics show them: requests come steadily, split as KServe says."""

    def __init__(self, api: KubernetesApi, error_rates: tuple[float, float]) -> None:
        self._api = api
        self._error_rates = error_rates
        registry = CollectorRegistry()
        self._revisions = REVISIONS[api.raw]
        self._requests = Counter("revision_requests", "Requests", ("revision", "response_code"), registry=registry)
        self._latency = Histogram("revision_latency_seconds", "Latencies", ("revision",), registry=registry)
        for revision in self._revisions:
            self._requests.labels(revision, "200")
        self._server, self._thread = start_http_server(0, "127.0.0.1", registry)
        self.target = f"127.0.0.1:{self._server.server_port}"
        self.answered = dict.fromkeys(self._revisions, 0)

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._serve())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    async def _serve(self) -> None:
        dice = random.Random(7)
        while True:
            version = dice.random() < self._api.share
            revision = self._revisions[version]
            status = "500" if dice.random() < self._error_rates[version] else "200"
            self._requests.labels(revision, status).inc()
            self._latency.labels(revision).observe(dice.uniform(0.01, 0.05))
            self.answered[revision] += 1
            await asyncio.sleep(1 / RATE_HZ)


def route(name: str) -> dict[str, Any]:
    return {
        "name": name,
        "match": {"path_prefix": f"/{name}"},
        "stable": f"{name}-1",
        "canary": f"{name}-2",
        "analysis": {"latency": {"mode": "advise"}, **QUICK, **WARM},
        "plan": PLAN,
    }


def actuator(name: str, api: KubernetesApi, url: str) -> dict[str, Any]:
    counted = f'{{instance="{name}", revision="$revision"}}'
    return {
        "route": name,
        "kserve": api.config(interval_s=1, settle_s=1),
        "prometheus": {
            "url": url,
            "requests": f"revision_requests_total{counted}",
            "latency": f"revision_latency_seconds_bucket{counted}",
            "interval_s": 1,
            "stale_s": 8,
        },
    }


def configuration(*actuators: dict[str, Any]) -> dict[str, Any]:
    names = [one["route"] for one in actuators]
    backend = {"endpoints": ["http://127.0.0.1:9"], "probe": None}
    return {
        "listen": "127.0.0.1:0",
        "admin": {"listen": "127.0.0.1:0"},
        "backends": {f"{name}-{version}": backend for name in names for version in (1, 2)},
        "routes": [route(name) for name in names],
        "actuators": list(actuators),
    }


@contextlib.asynccontextmanager
async def service(
    directory: Path, name: str, certificates: Certificates, error_rates: tuple[float, float], *, raw: bool
) -> AsyncIterator[tuple[KubernetesApi, Pods]]:
    with KubernetesApi(directory, certificates, raw=raw, name=name) as api:
        async with Pods(api, error_rates) as pods:
            yield api, pods


async def test_kserve_is_split_as_its_rollouts_say_and_they_end_by_what_prometheus_saw(tmp_path: Path) -> None:
    certificates = Certificates(tmp_path)
    async with contextlib.AsyncExitStack() as held:
        made = [
            await held.enter_async_context(service(tmp_path, name, certificates, rates, raw=name == "bad"))
            for name, rates in (("good", (0.01, 0.01)), ("bad", (0.01, 0.2)), ("blind", (0.0, 0.0)))
        ]
        (good, good_pods), (bad, bad_pods), (blind, blind_pods) = made
        url = await held.enter_async_context(prometheus(tmp_path, good_pods.target, bad_pods.target))
        actuators = [
            actuator(good_pods.target, good, url) | {"route": "good"},
            actuator(bad_pods.target, bad, url) | {"route": "bad"},
            actuator(blind_pods.target, blind, "http://127.0.0.1:9") | {"route": "blind"},
        ]
        gateway = await held.enter_async_context(RunningGateway(tmp_path, configuration(*actuators)))
        assert (await gateway.client.get("/good")).status_code == 404, "its requests do not go through here"
        started = [
            (await gateway.admin.post(f"/api/v1/routes/{name}/rollouts")).json() for name in ("good", "bad", "blind")
        ]
        promoted, rolled_back = await asyncio.gather(
            gateway.until_phase(started[0]["id"], "PROMOTED", "ROLLED_BACK"),
            gateway.until_phase(started[1]["id"], "PROMOTED", "ROLLED_BACK"),
        )
        assert promoted["phase"] == "PROMOTED", promoted
        assert rolled_back["phase"] == "ROLLED_BACK" and rolled_back["causes"] == ["errors"], rolled_back
        await until(lambda: good.share == 1.0 and bad.share == 0.0)
        assert [one["predictor"]["canaryTrafficPercent"] for one in good.patches] == [20, 50, None]
        assert [one["canary"][0]["trafficPercent"] for one in bad.patches][-1] == 0
        assert 0 < promoted["canary_requests"] <= good_pods.answered[CANARY], "no more is counted than there was"
        await held_without_prometheus(gateway, started[2]["id"], blind)


async def held_without_prometheus(gateway: RunningGateway, rollout_id: str, api: KubernetesApi) -> None:
    """Where Prometheus is away the split is applied, the rollout holds and says why, and can be aborted."""
    held = await gateway.rollout(rollout_id)
    assert held["phase"] == "PROGRESSING" and api.share == 0.2
    assert "no verdict: Prometheus at http://127.0.0.1:9/api/v1/query cannot be reached" in held["warnings"][0], held
    alarms = (await gateway.admin.get("/api/v1/alarms")).json()["alarms"]
    assert "actuator of route blind" in [one["what"] for one in alarms]
    await gateway.admin.post(f"/api/v1/rollouts/{rollout_id}/abort")
    await until(lambda: api.share == 0.0)


async def until(condition: Any) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.05)
