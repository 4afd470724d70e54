"""The chart's pod on this machine: security context, volumes, ports and probes, with real model servers behind it."""

from __future__ import annotations

import re
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


@pytest.fixture(params=[edge, sidecar], ids=["edge", "sidecar"])
def pod(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Pod]:
    with Pod(request.param(), tmp_path) as pod:
        for model, port in MODELS.values():
            server = (Path(sys.executable).parent / "gateway", "model-server", ROOT / "models" / model)
            pod.beside(*server, "--name", "digits", "--port", str(port))
        yield pod


def test_a_pod_as_the_chart_makes_it_serves(pod: Pod) -> None:
    for kind in ("startup", "readiness", "liveness"):
        pod.until_probe(kind)
    pod.until(lambda: pod.get("requests", "/v2/models/digits") == (200, "stable"), "stable answers")

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
    pod.until(lambda: pod.get("requests", "/v2/models/digits") == (200, "canary"), "the canary answers")
    assert pod.stop() == 0, pod.log
    pod.start()
    pod.until_probe("readiness")
    pod.until(lambda: pod.get("requests", "/v2/models/digits") == (200, "canary"), "the canary answers again")
    assert "Traceback" not in pod.log


def test_a_state_volume_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with Pod(edge(), tmp_path, state_mode=0o555) as pod:
        assert pod.ended() == 2
        assert "state_dir: this user cannot write to /var/lib/gateway; permit it" in pod.log
