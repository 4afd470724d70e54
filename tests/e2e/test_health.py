"""The control plane's own trouble, and probes that have a bad day, take nothing from users."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.support.backend import Backend, Peer, Seen, answer
from tests.support.gateway import RunningGateway, Traffic, config
from tests.support.worker import eventually

pytestmark = pytest.mark.anyio
PROBE = {"path": "/ready", "interval_s": 0.05, "timeout_s": 0.3, "rise": 1, "fall": 2}


def probed(url: str, timeout_s: float = 0.3, **changes: Any) -> dict[str, Any]:
    """A gateway with one worker whose only backend is probed quickly."""
    document = config(url, None, **changes)
    document["workers"] = 1
    document["backends"]["stable"]["probe"] = PROBE | {"timeout_s": timeout_s}
    return document


async def health(gateway: RunningGateway) -> dict[str, Any]:
    reply = await gateway.admin.get("/api/v1/backends")
    backend: dict[str, Any] = reply.json()["backends"][0]
    return backend


def downs(gateway: RunningGateway) -> int:
    """How often an endpoint has been found down so far, by the log."""
    return gateway.log.count(b" is down: ")


async def test_a_slow_probe_beside_working_traffic_costs_nobody_anything(tmp_path: Path) -> None:
    async def slow_to_be_ready(seen: Seen, peer: Peer) -> None:
        if seen.target == b"/ready":
            await asyncio.sleep(0.6)
        await answer()(seen, peer)

    async with Backend(slow_to_be_ready) as a, RunningGateway(tmp_path, probed(a.url)) as gateway:
        async with Traffic(gateway.url, rate_hz=50, connections=2) as traffic:
            async with asyncio.timeout(60):
                while not (await health(gateway))["endpoints"][0]["kept"]:
                    await asyncio.sleep(0.05)
            await traffic.reaches(traffic.total + 50)
        assert traffic.failures == []
        (endpoint,) = (await health(gateway))["endpoints"]
        assert (endpoint["healthy"], endpoint["why"]) == (False, "no answer to /ready in 0.3 s")
        metrics = (await gateway.admin.get("/metrics")).text
        assert f'gateway_endpoint_up{{backend="stable",endpoint="{a.url}"}} 0.0' in metrics
        readiness = await gateway.admin.get("/readyz")
        assert readiness.status_code == 200
        async with asyncio.timeout(60):
            while "no answer to /ready" not in str((await gateway.admin.get("/readyz")).json()["warnings"]):
                await asyncio.sleep(0.05)


async def test_an_only_endpoint_that_answers_404_to_its_probe_serves_and_the_reason_is_shown(tmp_path: Path) -> None:
    async def not_found(seen: Seen, peer: Peer) -> None:
        await answer(404 if seen.target == b"/ready" else 200)(seen, peer)

    async with Backend(not_found) as a, RunningGateway(tmp_path, probed(a.url)) as gateway:
        async with asyncio.timeout(60):
            while not (await health(gateway))["panic"]:
                await asyncio.sleep(0.05)
        assert (await gateway.client.get("/infer")).status_code == 200
        alarms = await gateway.until_alarms(1)
        assert alarms[0]["what"] == "backend stable" and f"{a.url} answered 404 to /ready" in alarms[0]["reason"]
        assert 'gateway_backend_panic{backend="stable"} 1.0' in (await gateway.admin.get("/metrics")).text


async def test_a_control_plane_that_stood_still_finds_no_endpoint_down(tmp_path: Path) -> None:
    async with Backend() as a, RunningGateway(tmp_path, probed(a.url, timeout_s=1.0)) as gateway:
        (control,) = gateway.children()["control"]
        async with Traffic(gateway.url, rate_hz=50, connections=2) as traffic:
            for _ in range(2):
                os.kill(control, signal.SIGSTOP)
                await asyncio.sleep(1.3)  # longer than a probe may take
                os.kill(control, signal.SIGCONT)
                await asyncio.sleep(0.1)
        assert traffic.failures == []
        assert (await health(gateway))["endpoints"][0]["healthy"]
        assert downs(gateway) == 0


async def test_clients_that_keep_control_busy_turn_no_endpoint(tmp_path: Path) -> None:
    document = probed("")
    async with Backend() as a:
        document["backends"]["stable"]["endpoints"] = [a.url]
        document["routes"] += [
            document["routes"][0] | {"name": f"r{i}", "match": {"path_prefix": f"/r{i}"}} for i in range(100)
        ]
        async with RunningGateway(tmp_path, document) as gateway:
            host, _, port = gateway.admin_url.removeprefix("http://").partition(":")
            scraped = 0

            async def scrape() -> None:
                nonlocal scraped
                reader, writer = await asyncio.open_connection(host, int(port))
                try:
                    while True:
                        writer.write(b"GET /api/v1/routes HTTP/1.1\r\nhost: localhost\r\n\r\n")
                        head = (await reader.readuntil(b"\r\n\r\n")).lower()
                        await reader.readexactly(int(head.split(b"content-length: ")[1].split(b"\r\n")[0]))
                        scraped += 1
                finally:
                    writer.transport.abort()

            async with Traffic(gateway.url, rate_hz=50, connections=2) as traffic:
                scrapers = [asyncio.create_task(scrape()) for _ in range(20)]
                await eventually(lambda: scraped >= 100, "control is busy")
                for task in scrapers:
                    task.cancel()
                await asyncio.gather(*scrapers, return_exceptions=True)
            assert traffic.failures == []
            assert downs(gateway) == 0
