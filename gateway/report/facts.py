"""What a report is made of. Where something was not kept, the report says so instead of leaving a hole.

Rules:

1. A journal alone is enough (`from_journal`): decisions, and the counts at each. Charts are then drawn through the
   decisions, and the latencies' distributions are those of the last snapshot.
2. Effects that an analysis does not carry are computed from its counts of all weights together (`intervals.effect`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime

import msgspec

from gateway.control.decide.evidence_series import COLUMNS
from gateway.control.decide.rollout_records import RolloutRecord
from gateway.control.decide.routes import saved_analysis
from gateway.control.journal.store import Journal
from gateway.control.show.decision_history import decision_history
from gateway.control.show.distributions import distributions
from gateway.control.views import (
    DecisionView,
    FindingNumbers,
    LatencyDistributions,
    MetricSeries,
    RolloutSeries,
    RolloutView,
)
from gateway.core.analysis.findings import Share
from gateway.core.analysis.types import Finding
from gateway.core.errors import NotFoundError

ALPHA = 0.05
_LATENCIES = ("latency", "duration", "first_token", "gap", "time_per_event")


class EffectBand(msgspec.Struct, frozen=True):
    """How much the canary differs from stable, with the band that holds it at all moments with 95 % probability.

    In shares, or in microseconds (``unit`` is ``us``).
    """

    unit: str
    effect: float
    low: float
    high: float


class ReportFacts(msgspec.Struct, frozen=True):
    """One rollout."""

    rollout: RolloutView
    decisions: tuple[DecisionView, ...]
    series: RolloutSeries
    latencies: LatencyDistributions

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What each metric said last."""
        return () if self.rollout.analysis is None else self.rollout.analysis.findings

    @property
    def took_s(self) -> float:
        """How long it took, or has taken."""
        began, ended = (datetime.fromisoformat(at) for at in (self.rollout.started_at, self.rollout.updated_at))
        return max(0.0, (ended - began).total_seconds())

    @property
    def drawn(self) -> RolloutSeries:
        """What charts are drawn from: the series, or without one the decisions."""
        return self.series if len(self.series.at) > 1 else _through_decisions(self.rollout.id, self.decisions)


def from_journal(journal: Journal, rollout_id: str) -> ReportFacts:
    """The facts of a rollout from its journal. Blocks; raises JournalError, NotFoundError."""
    entries = journal.events(rollout_id)
    if not entries:
        raise NotFoundError(f"no rollout has the id {rollout_id!r}")
    analysis = next((entry.analysis for entry in reversed(entries) if entry.analysis is not None), None)
    record = RolloutRecord(entries[-1].state, analysis, entries[0].wall_time_s, entries[-1].wall_time_s)
    snapshot = journal.load_snapshot(rollout_id)
    return ReportFacts(
        record.view(record.rollout, analysis, None),
        tuple(decision_history(entries)),
        RolloutSeries(rollout_id, 1.0, (), (), (), ()),
        distributions(rollout_id, None if snapshot is None else saved_analysis(snapshot)),
    )


def effect_of(finding: Finding) -> EffectBand | None:
    """The effect that a finding shows; None without trials of both versions."""
    details = finding.details
    if "p95_difference_us" in details:
        return EffectBand("us", *(_detail(details, f"p95_difference_us{end}") for end in ("", "_low", "_high")))
    if "difference" in details:
        return EffectBand("share", *(_detail(details, f"difference{end}") for end in ("", "_low", "_high")))
    if finding.metric in _LATENCIES or finding.guardrail or finding.metric == "sample_ratio":
        return None
    return _computed(finding)


def _detail(details: dict[str, float], name: str) -> float:
    return details.get(name, math.nan)


def _computed(one: Finding | FindingNumbers) -> EffectBand | None:
    # scipy takes a moment to load; only reports without a live analysis need it here.
    from gateway.core.analysis.show import intervals  # noqa: PLC0415  # see above
    from gateway.core.analysis.show.strata import Stratum  # noqa: PLC0415  # as above

    if not one.stable_trials or not one.canary_trials:
        return None
    whole = Stratum(Share(one.stable_events, one.stable_trials), Share(one.canary_events, one.canary_trials))
    found = intervals.effect((whole,), ALPHA).difference
    effect = one.canary_events / one.canary_trials - one.stable_events / one.stable_trials
    return EffectBand("share", effect, found.low, found.high)


def _through_decisions(rollout_id: str, decisions: Sequence[DecisionView]) -> RolloutSeries:
    """A series with a point for each decision that rests on numbers."""
    known = [one for one in decisions if one.numbers]
    names = dict.fromkeys(
        one.metric
        for decision in known
        for one in decision.numbers
        if one.metric not in _LATENCIES and one.stable_events + one.canary_events
    )
    return RolloutSeries(
        rollout_id,
        1.0,
        tuple(datetime.fromisoformat(one.at).timestamp() for one in known),
        tuple(one.canary_percent for one in known),
        (),
        tuple(_columns(name, known) for name in names),
    )


def _columns(name: str, decisions: Sequence[DecisionView]) -> MetricSeries:
    rows: list[tuple[float | None, ...]] = []
    for decision in decisions:
        one = next((numbers for numbers in decision.numbers if numbers.metric == name), None)
        band = None if one is None else _computed(one)
        logs = (None, None) if one is None else (one.log_e_bad, one.log_e_ok)
        ends = (None, None, None) if band is None else (band.effect, band.low, band.high)
        rows.append((*logs, *ends, None, None))
    columns = [tuple(column) for column in zip(*rows, strict=True)] or [()] * len(COLUMNS)
    return MetricSeries(name, "share", *columns)
