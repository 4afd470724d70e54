"""The JSON of the API: what comes in, what goes out, and the one conversion between the API's plan and the core's.

Rules:

1. Weights are percent here and basis points inside; `plan_body` and plans.py's `plan_of` are where plans are converted.
2. Wishes (what comes in) refuse unknown keys and values outside their domain. Answers may gain fields, never lose any.
3. JSON knows no infinity and no NaN: such a number in an analysis is null.
4. Bodies that equal the control plane's views are those views; only what must differ is declared here.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from gateway.control.journal.rows import AuditEntry
from gateway.control.views import AlarmView, BackendView, ControlEvent, DecisionView, RolloutView, RouteView, WorkerView
from gateway.core.analysis.types import Analysis, Finding, Verdict
from gateway.core.rollout.types import Day, OnDeadline, OnNewCanary, Plan, SafeAction, Step, WhenDown, Window
from gateway.core.types import percent_from_weight_bp, weight_bp_from_percent

YEAR_S = 31_536_000
STEPS_MAX = 100
LABELS_MAX = 500
_PLAN = Plan(())

Percent = Annotated[float, Meta(ge=0, le=100, description="A share of requests in percent, in steps of 0.01.")]
StepPercent = Annotated[float, Meta(gt=0, le=100, description="The canary's share on this step, in steps of 0.01.")]
FloorTime = Annotated[float, Meta(ge=0, le=YEAR_S, description="Seconds that the step lasts at least.")]
FloorRequests = Annotated[int, Meta(ge=0, le=1_000_000_000, description="Canary requests that the step sees at least.")]
Deadline = Annotated[float, Meta(gt=0, le=YEAR_S, description="Seconds after which ``on_deadline`` acts.")]
Holdout = Annotated[float, Meta(ge=0, lt=100, description="Stable's share during the bake, in steps of 0.01.")]
Gate = Annotated[str, Meta(max_length=200, description="What opens it: `manual`, or the name of a configured gate.")]
TimeOfDay = Annotated[str, Meta(pattern="^(([01][0-9]|2[0-3]):[0-5][0-9]|24:00)$", description="HH:MM, local.")]
LocalDate = Annotated[str, Meta(pattern="^[0-9]{4}-[0-9]{2}-[0-9]{2}$", description="ISO 8601.")]
Reason = Annotated[str, Meta(max_length=500, description="Why, in the operator's words, on one line.")]


class StepBody(msgspec.Struct, frozen=True):
    """One step of a plan."""

    percent: StepPercent
    min_time_s: FloorTime = Step(0).min_time_s
    min_requests: FloorRequests = Step(0).min_requests
    deadline_s: Deadline | None = Step(0).deadline_s
    on_deadline: OnDeadline = Step(0).on_deadline
    gate: Gate = Step(0).gate


class WindowBody(msgspec.Struct, frozen=True):
    """A time of the week in which automation may raise the weight."""

    days: tuple[Day, ...] = tuple(Day)
    opens: TimeOfDay = "00:00"
    closes: TimeOfDay = "24:00"


class PlanBody(msgspec.Struct, frozen=True):
    """The ladder of weights that a rollout climbs, and what may hold it. The keys mean what the configuration's do."""

    steps: tuple[StepBody, ...]
    deadline_s: Deadline = _PLAN.deadline_s
    on_deadline: OnDeadline = _PLAN.on_deadline
    on_no_data: SafeAction | None = _PLAN.on_no_data
    promotion_gate: Gate = _PLAN.promotion_gate
    warmup_s: FloorTime = _PLAN.warmup_s
    bake_s: FloorTime = _PLAN.bake_s
    bake_holdout_percent: Holdout = percent_from_weight_bp(_PLAN.bake_holdout_bp)
    rollback_ramp_s: FloorTime = _PLAN.rollback_ramp_s
    stable_endpoints_min: Annotated[int, Meta(ge=0, le=1000)] = _PLAN.stable_endpoints_min
    when_canary_down: WhenDown = _PLAN.when_canary_down
    windows: Annotated[tuple[WindowBody, ...], Meta(max_length=100)] = ()
    closed_dates: Annotated[tuple[LocalDate, ...], Meta(max_length=1000)] = ()
    timezone: Annotated[str, Meta(max_length=100)] = _PLAN.timezone
    pause_max_s: Deadline | None = _PLAN.pause_max_s
    on_new_canary: OnNewCanary = _PLAN.on_new_canary


class StepWish(StepBody, frozen=True, forbid_unknown_fields=True):
    """One step of a plan that is asked for."""


class WindowWish(WindowBody, frozen=True, forbid_unknown_fields=True):
    """A window of a plan that is asked for."""


