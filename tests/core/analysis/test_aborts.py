"""Clients that leave before the first byte: a version that hangs is convicted by them, an equal one is not."""

from __future__ import annotations

import math
import random

import pytest

from gateway.core.analysis import AnalysisSpec, Evidence, LatencySpec, Mode, RateSpec, fresh_state, judge
from gateway.core.analysis.types import Analysis
from gateway.core.stats import EpochCounts, bucket_of
from tests.support.specs import silent

SILENT = RateSpec(mode=Mode.OFF)
SPEC = AnalysisSpec(**silent(), latency=LatencySpec(slice_s=0.3))


def run(
    seed: int,
    slower: float,
    patience_us: tuple[int, int],
    ticks: int = 300,
    wanted: str = "FAIL",
    share: float = 1.0,
) -> Analysis:
    """Log-normal latencies, a share of the canary's ``slower`` times as long; clients wait between the patiences."""
    rng, state, entry = random.Random(seed), fresh_state(SPEC), EpochCounts("r", 1, 3_000)
    for tick in range(1, ticks + 1):
        for _ in range(30):
            canary = rng.random() < 0.3
            counts = entry.canary if canary else entry.stable
            latency_us = 10_000 * math.exp(0.4 * rng.gauss(0, 1)) * (slower if canary and rng.random() < share else 1.0)
            leaves_us = rng.uniform(*patience_us)
            if latency_us <= leaves_us:
                counts.requests += 1
                bucket = bucket_of(int(latency_us))
                counts.latency[bucket] = counts.latency.get(bucket, 0) + 1
            else:
                bucket = bucket_of(int(leaves_us))
                counts.aborted[bucket] = counts.aborted.get(bucket, 0) + 1
        state, analysis = judge(SPEC, state, Evidence(0.1 * tick, (entry,)))
        if analysis.verdict == wanted:
            break
    return analysis


def test_a_hanging_canary_is_convicted_by_those_who_left() -> None:
    # Nobody ever hears from the canary: without the aborts there is no canary request at all.
    analysis = run(1, 1e6, (50_000, 500_000))
    assert analysis.verdict == "FAIL" and analysis.causes == ("latency",), analysis.reason


@pytest.mark.parametrize("patience_us", [(1, 20_000), (5_000, 60_000)])
def test_a_hanging_canary_is_never_passed_however_impatient_the_clients(patience_us: tuple[int, int]) -> None:
    for seed in range(2):
        assert run(seed, 1e6, patience_us, 200, "PASS", share=0.5).verdict != "PASS", f"seed {seed}"


@pytest.mark.parametrize("patience_us", [(1, 30_000), (10_000, 20_000)])
def test_equal_arms_with_impatient_clients_are_not_convicted(patience_us: tuple[int, int]) -> None:
    for seed in range(3):
        assert run(seed, 1.0, patience_us, 200).verdict != "FAIL", f"seed {seed}"


def test_a_canary_within_the_tolerance_is_not_convicted_by_impatience() -> None:
    # Patience between stable's quantile and the tolerated one takes fast answers away from the canary alone.
    for seed in range(4):
        assert run(seed, 1.2, (8_000, 14_000), 200).verdict != "FAIL", f"seed {seed}"


def test_an_equal_canary_is_passed_all_the_same() -> None:
    assert run(2, 1.0, (15_000, 200_000), 600, "PASS").verdict == "PASS"
