"""What `gateway plan` answers: needs in requests and seconds, of each step, of the whole way, and of the bake."""

from __future__ import annotations

from typing import Literal

import msgspec

from gateway.core.analysis.sizing.question import Question


class Need(msgspec.Struct, frozen=True):
    """What one answer takes: requests to the canary (of both variants: divide by the weight), and seconds."""

    canary_requests: float
    time_s: float


class Estimate(msgspec.Struct, frozen=True):
    """At the information limit, which no test can beat, and as expected of this engine."""

    limit: Need
    engine: Need


class SliceNeed(msgspec.Struct, frozen=True):
    """What latency takes, in slices and in seconds with the wait for stable's first requests."""

    slices: float
    time_s: float


class SliceEstimate(msgspec.Struct, frozen=True):
    """Latency at the limit of bets on slices, and as expected of this engine."""

    limit: SliceNeed
    engine: SliceNeed


class StepForecast(msgspec.Struct, frozen=True):
    """One step taken alone, from no evidence.

    ``floor_s`` is how long its minimum time and requests last. The two ``..._within_floor`` say whether the engine
    answers in that time: beyond it the rollout waits here. Latency is None when it does not decide.
    """

    weight_bp: int
    floor_s: float
    detect: Estimate
    prove: Estimate
    latency_convict: SliceEstimate | None
    latency_prove: SliceEstimate | None
    detects_within_floor: bool
    proves_within_floor: bool


class BakeForecast(msgspec.Struct, frozen=True):
    """A regression that begins in the bake, with so much left to stable.

    How long it takes to be found, and how many requests of the promoted version have the event until then.
    """

    holdout_percent: float
    detect_s: float
    bad_answers: float


class Journey(msgspec.Struct, frozen=True):
    """All steps: how it ends, when, in which step (from 1); when each step that is reached is entered.

    ``proven_at_s`` is when the canary is shown to be good enough; never (infinity) for one that is convicted first.
    """

    outcome: Literal["promoted", "detected", "undecided"]
    at_s: float
    step: int
    entered_s: tuple[float, ...]
    proven_at_s: float
    proven_in_step: int | None


class Outlook(msgspec.Struct, frozen=True):
    """Two canaries on the same plan: one as good as stable, one with the regression."""

    healthy: Journey
    regressed: Journey


class MomentsForecast(msgspec.Struct, frozen=True):
    """What a rollout meets when the canary has bad moments as stable has them.

    ``expected`` of them until a healthy canary is promoted. ``burst_s`` is what `analysis.burst_s` would have to be for
    the longest to count as one failure: 0 where it is enough as it is. Then the regression is found after ``detect_s``,
    on average. ``excused_s``: how long a moment may last that is no evidence, where that is learnt from stable.
    """

    known_s: float
    per_hour: float
    mean_s: float
    longest_s: float
    expected: float
    burst_s: float
    detect_s: float
    excused_s: float = 0.0


Problem = Literal["promotion_never", "promotion_too_late", "regression_let_through", "detection_too_late"]


class Reach(msgspec.Struct, frozen=True):
    """What a rollout by this plan can tell: the smallest regression, of a few multiples, that it catches in time.

    ``promoted_below`` is the largest rate, of the same, with which a canary is promoted all the same.
    """

    caught_from: float | None
    promoted_below: float | None


class Forecast(msgspec.Struct, frozen=True):
    """The answer. ``problems`` is empty when the plan can be decided; proposals.py says what to do otherwise.

    ``bake`` has the plan's own holdout first, then others; it is empty without a bake. ``moments`` is None where
    nothing is known of stable's bad moments.
    """

    question: Question
    steps: tuple[StepForecast, ...]
    limit: Outlook
    engine: Outlook
    problems: tuple[Problem, ...]
    bake: tuple[BakeForecast, ...] = ()
    reach: Reach = Reach(None, None)
    moments: MomentsForecast | None = None

    @property
    def decidable(self) -> bool:
        """Whether a healthy canary is promoted and the regression is caught, on average, before the deadline."""
        return not self.problems
