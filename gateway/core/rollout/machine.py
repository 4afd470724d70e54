"""The rollout machine: the one function that decides what a rollout does next.

`step(state, event) -> (state', commands)` is pure, deterministic and total: the same state and event always give the
same answer, and every pair has one (a change, the unchanged state, or a TransitionError with a sentence).

The theory
----------
1. A rollout climbs a ladder of weights. While it is PROGRESSING its weight *is* the weight of its rung.
2. Weight rises only on a PASS that comes after the rung's floor of time and of canary requests, on an operator's wish,
   or by the deadline policy ``promote`` that the operator chose. No news is never good news: UNDECIDED, NODATA and
   ERROR hold.
3. FAIL means weight 0, at once, also while PAUSED: a pause stops the climb, not the guard.
4. An operator's hand beats automation and suspends it until ``resume``, which goes back to the rung's weight and starts
   its floor again.
5. PROMOTED and ROLLED_BACK are ends. Evidence and time never leave them; a new start does. One wish does too: ``abort``
   still works after PROMOTED, so that of a promotion and a rollback wished at the same moment the rollback wins in
   whichever order the two arrive.
6. At the deadline the plan's policy acts, and says what was and was not shown. ``promote`` promotes only a canary that
   was judged: with no data or no judgement it rolls back instead.
7. A restart never raises a weight. Timers are rebased: the floor of the rung starts again; the deadline keeps the time
   that the journal has seen. The smaller of the journaled and the live weight stands. Where the live one is smaller,
   something was applied that never reached the journal (perhaps a rollback), or was journaled and never applied, so
   automation does not go on by itself: PAUSED, or PROMOTED at the live weight, until an operator says otherwise.
   ROLLED_BACK stays at weight 0 whatever is live.
8. `Analysed` returns the very same state unless it causes a transition. So the journal need hold only the events that
   changed something, and folding those gives the live state.

Commands come in the order in which they are to be carried out: SetWeight, then Notify.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from msgspec.structs import replace

from gateway.core.analysis.types import Verdict
from gateway.core.errors import InvalidValueError, TransitionError
from gateway.core.rollout.types import (
    AUTOMATION,
    AbortWished,
    Analysed,
    Command,
    Event,
    Notify,
    OnDeadline,
    PauseWished,
    Phase,
    Plan,
    PromoteWished,
    Restarted,
    ResumeWished,
    Rollout,
    SetWeight,
    Started,
    WeightWished,
)
from gateway.core.types import WEIGHT_BP_MAX, percent_from_weight_bp

Result = tuple[Rollout, tuple[Command, ...]]

_IDLE, _PROGRESSING, _PAUSED = Phase.IDLE, Phase.PROGRESSING, Phase.PAUSED
_PROMOTED, _ROLLED_BACK = Phase.PROMOTED, Phase.ROLLED_BACK

# In which phase what may happen, and in which phases it may end. A pair that is missing is refused with
# TransitionError; only wishes are ever missing: what the world does (Analysed, Restarted) has an answer in every phase.
# Where Analysed can only end in the phase it began in, it has no meaning and is the identity.
TRANSITIONS: Mapping[tuple[Phase, type[Event]], frozenset[Phase]] = {
    # No rollout yet.
    (_IDLE, Started): frozenset({_PROGRESSING}),
    (_IDLE, Analysed): frozenset({_IDLE}),
    (_IDLE, Restarted): frozenset({_IDLE}),
    # Automation climbs the ladder.
    (_PROGRESSING, Analysed): frozenset({_PROGRESSING, _PAUSED, _PROMOTED, _ROLLED_BACK}),
    (_PROGRESSING, PauseWished): frozenset({_PAUSED}),
    (_PROGRESSING, WeightWished): frozenset({_PAUSED}),
    (_PROGRESSING, PromoteWished): frozenset({_PROMOTED}),
    (_PROGRESSING, AbortWished): frozenset({_ROLLED_BACK}),
    (_PROGRESSING, Restarted): frozenset({_PROGRESSING, _PAUSED}),
    # An operator (or a deadline, or a doubtful restart) holds the weight; the guard stays awake.
    (_PAUSED, Analysed): frozenset({_PAUSED, _ROLLED_BACK}),
    (_PAUSED, ResumeWished): frozenset({_PROGRESSING}),
    (_PAUSED, WeightWished): frozenset({_PAUSED}),
    (_PAUSED, PromoteWished): frozenset({_PROMOTED}),
    (_PAUSED, AbortWished): frozenset({_ROLLED_BACK}),
    (_PAUSED, Restarted): frozenset({_PAUSED}),
    # The two ends.
    (_PROMOTED, Started): frozenset({_PROGRESSING}),
    (_PROMOTED, AbortWished): frozenset({_ROLLED_BACK}),
    (_PROMOTED, Analysed): frozenset({_PROMOTED}),
    (_PROMOTED, Restarted): frozenset({_PROMOTED}),
    (_ROLLED_BACK, Started): frozenset({_PROGRESSING}),
    (_ROLLED_BACK, Analysed): frozenset({_ROLLED_BACK}),
    (_ROLLED_BACK, Restarted): frozenset({_ROLLED_BACK}),
}

# What an operator calls each wish.
VERBS: Mapping[type[Event], str] = {
    Started: "start",
    PauseWished: "pause",
    ResumeWished: "resume",
    WeightWished: "set-weight",
    PromoteWished: "promote",
    AbortWished: "abort",
}


def step(state: Rollout, event: Event) -> Result:
    """Say what the rollout becomes and what must be done about it.

    Raises TransitionError for a wish that the phase does not allow, InvalidValueError for a value outside its domain
    (a time that is not finite, a weight outside 0..10000 bp, a plan without steps). The state stands then.
    """
    if not math.isfinite(event.at_s):
        raise InvalidValueError(f"{type(event).__name__}.at_s must be a finite number of seconds, not {event.at_s!r}")
    if (state.phase, type(event)) not in TRANSITIONS:
        raise TransitionError(_refusal(state, event))
    match event:
        case Started():
            return _started(event)
        case Analysed():
            return _analysed(state, event)
        case PauseWished():
            return _held(state, event.at_s, event.by, _wish("paused", event.by, event.reason))
        case ResumeWished():
            return _resumed(state, event)
        case WeightWished():
            return _weight_wished(state, event)
        case PromoteWished():
            return _promoted(state, event.at_s, event.by, _wish("promoted by hand", event.by, event.reason))
        case AbortWished():
            return _rolled_back(state, event.at_s, event.by, _wish("aborted", event.by, event.reason))
        case Restarted():
            return _restarted(state, event)


def raises_exposure(old: Rollout, new: Rollout) -> bool:
    """Whether ``new`` gives the canary more than ``old``: then journal first and apply after, else apply first.

    A start and a promotion count as more whatever the weights: the first because the old state spoke of another canary,
    the second because it is a commitment that must not be made without a journal.
    """
    if new.phase is not old.phase and new.phase is Phase.PROMOTED:
        return True
    if old.phase not in (Phase.PROGRESSING, Phase.PAUSED) and new.phase in (Phase.PROGRESSING, Phase.PAUSED):
        return True
    return new.weight_bp > old.weight_bp


# --- what each event means ---


def _started(event: Started) -> Result:
    _check_plan(event.plan)
    fresh = Rollout(
        rollout_id=event.rollout_id,
        route=event.route,
        stable=event.stable,
        canary=event.canary,
        plan=event.plan,
        since_s=event.at_s,
    )
    reason = f"started by {event.by}: {event.canary} against {event.stable} on route {event.route}"
    return _enter_step(fresh, event.at_s, 0, 0, event.by, reason, "started")


def _analysed(state: Rollout, event: Analysed) -> Result:
    if state.phase not in (Phase.PROGRESSING, Phase.PAUSED):
        return state, ()
    if event.verdict is Verdict.FAIL:
        reason = f"rolled back at {_where(state)}: {_said(event)}"
        return _rolled_back(state, event.at_s, AUTOMATION, reason, event.causes)
    if state.phase is Phase.PAUSED:
        return state, ()
    if event.verdict is Verdict.PASS and _floor_met(state, event):
        return _advanced(state, event)
    if event.at_s - state.since_s >= state.plan.deadline_s:
        return _deadline(state, event)
    return state, ()


def _floor_met(state: Rollout, event: Analysed) -> bool:
    rung = state.plan.steps[state.step_index]
    elapsed_s = event.at_s - state.step_since_s
    requests = event.canary_requests - state.step_requests_base
    return elapsed_s >= rung.min_time_s and requests >= rung.min_requests


def _advanced(state: Rollout, event: Analysed) -> Result:
    passed, index = f"{_where(state)} passed: {_said(event)}", state.step_index + 1
    if index == len(state.plan.steps):
        return _promoted(state, event.at_s, AUTOMATION, f"promoted after {passed}", event.causes)
    return _enter_step(state, event.at_s, index, event.canary_requests, AUTOMATION, passed, "advanced")


def _deadline(state: Rollout, event: Analysed) -> Result:
    """Act on the plan's policy. Only a canary that was seen and judged can be promoted by it."""
    policy = state.plan.on_deadline
    story = f"deadline of {state.plan.deadline_s:g} s reached at {_where(state)}: {_shown(state, event)}"
    judged = event.verdict in (Verdict.PASS, Verdict.UNDECIDED) and event.canary_requests > 0
    if policy is OnDeadline.HOLD:
        return _held(state, event.at_s, AUTOMATION, f"held, {story}", event.causes)
    if policy is OnDeadline.PROMOTE and judged:
        return _promoted(state, event.at_s, AUTOMATION, f"promoted by policy, {story}", event.causes)
    if policy is OnDeadline.PROMOTE:
        story += "; the policy says promote, but a canary that was not judged is never promoted"
    return _rolled_back(state, event.at_s, AUTOMATION, f"rolled back, {story}", event.causes)


