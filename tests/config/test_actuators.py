"""What an actuator needs of its route: all that is to be judged there must be something that Prometheus shows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gateway.config.build import routing_table
from gateway.config.errors import ConfigError
from gateway.config.load import load
from gateway.config.yaml_text import to_yaml

PROMETHEUS = {"url": "http://prometheus", "requests": 'requests{revision="$revision"}'}
LATENCY = {"latency": 'latency_bucket{revision="$revision"}'}


def made(prometheus: dict[str, Any], actuators: int = 1, **route: Any) -> bytes:
    backends = {name: {"endpoints": ["http://127.0.0.1:1"]} for name in ("a", "b")}
    routes = [{"name": name, "match": {"path_prefix": f"/{name}"}, "stable": "a"} for name in ("r", "other")]
    routes[0] |= {"canary": "b"} | route
    kserve = {"namespace": "ml", "name": "digits"}
    one = {"route": "r", "kserve": kserve, "prometheus": prometheus}
    return to_yaml({"backends": backends, "routes": routes, "actuators": [one] * actuators}).encode()


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (made(PROMETHEUS), "its route's latency decides, and would never be known"),
        (made(PROMETHEUS | LATENCY, sticky={"header": "x-user"}), "its route is sticky, and counters show no sessions"),
        (
            made(PROMETHEUS | LATENCY, plan={"mirror": {"percent": 100}, "steps": [{"percent": 5}]}),
            "its route's plan mirrors requests, and none of them comes here; remove `plan.mirror` there",
        ),
        (
            made(PROMETHEUS | LATENCY, mirror={"percent": 5}),
            "its route mirrors requests, and none of them comes here; remove `mirror.percent` there",
        ),
        (made(PROMETHEUS | LATENCY, 2), "a second actuator for route 'r'"),
    ],
)
def test_what_could_never_be_known_is_refused(text: bytes, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        load(Path("gateway.yaml"), text=text, environ={})


@pytest.mark.parametrize(
    "text", [made(PROMETHEUS | LATENCY), made(PROMETHEUS, analysis={"latency": {"mode": "advise"}})]
)
def test_a_route_that_is_split_elsewhere_is_one_of_the_table(text: bytes) -> None:
    table = routing_table(load(Path("gateway.yaml"), text=text, environ={}))
    assert [(route.name, route.external) for route in table.routes] == [("r", True), ("other", False)]
