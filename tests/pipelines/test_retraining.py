"""Continuous retraining as the example shows it: MLflow, Great Expectations, scikit-learn, the gateway and users."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.support.pipelines import ROOT, environment, gateway_path, ran

pytestmark = pytest.mark.anyio


async def test_good_retrains_become_champion_and_a_poisoned_one_does_not(tmp_path: Path) -> None:
    command = [str(environment("retraining") / "bin" / "python"), str(ROOT / "examples/retraining/retraining.py")]
    environ = gateway_path() | {"MLFLOW_DISABLE_TELEMETRY": "true", "GIT_PYTHON_REFRESH": "quiet"}
    printed = await ran([*command, "--gateway-python", sys.executable, "--directory", str(tmp_path)], tmp_path, environ)
    # The program has compared each end with the one that it should come to.
    assert "champion is version 4" in printed, printed
