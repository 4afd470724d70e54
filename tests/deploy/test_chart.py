"""The chart and the bases against Kubernetes' schemas, the operators' own, and the program that they start."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from gateway.admin.auth import OPEN_PATHS
from gateway.cli import COMMANDS
from gateway.cli.options import remote
from gateway.cli.serve import serve
from gateway.config.load import load_elsewhere
from tests.support.chart import (
    CHART,
    DEPLOY,
    EDGE,
    EVERYTHING,
    EXAMPLES,
    ROOT,
    SIDECAR,
    Manifest,
    by_kind,
    configuration,
    custom_resource_errors,
    gateway_container,
    helm,
    kustomize,
    pod_of,
    refusal,
    renderer,
    template,
    tool,
)

CUSTOM = ("ServiceMonitor", "PrometheusRule", "HTTPRoute")
# The oldest that the chart allows, and the newest that the schemas know.
VERSIONS = ("1.30", "1.37")
CASES = [pytest.param((), {}, id="default"), pytest.param((), EVERYTHING, id="everything")]
CASES += [pytest.param((example,), EVERYTHING, id=example.stem) for example in EXAMPLES]


def schema_errors(manifests: list[Manifest], version: str, folder: Path) -> str:
    """What the strict schemas of that version of Kubernetes find; empty when nothing."""
    file = folder / "manifests.yaml"
    file.write_text(yaml.safe_dump_all(manifests))
    done = subprocess.run(
        [tool("kubernetes-validate"), "--strict", "-k", version, file],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    return done.stdout + done.stderr if done.returncode else ""


def known(manifests: list[Manifest]) -> list[Manifest]:
    return [each for each in manifests if each["kind"] not in CUSTOM]


def test_helm_lint_is_content() -> None:
    done = helm("lint", "--strict", CHART, "--values", EDGE)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(("files", "values"), CASES)
def test_manifests_satisfy_the_strict_schemas(files: tuple[Path, ...], values: dict[str, Any], tmp_path: Path) -> None:
    manifests = template(*files, values=values)
    for version in VERSIONS if values else VERSIONS[-1:]:
        assert schema_errors(known(manifests), version, tmp_path) == ""
    custom = [each for each in manifests if each["kind"] in CUSTOM]
    assert custom_resource_errors(custom) == [""] * len(custom)
    assert len(custom) == (len(CUSTOM) if values else 0)


def test_the_schemas_and_validators_see_errors(tmp_path: Path) -> None:
    manifests = template(values=EVERYTHING)
    gateway_container(pod_of(manifests))["ports"][0]["containerPort"] = "8080"
    assert "containerPort" in schema_errors(known(manifests), VERSIONS[-1], tmp_path)
    monitor = by_kind(manifests, "ServiceMonitor")
    monitor["spec"]["endpoints"][0]["interval"] = 5
    assert "interval" in custom_resource_errors([monitor])[0]


@pytest.mark.parametrize(("files", "values"), CASES)
def test_the_configuration_is_one_that_the_gateway_serves(
    files: tuple[Path, ...], values: dict[str, Any], tmp_path: Path
) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_text(yaml.safe_dump(configuration(template(*files, values=values))))
    assert load_elsewhere(file).routes[0].canary is not None


def test_every_key_with_its_default_is_accepted_by_the_schema_and_reaches_the_gateway(tmp_path: Path) -> None:
    """Also what YAML 1.1 makes of it on its way through Helm: `off`, 429, large numbers."""
    every = yaml.safe_load((ROOT / "config" / "gateway.yaml").read_text(encoding="utf-8"))
    theirs = {key: value for key, value in every.items() if key not in ("listen", "state_dir", "admin")}
    values = tmp_path / "values.yaml"
    values.write_text(yaml.safe_dump({"config": theirs}))
    found = configuration(template(values))
    # Helm drops a null where the chart has a default, as it has for `config`: only null by default may be missing.
    assert {key: found.get(key) for key in theirs} == theirs
    assert {key for key in theirs if key not in found} <= {key for key, value in theirs.items() if value is None}
    file = tmp_path / "gateway.yaml"
    file.write_text(yaml.safe_dump(found))
    load_elsewhere(file)


def test_a_probe_that_is_turned_off_stays_so() -> None:
    found = configuration(template(values={"config": {"backends": {"v1": {"probe": None}}}}))
    assert found["backends"]["v1"]["probe"] is None


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"config": {"routes": None}}, "config.routes"),
        ({"replicas": 2}, "2 gateways would each decide about the canary on a part of the evidence"),
        ({"replicas": "1"}, "replicas"),
        ({"mode": "ingress"}, "mode"),
        ({"replicaCount": 1}, "replicaCount"),
        ({"config": {"routes": [{"name": "r", "stabel": "v1"}]}}, "stabel"),
        ({"config": {"limits": {"drain_timeout_s": "long"}}}, "config.limits.drain_timeout_s"),
        ({"config": {"listen": "0.0.0.0:80"}}, "config.listen is set by the chart"),
        ({"config": {"state_dir": "/data"}}, "config.state_dir is set by the chart"),
        ({"config": {"admin": {"token_file": "/t"}}}, "config.admin.token_file is set by the chart"),
        (
            {"config": {"admin": {"tls": {"cert_file": "c", "key_file": "k", "client_ca_file": "a"}}}},
            "the kubelet",
        ),
        ({"mode": "sidecar"}, "sidecar needs the model's containers"),
        ({"sidecar": {"containers": [{"name": "m", "image": "m"}]}}, "mode: sidecar alone"),
        ({"mode": "sidecar", "sidecar": {"containers": [{"name": "gateway", "image": "m"}]}}, "the name gateway"),
        ({"service": {"port": 0}}, "service.port"),
        ({"persistence": {"size": "large"}}, "persistence.size"),
        ({"image": {"digest": "sha256:12"}}, "image.digest"),
        ({"networkPolicy": {"adminFrom": [{}]}}, "networkPolicy.adminFrom"),
        ({"podDisruptionBudget": {"maxUnavailable": 2}}, "podDisruptionBudget.maxUnavailable"),
    ],
)
def test_wrong_values_are_named(values: dict[str, Any], said: str) -> None:
    assert said in refusal(values)


def test_without_backends_and_routes_it_says_so() -> None:
    done = helm("template", "canary-gateway", CHART)
    assert "config: backends is required" in done.stderr and "config: routes is required" in done.stderr


def test_an_older_kubernetes_is_refused() -> None:
    done = helm("template", "canary-gateway", CHART, "--values", EDGE, "--kube-version", "1.29.0")
    assert done.returncode != 0 and "1.30" in done.stderr


# One fact, declared once


def test_what_is_generated_is_up_to_date() -> None:
    written: dict[Path, str] = renderer().written(str(tool("helm")))
    stale = [str(path) for path, text in written.items() if not path.exists() or path.read_text() != text]
    assert stale == [], "run: .venv/bin/python deploy/render.py --helm build/deploy/tools/bin/helm"
    folder = DEPLOY / "kustomize"
    assert {path for path in folder.rglob("*") if path.is_file()} == {
        path for path in written if folder in path.parents
    }


@pytest.mark.parametrize(("folder", "files"), [("edge", ()), ("sidecar", (SIDECAR,))])
def test_a_base_builds_what_the_chart_makes(folder: str, files: tuple[Path, ...]) -> None:
    chart = template(*files, values={"admin": {"existingSecret": "canary-gateway-admin"}})
    for each in chart:
        annotations = each["metadata"].get("annotations", {})
        if annotations.pop("helm.sh/resource-policy", None):
            del each["metadata"]["annotations"]
        if (
            each["kind"] == "ConfigMap"
        ):  # a file is compared by what it says: a base's has a head that says where it is from
            each["data"] = {name: yaml.safe_load(text) for name, text in each["data"].items()}
    built = kustomize(DEPLOY / "kustomize" / folder)
    for each in built:
        if each["kind"] == "ConfigMap":
            each["data"] = {name: yaml.safe_load(text) for name, text in each["data"].items()}

    def key(manifest: Manifest) -> tuple[str, str]:
        return manifest["kind"], manifest["metadata"]["name"]

    assert sorted(built, key=key) == sorted(chart, key=key)


def test_an_overlay_replaces_the_configuration_and_adds_the_monitoring(tmp_path: Path) -> None:
    overlay = {
        "resources": ["base"],
        "components": ["monitoring"],
        "namespace": "models",
        "images": [{"name": "canary-gateway", "newName": "registry.example/canary-gateway", "newTag": "1"}],
        "configMapGenerator": [{"name": "canary-gateway", "behavior": "replace", "files": ["gateway.yaml"]}],
    }
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(overlay))
    (tmp_path / "gateway.yaml").write_text("workers: 2\n")
    (tmp_path / "base").symlink_to(DEPLOY / "kustomize" / "edge")
    (tmp_path / "monitoring").symlink_to(DEPLOY / "kustomize" / "monitoring")
    built = kustomize(tmp_path)
    assert by_kind(built, "ConfigMap")["data"] == {"gateway.yaml": "workers: 2\n"}
    assert gateway_container(pod_of(built))["image"] == "registry.example/canary-gateway:1"
    assert {each["kind"] for each in built} >= {"ServiceMonitor", "PrometheusRule", "Deployment"}
    assert {each["metadata"]["namespace"] for each in built} == {"models"}
    custom = [each for each in built if each["kind"] in CUSTOM]
    assert custom_resource_errors(custom) == ["", ""]


def test_alerts_and_dashboard_are_those_of_the_repository() -> None:
    manifests = template(values=EVERYTHING)
    files = (ROOT / "config" / "prometheus" / f"{name}.yml" for name in ("rules", "alerts"))
    groups = [group for file in files for group in yaml.safe_load(file.read_text(encoding="utf-8"))["groups"]]
    assert by_kind(manifests, "PrometheusRule")["spec"] == {"groups": groups}
    dashboard = by_kind(manifests, "ConfigMap", "-dashboard")
    assert dashboard["metadata"]["labels"]["grafana_dashboard"] == "1"
    written = (ROOT / "config" / "grafana" / "dashboards").glob("*.json")
    assert dashboard["data"] == {file.name: file.read_text(encoding="utf-8") for file in written}


# What a manifest says is what the program has


@pytest.mark.parametrize("files", [(), (SIDECAR,)], ids=["edge", "sidecar"])
def test_every_path_port_probe_and_variable_is_the_programs(files: tuple[Path, ...]) -> None:
    manifests = template(*files, values=EVERYTHING)
    pod, config = pod_of(manifests), configuration(manifests)
    container = gateway_container(pod)
    ports = {each["name"]: each["containerPort"] for each in container["ports"]}
    assert config["listen"] == f"0.0.0.0:{ports['requests']}"
    assert config["admin"]["listen"] == f"0.0.0.0:{ports['admin']}"

    probes = {kind: container[f"{kind}Probe"]["httpGet"] for kind in ("startup", "readiness", "liveness")}
    assert {probe["port"] for probe in probes.values()} == {"admin"}
    assert {probe["path"] for probe in probes.values()} <= OPEN_PATHS, "the kubelet has no token"
    assert probes["liveness"]["path"] == "/healthz" and probes["readiness"]["path"] == "/readyz"
    (endpoint,) = by_kind(manifests, "ServiceMonitor")["spec"]["endpoints"]
    assert endpoint["path"] in OPEN_PATHS and endpoint["port"] == "admin"

    command, path = container["args"]
    assert command in COMMANDS
    assert [each.name for each in serve.params if isinstance(each, click.Argument)] == ["config"]
    mounts = {each["mountPath"]: each["name"] for each in container["volumeMounts"]}
    assert mounts[str(Path(path).parent)] == "config"
    assert not any("subPath" in each for each in container["volumeMounts"])
    assert mounts[config["state_dir"]] == "state"
    assert mounts[str(Path(config["admin"]["token_file"]).parent)] == "token"
    volumes = {each["name"]: each for each in pod["volumes"]}
    assert set(volumes) == set(mounts.values())
    (item,) = volumes["token"]["secret"]["items"]
    assert item["path"] == Path(config["admin"]["token_file"]).name
    assert item["key"] in by_kind(manifests, "Secret", "-admin")["data"]
    assert Path(path).name in by_kind(manifests, "ConfigMap")["data"]

    read = {each.envvar for each in click.command()(remote(lambda: None)).params if isinstance(each, click.Option)}
    assert {each["name"] for each in container["env"]} <= read


def test_services_policies_and_monitors_select_the_pod() -> None:
    manifests = template(values=EVERYTHING)
    labels = by_kind(manifests, "Deployment")["spec"]["template"]["metadata"]["labels"]
    ports = {each["name"] for each in gateway_container(pod_of(manifests))["ports"]}
    for suffix in ("", "-admin"):
        spec = by_kind(manifests, "Service", suffix)["spec"]
        assert spec["selector"].items() <= labels.items()
        assert {each["targetPort"] for each in spec["ports"]} <= ports
    policy = by_kind(manifests, "NetworkPolicy")["spec"]
    assert policy["podSelector"]["matchLabels"].items() <= labels.items()
    requests, admin = policy["ingress"]
    assert "from" not in requests and [each["port"] for each in requests["ports"]] == ["requests"]
    assert admin["from"] and [each["port"] for each in admin["ports"]] == ["admin"]
    monitor = by_kind(manifests, "ServiceMonitor")["spec"]
    service = by_kind(manifests, "Service", "-admin")["metadata"]["labels"]
    assert monitor["selector"]["matchLabels"].items() <= service.items()
    assert not monitor["selector"]["matchLabels"].items() <= by_kind(manifests, "Service")["metadata"]["labels"].items()
    jobs = set(
        re.findall(r'job="([^"]+)"', (ROOT / "config" / "prometheus" / "alerts.yml").read_text(encoding="utf-8"))
    )
    assert jobs == {service[monitor["jobLabel"]]}, "the alerts select the job that the scrape will have"


def test_without_a_peer_nobody_reaches_the_admin_port() -> None:
    policy = by_kind(template(values={"networkPolicy": {"adminFrom": []}}), "NetworkPolicy")["spec"]
    assert [[each["port"] for each in rule["ports"]] for rule in policy["ingress"]] == [["requests"]]


@pytest.mark.parametrize("files", [(), (SIDECAR,)], ids=["edge", "sidecar"])
def test_the_end_of_a_pod_is_longer_than_its_drain(files: tuple[Path, ...]) -> None:
    values = {"config": {"limits": {"drain_timeout_s": 100.5, "drain_grace_s": 7}}, "drain": {"preStopSeconds": 11}}
    pod = pod_of(template(*files, values=values))
    before = [each["lifecycle"]["preStop"]["sleep"]["seconds"] for each in pod["containers"]]
    assert set(before) == {11}, "what serves goes on while the cluster takes the pod out of the Service"
    assert pod["terminationGracePeriodSeconds"] > 11 + 100.5 + 7


def test_a_sidecar_starts_before_the_model_and_ends_after_it() -> None:
    pod = pod_of(template(SIDECAR))
    (sidecar,) = pod["initContainers"]
    assert sidecar["restartPolicy"] == "Always" and "lifecycle" not in sidecar
    assert [each["name"] for each in pod["containers"]] == ["model-v1", "model-v2"]


def test_only_what_a_running_gateway_cannot_take_up_starts_a_pod_anew() -> None:
    def pod(config: dict[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = by_kind(template(values={"config": config}), "Deployment")["spec"]["template"]
        return found

    before = pod({})
    assert pod({"limits": {"keepalive_s": 7}}) == before
    assert pod({"workers": 2}) != before
    assert pod({"admin": {"connections_max": 100}}) != before


def test_a_token_that_the_chart_makes_is_long_and_another_each_time() -> None:
    made = {by_kind(template(), "Secret", "-admin")["data"]["token"] for _ in range(2)}
    assert len(made) == 2 and all(len(token) >= 16 for token in made)
    own = template(values={"admin": {"existingSecret": "mine", "secretKey": "gateway"}})
    assert not [each for each in own if each["kind"] == "Secret"]
    container = gateway_container(pod_of(own))
    assert container["env"][0]["valueFrom"]["secretKeyRef"] == {"name": "mine", "key": "gateway"}
