"""The deployers `endpoints` and `template`: a registry's version, model servers that run, and live requests."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from gateway import bundled
from tests.support.backend import Backend, answer
from tests.support.gateway import RunningGateway, config
from tests.support.pipelines import model_server
from tests.support.worker import EVENTUALLY_S

pytestmark = pytest.mark.anyio
_SPEC = importlib.util.spec_from_file_location("registry_server", Path(__file__).with_name("registry_server.py"))
assert _SPEC is not None and _SPEC.loader is not None
server = sys.modules["registry_server"] = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(server)

HELD = {"steps": [{"percent": 50, "min_time_s": 3600}]}
PIXELS = list(map(float, bundled.heldout().pixels[0]))
DIGIT = {"inputs": [{"name": "pixels", "shape": [1, 64], "datatype": "FP32", "data": PIXELS}]}
STABLE = b'{"model_version": "1"}'


def mlflow(uri: str, route: str, **deployer: Any) -> dict[str, Any]:
    """A source whose alias is the route's name."""
    about = {"uri": uri, "model": "digits", "route": route, "challenger": route, "champion": f"{route}-champion"}
    return {"mlflow": about | {"deployer": deployer, "poll_s": 0.1}}


def configuration(stable: str, registry: str, endpoint: str, template: str) -> dict[str, Any]:
    """Two routes, each with a source and a plan that stays on its first step."""
    made = config(stable, None, plan=HELD)
    changes = {name: {"name": name, "match": {"path_prefix": "/", "hosts": [name]}} for name in ("given", "named")}
    made["routes"] = [made["routes"][0] | change for change in changes.values()]
    made["workers"] = 1
    made["sources"] = [
        mlflow(registry, "given", endpoints=[endpoint]),
        mlflow(registry, "named", template=template),
    ]
    return made


async def test_a_registered_version_is_rolled_out_where_its_model_servers_run(tmp_path: Path) -> None:
    async with contextlib.AsyncExitStack() as held:
        # Linux gives all of 127.0.0.0/8 to this machine: version 7 has the address that its number gives.
        servers = (
            model_server("digits-logreg", "--version", "2"),
            model_server("digits-logreg", "--version", "7", "--host", "127.0.0.7"),
        )
        two, seven = await asyncio.gather(*map(held.enter_async_context, servers))
        stable = await held.enter_async_context(Backend(answer(body=STABLE)))
        registry = held.enter_context(server.RegistryServer())
        registry.add("2")
        registry.add("7")
        registry.aliases |= {"given": "2", "named": "7"}
        template = f"http://127.0.0.{{version}}:{urlsplit(seven).port}"
        made = configuration(stable.url, registry.url, two, template)
        gateway = await held.enter_async_context(RunningGateway(tmp_path, made))
        async with asyncio.timeout(EVENTUALLY_S):
            await begins(gateway, "given", "2", two)
            await begins(gateway, "named", "7", seven)


async def begins(gateway: RunningGateway, route: str, version: str, url: str) -> None:
    """The rollout of the version has its server as the canary's endpoint, and that answers users."""
    while not (found := (await gateway.admin.get("/api/v1/rollouts", params={"route": route})).json()["rollouts"]):
        await asyncio.sleep(0.05)
    assert [(view["canary"], view["model"]["version"]) for view in found] == [(f"{route}-{version}", version)]
    backends = (await gateway.admin.get("/api/v1/backends")).json()["backends"]
    canary = next(backend for backend in backends if backend["name"] == f"{route}-{version}")
    assert [endpoint["url"] for endpoint in canary["endpoints"]] == [url]
    seen = set[str]()
    while version not in seen:
        reply = await gateway.client.post("/v2/models/digits/infer", json=DIGIT, headers={"host": route})
        assert reply.status_code == 200, reply.text
        seen.add(reply.json()["model_version"])
    assert seen <= {"1", version}
