"""The demo's progress and its frames, fed by hand with reports of a gateway and a client."""

from __future__ import annotations

import dataclasses
import io
from typing import Any

import msgspec
import pytest
from rich.console import Console

from gateway.admin.schemas import AnalysisBody, FindingBody, RolloutBody
from gateway.control.views import ControlEvent
from gateway.core.analysis.types import Verdict
from gateway.core.stats.outcomes import NAMES
from gateway.demo.client.report import ClientReport, VariantReport
from gateway.demo.live import frame
from gateway.demo.progress import DemoEvent, DemoProgress
from gateway.demo.scenarios import SCENARIOS, as_expected
from gateway.demo.summary import page, summarise

START_S = 1000.0
LONG_REASON = (
    "rolled back at step 1/3 (5 %): worse than stable: canary latency beyond 1.5 x stable's p99 + 5 ms in 49 of 49"
    " (100 %) requests against stable beyond its p99 in 13 of 812 (1.6 %), 11 slices: evidence 502 of the 400 needed"
    " against 'not slower'"
)


def analysis(verdict: Verdict = Verdict.UNDECIDED) -> AnalysisBody:
    def finding(metric: str, bad: float, good: float | None) -> FindingBody:
        details: dict[str, float | None] = {"log_e_bad_needed": 5.99, "log_e_ok_needed": 3.0}
        return FindingBody(metric, Verdict.UNDECIDED, "", True, bad, good, 0, 1200, 3, 60, details)

    # Evidence beyond both lines, below none, and not finite (null in JSON).
    findings = (
        finding("errors", 800.0, -700.0),
        finding("client_errors", -0.5, 30.0),
        finding("overload", -0.5, None),
        finding("latency", 2.0, 1.0),
    )
    return AnalysisBody(verdict, "not proven yet", (), findings, 1.0, 4.6, 3.0, 1200, 60)


def rollout(phase: str = "PROGRESSING", step: int = 1, **changes: Any) -> RolloutBody:
    steps = [{"percent": percent, "min_time_s": 6.0, "min_requests": 60} for percent in (5.0, 25.0, 50.0)]
    plan = {"steps": steps}
    body = RolloutBody(
        "digits-1", "digits", "a", "b", phase, step, 3, 5.0, "a reason", (), "automation", "", "", plan, 60, analysis()
    )
    return dataclasses.replace(body, **changes)


def event(kind: str, data: Any) -> ControlEvent:
    return ControlEvent(1, "2026-11-23T00:00:00.000Z", kind, "digits", "digits-1", msgspec.to_builtins(data))


def report(at_s: float, *, rescued: int = 4, final: bool = False, first_s: float | None = START_S + 3) -> ClientReport:
    stable = VariantReport(12_345, 0, 12_000, 237.4, 1.3, 4.5)
    canary = VariantReport(600, 0, 590, 12.0, None, None)
    saved = VariantReport(rescued, 0, rescued, 1.0, 2001.4, 2010.9)
    none = VariantReport(0, 0, 0, 0.0, None, None)
    variants = {"stable": stable, "canary": canary, "rescued": saved, "none": none}
    return ClientReport(at_s, 12_345 + 600 + rescued, 0, variants, {}, first_s, final)


def new_progress(scenario: str = "errors") -> DemoProgress:
    return DemoProgress(SCENARIOS[scenario], 42, START_S)


def receive(progress: DemoProgress, kind: str, data: Any, at_s: float) -> list[DemoEvent]:
    return list(progress.on_event(event(kind, data), at_s))


def decided(phase: str, reason: str, metrics: tuple[str, ...] = ()) -> DemoProgress:
    progress = new_progress()
    receive(progress, "started", rollout(), START_S + 3)
    list(progress.on_report(report(START_S + 5)))
    kind = {"PROMOTED": "promoted", "ROLLED_BACK": "rolled_back", "PAUSED": "paused"}[phase]
    receive(progress, kind, rollout(phase, reason=reason, causes=metrics), START_S + 6)
    list(progress.on_report(report(START_S + 7, final=True)))
    return progress


def test_the_decision_counts_from_the_first_canary_request() -> None:
    progress = decided("ROLLED_BACK", LONG_REASON, ("latency",))
    assert progress.decision is not None and progress.decision.metrics == ("latency",)
    assert progress.decision_s == 3.0


