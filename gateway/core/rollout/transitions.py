"""The phases of a rollout and what may happen in each: the machine's whole shape, as data.

    IDLE         no rollout yet
    WARMING      the canary gets its first weight, and what it answers is no evidence yet
    WAITING      a gate is closed: an operator's approval, something outside, or the canary's health; the weight stands
    PROGRESSING  automation climbs the plan's steps, of which the first may be one that only mirrors
    PAUSED       an operator (or a deadline, or a doubtful restart) holds the weight; the guard stays awake
    BAKING       the canary has all but a small share of stable's, and is judged against that
    RETURNING    rolled back, and stable is given its requests back little by little; the weight only falls
    PROMOTED     the canary is the route's stable backend
    ROLLED_BACK  stable serves alone again
    WITHDRAWN    ended without a word about the canary: its object is gone, or it never began

A pair that is missing is refused with TransitionError; only commands are ever missing: what happens outside has an
answer in every phase. Where it can only end in the phase it began in, it has no meaning and is the identity.
"""

from __future__ import annotations

from collections.abc import Mapping

from gateway.core.rollout.types import (
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
    Started,
    Ticked,
    WeightRequested,
    Withdrawn,
)

_IDLE, _WARMING, _WAITING, _PROGRESSING = Phase.IDLE, Phase.WARMING, Phase.WAITING, Phase.PROGRESSING
_PAUSED, _BAKING, _RETURNING = Phase.PAUSED, Phase.BAKING, Phase.RETURNING
_PROMOTED, _ROLLED_BACK, _WITHDRAWN = Phase.PROMOTED, Phase.ROLLED_BACK, Phase.WITHDRAWN

_BACK = frozenset({_ROLLED_BACK, _RETURNING})
_BEGINNINGS = frozenset({_WARMING, _WAITING, _PROGRESSING, _PROMOTED})
_STAYED = frozenset({_WARMING, _WAITING, _PROGRESSING, _BAKING})

