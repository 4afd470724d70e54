"""The machine's invariants, over random plans and random lives, and the sentences it refuses with."""

from __future__ import annotations

import itertools
import typing

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from gateway.core.analysis.types import Verdict
from gateway.core.errors import InvalidValueError, TransitionError
from gateway.core.rollout import (
    AUTOMATION,
    NOTIFY_KINDS,
    TRANSITIONS,
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
    Step,
    WeightWished,
    raises_exposure,
    step,
)

RUNNING = (Phase.PROGRESSING, Phase.PAUSED)

# --- random lives ---

steps = st.builds(
    Step,
    weight_bp=st.integers(0, 10_000),
    min_time_s=st.sampled_from([0.0, 5.0, 60.0]),
    min_requests=st.sampled_from([0, 1, 50]),
)
plans = st.builds(
    Plan,
    steps=st.lists(steps, min_size=1, max_size=4).map(tuple),
    deadline_s=st.sampled_from([0.0, 30.0, 100.0, 1e9, float("inf")]),
    on_deadline=st.sampled_from(OnDeadline),
)
# Mostly small steps forward; a jump back is what a restart on a new clock (or a bug) looks like.
moments = st.one_of(st.floats(0, 200), st.sampled_from([0.0, 1.0, 60.0, 100.0, -50.0]))
names = st.sampled_from(["alice", "bob", ""])
requests = st.one_of(st.sampled_from([0, 1, 20]), st.integers(0, 200))
analyses = st.builds(
    Analysed,
    at_s=moments,
    verdict=st.sampled_from([*Verdict, Verdict.PASS, Verdict.UNDECIDED, Verdict.NODATA]),
    reason=st.sampled_from(["", "because"]),
    causes=st.sampled_from([(), ("errors",)]),
    canary_requests=requests,
)

wishes_and_restarts: st.SearchStrategy[Event] = st.one_of(
    st.builds(PauseWished, at_s=moments, by=names, reason=st.sampled_from(["", "why"])),
    st.builds(ResumeWished, at_s=moments, by=names, canary_requests=requests),
    st.builds(PromoteWished, at_s=moments, by=names),
    st.builds(AbortWished, at_s=moments, by=names),
    st.builds(WeightWished, at_s=moments, by=names, weight_bp=st.integers(0, 10_000)),
    st.builds(
        Restarted,
        at_s=moments,
        live_weight_bp=st.one_of(st.none(), st.integers(0, 10_000)),
        canary_requests=requests,
    ),
    st.builds(
        Started,
        rollout_id=st.sampled_from(["r1", "r2"]),
        route=st.just("digits"),
        stable=st.just("v1"),
        canary=st.just("v2"),
        plan=plans,
        at_s=moments,
        by=names,
    ),
)
# As in life there are more analyses than anything else; otherwise most lives would end before they began.
events: st.SearchStrategy[Event] = st.integers(0, 3).flatmap(lambda n: analyses if n else wishes_and_restarts)
first_starts = st.builds(
    Started,
    rollout_id=st.just("r0"),
    route=st.just("digits"),
    stable=st.just("v1"),
    canary=st.just("v2"),
    plan=plans,
    at_s=st.just(0.0),
    by=st.just("alice"),
)
lives = st.one_of(
    st.tuples(first_starts, st.lists(events, max_size=30)).map(lambda drawn: [drawn[0], *drawn[1]]),
    st.tuples(first_starts, st.lists(analyses, min_size=1, max_size=9)).map(lambda drawn: [drawn[0], *drawn[1]]),
    st.lists(wishes_and_restarts, max_size=30),
)


class Moment(typing.NamedTuple):
    """One event of a life: the state before and after, and what was to be done."""

    old: Rollout
    event: Event
    new: Rollout
    commands: tuple[Command, ...]
    refused: bool


def live(life: list[Event]) -> list[Moment]:
    """Live through the events from IDLE; times that the strategies drew as distances become moments in time."""
    state, at_s, moments_lived = Rollout(), 0.0, []
    for drawn in life:
        at_s += drawn.at_s
        event = replace(drawn, at_s=at_s)
        try:
            new, commands = step(state, event)
        except TransitionError:
            moments_lived.append(Moment(state, event, state, (), True))
            continue
        moments_lived.append(Moment(state, event, new, commands, False))
        state = new
    return moments_lived


