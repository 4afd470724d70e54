"""Latency slices: thresholds round against the claim, slices close on time, bursts convict nobody."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from gateway.core.analysis.betting import wealth
from gateway.core.analysis.betting.eprocess import TrialBatch
from gateway.core.analysis.evidence.intake import Arrival
from gateway.core.analysis.metrics import rates, time_slices
from gateway.core.analysis.metrics.time_slices import LatencyState
from gateway.core.analysis.types import LatencySpec, RateSpec
from gateway.core.stats import Counts, bucket_of
from gateway.core.stats.histogram import lower_us, upper_us
from gateway.core.stats.ranks import Ranks

ALPHA = 0.05
# No tolerance: equal arms sit on the very boundary of E_bad's null.
SHARP = LatencySpec(tolerance_ratio=1.0, tolerance_us=0)


def counts(latencies_us: list[int]) -> Counts:
    out = Counts(len(latencies_us))
    for latency_us in latencies_us:
        bucket = bucket_of(latency_us)
        out.latency[bucket] = out.latency.get(bucket, 0) + 1
    return out


def arrival(stable_us: list[int], canary_us: list[int], epoch: int = 1) -> Arrival:
    return Arrival(epoch, counts(stable_us), counts(canary_us))


def opened(spec: LatencySpec, stable_us: int = 2_000) -> LatencyState:
    state = time_slices.take(time_slices.fresh(spec), spec, [arrival([stable_us] * 50, [])], [1], 0.0)
    assert state.open is not None
    return state


@given(
    st.lists(st.integers(0, 10**8), min_size=1, max_size=30),
    st.floats(0.01, 0.9999),
    st.floats(1, 20),
    st.integers(0, 10**7),
    st.integers(0, 10**9),
)
def test_thresholds_never_overstate_for_bad_nor_understate_for_ok(
    past_us: list[int], q: float, ratio: float, add_us: int, latency_us: int
) -> None:
    spec = LatencySpec(quantiles=(q,), tolerance_ratio=ratio, tolerance_us=add_us, margin_ratio=ratio, margin_us=add_us)
    found = time_slices.threshold(Ranks(counts(past_us).latency), spec, q)
    beyond_us = lower_us(found.stable)
    assert beyond_us == upper_us(found.stable - 1)
    scaled_us = beyond_us * ratio + add_us
    if bucket_of(latency_us) >= found.canary_bad:
        assert latency_us >= scaled_us
    if latency_us >= scaled_us:
        assert bucket_of(latency_us) >= found.canary_ok


@given(st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 10**6)), min_size=1, max_size=40))
def test_a_canary_as_slow_as_the_tolerance_never_shows_a_larger_share(pairs: list[tuple[int, int]]) -> None:
    spec = LatencySpec()
    state = opened(spec)
    stable_us = [pair[0] for pair in pairs]
    canary_us = [math.floor(spec.tolerance_ratio * us) + spec.tolerance_us for us in stable_us]
    state = time_slices.take(state, spec, [arrival(stable_us, canary_us)], [1], 1.0)
    assert state.slices == 1
    assert all(quantile.excess_sum <= 0.0 for quantile in state.quantiles)


def test_no_slice_opens_before_stable_has_a_past() -> None:
    state = time_slices.take(time_slices.fresh(SHARP), SHARP, [arrival([2_000] * 49, [2_000] * 9)], [1], 5.0)
    assert state.open is None
    assert time_slices.take(state, SHARP, [arrival([2_000], [])], [1], 5.1).open is not None


def test_a_slice_closes_on_time_once_both_arms_have_answered() -> None:
    state = opened(SHARP)
    state = time_slices.take(state, SHARP, [arrival([2_000] * 9, [9_000])], [1], 0.9)
    assert state.slices == 0
    assert time_slices.take(state, SHARP, [], [1], 1.0).slices == 1
    waiting = time_slices.take(opened(SHARP), SHARP, [arrival([2_000] * 9, [])], [1], 7.0)
    assert waiting.slices == 0
    assert time_slices.take(waiting, SHARP, [arrival([], [2_000])], [1], 7.1).slices == 1


def test_a_clock_that_went_backwards_only_makes_the_slice_longer() -> None:
    state = time_slices.take(opened(SHARP), SHARP, [arrival([2_000] * 9, [2_000])], [1], -500.0)
    assert state.slices == 0
    assert time_slices.take(state, SHARP, [], [1], -499.5).slices == 0
    assert time_slices.take(state, SHARP, [], [1], -499.0).slices == 1


def test_a_ramp_into_a_slow_half_second_does_not_speak_against_the_canary() -> None:
    # 1 % while both are fast, 50 % while both are slow: pooled shares would be 0.4 against 0.98.
    fast, slow = arrival([2_000] * 99, [2_000]), arrival([90_000] * 50, [90_000] * 50, epoch=2)
    state = time_slices.take(opened(SHARP), SHARP, [fast, slow], [1, 2], 1.0)
    assert state.slices == 1
    assert all(quantile.excess_sum == 0.0 for quantile in state.quantiles)


def test_the_past_is_bounded_and_follows_the_day() -> None:
    state = time_slices.fresh(SHARP)
    for i in range(60):
        state = time_slices.take(state, SHARP, [arrival([2_000 if i < 30 else 8_000] * 1_000, [])], [1], 0.1 * i)
    assert sum(state.past.values()) <= 20_000
    assert time_slices.threshold(Ranks(state.past), SHARP, 0.5).stable == bucket_of(8_000) + 1


def test_extreme_slices_keep_the_logarithms_finite() -> None:
    for canary_us, stable_us in ((10**9, 0), (0, 10**9)):
        state = opened(LatencySpec())
        for i in range(1, 200):
            state = time_slices.take(state, LatencySpec(), [arrival([stable_us], [canary_us])], [1], 2.0 * i)
        assert math.isfinite(time_slices.log_e_bad(state)) and math.isfinite(time_slices.log_e_ok(state))


def paused(rng: random.Random, seconds: float, every_s: float, pause_s: float) -> Callable[[float], float]:
    """How long a request arriving at a time waits for its arm's pauses to end."""
    starts = [rng.uniform(0, seconds) for _ in range(round(seconds / every_s))]
    return lambda at_s: max((start + pause_s - at_s for start in starts if 0 <= at_s - start < pause_s), default=0.0)


