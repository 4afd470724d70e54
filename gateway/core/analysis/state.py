"""What an analysis remembers: everything that the next verdict needs, and nothing that it computes.

Rules:

1. A state is a value: plain finite numbers throughout, which `encode` and `judge.restore` write and read bit for bit.
2. Each kind of metric keeps what it likes under its own name in ``tests``; nobody else looks into it
   (metrics/kind.py).
"""

from __future__ import annotations

from typing import Any

import msgspec

from gateway.core.analysis.bursts.past import Weather
from gateway.core.analysis.evidence.intake import Consumed, Intake
from gateway.core.analysis.evidence.warmup import WarmUp
from gateway.core.analysis.spec import AnalysisSpec
from gateway.core.types import Unjudged

STATE_VERSION = 7


class Pace(msgspec.Struct, frozen=True):
    """How fast evidence comes: since when the newest epoch does, and the requests counted before it."""

    epoch: int = -1
    since_s: float = 0.0
    at_s: float = 0.0
    stable_before: int = 0
    canary_before: int = 0


class Since(msgspec.Struct, frozen=True):
    """From where a class is counted that may be immaterial: the least log E, and what had been counted by then.

    ``counts`` are stable's events and trials and the canary's, by weight (materiality.py).
    """

    log_e: float = 0.0
    counts: dict[int, tuple[int, int, int, int]] = {}


class AnalysisState(msgspec.Struct, frozen=True):
    """The spec, what was consumed of the evidence, and the state of each kind of metric by its name.

    ``bake_s`` is 0 during the climb. ``folded``: what the epochs had counted that have left the evidence, by weight
    (show/strata.py). ``weather`` is what was known of stable's bad moments when the state was made, by failure class;
    it stays as it is, so that nothing is chosen by the evidence that it is for.
    """

    spec: AnalysisSpec
    intake: Intake
    tests: dict[str, Any]
    unjudged: dict[str, Unjudged] = {}
    stable_requests: int = 0
    canary_requests: int = 0
    outside: int = 0
    pace: Pace = Pace()
    bake_s: float = 0.0
    folded: dict[int, Consumed] = {}
    warmup: WarmUp = WarmUp(over=True)
    since: dict[str, Since] = {}
    weather: dict[str, Weather] = {}
    version: int = STATE_VERSION

    @property
    def baking(self) -> bool:
        """Whether this is the time after promotion."""
        return self.bake_s > 0.0

    def encode(self) -> bytes:
        """The state as JSON; `judge.restore` reads it."""
        return msgspec.json.encode(self)
