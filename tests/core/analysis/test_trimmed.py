"""What is believed of the evidence where stable's bad moments are known (bursts/trimmed.py)."""

from __future__ import annotations

import itertools
import math
import random

import pytest

from gateway.core.analysis import AnalysisSpec, Evidence, Verdict, judge
from gateway.core.analysis.betting import wealth
from gateway.core.analysis.betting.eprocess import TrialBatch
from gateway.core.analysis.bursts import trimmed
from gateway.core.analysis.bursts.past import Weather
from gateway.core.analysis.bursts.trimmed import Trimmed, TrimmingRule
from gateway.core.analysis.judge import bake, fresh_state, restore
from gateway.core.analysis.metrics import outcomes
from gateway.core.analysis.metrics.rates import BAD_PRIORS
from gateway.core.analysis.state import AnalysisState
from gateway.core.stats import Counts, EpochCounts

ONE = (1.0,)
CLEAN = Weather(known_s=3600.0)
SECONDS = Weather(known_s=3600.0, moments=12.0, mean_s=2.0, longest_s=3.2, apart_s=40.0)
NOTHING = TrialBatch(0, 0, 0, 0)


def least(gains: list[float], n: int, reach: int, apart: int) -> float:
    """By trying all of them: the least that is left of the sum without at most n stretches of at most ``reach``."""
    cells = range(len(gains))
    stretches = [(a, b) for a in cells for b in cells if a <= b < a + reach]
    best = math.fsum(gains)
    for many in range(1, n + 1):
        for chosen in itertools.combinations(stretches, many):
            if all(later[0] - earlier[1] > apart for earlier, later in itertools.pairwise(chosen)):
                left = (gain for i, gain in enumerate(gains) if not any(a <= i <= b for a, b in chosen))
                best = min(best, math.fsum(left))
    return best


