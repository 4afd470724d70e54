"""The client needs httpx and nothing else; notebooks see text as text."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys

import pytest

from gateway.api_types import AnalysisBody, FindingBody, RolloutBody
from gateway.client.decode import ShapeError, converted
from gateway.core.model_version import ModelVersion
from gateway.core.verdicts import Verdict

BLOCKED = """
import sys
for name in ("msgspec", "numpy", "scipy", "pydantic", "starlette", "uvicorn", "uvloop", "yaml", "click", "rich",
             "httptools", "onnxruntime", "prometheus_client"):
    sys.modules[name] = None
import gateway.client
client = gateway.client.Client("http://127.0.0.1:1", timeout_s=1)
try:
    client.routes()
except gateway.client.UnreachableError as error:
    print(type(error).__name__)
"""
FINDING = FindingBody("errors", Verdict.PASS, "fine", True, None, 4.0, 1, 100, 0, 50)
ROLLOUT = RolloutBody(
    id="digits-1",
    route="digits",
    stable="v1",
    canary="v2",
    phase="PROGRESSING",
    step=2,
    steps=2,
    canary_percent=50.0,
    reason="<script>alert(1)</script>",
    causes=("errors",),
    by="ada",
    started_at="a",
    updated_at="b",
    plan={"steps": [{"percent": 5.0}, {"percent": 50.0}]},
    canary_requests=50,
    analysis=AnalysisBody(Verdict.UNDECIDED, "not yet", (), (FINDING,), None, 6.0, 3.0, 100, 50),
    model=ModelVersion("digits", "7", "models:/digits/7", "sha256:" + "0" * 64),
)


def test_httpx_is_enough() -> None:
    done = subprocess.run([sys.executable, "-c", BLOCKED], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "UnreachableError"


def test_values_survive_json_and_newer_gateways() -> None:
    tree = json.loads(json.dumps(dataclasses.asdict(ROLLOUT)))
    assert converted(RolloutBody, tree) == ROLLOUT
    assert converted(RolloutBody, tree | {"later": 1}) == ROLLOUT


@pytest.mark.parametrize("change", [{"id": 1}, {"causes": "errors"}, {"analysis": []}, {"step": "1"}])
def test_what_is_no_rollout_is_not_taken_for_one(change: dict[str, object]) -> None:
    tree = json.loads(json.dumps(dataclasses.asdict(ROLLOUT))) | change
    with pytest.raises(ShapeError):
        converted(RolloutBody, tree)


def test_a_missing_field_is_named() -> None:
    with pytest.raises(ShapeError, match="metric"):
        converted(FindingBody, {"verdict": "PASS"})


def test_a_notebook_shows_steps_and_evidence_and_runs_nothing() -> None:
    html = ROLLOUT._repr_html_()
    assert "<script>" not in html and "&lt;script&gt;" in html
    assert "digits 7 (sha256:000000000000)" in html
    assert "1 of 100 (1 %)" in html and "50&nbsp;%" in html
