"""Deadlines, a step's and the whole rollout's: what the plan's policy makes of evidence that did not decide in time.

Only a canary that was seen and judged can be given more by a policy, and only through open gates and in the plan's
windows. With no data or no judgement the plan's ``on_no_data`` acts instead.
"""

from __future__ import annotations

from gateway.core.analysis.types import Verdict
from gateway.core.rollout import moves, steps
from gateway.core.rollout.moves import Result
from gateway.core.rollout.steps import where
from gateway.core.rollout.types import AUTOMATION, NOT_BEGUN, Analysed, OnDeadline, Phase, Rollout, SafeAction


def step_overdue(state: Rollout, event: Analysed) -> Result | None:
    """The step's policy, when its deadline is over."""
    if state.phase is not Phase.PROGRESSING:
        return None
    planned = steps.planned(state)
    if planned.deadline_s is None or event.at_s - state.step_since_s < planned.deadline_s:
        return None
    why = f"deadline of {planned.deadline_s:g} s for {where(state)} reached: {_evidence_text(state, event)}"
    return _deadline(state, event, planned.on_deadline, why)


def rollout_overdue(state: Rollout, event: Analysed) -> Result | None:
    """The plan's policy, when the rollout's deadline is over."""
    plan = state.plan
    if event.at_s - state.since_s < plan.deadline_s:
        return None
    if state.phase is Phase.BAKING and event.at_s - state.step_since_s < plan.bake_s:
        return None
    why = f"deadline of {plan.deadline_s:g} s reached at {where(state)}: {_evidence_text(state, event)}"
    return _deadline(state, event, plan.on_deadline, why)


def _deadline(state: Rollout, event: Analysed, policy: OnDeadline, why: str) -> Result | None:
    if state.step_index == NOT_BEGUN:
        return moves.end(
            state, Phase.WITHDRAWN, event.at_s, AUTOMATION, f"withdrawn before it began, {why}", "withdrawn"
        )
    allowed, why = _restricted(state, event, policy, why)
    at_s, causes = event.at_s, event.causes
    match allowed:
        case None:
            return None
        case OnDeadline.HOLD:
            return moves.hold(state, at_s, AUTOMATION, f"held, {why}", causes)
        case OnDeadline.ROLLBACK:
            return moves.roll_back(state, at_s, AUTOMATION, f"rolled back, {why}", causes)
        case OnDeadline.PROMOTE if state.phase is Phase.BAKING:
            return moves.promote(state, at_s, AUTOMATION, f"promoted by policy, {why}", causes)
        case OnDeadline.PROMOTE:
            index, said = len(state.plan.steps), f"promoted by policy, {why}"
        case OnDeadline.PROCEED:
            index, said = steps.next_step(state), f"advanced by the deadline's policy: {why}"
    return moves.climb(state, index, at_s, event.canary_requests, AUTOMATION, said, "advanced", causes)


def _restricted(state: Rollout, event: Analysed, policy: OnDeadline, why: str) -> tuple[OnDeadline | None, str]:
    """The policy that may act, and why it is another than the plan's; None for one that waits for its window."""
    gives_more = policy in (OnDeadline.PROMOTE, OnDeadline.PROCEED)
    if not steps.judged(event) or state.phase is Phase.WARMING:
        if gives_more:
            why += f"; the policy says {policy}, but a canary that was not judged is never promoted"
        holds = policy is OnDeadline.HOLD
        if state.plan.on_no_data is not None:
            holds = state.plan.on_no_data is SafeAction.HOLD
        return (OnDeadline.HOLD if holds else OnDeadline.ROLLBACK), why
    if not gives_more:
        return policy, why
    if state.phase is Phase.WAITING:
        return OnDeadline.HOLD, f"{why}; the policy says {policy}, but a deadline does not open a gate"
    if steps.closed(state.plan, event.conditions.local):
        return None, why
    if blocked := steps.shut(state.plan, event.conditions):
        return OnDeadline.HOLD, f"{why}; the policy says {policy}, but {blocked}"
    return policy, why


def _evidence_text(state: Rollout, event: Analysed) -> str:
    """Say what the evidence did and did not show by the deadline."""
    if state.phase is Phase.WAITING:
        return f"the gate {state.gate!r} before {steps.step_name(state, state.gate_index)} was not opened"
    if event.verdict is Verdict.PASS and state.phase is Phase.PROGRESSING:
        planned = steps.planned(state)
        if not steps.floor(state, event):
            return f"proven within the margin, but {steps.shut(state.plan, event.conditions)}"
        return (
            "proven within the margin, but the step's minimum was not reached"
            f" ({event.at_s - state.step_since_s:g} of {planned.min_time_s:g} s,"
            f" {event.canary_requests - state.step_requests_base} of {planned.min_requests} {steps.counted(state)})"
        )
    if event.verdict in (Verdict.PASS, Verdict.UNDECIDED):
        shown = "proven neither worse nor good enough"
    elif event.verdict is Verdict.NODATA:
        shown = "no verdict: there are no data"
    else:
        shown = "no verdict: the evidence could not be judged"
    return f"{shown}, after {event.canary_requests} {steps.counted(state)} ({steps.verdict_text(event)})"
