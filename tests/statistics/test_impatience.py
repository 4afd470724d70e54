"""Clients that leave two equal versions convict nobody; clients that leave one that hangs in its streams do."""

from __future__ import annotations

import math
import random

import msgspec
import numpy as np
import pytest

from gateway.core.analysis import AnalysisSpec, Evidence, LatencySpec, Mode, RateSpec, fresh_state, judge
from gateway.core.analysis.spec import LATENCY_METRICS, RATE_METRICS, ROUTE_DEFAULT
from gateway.core.analysis.types import Analysis
from gateway.core.stats import Counts, EpochCounts, bucket_of
from loadtests.statistics import impatience

RUNS, ALPHA = 20, 0.05


@pytest.mark.parametrize("metric", ["latency", "gap"])
@pytest.mark.parametrize("world", impatience.WORLDS)
def test_equal_versions_are_spared_whatever_the_patience(metric: str, world: str) -> None:
    highest = impatience.equal(metric, world, RUNS, np.random.default_rng([8, impatience.WORLDS.index(world)]))
    assert len(highest) == RUNS and (highest > 0.0).any(), "there was something to see"
    # One of twenty is what alpha allows on average; four happen once in 60 times at a rate of exactly alpha.
    assert (highest >= -math.log(ALPHA)).sum() < 4


def stream(counts: Counts, rng: random.Random, hangs: float, patience_s: float) -> None:
    """One stream of 20 events, a share of which hangs after some; its client leaves in the pause that is too long."""
    counts.requests += 1
    first_us = int(30_000 * math.exp(rng.gauss(0, 0.3)))
    pauses_s = [0.02 * math.exp(rng.gauss(0, 0.4)) for _ in range(20)]
    left = rng.random() < hangs
    if left:
        pauses_s = [*pauses_s[: rng.randrange(1, 15)], patience_s]
        counts.enter("abandoned")
    ended_s = pauses_s[:-1] if left else pauses_s
    for histogram, time_us in (
        (counts.latency, first_us),
        (counts.duration_left if left else counts.duration, first_us + int(1e6 * sum(pauses_s))),
        (counts.gap_left if left else counts.gap, int(1e6 * max(pauses_s))),
        (counts.time_per_event, int(1e6 * sum(ended_s) / len(ended_s))),
    ):
        bucket = bucket_of(time_us)
        histogram[bucket] = histogram.get(bucket, 0) + 1


WARM = msgspec.structs.replace(ROUTE_DEFAULT, warmup_s=0.0, warmup_requests=0)


def rollout(hangs: float, both: bool, seconds: int, spec: AnalysisSpec = WARM) -> tuple[Analysis, int]:
    """The verdict and when it fell, of 20 streams per second, 30 % of them on the canary."""
    rng, state, entry = random.Random(4), fresh_state(spec), EpochCounts("r", 1, 3_000)
    for second in range(1, seconds + 1):
        for _ in range(20):
            canary = rng.random() < 0.3
            stream(entry.canary if canary else entry.stable, rng, hangs if canary or both else 0.0, 3.0)
        state, analysis = judge(spec, state, Evidence(float(second), (entry,)))
        if analysis.verdict in ("FAIL", "PASS"):
            break
    return analysis, second


def test_a_version_that_hangs_in_its_streams_is_convicted_by_those_who_leave_it() -> None:
    analysis, second = rollout(0.3, both=False, seconds=60)
    assert analysis.verdict == "FAIL" and second <= 40, analysis.reason
    assert set(analysis.causes) <= {"abandoned", "gap"} and analysis.causes, analysis.reason
    alone = msgspec.structs.replace(WARM, abandoned=RateSpec(mode=Mode.OFF))
    analysis, second = rollout(0.3, both=False, seconds=60, spec=alone)
    assert (analysis.verdict, analysis.causes) == ("FAIL", ("gap",)) and second <= 60, analysis.reason


def test_two_versions_that_clients_leave_alike_are_promoted() -> None:
    analysis, second = rollout(0.1, both=True, seconds=400)
    assert analysis.verdict == "PASS", f"after {second} s: {analysis.reason}"


def paused(metric: str, slower: float, stalls: tuple[float, float], events: int) -> Analysis:
    """The verdict on one statistic of streams with events 20 ms apart, or ``slower``; ``stalls``: shares of pauses."""
    off = {name: LatencySpec(mode=Mode.OFF) for name in LATENCY_METRICS} | {metric: LatencySpec()}
    rates = dict.fromkeys(RATE_METRICS, RateSpec(mode=Mode.OFF))
    spec = AnalysisSpec(**off, **rates)  # type: ignore[arg-type]  # specs by name
    rng, state, entry = np.random.default_rng(5), fresh_state(spec), EpochCounts("r", 1, 3_000)
    for second in range(1, 101):
        for counts, streams, factor, share in (
            (entry.stable, 14, 1.0, stalls[0]),
            (entry.canary, 6, slower, stalls[1]),
        ):
            shape = (streams, events)
            pauses_us = 20_000.0 * factor * rng.lognormal(0.0, 0.3, shape)
            pauses_us += (rng.random(shape) < share) * rng.uniform(100_000.0, 600_000.0, shape)
            counts.requests += streams
            histogram = getattr(counts, metric)
            for time_us in (pauses_us.max(axis=1) if metric == "gap" else pauses_us.mean(axis=1)).tolist():
                bucket = bucket_of(int(time_us))
                histogram[bucket] = histogram.get(bucket, 0) + 1
        state, analysis = judge(spec, state, Evidence(float(second), (entry,)))
        if analysis.verdict in ("FAIL", "PASS"):
            break
    return analysis


@pytest.mark.parametrize(
    ("slower", "stalls", "events", "gap", "mean"),
    [
        (1.0, (0.02, 0.02), 60, "PASS", "PASS"),
        (4.0, (0.0, 0.0), 60, "FAIL", "FAIL"),
        # Stalls that both versions have hide slow tokens from the largest pause...
        (4.0, (0.02, 0.02), 60, "PASS", "FAIL"),
        # ... and long streams hide one stall from the mean.
        (1.0, (0.0, 0.0015), 400, "FAIL", "PASS"),
    ],
)
def test_neither_the_largest_pause_nor_the_mean_sees_all(
    slower: float, stalls: tuple[float, float], events: int, gap: str, mean: str
) -> None:
    found = [paused(metric, slower, stalls, events) for metric in ("gap", "time_per_event")]
    assert [one.verdict for one in found] == [gap, mean], [one.reason for one in found]
