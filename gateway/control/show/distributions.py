"""Both versions' latencies in common bins, as a chart wants them."""

from __future__ import annotations

from collections.abc import Mapping

from gateway.control.views import LatencyDistributions
from gateway.core.analysis import AnalysisState, latencies_seen
from gateway.core.stats.histogram import lower_us

# Histograms have 32 buckets for each power of two; four bins are enough for a curve.
_BUCKETS_PER_BIN = 8


def distributions(rollout_id: str, state: AnalysisState | None) -> LatencyDistributions:
    """The distributions of a rollout; without bins where nothing is known of it."""
    stable, canary = ({}, {}) if state is None else latencies_seen(state)
    binned = _binned(stable), _binned(canary)
    bins = [number for counts in binned for number in counts]
    if not bins:
        return LatencyDistributions(rollout_id, (), (), ())
    # One empty bin at either end: a curve that begins and ends on the ground.
    numbers = range(max(0, min(bins) - 1), max(bins) + 2)
    edges = tuple(lower_us(number * _BUCKETS_PER_BIN) for number in numbers)
    return LatencyDistributions(
        rollout_id, edges, *(tuple(counts.get(number, 0) for number in numbers) for counts in binned)
    )


def _binned(histogram: Mapping[int, int]) -> dict[int, int]:
    out: dict[int, int] = {}
    for bucket, count in histogram.items():
        number = bucket // _BUCKETS_PER_BIN
        out[number] = out.get(number, 0) + count
    return out