# --- invariants ---


@given(lives)
def test_every_transition_is_one_that_the_table_names(life: list[Event]) -> None:
    for m in live(life):
        allowed = TRANSITIONS.get((m.old.phase, type(m.event)))
        assert m.refused is (allowed is None)
        assert m.refused or (allowed is not None and m.new.phase in allowed)


@given(lives)
def test_an_end_is_left_only_by_a_start_or_by_an_abort_of_a_promotion(life: list[Event]) -> None:
    for m in live(life):
        if m.old.phase.terminal and m.new.phase is not m.old.phase:
            aborted_promotion = m.old.phase is Phase.PROMOTED and isinstance(m.event, AbortWished)
            assert isinstance(m.event, Started) or (aborted_promotion and m.new.phase is Phase.ROLLED_BACK)


@given(lives)
def test_weight_rises_only_on_a_pass_or_a_wish_or_the_promote_policy(life: list[Event]) -> None:
    for m in live(life):
        if m.new.weight_bp <= m.old.weight_bp:
            continue
        if isinstance(m.event, Analysed):
            by_policy = (
                m.old.plan.on_deadline is OnDeadline.PROMOTE
                and m.event.verdict is Verdict.UNDECIDED
                and m.event.at_s - m.old.since_s >= m.old.plan.deadline_s
            )
            assert m.event.verdict is Verdict.PASS or by_policy
        else:
            assert isinstance(m.event, (Started, ResumeWished, PromoteWished, WeightWished))


@given(lives)
def test_an_advance_needs_a_pass_and_the_whole_floor(life: list[Event]) -> None:
    for m in live(life):
        advanced = any(isinstance(command, Notify) and command.kind == "advanced" for command in m.commands)
        if advanced:
            assert isinstance(m.event, Analysed) and m.event.verdict is Verdict.PASS
            floor = m.old.plan.steps[m.old.step_index]
            assert m.event.at_s - m.old.step_since_s >= floor.min_time_s
            assert m.event.canary_requests - m.old.step_requests_base >= floor.min_requests
            assert m.new.step_index == m.old.step_index + 1


@given(lives)
def test_without_data_or_without_judgement_nothing_is_ever_promoted(life: list[Event]) -> None:
    for m in live(life):
        if isinstance(m.event, Analysed) and m.event.verdict in (Verdict.NODATA, Verdict.ERROR):
            assert m.new.phase is m.old.phase or m.new.phase in (Phase.PAUSED, Phase.ROLLED_BACK)
            assert m.new.weight_bp <= m.old.weight_bp
        if isinstance(m.event, Analysed) and m.event.canary_requests == 0 and m.old.plan.steps:
            unproven = m.event.verdict is not Verdict.PASS
            assert not (unproven and m.new.phase is Phase.PROMOTED and m.old.phase is not Phase.PROMOTED)


@given(lives)
def test_fail_means_weight_zero(life: list[Event]) -> None:
    for m in live(life):
        failed = isinstance(m.event, Analysed) and m.event.verdict is Verdict.FAIL
        if failed and m.old.phase in RUNNING:
            assert (m.new.phase, m.new.weight_bp) == (Phase.ROLLED_BACK, 0)
            assert isinstance(m.commands[0], SetWeight) and m.commands[0].weight_bp == 0


@given(lives)
def test_rolled_back_means_weight_zero_and_progressing_means_the_weight_of_the_rung(life: list[Event]) -> None:
    for m in live(life):
        if m.new.phase is Phase.ROLLED_BACK:
            assert m.new.weight_bp == 0
        if m.new.phase is Phase.PROGRESSING:
            assert m.new.weight_bp == m.new.plan.steps[m.new.step_index].weight_bp


@given(lives)
def test_folding_only_the_events_that_changed_something_gives_the_live_state(life: list[Event]) -> None:
    lived, folded = live(life), Rollout()
    for event in [m.event for m in lived if m.new != m.old]:
        folded, _ = step(folded, event)
    assert folded == (lived[-1].new if lived else Rollout())


@given(lives)
def test_an_analysis_that_changes_nothing_returns_the_very_same_state(life: list[Event]) -> None:
    for m in live(life):
        if isinstance(m.event, Analysed) and not m.commands:
            assert m.new is m.old
        if isinstance(m.event, Analysed) and m.commands:
            assert (m.new.phase, m.new.step_index) != (m.old.phase, m.old.step_index)


