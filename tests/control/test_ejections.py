"""What control makes of ejections: an event for each change, one alarm for each backend, metrics."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from gateway.control.alarms import Alarms
from gateway.control.events import EventLog
from gateway.control.health.ejections import Ejections
from gateway.control.show.health_metrics import ejection_metrics
from gateway.control.workers.report_aggregator import ReportAggregator
from gateway.runtime.clock import SystemClock
from gateway.runtime.wire import Ejected, Report

URL = "http://10.0.0.1:8000"


class Watched:
    def __init__(self) -> None:
        self.aggregator = ReportAggregator()
        self.events = EventLog(SystemClock())
        self.alarms = Alarms(self.events)
        self.ejections = Ejections(self.aggregator, self.events, self.alarms)
        self.seq = 0
        for index, boot in enumerate("ab"):
            self.aggregator.arrived(boot, index, 0.0)

    def report(self, boot: str, *ejected: Ejected, **notes: int) -> None:
        self.seq += 1
        self.aggregator.take(Report(boot, self.seq, 1, [], [], {}, 0, 0, 0, ejected=ejected, notes=notes), 0.0)
        self.ejections.take_reports()

    async def published(self, count: int) -> list[dict[str, object]]:
        found: list[dict[str, object]] = []
        async with asyncio.timeout(20):
            async for event in self.events.listen("0"):
                if event.kind == "ejection":
                    found.append(event.data)
                if len(found) == count:
                    break
        return found

    @property
    def standing(self) -> list[str]:
        return [alarm.reason for alarm in self.alarms.standing]


@pytest.mark.anyio
async def test_an_ejection_is_an_event_and_an_alarm_until_the_last_worker_has_it_back() -> None:
    seen = Watched()
    out = Ejected("v1", URL, "first_byte_timeout", 1.0)
    seen.report("a", out)
    assert seen.standing == [f"backend v1: {URL} is ejected by 1 worker for 1 s at a time (first_byte_timeout)"]
    assert seen.alarms.reasons == [], "readiness does not suffer"
    seen.report("b", msgspec.structs.replace(out, lasts_s=4.0))
    assert seen.standing == [f"backend v1: {URL} is ejected by 2 workers for 4 s at a time (first_byte_timeout)"]
    seen.report("a")
    assert len(seen.standing) == 1
    seen.report("b")
    assert seen.standing == []
    key = {"backend": "v1", "url": URL}
    assert await seen.published(3) == [
        key | {"ejected": True, "reason": "first_byte_timeout", "lasts_s": 1.0},
        key | {"ejected": True, "reason": "first_byte_timeout", "lasts_s": 4.0},
        key | {"ejected": False},
    ]


def test_what_a_worker_that_has_left_said_stands_no_more_and_what_it_counted_does() -> None:
    seen = Watched()
    seen.report("a", Ejected("v1", URL, "reset", 1.0), **{f"ejected v1 {URL} reset": 3})
    seen.aggregator.gone("a", 1.0)
    seen.ejections.take_reports()
    assert seen.standing == []
    merged = seen.aggregator.merged()
    gauge, counter = ejection_metrics([], merged.reports, merged.notes)
    assert gauge.samples == []
    assert [(sample.labels, sample.value) for sample in counter.samples] == [
        ({"backend": "v1", "endpoint": URL, "reason": "reset"}, 3.0)
    ]