def test_nothing_after_the_decision_changes_it() -> None:
    progress = decided("ROLLED_BACK", LONG_REASON)
    assert receive(progress, "analysis", rollout("ROLLED_BACK", reason="later"), START_S + 9) == []
    assert progress.decision is not None and progress.decision.reason == LONG_REASON


def test_a_pause_by_a_person_is_not_the_end() -> None:
    progress = new_progress()
    assert receive(progress, "paused", rollout("PAUSED", by="ada"), START_S + 4) == []
    assert progress.decision is None
    (decision,) = receive(progress, "paused", rollout("PAUSED", by="automation"), START_S + 5)
    assert decision.event == "decision" and decision.data["phase"] == "PAUSED"


def test_analysis_and_traffic_are_reported_once_a_second() -> None:
    progress = new_progress()
    times_s = [START_S + 3 + i * 0.25 for i in range(20)]
    assert sum(len(receive(progress, "analysis", rollout(), at_s)) for at_s in times_s) == 5
    assert sum(len(list(progress.on_report(report(at_s)))) for at_s in times_s) == 5


@pytest.mark.parametrize(
    ("scenario", "phase", "metrics", "fine"),
    [
        ("good", "PROMOTED", (), True),
        ("good", "PAUSED", (), False),
        ("flat", "PAUSED", (), True),
        ("flat", "ROLLED_BACK", ("latency",), False),
        ("errors", "ROLLED_BACK", ("errors",), True),
        ("errors", "ROLLED_BACK", ("latency",), False),
        ("errors", "ROLLED_BACK", ("errors", "latency"), False),
        ("hang", "ROLLED_BACK", ("errors", "latency"), True),
        ("hang", "ROLLED_BACK", ("latency",), False),
        ("slow", "PROMOTED", (), False),
        ("notfound", "ROLLED_BACK", ("not_found",), True),
        ("login", "ROLLED_BACK", ("not_found",), False),
        ("stream-error", "ROLLED_BACK", ("model_errors",), True),
        ("impatient", "ROLLED_BACK", ("abandoned", "gap"), True),
        ("impatient", "ROLLED_BACK", ("gap",), False),
    ],
)
def test_what_a_scenario_promises(scenario: str, phase: str, metrics: tuple[str, ...], fine: bool) -> None:
    assert as_expected(SCENARIOS[scenario], phase, metrics) is fine


def stages() -> dict[str, DemoProgress]:
    baseline, undecided, good_so_far, no_data, refused, killed = (new_progress("crash") for _ in range(6))
    baseline.stage = "baseline"
    list(baseline.on_report(report(START_S + 2, rescued=0, first_s=None)))
    for progress, verdict in (
        (undecided, Verdict.UNDECIDED),
        (good_so_far, Verdict.PASS),
        (no_data, Verdict.NODATA),
        (refused, Verdict.ERROR),
        (killed, Verdict.UNDECIDED),
    ):
        receive(progress, "weight", {"canary_percent": 0.01, "epoch": 2}, START_S + 3)
        receive(progress, "started", rollout(analysis=None), START_S + 3)
        receive(progress, "analysis", rollout(step=2, analysis=analysis(verdict)), START_S + 4)
        list(progress.on_report(report(START_S + 5)))
    killed.killed(START_S + 5)
    return {
        "starting": new_progress("flat"),
        "baseline": baseline,
        "undecided": undecided,
        "good so far": good_so_far,
        "no data": no_data,
        "refused": refused,
        "killed": killed,
        "promoted": decided("PROMOTED", "promoted after step 3/3 (50 %) passed: " + "proven " * 20),
        "rolled back": decided("ROLLED_BACK", LONG_REASON),
        "held": decided("PAUSED", "held, deadline of 45 s reached: " + "not shown " * 30),
    }


@pytest.mark.parametrize("width", [80, 100, 120, 200])
@pytest.mark.parametrize("stage", stages())
def test_a_frame_fits_the_terminal(stage: str, width: int) -> None:
    console = Console(file=io.StringIO(), width=width, height=24, record=True)
    console.print(frame(stages()[stage], START_S + 6.5, width))
    lines = console.export_text().rstrip("\n").split("\n")
    assert len(lines) <= 23, "the last row is the cursor's"
    assert all(len(line.rstrip()) <= min(width, 120) for line in lines)
    assert not [line for line in lines if "…" in line], "nothing that is always shown is cut off"


