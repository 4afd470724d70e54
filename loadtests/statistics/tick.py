"""What one look of the judge costs: microseconds per tick with four, ten and thirty metrics, and per shown analysis.

    python -m loadtests.statistics.tick [--ticks 300]

One line of JSON for each row: the median over ticks of fresh evidence, 2,000 requests/s, ten ticks a second, latencies
over some 200 buckets, and the fastest of the later half, which a busy machine disturbs least. Read it as an order of
magnitude. A tick is what the controller does at every look (`look`); the sentences about every metric and the intervals
are made when an analysis is shown.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import statistics
import time

from gateway.core.analysis import (
    AnalysisSpec,
    EventSpec,
    Evidence,
    GuardrailSpec,
    LatencySpec,
    explained,
    fresh_state,
    look,
)
from gateway.core.analysis.spec import Unit, Worse
from gateway.core.stats import EpochCounts, bucket_of

_REQUESTS = 200


def spec_with(metrics: int) -> AnalysisSpec:
    """The four built-in metrics, and others of every kind up to ``metrics``."""
    if metrics <= 4:
        return AnalysisSpec()
    left = metrics - 4 - 3
    events = tuple(
        EventSpec(
            f"event_{i}", worse=(Worse.HIGHER, Worse.DIFFERENT)[i % 2], unit=(Unit.REQUEST, Unit.SLICE)[i % 3 == 2]
        )
        for i in range(left)
    )
    return AnalysisSpec(duration=LatencySpec(), events=events, guardrails=(GuardrailSpec("errors", 0.5), _SLOW))


_SLOW = GuardrailSpec("latency", 0.5, threshold_us=100_000)


def measure(metrics: int, ticks: int) -> dict[str, float]:
    """Median microseconds of a tick, and of making an analysis ready to be shown."""
    rng, spec = random.Random(1), spec_with(metrics)
    state, entry = fresh_state(spec), EpochCounts("r", 1, 1_000)
    looks, shows = [], []
    for tick in range(1, ticks + 1):
        for _ in range(_REQUESTS):
            counts = entry.canary if rng.random() < 0.1 else entry.stable
            bucket = bucket_of(int(20_000 * math.exp(0.8 * rng.gauss(0, 1))))
            counts.assigned += 1
            counts.requests += 1
            counts.enter("errors", rng.random() < 0.01)
            for histogram in (counts.latency, counts.duration):
                histogram[bucket] = histogram.get(bucket, 0) + 1
            for event in spec.events:
                counts.label(event.name, rng.random() < 0.05)
        begun = time.perf_counter()
        state, seen = look(spec, state, Evidence(0.1 * tick, (entry,)))
        judged = time.perf_counter()
        explained(state, seen.analysis)
        looks.append(1e6 * (judged - begun))
        shows.append(1e6 * (time.perf_counter() - judged))
    return {
        "metrics": len(seen.analysis.findings) - 1,
        "tick_us": round(statistics.median(looks)),
        "fastest_us": round(min(looks[len(looks) // 2 :])),
        "shown_us": round(statistics.median(shows)),
    }


def main() -> None:
    """Print the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ticks", type=int, default=300)
    ticks = parser.parse_args().ticks
    for metrics in (4, 10, 30):
        print(json.dumps(measure(metrics, ticks)))


if __name__ == "__main__":
    main()
