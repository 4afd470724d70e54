"""The observer: whatever becomes of the workers' messages, the merged counts are the workers' own."""

from __future__ import annotations

import random

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from gateway.control.observer import Observer
from gateway.core.analysis.types import Evidence
from gateway.core.stats.counts import Counts
from gateway.core.types import Variant
from gateway.proxy.tally import Tally
from gateway.core.traffic.table import Route
from gateway.runtime.wire import Report

ROUTE = Route("r", "/", stable="a", canary="b", weight_bp=1000)


class Worker:
    """A worker's real tally, and the truth beside it."""

    def __init__(self, boot: str) -> None:
        self.tally = Tally(boot)
        self.boot = boot
        self.epoch = 0
        self.truth: dict[int, list[int]] = {}

    def enter(self, epoch: int) -> None:
        self.epoch = epoch
        self.route = self.tally.enter_table(epoch, (ROUTE,))["r"]
        self.truth[epoch] = [0, 0]

    def serve(self, variant: Variant, kind: str) -> None:
        self.route.count(variant, kind, 1000, 2000)
        self.truth[self.epoch][variant] += 1

    def report(self) -> Report:
        sent = self.tally.report(self.epoch, 0, 0, 0)
        return msgspec.msgpack.decode(msgspec.msgpack.encode(sent), type=Report)


def _requests(evidence: Evidence) -> dict[int, list[int]]:
    return {e.epoch: [e.stable.requests, e.canary.requests] for e in evidence.epochs}


@given(st.integers(0, 2**32), st.integers(1, 4))
def test_lost_repeated_and_reordered_reports_change_nothing(seed: int, workers: int) -> None:
    dice = random.Random(seed)
    observer = Observer()
    alive = [Worker(f"w{i}") for i in range(workers)]
    everyone = list(alive)
    for worker in alive:
        worker.enter(1)
    in_flight: list[Report] = []
    last: dict[int, list[int]] = {}
    for now in range(60):
        worker = dice.choice(alive)
        for _ in range(dice.randrange(4)):
            worker.serve(Variant(dice.randrange(2)), dice.choice(["ok", "errors", "overload"]))
        in_flight += [worker.report()] * dice.randrange(3)  # 0: lost, 2: repeated
        dice.shuffle(in_flight)
        if in_flight and dice.random() < 0.7:
            report = in_flight.pop()
            if observer.take(report, now) and dice.random() < 0.5:
                next(w for w in everyone if w.boot == report.boot).tally.acknowledged(report.seq)
        if dice.random() < 0.1:
            epoch = max(w.epoch for w in alive) + 1
            for each in alive:
                each.enter(epoch)
        if dice.random() < 0.05:  # a worker dies with everything it said heard, and another takes its place
            dead = alive.pop(dice.randrange(len(alive)))
            in_flight = [r for r in in_flight if r.boot != dead.boot]
            observer.take(dead.report(), now)
            observer.gone(dead.boot, now)
            alive.append(Worker(f"w{len(everyone)}"))
            everyone.append(alive[-1])
            alive[-1].enter(max(w.epoch for w in everyone))
        merged = _requests(observer.evidence("r", 0, 1 << 60, now))
        for epoch, before in last.items():
            assert all(n >= b for n, b in zip(merged[epoch], before, strict=True)), f"epoch {epoch} went backwards"
        last = merged
    for worker in alive:
        observer.take(worker.report(), 60)
    expected: dict[int, list[int]] = {}
    for worker in everyone:
        for epoch, counts in worker.truth.items():
            total = expected.setdefault(epoch, [0, 0])
            total[0] += counts[0]
            total[1] += counts[1]
    merged = _requests(observer.evidence("r", 0, 1 << 60, 60.0))
    assert {e: c for e, c in merged.items() if any(c)} == {e: c for e, c in expected.items() if any(c)}


def test_a_report_that_cannot_be_true_is_rejected_and_counted() -> None:
    observer = Observer()
    worker = Worker("w")
    worker.enter(1)
    worker.serve(Variant.CANARY, "ok")
    assert observer.take(worker.report(), 0.0)
    poisoned = worker.report()
    poisoned.evidence[0].canary = Counts(requests=5, errors=9)
    assert not observer.take(poisoned, 1.0)
    assert _requests(observer.evidence("r", 0, 9, 1.0)) == {1: [0, 1]}, "the last good report stands"
    assert observer.merged().rejected_reports == 1


def test_what_is_kept_of_old_epochs_is_bounded() -> None:
    observer = Observer()
    worker = Worker("w")
    for epoch in range(1, 500):
        worker.enter(epoch)
        worker.serve(Variant.CANARY, "ok")
        report = worker.report()
        observer.take(report, float(epoch))
        worker.tally.acknowledged(report.seq)
        observer.forget(epoch, float(epoch))
        assert len(report.evidence) <= 3
        assert len(observer.evidence("r", 0, epoch, float(epoch)).epochs) <= 10
