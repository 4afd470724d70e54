"""What a scrape of the admin listener costs the control process: time on its event loop, and time beside it.

A control plane with many routes is made in this process, with two workers' reports in it; nothing is sent anywhere.

    python loadtests/scrape_cost.py --routes 1000
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gateway.config.build import routing_table
from gateway.config.load import load
from gateway.control.controller import Controller
from gateway.control.journal.sqlite_store import SqliteStore
from gateway.control.show.metrics import Scrape
from gateway.runtime.wire import Report, RouteTotals

_HISTOGRAM = dict.fromkeys(range(200, 300), 5)


def configuration(routes: int) -> str:
    """So many routes, each with two backends of two endpoints."""
    lines = ["backends:"]
    for n in range(routes):
        endpoints = "endpoints: ['http://127.0.0.1:9', 'http://127.0.0.1:10']"
        lines += [f"  {role}{n}: {{{endpoints}}}" for role in ("stable", "canary")]
    lines.append("routes:")
    for n in range(routes):
        match = f"match: {{path_prefix: /m{n}}}"
        lines.append(f"  - {{name: r{n}, {match}, stable: stable{n}, canary: canary{n}}}")
    return "\n".join(lines)


def report(worker: int, routes: int) -> Report:
    """What a worker has counted on every route."""
    totals = [
        RouteTotals(
            f"r{n}",
            variant,
            answered={200: 10, 404: 2},
            tries={"ok": 10},
            first_byte=dict(_HISTOGRAM),
            duration=dict(_HISTOGRAM),
        )
        for n in range(routes)
        for variant in (0, 1)
    ]
    return Report(
        boot=f"boot-{worker}",
        seq=1,
        epoch=1,
        evidence=[],
        totals=totals,
        faults={},
        in_flight=0,
        connections=0,
        upstream_connections=0,
    )


def timed(function: Callable[[], Any], times: int) -> tuple[float, Any]:
    """Milliseconds of the median call, and what the last one returned."""
    took, result = [], None
    for _ in range(times):
        began = time.perf_counter()
        result = function()
        took.append(time.perf_counter() - began)
    return statistics.median(took) * 1000, result


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="What a scrape costs the control process.")
    parser.add_argument("--routes", type=int, default=1000)
    parser.add_argument("--times", type=int, default=7)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "gateway.yaml")
        path.write_text(configuration(asked.routes))
        config = load(path)
        store = SqliteStore.open(Path(directory, "state.sqlite3"))
        controller = Controller(config, routing_table(config, epoch=1), store)
        aggregator = controller._aggregator  # noqa: SLF001  # its input is a worker's connection, which this has not
        for worker in (0, 1):
            aggregator.arrived(f"boot-{worker}", worker, 0.0)
            aggregator.take(report(worker, asked.routes), 0.0)
        loop_ms, scrape = timed(lambda: Scrape(controller), asked.times)
        beside_ms, rendered = timed(lambda: scrape.render(openmetrics=False), 3)
        store.close()
    print(f"{asked.routes} routes, {len(rendered[0]) / 1e6:.1f} MB")
    print(f"on the event loop: {loop_ms:.1f} ms")
    print(f"on a thread beside it: {beside_ms:.0f} ms")


if __name__ == "__main__":
    main()
