"""A real MLflow server: its alias starts rollouts, verdicts are written back, and nothing bad gets traffic."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import hmac
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import httpx
import pytest

from tests.support.gateway import RunningGateway
from tests.support.pipelines import Digits, digits_route, environment, model_server, ran
from tests.support.ports import free_port
from tests.support.systems import server

pytestmark = pytest.mark.anyio
HERE = Path(__file__).parent
MODELS = Path(__file__).parents[2] / "models"
SECRET = "a-secret-of-sixteen-or-more"
EVENTUALLY_S = 120.0
ENVIRON = {
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_WEBHOOK_ALLOWED_SCHEMES": "http,https",
    "MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS": "true",
    "MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY": base64.urlsafe_b64encode(b"k" * 32).decode(),
}


class Mlflow:
    """The registry, as people use it."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._http = httpx.AsyncClient(base_url=f"{url}/api/2.0/mlflow", timeout=60)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    async def call(self, method: str, path: str, **body: Any) -> Any:
        given: dict[str, Any] = {"params": body} if method == "GET" else {"json": body}
        reply = await self._http.request(method, path, **given)
        return reply.json() if reply.is_success else None

    async def challenge(self, version: str) -> None:
        assert (
            await self.call("POST", "/registered-models/alias", name="digits", alias="challenger", version=version)
            is not None
        )

    async def alias(self, alias: str) -> str | None:
        found = await self.call("GET", "/registered-models/alias", name="digits", alias=alias)
        return None if found is None else str(found["model_version"]["version"])

    async def tags(self, version: str) -> dict[str, str]:
        found = await self.call("GET", "/model-versions/get", name="digits", version=version)
        return {tag["key"]: tag["value"] for tag in found["model_version"].get("tags", [])}

    async def verdict(self, version: str) -> dict[str, str]:
        """The tags, once they have a verdict and the challenger is gone from the version."""
        deadline_s = time.monotonic() + EVENTUALLY_S
        while True:
            tags = await self.tags(version)
            done = "canary.rollout" in tags or tags.get("canary.verdict") == "refused"
            if done and await self.alias("challenger") != version:
                return tags
            assert time.monotonic() < deadline_s, tags
            await asyncio.sleep(0.2)


async def until(condition: Callable[[], Any], what: str) -> Any:
    deadline_s = time.monotonic() + EVENTUALLY_S
    while not (found := await condition()):
        assert time.monotonic() < deadline_s, what
        await asyncio.sleep(0.2)
    return found


