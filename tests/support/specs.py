"""Analysis specs in which few metrics speak, so that a test is about those."""

from __future__ import annotations

from typing import Any

from gateway.core.analysis import Mode, RateSpec
from gateway.core.analysis.spec import RATE_METRICS


def silent(*speaking: str, mode: Mode = Mode.OFF) -> dict[str, Any]:
    """Fields of AnalysisSpec: every outcome class but those that are ``speaking`` in this mode."""
    return {name: RateSpec(mode) for name in RATE_METRICS if name not in speaking}
