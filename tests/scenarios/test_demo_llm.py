"""`gateway demo --llm`: each of its scenarios to the verdict that it promises, and what its users see."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from gateway.demo.scenarios import ERROR_EVENT, LLM_SCENARIOS, as_expected
from tests.scenarios.test_demo import SEED, Run, run


@pytest.fixture(scope="module")
def streams(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Future[Run]]]:
    """All of them, two at a time."""
    with ThreadPoolExecutor(2) as pool:
        yield {
            name: pool.submit(
                run, tmp_path_factory.mktemp("t"), "--llm", "--scenario", name, "--seed", f"{SEED}", "--json"
            )
            for name in LLM_SCENARIOS
        }
        pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize("name", LLM_SCENARIOS)
def test_a_stream_scenario_ends_as_promised(name: str, streams: dict[str, Future[Run]]) -> None:
    scenario, done = LLM_SCENARIOS[name], streams[name].result()
    reported = f"gateway demo --llm --scenario {name} --seed {SEED}\n{done.stderr}{done.stdout[-3000:]}"
    assert done.status == 0, reported
    summary: dict[str, Any] = done.events[-1]
    assert as_expected(scenario, summary["phase"], tuple(summary["metrics"])), reported
    assert summary["as_expected"] and summary["failures_preventable"] == 0, reported
    assert set(summary["failures"]) <= scenario.begun, reported
    assert summary["requests_total"] > summary["canary_requests"] > 0
    assert done.left == [] and done.files == []


def test_what_fails_before_its_first_token_is_answered_by_stable(streams: dict[str, Future[Run]]) -> None:
    summary = streams["mid-stream-errors"].result().events[-1]
    assert summary["rescued"] > 0 and summary["accuracy"]["rescued"] == 1.0
    assert set(summary["failures"]) <= {ERROR_EVENT}, (
        "half of the errors came after the first token: nothing hides those"
    )


def test_a_scenario_of_the_other_kind_is_refused(tmp_path: Any) -> None:
    done = run(tmp_path, "--llm", "--scenario", "crash")
    assert done.status == 2 and "with --llm there are good, slow-tokens, mid-stream-errors, empty" in done.stderr
    done = run(tmp_path, "--scenario", "empty")
    assert done.status == 2 and "'empty' is no scenario here: without --llm there are good, errors" in done.stderr