@given(lives)
def test_every_change_says_why_and_who_and_when(life: list[Event]) -> None:
    for m in live(life):
        if m.new != m.old:
            assert m.new.reason
            assert m.new.last_at_s == m.event.at_s
            if isinstance(m.event, (Analysed, Restarted)):
                kept = isinstance(m.event, Restarted) and m.new.reason == m.old.reason
                assert m.new.by == (m.old.by if kept else AUTOMATION)
            else:
                assert m.new.by == m.event.by


@given(lives)
def test_commands_come_as_set_weight_then_notify_and_speak_of_the_new_state(life: list[Event]) -> None:
    for m in live(life):
        kinds = [type(command) for command in m.commands]
        assert kinds in ([], [SetWeight], [Notify], [SetWeight, Notify])
        for command in m.commands:
            assert command.reason == m.new.reason
            if isinstance(command, SetWeight):
                assert (command.route, command.weight_bp) == (m.new.route, m.new.weight_bp)
            else:
                assert command.kind in NOTIFY_KINDS and command.rollout_id == m.new.rollout_id
        if m.new.weight_bp != m.old.weight_bp:
            assert SetWeight in kinds
        if m.new != m.old:
            assert Notify in kinds


@given(lives)
def test_a_restart_never_raises_a_weight_nor_exposure(life: list[Event]) -> None:
    for m in live(life):
        if isinstance(m.event, Restarted):
            assert m.new.weight_bp <= m.old.weight_bp
            assert not raises_exposure(m.old, m.new)
            if m.event.live_weight_bp is not None:
                assert m.new.weight_bp <= m.event.live_weight_bp or m.new.phase is Phase.IDLE
            assert (m.new.phase is m.old.phase) or m.new.phase is Phase.PAUSED


@given(lives, st.floats(0, 1e6))
def test_a_restart_keeps_the_deadlines_time_and_starts_the_floor_again(life: list[Event], at_s: float) -> None:
    for m in live(life):
        if m.new.phase in RUNNING:
            after, _ = step(m.new, Restarted(at_s=at_s, live_weight_bp=None, canary_requests=7))
            assert (after.step_since_s, after.step_requests_base) == (at_s, 7)
            assert at_s - after.since_s == pytest.approx(m.new.last_at_s - m.new.since_s, abs=1e-6)


@given(lives)
def test_raises_exposure_never_lets_a_lower_weight_wait_for_the_journal(life: list[Event]) -> None:
    for m in live(life):
        if m.new.weight_bp > m.old.weight_bp:
            assert raises_exposure(m.old, m.new)
        if m.new.weight_bp < m.old.weight_bp and not isinstance(m.event, Started):
            assert not raises_exposure(m.old, m.new)
        if isinstance(m.event, (Started, PromoteWished)) and not m.refused:
            assert raises_exposure(m.old, m.new)


@given(lives)
def test_step_is_deterministic(life: list[Event]) -> None:
    assert live(life) == live(life)


@given(lives)
def test_a_refusal_is_a_sentence_with_the_phase_and_what_is_allowed(life: list[Event]) -> None:
    for m in live(life):
        if m.refused:
            with pytest.raises(TransitionError, match=r"cannot .*; allowed now: ") as refused:
                step(m.old, m.event)
            assert str(m.old.phase) in str(refused.value) or "there is no rollout" in str(refused.value)


# --- the table, and values outside their domain ---


def test_what_the_world_does_has_an_answer_in_every_phase() -> None:
    assert all((phase, kind) in TRANSITIONS for phase in Phase for kind in (Analysed, Restarted))
    assert all(kind in typing.get_args(Event) for _, kind in TRANSITIONS)


