"""What is not known yet holds a PASS, convicts nobody, and does not hold for ever."""

from __future__ import annotations

import pytest

from gateway.core.analysis import (
    AnalysisSpec,
    AnalysisState,
    Evidence,
    LatencySpec,
    Look,
    Mode,
    Verdict,
    fresh_state,
    look,
)
from gateway.core.analysis import bake as baked
from gateway.core.analysis.types import Finding
from gateway.core.rollout import Analysed, Phase, Plan, Rollout, steps
from gateway.core.stats import Counts, EpochCounts

SPEC = AnalysisSpec(latency=LatencySpec(mode=Mode.OFF), alpha_sample_ratio=0.0)
NAME = "missing_outcomes"


class Route:
    """Both arms of one epoch, a look each second."""

    def __init__(self, state: AnalysisState | None = None, weight_bp: int = 5000) -> None:
        self.state = state or fresh_state(SPEC)
        self.entry = EpochCounts("r", 1, weight_bp)
        self.at_s = 0.0

    def second(self, stable: tuple[int, int], canary: tuple[int, int], errors: int = 0, lasted_s: float = 0.0) -> Look:
        """Another second in which so many were assigned, and so many had an outcome."""
        self.at_s += 1.0
        for counts, (assigned, known) in ((self.entry.stable, stable), (self.entry.canary, canary)):
            counts.assigned += assigned
            counts.requests += known
        self.entry.canary.lasted_us += int(1e6 * lasted_s * canary[1])
        self.entry.canary.enter("errors", errors)
        self.state, seen = look(SPEC, self.state, Evidence(self.at_s, (self.entry,)))
        return seen


def finding(seen: Look) -> Finding:
    return next(one for one in seen.analysis.findings if one.metric == NAME)


def test_a_canary_that_hangs_is_not_promoted_and_not_convicted() -> None:
    route = Route()
    for _ in range(120):
        seen = route.second((100, 100), (100, 95))
        assert seen.verdict is Verdict.UNDECIDED, seen.reason
    assert NAME in seen.reason and "600 of 12,000 canary requests have no outcome yet" in seen.reason
    assert finding(seen).canary_events == 600 and finding(seen).log_e_bad == 0.0


def test_equal_arms_pass_however_much_is_open() -> None:
    route = Route()
    # Answers take 20 s in both arms.
    for second in range(60):
        known = 100 if second >= 20 else 0
        seen = route.second((100, known), (100, known))
    assert seen.verdict is Verdict.PASS, seen.reason
    assert NAME in [one.metric for one in seen.analysis.findings if one.verdict is Verdict.PASS]


def test_longer_answers_that_end_are_explained() -> None:
    route = Route()
    for second in range(90):
        seen = route.second((100, 100), (100, 100 if second >= 10 else 0), lasted_s=10.0)
    assert finding(seen).canary_events == 1000
    assert seen.verdict is Verdict.PASS, seen.reason


def test_what_never_gets_an_outcome_holds_for_a_while_and_is_outweighed() -> None:
    """A client opened 20 streams on the canary and leaves them open."""
    route, passed_s = Route(), 0.0
    for second in range(900):
        lost = 20 if second < 2 else 0
        seen = route.second((20, 20), (20, 20 - lost))
        if seen.verdict is Verdict.PASS:
            passed_s = route.at_s
            break
    assert passed_s > 60.0, "it holds at first"
    assert finding(seen).canary_events == 40


def test_a_canary_that_proved_itself_and_now_hangs_is_held() -> None:
    route = Route()
    for _ in range(600):
        seen = route.second((100, 100), (100, 100))
    assert seen.verdict is Verdict.PASS
    for _ in range(10):
        seen = route.second((100, 100), (100, 90))
    assert seen.verdict is Verdict.UNDECIDED and "if they fail" in seen.reason, seen.reason
    for _ in range(60):
        seen = route.second((100, 100), (100, 100))
    assert seen.verdict is Verdict.PASS, "what was lost a minute ago is outweighed by what was proven"


def test_the_end_of_a_bake_waits() -> None:
    route = Route(baked(fresh_state(AnalysisSpec(latency=SPEC.latency, alpha_sample_ratio=0.0)), 60.0), 9900)
    for _ in range(60):
        seen = route.second((1, 1), (99, 90))
    state = Rollout(phase=Phase.BAKING, plan=Plan((), bake_s=30.0))
    event = Analysed(route.at_s, seen.verdict, seen.reason, (), seen.canary_requests, unknown=seen.unknown)
    assert "have no outcome yet" in steps.waiting_for(state, event)
    for _ in range(70):
        seen = route.second((1, 1), (99, 99))
    event = Analysed(route.at_s, seen.verdict, seen.reason, (), seen.canary_requests, unknown=seen.unknown)
    assert steps.waiting_for(state, event) == ""


def test_evidence_that_does_not_say_what_was_assigned_is_held_by_nothing() -> None:
    state = fresh_state(SPEC)
    for second in range(1, 60):
        entry = EpochCounts("r", 1, 5000, Counts(100 * second), Counts(100 * second))
        state, seen = look(SPEC, state, Evidence(float(second), (entry,)))
    assert seen.verdict is Verdict.PASS
    assert NAME not in [one.metric for one in seen.analysis.findings]


@pytest.mark.parametrize("late", [False, True], ids=["in time", "after the weight rose"])
def test_a_failure_that_comes_late_keeps_its_worth(late: bool) -> None:
    """40 failures of the canary, in their epoch's time or when another is in force: they convict alike."""
    state, first, second = fresh_state(SPEC), EpochCounts("r", 1, 500), EpochCounts("r", 2, 500)
    at_s = 0.0

    def one(entry: EpochCounts, errors: int, known: int = 100) -> Look:
        nonlocal state, at_s
        at_s += 1.0
        entry.stable.requests += 19 * known
        entry.canary.requests += known + errors
        entry.canary.enter("errors", errors)
        epochs = (first,) if entry is first and not late else (first, second)
        state, seen = look(SPEC, state, Evidence(at_s, epochs))
        return seen

    for _ in range(30):
        one(first, 0)
    if late:
        for _ in range(5):
            one(second, 0)
    evidence = []
    for _ in range(40):
        if late:
            # Nothing but failures comes of the first epoch.
            one(second, 0)
            seen = one(first, 1, 0)
        else:
            one(first, 0)
            seen = one(first, 1, 0)
        evidence.append(seen.analysis.log_e_bad)
        if seen.verdict is Verdict.FAIL:
            break
    assert seen.verdict is Verdict.FAIL, evidence
    assert len(evidence) <= 12, evidence
