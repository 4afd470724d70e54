"""Rates that are shown can be compared: by weight, through ramps, restarts, and epochs that leave the evidence."""

from __future__ import annotations

import pytest

from gateway.core.analysis import (
    AnalysisSpec,
    EventSpec,
    Evidence,
    explained,
    fresh_state,
    judge,
    restore,
    with_new_events,
)
from gateway.core.analysis.findings import Share
from gateway.core.analysis.show.strata import STRATA_MAX, Stratum, rated
from gateway.core.analysis.state import AnalysisState
from gateway.core.analysis.types import Analysis, Finding, Verdict
from gateway.core.stats import Counts, EpochCounts

SPEC = AnalysisSpec(events=(EventSpec("clicked", group="answers"),))
# Weight, requests a look, and the rate of both versions: the canary has its requests when more of them fail.
LADDER = ((100, 4_000, 0.0025), (500, 4_000, 0.005), (2_500, 4_000, 0.01), (5_000, 4_000, 0.02))


def entry(epoch: int, weight_bp: int, requests: int, rate: float) -> EpochCounts:
    arms = []
    for n in (requests - requests * weight_bp // 10_000, requests * weight_bp // 10_000):
        failed = round(n * rate)
        arms.append(Counts(n, {"errors": failed}, {300: n - failed, 400: failed}, assigned=n))
        arms[-1].trials, arms[-1].events = {"clicked": n}, {"clicked": failed}
    return EpochCounts("r", epoch, weight_bp, arms[0], arms[1])


def climbed(keep: int) -> tuple[AnalysisState, Analysis]:
    """A rollout of healthy versions on the ladder, with the newest ``keep`` epochs in evidence."""
    state, entries = fresh_state(SPEC), list[EpochCounts]()
    for number, (weight_bp, requests, rate) in enumerate(LADDER, start=1):
        entries.append(entry(number, weight_bp, requests * 10, rate))
        state, analysis = judge(SPEC, restore(state.encode()), Evidence(60.0 * number, tuple(entries[-keep:])))
    return state, analysis


def of(analysis: Analysis, metric: str) -> Finding:
    return next(one for one in analysis.findings if one.metric == metric)


@pytest.mark.parametrize("keep", [1, 2, 4])
def test_a_ramp_compares_within_each_weight(keep: int) -> None:
    state, analysis = climbed(keep)
    plain = of(analysis, "errors")
    assert plain.canary_events / plain.canary_trials > 1.5 * plain.stable_events / plain.stable_trials
    assert plain.canary_rate == pytest.approx(plain.stable_rate, rel=0.02)
    assert " (compared within each weight: 1." in plain.reason and " %) against" not in plain.reason
    shown = explained(state, analysis)
    for metric in ("errors", "clicked"):
        details = of(shown, metric).details
        assert details["ratio_low"] < 1.0 < details["ratio_high"] < 1.5, metric
        assert details["difference_low"] < 0.0 < details["difference_high"], metric
        assert details["stable_rate_low"] < details["stable_rate"] < details["stable_rate_high"]
    latency = of(shown, "latency").details
    assert latency["p99_difference_us_low"] <= 0.0 <= latency["p99_difference_us_high"]


def test_what_leaves_the_evidence_is_kept_by_weight() -> None:
    shown = [explained(*climbed(keep)) for keep in (1, 4)]
    assert [of(one, "errors").details["ratio_low"] for one in shown] == [
        pytest.approx(of(shown[0], "errors").details["ratio_low"])
    ] * 2
    state, entries = fresh_state(SPEC), [entry(n, 1 + 37 * n, 100, 0.0) for n in range(1, 200)]
    for one in entries:
        state, _ = judge(SPEC, state, Evidence(float(one.epoch), (one,)))
    assert len(state.folded) == STRATA_MAX
    held = sum(one.stable.requests + one.canary.requests for one in state.folded.values())
    assert held == 100 * (len(entries) - 1), "the last epoch is still in the evidence"


def test_under_one_weight_the_sentence_has_the_plain_shares() -> None:
    state, analysis = judge(SPEC, fresh_state(SPEC), Evidence(1.0, (entry(1, 1_000, 10_000, 0.01),)))
    finding = of(analysis, "errors")
    assert "canary errors 10 of 1000 (1 %) against stable 90 of 9000 (1 %)" in finding.reason
    assert of(explained(state, analysis), "errors").details["stable_rate"] == pytest.approx(0.01)


def test_an_event_that_means_something_else_is_shown_as_it_was_counted_anew() -> None:
    state, _ = climbed(4)
    state = with_new_events(state, "answers")
    entries = [entry(n, *step[:1], step[1] * 10, step[2]) for n, step in enumerate(LADDER, start=1)]
    entries.append(entry(5, 5_000, 1_000, 0.1))
    state, analysis = judge(SPEC, state, Evidence(300.0, tuple(entries)))
    finding = of(explained(state, analysis), "clicked")
    assert (finding.stable_trials, finding.canary_trials) == (500, 500)
    assert finding.details["canary_rate"] == pytest.approx(0.1)


def test_the_standard_is_mantel_and_haenszels() -> None:
    strata = (Stratum(Share(2, 100), Share(1, 10)), Stratum(Share(6, 40), Share(9, 60)), Stratum(Share(5, 9), Share()))
    weights = 100 * 10 / 110, 40 * 60 / 100
    found = rated(strata)
    assert found is not None
    assert found.stable == pytest.approx((weights[0] * 0.02 + weights[1] * 0.15) / sum(weights))
    assert found.canary == pytest.approx((weights[0] * 0.1 + weights[1] * 0.15) / sum(weights))
    assert rated(strata[2:]) is None


def test_an_arm_without_requests_is_named() -> None:
    alone = EpochCounts("r", 1, 1_000, Counts(), Counts(100, {"errors": 100}, assigned=100))
    _, analysis = judge(AnalysisSpec(), fresh_state(AnalysisSpec()), Evidence(1.0, (alone,)))
    finding = of(analysis, "errors")
    assert finding.verdict is Verdict.NODATA
    assert "canary errors 100 of 100 (100 %) against stable 0 of 0: no stable requests yet" in finding.reason
