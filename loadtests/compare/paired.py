"""Whether one build of the gateway costs more per request than another, side by side and in turns.

    python loadtests/compare/paired.py BEFORE AFTER [--workloads small,sse] [--slices 15] [--seconds 1] [--peer nginx]

BEFORE and AFTER are folders with an unpacked wheel each (`shipped.py` makes one of a checkout). Both gateways and a
peer run at the same time on the proxy's core. In each round every one of them is loaded for a slice of a second or two,
in an order that is drawn anew. So a change of the machine's speed falls on all of them alike, which rounds of half a
minute (run.py) cannot promise: where other guests share the cores, those scatter by tens of per cent. Printed per
workload: the median over the rounds of after / before and of each build / peer, with the quartiles.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import random
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

if __name__ == "__main__":  # as a program it sees its own folder; its parts are named from the root
    sys.path[0] = str(Path(__file__).parents[2])

from loadtests.compare import benches, peers, processes
from loadtests.compare.workloads import WORKLOADS, Workload

_GATEWAY = "gateway"
_SHOWN = ("small", "varied", "upload", "sse", "connect")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the command line asks for; returns the exit status."""
    asked = _options().parse_args(arguments)
    random.seed(asked.seed)
    print(f"seed {asked.seed}; CPU per request, median of {asked.slices} rounds (quartiles)")
    print(f"{'':9}{'after / before':26}{'before / ' + asked.peer:26}{'after / ' + asked.peer}")
    for name in asked.workloads.split(","):
        rounds = _rounds(asked, WORKLOADS[name])
        pairs = (("after", "before"), ("before", asked.peer), ("after", asked.peer))
        print(f"{name:9}" + "".join(f"{_spread([one[a] / one[b] for one in rounds]):26}" for a, b in pairs), flush=True)
    return 0


def _rounds(asked: argparse.Namespace, workload: Workload) -> list[dict[str, float]]:
    """What a request cost each of them, in microseconds of CPU, round by round."""
    with contextlib.ExitStack() as stack:
        bench = stack.enter_context(benches.prepared(asked.seconds, [asked.peer], False))
        builds = {"before": asked.before, "after": asked.after}
        running = {
            name: stack.enter_context(
                benches.started(dataclasses.replace(bench, shipped=folder.resolve()), _GATEWAY, workload)
            )
            for name, folder in builds.items()
        }
        running[asked.peer] = stack.enter_context(benches.started(bench, asked.peer, workload))
        found = []
        for number in range(asked.slices + 1):
            costs = {}
            for name in random.sample(list(running), len(running)):
                costs[name] = cost_us(bench, workload, running[name])
            if number:  # the first round warms up
                found.append(costs)
        return found


def cost_us(bench: benches.Bench, workload: Workload, running: peers.Running) -> float:
    """CPU per request of what carries them, over one slice."""
    # Older builds named the module of the worker otherwise.
    carrying = running.carrying or [pid for pid in running.aside if "gateway.proxy." in processes.command_line(pid)]
    before = processes.usage(carrying)
    flooded = benches.flood(bench, workload, running.port, bench.seconds)
    after = processes.usage(carrying)
    if flooded.errors or not flooded.answered:
        raise SystemExit(f"{workload.name}: a slice with errors is no measurement: {flooded}")
    return (after.cpu_ns - before.cpu_ns) / 1e3 / flooded.answered


def _spread(ratios: Sequence[float]) -> str:
    low, middle, high = statistics.quantiles(ratios, n=4)
    return f"{middle:.3f} ({low:.3f} to {high:.3f})"


def _options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="CPU per request of two builds of the gateway, in turns.")
    parser.add_argument("before", type=Path, help="folder of an unpacked wheel")
    parser.add_argument("after", type=Path, help="folder of an unpacked wheel")
    parser.add_argument("--workloads", default=",".join(_SHOWN), help=f"of {', '.join(WORKLOADS)}")
    parser.add_argument("--slices", type=int, default=15, help="rounds of one slice each (default: 15)")
    parser.add_argument("--seconds", type=int, default=1, help="of a slice (default: 1)")
    parser.add_argument("--peer", default="nginx", help="what both are put in relation to (default: nginx)")
    parser.add_argument("--seed", type=int, default=1, help="of the order within rounds")
    return parser


if __name__ == "__main__":
    sys.exit(main())