def test_all_that_is_judged_fits_five_rows() -> None:
    progress = new_progress("notfound")
    names = (*NAMES, "latency", "gap", "time_per_event", "model_errors", *(f"class_{digit}" for digit in range(10)))
    details: dict[str, float | None] = {"log_e_bad_needed": 5.99, "log_e_ok_needed": 3.0}
    findings = tuple(
        FindingBody(name, Verdict.UNDECIDED, "", True, 6.5 if name == "not_found" else 0.0, 1.0, 0, 400, 3, 60, details)
        for name in names
    )
    judged = dataclasses.replace(analysis(), findings=findings)
    receive(progress, "started", rollout(analysis=None), START_S + 3)
    receive(progress, "analysis", rollout(analysis=judged), START_S + 4)
    console = Console(file=io.StringIO(), width=80, record=True)
    console.print(frame(progress, START_S + 6.5, 80))
    lines = console.export_text().rstrip("\n").split("\n")
    assert len(lines) <= 23
    first = next(number for number, line in enumerate(lines) if line.startswith("evidence")) + 1
    assert [line.split("  ")[0] for line in lines[first : first + 5]] == [
        "errors", "latency", "not found", f"{len(names) - 13} others", "predictions",
    ]  # fmt: skip


def test_a_frame_shows_what_matters() -> None:
    console = Console(file=io.StringIO(), width=80, record=True)
    console.print(frame(decided("ROLLED_BACK", LONG_REASON), START_S + 6.5, 80))
    text = console.export_text()
    assert "rolled back, 3.0 s after the first canary request" in text
    assert "failures that they saw: 0" in text and "rescued: 4" in text
    assert "seed 42" in text and "errors: a model that fails" in text
    assert "97.2 %" in text, "stable's accuracy"


@pytest.mark.parametrize(("phase", "headline"), [("PROMOTED", "PROMOTED 3.0 s"), ("ROLLED_BACK", "ROLLED BACK 3.0 s")])
def test_the_last_page_says_what_why_and_what_users_saw(phase: str, headline: str) -> None:
    progress = decided(phase, "because of this", ("errors",))
    summary = summarise(progress, report(START_S + 7, final=True), 12.0)
    text = " ".join(page(summary, 80).split())
    assert text.startswith(headline)
    assert "Why: because of this." in text
    assert "12,949 requests, none of them failed" in text
    assert "4 that it failed were answered by stable" in text
    assert "gateway demo --scenario errors --seed 42" in text
    assert all(len(line) <= 80 for line in page(summary, 80).splitlines())


@pytest.mark.parametrize(
    ("scenario", "failures", "preventable", "said"),
    [
        ("impatient", {"gave up": 3}, 0, "3 failed after their answer had begun (gave up: 3)"),
        ("impatient", {"gave up": 2, "reset": 1}, 1, "3 FAILED (gave up: 2, reset: 1)"),
        ("notfound", {"status 404": 3}, 3, "3 FAILED (status 404: 3)"),
    ],
)
def test_what_a_rescue_could_have_prevented_is_counted_apart(
    scenario: str, failures: dict[str, int], preventable: int, said: str
) -> None:
    progress = decided("ROLLED_BACK", "because of this", ("errors",))
    progress.scenario = SCENARIOS[scenario]
    seen = msgspec.structs.replace(report(START_S + 7, final=True), failed=3, failures=failures)
    summary = summarise(progress, seen, 12.0)
    assert summary.failures_preventable == preventable
    assert said in " ".join(page(summary, 80).split())


def test_the_canary_requests_of_a_rollback_include_those_in_flight() -> None:
    progress = decided("ROLLED_BACK", "it hung")
    summary = summarise(progress, report(START_S + 7, rescued=30, final=True), 12.0)
    assert summary.canary_requests == 630, "the client saw 630, the gateway had judged 60 of them by then"
    assert summarise(decided("PROMOTED", "fine"), report(START_S + 7, final=True), 12.0).canary_requests == 60


def test_no_line_is_older_than_the_one_before() -> None:
    """A report is made in another process, and is of a moment that has passed when it arrives."""
    progress = new_progress()
    (late,) = receive(progress, "health", {"backend": "b", "healthy": False}, START_S + 5.0)
    times_s = [one.t_s for one in (late, *progress.on_report(report(START_S + 4.9)))]
    assert len(times_s) == 2 and times_s == sorted(times_s)
