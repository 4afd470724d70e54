"""From the control plane's views to the bodies of answers."""

from __future__ import annotations

import dataclasses
from typing import Any

import msgspec

from gateway.admin.schemas import AnalysisBody, FindingBody, RolloutBody
from gateway.config.core_values import section_tree
from gateway.config.plan import PlanConfig
from gateway.control.views import ControlEvent, RolloutView
from gateway.core.analysis.types import Analysis, Finding
from gateway.core.rollout.types import Plan


def plan_tree(plan: Plan) -> dict[str, Any]:
    """The plan as a configuration would say it."""
    return section_tree(PlanConfig, plan)


def analysis_body(analysis: Analysis) -> AnalysisBody:
    """The API's analysis."""
    findings = tuple(FindingBody(**_fields(finding, Finding)) for finding in analysis.findings)
    return AnalysisBody(**_fields(analysis, Analysis) | {"findings": findings})


def rollout_body(view: RolloutView) -> RolloutBody:
    """The API's rollout."""
    analysis = None if view.analysis is None else analysis_body(view.analysis)
    return RolloutBody(**vars(view) | {"plan": plan_tree(view.plan), "analysis": analysis})


def event_body(event: ControlEvent) -> ControlEvent:
    """The event with the API's plan in the rollouts that it carries."""
    if "plan" not in event.data:
        return event
    plan = plan_tree(msgspec.convert(event.data["plan"], Plan))
    return dataclasses.replace(event, data=event.data | {"plan": plan})


def _fields(struct: msgspec.Struct, kind: type[msgspec.Struct]) -> dict[str, Any]:
    return {name: getattr(struct, name) for name in kind.__struct_fields__}
