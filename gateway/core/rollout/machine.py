"""The rollout machine: the one function that decides what a rollout does next.

`step(state, event) -> (state', commands)` is pure, deterministic and total: the same state and event always give the
same answer, and every pair has one (a change, the unchanged state, or a TransitionError with a sentence).

The theory (the phases are in `transitions`, the steps and what holds on them in `steps`)
----------
1. A rollout climbs the plan's steps. While it is WARMING, PROGRESSING or BAKING its weight *is* that of its step.
2. Weight rises only on a PASS that comes after the step's floor of time and of canary requests, on an operator's
   command or answer at a gate, at the end of a bake in which nothing was found, or by a deadline policy (``promote``,
   ``proceed``) that the operator chose. No news is never good news: UNDECIDED, NODATA and ERROR hold. Nothing but an
   operator's command raises it outside the plan's windows, while stable could not take its requests back, or while the
   canary is down.
3. FAIL means weight 0, at once (or by the ramp that the plan asks for), also while PAUSED: a pause stops the climb, not
   the analysis. An ERROR that names a cause says that the experiment itself cannot be believed: PAUSED.
4. An operator's hand beats automation and suspends it until ``resume``, which goes back to the step's weight and starts
   its floor again (or back to the gate that was closed).
5. PROMOTED, ROLLED_BACK and WITHDRAWN are ends. Evidence and time never leave them; a new start does. One command does
   too: ``abort`` still works after PROMOTED, so that of a promotion and a rollback commanded at once the
   rollback wins in whichever order the two arrive. A canary that was rolled back is started again only by a ``retry``.
6. At a deadline (the rollout's, or a step's) the plan's policy acts, and says what was and was not shown. With no data
   or no judgement ``on_no_data`` acts instead, which never gives the canary more. No deadline opens a gate.
7. A restart never raises a weight. Timers are rebased: the floor of the step starts again; the deadline keeps the time
   that the journal has seen. The smaller of the journaled and the live weight stands. Where the live one is smaller,
   something was applied that never reached the journal (perhaps a rollback), or was journaled and never applied, so
   automation does not go on by itself: PAUSED, or PROMOTED at the live weight, until an operator says otherwise.
   ROLLED_BACK stays at weight 0 whatever is live. The same goes for a command that the journal did not take in time; a
   step of automation's own is only taken back.
8. `Analysed` and `Ticked` return the very same state unless they cause a transition. So the journal need hold only the
   events that changed something, and folding those gives the live state.

Commands come in the order in which they are to be carried out: SetWeight, SwapRoles, Notify.
"""

from __future__ import annotations

import math

from msgspec.structs import replace

from gateway.core.analysis.types import Verdict
from gateway.core.errors import InvalidValueError, TransitionError
from gateway.core.rollout import deadlines, moves, steps
from gateway.core.rollout.checks import check_plan, check_weight_bp
from gateway.core.rollout.moves import Result
from gateway.core.rollout.steps import percent, where
from gateway.core.rollout.transitions import TRANSITIONS, refusal
from gateway.core.rollout.types import (
    AUTOMATION,
    GATE_CANARY,
    NOT_BEGUN,
    AbortRequested,
    Analysed,
    ApproveRequested,
    Event,
    GateAnswered,
    JournalTimedOut,
    PauseRequested,
    Phase,
    PromoteRequested,
    Restarted,
    ResumeRequested,
    Rollout,
    SetWeight,
    Started,
    Ticked,
    WeightRequested,
    WhenDown,
    Withdrawn,
)

# Events that are ignored in a phase that they do not change.
_WORLDLY = (Analysed, Ticked, GateAnswered, JournalTimedOut, Withdrawn)
# The phases in which automation raises the weight.
_CLIMBING = (Phase.WAITING, Phase.WARMING, Phase.PROGRESSING, Phase.BAKING)


def step(state: Rollout, event: Event) -> Result:
    """Return the rollout after the event, and the commands that follow from it.

    Raises TransitionError for a command that the phase does not allow, InvalidValueError for a value outside its domain
    (a time that is not finite, a weight outside 0..10000 bp, a plan without steps). The state is unchanged then.
    """
    if not math.isfinite(event.at_s):
        raise InvalidValueError(f"{type(event).__name__}.at_s must be a finite number of seconds, not {event.at_s!r}")
    ends = TRANSITIONS.get((state.phase, type(event)))
    if ends is None:
        raise TransitionError(refusal(state, event))
    if (
        isinstance(event, _WORLDLY)
        and ends == {state.phase}
        and (state.phase, type(event)) != (Phase.PAUSED, JournalTimedOut)
    ):
        return state, ()
    new, commands = _answer(state, event)
    if new is not state:
        new = replace(new, revision=1 if new.rollout_id != state.rollout_id else state.revision + 1)
    return new, commands


