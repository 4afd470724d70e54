"""Where the canary's failures came from, and what they cost, is said in findings and in the reason for a rollback."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.control.decide.failure_places import Endpoints, Tally, cost, places
from gateway.core.rollout import Phase
from tests.support.control import Plane, text

A, B, C = "http://10.0.0.7:8080", "http://10.0.0.8:8080", "http://10.0.0.9:8080"
NOTHING = Tally({}, {}, 0, {})
THREE = Endpoints(3, 3)


def failing(**canary: int) -> Tally:
    urls = {"a": A, "b": B, "c": C}
    return NOTHING._replace(canary={urls[name]: {"errors": n, "overload": 1} for name, n in canary.items()})


@pytest.mark.parametrize(
    ("canary", "said"),
    [
        ({"a": 24, "b": 1}, f"; the canary's: 24 of 25 failures at {A}, one of 3 endpoints"),
        ({"a": 9, "b": 8, "c": 8}, "; the canary's: 25 failures at 3 of 3 endpoints"),
        ({"a": 3}, "; the canary's: 3 failures at 1 of 3 endpoints"),
        ({"a": 0}, ""),
        ({}, ""),
    ],
)
def test_one_endpoint_is_named_where_chance_would_not_have_chosen_it(canary: dict[str, int], said: str) -> None:
    assert places("errors", NOTHING, failing(**canary), THREE) == said


def test_what_was_before_the_rollout_and_other_classes_do_not_count() -> None:
    before, now = failing(a=1000), failing(a=1000, b=20)
    assert places("errors", before, now, THREE) == f"; the canary's: 20 of 20 failures at {B}, one of 3 endpoints"
    assert places("overload", failing(b=0), now, THREE) == "; the canary's: 1 failure at 1 of 3 endpoints"
    assert places("latency", before, now, THREE) == places("errors", before, now, Endpoints(3, 1)) == ""


def test_an_endpoint_of_stable_is_named_where_it_stands_out() -> None:
    even = NOTHING._replace(stable={url: {"errors": 7} for url in (A, B, C)})
    assert places("errors", NOTHING, even, THREE) == ""
    one = NOTHING._replace(stable={A: {"errors": 7}})
    assert places("errors", NOTHING, one, THREE) == f"; stable's: 7 of 7 failures at {A}, one of 3 endpoints"


def test_the_cost_is_of_users_and_of_stable() -> None:
    before = Tally({}, {}, 10, {"budget": 3})
    assert cost(before, before, 1000) == ""
    after = Tally({}, {}, 141, {"budget": 5, "body_not_kept": 1})
    assert cost(before, after, 1000) == (
        "; stable answered 131 of the canary's failures in its place (13 % more requests for it)"
        "; 3 failures reached clients (1 body not kept, 2 budget)"
    )
    assert cost(before, before._replace(refused={"budget": 4}), 0) == "; 1 failure reached clients (1 budget)"


@pytest.mark.anyio
async def test_a_rollback_says_which_endpoint_failed_and_what_it_cost(tmp_path: Path) -> None:
    configuration = text().replace(
        "v2:\n    endpoints:\n    - http://127.0.0.1:9", f"v2:\n    endpoints:\n    - {A}\n    - {B}"
    )
    assert B in configuration
    async with Plane(tmp_path, configuration, workers=1) as plane:
        (worker,) = plane.workers
        await plane.controller.commands.start("r", "alice")
        worker.tallies["r"].variants[1].failed_at(A, "errors")  # before the first look: not the rollout's
        await plane.serve(50, 5)
        plane.tick()
        for _ in range(10):
            if plane.state().phase is not Phase.PROGRESSING:
                break
            for _ in range(15):
                worker.tallies["r"].variants[1].failed_at(B, "errors")
            worker.tallies["r"].totals[1].rescued += 15
            await plane.serve(80, 20, 15)
            plane.tick(0.5)
        assert plane.state().phase is Phase.ROLLED_BACK
        reason = plane.state().reason
        assert f"failures at {B}, one of 2 endpoints; stable answered " in reason
        assert A not in reason and "more requests for it)" in reason
        analysis = plane.analysis()
        assert analysis is not None and reason.endswith(analysis.reason)
        (errors,) = [one for one in analysis.findings if one.metric == "errors"]
        assert f"at {B}, one of 2 endpoints" in errors.reason and "stable answered" in errors.reason