def watched(seed: int, spec: LatencySpec, weight: float, seconds: int) -> tuple[float, float]:
    """Equal arms with pauses of their own, 60 requests/s: highest E_bad by slices, and with requests as the unit."""
    rng = random.Random(seed)
    waits = [paused(rng, seconds, 10.0, 0.3) for _ in range(2)]
    answered: list[list[tuple[int, int]]] = [[] for _ in range(10 * seconds + 10)]
    for i in range(60 * seconds):
        at_s, arm = i / 60, int(rng.random() < weight)
        latency_s = 0.002 * math.exp(0.4 * rng.gauss(0, 1)) + waits[arm](at_s)
        answered[int(10 * (at_s + latency_s))].append((arm, int(1e6 * latency_s)))
    state, naive, part = time_slices.fresh(spec), rates.fresh().metrics[0], [0, 0, 0, 0]
    top = naive_top = 0.0
    for tick, done in enumerate(answered):
        arms: list[list[int]] = [[], []]
        for arm, latency_us in done:
            arms[arm].append(latency_us)
        if state.open is not None:
            slow = state.open.thresholds[-1].stable
            for arm in (0, 1):
                part[2 * arm] += sum(bucket_of(us) >= slow for us in arms[arm])
                part[2 * arm + 1] += len(arms[arm])
            if part[1] and part[3]:
                naive, part = rates.bet(naive, RateSpec(), TrialBatch(*part)), [0, 0, 0, 0]
                naive_top = max(naive_top, wealth.log_e(naive.bad))
        state = time_slices.take(state, spec, [arrival(arms[0], arms[1])] if done else [], [1], 0.1 * (tick + 1))
        top = max(top, time_slices.log_e_bad(state))
    return top, naive_top


def test_pauses_of_a_healthy_canary_convict_requests_as_units_but_not_slices() -> None:
    runs, needed = 30, math.log(1 / ALPHA)
    tops = [watched(seed, SHARP, 0.5, 60) for seed in range(runs)]
    by_slice = sum(top >= needed for top, _ in tops)
    by_request = sum(top >= needed for _, top in tops)
    # 5 % of 30 is 1.5; more than 5 would happen less than once in 200.
    assert by_slice <= 5, f"{by_slice} of {runs} convicted by slices, seeds 0..{runs - 1}"
    assert by_request > 8, f"the world is too gentle to show anything: {by_request} of {runs} by requests"


def test_a_canary_slower_by_the_margin_is_passed_less_often_than_alpha() -> None:
    spec = LatencySpec(quantiles=(0.5,), margin_ratio=1.0, margin_us=0, margin_delta=0.1)
    runs, passed = 100, 0
    for seed in range(runs):
        rng, state, best = random.Random(seed), opened(spec, stable_us=10), 0.0
        for i in range(1, 81):
            stable = [5_000 if rng.random() < 0.3 else 10 for _ in range(20)]
            canary = [5_000 if rng.random() < 0.4 else 10 for _ in range(5)]
            state = time_slices.take(state, spec, [arrival(stable, canary)], [1], 1.0 * i)
            best = max(best, time_slices.log_e_ok(state))
        assert state.slices == 80
        passed += best >= math.log(1 / ALPHA)
    assert passed <= 11, f"{passed} of {runs} passed at the margin itself, seeds 0..{runs - 1}"
