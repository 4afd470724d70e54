"""The process tree when its files, its processes and its neighbours misbehave."""

from __future__ import annotations

import asyncio
import fcntl
import os
import pty
import signal
import socket
import subprocess
import sys
import tempfile
import termios
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
import yaml

from tests.support.backend import Backend, answer
from tests.support.gateway import RunningGateway, Traffic, config
from tests.support.ports import free_port
from tests.support.worker import eventually

pytestmark = pytest.mark.anyio


def alive(pid: int) -> bool:
    """Whether the process runs (a zombie does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def within(directory: str) -> list[Path]:
    """What is in a directory."""
    return list(Path(directory).iterdir())


@pytest.mark.parametrize("harm", ["removed", "garbled", "changed"])
async def test_a_control_plane_that_is_started_again_keeps_the_configuration_of_its_gateway(
    tmp_path: Path, harm: str
) -> None:
    token = tmp_path / "token"
    token.write_text("a-token-of-some-length")
    async with Backend() as s, Backend() as c:
        settings = config(s.url, c.url)
        settings["admin"]["token_file"] = str(token)
        async with RunningGateway(tmp_path, settings) as gateway:
            gateway.admin.headers["authorization"] = "Bearer a-token-of-some-length"
            token.unlink()
            if harm == "removed":
                gateway.path.unlink()
            else:
                changed = yaml.safe_dump(settings | {"routes": [settings["routes"][0] | {"canary_percent": 70}]})
                gateway.path.write_text("routes: [\x00" if harm == "garbled" else changed)
            (control,) = gateway.children()["control"]
            os.kill(control, signal.SIGKILL)
            await eventually(lambda: control not in gateway.children()["control"], "control is gone")
            await gateway.ready()
            (route,) = (await gateway.admin.get("/api/v1/routes")).json()["routes"]
            assert route["canary_percent"] == 0
            assert (await gateway.admin.post("/api/v1/routes/r/rollouts")).status_code == 201


async def test_a_killed_supervisor_leaves_nothing_and_its_successor_goes_on_at_once(tmp_path: Path) -> None:
    async with Backend() as s, Backend() as c:
        settings = config(s.url, c.url, plan={"steps": [{"percent": 20, "min_time_s": 3600}]})
        settings |= {"listen": f"127.0.0.1:{free_port()}", "admin": {"listen": f"127.0.0.1:{free_port()}"}}
        first = RunningGateway(tmp_path, settings)
        async with first:
            rollout = await first.start_rollout()
            children = [pid for pids in first.children().values() for pid in pids]
            assert len(children) == 3
            assert await first.stop(signal.SIGKILL) == -signal.SIGKILL
            async with RunningGateway(tmp_path, settings) as second:
                assert (await second.rollout(rollout))["phase"] == "PROGRESSING"
                (route,) = (await second.admin.get("/api/v1/routes")).json()["routes"]
                assert route["canary_percent"] == 20
                assert (await second.client.get("/")).status_code == 200
            await eventually(lambda: not any(alive(pid) for pid in children), "the first one's children are gone")


async def test_children_that_stand_still_do_not_keep_the_port_from_a_successor(tmp_path: Path) -> None:
    ports = {"listen": f"127.0.0.1:{free_port()}", "admin": {"listen": f"127.0.0.1:{free_port()}"}}
    # Sockets have short names, so their directory must, too.
    with tempfile.TemporaryDirectory(prefix="gw") as temporary:
        environ = {"TMPDIR": temporary}
        async with Backend() as s, RunningGateway(tmp_path, config(s.url, None) | ports, environ=environ) as first:
            children = first.children()
            stopped = [children["worker"][0], *children["control"]]
            for pid in stopped:
                os.kill(pid, signal.SIGSTOP)
            # They hold its pipes open, and so it is not waited for as usual.
            first.process.kill()
            await eventually(lambda: not alive(first.process.pid), "the supervisor is dead")
            async with RunningGateway(tmp_path, config(s.url, None) | ports, environ=environ) as second:
                assert not any(map(alive, stopped))
                assert (await second.client.post("/infer", content=b"{}")).status_code == 200
                assert len(within(temporary)) == 1
            assert within(temporary) == []


async def test_only_after_a_kill_a_port_that_is_in_use_is_waited_for(tmp_path: Path) -> None:
    """Whichever process holds it: one that is about to end hides its sockets before they are closed."""
    port = free_port()
    settings = config("http://127.0.0.1:9", None) | {"listen": f"127.0.0.1:{port}"}
    async with RunningGateway(tmp_path, settings):
        assert (tmp_path / "state" / "runtime.json").exists()
    assert not (tmp_path / "state" / "runtime.json").exists(), "it has ended by itself"
    with socket.create_server(("127.0.0.1", port)) as holder:
        command = (sys.executable, "-m", "gateway", "serve", str(tmp_path / "gateway.yaml"))
        refused = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=60)
        assert refused.returncode == 1 and "Address already in use" in refused.stderr
        (tmp_path / "state" / "runtime.json").write_text('{"directory": "/nowhere/gateway-killed"}')
        successor = RunningGateway(tmp_path, settings)
        starting = asyncio.create_task(successor.start())
        await eventually(lambda: locked(tmp_path / "state"), "the successor is about to listen")
        await asyncio.sleep(0.2)
        holder.close()
        await starting
        assert await successor.stop() == 0


def locked(directory: Path) -> bool:
    """Whether a gateway has this state directory."""
    held = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(held)
    return False


async def test_a_gateway_ends_with_its_terminal_and_drains(tmp_path: Path) -> None:
    path = tmp_path / "gateway.yaml"
    path.write_text(yaml.safe_dump(config("http://127.0.0.1:9", None)))
    ours, theirs = pty.openpty()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gateway", "serve", str(path)),
        stdin=theirs,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(theirs, termios.TIOCSCTTY, 0),
    )
    os.close(theirs)
    assert process.stdout is not None
    assert b"serving on" in await asyncio.wait_for(process.stdout.readline(), 60)
    os.close(ours)
    out, log = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0, log.decode()
    assert b"draining" in out and b"terminal closed: draining" in log


async def test_a_rollout_is_judged_on_after_a_full_restart(tmp_path: Path) -> None:
    async with Backend() as s, Backend() as c:
        settings = config(s.url, c.url, plan={"steps": [{"percent": 30, "min_time_s": 3600}]})
        async with RunningGateway(tmp_path, settings) as first, Traffic(first.url) as traffic:
            rollout = await first.start_rollout()
            await traffic.reaches(200)
            await first.set_weight(20)
            assert (await first.admin.post(f"/api/v1/rollouts/{rollout}/resume")).status_code == 200
            await traffic.reaches(400)
            seen = (await first.rollout(rollout))["canary_requests"]
        async with RunningGateway(tmp_path, settings) as second, Traffic(second.url) as traffic:
            await traffic.reaches(100)
            view = await second.rollout(rollout)
            assert view["canary_requests"] > seen * 0.8 > 0
            assert view["analysis"]["verdict"] != "ERROR", view["analysis"]["reason"]
            c.script = answer(500)
            assert (await second.until_phase(rollout, "ROLLED_BACK"))["causes"] == ["errors"]
            assert traffic.failures == []


async def test_a_second_gateway_on_the_same_state_is_refused_in_one_line(tmp_path: Path) -> None:
    async with Backend() as s, RunningGateway(tmp_path, config(s.url, None)) as gateway:
        done = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-m", "gateway", "serve", str(gateway.path)],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 1
        assert done.stderr.count("\n") == 1
        assert "another gateway is using this state directory" in done.stderr
        assert str(tmp_path / "state") in done.stderr
        assert done.stdout == ""
        assert (await gateway.admin.get("/readyz")).status_code == 200


async def test_a_worker_that_is_stopped_delays_no_decision_and_takes_it_up_when_it_goes_on(tmp_path: Path) -> None:
    async with Backend() as s, Backend() as c:
        async with RunningGateway(tmp_path, config(s.url, c.url)) as gateway:
            stopped = gateway.children()["worker"][0]
            os.kill(stopped, signal.SIGSTOP)
            try:
                for percent in (10, 20, 30, 0):
                    await gateway.set_weight(percent, workers=1)
                ready = await until_status(gateway, 503)
                assert "worker" in ready.text
            finally:
                os.kill(stopped, signal.SIGCONT)
            assert (await until_status(gateway, 200)).status_code == 200
            (route,) = (await gateway.admin.get("/api/v1/routes")).json()["routes"]
            assert (route["workers_applied"], route["canary_percent"]) == (2, 0)


async def test_a_worker_that_hangs_is_replaced_and_its_queue_is_served(tmp_path: Path) -> None:
    async with Backend() as s:
        settings = config(s.url, None) | {"limits": {"hang_timeout_s": 1.0}}
        async with RunningGateway(tmp_path, settings) as gateway:
            hung, well = gateway.children()["worker"]
            os.kill(hung, signal.SIGSTOP)
            # About half of these wait in the queue of the one that is stopped.
            limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
            async with httpx.AsyncClient(base_url=gateway.url, timeout=30, limits=limits) as client:
                replies = await asyncio.gather(*(client.post("/infer", content=b"{}") for _ in range(40)))
            assert [reply.status_code for reply in replies] == [200] * 40
            workers = gateway.children()["worker"]
            assert hung not in workers and well in workers
            (alarm,) = await gateway.until_alarms(1)
            assert "hung, was killed and replaced" in alarm["reason"]
            assert (await until_status(gateway, 200)).status_code == 200
            metrics = (await gateway.admin.get("/metrics")).text
            assert 'gateway_child_restarts_total{child="worker",reason="hang"} 1.0' in metrics
        assert b"state T) hangs" in gateway.log


async def until_status(gateway: RunningGateway, status: int) -> httpx.Response:
    """Ask for readiness until it is this."""
    async with asyncio.timeout(60):
        while (reply := await gateway.admin.get("/readyz")).status_code != status:
            await asyncio.sleep(0.05)
    return reply


@pytest.mark.parametrize(
    ("number", "delay_s"), [(signal.SIGTERM, 0.0), (signal.SIGTERM, 0.3), (signal.SIGTERM, 0.8), (signal.SIGINT, 0.5)]
)
async def test_a_signal_during_the_start_ends_it_in_order(
    tmp_path: Path, number: signal.Signals, delay_s: float
) -> None:
    settings = config("http://127.0.0.1:9", None) | {"listen": f"127.0.0.1:{free_port()}"}
    path = tmp_path / "gateway.yaml"
    path.write_text(yaml.safe_dump(settings))
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gateway", "serve", str(path)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    assert b"serving on" in await asyncio.wait_for(process.stdout.readline(), 60)
    await asyncio.sleep(delay_s)
    process.send_signal(number)
    _, log = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0
    assert b"Traceback" not in log and b"did not stop" not in log, log.decode()
    with socket.create_server(("127.0.0.1", urlsplit(f"//{settings['listen']}").port or 0)):
        pass


async def test_a_control_plane_that_gets_sigterm_is_started_again_and_the_traffic_flows(tmp_path: Path) -> None:
    async with (
        Backend() as s,
        RunningGateway(tmp_path, config(s.url, None)) as gateway,
        Traffic(gateway.url) as traffic,
    ):
        (control,) = gateway.children()["control"]
        os.kill(control, signal.SIGTERM)
        await eventually(lambda: control not in gateway.children()["control"], "control has ended")
        await gateway.ready()
        await traffic.reaches(traffic.total + 50)
        assert traffic.failures == []
