"""Combinations that are allowed and cannot work: `gateway check` warns of them, and of nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from gateway.config.build import routing_table
from gateway.config.command import check
from gateway.config.schema import GatewayConfig
from gateway.config.warnings import warnings

# what the route says -> the keys that are warned of
CASES: list[tuple[dict[str, Any], list[str]]] = [
    ({}, []),
    ({"timeouts": {"profile": "llm"}}, ["plan.steps[0].min_time_s"]),
    ({"timeouts": {"profile": "llm"}, "plan": {"steps": [{"percent": 5, "min_time_s": 120}]}}, []),
    ({"plan": {"steps": [{"percent": 5}, {"percent": 9, "min_time_s": 59}]}}, ["plan.steps[1].min_time_s"]),
    ({"timeouts": {"idle_s": 5}, "plan": {"steps": [{"percent": 5, "min_time_s": 15}]}}, []),
    ({"canary": None, "plan": {"steps": [{"percent": 5, "min_time_s": 1}]}}, []),
    ({"timeouts": {"first_byte_s": 30, "total_s": 30}}, ["timeouts.first_byte_s"]),
    ({"timeouts": {"first_byte_s": 29, "total_s": 30}}, []),
    ({"timeouts": {"connect_s": 2, "first_byte_s": 1, "total_s": 2}}, ["timeouts.connect_s"]),
    ({"timeouts": {"try_s": 400}}, ["timeouts.try_s"]),
    ({"timeouts": {"try_s": 10}}, ["timeouts.first_byte_s"]),
    ({"timeouts": {"try_s": 20}}, []),
    ({"rescue": {"body_bytes_max": 0, "file_bytes_max": 0}}, ["rescue.body_bytes_max"]),
    ({"rescue": {"body_bytes_max": 0, "file_bytes_max": 0, "replayable": False}}, []),
    ({"rescue": {"budget_percent": 0, "budget_burst": 0}}, ["rescue.budget_percent"]),
    ({"rescue": {"budget_percent": 0}}, []),
]


def tree(**route: Any) -> dict[str, Any]:
    backends = {"v1": {"endpoints": ["http://127.0.0.1:1"]}, "v2": {"endpoints": ["http://127.0.0.1:2"]}}
    whole = {"name": "r", "match": {"path_prefix": "/"}, "stable": "v1", "canary": "v2"} | route
    return {"backends": backends, "routes": [whole]}


@pytest.mark.parametrize(("route", "keys"), CASES)
def test_what_cannot_work_is_warned_of(route: dict[str, Any], keys: list[str]) -> None:
    found = warnings(GatewayConfig.model_validate(tree(**route)))
    assert [line.partition(": ")[0] for line in found] == [f"routes[0].{key}" for key in keys]
    assert all("; " in line for line in found), "each says what to do"


def test_check_prints_warnings_beside_its_summary_and_exits_with_0(tmp_path: Path) -> None:
    path = tmp_path / "gateway.yaml"
    path.write_text(yaml.safe_dump(tree(timeouts={"try_s": 400})))
    done = CliRunner().invoke(check, [str(path)])
    assert done.exit_code == 0
    assert done.stdout.startswith("OK: ")
    assert done.stderr.startswith("warning: routes[0].timeouts.try_s: 400 is more than total_s (300)")
    done = CliRunner().invoke(check, ["--json", str(path)])
    assert (done.exit_code, done.stdout) == (0, "[]\n")


def test_a_profile_gives_defaults_and_what_is_given_wins() -> None:
    def timeouts(**given: Any) -> Any:
        return routing_table(GatewayConfig.model_validate(tree(timeouts=given))).routes[0].timeouts

    llm = timeouts(profile="llm", idle_s=30)
    assert (llm.connect_s, llm.first_byte_s, llm.idle_s, llm.total_s, llm.try_s) == (2, 120, 30, 1800, None)
    assert timeouts(profile="standard") == timeouts()
