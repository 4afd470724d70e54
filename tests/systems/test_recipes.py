"""The recipes of docs/recipes.md: each is read from the page and put in front of its server.

What is asked of each: `gateway check` has nothing to say about it, `gateway init` finds the server's health path, the
probe finds the server ready, the request that stands there is answered through both versions, and what the page says is
compared is compared. Both versions are the same server: how versions are judged is in test_model_servers.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import itertools
import json
import re
import shlex
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import anyio
import httpx
import pytest
import yaml

from gateway.cli.starter import detect
from tests.support import model_servers
from tests.support.gateway import RunningGateway

pytestmark = pytest.mark.anyio
PAGE = (Path(__file__).parents[2] / "docs" / "recipes.md").read_text(encoding="utf-8")
KEY = "sk-1234"
# Of a busy machine.
EVENTUALLY_S = 120.0
AT_ONCE, PAUSE_S = 10, 0.05
STREAMS = {"model_errors", "time_per_event"}


class Recipe(NamedTuple):
    """What a section of the page holds: the configuration, and the request."""

    config: dict[str, Any]
    path: str
    headers: dict[str, str]
    body: dict[str, Any]


class Server(NamedTuple):
    """How a section's server is started, where its request varies, and which health path `gateway init` finds."""

    start: Callable[[Path], AbstractAsyncContextManager[str]]
    varied: tuple[str | int, ...] | None
    health: str | None


@contextlib.asynccontextmanager
async def mlflow(directory: Path) -> AsyncIterator[str]:
    model = await model_servers.mlflow_model(directory / "make")
    async with model_servers.mlflow(directory / "serve", model, {}) as url:
        yield url


FIRST_INPUT = ("inputs", 0, "data", 0)
FIRST_FEATURE = ("features", 0)
SERVERS = {
    "Triton": Server(lambda folder: model_servers.triton(folder, {}), FIRST_INPUT, "/v2/health/ready"),
    "KServe": Server(model_servers.kserve, ("instances", 0, 0), "/v2/health/ready"),
    "MLServer": Server(lambda folder: model_servers.mlserver(folder, "digits"), FIRST_INPUT, "/v2/health/ready"),
    "MLflow": Server(mlflow, ("inputs", 0, 1), "/health"),
    "BentoML": Server(model_servers.bentoml, FIRST_FEATURE, "/readyz"),
    "Ray Serve": Server(model_servers.ray_serve, FIRST_FEATURE, "/-/healthz"),
    "FastAPI": Server(model_servers.fastapi, FIRST_FEATURE, "/healthz"),
    "LiteLLM": Server(lambda folder: model_servers.litellm(folder, KEY), None, "/health/readiness"),
    "TensorFlow Serving": Server(
        lambda folder: model_servers.stand_in(folder, "tensorflow-serving", "/v1/models/animals"),
        ("instances", 0, 0),
        None,
    ),
    "vLLM": Server(lambda folder: model_servers.stand_in(folder, "vllm", "/health"), None, "/health"),
    "TGI": Server(lambda folder: model_servers.stand_in(folder, "tgi", "/health"), None, "/health"),
}


def recipe(title: str) -> Recipe:
    section = re.split(r"^## ", PAGE.partition(f"\n## {title}\n")[2], maxsplit=1, flags=re.MULTILINE)[0]
    (config,) = re.findall(r"^```yaml\n(.*?)^```", section, re.DOTALL | re.MULTILINE)
    (command,) = re.findall(r"^```sh\n(curl .*?)^```", section, re.DOTALL | re.MULTILINE)
    _, url, *options = shlex.split(command)
    given = list(zip(options[::2], options[1::2], strict=True))
    headers = dict(value.split(": ", 1) for option, value in given if option == "-H")
    (body,) = (json.loads(value) for option, value in given if option == "-d")
    return Recipe(yaml.safe_load(config), urlsplit(url).path, headers, body)


