"""A seeded world in front of the judge: requests with known truth, one tick at a time."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import pytest

from gateway.core.analysis import Analysis, AnalysisSpec, Evidence, fresh_state, judge
from gateway.core.stats import Counts, EpochCounts, bucket_of


class World:
    """One route under test. Rates are per request, latencies log-normal around a median in microseconds.

    ``seed`` is part of every assertion's message, so that a failure can be repeated.
    """

    def __init__(self, seed: int, weight_bp: int = 500, spec: AnalysisSpec | None = None, rps: int = 200) -> None:
        self.seed = seed
        self.random = random.Random(seed)
        self.spec = spec or AnalysisSpec()
        self.state = fresh_state(self.spec)
        self.epochs: list[EpochCounts] = []
        self.at_s = 0.0
        self.rps = rps
        self.errors = [0.0, 0.0]
        self.median_us = [2_000.0, 2_000.0]
        self.added_us = [0, 0]
        self.set_weight(weight_bp)

    def set_weight(self, weight_bp: int) -> None:
        """The next requests are assigned under a new epoch."""
        self.epochs.append(EpochCounts("r", len(self.epochs) + 1, weight_bp))

    @property
    def canary_requests(self) -> int:
        return sum(entry.canary.requests for entry in self.epochs)

    @property
    def evidence(self) -> Evidence:
        return Evidence(self.at_s, tuple(self.epochs))

    def request(self) -> None:
        """One request, assigned by an independent coin."""
        epoch = self.epochs[-1]
        arm = int(self.random.random() * 10_000 < epoch.weight_bp)
        latency_us = self.median_us[arm] * math.exp(0.4 * self.random.gauss(0.0, 1.0)) + self.added_us[arm]
        self.answer(epoch.canary if arm else epoch.stable, self.random.random() < self.errors[arm], latency_us)

    def answer(self, counts: Counts, error: bool, latency_us: float) -> None:
        bucket = bucket_of(int(latency_us))
        counts.requests += 1
        counts.enter("errors", error)
        counts.latency[bucket] = counts.latency.get(bucket, 0) + 1
        counts.duration[bucket] = counts.duration.get(bucket, 0) + 1

    def judge(self, tick_s: float = 0.1) -> Analysis:
        """Time passes, the judge looks."""
        self.at_s += tick_s
        self.state, analysis = judge(self.spec, self.state, self.evidence)
        return analysis

    def tick(self, requests: int | None = None) -> Analysis:
        """A tenth of a second of traffic, then a look."""
        for _ in range(self.rps // 10 if requests is None else requests):
            self.request()
        return self.judge()

    def until(self, verdict: str, ticks: int, requests: int | None = None) -> Analysis:
        """Ticks until the verdict, at most ``ticks``; the last analysis either way."""
        for _ in range(ticks):
            analysis = self.tick(requests)
            if analysis.verdict == verdict:
                break
        return analysis


@pytest.fixture(scope="session")
def make_world() -> Callable[..., World]:
    """The world's constructor."""
    return World
