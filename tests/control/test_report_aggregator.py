"""The aggregator: whatever becomes of the workers' messages, the merged counts are the workers' own."""

from __future__ import annotations

import random

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from gateway.control.workers.report_aggregator import ReportAggregator
from gateway.core.analysis.evidence import intake
from gateway.core.analysis.evidence.intake import Intake
from gateway.core.analysis.types import Evidence
from gateway.core.stats.counts import Counts
from gateway.core.traffic.table import Route
from gateway.core.types import Variant
from gateway.proxy.counting.counters import WorkerCounters
from gateway.runtime.wire import Report

ROUTE = Route("r", "/", stable="a", canary="b", weight_bp=1000)


class Worker:
    """A worker's real tally, and the truth beside it."""

    def __init__(self, boot: str, index: int = 0) -> None:
        self.tally = WorkerCounters(boot)
        self.boot = boot
        self.index = index
        self.epoch = 0
        self.truth: dict[int, list[int]] = {}

    def enter(self, epoch: int) -> None:
        self.epoch = epoch
        self.route = self.tally.enter_table(epoch, (ROUTE,))["r"]
        self.truth[epoch] = [0, 0]

    def serve(self, variant: Variant, kind: str) -> None:
        self.route.variants[variant].count(kind, 1000, 2000)
        self.truth[self.epoch][variant] += 1

    def report(self) -> Report:
        sent = self.tally.report(self.epoch, 0, 0, 0)
        return msgspec.msgpack.decode(msgspec.msgpack.encode(sent), type=Report)


def _requests(evidence: Evidence) -> dict[int, list[int]]:
    return {e.epoch: [e.stable.requests, e.canary.requests] for e in evidence.epochs}


class World:
    """Workers that serve, die and are replaced, and a network that loses, repeats and reorders their reports."""

    def __init__(self, seed: int, workers: int) -> None:
        self.dice = random.Random(seed)
        self.aggregator = ReportAggregator()
        self.everyone: list[Worker] = []
        self.alive: list[Worker] = []
        self.in_flight: list[Report] = []
        self.epoch = 1
        for index in range(workers):
            self.born(index, 0.0)

    def born(self, index: int, now: float) -> None:
        worker = Worker(f"w{len(self.everyone)}", index)
        worker.enter(self.epoch)
        self.aggregator.arrived(worker.boot, index, now)
        self.everyone.append(worker)
        self.alive.append(worker)

    def serve(self) -> None:
        worker = self.dice.choice(self.alive)
        for _ in range(self.dice.randrange(4)):
            worker.serve(Variant(self.dice.randrange(2)), self.dice.choice(["ok", "errors", "overload"]))
        self.in_flight += [worker.report()] * self.dice.randrange(3)  # 0: lost, 2: repeated

    def deliver(self, now: float) -> None:
        self.dice.shuffle(self.in_flight)
        if self.in_flight and self.dice.random() < 0.7:
            report = self.in_flight.pop()
            if self.aggregator.take(report, now) and self.dice.random() < 0.5:
                next(w for w in self.everyone if w.boot == report.boot).tally.acknowledged(report.seq)

    def change(self, now: float) -> None:
        if self.dice.random() < 0.1:
            self.epoch += 1
            for worker in self.alive:
                worker.enter(self.epoch)
        if self.dice.random() < 0.05:  # a worker dies with all its reports received, and another takes its place
            dead = self.alive.pop(self.dice.randrange(len(self.alive)))
            self.in_flight = [r for r in self.in_flight if r.boot != dead.boot]
            self.aggregator.take(dead.report(), now)
            self.aggregator.gone(dead.boot)
            self.born(dead.index, now)
        if self.dice.random() < 0.1:  # a connection ends, and the same worker is back
            back = self.dice.choice(self.alive)
            self.aggregator.gone(back.boot)
            self.aggregator.arrived(back.boot, back.index, now)

    def merged(self, now: float) -> dict[int, list[int]]:
        return _requests(self.aggregator.evidence("r", 0, 1 << 60, now))

    def truth(self) -> dict[int, list[int]]:
        total: dict[int, list[int]] = {}
        for worker in self.everyone:
            for epoch, (stable, canary) in worker.truth.items():
                known = total.setdefault(epoch, [0, 0])
                known[0] += stable
                known[1] += canary
        return total


@given(st.integers(0, 2**32), st.integers(1, 4))
def test_lost_repeated_and_reordered_reports_change_nothing(seed: int, workers: int) -> None:
    world = World(seed, workers)
    last: dict[int, list[int]] = {}
    for now in range(60):
        world.serve()
        world.deliver(now)
        world.change(now)
        merged = world.merged(now)
        for epoch, before in last.items():
            assert all(n >= b for n, b in zip(merged[epoch], before, strict=True)), f"epoch {epoch} went backwards"
        last = merged
    for worker in world.alive:
        world.aggregator.take(worker.report(), 60)
    counted = {epoch: counts for epoch, counts in world.merged(60).items() if any(counts)}
    assert counted == {epoch: counts for epoch, counts in world.truth().items() if any(counts)}