def _answer(state: Rollout, event: Event) -> Result:
    match event:
        case Started():
            return _started(state, event)
        case Analysed():
            return _analysed(state, event)
        case Ticked():
            return _ticked(state, event.at_s)
        case GateAnswered():
            return _gate_answered(state, event)
        case Restarted():
            return _restarted(state, event)
        case JournalTimedOut():
            return _overdue(state, event)
        case Withdrawn():
            return moves.end(state, Phase.WITHDRAWN, event.at_s, event.by, event.reason, "withdrawn")
        case _:
            return _granted(state, event)


def _granted(
    state: Rollout,
    event: PauseRequested | ResumeRequested | ApproveRequested | WeightRequested | PromoteRequested | AbortRequested,
) -> Result:
    """What an operator commands."""
    at_s, by, why = event.at_s, event.by, event.reason
    match event:
        case PauseRequested():
            return moves.hold(state, at_s, by, moves.command_text("paused", by, why))
        case ResumeRequested():
            return _resumed(state, event)
        case ApproveRequested():
            opened = moves.command_text(f"gate {state.gate!r} opened", by, why)
            # The canary's health is no one's approval: the gate of its first step comes after.
            enter = moves.climb if state.gate == GATE_CANARY else moves.enter
            return enter(state, state.gate_index, at_s, event.canary_requests, by, opened, "advanced")
        case WeightRequested():
            return _weight_requested(state, event)
        case PromoteRequested():
            return _promote_requested(state, event)
        case AbortRequested():
            return _abort_requested(state, event)


def raises_exposure(old: Rollout, new: Rollout) -> bool:
    """Whether ``new`` gives the canary more than ``old``: then journal first and apply after, else apply first.

    A start and a promotion count as more whatever the weights: the first because the old state spoke of another canary,
    the second because it is a commitment that must not be made without a journal.
    """
    if new.rollout_id != old.rollout_id and (new.phase.active or new.phase is Phase.PROMOTED):
        return True
    if new.phase is Phase.PROMOTED and old.phase is not Phase.PROMOTED:
        return True
    return new.weight_bp > old.weight_bp


# --- beginning ---


def _started(state: Rollout, event: Started) -> Result:
    check_plan(event.plan)
    if state.phase is Phase.ROLLED_BACK and state.canary == event.canary and not event.retry:
        raise TransitionError(
            f"cannot start: {event.canary} was rolled back on route {event.route} ({state.reason});"
            " ask for a retry (--retry) to try the same version again"
        )
    if event.canary_up == 0 and event.plan.when_canary_down is WhenDown.REFUSE:
        raise TransitionError(f"cannot start: {event.canary} has no healthy endpoint, and the plan says not to wait")
    fresh = Rollout(
        rollout_id=event.rollout_id,
        route=event.route,
        stable=event.stable,
        canary=event.canary,
        plan=event.plan,
        step_index=NOT_BEGUN,
        since_s=event.at_s,
        step_since_s=event.at_s,
        model=event.model,
        stable_model=event.stable_model,
    )
    canary = event.canary if event.model is None else f"{event.canary} (model {event.model})"
    against = f"against {event.stable}" if event.stable else "with nothing to compare it with"
    reason = moves.command_text("started", event.by, event.reason) + f": {canary} {against} on route {event.route}"
    first = steps.first_step(fresh)
    if event.canary_up == 0:
        reason += "; the canary has no healthy endpoint yet"
        return moves.wait(fresh, GATE_CANARY, first, event.at_s, event.by, reason, kind="started")
    return moves.climb(fresh, first, event.at_s, 0, event.by, reason, "started")


# --- evidence and time ---


def _analysed(state: Rollout, event: Analysed) -> Result:
    if state.phase is Phase.RETURNING:
        return _ticked(state, event.at_s)
    if event.verdict is Verdict.FAIL:
        reason = f"rolled back at {where(state)}: {steps.verdict_text(event)}"
        return moves.roll_back(state, event.at_s, AUTOMATION, reason, event.causes)
    if state.phase is Phase.PAUSED:
        return _ticked(state, event.at_s)
    if event.verdict is Verdict.ERROR and event.causes:
        reason = f"paused at {where(state)}, the evidence cannot be used: {steps.verdict_text(event)}"
        return moves.hold(state, event.at_s, AUTOMATION, reason, event.causes)
    if not steps.waiting_for(state, event):
        return _advanced(state, event)
    return deadlines.step_overdue(state, event) or deadlines.rollout_overdue(state, event) or (state, ())


