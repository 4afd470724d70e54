"""While nobody looks at answers, no canary passes on what was seen before."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from gateway.config.load import load
from gateway.control.decide import silent_sources
from gateway.control.decide.answer_findings import with_answers
from gateway.control.workers.inspector_link import Inspection
from gateway.control.workers.report_aggregator import ReportAggregator
from gateway.core.analysis import Analysis, AnalysisSpec, EventSpec, Finding, Look, Mode, Verdict
from gateway.core.errors import ConflictError, NotFoundError
from gateway.core.predictions.events import Watched, WatchSettings
from gateway.core.predictions.labels import LabelSettings
from gateway.core.predictions.settings import RouteWatch
from gateway.core.types import Unjudged, Why
from gateway.runtime.samples import Label
from tests.support.control import ManualClock, text

NO_EVENTS = AnalysisSpec()


def passed(*deciding: str, advising: str = "errors") -> Analysis:
    """A pass by these metrics."""
    findings = [Finding(metric, Verdict.PASS, "", True, 0.0, 9.0, 0, 1000, 0, 100) for metric in deciding]
    advice = Finding(advising, Verdict.PASS, "", False, 0.0, 9.0, 0, 1000, 0, 100)
    return Analysis(Verdict.PASS, "proven", (), (*findings, advice), 0.0, 4.6, 3.0, 1000, 100)


def judged(inspection: Inspection, route: str, analysis: Analysis, spec: AnalysisSpec = NO_EVENTS) -> Analysis:
    return with_answers(inspection, route, Look.of(analysis), spec, 1).analysis


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
    return Inspection(Path("/nowhere"), ROUTES, ReportAggregator(), clock)


def test_a_pass_stands_only_while_answers_are_looked_at(inspection: Inspection, clock: ManualClock) -> None:
    deciding, advising = (AnalysisSpec(events=(EventSpec("class_4", mode),)) for mode in (Mode.DECIDE, Mode.ADVISE))
    assert judged(inspection, "looked-at", PASS, deciding) == PASS
    clock.now_s += 3.5
    held = judged(inspection, "looked-at", PASS, deciding)
    assert held.verdict is Verdict.UNDECIDED and "the inspector is not connected" in held.reason
    assert judged(inspection, "labelled", passed("click")).verdict is Verdict.UNDECIDED
    assert judged(inspection, "other", PASS) == PASS
    for alone in (passed("errors"), passed("errors", advising="class_4")):
        assert judged(inspection, "looked-at", alone, advising) == alone


def test_without_an_inspector_failures_inside_of_answers_hold_a_pass(clock: ManualClock) -> None:
    inspection = Inspection(Path("/nowhere"), {"r": RouteWatch(failures=True)}, ReportAggregator(), clock)
    alone = passed("errors", advising="model_errors")
    for mode, held in ((Mode.AUTO, True), (Mode.DECIDE, True), (Mode.ADVISE, False)):
        clock.now_s = 1.0
        spec = AnalysisSpec(events=(EventSpec("model_errors", mode),))
        inspection._last_report_s = 0.0  # noqa: SLF001  # as if it had just reported
        assert judged(inspection, "r", alone, spec) == alone
        clock.now_s += 3.5
        assert (judged(inspection, "r", alone, spec).verdict is Verdict.UNDECIDED) is held


@pytest.mark.parametrize("verdict", [verdict for verdict in Verdict if verdict is not Verdict.PASS])
def test_every_other_verdict_stands(inspection: Inspection, clock: ManualClock, verdict: Verdict) -> None:
    clock.now_s += 3600.0
    assert judged(inspection, "looked-at", replace(PASS, verdict=verdict)).verdict is verdict


def test_labels_are_taken_only_for_events_that_expect_them_and_by_somebody(inspection: Inspection) -> None:
    with pytest.raises(NotFoundError, match="expects no labels"):
        inspection.send_labels("looked-at", [Label("a", "click", True)])
    with pytest.raises(NotFoundError, match=r"\[1\].name: no event is named 'clock'; there are: click"):
        inspection.send_labels("labelled", [Label("a", "click", True), Label("a", "clock", True)])
    with pytest.raises(ConflictError, match="the inspector is not connected or overloaded"):
        inspection.send_labels("labelled", [Label("a", "click", True)])


@pytest.mark.parametrize(
    ("lost", "read", "why"),
    [
        ({"streamed": 150}, 0, "150 of 150 sampled answers of stable are event streams"),
        ({"too_large": 150}, 100, "150 of 250 sampled answers of stable are over the size limit"),
        ({"too_large": 150}, 151, "stable's first 100 answers"),
        ({"streamed": 99}, 0, "stable's first 100 answers"),
    ],
)
def test_answers_that_never_come_to_be_read_are_said(tmp_path: Path, lost: dict[str, int], read: int, why: str) -> None:
    """However many others, such as those to GET, were taken for failures alone."""
    (tmp_path / "gateway.yaml").write_text(text(analysis={"predictions": {"mode": "decide"}}))
    route = load(tmp_path / "gateway.yaml").routes[0]
    waits = dict.fromkeys(("class_0", "low_confidence"), Unjudged("stable's first 100 answers show it", Why.WAITS))
    seen = silent_sources.reported(({"taken": 5_000, **lost}, {}), frozenset(), 10_000, 60.0)
    found = silent_sources.unjudged(route, Watched("", waits, answers=read), seen)
    assert found.keys() == waits.keys() and all(why in one.reason for one in found.values())
