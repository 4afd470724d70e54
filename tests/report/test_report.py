"""The report of a rollout: whole from what is known, small whatever is known, and safe whatever things are called."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import msgspec
import pytest

from gateway import report
from gateway.control.decide.rollout_records import RolloutRecord
from gateway.control.journal.sqlite_store import SqliteStore
from gateway.control.views import (
    DecisionView,
    FindingNumbers,
    LatencyDistributions,
    MetricSeries,
    RolloutSeries,
    RolloutView,
)
from gateway.core.analysis.types import Analysis, Finding, Verdict
from gateway.core.errors import NotFoundError
from gateway.core.rollout import AbortRequested, Plan, Rollout, Started, Step, step
from gateway.report.facts import ReportFacts, from_journal
from gateway.report.markdown import text

HOSTILE = "<script>alert(1)</script>\"'&<img src=x onerror=alert(1)> [a](javascript:b) @everyone | `x`\n# \x1b[2J\u202e"
BYTES_MAX = 300_000


def a_finding(metric: str, verdict: Verdict = Verdict.UNDECIDED, **details: float) -> Finding:
    return Finding(
        metric,
        verdict,
        f"canary {metric} 8 of 57",
        True,
        5.6,
        0.3,
        2,
        1292,
        8,
        57,
        {"log_e_bad_needed": 5.5, **details},
    )


def a_rollout(names: str = "", count: int = 3) -> ReportFacts:
    """A rollout that was rolled back; ``names`` is what everything that comes from outside is called."""
    name = names or "errors"
    findings = tuple(a_finding(name if n == 0 else f"{name}{n}", Verdict.FAIL) for n in range(count))
    analysis = Analysis(Verdict.FAIL, names or "worse", (name,), findings, 5.6, 4.6, 3.0, 1292, 57)
    plan = Plan((Step(500, 6.0, 60, None, gate=names), Step(5000)), promotion_gate=names)
    rollout, _ = step(
        Rollout(), Started("r-1", names or "digits", names or "v1", names or "v2", plan, 0.0, names or "ada")
    )
    numbers = tuple(FindingNumbers(one.metric, "FAIL", one.reason, True, 2, 1292, 8, 57, 5.6, 0.3) for one in findings)
    decisions = tuple(
        DecisionView(
            seq=n,
            revision=n,
            at=f"2026-11-30T11:47:{n % 60:02}.000Z",
            after_s=1.0,
            event="Analysed",
            by=names or "automation",
            automatic=True,
            phase_before="PROGRESSING",
            phase="ROLLED_BACK",
            step="1/2",
            canary_percent_before=5.0,
            canary_percent=0.0,
            reason=names * 40 or "worse",
            causes=(name,),
            canary_requests=57,
            verdict="FAIL",
            numbers=numbers,
        )
        for n in range(count)
    )
    view = dataclasses.replace(
        _view(rollout), phase="ROLLED_BACK", analysis=analysis, causes=(name,), reason=names * 40 or "worse than stable"
    )
    return ReportFacts(
        view, decisions, RolloutSeries("r-1", 1.0, (), (), (), ()), LatencyDistributions("r-1", (), (), ())
    )


def _view(rollout: Rollout) -> RolloutView:
    return RolloutRecord(rollout, None, 1.7e9, 1.7e9 + 90).view(rollout, None, 57)


class Elements(HTMLParser):
    """What a browser would make of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}


def with_series(facts: ReportFacts, points: int) -> ReportFacts:
    at = tuple(1.7e9 + n for n in range(points))
    column = tuple(n / points for n in range(points))
    nothing = (None,) * points
    metrics = tuple(
        MetricSeries(name, unit, column, column, column, column, column, nothing, column)
        for name, unit in ((facts.findings[0].metric, "share"), ("latency", "us"))
    )
    edges = tuple(range(1000, 1060))
    return msgspec.structs.replace(
        facts,
        series=RolloutSeries("r-1", 1.0, at, column, column, metrics),
        latencies=LatencyDistributions("r-1", edges, tuple(range(60)), tuple(range(60))),
    )


def test_it_says_what_was_decided_why_and_by_whom() -> None:
    page = report.html(with_series(a_rollout(), 30))
    for said in (
        "v2 was rolled back on digits: errors",
        "8 of 57 (14 %)",
        "2 of 1,292 (0.155 %)",
        "automation",
        "1 in 270",
    ):
        assert said in page
    assert page.count("<svg") == 4 and "Content-Security-Policy" in page


def test_what_things_are_called_is_text_and_nothing_else() -> None:
    page = report.html(with_series(a_rollout(HOSTILE), 30))
    plain = Elements(report.html(with_series(a_rollout(), 30)))
    hostile = Elements(page)
    assert hostile.tags <= plain.tags and hostile.attributes <= plain.attributes
    assert "script" not in hostile.tags and not {name for name in hostile.attributes if name.startswith("on")}
    assert "\x1b" not in page and "\u202e" not in page and "&lt;script&gt;" in page


def test_the_largest_one_is_small_enough_for_a_mail() -> None:
    page = report.html(with_series(a_rollout("&" * 120, count=400), 240))
    assert len(page.encode()) <= BYTES_MAX, f"{len(page.encode())} bytes"
    assert "325 decisions between are left out" in page and "360 more metrics are left out" in page


def test_only_its_own_style_sheet_applies() -> None:
    page = report.html(a_rollout())
    (style,) = re.findall(r"<style>(.*?)</style>", page, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert f"&#x27;sha256-{digest}&#x27;" in page and f"'sha256-{digest}'" in report.HEADERS["content-security-policy"]
    assert not re.findall(r"https?://(?!www\.w3\.org/2000/svg)", page)


def test_markdown_has_no_markup_from_outside() -> None:
    written = report.markdown(with_series(a_rollout(HOSTILE), 30))
    assert "<script" not in written and "<img" not in written and "@everyone" not in written and "](" not in written
    rows = [line for line in written.splitlines() if line.startswith("|")]
    assert {row.count("|") for row in rows} == {6, 7}, "a name has made a column of its own"
    assert text("v2.1-rc_3") == "v2.1-rc_3"


def test_without_a_kept_series_it_is_drawn_through_the_decisions() -> None:
    page = report.html(a_rollout())
    assert "drawn through the decisions" in page and "Effect on errors" in page


def test_a_journal_alone_is_enough(tmp_path: Path) -> None:
    plan = Plan((Step(500),))
    started = Started("digits-1", "digits", "v1", "v2", plan, 1.0, "ada")
    with SqliteStore.open(tmp_path / "state.sqlite3") as store:
        rollout, _ = step(Rollout(), started)
        store.journal.append("digits-1", started, rollout, None, 1.7e9, "v1")
        event = AbortRequested(31.0, "grace", "a look at the logs")
        rollout, _ = step(rollout, event)
        store.journal.append("digits-1", event, rollout, a_rollout().rollout.analysis, 1.7e9 + 30, "v1")
        facts = from_journal(store.journal, "digits-1")
        with pytest.raises(NotFoundError):
            from_journal(store.journal, "digits-2")
    page = report.html(facts)
    assert "v2 was rolled back on digits" in page and "grace" in page and "a look at the logs" in page
    assert facts.took_s == pytest.approx(30.0) and "+13.9 points" in page
    assert math.isfinite(facts.findings[0].log_e_bad)