def _resumed(state: Rollout, event: ResumeWished) -> Result:
    if event.at_s - state.since_s >= state.plan.deadline_s:
        # The deadline has run out while nothing could be decided; kept, it would undo this wish at the next analysis.
        state = replace(state, since_s=event.at_s)
    reason = f"resumed by {event.by}: step {_rung(state)} starts its floor again"
    return _enter_step(state, event.at_s, state.step_index, event.canary_requests, event.by, reason, "resumed")


def _weight_wished(state: Rollout, event: WeightWished) -> Result:
    _check_weight_bp("weight_bp", event.weight_bp)
    reason = f"automation suspended: weight set by hand by {event.by}"
    new = replace(state, phase=Phase.PAUSED, weight_bp=event.weight_bp)
    return _decided(new, event.at_s, event.by, reason, "weight_set")


def _restarted(state: Rollout, event: Restarted) -> Result:
    if state.phase is Phase.IDLE:
        return state, ()
    live_bp = state.weight_bp if event.live_weight_bp is None else max(0, event.live_weight_bp)
    if live_bp < state.weight_bp:
        return _restarted_below(state, event, live_bp)
    if state.phase.terminal:
        return state, (SetWeight(state.route, state.weight_bp, state.reason),)
    new = _rebased(state, event)
    if state.phase is Phase.PAUSED:
        # The reason for the pause is what an operator needs to read, so it outlives the restart.
        return _decided(new, event.at_s, state.by, state.reason, "restarted", state.causes)
    reason = f"control plane restarted: {_where(state)} goes on, its floor starts again"
    return _decided(new, event.at_s, AUTOMATION, reason, "restarted")


