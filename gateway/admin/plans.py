"""From a plan that is asked for to the core's: the same rules and words as for the configuration's."""

from __future__ import annotations

import msgspec
from pydantic import ValidationError

from gateway.admin.schemas import PlanBody
from gateway.config.errors import place_of
from gateway.config.explain import issues_of
from gateway.config.plan import PlanConfig
from gateway.core.errors import InvalidValueError
from gateway.core.rollout.types import Plan
from gateway.core.types import weight_bp_from_percent


def plan_of(wish: PlanBody) -> Plan:
    """The core's plan. Raises InvalidValueError with the place of the value that is wrong."""
    below_bp = 0
    for index, step in enumerate(wish.steps):
        try:
            weight_bp = weight_bp_from_percent(step.percent)
        except InvalidValueError:
            raise InvalidValueError(
                f"plan.steps[{index}].percent has steps of 0.01, {step.percent!r} is finer"
            ) from None
        if weight_bp <= below_bp:
            raise InvalidValueError(
                f"plan.steps[{index}].percent must be over the step's before it, {step.percent:g} is not"
            )
        below_bp = weight_bp
    tree = msgspec.to_builtins(wish)
    for section, key in ((tree, "promotion_gate"), *((step, "gate") for step in tree["steps"])):
        section[key] = section[key] or None  # here the empty text is none
    try:
        return PlanConfig.model_validate(msgspec.json.decode(msgspec.json.encode(tree))).plan()
    except ValidationError as error:
        issue = issues_of(error, PlanConfig)[0]
        raise InvalidValueError(f"{place_of(('plan', *issue.path))}: {issue.problem}; {issue.hint}") from None
