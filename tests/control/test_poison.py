"""Evidence that cannot be true, or that speaks of other times: it is dropped and counted, and promotes nobody."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gateway.core.rollout import Phase
from gateway.runtime import wire
from tests.support.control import Plane, text
from tests.support.worker import eventually

pytestmark = pytest.mark.anyio

BEYOND = 1 << 40
# What is done to a worker's report, and whether it can be read at all: else that worker's connection ends.
POISONS: dict[str, tuple[Callable[[dict[str, Any]], None], bool]] = {
    "not a number": (lambda canary: canary.update(requests=math.nan), False),
    "infinite": (lambda canary: canary.update(outcomes={"errors": math.inf}), False),
    "a half": (lambda canary: canary.update(requests=0.5), False),
    "negative": (lambda canary: canary.update(outcomes={"errors": -5}), True),
    "a negative sum": (lambda canary: canary.update(requests=-1, outcomes={}), True),
    "more failures than requests": (lambda canary: canary.update(requests=1, outcomes={"errors": 2}), True),
    "classes that are more than requests together": (
        lambda canary: canary.update(requests=3, outcomes={"errors": 2, "not_found": 2}),
        True,
    ),
    "a class that nobody knows": (lambda canary: canary.update(outcomes={"fine": 1}), True),
    "a latency of 1e308": (lambda canary: canary.update(latency={1e308: 5}), False),
    "a latency beyond the histogram": (lambda canary: canary.update(latency={BEYOND: 5}), True),
    "more latencies than requests": (lambda canary: canary.update(latency={1: BEYOND}), True),
}


def poisoned(report: wire.Report, poison: Callable[[dict[str, Any]], None]) -> bytes:
    """The report as bytes, with its canary's counts altered."""
    tree = msgspec.msgpack.decode(msgspec.msgpack.encode(report))
    entry = next(entry for entry in tree["evidence"] if entry["epoch"] == report.epoch)
    poison(entry["canary"])
    return wire.frame(msgspec.msgpack.encode(tree))


@pytest.mark.parametrize("name", POISONS)
async def test_a_poisoned_report_is_dropped_and_counted_and_promotes_nobody(tmp_path: Path, name: str) -> None:
    poison, readable = POISONS[name]
    async with Plane(tmp_path, text()) as plane:
        rollout = (await plane.controller.commands.start("r", "alice")).id
        await plane.serve(10, 10)
        worker = plane.workers[0]
        worker.serve(10, 10)
        worker.writer.write(poisoned(worker.tally.report(worker.epoch, 0, 0, 0), poison))
        if readable:
            await eventually(lambda: plane.controller.traffic().rejected_reports == 1, "it is rejected")
        else:
            await eventually(lambda: len(plane.controller.hub.sessions) == 1, "the connection ends")
        for _ in range(3):
            plane.tick()
        assert (plane.state().phase, plane.weight_bp()) == (Phase.PROGRESSING, 2000)
        assert plane.controller.rollout(rollout).canary_requests == 20, "the last good report stands"


async def test_evidence_of_an_epoch_that_is_yet_to_come_counts_for_nothing(tmp_path: Path) -> None:
    async with Plane(tmp_path, text()) as plane:
        rollout = (await plane.controller.commands.start("r", "alice")).id
        for worker in plane.workers:
            report = worker.tally.report(worker.epoch, 0, 0, 0)
            entry = next(entry for entry in report.evidence if entry.epoch == report.epoch)
            entry.epoch += 500
            entry.stable.requests = entry.stable.assigned = 48_000
            entry.canary.requests = entry.canary.assigned = 12_000
            worker.writer.write(wire.encode(report))
            await eventually(lambda w=worker, r=report: w.acked >= r.seq, "it was taken in")
        for _ in range(3):
            plane.tick()
        assert (plane.state().phase, plane.weight_bp()) == (Phase.PROGRESSING, 2000)
        assert plane.controller.rollout(rollout).canary_requests == 0


async def test_no_clock_but_controls_own_decides(tmp_path: Path) -> None:
    """What workers send has one moment in it, the end of a certificate; whatever they take for now changes nothing."""
    assert [name for name in wire.Report.__struct_fields__ if name.endswith("_s")] == ["tls_not_after_s"]
    assert not [name for name in wire.Hello.__struct_fields__ if name.endswith("_s")]
    found = []
    for number, skews_s in enumerate([(0.0, 0.0), (-3600.0, 86_400.0)]):
        place = tmp_path / str(number)
        place.mkdir()
        async with Plane(place, text()) as plane:
            await plane.controller.commands.start("r", "alice")
            for worker, skew_s in zip(plane.workers, skews_s, strict=True):
                worker.tally.tls_not_after_s = plane.clock.wall_now_s + 365 * 86_400.0 + skew_s
                plane.clock.wall_now_s += skew_s
            await plane.good()
            await plane.quiet()
            state = plane.state()
            found.append((state.phase, state.step_index, state.weight_bp, plane.alarms()))
    assert found == [(Phase.PROGRESSING, 1, 5000, [])] * 2


async def test_a_canary_that_nobody_asks_is_never_promoted(tmp_path: Path) -> None:
    steps = [{"percent": 20, "min_time_s": 0, "min_requests": 0}]
    plan = {"steps": steps, "deadline_s": 60, "on_deadline": "promote"}
    async with Plane(tmp_path, text(plan=plan)) as plane:
        rollout = (await plane.controller.commands.start("r", "alice")).id
        for _ in range(70):
            for worker in plane.workers:
                worker.serve(100, 0)
                await worker.report()
            plane.tick(1.0)
            assert plane.weight_bp() <= 2000
        view = plane.controller.rollout(rollout)
        assert (view.phase, plane.weight_bp(), plane.stable()) == ("ROLLED_BACK", 0, "v1")
        assert "a canary that was not judged is never promoted" in view.reason
