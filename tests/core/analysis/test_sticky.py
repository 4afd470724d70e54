"""Sticky routes: the judge counts sessions, and only sessions."""

from __future__ import annotations

from gateway.core.analysis import AnalysisSpec, Evidence, LatencySpec, Mode, Verdict, fresh_state, judge
from gateway.core.stats import Counts, EpochCounts
from gateway.core.stats.counts import SESSION_EVENTS

SPEC = AnalysisSpec(sticky=True, alpha_sample_ratio=0.0, latency=LatencySpec(mode=Mode.OFF))


def counts(requests: int, errors: int, sessions: int, failed: int) -> Counts:
    labels = SESSION_EVENTS.values()
    return Counts(
        requests,
        {"errors": errors},
        trials=dict.fromkeys(labels, sessions),
        events={SESSION_EVENTS["errors"]: failed} if failed else {},
    )


def verdicts(stable: tuple[int, int, int, int], canary: tuple[int, int, int, int], looks: int) -> list[Verdict]:
    """A look each half second at arms that gain this many requests, errors, sessions and failed sessions."""
    state, found = fresh_state(SPEC), []
    for look in range(1, looks + 1):
        arms = [counts(*(look * n for n in arm)) for arm in (stable, canary)]
        state, analysis = judge(SPEC, state, Evidence(0.5 * look, (EpochCounts("r", 1, 2000, arms[0], arms[1]),)))
        found.append(analysis.verdict)
    return found


def test_one_failing_session_with_many_requests_convicts_nobody() -> None:
    assert Verdict.FAIL not in verdicts((400, 0, 20, 0), (100, 60, 5, 0), 60)


def test_failing_sessions_convict() -> None:
    found = verdicts((400, 0, 20, 0), (100, 0, 5, 2), 60)
    assert found[-1] is Verdict.FAIL


def test_good_sessions_pass_and_the_finding_speaks_of_sessions() -> None:
    state = fresh_state(SPEC)
    for look in range(1, 600):
        arms = counts(400 * look, 0, 20 * look, 0), counts(100 * look, 0, 5 * look, 0)
        state, analysis = judge(SPEC, state, Evidence(0.5 * look, (EpochCounts("r", 1, 2000, arms[0], arms[1]),)))
        if analysis.verdict is Verdict.PASS:
            break
    assert analysis.verdict is Verdict.PASS
    assert analysis.findings[0].canary_trials == 5 * look and analysis.findings[0].stable_trials == 20 * look