def test_every_recipe_of_the_page_is_tested() -> None:
    titles = re.findall(r"^## (.*)$", PAGE, re.MULTILINE)
    assert set(titles) - {"For every server"} == set(SERVERS)
    rows = re.findall(r"^\| \[(.+?)\]\(#\S+\) \| .* \| (.*) \|$", PAGE, re.MULTILINE)
    assert [title for title, _ in rows] == titles[1:], "the table has them in their order"
    stand_ins = {title for title, tested in rows if tested == "a stand-in"}
    assert stand_ins == {"TensorFlow Serving", "vLLM", "TGI"}


@pytest.mark.parametrize("title", SERVERS)
async def test_a_recipe_is_served_probed_and_compared(title: str, tmp_path: Path) -> None:
    server, found = SERVERS[title], recipe(title)
    page = tmp_path / "page.yaml"
    page.write_text(yaml.safe_dump(found.config))
    command = [sys.executable, "-m", "gateway", "check", str(page)]
    checked = await anyio.run_process(command, check=False)
    assert (checked.returncode, checked.stderr) == (0, b"")

    (tmp_path / "server").mkdir()
    async with server.start(tmp_path / "server") as url:
        async with asyncio.timeout(EVENTUALLY_S):
            while (await asyncio.to_thread(detect, url)).probe != server.health:
                await asyncio.sleep(PAUSE_S)  # some take seconds over their first answers
        async with RunningGateway(tmp_path, here(found.config, url)) as gateway:
            (route,) = (each["name"] for each in found.config["routes"])
            await until_ready(gateway, route)
            started = await gateway.admin.post(f"/api/v1/routes/{route}/rollouts")
            assert started.status_code == 201, started.text
            answered = await compared(gateway, started.json()["id"], found, server)
            assert set(answered) == {"200 stable", "200 canary"}, answered


def here(config: dict[str, Any], url: str) -> dict[str, Any]:
    """The configuration of the page, with a server of this machine, and half of the traffic for each version."""
    config = copy.deepcopy(config) | {"listen": "127.0.0.1:0", "admin": {"listen": "127.0.0.1:0"}}
    for backend in config["backends"].values():
        backend["endpoints"] = [url]
    config["routes"][0]["plan"] = {"steps": [{"percent": 50, "min_time_s": 3600}]}
    return config


async def until_ready(gateway: RunningGateway, route: str) -> None:
    """Wait until the probes of both versions find them ready."""
    async with asyncio.timeout(EVENTUALLY_S):
        healthy: list[bool | None] = []
        while healthy != [True, True]:
            endpoints = (await gateway.admin.get(f"/api/v1/routes/{route}")).json()["endpoints"]
            healthy = [each["healthy"] for each in endpoints]
            await asyncio.sleep(PAUSE_S)


async def compared(gateway: RunningGateway, rollout: str, found: Recipe, server: Server) -> dict[str, int]:
    """Ask until what the recipe is about is compared; returns how often which status came from whom."""
    answered: dict[str, int] = {}
    deadline_s = time.monotonic() + EVENTUALLY_S
    async with httpx.AsyncClient(base_url=gateway.url, timeout=60, headers=found.headers) as client:

        async def ask(number: int) -> None:
            reply = await client.post(found.path, json=body_of(found, server, number))
            who = f"{reply.status_code} {reply.headers.get('x-gateway-variant')}"
            answered[who] = answered.get(who, 0) + 1

        for first in itertools.count(0, AT_ONCE):
            await asyncio.gather(*(ask(number) for number in range(first, first + AT_ONCE)))
            view = await gateway.rollout(rollout)
            findings = view["analysis"]["findings"] if view["analysis"] else []
            seen = {each["metric"] for each in findings if each["stable_trials"] and each["canary_trials"]}
            if seen >= STREAMS if server.varied is None else any(each.startswith("class_") for each in seen):
                break
            why = f"{answered} {view['warnings']} {view['compared']} {sorted(seen)}"
            assert time.monotonic() < deadline_s, f"not compared: {why}"
            await asyncio.sleep(PAUSE_S)
    return answered


def body_of(found: Recipe, server: Server, number: int) -> dict[str, Any]:
    """The body of the page, about another animal each time."""
    body = copy.deepcopy(found.body)
    if server.varied is not None:
        *way, last = server.varied
        place: Any = body
        for step in way:
            place = place[step]
        place[last] = number % 4
    return body
