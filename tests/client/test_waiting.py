"""Waiting for a rollout, as steps without sockets: what is asked, what is waited out, and what ends it."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import pytest

from gateway.api_types import ENDED, RolloutBody
from gateway.client.calls import Call
from gateway.client.errors import ApiError, GatewayFailedError, RefusedError, UnreachableError, WaitTimeoutError
from gateway.client.waiting import waiting
from gateway.core.rollout.types import Phase

SEEN = RolloutBody(
    id="digits-1",
    route="digits",
    stable="v1",
    canary="v2",
    phase="PROGRESSING",
    step=1,
    steps=2,
    canary_percent=5.0,
    reason="started",
    causes=(),
    by="ada",
    started_at="",
    updated_at="",
    plan={"steps": [{"percent": 5.0}, {"percent": 50.0}]},
    canary_requests=0,
    analysis=None,
    revision=1,
)
PROMOTED = dataclasses.replace(SEEN, phase="PROMOTED", revision=3)
AWAY = UnreachableError("cannot reach the gateway")


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def run(answers: list[Any], rollout: Any = SEEN, timeout_s: float | None = None) -> tuple[Any, list[Any], list[int]]:
    """The result, what was asked for (paths, and pauses in seconds), and the revisions that were told."""
    clock, asked, told = Clock(), list[Any](), list[int]()
    steps = waiting(rollout, timeout_s, lambda view: told.append(view.revision), clock, away_s_max=30.0)
    following, answer = iter(answers), None
    while True:
        try:
            step = steps.send(answer)
        except StopIteration as done:
            return done.value, asked, told
        if isinstance(step, Call):
            asked.append(step.path)
            answer = next(following)
            clock.now_s += step.more_s if answer is None else 0.0
        else:
            asked.append(step)
            clock.now_s += step
            answer = None


def test_ended_phases_are_the_machines() -> None:
    assert {phase.value for phase in Phase if phase.terminal} == ENDED


def test_each_decision_is_told_once() -> None:
    second = dataclasses.replace(SEEN, revision=2)
    found, asked, told = run([None, second, second, PROMOTED])
    assert found is PROMOTED
    assert (asked, told) == (["/rollouts/digits-1"] * 4, [1, 2, 3])


def test_a_restart_is_waited_out() -> None:
    found, asked, told = run([AWAY, GatewayFailedError("502", 502), AWAY, PROMOTED])
    assert found is PROMOTED and told == [1, 3]
    pauses = [step for step in asked if isinstance(step, float)]
    assert len(pauses) == 3 and pauses == sorted(pauses)


def test_a_gateway_that_stays_away_is_an_error_in_the_end() -> None:
    with pytest.raises(UnreachableError):
        run(list(itertools.repeat(AWAY, 1000)))


@pytest.mark.parametrize("refusal", [RefusedError("no", 409), ApiError("no")])
def test_another_refusal_ends_it_at_once(refusal: ApiError) -> None:
    with pytest.raises(type(refusal)):
        run([refusal])


def test_a_timeout_leaves_the_rollout_and_shows_it() -> None:
    with pytest.raises(WaitTimeoutError, match="has not ended within 90 s: PROGRESSING at 5 %: started") as caught:
        run([None, None, None], timeout_s=90.0)
    assert caught.value.rollout is SEEN


def test_an_id_is_looked_up_first() -> None:
    found, asked, told = run([SEEN, PROMOTED], "digits-1")
    assert (found, told) == (PROMOTED, [1, 3])
    assert asked == ["/rollouts/digits-1"] * 2


def test_what_has_ended_is_not_asked_for() -> None:
    assert run([], PROMOTED) == (PROMOTED, [], [3])
