"""A real Feast server: its features come into requests, what it does not know is said, and it may go away."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.backend import Backend
from tests.support.gateway import RunningGateway, config
from tests.support.pipelines import environment, ran
from tests.support.ports import free_port
from tests.support.systems import server
from tests.support.worker import EVENTUALLY_S

pytestmark = pytest.mark.anyio
FOREIGN = Path(__file__).parent / "foreign"


def made(backend: Backend, url: str) -> dict[str, Any]:
    entity = {"customer": {"json_path": "$.customer"}}
    asked = {"store": "feast", "entity": entity, "timeout_s": 10, "on_missing": "reject"}
    found = config(backend.url, None, features=asked | {"service": "customers_v1"})
    found["workers"] = 1
    found["feature_stores"] = {"feast": {"url": url}}
    ways = {
        "single": asked | {"features": ["customers:score"]},
        "unknown": asked | {"service": "customers_v9"},
    }
    for name, features in ways.items():
        route = {"name": name, "match": {"path_prefix": f"/{name}"}, "stable": "stable", "features": features}
        found["routes"].append(route)
    return found


async def test_feasts_features_come_into_requests(tmp_path: Path) -> None:
    home = environment("feast") / "bin"
    environ = {"FEAST_USAGE": "False", "IS_TEST": "True"}
    await ran([str(home / "python"), str(FOREIGN / "feast_repository.py")], tmp_path, environ)
    url = f"http://127.0.0.1:{free_port()}"
    command = [str(home / "feast"), "serve", "--host", "127.0.0.1", "--port", url.rpartition(":")[2]]
    async with Backend() as backend:
        async with server(command, f"{url}/health", tmp_path, environ):
            async with RunningGateway(tmp_path, made(backend, url)) as gateway:
                async with asyncio.timeout(EVENTUALLY_S):
                    while (await gateway.client.post("/", json={"customer": "ada"})).status_code != 200:
                        await asyncio.sleep(0.1)
                assert json.loads(backend.seen[-1].body) == {"features": {"age": 36, "score": 0.5}, "customer": "ada"}
                assert (await gateway.client.post("/single", json={"customer": "ada"})).status_code == 200
                assert json.loads(backend.seen[-1].body)["features"] == {"score": 0.5}
                # A feature without a value, an entity and a service that are not there.
                for path, customer in (("/", "bob"), ("/", "eve"), ("/unknown", "ada"), ("/", "ada")):
                    status = (await gateway.client.post(path, json={"customer": customer})).status_code
                    assert status == (200 if (path, customer) == ("/", "ada") else 503), (path, customer)