def test_the_tables_every_end_is_reached_by_some_life() -> None:
    """The table promises no transition that the machine cannot make."""
    plan = Plan(steps=(Step(500, 0.0, 0), Step(1000, 0.0, 0)), deadline_s=10.0)
    rounds: list[Event] = [
        Started("r1", "digits", "v1", "v2", plan, 0.0, "alice"),
        *(Analysed(20.0, verdict, "", (), 10) for verdict in Verdict),
        PauseWished(1.0, "bob"),
        ResumeWished(1.0, "bob"),
        PromoteWished(1.0, "bob"),
        AbortWished(1.0, "bob"),
        WeightWished(1.0, "bob", 700),
        Restarted(1.0, None),
        Restarted(1.0, 0),
    ]
    seen: dict[tuple[Phase, type[Event]], set[Phase]] = {}
    states, frontier = {Rollout()}, {Rollout()}
    for _ in range(5):
        reached: set[Rollout] = set()
        for state, event in itertools.product(frontier, rounds):
            if (state.phase, type(event)) in TRANSITIONS:
                new, _commands = step(state, event)
                seen.setdefault((state.phase, type(event)), set()).add(new.phase)
                reached.add(new)
        frontier = reached - states
        states |= reached
    assert seen == {pair: set(ends) for pair, ends in TRANSITIONS.items()}


def _started(plan: Plan) -> Started:
    return Started("r1", "digits", "v1", "v2", plan, 0.0, "alice")


@pytest.mark.parametrize("weight_bp", [-1, 10_001, 10**9])
def test_a_weight_outside_its_domain_is_refused_with_the_domain(weight_bp: int) -> None:
    state, _ = step(Rollout(), _started(Plan(steps=(Step(500),))))
    with pytest.raises(InvalidValueError, match=r"weight_bp must be from 0 to 10000 basis points"):
        step(state, WeightWished(at_s=1.0, by="bob", weight_bp=weight_bp))


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (Plan(steps=()), "at least one step"),
        (Plan(steps=(Step(500), Step(10_001))), r"plan.steps\[1\].weight_bp"),
        (Plan(steps=(Step(500, min_time_s=float("nan")),)), r"plan.steps\[0\].min_time_s"),
        (Plan(steps=(Step(500),), deadline_s=float("nan")), "plan.deadline_s"),
    ],
)
def test_a_plan_that_cannot_be_followed_is_refused_with_its_place(plan: Plan, message: str) -> None:
    with pytest.raises(InvalidValueError, match=message):
        step(Rollout(), _started(plan))


@pytest.mark.parametrize("at_s", [float("nan"), float("inf"), float("-inf")])
def test_a_time_that_is_no_time_is_refused(at_s: float) -> None:
    with pytest.raises(InvalidValueError, match=r"Restarted.at_s must be a finite number"):
        step(Rollout(), Restarted(at_s=at_s, live_weight_bp=None))


def test_a_plan_whose_weights_fall_is_followed_as_written() -> None:
    plan = Plan(steps=(Step(5000, 0.0, 0), Step(1000, 0.0, 0)))
    state, _ = step(Rollout(), _started(plan))
    state, commands = step(state, Analysed(1.0, Verdict.PASS, "proven", (), 10))
    assert (state.step_index, state.weight_bp) == (1, 1000)
    assert isinstance(commands[0], SetWeight) and commands[0].weight_bp == 1000


def test_a_resume_after_the_deadline_ran_out_starts_its_clock_again() -> None:
    plan = Plan(steps=(Step(500, 0.0, 10**6),), deadline_s=100.0)
    state, _ = step(Rollout(), _started(plan))
    state, _ = step(state, Analysed(100.0, Verdict.UNDECIDED, "", (), 10))
    assert state.phase is Phase.PAUSED
    state, _ = step(state, Restarted(at_s=5.0, live_weight_bp=500))
    state, _ = step(state, ResumeWished(at_s=50.0, by="bob"))
    held, _ = step(state, Analysed(149.0, Verdict.UNDECIDED, "", (), 10))
    assert held is state
    state, _ = step(state, Analysed(150.0, Verdict.UNDECIDED, "", (), 10))
    assert state.phase is Phase.PAUSED


def test_a_resume_before_the_deadline_keeps_its_clock() -> None:
    plan = Plan(steps=(Step(500, 0.0, 10**6),), deadline_s=100.0, on_deadline=OnDeadline.ROLLBACK)
    state, _ = step(Rollout(), _started(plan))
    state, _ = step(state, PauseWished(40.0, "bob"))
    state, _ = step(state, ResumeWished(60.0, "bob"))
    state, _ = step(state, Analysed(100.0, Verdict.UNDECIDED, "", (), 10))
    assert state.phase is Phase.ROLLED_BACK
