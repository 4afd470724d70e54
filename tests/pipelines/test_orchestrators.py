"""GitHub Actions, Luigi, Kubeflow Pipelines and Airflow run for real: a good version each, and one that fails."""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.support.pipelines import ROOT, environment, gateway_path, good_and_bad, ran

pytestmark = pytest.mark.anyio
FOREIGN = Path(__file__).parent / "foreign"
INTEGRATIONS = ROOT / "integrations"


def python(name: str) -> str:
    return str(environment(name) / "bin" / "python")


def with_module(name: str) -> dict[str, str]:
    path = gateway_path()
    return path | {"PYTHONPATH": f"{INTEGRATIONS / name}:{path['PYTHONPATH']}"}


def last_line(text: str) -> Any:
    return json.loads(text.strip().splitlines()[-1])


async def test_luigi(tmp_path: Path) -> None:
    async with good_and_bad(tmp_path) as pair:
        command = [python("luigi"), str(FOREIGN / "luigi_run.py"), pair.gateway.admin_url]
        good, bad = await asyncio.gather(
            ran([*command, "good", pair.good], tmp_path, with_module("luigi")),
            ran([*command, "bad", pair.bad], tmp_path, with_module("luigi")),
        )
    assert last_line(good) == ["SUCCESS", True, "SUCCESS"]
    assert last_line(bad) == ["FAILED", False, "FAILED"]


async def test_kubeflow_pipelines(tmp_path: Path) -> None:
    compiled = tmp_path / "kfp"
    shutil.copytree(INTEGRATIONS / "kfp", compiled)
    await ran([python("kfp"), "canary_rollout.py"], compiled)
    for name in ("component.yaml", "pipeline.yaml"):
        assert (compiled / name).read_text() == (INTEGRATIONS / "kfp" / name).read_text(), "compile it again"
    async with good_and_bad(tmp_path) as pair:
        command = [python("kfp"), str(FOREIGN / "kfp_run.py"), str(compiled / "component.yaml"), pair.gateway.admin_url]
        good, bad = await asyncio.gather(
            ran([*command, "good", pair.good], tmp_path, gateway_path()),
            ran([*command, "bad", pair.bad], tmp_path, gateway_path()),
        )
    assert last_line(good) == "PROMOTED"
    assert last_line(bad) is None and "is ROLLED_BACK: rolled back at" in bad


async def test_airflow(tmp_path: Path) -> None:
    environ = with_module("airflow") | {
        "AIRFLOW_HOME": str(tmp_path / "airflow"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__DAGS_FOLDER": str(FOREIGN),
    }
    await ran([str(environment("airflow") / "bin" / "airflow"), "db", "migrate"], tmp_path, environ)
    async with good_and_bad(tmp_path) as pair:
        host, _, port = pair.gateway.admin_url.rpartition("//")[2].partition(":")
        environ |= {
            "AIRFLOW_CONN_CANARY_GATEWAY": json.dumps({"conn_type": "http", "host": host, "port": int(port)}),
            "CANARIES": json.dumps({"good": pair.good, "bad": pair.bad}),
        }
        text = await ran([python("airflow"), str(FOREIGN / "airflow_dag.py")], tmp_path, environ, status=None)
    assert "{" in text, text
    good, bad, (killed, deferred) = last_line(text)
    assert good == ["success", {"rollout": "success", "sensor": "success", "again": "success"}]
    assert bad[0] == "failed" and bad[1]["rollout"] == "failed"
    assert killed[:2] == ["failed", "ROLLED_BACK"] and "the Airflow task was killed" in killed[2], killed
    assert deferred[0] == "ROLLED_BACK" and "the Airflow task was killed" in deferred[1], deferred
    assert "is ROLLED_BACK: rolled back at" in text


WORKFLOW = """\
on: {workflow_dispatch: {inputs: {url: {required: true}, route: {required: true}, endpoint: {required: true}}}}
jobs:
  release:
    runs-on: ubuntu-latest
    steps:
      - uses: actions/checkout@v4
      - id: canary
        uses: ./canary
        with:
          url: ${{ inputs.url }}
          route: ${{ inputs.route }}
          version: ${{ github.sha }}
          endpoints: ${{ inputs.endpoint }}
          python: %s
      - if: always()
        env: {PHASE: "${{ steps.canary.outputs.phase }}"}
        run: echo "phase is $PHASE"
"""


async def test_github_actions(tmp_path: Path) -> None:
    repository = tmp_path / "repository"
    shutil.copytree(INTEGRATIONS / "github", repository / "canary")
    workflow = repository / ".github" / "workflows" / "release.yml"
    workflow.parent.mkdir(parents=True)
    workflow.write_text(WORKFLOW % python("github"))
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@example.com"]
    for command in (["init", "-q", "-b", "main"], ["add", "-A"], ["commit", "-q", "-m", "release"]):
        await ran([*git, *command], repository)
    # Copied by act with the repository, were it in there.
    home = tmp_path / "home"
    home.mkdir()
    environ = gateway_path() | {"HOME": str(home)}
    act = [str(environment("github") / "bin" / "act"), "workflow_dispatch", "--pull=false"]
    act += ["-P", "ubuntu-latest=-self-hosted"]
    for key, value in gateway_path().items():
        act += ["--env", f"{key}={value}"]

    async with good_and_bad(tmp_path) as pair:

        def released(route: str, endpoint: str) -> Any:
            inputs = {"url": pair.gateway.admin_url, "route": route, "endpoint": endpoint}
            given = [part for key, value in inputs.items() for part in ("--input", f"{key}={value}")]
            return ran([*act, *given], repository, environ, status=None)

        good = await released("good", pair.good)
        bad = await released("bad", pair.bad)
    assert "phase is PROMOTED" in good and "Job succeeded" in good, good
    assert "::notice" in good or "PROMOTED at 100 %" in good
    assert "phase is ROLLED_BACK" in bad and "Job failed" in bad and "rolled back at" in bad, bad