def _restarted_below(state: Rollout, event: Restarted, live_bp: int) -> Result:
    reason = (
        f"control plane restarted: the live weight {_percent(live_bp)} was below the journaled"
        f" {_percent(state.weight_bp)} and stays; "
    )
    new = replace(state, weight_bp=live_bp)
    if state.phase is Phase.PROMOTED:
        reason += "set the route's weight by hand to finish the promotion, or abort"
    else:
        reason += "a rollback may not have reached the journal: resume, promote or abort"
        new = replace(_rebased(new, event), phase=Phase.PAUSED)
    return _decided(new, event.at_s, AUTOMATION, reason, "restarted")


def _rebased(state: Rollout, event: Restarted) -> Rollout:
    """Put the timers on the new clock: the floor starts again, the deadline keeps the time the journal has seen."""
    return replace(
        state,
        since_s=event.at_s - (state.last_at_s - state.since_s),
        step_since_s=event.at_s,
        step_requests_base=event.canary_requests,
    )


# --- the ways in which a state changes ---


def _decided(
    new: Rollout, at_s: float, by: str, reason: str, kind: str, causes: tuple[str, ...] = (), *, publish: bool = True
) -> Result:
    """Sign the new state with who, why and when, and say what must be done (``publish`` False: the weight stands)."""
    signed = replace(new, by=by, reason=reason, causes=causes, last_at_s=at_s)
    notify = Notify(signed.rollout_id, kind, reason)
    return signed, (SetWeight(signed.route, signed.weight_bp, reason), notify) if publish else (notify,)


