"""A configuration that Kubernetes replaces is taken up by itself, and one with errors changes nothing."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from gateway.app.config_watch import changes, on_kubernetes_volume
from tests.support.backend import Backend, answer
from tests.support.gateway import RunningGateway, config
from tests.support.volume import KubernetesVolume
from tests.support.worker import EVENTUALLY_S

pytestmark = pytest.mark.anyio


async def until_answer(client: httpx.AsyncClient, text: str) -> None:
    async with asyncio.timeout(EVENTUALLY_S):
        while (await client.get("/")).text != text:
            await asyncio.sleep(0.05)


async def test_a_replaced_configmap_is_taken_up_without_a_restart(tmp_path: Path) -> None:
    async with Backend(answer(body=b"one")) as one, Backend(answer(body=b"two")) as two:

        def files(backend: str) -> dict[str, str]:
            settings: dict[str, Any] = config(backend, None) | {"state_dir": str(tmp_path / "state")}
            return {"gateway.yaml": yaml.safe_dump(settings)}

        volume = KubernetesVolume(tmp_path / "etc", files(one.url))
        gateway = RunningGateway(tmp_path, {})
        gateway.path = volume.directory / "gateway.yaml"
        async with gateway:
            workers = sorted(gateway.children()["worker"])
            await until_answer(gateway.client, "one")

            volume.put({"gateway.yaml": "backends: {broken"})
            await gateway.until_alarms(1)
            assert (await gateway.client.get("/")).text == "one", "a file with errors changes nothing"

            volume.put(files(two.url))
            await until_answer(gateway.client, "two")
            await gateway.until_alarms(0)
            assert sorted(gateway.children()["worker"]) == workers, "no process was started"


async def test_only_a_new_text_that_was_written_whole_is_a_change(tmp_path: Path) -> None:
    path = tmp_path / "gateway.yaml"
    path.write_text("a")
    found = changes(path, b"a", look_s=0.01)
    coming = asyncio.ensure_future(anext(found))

    async def some_looks() -> None:
        await asyncio.sleep(0.1)

    for same in (path.touch, path.unlink, lambda: path.write_text("a")):
        same()
        await some_looks()
    assert not coming.done()
    path.write_text("b")
    assert await asyncio.wait_for(coming, EVENTUALLY_S) == b"b"
    path.write_text("a")
    assert await asyncio.wait_for(anext(found), EVENTUALLY_S) == b"a"


async def test_a_text_that_came_before_the_first_look_is_a_change(tmp_path: Path) -> None:
    path = tmp_path / "gateway.yaml"
    path.write_text("newer than what was read")
    assert await asyncio.wait_for(anext(changes(path, b"older", look_s=0.01)), EVENTUALLY_S) == path.read_bytes()


async def test_a_plain_file_is_not_watched_without_being_asked_to(tmp_path: Path) -> None:
    (tmp_path / "gateway.yaml").touch()
    volume = KubernetesVolume(tmp_path / "etc", {"gateway.yaml": ""})
    assert not on_kubernetes_volume(tmp_path / "gateway.yaml")
    assert on_kubernetes_volume(volume.directory / "gateway.yaml")
