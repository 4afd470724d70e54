"""Transitions as tests want them."""

from __future__ import annotations

from gateway.control.views import RolloutView
from gateway.core.analysis import Analysis, Verdict
from gateway.core.rollout import Plan, Step
from gateway.hooks.envelope import Transition


def transition(
    revision: int = 3,
    kind: str = "rolled_back",
    route: str = "r",
    reason: str = "errors <canary> & more",
    log_e_bad: float = 5.0,
) -> Transition:
    analysis = Analysis(Verdict.FAIL, reason, ("errors",), (), log_e_bad, 4.6, 3.0, 100, 10)
    view = RolloutView(
        id=f"{route}-1",
        route=route,
        stable="v1",
        canary="v2",
        phase="ROLLED_BACK",
        step=1,
        steps=1,
        canary_percent=5.0,
        reason=reason,
        causes=("errors",),
        by="automation",
        started_at="2026-11-23T07:00:00.000Z",
        updated_at="2026-11-23T08:00:00.000Z",
        plan=Plan((Step(500),)),
        canary_requests=10,
        analysis=analysis,
    )
    return Transition(f"{view.id}.{revision}", kind, "2026-11-23T08:00:00.000Z", view)
