"""The judge of mirrored pairs: what convicts, what is proven, and what neither does."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from gateway.core.analysis import paired
from gateway.core.analysis.paired import PairedState, PairedTest
from gateway.core.analysis.paired_spec import PairedSpec
from gateway.core.analysis.types import Analysis, Evidence, Verdict
from gateway.core.errors import InvalidValueError
from gateway.core.stats.counts import EpochCounts
from gateway.core.stats.pairs import ratio_name

SPEC = PairedSpec()
SAME, TWICE, SLIGHTLY = ratio_name(10_000, 10_000), ratio_name(10_000, 22_000), ratio_name(10_000, 14_000)


def run(*seconds: dict[str, int], spec: PairedSpec = SPEC, looks: int = 4) -> Analysis:
    """The judge after these seconds of new pairs, each in so many looks."""
    state, counts, at_s = paired.fresh(spec), dict.fromkeys(("pairs",), 0), 100.0
    found = None
    state, _ = paired.look(state, evidence(at_s, counts), 0.01, 0.05)
    for second in seconds:
        for look in range(looks):
            at_s += 1.0 / looks
            for name, count in second.items():
                counts[name] = counts.get(name, 0) + (count * (look + 1)) // looks - (count * look) // looks
            state, found = paired.look(state, evidence(at_s, counts), 0.01, 0.05)
    assert found is not None
    return found.analysis


def evidence(at_s: float, counts: dict[str, int], epoch: int = 3) -> Evidence:
    return Evidence(at_s, (EpochCounts("r", epoch, 0, pairs=dict(counts)),))


def test_before_the_first_pair_there_is_nothing_to_say() -> None:
    found = run({})
    assert (found.verdict, found.reason) == (Verdict.NODATA, "no request has met both versions yet")


def test_a_canary_that_does_as_well_passes_after_some_hundred_pairs() -> None:
    second = {"pairs": 40, SAME: 40}
    assert run(*[second] * 10).verdict is Verdict.UNDECIDED
    found = run(*[second] * 12)
    assert (found.verdict, found.canary_requests) == (Verdict.PASS, 480)
    assert found.reason == "480 requests met both versions, and the canary did as well"


def test_what_fails_on_both_is_no_difference_and_noise_on_both_sides_is_none_either() -> None:
    noisy = {"pairs": 100, SAME: 94, "canary:errors": 3, "stable:errors": 3}
    assert run(*[noisy] * 90).verdict is Verdict.PASS


def test_failures_of_the_canary_alone_convict_it_by_name_within_seconds() -> None:
    second = {"pairs": 40, SAME: 36, "canary:not_found": 4}
    found = run(*[second] * 5)
    assert (found.verdict, found.causes) == (Verdict.FAIL, ("not_found",))
    assert found.reason == (
        "not_found: of 200 requests that both versions met, 20 came to this on the canary alone and 0 on stable alone"
    )


def test_one_burst_however_large_convicts_nobody() -> None:
    well, restart = {"pairs": 400, SAME: 400}, {"pairs": 400, "canary:errors": 400}
    assert run(*[well] * 3, restart, looks=1).verdict is Verdict.UNDECIDED
    assert run(*[well] * 3, *[restart] * 20).verdict is Verdict.FAIL, "one that does not end does"


def test_an_outage_of_stable_proves_nothing_good() -> None:
    outage = {"pairs": 40, "stable:errors": 40}
    assert run(*[outage] * 5).verdict is Verdict.UNDECIDED


def test_a_slower_canary_is_convicted_and_one_between_tolerance_and_margin_is_neither() -> None:
    found = run(*[{"pairs": 40, TWICE: 30, SAME: 10}] * 20)
    assert (found.verdict, found.causes) == (Verdict.FAIL, ("latency",))
    assert "in 20 of 20 slices the canary took more than 1.25 times stable's time" in found.reason
    between = PairedSpec(latency_tolerance_ratio=1.5, latency_margin_ratio=2.0)
    assert run(*[{"pairs": 40, SLIGHTLY: 40}] * 30, spec=between).verdict is Verdict.PASS
    found = run(*[{"pairs": 40, TWICE: 40}] * 30, spec=PairedSpec(latency=False))
    assert found.verdict is Verdict.PASS, "what is not judged holds nothing up"


def test_outputs_that_differ_convict_above_the_tolerance_and_pass_below_the_margin() -> None:
    second = {"pairs": 40, SAME: 40, "compared": 40}
    found = run(*[second | {"disagreed": 8}] * 10)
    assert (found.verdict, found.causes) == (Verdict.FAIL, ("disagreement",))
    assert found.reason == "disagreement: 80 of 400 outputs differ from stable's on the same request"
    assert run(*[second] * 12).verdict is Verdict.PASS
    found = run(*[second | {"disagreed": 3}] * 12)
    assert found.verdict is Verdict.UNDECIDED
    assert found.reason.startswith("disagreement: 36 of 480 outputs differ")


def test_what_could_not_be_compared_is_said_and_proves_nothing() -> None:
    found = run(*[{"pairs": 40, SAME: 40, "unread": 40}] * 12)
    assert found.verdict is Verdict.PASS
    assert "no outputs could be compared" in found.reason


def test_counting_begins_with_the_first_look_and_an_older_epoch_may_leave() -> None:
    state, _ = paired.look(paired.fresh(SPEC), evidence(0.0, {"pairs": 900, "canary:errors": 900}), 0.01, 0.05)
    assert state.pairs == 0
    state, _ = paired.look(state, evidence(1.0, {"pairs": 5}, epoch=4), 0.01, 0.05)
    assert state.pairs == 5
    after, found = paired.look(state, evidence(2.0, {"pairs": 4}, epoch=4), 0.01, 0.05)
    assert after is state
    assert (found.verdict, found.reason) == (
        Verdict.ERROR,
        "evidence refused: the count of pairs 'pairs' went backwards",
    )


@pytest.mark.parametrize("tolerance", [0.0, 0.001, 0.02])
@pytest.mark.parametrize("rate", [0.0, 0.01, 0.3])
@pytest.mark.parametrize("pairs", [1, 3, 12, 60])
def test_no_bet_on_a_slice_has_a_mean_above_one_under_the_null(tolerance: float, rate: float, pairs: int) -> None:
    """Rule 1, exactly: outcomes of both versions by binomials, at the edge of the null."""
    spec = PairedSpec(tolerance_delta=tolerance, margin_delta=0.05)
    canary = binomial(pairs, rate + tolerance)
    stable = binomial(pairs, rate)
    mean = _mean(canary, stable, lambda test, c, s: paired.outcome(test, spec, pairs, c, s).bad)
    assert mean <= 1.0 + 1e-9


@pytest.mark.parametrize("pairs", [1, 5, 40])
def test_no_bet_for_a_canary_at_the_margin_has_a_mean_above_one(pairs: int) -> None:
    spec = PairedSpec(margin_delta=0.05)
    mean = _mean(
        binomial(pairs, 0.05), binomial(pairs, 0.0), lambda test, c, s: paired.outcome(test, spec, pairs, c, s).ok
    )
    assert mean <= 1.0 + 1e-9
    bound = paired.disagreement
    for null, of in ((spec.disagreement_tolerance, "bad"), (spec.disagreement_margin, "ok")):
        arm = binomial(pairs, null)

        def after(test: PairedTest, events: int, _: int, of: str = of) -> tuple[float, ...]:
            logs: tuple[float, ...] = getattr(bound(test, spec, pairs, events), of)
            return logs

        assert _mean(arm, [1.0], after, metric="disagreement") <= 1.0 + 1e-9


def binomial(trials: int, p: float) -> list[float]:
    return [math.comb(trials, k) * p**k * (1 - p) ** (trials - k) for k in range(trials + 1)]


def _mean(
    canary: list[float],
    stable: list[float],
    after: Callable[[PairedTest, int, int], tuple[float, ...]],
    metric: str = "errors",
) -> float:
    test = fresh().tests[metric]
    return sum(
        p * q * math.exp(paired.log_e(after(test, c, s)))
        for c, p in enumerate(canary)
        for s, q in enumerate(stable)
        if p * q > 0.0
    )


def fresh() -> PairedState:
    return paired.fresh(SPEC)


def test_bounds_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(InvalidValueError, match=r"compare.tolerance_delta must be from 0 to 0.01, not 0.02"):
        PairedSpec(tolerance_delta=0.02)
    with pytest.raises(InvalidValueError, match=r"compare.margin_delta must be greater than 0"):
        PairedSpec(tolerance_delta=0.0, margin_delta=0.0)
