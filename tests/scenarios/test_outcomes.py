"""What broken deployments answer, over real processes with default judging: one gateway, a route for each case.

The commonest of them answers everything, quickly and wrongly: 404 for a wrong model name, 302 for a login page. Beside
them stand versions that answer the same as stable, however odd, and are promoted.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.backend import Backend, Peer, Script, Seen, answer, hang
from tests.support.gateway import QUICK, WARM, RunningGateway, Traffic, config
from tests.support.rawbackend import reset_on_close

pytestmark = pytest.mark.anyio
NOTHING = answer(204, b"")


def mixed(share: float, some: Script, others: Script) -> Script:
    """A share of the answers is of one kind, the rest of another."""
    draw = random.Random(7).random

    async def script(seen: Seen, peer: Peer) -> None:
        await (some if draw() < share else others)(seen, peer)

    return script


async def status_without_body(seen: Seen, peer: Peer) -> None:
    await peer.send(b"HTTP/1.1 204 X\r\n\r\n")


async def stuck(seen: Seen, peer: Peer) -> None:
    """An answer that begins, and never goes on."""
    await peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nbegun")
    await hang(seen, peer)


OK = answer()
LOGIN = answer(302, b"", b"location: /login\r\n")
# Stable's script, the canary's, the cause that must be named.
BROKEN: dict[str, tuple[Script, Script, str]] = {
    "wrong-name": (OK, answer(404), "not_found"),
    "gone": (OK, answer(410), "not_found"),
    "login": (OK, LOGIN, "redirects"),
    "lost-key": (OK, answer(401), "unauthorized"),
    "forbidden": (OK, answer(403), "unauthorized"),
    "no-content": (OK, status_without_body, "no_content"),
    "empty": (OK, answer(200, b""), "empty_body"),
    "wrong-method": (OK, answer(405), "client_errors"),
    "not-there-yet": (OK, answer(501), "errors"),
    "unknown-status": (OK, answer(599), "errors"),
    "created": (answer(201), OK, "other_success"),
    "more-misses": (mixed(0.1, answer(404), OK), mixed(0.6, answer(404), OK), "not_found"),
    "hangs": (OK, mixed(0.5, hang, OK), "abandoned"),
    "stuck": (OK, mixed(0.5, stuck, OK), "abandoned"),
}
ALIKE: dict[str, Script] = {
    "misses": mixed(0.3, answer(404), OK),
    "redirects": LOGIN,
    "left-alone": answer(404),
}


def dispatching(scripts: dict[str, Script]) -> Script:
    """The script of the route that the path begins with."""

    async def script(seen: Seen, peer: Peer) -> None:
        await scripts[seen.target.decode().split("/")[1]](seen, peer)

    return script


def settings(stable: Backend, canary: Backend) -> dict[str, Any]:
    made = config(stable.url, canary.url)
    route = made["routes"][0]
    # Judged as it is by default; only promotions must not wait for minutes of latencies.
    quick = {**QUICK, **WARM, "latency": {"slice_s": 0.05}}
    made["routes"] = [
        route
        | {"name": name, "match": {"path_prefix": f"/{name}"}, "analysis": quick if name in ALIKE else {}}
        | {"plan": {"steps": [{"percent": 40, "min_time_s": 0.5, "min_requests": 10}]}}
        for name in (*BROKEN, *ALIKE)
    ]
    made["routes"] += [
        route
        | {"name": "exempt", "match": {"path_prefix": "/exempt"}, "analysis": quick | {"exempt_statuses": [404]}}
        | {"plan": {"steps": [{"percent": 40, "min_time_s": 0.5, "min_requests": 10}]}}
    ]
    return made


@contextlib.asynccontextmanager
async def traffic(url: str, name: str, per_s: float) -> AsyncIterator[None]:
    """Requests at about this pace, of clients that give up where the canary is one that they would wait for."""
    if name not in ("hangs", "stuck"):
        async with Traffic(f"{url}/{name}", per_s, connections=4):
            yield
        return

    stop = asyncio.Event()

    async def impatient() -> None:
        async with asyncio.TaskGroup() as asking:
            while not stop.is_set():
                asking.create_task(give_up(url, name))
                await asyncio.sleep(1.0 / per_s)

    task = asyncio.create_task(impatient())
    try:
        yield
    finally:
        stop.set()
        await task


async def give_up(url: str, name: str) -> None:
    """A client that waits for a third of a second for its answer, and resets the connection."""
    host, _, port = url.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"POST /%b/x HTTP/1.1\r\nhost: h\r\ncontent-length: 0\r\nconnection: close\r\n\r\n" % name.encode())
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(reader.read(-1), 0.3)
    reset_on_close(writer)
    writer.close()


async def rolled_out(gateway: RunningGateway, name: str, per_s: float) -> dict[str, Any]:
    """The route's rollout when it has ended, under traffic."""
    reply = await gateway.admin.post(f"/api/v1/routes/{name}/rollouts")
    assert reply.status_code == 201, reply.text
    async with traffic(gateway.url, name, per_s):
        return await gateway.until_phase(reply.json()["id"], "PROMOTED", "ROLLED_BACK", timeout_s=150.0)


async def test_what_the_canary_answers_is_evidence(tmp_path: Path) -> None:
    stable = {name: scripts[0] for name, scripts in BROKEN.items()} | ALIKE | {"exempt": OK}
    canary = {name: scripts[1] for name, scripts in BROKEN.items()} | ALIKE | {"exempt": mixed(0.2, answer(404), OK)}
    async with Backend(dispatching(stable)) as a, Backend(dispatching(canary)) as b:
        async with RunningGateway(tmp_path, settings(a, b)) as gateway:
            names = [*ALIKE, "exempt", *BROKEN]
            paces = [60.0 if name in (*ALIKE, "exempt") else 25.0 for name in names]
            ends = await asyncio.gather(*(rolled_out(gateway, *each) for each in zip(names, paces, strict=True)))
            found = dict(zip(names, ends, strict=True))
            status = (await gateway.admin.get("/api/v1/routes/exempt")).json()
            metrics = (await gateway.admin.get("/metrics")).text
    for name, (_, _, cause) in BROKEN.items():
        view = found[name]
        assert view["phase"] == "ROLLED_BACK", f"{name}: {view['reason']}"
        assert cause in view["causes"], f"{name}: {view['causes']}: {view['reason']}"
        assert f"canary {cause} " in view["reason"], f"{name}: {view['reason']}"
    for name in (*ALIKE, "exempt"):
        assert found[name]["phase"] == "PROMOTED", f"{name}: {found[name]['reason']}"
    assert status["exempt_statuses"] == [404]
    assert 'gateway_upstream_tries_total{result="not_found",route="wrong-name",variant="canary"}' in metrics
