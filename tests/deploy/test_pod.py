"""The chart's pod on this machine: security context, volumes, ports and probes, with real model servers behind it."""

from __future__ import annotations

import contextlib
import json
import re
import sqlite3
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.chart import ROOT, SIDECAR, configuration, template
from tests.support.pod import Pod

MODELS = {"v1": ("digits-logreg.onnx", 8001), "v2": ("digits-svm.onnx", 8002)}
# The containers of the example, with the model servers that the test has.
LOCAL = {name: {"endpoints": [f"http://127.0.0.1:{port}"]} for name, (_, port) in MODELS.items()}


def edge() -> list[dict[str, Any]]:
    return template(values={"config": {"backends": LOCAL}})


def sidecar() -> list[dict[str, Any]]:
    manifests = template(SIDECAR)
    assert configuration(manifests)["backends"] == LOCAL
    return manifests


def with_models(pod: Pod) -> Pod:
    """The pod, with both model servers in its network."""
    for model, port in MODELS.values():
        server = (Path(sys.executable).parent / "gateway", "model-server", ROOT / "models" / model)
        pod.beside(*server, "--name", "digits", "--port", str(port))
    return pod


@pytest.fixture(params=[edge, sidecar], ids=["edge", "sidecar"])
def pod(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Pod]:
    with Pod(request.param(), tmp_path) as pod:
        yield with_models(pod)


def until_served_by(pod: Pod, variant: str) -> None:
    pod.until(lambda: pod.get("requests", "/v2/models/digits") == (200, variant), f"{variant} answers")


def alarms(pod: Pod) -> dict[str, str]:
    """What is wrong, and why."""
    shown = pod.execute("gateway", "alarms", "--json")
    assert shown.returncode == 0, shown.stderr
    return {each["what"]: each["reason"] for each in json.loads(shown.stdout)["alarms"]}


def test_a_pod_as_the_chart_makes_it_serves(pod: Pod) -> None:
    for kind in ("startup", "readiness", "liveness"):
        pod.until_probe(kind)
    until_served_by(pod, "stable")

    # What it runs as
    status = dict(re.findall(r"^(\w+):\s*(.*)$", Path(f"/proc/{pod.pid}/status").read_text(), re.MULTILINE))
    assert set(status["Uid"].split()) == set(status["Gid"].split()) == {"65532"}
    assert [int(status[f"Cap{name}"], 16) for name in ("Inh", "Prm", "Eff", "Bnd", "Amb")] == [0] * 5
    assert status["NoNewPrivs"] == "1" and status["NSpid"].split()[-1] == "1"
    assert "Read-only file system" in pod.execute("touch", "/var/lib/x").stderr
    assert "Read-only file system" in pod.execute("touch", "/etc/gateway/x").stderr

    # The admin port: closed to those without the token, open to who is inside
    assert pod.get("admin", "/metrics")[0] == 200
    assert pod.get("admin", "/api/v1/routes")[0] == 401
    shown = pod.execute("gateway", "status")
    assert shown.returncode == 0 and "model" in shown.stdout, shown.stderr

    # A changed ConfigMap
    config = yaml.safe_load((pod.volume("config") / "gateway.yaml").read_text())
    config["routes"].append({"name": "other", "match": {"path_prefix": "/other"}, "stable": "v2"})
    pod.config.put({"gateway.yaml": yaml.safe_dump(config)})
    pod.until(lambda: "other" in pod.execute("gateway", "status").stdout, "the new route is there")

    # What an operator decided outlives the pod
    moved = pod.execute("gateway", "weight", "model", "100")
    assert moved.returncode == 0, moved.stderr
    until_served_by(pod, "canary")
    assert pod.stop() == 0, pod.log
    pod.start()
    pod.until_probe("readiness")
    until_served_by(pod, "canary")
    assert "Traceback" not in pod.log


def test_a_state_volume_that_cannot_be_written_leaves_traffic_on_stable(tmp_path: Path) -> None:
    with Pod(edge(), tmp_path, state_mode=0o555) as pod:
        until_served_by(with_models(pod), "stable")
        pod.until_probe("readiness")
        assert "state_dir: this user cannot write to /var/lib/gateway: stable alone is served" in pod.log
        assert "serving stable only, rollouts are frozen: cannot open state file" in alarms(pod)["journal"]
        refused = pod.execute("gateway", "rollout", "start", "model")
        assert refused.returncode != 0 and "state file /var/lib/gateway/state.sqlite3" in refused.stderr

        # Somebody permits it: no restart is needed
        pod.volume("state").chmod(0o2775)
        pod.until(lambda: alarms(pod) == {}, "the alarms have ended")
        started = pod.execute("gateway", "rollout", "start", "model")
        assert started.returncode == 0, started.stderr
        assert "Traceback" not in pod.log


def test_state_of_a_newer_version_or_none_at_all_leaves_traffic_on_stable(tmp_path: Path) -> None:
    with Pod(edge(), tmp_path) as pod:
        until_served_by(with_models(pod), "stable")
        assert "no earlier state in /var/lib/gateway" in pod.log
        pod.until_probe("readiness")
        assert pod.execute("gateway", "weight", "model", "100").returncode == 0
        until_served_by(pod, "canary")
        assert pod.stop() == 0, pod.log
        store = pod.volume("state") / "state.sqlite3"
        version = written_by(store, 99)

        pod.start()
        until_served_by(pod, "stable")
        pod.until_probe("readiness")
        assert "its schema is version 99" in alarms(pod)["journal"]
        assert pod.execute("gateway", "weight", "model", "100").returncode != 0
        assert pod.get("requests", "/v2/models/digits") == (200, "stable")
        assert pod.stop() == 0, pod.log
        written_by(store, version)

        # The newer gateway is back: nothing was lost
        pod.start()
        until_served_by(pod, "canary")
        assert pod.stop() == 0, pod.log

        # The volume is gone, and another one is in its place
        for path in pod.volume("state").iterdir():
            path.unlink()
        lines = pod.log.count("no earlier state in /var/lib/gateway")
        pod.start()
        until_served_by(pod, "stable")
        assert pod.log.count("no earlier state in /var/lib/gateway") == lines + 1
        assert "Traceback" not in pod.log


def written_by(store: Path, version: int) -> int:
    """Let the file be of that version of the schema; returns of which it was."""
    with contextlib.closing(sqlite3.connect(store)) as connection:
        (before,) = connection.execute("PRAGMA user_version").fetchone()
        connection.execute(f"PRAGMA user_version = {version}")
        connection.commit()
    return int(before)
