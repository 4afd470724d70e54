"""The ways in which a rollout's state changes: each signs the new state with who, why and when, and says what to do."""

from __future__ import annotations

import math

from msgspec.structs import replace

from gateway.core.rollout import steps
from gateway.core.rollout.types import (
    GATE_CANARY,
    WARMUP,
    Command,
    Notify,
    Phase,
    Rollout,
    SetWeight,
    SwapRoles,
)
from gateway.core.types import WEIGHT_BP_MAX

Result = tuple[Rollout, tuple[Command, ...]]
_RAMP_STEPS = 10


def command_text(what: str, by: str, why: str) -> str:
    """A command as a sentence."""
    return f"{what} by {by}: {why}" if why else f"{what} by {by}"


def decided(
    new: Rollout,
    at_s: float,
    by: str,
    reason: str,
    kind: str,
    causes: tuple[str, ...] = (),
    *,
    publish: bool = True,
    swap: SwapRoles | None = None,
) -> Result:
    """Sign the new state with who, why and when, and say what must be done (``publish`` False: the weight stands)."""
    signed = replace(new, by=by, reason=reason, causes=causes, last_at_s=at_s)
    commands: list[Command] = []
    if publish and not (swap is not None and swap.canary):
        commands.append(SetWeight(signed.route, signed.weight_bp, reason))
    if swap is not None:
        commands.append(swap)
    return signed, (*commands, Notify(signed.rollout_id, kind, reason))


def climb(
    state: Rollout,
    index: int,
    at_s: float,
    requests: int,
    by: str,
    reason: str,
    kind: str,
    causes: tuple[str, ...] = (),
) -> Result:
    """Go to a step, or wait before its gate."""
    if gate := steps.gate_before(state, index):
        return wait(state, gate, index, at_s, by, reason, kind="started" if kind == "started" else "waiting")
    return enter(state, index, at_s, requests, by, reason, kind, causes)


def wait(state: Rollout, gate: str, index: int, at_s: float, by: str, reason: str, *, kind: str) -> Result:
    """Hold before a closed gate."""
    new = replace(state, phase=Phase.WAITING, gate=gate, gate_index=index, step_since_s=at_s)
    if gate != GATE_CANARY:
        reason += f"; the gate {gate!r} before {steps.step_name(state, index)} is closed"
    return decided(new, at_s, by, reason, kind, publish=state.phase is not Phase.PROGRESSING)


def enter(
    state: Rollout,
    index: int,
    at_s: float,
    requests: int,
    by: str,
    reason: str,
    kind: str,
    causes: tuple[str, ...] = (),
) -> Result:
    """Enter a step, whatever gate is before it."""
    plan, phase = state.plan, Phase.PROGRESSING
    if index == len(plan.steps):
        if not plan.bake_s or not state.stable:
            return promote(state, at_s, by, reason, causes)
        phase, kind = Phase.BAKING, "baking" if kind == "advanced" else kind
    elif index == WARMUP:
        phase, kind = Phase.WARMING, "warming" if kind == "advanced" else kind
    new = replace(
        state,
        phase=phase,
        weight_bp=steps.weight_bp_of(plan, index),
        step_index=index,
        step_since_s=at_s,
        step_requests_base=requests,
        gate="",
    )
    if (new.mirror is None) != (state.mirror is None):
        # Pairs are counted by themselves, and so is what follows them.
        new = replace(new, step_requests_base=0)
    return decided(new, at_s, by, reason, kind)


def hold(state: Rollout, at_s: float, by: str, reason: str, causes: tuple[str, ...] = ()) -> Result:
    """Hold the weight where it is."""
    # The warm-up's epochs are not evidence, so the analysis needs an epoch of its own from here on.
    publish = state.phase is Phase.WARMING
    return decided(replace(state, phase=Phase.PAUSED), at_s, by, reason, "paused", causes, publish=publish)


def promote(state: Rollout, at_s: float, by: str, reason: str, causes: tuple[str, ...] = ()) -> Result:
    """The canary becomes the route's stable backend."""
    new = replace(state, phase=Phase.PROMOTED, weight_bp=WEIGHT_BP_MAX, gate="")
    swap = SwapRoles(state.route, state.canary, None, 0, reason)
    return decided(new, at_s, by, reason, "promoted", causes, swap=swap)


def roll_back(state: Rollout, at_s: float, by: str, reason: str, causes: tuple[str, ...] = ()) -> Result:
    """Take the canary's requests away, at once or by the plan's ramp."""
    first_bp = state.weight_bp * (_RAMP_STEPS - 1) // _RAMP_STEPS
    if state.plan.rollback_ramp_s > 0 and first_bp > 0:
        new = replace(
            state,
            phase=Phase.RETURNING,
            weight_bp=first_bp,
            ramp_from_bp=state.weight_bp,
            step_since_s=at_s,
            gate="",
        )
        return decided(new, at_s, by, reason, "returning", causes, swap=swapped_back(state, first_bp, reason))
    return end(state, Phase.ROLLED_BACK, at_s, by, reason, "rolled_back", causes)


def end(
    state: Rollout, phase: Phase, at_s: float, by: str, reason: str, kind: str, causes: tuple[str, ...] = ()
) -> Result:
    """Give the canary no more requests."""
    new = replace(state, phase=phase, weight_bp=0, gate="", ramp_from_bp=0)
    return decided(new, at_s, by, reason, kind, causes, swap=swapped_back(state, 0, reason))


def swapped_back(state: Rollout, weight_bp: int, reason: str) -> SwapRoles | None:
    """The command that restores the route's roles, if they were swapped."""
    return SwapRoles(state.route, state.stable, state.canary, weight_bp, reason) if state.swapped else None


def fall(state: Rollout, at_s: float) -> Result:
    """The next tenth of the way back."""
    ramp_s = state.plan.rollback_ramp_s
    share = (at_s - state.step_since_s) / ramp_s if ramp_s > 0 else 1.0
    left = min(_RAMP_STEPS - 1, math.ceil(_RAMP_STEPS * (1.0 - share) - 1e-9))
    weight_bp = state.ramp_from_bp * max(0, left) // _RAMP_STEPS
    if weight_bp <= 0:
        return end(state, Phase.ROLLED_BACK, at_s, state.by, state.reason, "rolled_back", state.causes)
    if weight_bp >= state.weight_bp:
        return state, ()
    return decided(replace(state, weight_bp=weight_bp), at_s, state.by, state.reason, "returning", state.causes)
