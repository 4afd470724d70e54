"""What was met in answers is said in findings; what could not be read keeps a PASS away, and convicts nobody."""

from __future__ import annotations

import pytest

from gateway.control.decide.answer_findings import WORDS, unread_hold, with_examples
from gateway.core.analysis import Analysis, Finding, Look, Verdict
from gateway.core.predictions.failures import KINDS, UNREAD
from gateway.runtime.samples import AnswersRead, Example


def finding(metric: str, stable: tuple[int, int] = (0, 100), canary: tuple[int, int] = (0, 100)) -> Finding:
    return Finding(metric, Verdict.UNDECIDED, f"{metric} as counted", False, 0.0, 0.0, *stable, *canary)


def analysed(*findings: Finding, causes: tuple[str, ...] = ()) -> Analysis:
    verdict = Verdict.FAIL if causes else Verdict.PASS
    return Analysis(verdict, "why", causes, findings, 0.0, 4.6, 3.0, 1000, 100)


def test_examples_stand_in_their_findings_and_in_the_reason_that_they_cause() -> None:
    stable = AnswersRead(100, examples={"invalid_json": Example(4, "ok")})
    canary = AnswersRead(100, examples={"error": Example(5, "oom"), "broken_coding": Example(5, "gzip: no header")})
    look = Look.of(analysed(finding("model_errors"), finding("unread"), finding("errors"), causes=("model_errors",)))
    reported = with_examples(look, (stable, canary), first_epoch=4)
    said = "; canary: an error in the answer (oom); stable: invalid JSON (ok)"
    assert reported.reason == reported.analysis.reason == f"why{said}"
    reasons = {one.metric: one.reason for one in reported.analysis.findings}
    assert reasons["model_errors"] == f"model_errors as counted{said}"
    assert reasons["unread"] == "unread as counted; canary: a content coding that cannot be decoded (gzip: no header)"
    assert reasons["errors"] == "errors as counted"
    canary.examples["error"] = Example(6, "later")
    assert "oom" in reported.analysis.reason, "what it was based on"


def test_examples_of_an_earlier_rollout_are_not_shown() -> None:
    canary = AnswersRead(100, examples={"error": Example(3, "oom")})
    look = Look.of(analysed(finding("model_errors"), causes=("model_errors",)))
    reported = with_examples(look, (AnswersRead(), canary), first_epoch=4)
    assert (reported.reason, reported.analysis.findings) == (look.reason, look.analysis.findings)


@pytest.mark.parametrize(
    ("stable", "canary", "held"),
    [
        ((0, 100), (11, 100), True),
        ((0, 100), (10, 100), False),
        ((100, 100), (100, 100), False),
        ((50, 100), (61, 100), True),
        ((0, 0), (5, 5), True),
        ((5, 5), (0, 0), False),
    ],
)
def test_a_pass_is_held_by_a_larger_unread_share(stable: tuple[int, int], canary: tuple[int, int], held: bool) -> None:
    reason = unread_hold(analysed(finding("unread", stable, canary)))
    assert bool(reason) is held
    assert unread_hold(analysed(finding("errors", (0, 9), (9, 9)))) == ""


def test_every_kind_has_words() -> None:
    assert set(WORDS) == {*KINDS, *UNREAD}
