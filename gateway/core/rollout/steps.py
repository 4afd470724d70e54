"""The steps of a plan, from the start over the warm-up to the bake; and what keeps a rollout on its step.

Steps are numbered: NOT_BEGUN, MIRROR, WARMUP, 0 … n-1 for the plan's steps, n for the bake.
"""

from __future__ import annotations

from gateway.core.analysis.types import Verdict
from gateway.core.rollout.types import (
    GATE_CANARY,
    MIRROR,
    NOT_BEGUN,
    WARMUP,
    Analysed,
    Conditions,
    LocalTime,
    MirrorStep,
    Phase,
    Plan,
    Rollout,
    Step,
    Window,
)
from gateway.core.types import WEIGHT_BP_MAX, percent_from_weight_bp

_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


def first_step(state: Rollout) -> int:
    """The step at which a rollout begins: the last one where there is no stable version to compare with."""
    if not state.stable:
        return len(state.plan.steps)
    return _first_split(state.plan) if state.plan.mirror is None else MIRROR


def _first_split(plan: Plan) -> int:
    """The step at which users meet the canary first."""
    return WARMUP if plan.warmup_s > 0 else 0


def next_step(state: Rollout) -> int:
    """The step after the present one."""
    if state.step_index == NOT_BEGUN:
        return first_step(state)
    return _first_split(state.plan) if state.step_index == MIRROR else state.step_index + 1


def planned(state: Rollout) -> Step | MirrorStep:
    """What the plan says of the step in force, which has minimums and a deadline."""
    mirror = state.plan.mirror
    if state.step_index == MIRROR and mirror is not None:
        return mirror
    return state.plan.steps[max(0, state.step_index)]


def weight_bp_of(plan: Plan, index: int) -> int:
    """The canary's weight on a step."""
    if index in (NOT_BEGUN, MIRROR):
        return 0
    if index == len(plan.steps):
        return WEIGHT_BP_MAX - plan.bake_holdout_bp
    return plan.steps[max(0, index)].weight_bp


def gate_before(state: Rollout, index: int) -> str:
    """What must open before the step is entered from here; the first step's gate comes before its warm-up."""
    if not state.stable or index == MIRROR or (index == 0 and state.step_index == WARMUP):
        return ""
    if index == len(state.plan.steps):
        return state.plan.promotion_gate
    return state.plan.steps[max(0, index)].gate


def step_name(state: Rollout, index: int) -> str:
    """The step's name in messages."""
    count = len(state.plan.steps)
    if index == MIRROR:
        return "the mirror step"
    if index == WARMUP:
        return "the warm-up"
    return "the promotion" if index >= count else f"step {max(0, index) + 1}/{count}"


def where(state: Rollout) -> str:
    """Where the rollout is, with its weight."""
    if state.step_index == NOT_BEGUN:
        return "the start"
    if state.step_index == MIRROR and not state.weight_bp:
        return step_name(state, MIRROR)
    name = "the bake" if state.step_index == len(state.plan.steps) else step_name(state, state.step_index)
    return f"{name} ({percent(state.weight_bp)})"


def percent(weight_bp: int) -> str:
    """The weight as text."""
    return f"{percent_from_weight_bp(weight_bp):g} %"


# --- what holds a rollout back ---


def waiting_for(state: Rollout, event: Analysed) -> str:
    """Why this analysis does not raise the weight, as a sentence; empty when it does, or when the rollout has ended."""
    match state.phase:
        case Phase.PROGRESSING:
            return floor(state, event) or unproven(event) or shut(state.plan, event.conditions)
        case Phase.WAITING if state.gate == GATE_CANARY:
            return canary_down(event.conditions) or closed(state.plan, event.conditions.local)
        case Phase.WAITING:
            before = step_name(state, state.gate_index)
            return f"the gate {state.gate!r} before {before} is closed"
        case Phase.WARMING:
            left_s = state.plan.warmup_s - (event.at_s - state.step_since_s)
            return (
                f"the canary warms up for another {left_s:.0f} s" if left_s > 0 else shut(state.plan, event.conditions)
            )
        case Phase.BAKING:
            left_s = state.plan.bake_s - (event.at_s - state.step_since_s)
            if left_s > 0:
                return f"the canary bakes for another {left_s:.0f} s"
            return shut(state.plan, event.conditions) or event.unknown or ("" if judged(event) else verdict_text(event))
        case Phase.PAUSED:
            return f"paused: {state.reason}"
        case Phase.RETURNING:
            return "traffic is being returned to stable"
        case _:
            return ""


def judged(event: Analysed) -> bool:
    """Whether the canary was seen and judged, and not found worse."""
    return event.verdict in (Verdict.PASS, Verdict.UNDECIDED) and event.canary_requests > 0


def floor(state: Rollout, event: Analysed) -> str:
    """What is missing of the step's minimum time and requests."""
    least = planned(state)
    elapsed_s = event.at_s - state.step_since_s
    requests = event.canary_requests - state.step_requests_base
    if elapsed_s < least.min_time_s:
        return f"the step lasts {least.min_time_s - elapsed_s:.0f} s more at least"
    if requests < least.min_requests:
        return f"the step needs {least.min_requests - requests} more {counted(state)}"
    return ""


def counted(state: Rollout) -> str:
    """What the evidence of the step in force is made of."""
    return "canary requests" if state.mirror is None else "mirrored requests"


def unproven(event: Analysed) -> str:
    """Why the verdict is not PASS; empty when it is."""
    return "" if event.verdict is Verdict.PASS else f"{event.verdict}: {verdict_text(event)}"


def verdict_text(event: Analysed) -> str:
    """The judge's reason, or else the verdict."""
    return event.reason or f"verdict {event.verdict}"


def shut(plan: Plan, conditions: Conditions) -> str:
    """Why automation must not raise a weight now, whatever the evidence says."""
    return stable_down(plan, conditions) or canary_down(conditions) or closed(plan, conditions.local)


def stable_down(plan: Plan, conditions: Conditions) -> str:
    """Whether stable has too few healthy endpoints to take the canary's requests back."""
    needed = max(1, plan.stable_endpoints_min)
    if conditions.stable_up is None or conditions.stable_up >= needed:
        return ""
    return f"stable has {conditions.stable_up} of the {needed} healthy endpoints that a step up needs"


def canary_down(conditions: Conditions) -> str:
    """Whether no endpoint of the canary answers probes."""
    return "the canary has no healthy endpoint" if conditions.canary_up == 0 else ""


def closed(plan: Plan, local: LocalTime | None) -> str:
    """Why no weight is raised at this time or date; empty when it may be."""
    if local is None or not (plan.windows or plan.closed_dates):
        return ""
    if local.date in plan.closed_dates:
        return f"no weight is raised on {local.date}, one of the plan's closed_dates"
    if not plan.windows or any(_inside(window, local) for window in plan.windows):
        return ""
    moment = f"{_DAYS[local.weekday]} {local.minute // 60:02d}:{local.minute % 60:02d}"
    return f"outside the plan's windows: it is {moment} ({plan.timezone})"


def _inside(window: Window, local: LocalTime) -> bool:
    if window.from_minute < window.until_minute:
        return local.weekday in window.days and window.from_minute <= local.minute < window.until_minute
    yesterday = (local.weekday - 1) % 7
    evening = local.weekday in window.days and local.minute >= window.from_minute
    return evening or (yesterday in window.days and local.minute < window.until_minute)
