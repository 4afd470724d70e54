"""Plans that this traffic can decide, for one that it cannot: what to change, and what comes of it.

Rules:

1. Each proposal changes one thing, by the least of a few numbers that an operator would write: the weights (start
   heavier, keep the steps above), the margin, or the deadline. Only when neither weights nor margin are enough alone
   are both changed, and only when nothing else is enough margin and deadline.
2. A margin is widened only as far as the regression stays outside it. A plan that would let the regression through
   gets a narrower margin first, and what else that takes.
3. Every proposal is forecast like the plan itself: asked again, it can be decided.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Literal

import msgspec

from gateway.core.analysis.sizing.forecasts import Forecast, Outlook
from gateway.core.analysis.sizing.planning import engine_outlook, problems_of
from gateway.core.analysis.sizing.question import PlannedStep, Question

# What a proposal may start at or widen to: numbers that an operator would write.
_START_BP = (200, 500, 1000, 1500, 2000, 2500, 3000, 4000, 5000)
_DELTAS = tuple(float(f"{digits}e{power}") for power in range(-6, 0) for digits in (1, 1.5, 2, 3, 4, 5, 7))
# A deadline at the average would be missed by about half of the rollouts.
_HEADROOM = 1.5

Change = Literal["weights", "margin", "deadline"]


class Proposal(msgspec.Struct, frozen=True):
    """A plan that this traffic can decide, and what changes for it. ``outlook`` is what is expected of this engine."""

    changes: tuple[Change, ...]
    steps: tuple[PlannedStep, ...]
    margin_ratio: float
    margin_delta: float
    deadline_s: float
    outlook: Outlook = msgspec.field(name="ladder")  # the name in the output of `gateway plan --json`


def proposals(answer: Forecast) -> tuple[Proposal, ...]:
    """At most one for each thing that can be changed; none for a plan that can be decided."""
    if answer.decidable:
        return ()
    question = answer.question
    narrows = "regression_let_through" in answer.problems
    ruled = _narrowed(question) if narrows else question
    margins = [ruled] if narrows else list(_wider(question))
    found = [proposal for tries in (_heavier(ruled), margins) if (proposal := _first(question, tries))]
    if not found:
        found += _optional(_first(question, (start for margin in margins for start in _heavier(margin))))
    if not (narrows and any(proposal.changes == ("margin",) for proposal in found)):
        found += _optional(_first(question, _later(ruled)))
    if not found:
        found += _optional(_first(question, (later for margin in reversed(margins) for later in _later(margin))))
    return tuple(found)


def question_with(question: Question, proposal: Proposal) -> Question:
    """The question with the proposal in the place of its plan and margins."""
    changed = _with_margin(question, proposal.margin_ratio, proposal.margin_delta)
    return msgspec.structs.replace(changed, steps=proposal.steps, deadline_s=proposal.deadline_s)


def _optional(proposal: Proposal | None) -> list[Proposal]:
    return [proposal] if proposal else []


def _first(question: Question, tries: Iterable[Question]) -> Proposal | None:
    for tried in tries:
        outlook = engine_outlook(tried)
        if not problems_of(tried, outlook):
            margins, changes = tried.rate_spec, _changes(question, tried)
            return Proposal(changes, tried.steps, margins.margin_ratio, margins.margin_delta, tried.deadline_s, outlook)
    return None


def _changes(question: Question, tried: Question) -> tuple[Change, ...]:
    changes: list[Change] = []
    if tried.steps != question.steps:
        changes.append("weights")
    if tried.rate_spec != question.rate_spec:
        changes.append("margin")
    if tried.deadline_s != question.deadline_s:
        changes.append("deadline")
    return tuple(changes)


def _heavier(question: Question) -> Iterator[Question]:
    """The plan started at ever heavier weights: with every step above the start, then with fewer and fewer."""
    first, *rest = question.steps
    for dropped in range(len(rest) + 1):
        for start_bp in _START_BP:
            above = [step for step in rest if step.weight_bp > start_bp]
            if start_bp > first.weight_bp and dropped <= len(above):
                start = msgspec.structs.replace(first, weight_bp=start_bp)
                yield msgspec.structs.replace(question, steps=(start, *above[dropped:]))


def _wider(question: Question) -> Iterator[Question]:
    """Ever larger margins that still keep the regression outside."""
    margins = question.rate_spec
    for delta in _DELTAS:
        if margins.margin_delta < delta <= question.regression_rate - question.base_rate:
            yield _with_margin(question, margins.margin_ratio, delta)


def _narrowed(question: Question) -> Question:
    """The margin that just leaves the regression outside, rounded down to what an operator would write."""
    margins, base = question.rate_spec, question.base_rate
    ratio = max(1.0, min(margins.margin_ratio, math.floor(question.regression_rate / base * 20.0) / 20.0))
    delta = min(margins.margin_delta, max([d for d in _DELTAS if d <= question.regression_rate - base], default=0.0))
    return _with_margin(question, ratio, delta)


def _later(question: Question) -> Iterator[Question]:
    """A deadline with headroom."""
    engine = engine_outlook(question)
    longest_s = max(engine.healthy.at_s, engine.regressed.at_s)
    if longest_s < math.inf:
        yield msgspec.structs.replace(question, deadline_s=_rounded_up_s(_HEADROOM * longest_s))


def _rounded_up_s(time_s: float) -> float:
    unit_s = 60.0 if time_s <= 7200.0 else 3600.0
    return math.ceil(time_s / unit_s) * unit_s


def _with_margin(question: Question, ratio: float, delta: float) -> Question:
    margins = msgspec.structs.replace(question.rate_spec, margin_ratio=ratio, margin_delta=delta)
    return msgspec.structs.replace(question, spec=msgspec.structs.replace(question.spec, **{question.metric: margins}))
