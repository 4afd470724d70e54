"""Metrics that have nothing to compare: that is no proof of anything, so they neither pass nor convict.

Rules:

1. The collector of the evidence marks some metrics as impossible to judge (``Evidence.unjudged``): answers that
   nobody can read, an event that nobody reports.
2. Events of one ``group`` share the answers out among them. When every answer of both versions falls to the same one,
   or none of them ever happened, there is nothing to compare. A version that alone falls to one class is evidence.
3. Such a metric is NODATA, its evidence counts as 1 at most, and its finding says what was seen and what would help.
   ``Why.ABSENT`` holds no promotion up: the route has nothing of the kind.
"""

from __future__ import annotations

from gateway.core.analysis.metrics.events import counted
from gateway.core.analysis.spec import Mode, Unit
from gateway.core.analysis.state import AnalysisState
from gateway.core.types import Unjudged, Why

# Before so many answers of stable it may be chance.
_ANSWERS_MIN = 100
_ONE_CLASS = "send inputs that differ, or set this to advise: `predictions: {mode: advise}`"


def unjudged(state: AnalysisState) -> dict[str, Unjudged]:
    """The metrics that cannot be judged now, by name."""
    groups: dict[str, list[str]] = {}
    for event in state.spec.events:
        if event.group and event.mode is not Mode.OFF and event.unit is Unit.REQUEST:
            groups.setdefault(event.group, []).append(event.name)
    found = {name: silent for names in groups.values() if (silent := _constant(state, names)) for name in names}
    return {**found, **state.unjudged}


def _constant(state: AnalysisState, names: list[str]) -> Unjudged | None:
    """Why the events of one group say nothing; None where they do, or before the first answer."""
    happened = []
    why = Why.NEVER
    for name in names:
        stable, canary = counted(state, name)
        if stable.trials < _ANSWERS_MIN:
            why = Why.WAITS
        if not stable.trials or not canary.trials:
            return None
        if stable.events or canary.events:
            happened.append((name, stable.events, canary.events))
            if (stable.events, canary.events) != (stable.trials, canary.trials):
                return None
    if happened:
        name, of_stable, of_canary = happened[0]
        seen = f"all answers of both versions are {name} ({of_stable:,} of stable, {of_canary:,} of canary)"
    else:
        seen = f"all answers of both versions are the same ({stable.trials:,} of stable, {canary.trials:,} of canary)"
    return Unjudged(f"{seen}: nothing to compare, so nothing is proven; {_ONE_CLASS}", why)
