"""deploy/compose.yaml: its schema, and that each path, port and command in it is one that is there and works."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
import yaml

from gateway.config.load import load_elsewhere
from tests.support.chart import DEPLOY, ROOT, tool
from tests.support.gateway import RunningGateway
from tests.support.ports import free_port
from tests.support.systems import server

FILE = DEPLOY / "compose.yaml"
FOLDER = DEPLOY / "compose"


def services() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = yaml.safe_load(FILE.read_text(encoding="utf-8"))["services"]
    return found


def mounts(service: str) -> Iterator[tuple[str, str]]:
    """What is mounted, and where."""
    for volume in services()[service].get("volumes", ()):
        source, target = volume.split(":")[:2]
        yield source, target


def here(service: str, path: str) -> Path:
    """The file of this repository that is at a path of a service's container."""
    found = [
        Path(FILE.parent, source, path.removeprefix(target).lstrip("/")).resolve()
        for source, target in mounts(service)
        if path == target or path.startswith(f"{target}/")
    ]
    assert len(found) == 1, f"{path} of {service} is in {len(found)} mounts"
    return found[0]


def test_the_file_satisfies_composes_schema(tmp_path: Path) -> None:
    command: list[str | Path] = [tool("check-jsonschema"), "--builtin-schema", "vendor.compose-spec"]
    done = subprocess.run([*command, FILE], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    wrong = tmp_path / "compose.yaml"
    wrong.write_text(FILE.read_text(encoding="utf-8").replace("stop_grace_period:", "stop_grace_periods:"))
    done = subprocess.run([*command, wrong], capture_output=True, text=True, timeout=120, check=False)
    assert "stop_grace_periods" in done.stdout, "the schema sees errors"


def test_every_file_that_is_mounted_or_named_is_there() -> None:
    for name in services():
        for source, _ in mounts(name):
            assert not source.startswith(".") or (FILE.parent / source).exists(), source
    assert here("stable", services()["stable"]["command"][1]).is_file()
    assert here("canary", services()["canary"]["command"][1]).is_file()
    assert here("gateway", services()["gateway"]["command"][-1]) == FOLDER / "gateway.yaml"
    assert here("traffic", services()["traffic"]["entrypoint"][1]) == FOLDER / "traffic.py"
    prometheus = services()["prometheus"]["command"][0].removeprefix("--config.file=")
    assert here("prometheus", prometheus) == ROOT / "config" / "prometheus" / "prometheus.yml"
    home = services()["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert here("grafana", home).is_file()
    provider = yaml.safe_load((ROOT / "config/grafana/provisioning/dashboards/canary-gateway.yaml").read_text())
    assert here("grafana", provider["providers"][0]["options"]["path"]) == here("grafana", home).parent


def test_addresses_and_ports_fit_together() -> None:
    every = services()
    config = load_elsewhere(FOLDER / "gateway.yaml")
    for backend in config.backends.values():
        (endpoint,) = backend.endpoints
        command = every[endpoint.host]["command"]
        assert command[command.index("--port") + 1] == str(endpoint.port)
        assert command[command.index("--host") + 1] == "0.0.0.0"
    published = {each.split(":")[-1] for each in every["gateway"]["ports"]}
    assert all(each.startswith("127.0.0.1:") for each in every["gateway"]["ports"])
    assert published == {str(config.listen.port), "9090", "3000"}, "requests, Prometheus, Grafana; not the admin port"
    assert every["traffic"]["command"] == [f"http://gateway:{config.listen.port}"]
    # Both share the gateway's network, so their files of config/ hold as they are.
    assert {every[name]["network_mode"] for name in ("prometheus", "grafana")} == {"service:gateway"}
    scraped = yaml.safe_load((ROOT / "config/prometheus/prometheus.yml").read_text())["scrape_configs"][0]
    assert scraped["static_configs"][0]["targets"] == [str(config.admin.listen)]
    source = yaml.safe_load((ROOT / "config/grafana/provisioning/datasources/prometheus.yaml").read_text())
    assert source["datasources"][0]["url"] == "http://localhost:9090"
    assert str(config.state_dir) in {target for _, target in mounts("gateway")}
    grace_s = float(every["gateway"]["stop_grace_period"].removesuffix("s"))
    assert grace_s > config.limits.drain_timeout_s + config.limits.drain_grace_s


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_the_same_commands_and_configuration_serve_the_same_traffic(tmp_path: Path) -> None:
    """Without an engine: each command with the addresses of this machine."""
    config = yaml.safe_load((FOLDER / "gateway.yaml").read_text(encoding="utf-8"))
    config |= {"listen": "127.0.0.1:0", "admin": {"listen": "127.0.0.1:0"}, "state_dir": str(tmp_path / "state")}
    gateway = str(Path(sys.executable).parent / "gateway")
    started = []
    for name, backend in (("stable", "v1"), ("canary", "v2")):
        command, port = list(services()[name]["command"]), str(free_port())
        command[1] = str(here(name, command[1]))
        command[command.index("--host") + 1] = "127.0.0.1"
        command[command.index("--port") + 1] = port
        url = f"http://127.0.0.1:{port}"
        config["backends"][backend]["endpoints"] = [url]
        (tmp_path / name).mkdir()
        started.append(server([gateway, *command], f"{url}/v2/health/ready", tmp_path / name))
    async with started[0], started[1], RunningGateway(tmp_path, config) as running:
        await running.admin.put("/api/v1/routes/digits/weight", json={"canary_percent": 50})
        script = str(here("traffic", services()["traffic"]["entrypoint"][1]))
        done = await anyio.run_process([sys.executable, script, running.url, "60"])
    answers = ast.literal_eval(done.stdout.decode())
    assert set(answers) == {"200 stable", "200 canary"} and sum(answers.values()) == 60
