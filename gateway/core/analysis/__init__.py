"""The verdict: sequential tests on counts, valid at every moment, each answer with its reason and numbers."""

from __future__ import annotations

from gateway.core.analysis import budget
from gateway.core.analysis.judge import Look, bake, explained, fresh_state, judge, look, restore
from gateway.core.analysis.metrics.events import with_new_events
from gateway.core.analysis.metrics.latencies import latencies_seen
from gateway.core.analysis.state import AnalysisState
from gateway.core.analysis.types import (
    Analysis,
    AnalysisSpec,
    EventSpec,
    Evidence,
    Finding,
    GuardrailSpec,
    LatencySpec,
    MetricShares,
    Mode,
    RateSpec,
    Unit,
    Verdict,
    Worse,
)

__all__ = [
    "Analysis",
    "AnalysisSpec",
    "AnalysisState",
    "EventSpec",
    "Evidence",
    "Finding",
    "GuardrailSpec",
    "LatencySpec",
    "Look",
    "MetricShares",
    "Mode",
    "RateSpec",
    "Unit",
    "Verdict",
    "Worse",
    "bake",
    "budget",
    "explained",
    "fresh_state",
    "judge",
    "latencies_seen",
    "look",
    "restore",
    "with_new_events",
]
