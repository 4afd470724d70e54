"""Routes that something else splits: what an actuator has to apply there, and the counts that are read elsewhere.

Rules:

1. An actuator (gateway/app/actuators.py) is asked for nothing: it reads `ExternalSplit` and applies it. The weight of
   the table is what is wanted; counts are entered under the weight that is in force there.
2. Counts are added under the epoch that was in force here while they arose, and are never taken back.
3. While an actuator or its source of counts is in trouble, there is no verdict, and the trouble is the reason.
"""

from __future__ import annotations

from typing import NamedTuple

from gateway.core.analysis import Evidence
from gateway.core.rollout import Phase
from gateway.core.stats.counts import Counts, EpochCounts, merge

NOT_YET = "no verdict: its actuator has not read anything yet"


class ExternalSplit(NamedTuple):
    """What a route is to be split like: the rollout, its phase, the canary's weight, and the epochs that count."""

    rollout_id: str
    phase: Phase
    weight_bp: int
    epoch: int
    first_epoch: int


class ExternalRoutes:
    """Counts and troubles of all such routes, by name."""

    def __init__(self) -> None:
        self._counts: dict[str, dict[int, EpochCounts]] = {}
        self._troubles: dict[str, str] = {}

    def add(self, route: str, epoch: int, weight_bp: int, stable: Counts, canary: Counts) -> None:
        """Add what was counted of both versions while this weight was in force."""
        epochs = self._counts.setdefault(route, {})
        known = epochs.get(epoch, EpochCounts(route, epoch, weight_bp))
        epochs[epoch] = EpochCounts(
            route, epoch, known.weight_bp, merge((known.stable, stable)), merge((known.canary, canary))
        )

    def evidence(self, route: str, first_epoch: int, epoch: int, at_s: float) -> Evidence:
        """The evidence from ``first_epoch`` up to the epoch in force; older counts are forgotten."""
        epochs = self._counts.get(route, {})
        for number in [number for number in epochs if number < first_epoch]:
            del epochs[number]
        return Evidence(at_s, tuple(epochs[number] for number in sorted(epochs) if number <= epoch))

    def set_trouble(self, route: str, why: str) -> None:
        """Why there can be no verdict now; empty when there can."""
        self._troubles[route] = why

    def trouble(self, route: str) -> str:
        """Why there can be no verdict on this route now; empty when there can."""
        return self._troubles.get(route, NOT_YET)