TRANSITIONS: Mapping[tuple[Phase, type[Event]], frozenset[Phase]] = {
    (_IDLE, Started): _BEGINNINGS,
    (_WARMING, Analysed): frozenset({_WARMING, _PROGRESSING, _PAUSED}) | _BACK,
    (_WARMING, PauseRequested): frozenset({_PAUSED}),
    (_WARMING, WeightRequested): frozenset({_PAUSED}),
    (_WARMING, PromoteRequested): frozenset({_PROGRESSING, _BAKING, _PROMOTED}),
    (_WARMING, AbortRequested): _BACK,
    (_WARMING, Restarted): frozenset({_WARMING, _PAUSED}),
    (_WAITING, Analysed): frozenset({_WAITING, _WARMING, _PROGRESSING, _PAUSED, _PROMOTED, _WITHDRAWN}) | _BACK,
    (_WAITING, ApproveRequested): frozenset({_WAITING, _WARMING, _PROGRESSING, _BAKING, _PROMOTED}),
    (_WAITING, GateAnswered): frozenset({_WAITING, _WARMING, _PROGRESSING, _PAUSED, _BAKING, _PROMOTED}),
    (_WAITING, PauseRequested): frozenset({_PAUSED}),
    (_WAITING, WeightRequested): frozenset({_PAUSED}),
    (_WAITING, PromoteRequested): frozenset({_WARMING, _PROGRESSING, _BAKING, _PROMOTED}),
    (_WAITING, AbortRequested): _BACK,
    (_WAITING, Restarted): frozenset({_WAITING, _PAUSED}),
    (_PROGRESSING, Analysed): frozenset({_PROGRESSING, _WARMING, _WAITING, _PAUSED, _BAKING, _PROMOTED}) | _BACK,
    (_PROGRESSING, PauseRequested): frozenset({_PAUSED}),
    (_PROGRESSING, WeightRequested): frozenset({_PAUSED}),
    (_PROGRESSING, PromoteRequested): frozenset({_PROGRESSING, _WARMING, _BAKING, _PROMOTED}),
    (_PROGRESSING, AbortRequested): _BACK,
    (_PROGRESSING, Restarted): frozenset({_PROGRESSING, _PAUSED}),
    (_PAUSED, Analysed): frozenset({_PAUSED}) | _BACK,
    (_PAUSED, Ticked): frozenset({_PAUSED}) | _BACK,
    (_PAUSED, ResumeRequested): frozenset({_WARMING, _WAITING, _PROGRESSING, _BAKING, _PROMOTED}),
    (_PAUSED, WeightRequested): frozenset({_PAUSED}),
    (_PAUSED, PromoteRequested): frozenset({_WARMING, _PROGRESSING, _BAKING, _PROMOTED}),
    (_PAUSED, AbortRequested): _BACK,
    (_PAUSED, Restarted): frozenset({_PAUSED}),
    (_BAKING, Analysed): frozenset({_BAKING, _PAUSED, _PROMOTED}) | _BACK,
    (_BAKING, PauseRequested): frozenset({_PAUSED}),
    (_BAKING, WeightRequested): frozenset({_PAUSED}),
    (_BAKING, PromoteRequested): frozenset({_PROMOTED}),
    (_BAKING, AbortRequested): _BACK,
    (_BAKING, Restarted): frozenset({_BAKING, _PAUSED}),
    # An abort on the way back ends the ramp: all at once.
    (_RETURNING, Analysed): _BACK,
    (_RETURNING, Ticked): _BACK,
    (_RETURNING, AbortRequested): frozenset({_ROLLED_BACK}),
    (_RETURNING, Restarted): frozenset({_RETURNING}),
    # The ends. Evidence and time never leave them. Of a promotion and an abort commanded at once the abort wins.
    (_PROMOTED, Started): _BEGINNINGS,
    (_PROMOTED, PromoteRequested): frozenset({_PROMOTED}),
    (_PROMOTED, AbortRequested): _BACK,
    (_PROMOTED, Restarted): frozenset({_PROMOTED}),
    (_PROMOTED, JournalTimedOut): frozenset({_PAUSED, _WITHDRAWN}) | _STAYED,
    (_ROLLED_BACK, Started): _BEGINNINGS,
    (_ROLLED_BACK, Restarted): frozenset({_ROLLED_BACK}),
    (_WITHDRAWN, Started): _BEGINNINGS,
    (_WITHDRAWN, Restarted): frozenset({_WITHDRAWN}),
}
TRANSITIONS = {
    # What happens outside, where it changes nothing.
    **{
        (phase, kind): frozenset({phase})
        for phase in Phase
        for kind in (Analysed, Ticked, GateAnswered, JournalTimedOut)
    },
    **{(phase, Restarted): frozenset({phase}) for phase in (_IDLE,)},
    # What ends or stops every rollout that is under way.
    **{(phase, Withdrawn): frozenset({_WITHDRAWN}) for phase in Phase if phase.active},
    **{(phase, Withdrawn): frozenset({phase}) for phase in Phase if not phase.active},
    # A start that was not journaled in time has not begun, a step of automation's own leaves things as they were.
    **{
        (phase, JournalTimedOut): frozenset({_PAUSED, _WITHDRAWN}) | _STAYED
        for phase in (_WARMING, _WAITING, _PROGRESSING)
    },
    **{(phase, JournalTimedOut): frozenset({_PAUSED}) | _STAYED for phase in (_PAUSED, _BAKING)},
    **TRANSITIONS,
}

# What an operator calls each command.
VERBS: Mapping[type[Event], str] = {
    Started: "start",
    PauseRequested: "pause",
    ResumeRequested: "resume",
    ApproveRequested: "approve",
    WeightRequested: "set-weight",
    PromoteRequested: "promote",
    AbortRequested: "abort",
}


def refusal(state: Rollout, event: Event) -> str:
    """Why a command is refused: where the rollout is, and what is allowed instead."""
    now = ", ".join(_allowed_text(state, kind) for kind in VERBS if _granted(state, kind))
    verb = VERBS.get(type(event), type(event).__name__)
    if state.phase is Phase.IDLE:
        return f"cannot {verb}: there is no rollout; allowed now: {now}"
    return (
        f"cannot {verb}: rollout {state.rollout_id} on route {state.route} is {state.phase} ({state.reason});"
        f" allowed now: {now}"
    )


def allowed(state: Rollout) -> tuple[str, ...]:
    """The commands that would be accepted now, by what an operator calls them."""
    return tuple(verb for kind, verb in VERBS.items() if _granted(state, kind))


def _granted(state: Rollout, kind: type[Event]) -> bool:
    if state.swapped and kind is PromoteRequested:
        return False
    if kind is WeightRequested and not state.stable and state.phase.active:
        return False  # a first version: nothing could serve the rest
    if state.phase is Phase.PROMOTED and kind is AbortRequested and not state.stable:
        return False  # a first version: there is nothing to go back to
    return (state.phase, kind) in TRANSITIONS


def _allowed_text(state: Rollout, kind: type[Event]) -> str:
    """The verb, and what is asked of it here: a start must be of a canary that the route has and may try."""
    if kind is Started and state.swapped:
        return "start (of another canary)"
    if kind is Started and state.phase is Phase.ROLLED_BACK:
        return "start (of another canary, or as a retry)"
    return VERBS[kind]