def _advanced(state: Rollout, event: Analysed) -> Result:
    at_s, requests = event.at_s, event.canary_requests
    match state.phase:
        case Phase.WAITING:
            reason = f"the canary has a healthy endpoint: the rollout of {state.canary} begins"
            return moves.climb(state, state.gate_index, at_s, requests, AUTOMATION, reason, "advanced")
        case Phase.WARMING:
            reason = f"warmed up for {at_s - state.step_since_s:g} s"
            return moves.climb(state, 0, at_s, requests, AUTOMATION, reason, "advanced")
        case Phase.BAKING:
            reason = f"promoted after {where(state)} of {at_s - state.step_since_s:g} s: {steps.verdict_text(event)}"
            return moves.promote(state, at_s, AUTOMATION, reason, event.causes)
    passed, index = f"{where(state)} passed: {steps.verdict_text(event)}", steps.next_step(state)
    if index == len(state.plan.steps) and not state.plan.promotion_gate and not state.plan.bake_s:
        return moves.promote(state, at_s, AUTOMATION, f"promoted after {passed}", event.causes)
    return moves.climb(state, index, at_s, requests, AUTOMATION, passed, "advanced", event.causes)


def _ticked(state: Rollout, at_s: float) -> Result:
    if state.phase is Phase.RETURNING:
        return moves.fall(state, at_s)
    longest_s = state.plan.pause_max_s
    if state.phase is Phase.PAUSED and longest_s is not None and at_s - state.last_at_s >= longest_s:
        reason = f"rolled back at {where(state)}: the pause lasted longer than {longest_s:g} s ({state.reason})"
        return moves.roll_back(state, at_s, AUTOMATION, reason)
    return state, ()


# --- gates and commands ---


def _gate_answered(state: Rollout, event: GateAnswered) -> Result:
    if event.gate != state.gate:
        return state, ()
    if not event.passed:
        reason = f"held at {where(state)}: the gate {event.gate!r} said no: {event.reason}"
        return moves.hold(state, event.at_s, event.by, reason)
    opened = moves.command_text(f"gate {event.gate!r} opened", event.by, event.reason)
    return moves.enter(state, state.gate_index, event.at_s, event.canary_requests, event.by, opened, "advanced")


def _resumed(state: Rollout, event: ResumeRequested) -> Result:
    if event.at_s - state.since_s >= state.plan.deadline_s:
        # The deadline has run out while nothing could be decided; kept, it would undo this at the next analysis.
        state = replace(state, since_s=event.at_s)
    said = moves.command_text("resumed", event.by, event.reason)
    if state.gate:
        before = steps.step_name(state, state.gate_index)
        reason = f"{said}: the gate {state.gate!r} before {before} is still closed"
        weight_bp = steps.weight_bp_of(state.plan, state.step_index)
        new = replace(state, phase=Phase.WAITING, weight_bp=weight_bp)
        return moves.decided(new, event.at_s, event.by, reason, "resumed")
    if state.step_index == NOT_BEGUN:
        first = steps.first_step(state)
        return moves.climb(state, first, event.at_s, event.canary_requests, event.by, said, "resumed")
    reason = f"{said}: {steps.step_name(state, state.step_index)} starts its minimum time and requests again"
    if state.step_index == len(state.plan.steps):
        reason = f"{said}: the bake starts again"
    return moves.enter(state, state.step_index, event.at_s, event.canary_requests, event.by, reason, "resumed")


def _weight_requested(state: Rollout, event: WeightRequested) -> Result:
    check_weight_bp("weight_bp", event.weight_bp)
    if event.weight_bp and not state.stable:
        raise TransitionError(
            f"cannot set-weight: {state.canary} is the first version on route {state.route}, and nothing could serve"
            " the rest: promote or abort"
        )
    reason = moves.command_text("automation suspended: weight set by hand", event.by, event.reason)
    new = replace(state, phase=Phase.PAUSED, weight_bp=event.weight_bp)
    return moves.decided(new, event.at_s, event.by, reason, "weight_set")


