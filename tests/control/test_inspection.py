"""While nobody looks at answers, no canary passes on what was seen before."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from gateway.control.inspection import Inspection
from gateway.control.observer import Observer
from gateway.core.analysis import Analysis, AnalysisSpec, EventSpec, Finding, Look, Mode, Verdict
from gateway.core.errors import ConflictError, NotFoundError
from gateway.core.predictions.events import WatchSettings
from gateway.core.predictions.labels import LabelSettings
from gateway.core.predictions.settings import RouteWatch
from gateway.runtime.samples import Label
from tests.support.control import ManualClock

NO_EVENTS = AnalysisSpec()


def passed(*deciding: str, advising: str = "errors") -> Analysis:
    """A pass by these metrics."""
    findings = [Finding(metric, Verdict.PASS, "", True, 0.0, 9.0, 0, 1000, 0, 100) for metric in deciding]
    advice = Finding(advising, Verdict.PASS, "", False, 0.0, 9.0, 0, 1000, 0, 100)
    return Analysis(Verdict.PASS, "proven", (), (*findings, advice), 0.0, 4.6, 3.0, 1000, 100)


def judged(inspection: Inspection, route: str, analysis: Analysis, spec: AnalysisSpec = NO_EVENTS) -> Analysis:
    return inspection.judged(route, Look.of(analysis), spec, 1).analysis


PASS = passed("errors", "class_4", "click")
ROUTES = {
    "looked-at": RouteWatch(watch=WatchSettings()),
    "labelled": RouteWatch(labels=LabelSettings({"click": True})),
}


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def inspection(clock: ManualClock) -> Inspection:
    return Inspection(Path("/nowhere"), ROUTES, Observer(), clock)


def test_a_pass_stands_only_while_answers_are_looked_at(inspection: Inspection, clock: ManualClock) -> None:
    assert judged(inspection, "looked-at", PASS) == PASS
    clock.now_s += 3.5
    held = judged(inspection, "looked-at", PASS)
    assert held.verdict is Verdict.UNDECIDED and "the inspector is away" in held.reason
    assert judged(inspection, "labelled", passed("click")).verdict is Verdict.UNDECIDED
    assert judged(inspection, "other", PASS) == PASS
    for alone in (passed("errors"), passed("errors", advising="class_4")):
        assert judged(inspection, "looked-at", alone) == alone


def test_without_an_inspector_failures_inside_of_answers_hold_a_pass(clock: ManualClock) -> None:
    inspection = Inspection(Path("/nowhere"), {"r": RouteWatch(failures=True)}, Observer(), clock)
    alone = passed("errors", advising="model_errors")
    for mode, held in ((Mode.AUTO, True), (Mode.DECIDE, True), (Mode.ADVISE, False)):
        clock.now_s = 1.0
        spec = AnalysisSpec(events=(EventSpec("model_errors", mode),))
        inspection._heard_s = 0.0  # noqa: SLF001  # as if it had just reported
        assert judged(inspection, "r", alone, spec) == alone
        clock.now_s += 3.5
        assert (judged(inspection, "r", alone, spec).verdict is Verdict.UNDECIDED) is held


@pytest.mark.parametrize("verdict", [verdict for verdict in Verdict if verdict is not Verdict.PASS])
def test_every_other_verdict_stands(inspection: Inspection, clock: ManualClock, verdict: Verdict) -> None:
    clock.now_s += 3600.0
    assert judged(inspection, "looked-at", replace(PASS, verdict=verdict)).verdict is verdict


def test_labels_are_taken_only_for_events_that_expect_them_and_by_somebody(inspection: Inspection) -> None:
    with pytest.raises(NotFoundError, match="expects no labels"):
        inspection.tell("looked-at", [Label("a", "click", True)])
    with pytest.raises(NotFoundError, match=r"\[1\].name: no event is named 'clock'; there are: click"):
        inspection.tell("labelled", [Label("a", "click", True), Label("a", "clock", True)])
    with pytest.raises(ConflictError, match="the inspector is away or behind"):
        inspection.tell("labelled", [Label("a", "click", True)])
