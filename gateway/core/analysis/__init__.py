"""The verdict: sequential tests on counts, valid at every moment, each answer with its reason and numbers."""

from __future__ import annotations

from gateway.core.analysis.judge import AnalysisState, judge
from gateway.core.analysis.types import (
    Analysis,
    AnalysisSpec,
    Evidence,
    Finding,
    LatencySpec,
    MetricShares,
    RateSpec,
    Verdict,
)

__all__ = [
    "Analysis",
    "AnalysisSpec",
    "AnalysisState",
    "Evidence",
    "Finding",
    "LatencySpec",
    "MetricShares",
    "RateSpec",
    "Verdict",
    "judge",
]
