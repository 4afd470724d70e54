"""In front of InferenceServices: KServe's own server in both protocols, behind an ingress that routes by Host."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest

from tests.support.gateway import QUICK, WARM, RunningGateway
from tests.support.model_servers import kserve
from tests.support.systems import Case, judged

pytestmark = pytest.mark.anyio
V1, V2 = "/v1/models/animals", "/v2/models/animals"


def ingress(directory: Path, services: dict[str, str]) -> RunningGateway:
    """What stands in a cluster before all InferenceServices: one address, and a Host for each."""
    routes = [
        {"name": name, "match": {"path_prefix": "/", "hosts": [f"{name}.models.example"]}, "stable": name}
        for name in services
    ]
    backends = {name: {"endpoints": [url]} for name, url in services.items()}
    (directory / "ingress").mkdir()
    listeners = {"listen": "127.0.0.1:0", "admin": {"listen": "127.0.0.1:0"}}
    return RunningGateway(directory / "ingress", listeners | {"backends": backends, "routes": routes})


def v1(number: int) -> dict[str, Any]:
    return {"instances": [[number % 4, number % 97]]}


def v2(number: int) -> dict[str, Any]:
    row = [float(number % 4), float(number % 97)]
    return {"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": row}]}


async def test_two_inference_services_are_told_apart_by_host_and_judged_in_both_protocols(tmp_path: Path) -> None:
    collapsed: dict[str, dict[str, str]] = {"stable": {}, "good": {}, "bad": {"COLLAPSED": "1"}}
    async with contextlib.AsyncExitStack() as held:
        services = {
            name: await held.enter_async_context(kserve(tmp_path / name, environ))
            for name, environ in collapsed.items()
        }
        front = await held.enter_async_context(ingress(tmp_path, services))
        cases = {
            f"{protocol}-{name}": Case(
                *(front.url, front.url, path, bodies, probe),
                hosts=("stable.models.example", f"{name}.models.example"),
                analysis={"latency": {"mode": "advise"}, **QUICK, **WARM},
            )
            for protocol, name, path, bodies, probe in (
                ("v1", "bad", f"{V1}:predict", v1, V1),
                ("v2", "good", f"{V2}/infer", v2, f"{V2}/ready"),
            )
        }
        found = await judged(tmp_path, cases)
    assert (found["v2-good"].phase, found["v2-good"].failures) == ("PROMOTED", []), found
    assert found["v1-bad"].phase == "ROLLED_BACK", found