async def test_the_registry_starts_rollouts_and_learns_their_verdicts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_WEBHOOK_SECRET", SECRET)
    home, port = tmp_path / "mlflow", free_port()
    home.mkdir()
    command = [str(environment("mlflow") / "bin" / "mlflow"), "server", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", "sqlite:///m.db", "--artifacts-destination", "./artifacts"]
    path = f"{environment('mlflow') / 'bin'}:{os.environ['PATH']}"
    url = f"http://127.0.0.1:{port}"
    async with (
        model_server("digits-logreg") as stable,
        server(command, f"{url}/health", home, ENVIRON | {"PATH": path}),
    ):
        async with Mlflow(url) as mlflow:
            numbers = await registered(mlflow, tmp_path)
            source = {"uri": url, "model": "digits", "route": "digits", "poll_s": 1, "timeout_s": 20}
            made = configuration(stable, source | {"webhook_secret_env": "MLFLOW_WEBHOOK_SECRET"})
            async with RunningGateway(tmp_path, made) as gateway, Digits(gateway.url) as digits:
                try:
                    await good(mlflow, gateway, numbers["good"])
                    await poisoned(mlflow, gateway, numbers["wrong"])
                    await refused(mlflow, gateway, numbers)
                    await webhooks(mlflow, gateway)
                finally:
                    sys.stdout.write(gateway.log.decode())  # shown when it fails
                assert digits.failures == []


async def registered(mlflow: Mlflow, directory: Path) -> dict[str, str]:
    kinds = {
        "first": f"onnx={MODELS / 'digits-logreg.onnx'}",
        "good": f"onnx={MODELS / 'digits-svm.onnx'}",
        "wrong": f"onnx={MODELS / 'digits-misscaled.onnx'}",
        "text": "text",
        "other": f"other={MODELS / 'digits-tree.onnx'}",
        "digest": f"digest={MODELS / 'digits-tree.onnx'}",
    }
    python = str(environment("mlflow") / "bin" / "python")
    printed = await ran(
        [python, str(HERE / "foreign" / "register.py"), mlflow.url, "digits", *kinds.values()], directory, ENVIRON
    )
    return dict(zip(kinds, json.loads(printed.strip().splitlines()[-1]), strict=True))


def configuration(stable: str, source: dict[str, Any]) -> dict[str, Any]:
    backends = {
        "stable": {"endpoints": [stable], "model": {"name": "digits", "version": "1", "uri": "models:/digits/1"}}
    }
    return {
        "listen": "127.0.0.1:0",
        "admin": {"listen": "127.0.0.1:0"},
        "backends": backends,
        "routes": [digits_route(timeouts={"total_s": 5})],
        "sources": [{"mlflow": source}],
    }


async def good(mlflow: Mlflow, gateway: RunningGateway, number: str) -> None:
    """A good version is served by this gateway, promoted, and becomes champion; control dies meanwhile."""
    await mlflow.challenge(number)
    rollout = (await until(lambda: rollouts(gateway), "a rollout begins"))[0]
    assert rollout["model"]["uri"] == f"models:/digits/{number}" and rollout["model"]["digest"].startswith("sha256:")
    for pid in gateway.children()["control"]:
        os.kill(pid, signal.SIGKILL)
    tags = await mlflow.verdict(number)
    assert (tags["canary.verdict"], tags["canary.rollout"]) == ("promoted", rollout["id"])
    assert await mlflow.alias("champion") == number
    assert [one["id"] for one in await rollouts(gateway)] == [rollout["id"]], "a restart repeats nothing"


async def poisoned(mlflow: Mlflow, gateway: RunningGateway, number: str) -> None:
    """A bad version is rolled back by what it answers; champion stays, and its server is stopped."""
    await mlflow.challenge(number)
    tags = await mlflow.verdict(number)
    assert tags["canary.verdict"] == "rolled_back" and "class" in tags["canary.reason"], tags
    assert await mlflow.alias("champion") != number
    route = (await gateway.admin.get("/api/v1/routes/digits")).json()
    assert route["canary"] is None and route["stable"] != f"digits-{number}"
    deployed = json.loads((gateway.path.parent / "state" / "deployments.json").read_text())["deployed"]
    assert [one["backend"] for one in deployed] == [route["stable"]]


async def refused(mlflow: Mlflow, gateway: RunningGateway, numbers: dict[str, str]) -> None:
    """What cannot be served gets no traffic, and its tags say why."""
    before = await rollouts(gateway)
    for kind, why in (("text", "no ONNX model"), ("other", "its inputs are"), ("digest", "the digest of")):
        await mlflow.challenge(numbers[kind])
        tags = await mlflow.verdict(numbers[kind])
        assert tags["canary.verdict"] == "refused" and why in tags["canary.reason"], tags
    assert await rollouts(gateway) == before


async def rollouts(gateway: RunningGateway) -> list[dict[str, Any]]:
    with contextlib.suppress(httpx.TransportError):
        reply = await gateway.admin.get("/api/v1/rollouts")
        if reply.status_code == 200:
            found: list[dict[str, Any]] = reply.json()["rollouts"]
            return found
    return []


async def webhooks(mlflow: Mlflow, gateway: RunningGateway) -> None:
    """A real delivery is taken; forged, old and repeated ones do nothing."""
    url = f"{gateway.admin_url}/api/v1/webhooks/mlflow"
    events = [{"entity": "MODEL_VERSION_ALIAS", "action": "CREATED"}]
    made = await mlflow.call("POST", "/webhooks", name="gateway", url=url, secret=SECRET, events=events)
    assert made is not None
    tested = await mlflow.call("POST", f"/webhooks/{made['webhook']['webhook_id']}/test")
    assert tested["result"]["success"], tested
    for secret, age_s, status in (
        (SECRET, 0, 200),
        (SECRET, 0, 200),
        (SECRET, 1000, 401),
        ("another-secret-x", 0, 401),
    ):
        body = json.dumps({"entity": "model_version_alias", "data": {"name": "digits"}}).encode()
        stamp = str(int(time.time()) - age_s)
        digest = hmac.new(secret.encode(), f"one.{stamp}.".encode() + body, hashlib.sha256).digest()
        signed = {"X-MLflow-Delivery-Id": "one", "X-MLflow-Timestamp": stamp}
        signed["X-MLflow-Signature"] = "v1," + base64.b64encode(digest).decode()
        reply = await gateway.admin.post("/api/v1/webhooks/mlflow", content=body, headers=signed)
        assert reply.status_code == status, reply.text
