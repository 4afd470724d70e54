"""Rollouts of two equal versions whose clients leave: does their leaving ever look like the canary's doing?

Rows of metrics.py. Every request has a latency T and a time C at which its client would leave; what is counted is T, or
C and that it left. Neither looks at the version. The engine's own code, without the default tolerance, at one look a
second and 60 requests per second, 30 % of them on the canary, in worlds of:

fixed         all clients leave after the same time, which a tenth of the answers outlast
exponential   clients leave at random, two fifths of them before their answer
by request    a large request takes longer, and its client waits longer: C depends on the request, and so on T

``gap`` is the same of event streams of ten events: C is a time from the first event on, and what is left is known to
have paused as long as its longest pause until then, the open one included.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from gateway.core.analysis import LatencySpec
from gateway.core.analysis.evidence.intake import Arrival
from gateway.core.analysis.metrics import time_slices
from gateway.core.stats import Counts, bucket_of

WORLDS = ("fixed", "exponential", "by request")
SLICES = 120
EVENTS = 10
REQUESTS_PER_S, WEIGHT = 60.0, 0.3
SHARP = LatencySpec(tolerance_ratio=1.0, tolerance_us=0)
Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]


def equal(metric: str, world: str, runs: int, rng: np.random.Generator) -> Floats:
    """The highest log E of ``latency`` or ``gap`` in each rollout."""
    highest = np.zeros(runs)
    for run in range(runs):
        state = time_slices.fresh(SHARP)
        arms = [_arm(metric, world, REQUESTS_PER_S * share, rng) for share in (1.0 - WEIGHT, WEIGHT)]
        for second, (stable, canary) in enumerate(zip(*arms, strict=True)):
            state = time_slices.take(state, SHARP, [Arrival(1, stable, canary)], [1], float(second), metric)
            highest[run] = max(highest[run], time_slices.log_e_bad(state))
    return highest


def _arm(metric: str, world: str, per_s: float, rng: np.random.Generator) -> list[Counts]:
    """What one version's counts gain in each second."""
    numbers = np.maximum(rng.poisson(per_s, SLICES), 1)
    size = rng.lognormal(0.0, 0.8, numbers.sum())
    if metric == "gap":
        times_us, left = _pauses(world, size, rng)
    else:
        times_us, left = _waits(world, size, rng)
    out, at = [], 0
    for n in numbers.tolist():
        counts = Counts(n)
        whole, gone = (counts.gap, counts.gap_left) if metric == "gap" else (counts.latency, counts.aborted)
        for time_us, leaves in zip(times_us[at : at + n].tolist(), left[at : at + n].tolist(), strict=True):
            into, bucket = (gone if leaves else whole), bucket_of(int(time_us))
            into[bucket] = into.get(bucket, 0) + 1
        out.append(counts)
        at += n
    return out


def _waits(world: str, size: Floats, rng: np.random.Generator) -> tuple[Floats, Flags]:
    latency_us = 20_000.0 * size * rng.lognormal(0.0, 0.3, size.shape)
    patience_us = _patience_us(world, size, rng, 60_000.0)
    return np.minimum(latency_us, patience_us), latency_us > patience_us


def _pauses(world: str, size: Floats, rng: np.random.Generator) -> tuple[Floats, Flags]:
    pauses_us = 20_000.0 * size[:, None] * rng.lognormal(0.0, 0.6, (len(size), EVENTS))
    ends_us = pauses_us.cumsum(axis=1)
    patience_us = _patience_us(world, size, rng, 60_000.0 * EVENTS)
    # Of each pause what the client saw of it: all, a part, or nothing.
    seen_us = np.clip(patience_us[:, None] - (ends_us - pauses_us), 0.0, pauses_us)
    return seen_us.max(axis=1), ends_us[:, -1] > patience_us


def _patience_us(world: str, size: Floats, rng: np.random.Generator, typical_us: float) -> Floats:
    if world == "fixed":
        return np.full(size.shape, typical_us)
    if world == "exponential":
        return rng.exponential(typical_us / 1.2, size.shape)
    return 0.5 * typical_us * size * rng.lognormal(0.0, 0.5, size.shape)
