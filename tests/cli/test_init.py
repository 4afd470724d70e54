"""`gateway init` and `gateway serve --stable`: from URLs to a configuration that serves."""

from __future__ import annotations

import asyncio
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
import yaml
from click.testing import CliRunner

from gateway.cli.init import init
from gateway.cli.starter import PROTOCOLS, ProbedServer, detect, starter
from gateway.config.load import load
from gateway.config.warnings import warnings
from tests.support.backend import Backend, Peer, Seen, answer
from tests.support.ports import free_port
from tests.support.worker import EVENTUALLY_S


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def run(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "gateway", *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=120, check=False)


def names(directory: Path) -> list[str]:
    return [path.name for path in directory.iterdir()]


@pytest.mark.anyio
async def test_a_server_that_answers_is_probed_where_it_does(tmp_path: Path) -> None:
    async with Backend(answer(200)) as well, Backend(answer(404)) as bare:
        url = f"http://127.0.0.1:{free_port()}"
        assert await asyncio.to_thread(detect, well.url) == ProbedServer(
            well.url, reached=True, probe="/v2/health/ready"
        )
        assert await asyncio.to_thread(detect, bare.url) == ProbedServer(bare.url, reached=True, probe=None)
        assert await asyncio.to_thread(detect, url) == ProbedServer(url, reached=False, probe=None)

        arguments = ("init", "--stable", well.url, "--canary", bare.url, "--route", "/v1")
        done = await asyncio.to_thread(run, *arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"{well.url} answers on /v2/health/ready" in done.stderr and "probing is off" in done.stderr
    assert re.findall(r"^  (gateway .*)$", done.stdout, re.MULTILINE) == [
        "gateway check gateway.yaml",
        "gateway serve gateway.yaml",
        "gateway rollout start model",
    ]
    written = yaml.safe_load((tmp_path / "gateway.yaml").read_text())
    assert written["backends"]["v1"]["probe"] == {"path": "/v2/health/ready"}
    assert written["backends"]["v2"]["probe"] is None
    assert written["routes"][0]["match"] == {"path_prefix": "/v1"}
    assert run("check", "gateway.yaml", cwd=tmp_path).returncode == 0

    again = run(*arguments, cwd=tmp_path)
    assert again.returncode == 1 and "gateway.yaml already exists" in again.stderr


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("canary", [None, ProbedServer("http://127.0.0.1:2", reached=True, probe="/health")])
@pytest.mark.parametrize(
    "stable", [ProbedServer("http://h:1", reached=False, probe=None), ProbedServer("http://h:1", True, None)]
)
def test_whatever_was_found_the_text_is_a_configuration(
    stable: ProbedServer, canary: ProbedServer | None, protocol: str, tmp_path: Path
) -> None:
    text = starter(stable, canary, "/a b'\"#", protocol).replace("/a b'\\\"#", "/ab")
    path = tmp_path / "gateway.yaml"
    path.write_text(text)
    assert warnings(load(path)) == []
    (route,) = yaml.safe_load(text)["routes"]
    assert {key: route[key] for key in ("analysis", "timeouts") if key in route} == (
        yaml.safe_load(PROTOCOLS[protocol]) or {}
    )


@pytest.mark.anyio
async def test_a_path_that_is_given_is_probed_whatever_the_server_answers(tmp_path: Path) -> None:
    async def only(seen: Seen, peer: Peer) -> None:
        await answer(200 if seen.target == b"/alive" else 404)(seen, peer)

    async with Backend(only) as server:
        for path, said in (("/alive", "answers on /alive"), ("/else", "does not answer on /else at present")):
            output = tmp_path / f"{path[1:]}.yaml"
            arguments = ["--stable", server.url, "--probe", path, "--output", str(output)]
            done = await asyncio.to_thread(CliRunner().invoke, init, arguments)
            assert done.exit_code == 0 and said in done.output, done.output
            written = yaml.safe_load(output.read_text())
            assert written["backends"]["v1"]["probe"] == {"path": path}


def test_a_bad_url_is_named_and_nothing_is_written(tmp_path: Path) -> None:
    done = run("init", "--stable", "ftp://models", cwd=tmp_path)
    assert done.returncode == 2 and "ftp://models" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("gateway.yaml", "--stable", "http://a:1"),
        ("gateway.yaml", "--canary", "http://a:1"),
        ("--canary", "http://a"),
    ],
)
def test_a_file_and_urls_exclude_each_other(arguments: tuple[str, ...], tmp_path: Path) -> None:
    done = run("serve", *arguments, cwd=tmp_path)
    assert done.returncode == 2 and "--stable" in done.stderr


@pytest.mark.anyio
async def test_two_urls_are_served_without_any_file(tmp_path: Path) -> None:
    async with Backend(answer(body=b"one")) as one, Backend(answer(body=b"two")) as two:
        listener = socket.create_server(("127.0.0.1", 0))
        admin = socket.create_server(("127.0.0.1", 0))
        fds = (listener.fileno(), admin.fileno())
        command = [sys.executable, "-m", "gateway", "serve", "--stable", one.url, "--canary", two.url]
        command += ["--fd", str(fds[0]), "--admin-fd", str(fds[1])]
        with (tmp_path / "log").open("wb") as log:
            environ = os.environ | {"TMPDIR": str(tmp_path)}
            process = await asyncio.create_subprocess_exec(
                *command, cwd=tmp_path, pass_fds=fds, stdout=log, stderr=log, env=environ
            )
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        try:
            async with httpx.AsyncClient(timeout=EVENTUALLY_S) as client:
                assert (await client.get(url)).text == "one"
        finally:
            listener.close()
            admin.close()
            process.terminate()
            assert await asyncio.wait_for(process.wait(), 60) == 0, (tmp_path / "log").read_text()
    assert names(tmp_path) == ["log"], "nothing is kept"
