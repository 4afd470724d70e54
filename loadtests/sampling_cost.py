"""What looking at answers costs: in a worker for each answer, and in the inspector for each sample.

    python loadtests/sampling_cost.py

Prints a table in microseconds of one core, in the interpreter that runs it. The answer is that of the bundled digits
models: a label and ten probabilities, in JSON.
"""

from __future__ import annotations

import itertools
import random
import sys
import time
import timeit
from collections.abc import Callable

import msgspec

from gateway.core.predictions.events import WatchSettings
from gateway.core.predictions.settings import RouteWatch
from gateway.core.traffic.table import Route, Tap
from gateway.core.types import Variant
from gateway.inspector.aggregator import Aggregator
from gateway.proxy.counting.epoch_counters import EpochCounters
from gateway.proxy.counting.response_sampler import RouteSampler
from gateway.proxy.counting.sample_link import SampleQueue
from gateway.runtime.samples import FAILURES, Sample
from gateway.runtime.wire import RouteTotals

_HEAD = [b"content-type: application/json\r\n", b"server: model-server\r\n"]
_RUNS = 2_000


def main() -> int:
    """Measure and print."""
    queue = SampleQueue()
    queue.connected = True
    rows = {
        "worker, answer that is sampled": _sampled(Tap(samples_per_s=1e9), queue),
        "worker, answer that is not": _sampled(Tap(share=1e-9), queue),
        "worker, answer that is read for failures": _sampled(Tap(share=0.0, failures_per_s=1e9), queue),
        "worker, answer that is not, its budget being spent": _sampled(Tap(share=0.0, failures_per_s=1e-12), queue),
        "inspector, sample": _inspected(),
        "inspector, answer read for failures": _read("application/json", _answer(0)),
        "inspector, event stream of 100 tokens (12 KiB)": _read("text/event-stream", _stream()),
    }
    print("| what | µs |\n|---|---|")
    for what, run in rows.items():
        # CPU time, so that a busy machine does not show.
        best = min(timeit.repeat(run, number=_RUNS, repeat=9, timer=time.thread_time))
        print(f"| {what} | {best / _RUNS * 1e6:.1f} |")
    return 0


def _sampled(tap: Tap, queue: SampleQueue) -> Callable[[], None]:
    route = Route("r", "/", "stable", "canary", weight_bp=5000, tap=tap)
    totals = (RouteTotals("r", Variant.STABLE), RouteTotals("r", Variant.CANARY))
    counters = EpochCounters(route, 1, totals)
    sampler, body, seconds = RouteSampler(counters, tap, queue), _answer(0), itertools.count(1)

    def run() -> None:
        sample = sampler.begin(Variant.STABLE, b"POST", b"/", b"", 0.5, next(seconds))
        if sample is not None:
            sample.head(200, _HEAD)
            sample.body(body)
            sample.finish()
            queue.batch()

    return run


def _inspected() -> Callable[[], None]:
    aggregator = Aggregator("boot", random.Random(0).random)
    aggregator.watch({"r": RouteWatch(watch=WatchSettings())})
    samples = [Sample("r", 1, 5000, Variant.STABLE, _answer(n), "application/json", "", "") for n in range(10)]
    return lambda: aggregator.take(random.choice(samples), 0.0)


def _read(media: str, body: bytes) -> Callable[[], None]:
    aggregator = Aggregator("boot", random.Random(0).random)
    aggregator.watch({"r": RouteWatch(failures=True)})
    sample = Sample("r", 1, 5000, Variant.STABLE, body, media, "", "", FAILURES)
    return lambda: aggregator.take(sample, 0.0)


def _stream() -> bytes:
    token = {"id": "cmpl-1", "choices": [{"index": 0, "delta": {"content": " word"}, "finish_reason": None}]}
    return b"data: %b\n\n" % msgspec.json.encode(token) * 100 + b"data: [DONE]\n\n"


def _answer(label: int) -> bytes:
    scores = [0.91 if digit == label else 0.01 for digit in range(10)]
    label_output = {"name": "label", "datatype": "INT64", "shape": [1], "data": [label]}
    score_output = {"name": "probabilities", "datatype": "FP32", "shape": [1, 10], "data": scores}
    return msgspec.json.encode({"model_name": "digits", "outputs": [label_output, score_output]})


if __name__ == "__main__":
    sys.exit(main())