def _promote_requested(state: Rollout, event: PromoteRequested) -> Result:
    if state.swapped:
        raise TransitionError(refusal(state, event))
    at_s, by, last = event.at_s, event.by, len(state.plan.steps)
    said = moves.command_text("promoted by hand", by, event.reason)
    if state.phase is Phase.PROMOTED or state.step_index == last or not (state.plan.bake_s or event.next_step):
        return moves.promote(state, at_s, by, said)
    index = last
    if event.next_step:
        index = state.gate_index if state.gate else steps.next_step(state)
        said = moves.command_text("advanced by hand", by, event.reason)
    return moves.enter(state, index, at_s, event.canary_requests, by, said, "advanced")


def _abort_requested(state: Rollout, event: AbortRequested) -> Result:
    reason = moves.command_text("aborted", event.by, event.reason)
    if state.phase is Phase.PROMOTED and not state.stable:
        raise TransitionError(f"cannot abort: route {state.route} has no stable version to go back to")
    if state.phase is Phase.RETURNING:
        return moves.end(state, Phase.ROLLED_BACK, event.at_s, event.by, reason, "rolled_back")
    return moves.roll_back(state, event.at_s, event.by, reason)


# --- restarts, and decisions that the journal did not take ---


def _restarted(state: Rollout, event: Restarted) -> Result:
    if state.phase is Phase.IDLE:
        return state, ()
    live_bp = state.weight_bp if event.live_weight_bp is None else max(0, event.live_weight_bp)
    if live_bp < state.weight_bp and state.phase is not Phase.RETURNING:
        return _restarted_below(state, event, live_bp)
    if state.phase.terminal:
        return state, (SetWeight(state.route, state.weight_bp, state.reason),)
    new = replace(_rebased(state, event), weight_bp=min(live_bp, state.weight_bp))
    if state.phase in (Phase.PAUSED, Phase.WAITING, Phase.RETURNING):
        # The reason for the hold is what an operator needs to read, so it outlives the restart.
        return moves.decided(new, event.at_s, state.by, state.reason, "restarted", state.causes)
    reason = f"control plane restarted: {where(state)} goes on, its minimum time and requests start again"
    return moves.decided(new, event.at_s, AUTOMATION, reason, "restarted")


def _restarted_below(state: Rollout, event: Restarted, live_bp: int) -> Result:
    reason = (
        f"control plane restarted: the live weight {percent(live_bp)} was below the journaled"
        f" {percent(state.weight_bp)} and stays; "
    )
    new = replace(state, weight_bp=live_bp)
    if state.phase is Phase.PROMOTED:
        reason += "promote again to finish the promotion, or abort"
    else:
        reason += "a rollback may not have reached the journal: resume, promote or abort"
        new = replace(_rebased(new, event), phase=Phase.PAUSED)
    swap = moves.swapped_back(state, live_bp, reason)
    return moves.decided(new, event.at_s, AUTOMATION, reason, "restarted", swap=swap)


def _rebased(state: Rollout, event: Restarted) -> Rollout:
    """Put the timers on the new clock: the floor starts again, the deadline keeps the time the journal has seen."""
    return replace(
        state,
        since_s=event.at_s - (state.last_at_s - state.since_s),
        step_since_s=event.at_s,
        step_requests_base=event.canary_requests,
    )


def _overdue(state: Rollout, event: JournalTimedOut) -> Result:
    if state.revision == 1:
        return moves.end(state, Phase.WITHDRAWN, event.at_s, AUTOMATION, f"not started: {event.reason}", "withdrawn")
    before = event.before
    if before is not None and before.rollout_id == state.rollout_id and before.phase in _CLIMBING:
        return _stayed(state, event, before)
    new = replace(state, phase=Phase.PAUSED, weight_bp=max(0, min(event.live_weight_bp, state.weight_bp)))
    reason = f"held at {percent(new.weight_bp)}: {event.reason} (it was: {state.reason})"
    swap = moves.swapped_back(state, new.weight_bp, reason)
    return moves.decided(new, event.at_s, AUTOMATION, reason, "paused", swap=swap)


def _stayed(state: Rollout, event: JournalTimedOut, before: Rollout) -> Result:
    """Automation's own step up did not come into force: it stays where it was, and its minimum starts again."""
    new = replace(
        before,
        weight_bp=max(0, min(event.live_weight_bp, before.weight_bp, state.weight_bp)),
        step_since_s=event.at_s,
        step_requests_base=event.canary_requests,
        revision=state.revision,
    )
    reason = (
        f"stayed at {where(new)}, its minimum time and requests start again: {event.reason} (it was: {state.reason})"
    )
    swap = moves.swapped_back(state, new.weight_bp, reason)
    return moves.decided(new, event.at_s, AUTOMATION, reason, "waiting", swap=swap)
