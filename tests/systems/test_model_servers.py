"""Good and bad canaries behind real model servers, judged by a configuration of routes, backends and a plan alone.

The bad ones are the commonest broken deployments: a model under another name (404), labels that have collapsed into
one, streams that break off with an error after a 200. Where starting a server takes long, the good canary is a second
backend at stable's address.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.model_servers import bentoml, mlflow, mlflow_model, mlserver, tokens, triton
from tests.support.systems import Case, Judged, judged

pytestmark = pytest.mark.anyio
# A good canary of a server that is slow to answer passes with fewer requests.
SOON = {"errors": {"margin_delta": 0.08}, "model_errors": {"margin_delta": 0.08}}


def promoted(found: Judged) -> None:
    """A healthy canary: promoted, and no user has seen a failure."""
    assert (found.phase, found.failures) == ("PROMOTED", []), found


def rolled_back(found: Judged, *causes: str) -> None:
    """A bad one: rolled back, by one of these metrics."""
    assert found.phase == "ROLLED_BACK" and set(found.causes) & set(causes), found


async def test_mlserver_with_a_wrong_model_name_is_rolled_back(tmp_path: Path) -> None:
    def body(number: int) -> dict[str, Any]:
        data = [float(number % 7), float(number % 3)]
        return {"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": data}]}

    async with (
        mlserver(tmp_path / "a", "digits") as stable,
        mlserver(tmp_path / "b", "digits") as good,
        mlserver(tmp_path / "c", "digits-v2") as bad,
    ):
        path, probe = "/v2/models/digits/infer", "/v2/health/ready"
        cases = {name: Case(stable, url, path, body, probe) for name, url in (("good", good), ("bad", bad))}
        found = await judged(tmp_path, cases)
    promoted(found["good"])
    rolled_back(found["bad"], "not_found")


async def test_mlflow_scoring_is_judged_in_all_its_forms(tmp_path: Path) -> None:
    model = await mlflow_model(tmp_path / "make")

    def bodies(form: int) -> Callable[[int], dict[str, Any]]:
        return lambda number: {"inputs": [[form, number % 4]]}

    async with (
        mlflow(tmp_path / "a", model, {}) as stable,
        mlflow(tmp_path / "b", model, {}) as good,
        mlflow(tmp_path / "c", model, {"COLLAPSED": "1"}) as bad,
    ):
        cases = {
            f"{form}-{name}": Case(stable, url, "/invocations", bodies(number), "/ping")
            for number, form in enumerate(("list", "dict", "records"))
            for name, url in (("good", good), ("bad", bad))
        }
        found = await judged(tmp_path, cases)
    for form in ("list", "dict", "records"):
        promoted(found[f"{form}-good"])
        assert found[f"{form}-bad"].phase == "ROLLED_BACK", found[f"{form}-bad"]


async def test_tritons_classification_strings_are_read(tmp_path: Path) -> None:
    """`0.972000:1:fox`: nearly all of them differ, and it is the label that is compared."""

    def body(number: int) -> dict[str, Any]:
        data = [float(number % 4), (number % 97) / 97]
        wanted = {"name": "probabilities", "parameters": {"classification": 1}}
        return {"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": data}], "outputs": [wanted]}

    async with (
        triton(tmp_path / "a", {}) as stable,
        triton(tmp_path / "b", {}) as good,
        triton(tmp_path / "c", {"COLLAPSED": "1"}) as bad,
    ):
        path, probe = "/v2/models/animals/infer", "/v2/health/ready"
        cases = {name: Case(stable, url, path, body, probe) for name, url in (("good", good), ("bad", bad))}
        found = await judged(tmp_path, cases)
    promoted(found["good"])
    assert found["bad"].phase == "ROLLED_BACK", found["bad"]


async def test_streams_that_fail_in_the_middle_are_rolled_back(tmp_path: Path) -> None:
    def body(number: int) -> dict[str, Any]:
        return {"model": "m", "stream": True, "messages": [{"role": "user", "content": f"hello {number}"}]}

    async with (
        tokens(tmp_path / "a", 0.0) as stable,
        tokens(tmp_path / "b", 0.0) as good,
        tokens(tmp_path / "c", 0.3) as bad,
    ):
        path, probe = "/v1/chat/completions", "/health"
        cases = {name: Case(stable, url, path, body, probe) for name, url in (("good", good), ("bad", bad))}
        found = await judged(tmp_path, cases)
    promoted(found["good"])
    rolled_back(found["bad"], "model_errors")


async def test_bentoml_is_judged_by_the_label_of_its_json(tmp_path: Path) -> None:
    def body(number: int) -> dict[str, Any]:
        return {"features": [number % 4, 1.0]}

    async with contextlib.AsyncExitStack() as stack:
        starting = (bentoml(tmp_path / "a"), bentoml(tmp_path / "b", {"COLLAPSED": "1"}))
        good, bad = await asyncio.gather(*map(stack.enter_async_context, starting))
        cases = {
            "good": Case(good, good, "/classify", body, "/readyz", analysis=SOON),
            "bad": Case(good, bad, "/classify", body, "/readyz", analysis=SOON),
        }
        found = await judged(tmp_path, cases)
    promoted(found["good"])
    assert found["bad"].phase == "ROLLED_BACK", found["bad"]
    assert found["good"].protocol.startswith("json (by the body)"), found["good"]
