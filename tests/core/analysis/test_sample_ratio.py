"""The check of the split: a martingale under the weight, ERROR under another, blind to answers that are late."""

from __future__ import annotations

import math
import random

import pytest

from gateway.core.analysis import Analysis, AnalysisSpec, Evidence, fresh_state, judge
from gateway.core.analysis.metrics.sample_ratio import SHIFTS, gains
from gateway.core.stats import EpochCounts


@pytest.mark.parametrize("weight", [0.0001, 0.01, 0.2, 0.5, 0.99])
def test_under_the_weight_every_guess_has_a_mean_of_one(weight: float) -> None:
    n = 6
    for guess in range(len(SHIFTS)):
        mean = sum(
            math.comb(n, k) * weight**k * (1 - weight) ** (n - k) * math.exp(gains(weight, n - k, k)[guess])
            for k in range(n + 1)
        )
        assert mean == pytest.approx(1.0, abs=1e-12)


def run(seed: int, share: float, spec: AnalysisSpec, ticks: int = 200, weight_bp: int = 1_000) -> Analysis:
    rng, state, entry = random.Random(seed), fresh_state(spec), EpochCounts("r", 1, weight_bp)
    for tick in range(1, ticks + 1):
        for _ in range(50):
            counts = entry.canary if rng.random() < share else entry.stable
            counts.assigned += 1
            counts.requests += 1
        state, analysis = judge(spec, state, Evidence(0.1 * tick, (entry,)))
        if analysis.verdict == "ERROR":
            break
    return analysis


@pytest.mark.parametrize("share", [0.02, 0.07, 0.15, 0.6])
def test_a_broken_split_is_an_error_of_the_experiment_and_names_itself(share: float) -> None:
    analysis = run(1, share, AnalysisSpec())
    assert (analysis.verdict, analysis.causes) == ("ERROR", ("sample_ratio",))
    assert "expected 10 %" in analysis.reason


def test_a_sound_split_is_left_alone_less_often_wrong_than_alpha() -> None:
    spec = AnalysisSpec(alpha_sample_ratio=0.1)
    alarms = sum(run(seed, 0.1, spec, 60).verdict == "ERROR" for seed in range(30))
    # 10 % of 30 is 3; more than 8 would happen less than once in 200.
    assert alarms <= 8, f"{alarms} of 30, seeds 0..29"
    finding = run(0, 0.1, AnalysisSpec(), 5).findings[-1]
    assert (finding.metric, finding.verdict, finding.decides) == ("sample_ratio", "UNDECIDED", False)


def test_answers_that_are_late_or_never_come_are_no_mismatch() -> None:
    spec, entry = AnalysisSpec(), EpochCounts("r", 1, 1_000)
    entry.stable.assigned, entry.canary.assigned, entry.stable.requests = 9_000, 1_000, 9_000
    assert judge(spec, fresh_state(spec), Evidence(1.0, (entry,)))[1].verdict == "NODATA"


def test_it_is_off_with_alpha_zero_and_silent_where_nothing_was_counted_at_assignment() -> None:
    assert run(1, 0.6, AnalysisSpec(alpha_sample_ratio=0.0), 20).verdict != "ERROR"
    spec, entry = AnalysisSpec(), EpochCounts("r", 1, 1_000)
    entry.stable.requests = entry.canary.requests = 500
    findings = judge(spec, fresh_state(spec), Evidence(1.0, (entry,)))[1].findings
    assert "sample_ratio" not in {finding.metric for finding in findings}


def test_a_failing_canary_is_rolled_back_even_if_the_split_is_broken() -> None:
    spec, state, entry = AnalysisSpec(), fresh_state(AnalysisSpec()), EpochCounts("r", 1, 1_000)
    for tick in range(1, 40):
        for counts, n in ((entry.stable, 50), (entry.canary, 50)):
            counts.assigned += n
            counts.requests += n
        entry.canary.enter("errors", 50)
        state, analysis = judge(spec, state, Evidence(0.1 * tick, (entry,)))
    assert analysis.verdict == "FAIL" and "errors" in analysis.causes
