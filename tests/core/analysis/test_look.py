"""A look is a judgement whose sentences are not made yet; what was made cheaper says what the long way says."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from gateway.core.analysis import AnalysisSpec, Evidence, GuardrailSpec, Look, Mode, RateSpec, Verdict, judge, look
from gateway.core.analysis.betting.eprocess import NOT_WORSE, TrialBatch, log_gain, log_gains_not_worse
from gateway.core.analysis.evidence.trials import PooledTrials
from gateway.core.analysis.findings import MetricFinding
from gateway.core.analysis.metrics import rates
from gateway.core.analysis.show import sentences
from gateway.core.analysis.types import Analysis


def test_a_look_is_the_judgement_and_explains_it_when_asked(
    make_world: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    reason = sentences.reason

    def counted(numbers: MetricFinding) -> str:
        said.append(numbers.metric)
        return reason(numbers)

    monkeypatch.setattr(sentences, "reason", counted)
    spec = AnalysisSpec(guardrails=(GuardrailSpec("errors", 0.5),))
    for errors in ((0.0, 0.0), (0.01, 0.4)):
        world = make_world(7, weight_bp=2_000, spec=spec)
        world.errors = list(errors)
        for _ in range(30):
            for _ in range(20):
                world.request()
            evidence = Evidence(world.at_s + 0.1, tuple(world.epochs))
            said.clear()
            after, seen = look(spec, world.state, evidence)
            assert len(said) <= 1, "one sentence at most is said at a look: the verdict's"
            analysis = world.judge()
            assert (after, seen.analysis) == (world.state, analysis)
            assert seen.analysis is seen.analysis
            whole = (analysis.verdict, analysis.reason, analysis.causes, analysis.canary_requests)
            assert (seen.verdict, seen.reason, seen.causes, seen.canary_requests) == whole


def test_a_look_at_what_cannot_be_true_is_an_error_like_a_judgement(make_world: Callable[..., Any]) -> None:
    world = make_world(7)
    world.tick()
    world.epochs[0].stable.requests = -1
    evidence = Evidence(world.at_s + 0.1, tuple(world.epochs))
    state, seen = look(world.spec, world.state, evidence)
    assert state is world.state
    assert seen.analysis == judge(world.spec, world.state, evidence)[1]
    assert seen.verdict == "ERROR" and seen.reason == seen.analysis.reason


def test_twins_stay_twins_whatever_lies_between_them() -> None:
    rng = random.Random(5)
    off = RateSpec(mode=Mode.OFF)
    for middle in (RateSpec(), off, RateSpec(margin_ratio=3.0)):
        state, specs = rates.fresh(3), (RateSpec(), middle, RateSpec())
        tests = [rates.PairSpec(spec, event) for event, spec in enumerate(specs)]
        for epoch in range(1, 40):
            same, own = rng.randrange(3), rng.randrange(3)
            part = PooledTrials(50, 10, (same, own, same), (own, same, own))
            before = state.metrics
            state = rates.advance(state, tests, {epoch: part}, [epoch], (9.0,) * 3, 0.1 * epoch, 0.0)
            for metric, test, old in zip(state.metrics, tests, before, strict=True):
                counted = msgspec.structs.replace(
                    old,
                    stable_events=old.stable_events + part.stable_events[test.event],
                    canary_events=old.canary_events + part.canary_events[test.event],
                )
                batch = TrialBatch(part.stable_events[test.event], 50, part.canary_events[test.event], 10)
                expected = counted if test.spec.mode is Mode.OFF else rates.bet(counted, test.spec, batch)
                assert metric == expected, epoch
        assert state.metrics[0] == state.metrics[2]


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("stable", [1e-7, 1e-3, 0.2, 0.999])
def test_the_common_null_written_out_is_the_general_one_to_the_last_bit(stable: float, mirrored: bool) -> None:
    rng = random.Random(stable)
    for _ in range(50):
        n_s, n_c = rng.randrange(1, 300), rng.randrange(1, 40)
        batch = TrialBatch(rng.randrange(n_s + 1), n_s, rng.randrange(n_c + 1), n_c)
        guesses = rates.bad_guesses(stable, RateSpec(), mirrored)
        general = [log_gain(guess, NOT_WORSE, batch) for guess in guesses]
        assert log_gains_not_worse(guesses, batch) == general, batch


def test_what_cannot_be_said_undoes_no_decision() -> None:
    def stumbles() -> Analysis:
        raise ZeroDivisionError("no words")

    seen = Look(Verdict.FAIL, "errors are worse", ("errors",), 12, stumbles).analysis
    assert (seen.verdict, seen.causes, seen.canary_requests) == (Verdict.FAIL, ("errors",), 12)
    assert seen.reason == "errors are worse; the findings cannot be shown: ZeroDivisionError: no words"