@given(st.integers(0, 2**32), st.integers(1, 4))
def test_the_judge_is_never_given_counts_that_went_backwards_or_epochs_that_came_back(seed: int, workers: int) -> None:
    world = World(seed, workers)
    hung: Worker | None = None
    memory, taken = Intake(), [0, 0]
    for now in range(80):
        if hung is None and world.dice.random() < 0.1 and len(world.alive) > 1:
            # It neither serves nor reports nor changes its table, and is not dead.
            hung = world.alive.pop(world.dice.randrange(len(world.alive)))
            world.in_flight = [report for report in world.in_flight if report.boot != hung.boot]
        elif hung is not None and world.dice.random() < 0.1:
            for epoch in range(hung.epoch + 1, world.epoch + 1):
                hung.enter(epoch)  # it passes through all that it has missed
            world.alive.append(hung)
            hung = None
        world.serve()
        world.deliver(now)
        world.change(now)
        world.aggregator.forget(world.epoch, now)
        evidence = world.aggregator.evidence("r", 0, world.epoch, now)
        memory, arrivals = intake.take(memory, evidence)  # raises EvidenceError for what cannot be true
        for arrival in arrivals:
            taken[0] += arrival.stable.requests
            taken[1] += arrival.canary.requests
    truth = [sum(counts[arm] for counts in world.truth().values()) for arm in (0, 1)]
    assert taken[0] <= truth[0] and taken[1] <= truth[1], "nothing is counted twice"


def test_a_worker_without_a_connection_keeps_its_counts_and_loses_its_gauges() -> None:
    aggregator = ReportAggregator()
    worker = Worker("w")
    worker.enter(1)
    aggregator.arrived("w", 0, 0.0)
    worker.serve(Variant.CANARY, "ok")
    aggregator.take(worker.report(), 0.0)
    aggregator.gone("w")
    assert aggregator.merged().reports == []
    assert _requests(aggregator.evidence("r", 0, 9, 0.0)) == {1: [0, 1]}
    aggregator.arrived("w", 0, 1.0)
    aggregator.take(worker.report(), 1.0)
    assert len(aggregator.merged().reports) == 1
    assert _requests(aggregator.evidence("r", 0, 9, 1.0)) == {1: [0, 1]}
    assert aggregator.merged().worker_starts == 1


def test_a_report_that_cannot_be_true_is_rejected_and_counted() -> None:
    aggregator = ReportAggregator()
    worker = Worker("w")
    worker.enter(1)
    worker.serve(Variant.CANARY, "ok")
    assert aggregator.take(worker.report(), 0.0)
    poisoned = worker.report()
    poisoned.evidence[0].canary = Counts(outcomes={"errors": 9}, requests=5)
    assert not aggregator.take(poisoned, 1.0)
    assert _requests(aggregator.evidence("r", 0, 9, 1.0)) == {1: [0, 1]}, "the last good report stands"
    assert aggregator.merged().rejected_reports == 1


def test_what_is_kept_of_old_epochs_is_bounded() -> None:
    aggregator = ReportAggregator()
    worker = Worker("w")
    for epoch in range(1, 500):
        worker.enter(epoch)
        worker.serve(Variant.CANARY, "ok")
        report = worker.report()
        aggregator.take(report, float(epoch))
        worker.tally.acknowledged(report.seq)
        aggregator.forget(epoch, float(epoch))
        assert len(report.evidence) <= 3
        assert len(aggregator.evidence("r", 0, epoch, float(epoch)).epochs) <= 10


def test_labels_gaps_aborts_and_assignments_are_merged_over_workers_lives() -> None:
    aggregator, first, second = ReportAggregator(), Worker("one"), Worker("two", 1)
    for worker in (first, second):
        aggregator.arrived(worker.boot, worker.index, 0.0)
        worker.enter(1)
        arm = worker.route.arms[Variant.CANARY]
        arm.assigned += 3
        arm.label("clicked", True)
        arm.label("clicked", False)
        worker.route.abandoned(Variant.CANARY, 5_000, -1)
        assert aggregator.take(worker.report(), 0.0)
    aggregator.arrived("three", 1, 1.0)
    canary = aggregator.evidence("r", 1, 1, 1.0).epochs[0].canary
    assert (canary.assigned, canary.trials, canary.events) == (6, {"clicked": 4}, {"clicked": 2})
    assert sum(canary.aborted.values()) == 2


def test_a_report_with_more_events_than_trials_is_rejected_whole_and_the_last_good_one_stands() -> None:
    aggregator, worker = ReportAggregator(), Worker("one")
    aggregator.arrived(worker.boot, worker.index, 0.0)
    worker.enter(1)
    worker.serve(Variant.STABLE, "ok")
    assert aggregator.take(worker.report(), 0.0)
    worker.serve(Variant.STABLE, "ok")
    worker.route.arms[Variant.CANARY].events["clicked"] = 1
    assert not aggregator.take(worker.report(), 0.1)
    assert _requests(aggregator.evidence("r", 1, 1, 0.1)) == {1: [1, 0]}
    assert aggregator.merged().rejected_reports == 1


def test_requests_in_flight_are_known_until_the_last_one_of_an_epoch_that_is_over() -> None:
    aggregator, workers = ReportAggregator(), [Worker("a"), Worker("b", 1)]
    for worker in workers:
        aggregator.arrived(worker.boot, worker.index, 0.0)
        worker.enter(1)
        old = worker.route
        old.open += 1
        old.variants[Variant.CANARY].assigned()
        worker.serve(Variant.STABLE, "ok")
        assert aggregator.take(worker.report(), 0.0)
        worker.enter(2)
        assert aggregator.take(worker.report(), 0.0)
    assert (aggregator.in_flight("r", Variant.CANARY), aggregator.in_flight("other", Variant.CANARY)) == (2, 0)
    aggregator.gone("b")
    assert aggregator.in_flight("r", Variant.CANARY) == 1, "a worker that is away serves nothing for us"
    # The last one ends without an outcome, as one that the gateway could not serve does: its epoch is reported no more.
    old = workers[0].tally._retired[0]  # noqa: SLF001  # the epoch that the worker was in before
    old.open -= 1
    for _ in range(2):
        report = workers[0].report()
        assert aggregator.take(report, 0.0)
        workers[0].tally.acknowledged(report.seq)
    assert aggregator.in_flight("r", Variant.CANARY) == 0
