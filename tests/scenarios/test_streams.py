"""Event streams and clients that leave, under the default settings: what is slow where only streams are slow is seen.

All rollouts go at the same time, through one gateway, each on a route of its own, whose clients stop coming when it has
ended. The slices are a quarter of a second instead of one, which makes them faster and changes no decision otherwise.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.backend import Backend, Peer, Script, Seen
from tests.support.gateway import WARM, RunningGateway

pytestmark = pytest.mark.anyio
EVENT = b'data: {"token": "x"}\n\n'
EVENTS = 5
TOKEN_S = 0.02
# To prove a canary good takes more requests than to convict a bad one, and by default thousands where one client in
# twelve leaves: a wider margin for those who leave makes that hundreds.
RATE_HZ, MANY_HZ = 20.0, 50.0
SLICE = {"slice_s": 0.1}
LEAVE = {"abandoned": {"margin_delta": 0.15}}


def stream(first_s: float = 0.0, token_s: float = TOKEN_S, hangs: float = 0.0, after: int = 1, seed: int = 0) -> Script:
    """A script that streams events after its head; a share ``hangs`` of its streams stops after some of them."""
    rng = random.Random(seed)

    async def script(_: Seen, peer: Peer) -> None:
        await peer.send(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        stops = after if rng.random() < hangs else EVENTS
        await asyncio.sleep(first_s)
        for i in range(EVENTS):
            if i == stops:
                await peer.reader.read(1)  # until the gateway closes the connection, as its client has left
                peer.close()
                return
            await peer.send(b"%x\r\n%b\r\n" % (len(EVENT), EVENT))
            await asyncio.sleep(token_s * rng.uniform(0.7, 1.3))
        await peer.send(b"0\r\n\r\n")

    return script


class Clients:
    """Clients of one route: each asks once, and leaves when it has waited longer than its patience."""

    def __init__(self, url: str, path: str, patience: Callable[[], float], rate_hz: float) -> None:
        host, _, port = url.removeprefix("http://").partition(":")
        self._address, self._path, self._patience, self._pause_s = (host, int(port)), path, patience, 1 / rate_hz
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Send requests at a steady rate until cancelled."""
        try:
            while True:
                task = asyncio.create_task(self._one())
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
                await asyncio.sleep(self._pause_s)
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _one(self) -> None:
        reader, writer = await asyncio.open_connection(*self._address)
        try:
            writer.write(b"GET %b HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n" % self._path.encode())
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(reader.read(), self._patience())
        finally:
            writer.close()


async def rolled_out(gateway: RunningGateway, name: str, patience: Callable[[], float], rate_hz: float) -> Any:
    """The route's rollout when it has ended; its clients come until then."""
    reply = await gateway.admin.post(f"/api/v1/routes/{name}/rollouts")
    assert reply.status_code == 201, reply.text
    clients = asyncio.create_task(Clients(gateway.url, f"/{name}/x", patience, rate_hz).run())
    try:
        return await gateway.until_phase(reply.json()["id"], "ROLLED_BACK", "PROMOTED", timeout_s=180.0)
    finally:
        clients.cancel()
        await asyncio.gather(clients, return_exceptions=True)


def config(backends: dict[str, tuple[Backend, Backend]]) -> dict[str, Any]:
    """A route of its own for each pair of backends."""
    endpoints, routes = {}, []
    for name, (stable, canary) in backends.items():
        endpoints[f"{name}-stable"] = {"endpoints": [stable.url], "probe": None}
        endpoints[f"{name}-canary"] = {"endpoints": [canary.url], "probe": None}
        routes.append(
            {
                "name": name,
                "match": {"path_prefix": f"/{name}/"},
                "stable": f"{name}-stable",
                "canary": f"{name}-canary",
                "analysis": dict.fromkeys(("latency", "first_token", "gap", "time_per_event"), SLICE)
                | WARM
                | (LEAVE if name == "fine" else {}),
                "plan": {"steps": [{"percent": 50, "min_time_s": 0.5, "min_requests": 10}]},
            }
        )
    return {
        "listen": "127.0.0.1:0",
        "workers": 1,
        "admin": {"listen": "127.0.0.1:0"},
        "backends": endpoints,
        "routes": routes,
    }


async def test_what_only_streams_show_is_rolled_back_and_what_is_fine_is_promoted(tmp_path: Path) -> None:
    rng = random.Random(7)

    def soon() -> float:
        return 0.5

    def patient() -> float:
        return 30.0

    def at_random() -> float:
        return rng.expovariate(1 / 1.2)

    # The canary, how long its clients wait, and the metrics one or more of which must be named.
    canaries: dict[str, tuple[Script, Callable[[], float], set[str]]] = {
        "hangs": (stream(hangs=0.3), soon, {"abandoned", "gap"}),
        "hangs-first": (stream(hangs=0.3, after=0), soon, {"abandoned", "latency", "first_token"}),
        "late": (stream(first_s=0.3), patient, {"latency", "first_token"}),
        "slow": (stream(token_s=4 * TOKEN_S), patient, {"gap", "time_per_event"}),
        "fine": (stream(seed=3), at_random, set()),
    }
    async with contextlib.AsyncExitStack() as stack:
        pairs = {
            name: (
                await stack.enter_async_context(Backend(stream(seed=2))),
                await stack.enter_async_context(Backend(script)),
            )
            for name, (script, _, _) in canaries.items()
        }
        gateway = await stack.enter_async_context(RunningGateway(tmp_path, config(pairs)))
        ends = await asyncio.gather(
            *(
                rolled_out(gateway, name, patience, MANY_HZ if name == "fine" else RATE_HZ)
                for name, (_, patience, _) in canaries.items()
            )
        )
    for (name, (_, _, causes)), view in zip(canaries.items(), ends, strict=True):
        assert view["phase"] == ("ROLLED_BACK" if causes else "PROMOTED"), f"{name}: {view['reason']}"
        assert set(view["causes"]) <= causes, f"{name}: {view['causes']}"
