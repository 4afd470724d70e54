"""The decision history of a rollout: what was decided, when, by whom and why, from its journal alone.

`decision_history` folds the journal's entries into decisions, each with the numbers of the analysis that led to it;
`lines` renders them for people.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from gateway.control.journal.rows import JournalEntry
from gateway.control.views import DecisionView, FindingNumbers
from gateway.core.analysis.types import Finding, Verdict
from gateway.core.numbers import e_value
from gateway.core.rollout import AUTOMATION, Event, Rollout
from gateway.core.types import percent_from_weight_bp
from gateway.runtime.clock import iso


def decision_history(entries: Iterable[JournalEntry]) -> list[DecisionView]:
    """The decisions of one rollout, oldest first, from its entries in the journal."""
    decisions: list[DecisionView] = []
    before = Rollout()
    for entry in entries:
        decisions.append(_decision(before, entry))
        before = entry.state
    return decisions


def lines(decisions: Iterable[DecisionView]) -> list[str]:
    """The same for people: a line for each decision, and indented under it why, and the numbers that count."""
    shown: list[str] = []
    for decision in decisions:
        change = f"{decision.phase_before} -> {decision.phase}"
        if decision.phase_before == decision.phase:
            change = decision.phase
        weight = f"{decision.canary_percent:g} %"
        if decision.canary_percent != decision.canary_percent_before:
            weight = f"{decision.canary_percent_before:g} % -> {weight}"
        shown.append(f"{decision.at}  {change}, step {decision.step}, canary {weight}, by {decision.by}")
        shown.append(f"    {decision.reason}")
        shown += [f"    {_numbers_line(one)}" for one in decision.numbers if one.decides]
    return shown


def _decision(before: Rollout, entry: JournalEntry) -> DecisionView:
    state, analysis = entry.state, entry.analysis
    return DecisionView(
        seq=entry.seq,
        revision=state.revision,
        at=iso(entry.wall_time_s),
        after_s=_since(before, entry.event, entry.kind),
        event=entry.kind,
        by=state.by,
        automatic=state.by == AUTOMATION,
        phase_before=before.phase.value,
        phase=state.phase.value,
        step=_step(state),
        canary_percent_before=percent_from_weight_bp(before.weight_bp),
        canary_percent=percent_from_weight_bp(state.weight_bp),
        reason=state.reason,
        causes=state.causes,
        canary_requests=None if analysis is None else analysis.canary_requests,
        verdict=None if analysis is None else analysis.verdict.value,
        numbers=() if analysis is None else tuple(map(_numbers, analysis.findings)),
        model=state.model,
    )


def _since(before: Rollout, event: Event, kind: str) -> float | None:
    return None if not before.rollout_id or kind == "Restarted" else max(0.0, event.at_s - before.last_at_s)


def _step(state: Rollout) -> str:
    count = len(state.plan.steps)
    if state.step_index == count:
        return "bake"
    return {-3: "mirror", -2: "none", -1: "warm-up"}.get(state.step_index, f"{state.step_index + 1}/{count}")


def _numbers(finding: Finding) -> FindingNumbers:
    return FindingNumbers(
        metric=finding.metric,
        verdict=finding.verdict.value,
        reason=finding.reason,
        decides=finding.decides,
        stable_events=finding.stable_events,
        stable_trials=finding.stable_trials,
        canary_events=finding.canary_events,
        canary_trials=finding.canary_trials,
        log_e_bad=_finite(finding.log_e_bad),
        log_e_ok=_finite(finding.log_e_ok),
    )


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _numbers_line(numbers: FindingNumbers) -> str:
    return (
        f"{numbers.metric}: {numbers.verdict}, stable {numbers.stable_events} of {numbers.stable_trials},"
        f" canary {numbers.canary_events} of {numbers.canary_trials}, evidence {_e_text(numbers.log_e_bad)} worse,"
        f" {_e_text(numbers.log_e_ok)} good enough"
        f"{f': {numbers.reason}' if numbers.verdict == Verdict.NODATA else ''}"
    )


def _e_text(log_e: float | None) -> str:
    return "-" if log_e is None else e_value(log_e)
