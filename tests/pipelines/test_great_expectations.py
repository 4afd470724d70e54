"""Real Great Expectations: a suite judges live windows in a process of its own, and a file before a rollout."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tests.support.gateway import RunningGateway
from tests.support.pipelines import Digits, digits_route, environment, gateway_path, model_server, ran

pytestmark = pytest.mark.anyio
SUITE = {
    "name": "digits",
    "expectations": [
        {
            "type": "expect_column_values_to_be_between",
            "kwargs": {"column": "request.pixels.max", "min_value": 1, "max_value": 16},
        },
        {
            "type": "expect_column_unique_value_count_to_be_between",
            "kwargs": {"column": "response.label", "min_value": 2},
        },
        {
            "type": "expect_column_mean_to_be_between",
            "kwargs": {"column": "request.pixels.mean", "max_value": 0},
            "severity": "warning",
        },
    ],
}


async def test_a_suite_judges_live_traffic_and_files(tmp_path: Path) -> None:
    suite = tmp_path / "suite.json"
    suite.write_text(json.dumps(SUITE))
    python = str(environment("retraining") / "bin" / "python")
    command = [python, "-m", "gateway.integrations.great_expectations", "--suite", str(suite)]
    # The validator sees no variables of this test: where the package is, its command says.
    validator = ["/usr/bin/env", *(f"{name}={value}" for name, value in gateway_path().items()), *command]
    analysis = digits_route()["analysis"] | {
        "predictions": None,
        "data_checks": {"validator": "suite", "window_rows": 8},
    }
    async with model_server("digits-logreg") as stable, model_server("digits-misscaled") as bad:
        made = {
            "listen": "127.0.0.1:0",
            "admin": {"listen": "127.0.0.1:0", "backend_allow": ["127.0.0.0/8"]},
            "backends": {"stable": {"endpoints": [stable]}},
            "routes": [digits_route(analysis=analysis)],
            "validators": [{"name": "suite", "command": validator}],
        }
        async with RunningGateway(tmp_path, made) as gateway, Digits(gateway.url) as digits:
            try:
                await rolled_back(gateway, bad)
            finally:
                sys.stdout.write(gateway.log.decode())  # shown when it fails
            assert digits.failures == []
    batch = tmp_path / "batch.csv"
    batch.write_text("request.pixels.max,request.pixels.mean,response.label\n99,5,1\n3,5,2\n")
    printed = await ran([*command, "--data", str(batch)], tmp_path, gateway_path(), status=1)
    assert "1 of 2 rows" in printed, printed


async def rolled_back(gateway: RunningGateway, url: str) -> None:
    """A rollout of the model behind this URL ends by what the suite says, and its results are kept."""
    body = {"version": {"endpoints": [url], "model": {"name": "digits", "version": "bad"}}}
    reply = await gateway.admin.post("/api/v1/routes/digits/rollouts", json=body)
    assert reply.status_code == 201, reply.text
    # The suite's process imports for seconds, for minutes on a busy machine.
    view = await gateway.until_phase(reply.json()["id"], "PROMOTED", "ROLLED_BACK", timeout_s=300)
    assert (view["phase"], view["causes"]) == ("ROLLED_BACK", ["data_windows"]), view["reason"]
    found = (await gateway.admin.get(f"/api/v1/rollouts/{view['id']}/data-results")).json()["results"]
    assert {(one["variant"], one["success"]) for one in found} == {("stable", True), ("canary", False)}, found
    failing = next(one for one in found if not one["success"])
    assert "unique_value_count" in failing["failures"][0], failing["failures"]
    assert failing["result"]["statistics"]["evaluated_expectations"] == 3
