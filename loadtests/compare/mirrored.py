"""What mirroring costs: a mirrored request beside an unmirrored one, in turns on the same running gateway.

    python loadtests/compare/mirrored.py [--slices 15] [--seconds 1]

The gateway is the one that is shipped, compiled (COMPARE_GATEWAY names an unpacked wheel). In each round it is loaded
for a slice with ``unmirrored`` and for one with ``mirror``, in an order that is drawn anew. Printed are the median over
the rounds of mirror / unmirrored, with the quartiles: CPU of the worker per request; and the latency that clients see
at the same fixed rate, which is a fourth of what it could take (50th and 99th percentile).
"""

from __future__ import annotations

import argparse
import contextlib
import random
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

if __name__ == "__main__":  # as a program it sees its own folder; its parts are named from the root
    sys.path[0] = str(Path(__file__).parents[2])

from loadtests.compare import benches
from loadtests.compare.paired import cost_us
from loadtests.compare.workloads import WORKLOADS

_GATEWAY = "gateway"
_PLAIN, _MIRROR = WORKLOADS["unmirrored"], WORKLOADS["mirror"]
_SHARE = 0.25


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the command line asks for; returns the exit status."""
    parser = argparse.ArgumentParser(description="What a mirrored request costs beside an unmirrored one.")
    parser.add_argument("--slices", type=int, default=15, help="rounds (default: 15)")
    parser.add_argument("--seconds", type=int, default=1, help="of a slice (default: 1)")
    parser.add_argument("--seed", type=int, default=1, help="of the order within rounds")
    asked = parser.parse_args(arguments)
    random.seed(asked.seed)
    with contextlib.ExitStack() as stack:
        bench = stack.enter_context(benches.prepared(asked.seconds, [_GATEWAY], True))
        running = stack.enter_context(benches.started(bench, _GATEWAY, _PLAIN))
        most = benches.flood(bench, _MIRROR, running.port, asked.seconds)
        rate = _SHARE * most.answered / (most.duration_us / 1e6)
        found: dict[str, list[float]] = {"CPU": [], "p50": [], "p99": []}
        for number in range(asked.slices + 1):
            costs, paced = {}, {}
            for workload in random.sample((_PLAIN, _MIRROR), 2):
                costs[workload] = cost_us(bench, workload, running)
                paced[workload] = benches.pace(bench, workload, running.port, rate)
            if not number:  # the first round warms up
                continue
            found["CPU"].append(costs[_MIRROR] / costs[_PLAIN])
            for name in ("p50", "p99"):
                mirror_us, plain_us = (getattr(paced[one], f"{name}_us") for one in (_MIRROR, _PLAIN))
                if mirror_us and plain_us:
                    found[name].append(mirror_us / plain_us)
    for what, ratios in found.items():
        low, middle, high = statistics.quantiles(ratios, n=4)
        print(f"{what}: mirrored / unmirrored {middle:.3f} ({low:.3f} to {high:.3f})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
