"""Recorded traffic out of a seeded generator, as the CSV that `gateway replay` reads."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

Weights = Callable[[float], float]


class Arm(NamedTuple):
    """How one arm fails and how slow it is; in a burst (of one interval) a share of its requests fails or waits."""

    error_rate: float
    burst_probability: float = 0.0
    burst_error_share: float = 0.0
    burst_slow_share: float = 0.0


def ramp(*steps: tuple[float, float]) -> Weights:
    """Weights in percent by time: ``(from_s, percent)``, ascending."""
    return lambda at_s: [percent for from_s, percent in steps if at_s > from_s][-1]


def recorded(
    seed: int,
    stable: Arm,
    canary: Arm,
    weights: Weights,
    *,
    duration_s: float,
    interval_s: float = 5.0,
    rate_per_s: float = 100.0,
    latency: bool = False,
) -> Iterator[str]:
    """The lines of a recording, header first."""
    rng = random.Random(seed)
    yield "at_s,variant,requests,errors,weight_percent" + (",latency_ms" if latency else "")
    for tick in range(1, round(duration_s / interval_s) + 1):
        at_s = tick * interval_s
        percent = weights(at_s)
        total = round(rate_per_s * interval_s * rng.uniform(0.9, 1.1))
        ours = _binomial(rng, total, percent / 100)
        for name, arm, requests in (("stable", stable, total - ours), ("canary", canary, ours)):
            yield _row(rng, f"{at_s:g},{name}", arm, requests, percent, latency=latency)


def _row(rng: random.Random, head: str, arm: Arm, requests: int, percent: float, *, latency: bool) -> str:
    burst = rng.random() < arm.burst_probability
    errors = _binomial(rng, requests, arm.burst_error_share if burst else arm.error_rate)
    row = f"{head},{requests},{errors},{percent:g}"
    if not latency:
        return row
    waiting = _binomial(rng, requests, arm.burst_slow_share if burst else 0.0)
    return f"{row},{';'.join(_latencies(rng, requests - waiting, waiting))}"


def _latencies(rng: random.Random, quick: int, waiting: int) -> Iterable[str]:
    counts: dict[int, int] = {}
    for index in range(quick + waiting):
        ms = round(rng.lognormvariate(3.0, 0.3)) + (300 if index >= quick else 0)
        counts[ms] = counts.get(ms, 0) + 1
    return (f"{ms}:{many}" for ms, many in sorted(counts.items()))


def _binomial(rng: random.Random, n: int, p: float) -> int:
    return sum(rng.random() < p for _ in range(n))


def good() -> Iterator[str]:
    """A canary as good as stable, on the steps of the default plan."""
    arm = Arm(0.002)
    weights = ramp((0, 1), (120, 5), (240, 25), (360, 50))
    return recorded(11, arm, arm, weights, duration_s=2400)


def sparse() -> Iterator[str]:
    """A canary that fails 1 % of its requests where stable fails 0.2 %: far above the radar of a 95 or 99 % rule."""
    return recorded(12, Arm(0.002), Arm(0.01), ramp((0, 10)), duration_s=2400)


def bursty() -> Iterator[str]:
    """Two equal arms with pauses of their own: now and then half of an arm's requests wait 300 ms, and some fail."""
    arm = Arm(0.002, burst_probability=0.04, burst_error_share=0.03, burst_slow_share=0.5)
    return recorded(13, arm, arm, ramp((0, 25)), duration_s=1800, rate_per_s=60.0, latency=True)
