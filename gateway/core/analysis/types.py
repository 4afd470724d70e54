"""The values of an analysis: what was seen (evidence), what it means (finding, verdict). spec.py is what is asked."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from gateway.core.analysis.spec import (
    AnalysisSpec,
    EventSpec,
    GuardrailSpec,
    LatencySpec,
    MetricShares,
    Mode,
    RateSpec,
    Unit,
    Worse,
)
from gateway.core.stats.counts import EpochCounts
from gateway.core.types import Unjudged
from gateway.core.verdicts import Verdict

__all__ = [
    "Analysis",
    "AnalysisSpec",
    "EventSpec",
    "Evidence",
    "Finding",
    "GuardrailSpec",
    "LatencySpec",
    "MetricShares",
    "Mode",
    "RateSpec",
    "Unit",
    "Verdict",
    "Worse",
]


# Names of absolute limits begin so.
GUARDRAIL = "guardrail:"
# Sessions of sticky routes that were well, and came back: they can roll back, and prove nothing either.
RETURNING_SESSIONS = "returning_sessions"


class Evidence(msgspec.Struct, frozen=True):
    """All counts of one rollout at one moment: cumulative, merged over workers, one entry per epoch.

    ``at_s`` is monotonic time in seconds of the deciding process; ``newest`` the epoch in force (None: not known),
    beyond which there can be no counts yet. ``unjudged``: metrics that have nothing to compare, and why;
    ``outside``: how many canary requests were answered that are no part of the experiment.
    """

    at_s: float
    epochs: tuple[EpochCounts, ...]
    newest: int | None = None
    unjudged: Mapping[str, Unjudged] = {}
    outside: int = 0


class Finding(msgspec.Struct, frozen=True):
    """One metric's answer with its numbers.

    ``log_e_bad``: log of the e-process against "not worse"; ``log_e_ok``: against "worse by the margin".
    ``stable_rate``/``canary_rate`` are events per trial (None without trials); where the trials came under several
    weights they are standardised, so that they can be compared (show/strata.py).
    """

    metric: str
    verdict: Verdict
    reason: str
    decides: bool
    log_e_bad: float
    log_e_ok: float
    stable_events: int
    stable_trials: int
    canary_events: int
    canary_trials: int
    details: dict[str, float] = msgspec.field(default_factory=dict)

    @property
    def guardrail(self) -> bool:
        """Whether this is an absolute limit, which can roll back and proves nothing."""
        return self.metric.startswith(GUARDRAIL)

    @property
    def must_pass(self) -> bool:
        """Whether PASS waits for this metric's proof."""
        return self.decides and not self.guardrail and self.metric != RETURNING_SESSIONS

    @property
    def stable_rate(self) -> float | None:
        """Stable's share of events, None without trials, and of a mean."""
        return self._rate("stable", self.stable_events, self.stable_trials)

    @property
    def canary_rate(self) -> float | None:
        """Canary's share of events, None without trials, and of a mean."""
        return self._rate("canary", self.canary_events, self.canary_trials)

    def _rate(self, version: str, events: int, trials: int) -> float | None:
        if not trials or f"{version}_mean" in self.details:
            return None
        return self.details.get(f"{version}_rate", events / trials)


class Analysis(msgspec.Struct, frozen=True):
    """The whole answer at one moment: worst verdict wins, with the metrics named as its cause."""

    verdict: Verdict
    reason: str
    causes: tuple[str, ...]
    findings: tuple[Finding, ...]
    log_e_bad: float
    log_e_bad_needed: float
    log_e_ok_needed: float
    stable_requests: int
    canary_requests: int
