"""What the tables look like: names stay whole and sentences readable, in the narrowest terminal that people use."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from gateway.admin.schemas import AnalysisBody, FindingBody, RolloutBody
from gateway.cli.tables import rollout_view, status_view
from gateway.control.views import BadMoments, EndpointView, RouteView
from gateway.core.analysis.types import Verdict
from gateway.core.stats.outcomes import NAMES

REASON = (
    "canary latency beyond 1.25 x stable's p99 + 2 ms in 5 of 323 (1.55 %) requests against stable beyond its p99 in 38"
    " of 1406 (2.7 %), 22 slices; evidence that it is slower: 0.512 (needs 400)"
)
METRICS = (
    "errors",
    "client_errors",
    "overload",
    "latency",
    "unreadable",
    "class_other",
    "low_confidence",
    "sample_ratio",
)


def finding(metric: str, verdict: Verdict) -> FindingBody:
    details: dict[str, float | None] = {
        "log_e_bad_needed": 5.3,
        "difference": 0.0,
        "difference_low": -0.0053,
        "difference_high": 0.0204,
    }
    return FindingBody(metric, verdict, REASON, metric != "sample_ratio", -0.1, 3.2, 0, 14850, 3, 349, details)


def unseen(metric: str, verdict: Verdict, log_e_ok: float = 1.0) -> FindingBody:
    details: dict[str, float | None] = {"log_e_bad_needed": 5.3, "log_e_ok_needed": 3.0}
    return FindingBody(metric, verdict, f"{metric} unproven", True, -0.1, log_e_ok, 0, 14850, 0, 349, details)


def rollout(*findings: FindingBody) -> RolloutBody:
    plan = {"steps": [{"percent": percent} for percent in (5.0, 25.0, 50.0)]}
    analysis = AnalysisBody(Verdict.UNDECIDED, "not proven yet", (), findings, 1.0, 4.6, 3.0, 14850, 349)
    return RolloutBody(
        "digits-1",
        "digits",
        "a",
        "b",
        "PROGRESSING",
        1,
        3,
        5.0,
        "a reason",
        (),
        "automation",
        "",
        "",
        plan,
        60,
        analysis,
    )


def drawn(width: int, *findings: FindingBody) -> list[str]:
    out = io.StringIO()
    Console(file=out, width=width, highlight=False).print(rollout_view(rollout(*findings)))
    return [line.rstrip() for line in out.getvalue().splitlines()]


@pytest.mark.parametrize("width", [80, 120, 200])
def test_names_and_sentences_are_whole_at_every_width(width: int) -> None:
    lines = drawn(width, *(finding(metric, Verdict.UNDECIDED) for metric in METRICS))
    assert all(len(line) <= width for line in lines)
    for metric in METRICS:
        numbers, sentence = (line for line in lines if line.split()[:1] == [metric])
        assert "UNDECIDED" in numbers.split() and sentence.split()[1:4] == REASON.split()[:3]
    assert " ".join(REASON.split()) in " ".join(" ".join(lines).split())
    # A sentence in a column of its own is a tower of words in a narrow terminal.
    assert len(lines) < 90


def test_the_evidence_is_the_number_that_the_sentences_name() -> None:
    (row,) = (line for line in drawn(200, finding("errors", Verdict.PASS)) if line.startswith("errors "))
    assert row.split("  ")[-2:] == ["0.905 of 200", "24.5 of 20.1"]


def test_what_is_proven_needs_no_sentence() -> None:
    lines = drawn(80, finding("errors", Verdict.PASS), finding("latency", Verdict.FAIL))
    assert [len([line for line in lines if line.startswith(name)]) for name in ("errors", "latency")] == [1, 2]
    assert not [line for line in drawn(80, finding("errors", Verdict.PASS)) if "finding" in line]


@pytest.mark.parametrize("width", [80, 200])
def test_classes_that_occur_nowhere_are_one_line_for_each_verdict(width: int) -> None:
    quiet = [name for name in NAMES if name not in ("errors", "overload", "not_found", "redirects")]
    findings = (
        unseen("errors", Verdict.UNDECIDED),
        finding("overload", Verdict.UNDECIDED),
        unseen("not_found", Verdict.FAIL),
        *(unseen(name, Verdict.UNDECIDED, 1.0 + number) for number, name in enumerate(quiet)),
        unseen("redirects", Verdict.PASS, 4.0),
    )
    lines = drawn(width, *findings)
    rows = [line.split()[0] for line in lines if line and not line.startswith(" ")]
    # In the table and with a sentence each: what occurred, what is convicted, and errors always.
    assert [rows.count(name) for name in ("errors", "overload", "not_found")] == [2, 2, 2]
    shown = " ".join(" ".join(lines).split())
    assert f"none {', '.join(quiet)} on either side: UNDECIDED (good: E 2.72 of 20.1 at least)" in shown
    assert "none redirects on either side: PASS (good: E 54.6 of 20.1)" in shown
    assert not any(f"{name} unproven" in shown for name in (*quiet, "redirects"))


def test_the_status_says_why_an_endpoint_is_down_and_that_the_gateway_is_not_ready() -> None:
    endpoints = (
        EndpointView("a", "http://a:1", False, "answered 404 to /ready"),
        EndpointView("a", "http://b:1", False, "no answer to /ready in 1 s", kept=True),
        EndpointView("a", "http://c:1", True, "answered 200 to /ready"),
    )
    route = RouteView("r", "/", (), "a", None, 0.0, 1, 1, 1, endpoints, None, "IDLE")
    out = io.StringIO()
    Console(file=out, width=200).print(status_view([route], [], ["0 of 1 workers are connected"]))
    shown = out.getvalue()
    assert shown.startswith("NOT READY: 0 of 1 workers are connected")
    assert "1/3 up; down: http://a:1 answered 404 to /ready; http://b:1 no answer to /ready in 1 s, kept in" in shown


def test_the_status_has_a_line_for_stable_that_has_bad_moments() -> None:
    moments = (
        BadMoments("errors", 3600.0, 12.0, 12.0, 1.4, 2.3),
        BadMoments("overload", 3600.0, 0.0, 0.0, 0.0, 0.0),
    )
    view = RouteView("r", "/", (), "a", None, 0.0, 1, 1, 1, (), None, "IDLE", bad_moments=moments)
    out = io.StringIO()
    Console(file=out, width=200).print(status_view([view], []))
    said = "r: 12 bad moments with errors in 60 min, 1.4 s long on average and at most 2.3 s"
    assert said in out.getvalue() and "overload" not in out.getvalue()