def _enter_step(
    state: Rollout, at_s: float, index: int, canary_requests: int, by: str, reason: str, kind: str
) -> Result:
    new = replace(
        state,
        phase=Phase.PROGRESSING,
        weight_bp=state.plan.steps[index].weight_bp,
        step_index=index,
        step_since_s=at_s,
        step_requests_base=canary_requests,
    )
    return _decided(new, at_s, by, reason, kind)


def _held(state: Rollout, at_s: float, by: str, reason: str, causes: tuple[str, ...] = ()) -> Result:
    return _decided(replace(state, phase=Phase.PAUSED), at_s, by, reason, "paused", causes, publish=False)


def _promoted(state: Rollout, at_s: float, by: str, reason: str, causes: tuple[str, ...] = ()) -> Result:
    new = replace(state, phase=Phase.PROMOTED, weight_bp=WEIGHT_BP_MAX)
    return _decided(new, at_s, by, reason, "promoted", causes)


def _rolled_back(state: Rollout, at_s: float, by: str, reason: str, causes: tuple[str, ...] = ()) -> Result:
    new = replace(state, phase=Phase.ROLLED_BACK, weight_bp=0)
    return _decided(new, at_s, by, reason, "rolled_back", causes)


# --- sentences ---


def _percent(weight_bp: int) -> str:
    return f"{percent_from_weight_bp(weight_bp):.2f}%"


def _rung(state: Rollout) -> str:
    return f"{state.step_index + 1}/{len(state.plan.steps)}"


def _where(state: Rollout) -> str:
    return f"step {_rung(state)} ({_percent(state.weight_bp)})"


def _said(event: Analysed) -> str:
    return event.reason or f"verdict {event.verdict}"


def _wish(what: str, by: str, why: str) -> str:
    return f"{what} by {by}: {why}" if why else f"{what} by {by}"


def _shown(state: Rollout, event: Analysed) -> str:
    """Say what the evidence did and did not show by the deadline."""
    if event.verdict is Verdict.PASS:
        rung = state.plan.steps[state.step_index]
        return (
            "shown: not worse than the margin; not reached: the step's floor"
            f" ({event.at_s - state.step_since_s:g} of {rung.min_time_s:g} s,"
            f" {event.canary_requests - state.step_requests_base} of {rung.min_requests} canary requests)"
        )
    if event.verdict is Verdict.UNDECIDED:
        shown = "shown neither to be worse nor to be good enough"
    elif event.verdict is Verdict.NODATA:
        shown = "nothing was shown, for want of data"
    else:
        shown = "nothing was shown, the evidence could not be judged"
    return f"{shown}, after {event.canary_requests} canary requests ({_said(event)})"


def _refusal(state: Rollout, event: Event) -> str:
    allowed = ", ".join(verb for kind, verb in VERBS.items() if (state.phase, kind) in TRANSITIONS)
    verb = VERBS[type(event)]
    if state.phase is Phase.IDLE:
        return f"cannot {verb}: there is no rollout; allowed now: {allowed}"
    return (
        f"cannot {verb}: rollout {state.rollout_id} on route {state.route} is {state.phase} ({state.reason});"
        f" allowed now: {allowed}"
    )


# --- domains ---


def _check_weight_bp(name: str, weight_bp: int) -> None:
    if not 0 <= weight_bp <= WEIGHT_BP_MAX:
        raise InvalidValueError(f"{name} must be from 0 to {WEIGHT_BP_MAX} basis points, not {weight_bp!r}")


def _check_plan(plan: Plan) -> None:
    if not plan.steps:
        raise InvalidValueError("plan.steps must hold at least one step: give a weight to start at")
    if math.isnan(plan.deadline_s):
        raise InvalidValueError("plan.deadline_s must be a number of seconds, not NaN")
    for index, rung in enumerate(plan.steps):
        _check_weight_bp(f"plan.steps[{index}].weight_bp", rung.weight_bp)
        if math.isnan(rung.min_time_s):
            raise InvalidValueError(f"plan.steps[{index}].min_time_s must be a number of seconds, not NaN")
