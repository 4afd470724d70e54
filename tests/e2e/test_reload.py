"""A gateway that goes on while its configuration, its certificates and its workers are replaced under load."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.support.backend import Backend, answer, hang
from tests.support.gateway import RunningGateway, Traffic, config
from tests.support.worker import eventually

pytestmark = pytest.mark.anyio
RELOADS = int(os.environ.get("GATEWAY_RELOADS", "3"))


async def reload(gateway: RunningGateway, settings: dict[str, Any] | None = None) -> None:
    """Write the configuration, if any, send SIGHUP, and wait until it says what became of it."""
    before = sum(await reloads(gateway))
    if settings is not None:
        gateway.path.write_text(yaml.safe_dump(settings))
    gateway.process.send_signal(signal.SIGHUP)
    async with asyncio.timeout(90):
        while sum(await reloads(gateway)) == before:
            await asyncio.sleep(0.05)


async def reloads(gateway: RunningGateway) -> tuple[int, int]:
    """How many were applied, and how many refused."""
    text = (await gateway.admin.get("/metrics")).text
    found = dict(re.findall(r'gateway_config_reloads_total\{result="(\w+)"\} (\d+)', text))
    return int(found["applied"]), int(found["refused"])


async def test_reloads_that_replace_every_worker_lose_no_request(tmp_path: Path) -> None:
    async with Backend() as s, Backend() as c:
        settings = config(s.url, c.url)
        async with RunningGateway(tmp_path, settings) as gateway, Traffic(gateway.url, rate_hz=300) as traffic:
            fresh = asyncio.create_task(_fresh_connections(gateway.url))
            for number in range(RELOADS):
                before = set(gateway.children()["worker"])
                await reload(gateway, settings | {"limits": {"keepalive_s": 50.0 + number}})
                await eventually(
                    lambda before=before: not before & set(gateway.children()["worker"]), "the old workers have ended"
                )
                assert len(gateway.children()["worker"]) == 2
            await traffic.reaches(traffic.total + 50)
            fresh.cancel()
            failed = (await asyncio.gather(fresh, return_exceptions=True))[0]
            assert isinstance(failed, asyncio.CancelledError), failed
            assert await reloads(gateway) == (RELOADS, 0)
            assert traffic.failures == []


async def _fresh_connections(url: str) -> None:
    while True:
        async with httpx.AsyncClient(base_url=url, timeout=20) as client:
            assert (await client.post("/", content=b"{}")).status_code == 200


async def test_a_reload_changes_routes_and_backends_without_a_new_process(tmp_path: Path) -> None:
    async with Backend(answer(body=b"one")) as one, Backend(answer(body=b"two")) as two:
        async with RunningGateway(tmp_path, config(one.url, None)) as gateway:
            workers = sorted(gateway.children()["worker"])
            assert (await gateway.client.get("/")).text == "one"
            await reload(gateway, config(two.url, None))
            async with asyncio.timeout(20):
                while (await gateway.client.get("/")).text != "two":
                    await asyncio.sleep(0.02)
            assert sorted(gateway.children()["worker"]) == workers
            assert await reloads(gateway) == (1, 0)


async def test_a_file_that_cannot_be_used_changes_nothing_and_is_reported(tmp_path: Path) -> None:
    async with Backend() as s:
        settings = config(s.url, None)
        async with RunningGateway(tmp_path, settings) as gateway:
            children = gateway.children()
            whole = gateway.path.read_text()
            moved = yaml.safe_dump(settings | {"listen": "127.0.0.1:1"})
            for number, text in enumerate(("routes: [\x00", whole[: len(whole) // 2], moved, None)):
                if text is None:
                    gateway.path.unlink()
                else:
                    gateway.path.write_text(text)
                await reload(gateway)
                assert await reloads(gateway) == (0, number + 1)
            assert gateway.children() == children
            assert (await gateway.client.get("/")).status_code == 200
            assert (await gateway.admin.get("/readyz")).status_code == 200, "traffic does not suffer from it"
            assert b"refused, the previous one stays in force" in gateway.log
            assert "gateway_config_last_reload_failed 1.0" in (await gateway.admin.get("/metrics")).text
            gateway.path.write_text(whole)
            await reload(gateway)
            assert await reloads(gateway) == (1, 4)
            assert "gateway_config_last_reload_failed 0.0" in (await gateway.admin.get("/metrics")).text


async def test_a_worker_that_gets_sigterm_has_its_successor_before_it_has_drained(tmp_path: Path) -> None:
    """What queues at its socket meanwhile is not left waiting for the drain."""
    release = asyncio.Event()

    async def held(seen: Any, peer: Any) -> None:
        if seen.target == b"/hold":
            await release.wait()
        await answer()(seen, peer)

    async with Backend(held) as s:
        settings = config(s.url, None, timeouts={"first_byte_s": 60}) | {"workers": 1}
        async with RunningGateway(tmp_path, settings) as gateway:
            (worker,) = gateway.children()["worker"]
            slow = asyncio.create_task(gateway.client.get("/hold"))
            await eventually(lambda: s.seen, "a request is under way")
            os.kill(worker, signal.SIGTERM)
            await eventually(lambda: len(gateway.children()["worker"]) == 2, "both are there")
            for _ in range(20):
                async with httpx.AsyncClient(base_url=gateway.url, timeout=20) as fresh:
                    assert (await fresh.get("/")).status_code == 200
            assert worker in gateway.children()["worker"], "it still drains"
            release.set()
            assert (await slow).status_code == 200
            await eventually(lambda: worker not in gateway.children()["worker"], "it has ended")


async def test_counts_are_whole_across_replaced_workers(tmp_path: Path) -> None:
    async with Backend() as s:
        settings = config(s.url, None)
        async with RunningGateway(tmp_path, settings) as gateway:
            async with Traffic(gateway.url) as traffic:
                for number in range(2):
                    await traffic.reaches(traffic.total + 50)
                    await reload(gateway, settings | {"limits": {"keepalive_s": 50.0 + number}})
            assert traffic.failures == []

            async def counted() -> int:
                text = (await gateway.admin.get("/metrics")).text
                return sum(
                    int(float(n)) for n in re.findall(r"^gateway_requests_total\{[^}]*\} (\S+)", text, re.MULTILINE)
                )

            async with asyncio.timeout(20):
                while await counted() < traffic.total:
                    await asyncio.sleep(0.05)
            await asyncio.sleep(0.2)
            assert await counted() == traffic.total


async def test_sigterm_under_load_fails_no_request(tmp_path: Path) -> None:
    """Clients that connect in vain find another gateway; who was connected gets an answer."""
    async with Backend() as s:
        settings = config(s.url, None) | {"limits": {"drain_grace_s": 1.5}}
        async with RunningGateway(tmp_path, settings) as gateway:
            outcomes: list[str] = []

            async def client() -> None:
                async with httpx.AsyncClient(base_url=gateway.url, timeout=20) as http:
                    while True:
                        try:
                            reply = await http.post("/", content=b"{}")
                        except httpx.ConnectError:
                            return  # refused: nothing was asked
                        except httpx.TransportError as error:
                            outcomes.append(repr(error))
                            return
                        outcomes.append(str(reply.status_code))

            clients = [asyncio.create_task(client()) for _ in range(20)]
            await eventually(lambda: len(outcomes) > 200, "traffic flows")
            gateway.process.send_signal(signal.SIGTERM)
            async with asyncio.timeout(20):
                while (await gateway.admin.get("/readyz")).status_code == 200:
                    await asyncio.sleep(0.02)
            await asyncio.gather(*clients)
            assert set(outcomes) == {"200"}
            assert await asyncio.wait_for(gateway.process.wait(), 30) == 0


async def test_a_listening_socket_can_be_inherited(tmp_path: Path) -> None:
    async with Backend() as s:
        settings = config(s.url, None)
        path = tmp_path / "gateway.yaml"
        path.write_text(yaml.safe_dump(settings))
        with socket.create_server(("127.0.0.1", 0)) as listener:
            fd = listener.fileno()
            for environ, arguments in (({}, ["--fd", str(fd)]), ({"LISTEN_FDS": "1"}, [])):
                # systemd passes descriptors from 3 on, and says for which process they are.
                code = (
                    "import os, sys\n"
                    f"os.dup2({fd}, 3); os.set_inheritable(3, True)\n"
                    "os.environ['LISTEN_PID'] = str(os.getpid())\n"
                    "os.execv(sys.executable, [sys.executable, '-m', 'gateway', *sys.argv[1:]])\n"
                )
                process = await asyncio.create_subprocess_exec(
                    *(sys.executable, "-c", code, "serve", str(path), *arguments),
                    stdout=asyncio.subprocess.PIPE,
                    pass_fds=[fd],
                    env=os.environ | environ,
                )
                assert process.stdout is not None
                port = listener.getsockname()[1]
                assert f"serving on http://127.0.0.1:{port}".encode() in await process.stdout.readline()
                async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=20) as client:
                    assert (await client.get("/")).status_code == 200
                # Its end leaves the socket, and what queues there waits for the next.
                process.terminate()
                assert await asyncio.wait_for(process.wait(), 30) == 0
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "gateway", "serve", str(path), "--fd", "0"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 1
    assert "inherited descriptor" in done.stderr and done.stderr.count("\n") == 1


async def test_a_control_plane_that_comes_back_leaves_the_workers_what_they_know_of_health(tmp_path: Path) -> None:
    """Until its own probes have settled it says nothing; then it says it, also that an endpoint is up again."""
    async with Backend() as s, Backend(answer(503)) as c:
        settings = config(s.url, c.url, canary_percent=100)
        settings["backends"]["canary"]["probe"] = {"interval_s": 0.2, "timeout_s": 2.0, "fall": 2, "rise": 2}
        async with RunningGateway(tmp_path, settings) as gateway:

            async def canary() -> tuple[bool, bool]:
                """What probes say, and whether workers use all endpoints because none looks well to them."""
                backends = (await gateway.admin.get("/api/v1/backends")).json()["backends"]
                found = next(backend for backend in backends if backend["name"] == "canary")
                return found["endpoints"][0]["healthy"], found["panic"]

            async with asyncio.timeout(20):
                while await canary() != (False, True):
                    await asyncio.sleep(0.05)
            assert (await gateway.client.get("/")).headers["x-gateway-rescued"] == "true"
            (control,) = gateway.children()["control"]
            c.script = hang  # the new control plane's probes take their time
            os.kill(control, signal.SIGKILL)
            while control in gateway.children()["control"]:
                await asyncio.sleep(0.02)
            await gateway.ready()
            async with asyncio.timeout(20):
                while await canary() != (True, True):  # the workers know what control does not know yet
                    await asyncio.sleep(0.02)
            c.script = answer()
            async with asyncio.timeout(20):
                while (await gateway.client.get("/")).headers["x-gateway-variant"] != "canary":
                    await asyncio.sleep(0.05)
