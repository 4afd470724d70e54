"""Metrics that have nothing to compare: that is no proof of anything, so they neither pass nor convict.

Rules:

1. Whoever gathers the evidence says of some metrics that they cannot be judged (``Evidence.unjudged``): answers that
   nobody can read, an event that nobody reports.
2. Events of one ``group`` share the answers out among them. When every answer of both versions falls to the same one,
   or none of them ever happened, there is nothing to compare. A version that alone falls to one class is evidence.
3. Such a metric is NODATA, its evidence counts as 1 at most, and its finding says what was seen and what would help.
   ``Why.ABSENT`` holds no promotion up: the route has nothing of the kind.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from gateway.core.types import Unjudged, Why

if TYPE_CHECKING:
    from gateway.core.analysis.judge import AnalysisState

# A sentence that names more metrics than this names the first few.
_NAMES_MAX, _NAMES_SAID = 6, 4
# Before so many answers of stable it may be chance.
_ANSWERS_MIN = 100
_ONE_CLASS = "send inputs that differ, or let this advise: `predictions: {mode: advise}`"


def unjudged(state: AnalysisState) -> dict[str, Unjudged]:
    """The metrics that cannot be judged now, by name."""
    groups: dict[str, list[str]] = {}
    for event in state.spec.events:
        if event.group and event.name in state.events:
            groups.setdefault(event.group, []).append(event.name)
    found = {name: silent for names in groups.values() if (silent := _constant(state, names)) for name in names}
    return {**found, **state.unjudged}


def sentence(silent: Mapping[str, Unjudged]) -> str:
    """Which metrics cannot be judged and why, each reason once; empty without metrics."""
    reasons: dict[str, list[str]] = {}
    for name, one in silent.items():
        reasons.setdefault(one.reason, []).append(name)
    return "; ".join(f"{some(names)} cannot be judged: {reason}" for reason, names in reasons.items())


def some(names: Sequence[str]) -> str:
    """Names in a sentence, the first few of many: the findings name them all.

    >>> some(["errors", "overload"]), some([f"class_{n}" for n in range(9)])
    ('errors, overload', 'class_0, class_1, class_2, class_3 and 5 more')
    """
    if len(names) <= _NAMES_MAX:
        return ", ".join(names)
    return f"{', '.join(names[:_NAMES_SAID])} and {len(names) - _NAMES_SAID} more"


def _constant(state: AnalysisState, names: list[str]) -> Unjudged | None:
    """Why the events of one group say nothing; None where they do, or before the first answer."""
    happened = []
    why = Why.NEVER
    for name in names:
        event = state.events[name]
        if event.stable < _ANSWERS_MIN:
            why = Why.WAITS
        stable, canary = event.metrics[0].stable_events, event.metrics[0].canary_events
        if not event.stable or not event.canary:
            return None
        if stable or canary:
            happened.append((name, stable, canary))
            if (stable, canary) != (event.stable, event.canary):
                return None
    if not happened:
        seen = f"the answers of both versions all say the same ({event.stable:,} of stable, {event.canary:,} of canary)"
    else:
        name, stable, canary = happened[0]
        seen = f"all answers of both versions are {name} ({stable:,} of stable, {canary:,} of canary)"
    return Unjudged(f"{seen}: nothing to compare, which is no proof; {_ONE_CLASS}", why)
