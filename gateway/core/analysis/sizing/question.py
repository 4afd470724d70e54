"""What `gateway plan` is asked: a route's traffic, the regression that is feared, and the plan."""

from __future__ import annotations

import math

import msgspec

from gateway.core.analysis.bursts.past import Weather
from gateway.core.analysis.spec import RATE_METRICS, AnalysisSpec, RateSpec
from gateway.core.errors import InvalidValueError
from gateway.core.types import WEIGHT_BP_MAX


class PlannedStep(msgspec.Struct, frozen=True):
    """One step of the plan: its weight, and the floor of time and of canary requests before the next one."""

    weight_bp: int
    min_time_s: float = 60.0
    min_requests: int = 100

    @property
    def weight(self) -> float:
        """The canary's share of requests, in (0, 1)."""
        return self.weight_bp / WEIGHT_BP_MAX


class Question(msgspec.Struct, frozen=True):
    """What is planned. ``requests_per_s`` is the route's whole traffic; rates are events per request.

    ``bake_s`` is 0 without a bake. ``weather`` is what is known of stable's bad moments with the metric's event.
    """

    requests_per_s: float
    base_rate: float
    regression_rate: float
    steps: tuple[PlannedStep, ...]
    deadline_s: float
    spec: AnalysisSpec = AnalysisSpec()
    metric: str = "errors"
    bake_s: float = 0.0
    bake_holdout_bp: int = 0
    weather: Weather = Weather()

    def __post_init__(self) -> None:
        """Raise InvalidValueError for a question without an answer, saying what to ask instead."""
        if not 0.0 < self.requests_per_s < math.inf:
            raise InvalidValueError(
                f"the traffic must be more than 0 requests per second, not {self.requests_per_s:g}:"
                " give what the route receives, stable's and the canary's together"
            )
        for name, rate in (("base", self.base_rate), ("regression's", self.regression_rate)):
            if not 0.0 < rate < 1.0:
                raise InvalidValueError(
                    f"the {name} rate must lie between 0 and 1, not {rate:g}:"
                    " give the share of requests with the event, such as 0.01 for 1 %"
                )
        if self.regression_rate <= self.base_rate:
            raise InvalidValueError(
                f"the regression's rate {self.regression_rate:g} is not worse than the base rate {self.base_rate:g}:"
                " give a larger one, such as 2x or +0.01"
            )
        if not 0.0 < self.deadline_s < math.inf:
            raise InvalidValueError(f"the deadline must be more than 0 seconds, not {self.deadline_s:g}")
        if self.metric not in RATE_METRICS:
            raise InvalidValueError(f"the metric must be one of {', '.join(RATE_METRICS)}, not {self.metric!r}")
        if not self.rate_spec.decides:
            raise InvalidValueError(f"{self.metric} only reports: plan for a metric that decides")
        _check_steps(self.steps)

    @property
    def rate_spec(self) -> RateSpec:
        """The margins of the asked metric."""
        spec: RateSpec = getattr(self.spec, self.metric)
        return spec


def _check_steps(steps: tuple[PlannedStep, ...]) -> None:
    if not steps:
        raise InvalidValueError("a plan needs at least one step: give a weight to start at, such as 5")
    for index, step in enumerate(steps):
        percent = step.weight_bp / 100
        if not 0 < step.weight_bp < WEIGHT_BP_MAX:
            raise InvalidValueError(
                f"step {index + 1} has {percent:g} %: a weight must lie between 0 and 100 %, because evidence"
                " needs requests of both variants; 100 % follows the last step by itself"
            )
        if index and step.weight_bp <= steps[index - 1].weight_bp:
            raise InvalidValueError(
                f"step {index + 1} ({percent:g} %) does not rise above the one before it:"
                " put the weights in rising order"
            )
        if not 0.0 <= step.min_time_s < math.inf or step.min_requests < 0:
            raise InvalidValueError(f"step {index + 1}'s minimum time and requests must be 0 or more")
