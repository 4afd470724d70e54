"""The JSON of the API: what comes in, what goes out, and the one conversion between the API's plan and the core's.

Rules:

1. Weights are percent here and basis points inside; `plan_of` and `plan_body` are the only places that convert a plan.
2. Wishes (what comes in) refuse unknown keys and values outside their domain. Answers may gain fields, never lose any.
3. JSON knows no infinity and no NaN: such a number in an analysis is null.
4. Bodies that equal the control plane's views are those views; only what must differ is declared here.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from gateway.control.views import ControlEvent, RolloutView, RouteView
from gateway.core.analysis.types import Analysis, Finding, Verdict
from gateway.core.errors import InvalidValueError
from gateway.core.rollout.types import OnDeadline, Plan, Step
from gateway.core.types import percent_from_weight_bp, weight_bp_from_percent

YEAR_S = 31_536_000
STEPS_MAX = 100

Percent = Annotated[float, Meta(ge=0, le=100, description="A share of requests in percent, in steps of 0.01.")]
StepPercent = Annotated[float, Meta(gt=0, le=100, description="The canary's share on this step, in steps of 0.01.")]
FloorTime = Annotated[float, Meta(ge=0, le=YEAR_S, description="Seconds that the step lasts at least.")]
FloorRequests = Annotated[int, Meta(ge=0, le=1_000_000_000, description="Canary requests that the step sees at least.")]
Deadline = Annotated[float, Meta(gt=0, le=YEAR_S, description="Seconds after which ``on_deadline`` acts.")]
Reason = Annotated[str, Meta(max_length=500, description="Why, in the operator's words, on one line.")]


class StepBody(msgspec.Struct, frozen=True):
    """One step of a plan."""

    percent: StepPercent
    min_time_s: FloorTime = Step(0).min_time_s
    min_requests: FloorRequests = Step(0).min_requests


class PlanBody(msgspec.Struct, frozen=True):
    """The ladder of weights that a rollout climbs."""

    steps: tuple[StepBody, ...]
    deadline_s: Deadline = Plan(()).deadline_s
    on_deadline: OnDeadline = Plan(()).on_deadline


class StepWish(StepBody, frozen=True, forbid_unknown_fields=True):
    """One step of a plan that is asked for."""


class PlanWish(PlanBody, frozen=True, forbid_unknown_fields=True):
    """A plan that is asked for; its percentages rise from step to step."""

    steps: Annotated[tuple[StepWish, ...], Meta(min_length=1, max_length=STEPS_MAX)]


class WeightWish(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A weight set by hand."""

    canary_percent: Percent


class StartWish(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A rollout to start; without a plan, by the configured one."""

    plan: PlanWish | None = None
    reason: Reason = ""


class VerbWish(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Why a rollout is to be paused, resumed, promoted or aborted."""

    reason: Reason = ""


class FindingBody(msgspec.Struct, frozen=True):
    """One metric's answer with its numbers; null for a number that is not finite."""

    metric: str
    verdict: Verdict
    reason: str
    decides: bool
    log_e_bad: float | None
    log_e_ok: float | None
    stable_events: int
    stable_trials: int
    canary_events: int
    canary_trials: int
    details: dict[str, float | None] = {}


class AnalysisBody(msgspec.Struct, frozen=True):
    """What the evidence says: the worst verdict of those that decide, with the metrics named as its cause."""

    verdict: Verdict
    reason: str
    causes: tuple[str, ...]
    findings: tuple[FindingBody, ...]
    log_e_bad: float | None
    log_e_bad_needed: float | None
    log_e_ok_needed: float | None
    stable_requests: int
    canary_requests: int


class RolloutBody(msgspec.Struct, frozen=True):
    """One rollout: where it is, why, and on which evidence. ``step`` counts from 1; times are ISO 8601 in UTC."""

    id: str
    route: str
    stable: str
    canary: str
    phase: str
    step: int
    steps: int
    canary_percent: float
    reason: str
    causes: tuple[str, ...]
    by: str
    started_at: str
    updated_at: str
    plan: PlanBody
    canary_requests: int
    analysis: AnalysisBody | None


class RouteList(msgspec.Struct, frozen=True):
    """All routes, in the order of the configuration."""

    routes: tuple[RouteView, ...]


class RolloutList(msgspec.Struct, frozen=True):
    """A page of rollouts, newest first; ``next_before`` is the ``before`` of the next page, null at the end."""

    rollouts: tuple[RolloutBody, ...]
    next_before: str | None = None


class Health(msgspec.Struct, frozen=True):
    """The process lives."""

    alive: bool


def encode(body: Any) -> bytes:
    """JSON in UTF-8; numbers that are not finite become null."""
    return msgspec.json.encode(body)


def weight_bp_of(wish: WeightWish) -> int:
    """The weight in basis points. Raises InvalidValueError for one that is finer than 0.01 %."""
    return weight_bp_from_percent(wish.canary_percent)


def plan_of(wish: PlanBody) -> Plan:
    """The core's plan. Raises InvalidValueError with the place of a percentage that is too fine or does not rise."""
    steps: list[Step] = []
    for index, step in enumerate(wish.steps):
        try:
            weight_bp = weight_bp_from_percent(step.percent)
        except InvalidValueError:
            raise InvalidValueError(
                f"plan.steps[{index}].percent has steps of 0.01, {step.percent!r} is finer"
            ) from None
        if steps and weight_bp <= steps[-1].weight_bp:
            raise InvalidValueError(
                f"plan.steps[{index}].percent must be over the step's before it, {step.percent:g} is not"
            )
        steps.append(Step(weight_bp, step.min_time_s, step.min_requests))
    return Plan(tuple(steps), wish.deadline_s, wish.on_deadline)


def plan_body(plan: Plan) -> PlanBody:
    """The API's plan."""
    steps = tuple(StepBody(percent_from_weight_bp(s.weight_bp), s.min_time_s, s.min_requests) for s in plan.steps)
    return PlanBody(steps, plan.deadline_s, plan.on_deadline)


def analysis_body(analysis: Analysis) -> AnalysisBody:
    """The API's analysis."""
    findings = tuple(FindingBody(**_fields(finding, Finding)) for finding in analysis.findings)
    return AnalysisBody(**_fields(analysis, Analysis) | {"findings": findings})


def rollout_body(view: RolloutView) -> RolloutBody:
    """The API's rollout."""
    analysis = None if view.analysis is None else analysis_body(view.analysis)
    return RolloutBody(**_fields(view, RolloutView) | {"plan": plan_body(view.plan), "analysis": analysis})


def event_body(event: ControlEvent) -> ControlEvent:
    """The event with the API's plan in the rollouts that it carries."""
    if "plan" not in event.data:
        return event
    plan = plan_body(msgspec.convert(event.data["plan"], Plan))
    return msgspec.structs.replace(event, data=event.data | {"plan": plan})


def _fields(struct: msgspec.Struct, kind: type[msgspec.Struct]) -> dict[str, Any]:
    return {name: getattr(struct, name) for name in kind.__struct_fields__}
