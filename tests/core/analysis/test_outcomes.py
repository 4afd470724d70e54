"""Outcome classes before the judge: a shift is convicted whichever way, what is alike in both arms is promoted."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.analysis import Analysis, AnalysisSpec, Evidence, LatencySpec, Mode, fresh_state, judge
from gateway.core.analysis.evidence.intake import Arrival
from gateway.core.analysis.evidence.trials import CLASS_TESTS, requests
from gateway.core.stats import Counts, EpochCounts
from gateway.core.stats.outcomes import FAILURES, NAMES

# Of latency there is nothing to say here.
SPEC = AnalysisSpec(latency=LatencySpec(mode=Mode.OFF))
Mix = Mapping[str, float]


def run(
    stable: Mix, canary: Mix, seed: int, seconds: float = 40.0, per_s: int = 200, weight_bp: int = 1_000
) -> Analysis:
    """The first FAIL or PASS of a rollout whose arms answer with these shares of each class, or the last look."""
    rng = random.Random(seed)
    entry = EpochCounts("r", 1, weight_bp)
    state = fresh_state(SPEC)
    for tick in range(1, round(10 * seconds) + 1):
        for _ in range(per_s // 10):
            arm, mix = (entry.canary, canary) if rng.random() * 10_000 < weight_bp else (entry.stable, stable)
            arm.requests += 1
            drawn = rng.random()
            for name, share in mix.items():
                drawn -= share
                if drawn < 0.0:
                    arm.enter(name)
                    break
        state, analysis = judge(SPEC, state, Evidence(0.1 * tick, (entry,)))
        if analysis.verdict in ("FAIL", "PASS"):
            break
    return analysis


@pytest.mark.parametrize("name", NAMES)
def test_a_canary_that_answers_everything_so_is_convicted_within_seconds(name: str) -> None:
    analysis = run({}, {name: 1.0}, seed=1, seconds=4.0)
    assert (analysis.verdict, analysis.causes) == ("FAIL", (name,)), analysis.reason


SHIFTS: dict[str, tuple[Mix, Mix, str]] = {
    "201 becomes 200": ({"other_success": 1.0}, {}, "other_success"),
    "201 becomes 204": ({"other_success": 1.0}, {"no_content": 1.0}, "no_content"),
    "204 becomes 200": ({"no_content": 1.0}, {}, "no_content"),
    "200 becomes 201": ({}, {"other_success": 1.0}, "other_success"),
    "some 200 become 204": ({"not_found": 0.3}, {"not_found": 0.3, "no_content": 0.6}, "no_content"),
    "more 404": ({"not_found": 0.1}, {"not_found": 0.35}, "not_found"),
    "404 becomes 500": ({"not_found": 0.3}, {"errors": 0.3}, "errors"),
    "200 becomes 304": ({"redirects": 0.2}, {"redirects": 1.0}, "redirects"),
    "a part is abandoned": ({"abandoned": 0.02}, {"abandoned": 0.3}, "abandoned"),
}


@pytest.mark.parametrize("shift", SHIFTS)
def test_a_shift_of_the_mix_is_convicted_and_named(shift: str) -> None:
    stable, canary, cause = SHIFTS[shift]
    analysis = run(stable, canary, seed=2)
    assert analysis.verdict == "FAIL" and cause in analysis.causes, f"{analysis.verdict}: {analysis.reason}"


ALIKE: dict[str, Mix] = {
    "nothing but 200": {},
    "every answer is a redirect": {"redirects": 1.0},
    "every answer is 404": {"not_found": 1.0},
    "a third is 404": {"not_found": 0.3},
    "every client leaves": {"abandoned": 1.0},
    "every answer is 201": {"other_success": 1.0},
    "every answer is 204": {"no_content": 1.0},
    "a bit of everything": dict.fromkeys(NAMES, 0.08),
}


@pytest.mark.parametrize("mix", ALIKE)
def test_what_is_alike_in_both_arms_is_promoted(mix: str) -> None:
    limit_s = 300.0 if mix == "a bit of everything" else 60.0
    analysis = run(ALIKE[mix], ALIKE[mix], seed=3, seconds=limit_s)
    assert analysis.verdict == "PASS", f"{analysis.verdict}: {analysis.reason}"


MENDED: dict[str, tuple[Mix, Mix]] = {
    "201 where stable failed": ({"other_success": 0.6, "errors": 0.4}, {"other_success": 1.0}),
    "204 where stable was overloaded": ({"no_content": 0.7, "overload": 0.3}, {"no_content": 1.0}),
    "200 where stable did not find": ({"not_found": 0.4}, {}),
    "200 where clients gave up": ({"abandoned": 0.4}, {}),
    "200 where stable sent to a login": ({"redirects": 0.5}, {}),
    "content where stable had none": ({"empty_body": 0.5}, {}),
}


@pytest.mark.parametrize("case", MENDED)
def test_a_canary_that_mends_what_stable_fails_is_promoted(case: str) -> None:
    stable, canary = MENDED[case]
    analysis = run(stable, canary, seed=4, seconds=80.0)
    assert analysis.verdict == "PASS", f"{analysis.verdict}: {analysis.reason}"


def test_a_class_that_never_occurs_costs_a_proof_nothing() -> None:
    off = {name: getattr(SPEC, name).__class__(Mode.OFF) for name in NAMES if name != "errors"}
    alone = AnalysisSpec(latency=LatencySpec(mode=Mode.OFF), **off)
    times = []
    for spec in (SPEC, alone):
        entry, state = EpochCounts("r", 1, 1_000), fresh_state(spec)
        for tick in itertools.count(1):
            entry.stable.requests, entry.canary.requests = 18 * tick, 2 * tick
            state, analysis = judge(spec, state, Evidence(0.1 * tick, (entry,)))
            if analysis.verdict == "PASS":
                break
        times.append(tick)
    assert times[0] == times[1]


mixes = st.dictionaries(st.sampled_from(NAMES), st.integers(0, 50), max_size=len(NAMES))


@given(mixes, mixes)
def test_each_test_sees_its_own_class_and_what_excuses_it(stable: dict[str, int], canary: dict[str, int]) -> None:
    seen = requests(Arrival(1, Counts(sum(stable.values()), stable), Counts(sum(canary.values()), canary)))
    for test, s, c in zip(CLASS_TESTS, seen.stable_events, seen.canary_events, strict=True):
        failed_s, failed_c = (sum(arm.get(name, 0) for name in FAILURES) for arm in (stable, canary))
        own_s, own_c = stable.get(test.name, 0), canary.get(test.name, 0)
        if not test.success:
            assert (s, c) == (own_s, own_c)
        elif test.fewer:
            assert (s, c) == (own_s, own_c + failed_c), "the canary's failures explain that it has fewer"
        else:
            assert (s, c) == (own_s + failed_s, own_c), "stable's failures explain that the canary has more"
        assert s <= seen.stable and c <= seen.canary


@pytest.mark.parametrize(
    "mix", [{"not_found": 0.3}, {"other_success": 0.5, "errors": 0.2}, dict.fromkeys(NAMES[3:], 0.12)]
)
def test_e_is_at_most_one_on_average_where_both_arms_are_alike(mix: Mix) -> None:
    """All outcomes of three requests, summed: no class's E has a mean above 1 after them."""
    outcomes = [(name, share) for name, share in {**mix, "ok": 1.0 - sum(mix.values())}.items() if share > 1e-12]
    spec = AnalysisSpec(latency=LatencySpec(mode=Mode.OFF), burst_s=0.0)
    means: dict[str, float] = {}
    moved = set()
    for drawn in itertools.product(outcomes, repeat=3):
        stable, canary = Counts(2), Counts(1)
        for arm, (name, _) in zip((stable, stable, canary), drawn, strict=True):
            if name != "ok":
                arm.enter(name)
        entry = EpochCounts("r", 1, 3_333, stable, canary)
        # A second epoch closes the first one's batch.
        state, _ = judge(spec, fresh_state(spec), Evidence(0.1, (entry,)))
        _, analysis = judge(spec, state, Evidence(0.2, (entry, EpochCounts("r", 2, 3_333, Counts(1), Counts()))))
        chance = math.prod(share for _, share in drawn)
        for found in analysis.findings:
            if found.metric in NAMES:
                moved |= {found.metric} if abs(found.log_e_bad) > 1e-6 else set()
                means[found.metric] = means.get(found.metric, 0.0) + chance * math.exp(found.log_e_bad)
    assert moved == set(NAMES), "every class was bet on"
    assert set(means) == set(NAMES) and max(means.values()) <= 1.0 + 1e-9, means
