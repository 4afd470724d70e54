"""Differences that are proven and do not matter convict nobody; those that matter are found as before."""

from __future__ import annotations

import pytest

from gateway.core.analysis import AnalysisSpec, Evidence, RateSpec, bake, fresh_state, look, restore
from gateway.core.analysis.metrics.outcomes import OUTCOMES
from gateway.core.analysis.state import AnalysisState
from gateway.core.analysis.types import Analysis, Finding, Verdict
from gateway.core.stats import EpochCounts

LOUD = 1_000_000
# Counts come once a second here, which the guard against bursts would take for bursts.
SPEC = AnalysisSpec(burst_s=0.0)


class World:
    """Both versions' cumulative counts, look by look, with the expected number of failures in each."""

    def __init__(self, spec: AnalysisSpec = SPEC, weight_bp: int = 5_000) -> None:
        self.spec, self.at_s = spec, 0.0
        self.state: AnalysisState = fresh_state(spec)
        self.entries = [EpochCounts("r", 1, weight_bp)]

    def looks(self, many: int, stable: float, canary: float, requests: int = LOUD) -> Analysis:
        for _ in range(many):
            self.at_s += 1.0
            entry = self.entries[-1]
            n_c = requests * entry.weight_bp // 10_000
            for counts, n, rate in ((entry.stable, requests - n_c, stable), (entry.canary, n_c, canary)):
                counts.requests, counts.assigned = counts.requests + n, counts.assigned + n
                counts.enter("errors", round(n * rate))
            self.state, seen = look(self.spec, self.state, Evidence(self.at_s, tuple(self.entries)))
        return seen.analysis


def errors(analysis: Analysis) -> Finding:
    return next(one for one in analysis.findings if one.metric == "errors")


def test_what_is_proven_and_does_not_matter_convicts_nobody() -> None:
    world = World()
    analysis = world.looks(30, 0.01, 0.0128)
    assert OUTCOMES.log_e_bad(world.state, "errors") > 50.0, "there is no doubt that it is more"
    assert errors(analysis).log_e_bad == 0.0 and analysis.verdict is not Verdict.FAIL
    assert "too small to matter" in errors(analysis).reason


@pytest.mark.parametrize(("stable", "canary"), [(0.01, 0.0135), (0.001, 0.0014), (0.05, 0.063), (0.5, 0.6)])
def test_what_matters_convicts(stable: float, canary: float) -> None:
    assert World().looks(30, stable, canary).verdict is Verdict.FAIL


def test_a_late_regression_is_not_diluted_by_the_time_before() -> None:
    world = World()
    assert world.looks(60, 0.01, 0.01, 20_000).verdict is not Verdict.FAIL
    world.state = restore(world.state.encode())
    # 60 healthy looks: over the whole rollout the canary has 1.1 times stable's rate at the most.
    assert world.looks(12, 0.01, 0.016, 20_000).verdict is Verdict.FAIL


def test_a_bake_counts_from_its_beginning() -> None:
    world = World()
    world.looks(40, 0.01, 0.01, 20_000)
    world.state = bake(world.state, 600.0)
    world.entries.append(EpochCounts("r", 2, 9_500))
    assert world.looks(5, 0.01, 0.01, 20_000).verdict is not Verdict.FAIL
    assert world.looks(60, 0.01, 0.02, 20_000).verdict is Verdict.FAIL


def test_a_tolerance_of_its_own_takes_the_rules_place() -> None:
    strict = World(AnalysisSpec(errors=RateSpec(tolerance_delta=0.0001), burst_s=0.0))
    assert strict.looks(30, 0.01, 0.0128).verdict is Verdict.FAIL