class PlanWish(PlanBody, frozen=True, forbid_unknown_fields=True):
    """A plan that is asked for; its percentages rise from step to step."""

    steps: Annotated[tuple[StepWish, ...], Meta(min_length=1, max_length=STEPS_MAX)]
    windows: Annotated[tuple[WindowWish, ...], Meta(max_length=100)] = ()


class WeightWish(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A weight set by hand."""

    canary_percent: Percent
    reason: Reason = ""


class StartWish(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A rollout to start; without a plan, by the configured one. ``retry``: also of a version that was rolled back."""

    plan: PlanWish | None = None
    reason: Reason = ""
    retry: bool = False


class VerbWish(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Why a rollout is to be paused, resumed, approved or aborted."""

    reason: Reason = ""


class PromoteWish(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A rollout to promote: all the way, or to its next step."""

    reason: Reason = ""
    next_step: bool = False


class LabelWish(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A yes or no that became known after the answer: of which request (its X-Request-ID), of which event."""

    request_id: Annotated[str, Meta(min_length=1, max_length=200, description="The request's X-Request-ID.")]
    name: Annotated[str, Meta(min_length=1, max_length=64, description="An event of the route that has a `trial`.")]
    value: bool = True


class LabelsWish(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Labels of one route that are handed in together."""

    events: Annotated[tuple[LabelWish, ...], Meta(min_length=1, max_length=LABELS_MAX)]


class LabelsTaken(msgspec.Struct, frozen=True):
    """How many labels were taken. What became of them is in `gateway_labels_total` of the metrics."""

    accepted: int


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
    """One rollout: where it is, why, and on which evidence. ``step`` counts from 1; times are ISO 8601 in UTC.

    ``stable`` is null for a route's first version. ``revision`` counts its decisions. ``gate`` is what a WAITING one
    waits for; ``waiting_for`` says in one sentence why the weight does not rise just now.
    ``warnings`` name deciding metrics that cannot have data as things are, with what was seen and what would help;
    ``compared`` says which outputs of the models are compared and why, ``meanings`` what each event stands for.
    """

    id: str
    route: str
    stable: str | None
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
    revision: int = 0
    gate: str = ""
    waiting_for: str = ""
    warnings: tuple[str, ...] = ()
    compared: str = ""
    meanings: dict[str, str] = {}


class RouteList(msgspec.Struct, frozen=True):
    """All routes, in the order of the configuration."""

    routes: tuple[RouteView, ...]


class RolloutList(msgspec.Struct, frozen=True):
    """A page of rollouts, newest first; ``next_before`` is the ``before`` of the next page, null at the end."""

    rollouts: tuple[RolloutBody, ...]
    next_before: str | None = None


class StoryBody(msgspec.Struct, frozen=True):
    """What was decided on one rollout, oldest first, from the journal alone."""

    id: str
    decisions: tuple[DecisionView, ...]


class WorkerList(msgspec.Struct, frozen=True):
    """The connected workers, by their index."""

    workers: tuple[WorkerView, ...]


class BackendList(msgspec.Struct, frozen=True):
    """All backends, in the order of the configuration."""

    backends: tuple[BackendView, ...]


class AlarmList(msgspec.Struct, frozen=True):
    """What is wrong right now, in the order in which it came up."""

    alarms: tuple[AlarmView, ...]


class AuditList(msgspec.Struct, frozen=True):
    """A page of the audit trail, newest first; ``next_before`` is the ``before`` of the next page, null at the end."""

    entries: tuple[AuditEntry, ...]
    next_before: int | None = None


class Health(msgspec.Struct, frozen=True):
    """The process lives."""

    alive: bool


def encode(body: Any) -> bytes:
    """JSON in UTF-8; numbers that are not finite become null."""
    return msgspec.json.encode(body)


def weight_bp_of(wish: WeightWish) -> int:
    """The weight in basis points. Raises InvalidValueError for one that is finer than 0.01 %."""
    return weight_bp_from_percent(wish.canary_percent)


def plan_body(plan: Plan) -> PlanBody:
    """The API's plan."""
    shared = {name: getattr(plan, name) for name in PlanBody.__struct_fields__ if name in Plan.__struct_fields__}
    return PlanBody(
        **shared
        | {
            "steps": tuple(_step_body(step) for step in plan.steps),
            "bake_holdout_percent": percent_from_weight_bp(plan.bake_holdout_bp),
            "windows": tuple(_window_body(window) for window in plan.windows),
        }
    )


def _step_body(step: Step) -> StepBody:
    shared = {name: getattr(step, name) for name in StepBody.__struct_fields__ if name in Step.__struct_fields__}
    return StepBody(percent=percent_from_weight_bp(step.weight_bp), **shared)


def _window_body(window: Window) -> WindowBody:
    days = tuple(Day)
    opens, closes = (f"{minute // 60:02}:{minute % 60:02}" for minute in (window.from_minute, window.until_minute))
    return WindowBody(tuple(days[index] for index in window.days), opens, closes)


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