@pytest.mark.parametrize("apart_s", [0.0, 1.0])
@pytest.mark.parametrize("seed", range(8))
def test_the_program_finds_the_least_of_all_sets_of_stretches(
    seed: int, apart_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One guess, nothing held back, cells of 1 s, stretches of up to three of them."""
    monkeypatch.setattr(trimmed, "CEILING", 1000.0)
    rng = random.Random(seed)
    gains = [rng.gauss(0.5, 2.0) for _ in range(9)]
    rule = TrimmingRule(stretch_s=4.0, apart_s=apart_s, moments=3.0, known_s=100.0)
    state = trimmed.fresh(rule, 0.0, ONE, 0.0)
    for i, gain in enumerate(gains):
        state = trimmed.take(trimmed.gain(state, (gain,)), NOTHING, i + 1.0, ONE)
    for n in range(3):
        every = [state.free, *(one for _, one in state.resting)]
        found = min(one[min(n, len(one) - 1)][0] for one in every)
        assert found == pytest.approx(least(gains, n, 3, round(apart_s)), abs=1e-9), (seed, n)


def test_what_is_believed_is_never_more_than_what_there_is() -> None:
    rng = random.Random(5)
    state = trimmed.fresh(trimmed.rule(SECONDS) or TrimmingRule(), 0.0, BAD_PRIORS, wealth.HELD_BACK)
    for tick in range(1, 400):
        state = trimmed.gain(state, [rng.gauss(0.05, 0.5)] * len(BAD_PRIORS)) if tick % 3 == 0 else state
        state = trimmed.take(state, TrialBatch(rng.random() < 0.05, 10, 0, 5), tick / 10, BAD_PRIORS)
        plain = wealth.sum_logs([a + b for a, b in zip(state.free[0], state.gains, strict=True)])
        assert trimmed.log_e(state, BAD_PRIORS) <= wealth.add_logs(plain, math.log(wealth.HELD_BACK)) + 1e-9


def rollout(weather: Weather | None, bad: tuple[float, float], seconds: float, rate: float = 1.0) -> AnalysisState:
    """A canary of a fifth of 200 requests a second that fails in ``bad``; stable fails one request in 500."""
    spec = AnalysisSpec()
    state = fresh_state(spec, None if weather is None else {"errors": weather})
    stable, canary, rng = Counts(), Counts(), random.Random(3)
    for tick in range(1, round(10 * seconds) + 1):
        at_s = tick / 10
        stable.requests, canary.requests = stable.requests + 16, canary.requests + 4
        failing = rate if bad[0] < at_s <= bad[1] else 0.002
        for counts, n, p in ((stable, 16, 0.002), (canary, 4, failing)):
            failed = sum(rng.random() < p for _ in range(n))
            counts.outcomes["errors"] = counts.outcomes.get("errors", 0) + failed
        state, analysis = judge(spec, state, Evidence(at_s, (EpochCounts("r", 1, 2000, stable, canary),)))
        if analysis.verdict is Verdict.FAIL:
            break
    return state


def convicted_s(state: AnalysisState) -> float | None:
    """When, if it was."""
    needed = math.log(200.0)
    return state.pace.at_s if outcomes.OUTCOMES.log_e_bad(state, "errors") >= needed else None


def test_a_moment_as_stable_has_them_does_not_convict_and_a_dead_canary_outlasts_it() -> None:
    assert convicted_s(rollout(SECONDS, (5.0, 8.0), 12.0)) is None
    assert convicted_s(rollout(None, (5.0, 8.0), 12.0)) is not None
    dead_s = convicted_s(rollout(SECONDS, (5.0, 100.0), 25.0))
    assert dead_s is not None and dead_s > 8.0
    quick_s = convicted_s(rollout(CLEAN, (5.0, 100.0), 25.0))
    assert quick_s is not None and quick_s < 8.0


def test_a_state_with_trimmed_evidence_survives_the_journal_and_bakes() -> None:
    state = rollout(SECONDS, (3.0, 5.0), 6.0)
    again = restore(state.encode())
    assert again == state and again.encode() == state.encode()
    watched = bake(state, 600.0)
    (test,) = outcomes.of_class(outcomes.OUTCOMES.own(watched), "errors")
    assert test.trimmed is not None and test.trimmed.horizon
    assert outcomes.OUTCOMES.log_e_bad(watched, "errors") < 0.0


@pytest.mark.parametrize("spec", [AnalysisSpec(learn_bursts=False), AnalysisSpec(burst_s=0.0)])
def test_a_number_means_what_it_always_did(spec: AnalysisSpec) -> None:
    state = fresh_state(spec, {"errors": SECONDS})
    state, _ = judge(spec, state, Evidence(0.1, (EpochCounts("r", 1, 2000, Counts(9), Counts(9)),)))
    assert all(one.trimmed is None for one in outcomes.of_class(outcomes.OUTCOMES.own(state), "errors"))


def test_too_little_is_known_of_a_stable_version_that_was_watched_for_a_minute() -> None:
    assert trimmed.rule(Weather(known_s=60.0, moments=1.0, mean_s=1.0, longest_s=1.0)) is None


def test_the_count_begins_anew_where_moments_never_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trimmed, "LEVELS_MAX", 5)
    often = Weather(known_s=3600.0, moments=3000.0, mean_s=0.2, longest_s=0.3, apart_s=0.1)
    state: Trimmed = trimmed.fresh(trimmed.rule(often) or TrimmingRule(), 0.0, ONE, 0.05)
    for tick in range(1, 300):
        state = trimmed.take(trimmed.gain(state, (0.2,)), TrialBatch(0, 20, 0, 2), tick / 10, ONE)
        assert len(state.free) <= 5
    assert state.begin_s > 0.0 and math.isfinite(trimmed.log_e(state, ONE))


def test_more_moments_than_stable_has_are_worth_something_and_as_many_are_not() -> None:
    rule = trimmed.rule(SECONDS)
    assert rule is not None
    worths = trimmed.worths(6, 300.0, rule, 1.0)
    assert worths == sorted(worths) and worths[1] < 0.0 and worths[5] > 1.0
