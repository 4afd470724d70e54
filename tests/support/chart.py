"""The chart and the kustomize bases, rendered by the real tools."""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
CHART = DEPLOY / "helm" / "canary-gateway"
EDGE, SIDECAR = CHART / "examples" / "edge.yaml", CHART / "examples" / "sidecar.yaml"
EXAMPLES = sorted((CHART / "examples").glob("*.yaml"))
EVERYTHING = {
    "dashboard": {"enabled": True},
    "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
    "prometheusRule": {"enabled": True},
    "httpRoute": {"enabled": True, "parentRefs": [{"name": "public"}], "hostnames": ["models.example"]},
}
Manifest = dict[str, Any]


def tool(name: str) -> Path:
    """A program of the tools' environment."""
    return Path(os.environ["GATEWAY_DEPLOY"], "tools", "bin", name).absolute()  # resolved, python would be the system's


@functools.cache
def renderer() -> ModuleType:
    """`deploy/render.py`."""
    spec = importlib.util.spec_from_file_location("render", DEPLOY / "render.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def helm(*arguments: str | Path, values: Mapping[str, Any] | None = None) -> subprocess.CompletedProcess[str]:
    """Run helm; ``values`` are given as a file on standard input."""
    more = [] if values is None else ["--values", "-"]
    return subprocess.run(
        [tool("helm"), *arguments, *more],
        input=None if values is None else yaml.safe_dump(values),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def template(*files: Path, values: Mapping[str, Any] | None = None) -> list[Manifest]:
    """The manifests that the chart makes of these values; without a file, of the least configuration."""
    done = helm("template", "canary-gateway", CHART, "--namespace", "default", *_given(files), values=values or {})
    assert done.returncode == 0, done.stderr
    return [each for each in yaml.safe_load_all(done.stdout) if each is not None]


def refusal(values: Mapping[str, Any], *files: Path) -> str:
    """What helm says about values that it refuses."""
    done = helm("template", "canary-gateway", CHART, *_given(files), values=values)
    assert done.returncode != 0, f"accepted: {values}"
    return done.stderr


def _given(files: Sequence[Path]) -> list[str | Path]:
    return [each for file in files or (EDGE,) for each in ("--values", file)]


def kustomize(folder: Path) -> list[Manifest]:
    """What `kubectl kustomize` builds of a folder."""
    done = subprocess.run(["kubectl", "kustomize", folder], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


def custom_resource_errors(manifests: Sequence[Manifest]) -> list[str]:
    """What the validators of the operators' own kinds find, for each manifest."""
    packages = Path(os.environ["GATEWAY_DEPLOY"], "npm").resolve()
    done = subprocess.run(
        ["node", ROOT / "tests" / "deploy" / "npm" / "validate.mjs", packages],
        input=json.dumps(manifests),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: list[str] = json.loads(done.stdout)
    return found


def by_kind(manifests: Iterable[Manifest], kind: str, suffix: str = "") -> Manifest:
    """The one manifest of that kind (whose name ends so)."""
    (found,) = (
        each for each in manifests if each["kind"] == kind and each["metadata"]["name"] == f"canary-gateway{suffix}"
    )
    return found


def pod_of(manifests: Iterable[Manifest]) -> dict[str, Any]:
    """The Deployment's pod."""
    spec: dict[str, Any] = by_kind(manifests, "Deployment")["spec"]["template"]["spec"]
    return spec


def gateway_container(pod: Mapping[str, Any]) -> dict[str, Any]:
    """The gateway's container, wherever in the pod it is."""
    (found,) = (each for each in (*pod.get("initContainers", ()), *pod["containers"]) if each["name"] == "gateway")
    container: dict[str, Any] = found
    return container


def configuration(manifests: Iterable[Manifest]) -> dict[str, Any]:
    """The gateway's configuration in the ConfigMap."""
    text = by_kind(manifests, "ConfigMap")["data"]["gateway.yaml"]
    loaded: dict[str, Any] = yaml.safe_load(text)
    return loaded
