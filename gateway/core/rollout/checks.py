"""What a plan and a weight must be to be followed; the errors name the place."""

from __future__ import annotations

import math

from gateway.core.errors import InvalidValueError
from gateway.core.rollout.types import GATE_CANARY, OnDeadline, Plan
from gateway.core.types import WEIGHT_BP_MAX


def check_weight_bp(name: str, weight_bp: int) -> None:
    """Raise InvalidValueError for a weight outside 0..10000 bp."""
    if not 0 <= weight_bp <= WEIGHT_BP_MAX:
        raise InvalidValueError(f"{name} must be from 0 to {WEIGHT_BP_MAX} basis points, not {weight_bp!r}")


def check_plan(plan: Plan) -> None:
    """Raise InvalidValueError for a plan that cannot be followed."""
    if not plan.steps:
        raise InvalidValueError("plan.steps must hold at least one step: give a weight to start at")
    for name in ("deadline_s", "warmup_s", "bake_s", "rollback_ramp_s", "pause_max_s"):
        _check_seconds(f"plan.{name}", getattr(plan, name))
    if plan.on_deadline is OnDeadline.PROCEED:
        raise InvalidValueError("plan.on_deadline must be hold, rollback or promote: only a step can proceed")
    if not 0 <= plan.bake_holdout_bp < WEIGHT_BP_MAX:
        raise InvalidValueError(
            f"plan.bake_holdout_bp must be from 0 to 9999 basis points, not {plan.bake_holdout_bp!r}"
        )
    _check_gate("plan.promotion_gate", plan.promotion_gate)
    if plan.mirror is not None:
        check_weight_bp("plan.mirror.share_bp", plan.mirror.share_bp)
        _check_seconds("plan.mirror.min_time_s", plan.mirror.min_time_s)
        _check_seconds("plan.mirror.deadline_s", plan.mirror.deadline_s)
    for index, planned in enumerate(plan.steps):
        check_weight_bp(f"plan.steps[{index}].weight_bp", planned.weight_bp)
        _check_seconds(f"plan.steps[{index}].min_time_s", planned.min_time_s)
        _check_seconds(f"plan.steps[{index}].deadline_s", planned.deadline_s)
        _check_gate(f"plan.steps[{index}].gate", planned.gate)
    for number, window in enumerate(plan.windows):
        days, minutes = set(window.days), (window.from_minute, window.until_minute)
        if not days or not days <= set(range(7)) or not all(0 <= minute <= 1440 for minute in minutes):
            raise InvalidValueError(f"plan.windows[{number}] must name days from 0 to 6 and minutes from 0 to 1440")


def _check_seconds(name: str, seconds: float | None) -> None:
    if seconds is not None and math.isnan(seconds):
        raise InvalidValueError(f"{name} must be a number of seconds, not NaN")


def _check_gate(name: str, gate: str) -> None:
    if gate == GATE_CANARY:
        raise InvalidValueError(f"{name} must not be {GATE_CANARY!r}: every start waits for its canary anyway")
