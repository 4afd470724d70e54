"""The kinds of metrics that there are, in the order of the report. A new kind is a line here."""

from __future__ import annotations

import functools
from typing import Any

from gateway.core.analysis.metrics.events import EVENTS
from gateway.core.analysis.metrics.guardrails import GUARDRAILS
from gateway.core.analysis.metrics.kind import Metric, MetricKind
from gateway.core.analysis.metrics.latencies import LATENCIES
from gateway.core.analysis.metrics.means import MEANS
from gateway.core.analysis.metrics.missing_outcomes import MISSING_OUTCOMES
from gateway.core.analysis.metrics.outcomes import OUTCOMES
from gateway.core.analysis.metrics.returning import RETURNING_KIND
from gateway.core.analysis.metrics.sample_ratio import SAMPLE_RATIO
from gateway.core.analysis.spec import AnalysisSpec

Kinds = tuple[MetricKind[Any], ...]

KINDS: Kinds = (OUTCOMES, LATENCIES, EVENTS, MEANS, GUARDRAILS, RETURNING_KIND, MISSING_OUTCOMES, SAMPLE_RATIO)


def metrics_of(spec: AnalysisSpec) -> tuple[tuple[MetricKind[Any], tuple[Metric, ...]], ...]:
    """Every kind with what a spec asks of it."""
    return _metrics_of(KINDS, spec)


@functools.lru_cache(maxsize=64)
def _metrics_of(kinds: Kinds, spec: AnalysisSpec) -> tuple[tuple[MetricKind[Any], tuple[Metric, ...]], ...]:
    return tuple((kind, kind.metrics(spec)) for kind in kinds)
