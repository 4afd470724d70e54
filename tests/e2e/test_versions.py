"""Versions as data over real processes: one call brings one, repeating it changes nothing, clients outlive restarts."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import yaml

from gateway.client import AsyncClient, InvalidRequestError, ModelVersion, RefusedError
from tests.support.backend import Backend
from tests.support.gateway import RunningGateway, Traffic, config
from tests.support.worker import EVENTUALLY_S

pytestmark = pytest.mark.anyio
URI = "models:/digits/7"
STEPS = {"steps": [{"percent": 50, "min_time_s": 0.2, "min_requests": 5}]}


async def test_a_version_is_brought_in_one_call_and_outlives_a_restart(tmp_path: Path) -> None:
    async with Backend() as v1, Backend() as v7, Backend() as v8:
        made = config(v1.url, None, plan=STEPS)
        made["admin"]["backend_allow"] = ["127.0.0.0/8"]
        made["backends"]["stable"]["model"] = {"name": "digits", "version": "1"}
        async with RunningGateway(tmp_path, made) as gateway, AsyncClient(gateway.admin_url) as client:
            await refusals(client, v7.url)
            first = await client.start_rollout(
                "r", version="7", endpoints=[v7.url], model="digits", uri="models:/digits/7"
            )
            assert (first.canary, str(first.model), str(first.stable_model)) == ("r-7", "digits 7", "digits 1")
            assert (await client.start_rollout("r", version="7", endpoints=[v7.url])).id == first.id
            with pytest.raises(RefusedError, match="at other endpoints"):
                await client.start_rollout("r", version="7", endpoints=[v8.url])
            waiting = asyncio.ensure_future(client.wait(first, 120))
            for pid in gateway.children()["control"]:
                os.kill(pid, signal.SIGKILL)
            async with Traffic(gateway.url) as traffic:
                ended = await waiting
                assert ended.promoted and ended.model == ModelVersion("digits", "7", URI)
                assert traffic.failures == []
            assert (await client.start_rollout("r", version="7", endpoints=[v7.url])).id == first.id
            await next_version(client, gateway, v8.url)
            await reloads(client, gateway, made)


async def reloads(client: AsyncClient, gateway: RunningGateway, made: dict[str, Any]) -> None:
    """A reload keeps what was configured at run time, also amid a rollout, but for what the file changed."""

    async def reload(**changes: Any) -> Any:
        gateway.path.write_text(yaml.safe_dump(made | changes))
        gateway.process.send_signal(signal.SIGHUP)
        expected = changes.get("limits", {}).get("keepalive_s")

        async def taken() -> bool:
            return bool((await client.call("GET", "/config")).get("limits", {}).get("keepalive_s") == expected)

        async with asyncio.timeout(EVENTUALLY_S):
            while not await taken():
                await asyncio.sleep(0.05)
        return await client.call("GET", "/config")

    before = await client.call("GET", "/config")
    rollout = (await client.find("r")).id
    kept = await reload(limits={"keepalive_s": 50.0})
    assert kept["routes"] == before["routes"] and kept["backends"] == made["backends"] | before["backends"]
    assert (await client.rollout(rollout)).phase == "PROGRESSING"
    assert (await client.call("GET", "/config/source"))["source"] == "api"
    await client.abort(rollout)
    moved = made["routes"][0] | {"canary": "stable", "stable": "next"}
    backends = made["backends"] | {"next": made["backends"]["stable"] | {"probe": {"path": "/x"}}}
    taken = await reload(limits={"keepalive_s": 51.0}, backends=backends, routes=[moved])
    assert (taken["routes"][0]["stable"], taken["routes"][0]["canary"]) == ("next", "stable"), "the file says otherwise"
    assert "r-7" not in taken["backends"]


async def refusals(client: AsyncClient, url: str) -> None:
    """What is refused leaves the configuration as it was."""
    before = await client.call("GET", "/config")
    for version, wrong in (("", url), ("7", "http://192.0.2.1"), ("7", f"{url}/path"), ("7\n", url)):
        with pytest.raises(InvalidRequestError):
            await client.start_rollout("r", version=version, endpoints=[wrong])
    with pytest.raises(InvalidRequestError):
        await client.start_rollout("r", version="7", endpoints=[url], digest="sha256:1")
    assert await client.call("GET", "/config") == before


async def next_version(client: AsyncClient, gateway: RunningGateway, url: str) -> None:
    """The version promoted last is the stable one of the next; what neither needs is gone; a rollback needs a retry."""
    second = await client.start_rollout("r", version="8", endpoints=[url], digest="sha256:" + "a" * 64)
    assert (second.stable, second.canary) == ("r-7", "r-8")
    route = await client.call("GET", "/routes/r/config")
    assert (route["stable"], route["canary"]) == ("r-7", "r-8")
    metrics = (await gateway.admin.get("/metrics")).text
    info = 'gateway_backend_info{backend="r-7",digest="",model="digits",version="7"} 1.0'
    assert info in metrics
    await client.abort(second.id)
    with pytest.raises(RefusedError, match="was rolled back"):
        await client.start_rollout("r", version="8", endpoints=[url])
    again = await client.start_rollout("r", version="8", endpoints=[url], retry=True)
    assert again.id != second.id
    assert [str(one.model) for one in (await client.explain(again.id)).decisions][:1] == ["8"]
    ninth = client.start_rollout("r", version="9", endpoints=[url])
    with pytest.raises(RefusedError, match="on_new_canary"):
        await ninth
    assert (await client.rollout(again.id)).phase == "PROGRESSING"
