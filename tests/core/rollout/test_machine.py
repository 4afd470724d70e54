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
    AbortRequested,
    Analysed,
    ApproveRequested,
    Command,
    Conditions,
    Event,
    GateAnswered,
    JournalTimedOut,
    LocalTime,
    MirrorStep,
    Notify,
    OnDeadline,
    PauseRequested,
    Phase,
    Plan,
    PromoteRequested,
    Restarted,
    ResumeRequested,
    Rollout,
    SafeAction,
    SetWeight,
    Started,
    Step,
    SwapRoles,
    Ticked,
    WeightRequested,
    WhenDown,
    Window,
    Withdrawn,
    raises_exposure,
    step,
)

# Of `Rollout.step_index`: the mirror step.
MIRROR = -3
RUNNING = tuple(phase for phase in Phase if phase.active)
JUDGED = tuple(phase for phase in RUNNING if phase is not Phase.RETURNING)

# --- random lives ---

gates = st.sampled_from(["", "", "", "manual", "hook"])
steps = st.builds(
    Step,
    weight_bp=st.integers(0, 10_000),
    min_time_s=st.sampled_from([0.0, 5.0, 60.0]),
    min_requests=st.sampled_from([0, 1, 50]),
    deadline_s=st.sampled_from([None, None, 0.0, 50.0]),
    on_deadline=st.sampled_from(OnDeadline),
    gate=gates,
)
plans = st.builds(
    Plan,
    steps=st.lists(steps, min_size=1, max_size=4).map(tuple),
    deadline_s=st.sampled_from([0.0, 30.0, 100.0, 1e9, float("inf")]),
    on_deadline=st.sampled_from([OnDeadline.HOLD, OnDeadline.ROLLBACK, OnDeadline.PROMOTE]),
    on_no_data=st.sampled_from([None, *SafeAction]),
    promotion_gate=gates,
    warmup_s=st.sampled_from([0.0, 0.0, 30.0]),
    bake_s=st.sampled_from([0.0, 0.0, 40.0]),
    bake_holdout_bp=st.sampled_from([0, 100, 9_999]),
    rollback_ramp_s=st.sampled_from([0.0, 0.0, 0.0, 50.0]),
    stable_endpoints_min=st.sampled_from([0, 0, 2]),
    when_canary_down=st.sampled_from(WhenDown),
    windows=st.sampled_from([(), (Window((0, 1, 2, 3, 4), 540, 1020),)]),
    pause_max_s=st.sampled_from([None, 100.0]),
    mirror=st.one_of(
        st.none(),
        st.none(),
        st.builds(
            MirrorStep,
            min_time_s=st.sampled_from([0.0, 5.0]),
            min_requests=st.sampled_from([0, 50]),
            deadline_s=st.sampled_from([None, 0.0, 50.0]),
            on_deadline=st.sampled_from(OnDeadline),
        ),
    ),
)
worlds = st.builds(
    Conditions,
    local=st.sampled_from([None, None, LocalTime("2026-11-23", 0, 600), LocalTime("2026-11-28", 5, 600)]),
    stable_up=st.sampled_from([None, None, 0, 1, 2]),
    canary_up=st.sampled_from([None, None, 0, 1]),
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
    conditions=worlds,
)

wishes_and_restarts: st.SearchStrategy[Event] = st.one_of(
    st.builds(PauseRequested, at_s=moments, by=names, reason=st.sampled_from(["", "why"])),
    st.builds(ResumeRequested, at_s=moments, by=names, canary_requests=requests),
    st.builds(PromoteRequested, at_s=moments, by=names, next_step=st.booleans(), canary_requests=requests),
    st.builds(ApproveRequested, at_s=moments, by=names, canary_requests=requests),
    st.builds(
        GateAnswered,
        at_s=moments,
        gate=st.sampled_from(["hook", "manual"]),
        passed=st.booleans(),
        reason=st.just("because"),
        by=names,
        canary_requests=requests,
    ),
    st.builds(Ticked, at_s=moments),
    st.builds(Withdrawn, at_s=moments, by=names, reason=st.just("superseded")),
    st.builds(JournalTimedOut, at_s=moments, live_weight_bp=st.integers(0, 10_000), reason=st.just("the disk hangs")),
    st.builds(AbortRequested, at_s=moments, by=names),
    st.builds(WeightRequested, at_s=moments, by=names, weight_bp=st.integers(0, 10_000)),
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
        stable=st.sampled_from(["v1", "v1", ""]),
        canary=st.just("v2"),
        plan=plans,
        at_s=moments,
        by=names,
        retry=st.booleans(),
        canary_up=st.sampled_from([None, 0, 1]),
    ),
)
# As in life there are more analyses than anything else; otherwise most lives would end before they began.
events: st.SearchStrategy[Event] = st.integers(0, 3).flatmap(lambda n: analyses if n else wishes_and_restarts)
first_starts = st.builds(
    Started,
    rollout_id=st.just("r0"),
    route=st.just("digits"),
    stable=st.sampled_from(["v1", "v1", "v1", ""]),
    canary=st.just("v2"),
    plan=plans,
    at_s=st.just(0.0),
    by=st.just("alice"),
    canary_up=st.sampled_from([None, None, 0]),
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


def planned(state: Rollout) -> Step | MirrorStep:
    """What the plan says of the step in force."""
    mirror = state.plan.mirror
    return mirror if state.step_index == MIRROR and mirror is not None else state.plan.steps[state.step_index]


def policy_of(m: Moment) -> bool:
    """Whether a deadline was over whose policy gives more to a canary that was seen and judged."""
    if not isinstance(m.event, Analysed) or m.event.verdict not in (Verdict.UNDECIDED, Verdict.PASS):
        return False
    plan, over = m.old.plan, []
    if m.event.at_s - m.old.since_s >= plan.deadline_s:
        over.append(plan.on_deadline)
    if m.old.phase is Phase.PROGRESSING:
        plan_step = planned(m.old)
        if plan_step.deadline_s is not None and m.event.at_s - m.old.step_since_s >= plan_step.deadline_s:
            over.append(plan_step.on_deadline)
    return m.event.canary_requests > 0 and bool({OnDeadline.PROMOTE, OnDeadline.PROCEED} & set(over))


def baked(m: Moment) -> bool:
    """Whether a bake was over in which the canary was judged and not found worse."""
    if not isinstance(m.event, Analysed) or m.old.phase is not Phase.BAKING:
        return False
    return m.event.at_s - m.old.step_since_s >= m.old.plan.bake_s and m.event.canary_requests > 0


@given(lives)
def test_every_transition_is_one_that_the_table_names(life: list[Event]) -> None:
    for m in live(life):
        allowed = TRANSITIONS.get((m.old.phase, type(m.event)))
        assert m.refused or (allowed is not None and m.new.phase in allowed)
        # Without a stable version nothing could serve the rest of a weight.
        no_stable = isinstance(m.event, WeightRequested) and not m.old.stable
        conditional = isinstance(m.event, Started) or m.old.phase is Phase.PROMOTED or no_stable
        assert m.refused is (allowed is None) or (m.refused and conditional)


@given(lives)
def test_an_end_is_left_only_by_a_start_or_by_what_takes_a_promotion_back(life: list[Event]) -> None:
    for m in live(life):
        if m.old.phase.terminal and m.new.phase is not m.old.phase:
            taken_back = m.old.phase is Phase.PROMOTED and isinstance(m.event, (AbortRequested, JournalTimedOut))
            assert isinstance(m.event, Started) or (taken_back and m.new.weight_bp <= m.old.weight_bp)


@given(lives)
def test_weight_rises_only_on_a_pass_or_a_command_or_a_stated_policy(life: list[Event]) -> None:
    requested = (Started, ResumeRequested, PromoteRequested, ApproveRequested, GateAnswered, WeightRequested)
    for m in live(life):
        if m.new.weight_bp <= m.old.weight_bp or isinstance(m.event, requested):
            continue
        assert isinstance(m.event, Analysed), m.event
        proven = m.event.verdict is Verdict.PASS and m.old.phase is Phase.PROGRESSING
        warmed = m.old.phase is Phase.WARMING and m.new.weight_bp == m.old.weight_bp
        healthy = m.old.phase is Phase.WAITING and m.old.gate == "canary" and m.event.conditions.canary_up != 0
        assert proven or warmed or healthy or baked(m) or policy_of(m)


@given(lives)
def test_nothing_goes_up_by_itself_while_a_side_is_down_or_outside_the_windows(life: list[Event]) -> None:
    for m in live(life):
        if isinstance(m.event, Analysed) and m.new.weight_bp > m.old.weight_bp:
            world, plan = m.event.conditions, m.old.plan
            assert world.canary_up != 0
            assert not (plan.windows and world.local and world.local.weekday == 5)
            if m.old.phase is not Phase.WAITING:
                assert world.stable_up is None or world.stable_up >= max(1, plan.stable_endpoints_min)


@given(lives)
def test_no_gate_opens_by_itself(life: list[Event]) -> None:
    for m in live(life):
        closed = m.old.phase is Phase.WAITING and m.old.gate != "canary"
        if closed and m.new.weight_bp > m.old.weight_bp:
            assert isinstance(m.event, (ApproveRequested, GateAnswered, PromoteRequested, WeightRequested))
            assert not isinstance(m.event, GateAnswered) or (m.event.passed and m.event.gate == m.old.gate)


@given(lives)
def test_an_advance_needs_a_pass_and_the_whole_floor(life: list[Event]) -> None:
    for m in live(life):
        climbed = isinstance(m.event, Analysed) and m.new.step_index > m.old.step_index and not policy_of(m)
        if climbed and m.old.phase is Phase.PROGRESSING:
            assert isinstance(m.event, Analysed) and m.event.verdict is Verdict.PASS
            floor = planned(m.old)
            assert m.event.at_s - m.old.step_since_s >= floor.min_time_s
            assert m.event.canary_requests - m.old.step_requests_base >= floor.min_requests
            first = -1 if m.old.plan.warmup_s else 0
            assert m.new.step_index == (first if m.old.step_index == MIRROR else m.old.step_index + 1)


@given(lives)
def test_without_data_or_without_judgement_the_weight_never_rises(life: list[Event]) -> None:
    for m in live(life):
        if isinstance(m.event, Analysed) and m.event.verdict in (Verdict.NODATA, Verdict.ERROR):
            begins = m.old.phase in (Phase.WAITING, Phase.WARMING) and m.old.step_index < 0
            assert m.new.weight_bp <= m.old.weight_bp or begins
            assert m.new.phase is m.old.phase or m.new.phase is not Phase.PROMOTED or not m.new.stable
        if isinstance(m.event, Analysed) and m.event.canary_requests == 0 and m.old.stable:
            unproven = m.event.verdict is not Verdict.PASS
            assert not (unproven and m.new.phase is Phase.PROMOTED and m.old.phase is not Phase.PROMOTED)


@given(lives)
def test_an_error_that_names_its_cause_pauses(life: list[Event]) -> None:
    for m in live(life):
        doubtful = isinstance(m.event, Analysed) and m.event.verdict is Verdict.ERROR and m.event.causes
        if doubtful and m.old.phase in JUDGED:
            assert m.new.phase is Phase.PAUSED or m.new.phase in (Phase.ROLLED_BACK, Phase.RETURNING)


@given(lives)
def test_fail_means_weight_zero_or_the_ramp_to_it(life: list[Event]) -> None:
    for m in live(life):
        failed = isinstance(m.event, Analysed) and m.event.verdict is Verdict.FAIL
        if failed and m.old.phase in JUDGED:
            if m.old.plan.rollback_ramp_s and m.new.phase is Phase.RETURNING:
                assert m.new.weight_bp <= m.old.weight_bp * 0.9
            else:
                assert (m.new.phase, m.new.weight_bp) == (Phase.ROLLED_BACK, 0)
            assert isinstance(m.commands[0], SetWeight) and m.commands[0].weight_bp == m.new.weight_bp


@given(lives)
def test_on_the_way_back_the_weight_only_falls_and_the_way_ends(life: list[Event]) -> None:
    for m in live(life):
        if m.old.phase is Phase.RETURNING and not isinstance(m.event, Started):
            assert m.new.weight_bp <= m.old.weight_bp
        if m.new.phase is Phase.RETURNING:
            over, _ = step(m.new, Ticked(m.new.step_since_s + m.new.plan.rollback_ramp_s))
            assert (over.phase, over.weight_bp) == (Phase.ROLLED_BACK, 0)


@given(lives)
def test_what_has_ended_without_promotion_means_weight_zero_and_climbing_means_the_weight_of_the_step(
    life: list[Event],
) -> None:
    for m in live(life):
        if m.new.phase in (Phase.ROLLED_BACK, Phase.WITHDRAWN):
            assert m.new.weight_bp == 0
        if m.new.phase is Phase.PROGRESSING and m.new.step_index == MIRROR:
            assert m.new.weight_bp == 0 and m.new.mirror is m.new.plan.mirror is not None
        elif m.new.phase is Phase.PROGRESSING:
            assert m.new.weight_bp == m.new.plan.steps[m.new.step_index].weight_bp
        if m.new.phase is Phase.WARMING:
            assert m.new.weight_bp == m.new.plan.steps[0].weight_bp
        if m.new.phase is Phase.BAKING:
            assert m.new.weight_bp == 10_000 - m.new.plan.bake_holdout_bp


@given(lives, st.integers(0, 50))
def test_a_step_that_the_journal_did_not_take_in_time_leaves_the_rollout_where_it_was(
    life: list[Event], requests: int
) -> None:
    for m in live(life):
        if not isinstance(m.event, Analysed | GateAnswered) or not raises_exposure(m.old, m.new) or m.new.revision == 1:
            continue
        at_s = m.event.at_s + 5.0
        new, commands = step(m.new, JournalTimedOut(at_s, m.old.weight_bp, "the disk hangs", m.old, requests))
        same = {
            name: getattr(new, name) for name in ("phase", "weight_bp", "step_index", "gate", "gate_index", "since_s")
        }
        assert same == {name: getattr(m.old, name) for name in same}
        assert (new.step_since_s, new.step_requests_base, new.revision) == (at_s, requests, m.new.revision + 1)
        assert "its minimum time and requests start again: the disk hangs" in new.reason
        assert [type(command) for command in commands][-1] is Notify
        assert any(isinstance(command, SwapRoles) for command in commands) == m.new.swapped


@given(lives)
def test_a_first_version_gets_everything_or_nothing(life: list[Event]) -> None:
    for m in live(life):
        found = isinstance(m.event, Restarted | JournalTimedOut)  # what was found live is none of the machine's doing
        if m.new is not m.old and not m.new.stable and not found and m.old.weight_bp in (0, 10_000):
            assert m.new.weight_bp in (0, 10_000) or m.new.phase is Phase.RETURNING, m


@given(lives)
def test_folding_only_the_events_that_changed_something_gives_the_live_state(life: list[Event]) -> None:
    lived, folded = live(life), Rollout()
    for event in [m.event for m in lived if m.new != m.old]:
        folded, _ = step(folded, event)
    assert folded == (lived[-1].new if lived else Rollout())


@given(lives)
def test_an_analysis_or_a_tick_that_changes_nothing_returns_the_very_same_state(life: list[Event]) -> None:
    for m in live(life):
        if isinstance(m.event, (Analysed, Ticked)):
            assert (m.new is m.old) is (not m.commands)
            where = (m.new.phase, m.new.step_index, m.new.weight_bp, m.new.gate)
            assert m.new is m.old or where != (m.old.phase, m.old.step_index, m.old.weight_bp, m.old.gate)


@given(lives)
def test_every_change_says_why_and_who_and_when_and_which_it_is(life: list[Event]) -> None:
    for m in live(life):
        if m.new != m.old:
            assert m.new.reason
            assert m.new.last_at_s == m.event.at_s
            assert m.new.revision == (m.old.revision + 1 if m.new.rollout_id == m.old.rollout_id else 1) or isinstance(
                m.event, Started
            )
            by = getattr(m.event, "by", AUTOMATION)
            kept = m.new.reason == m.old.reason
            assert m.new.by == (m.old.by if kept else by)


@given(lives)
def test_commands_come_in_their_order_and_speak_of_the_new_state(life: list[Event]) -> None:
    for m in live(life):
        kinds = [type(command) for command in m.commands]
        assert kinds in (
            [],
            [SetWeight],
            [Notify],
            [SetWeight, Notify],
            [SetWeight, SwapRoles, Notify],
            [SwapRoles, Notify],
        )
        for command in m.commands:
            assert command.reason == m.new.reason
            match command:
                case SetWeight():
                    assert (command.route, command.weight_bp) == (m.new.route, m.new.weight_bp)
                case SwapRoles(stable=stable) if m.new.swapped:
                    assert (stable, command.canary, command.weight_bp) == (m.new.canary, None, 0)
                case SwapRoles():
                    assert (command.stable, command.canary) == (m.new.stable, m.new.canary)
                    assert command.weight_bp == m.new.weight_bp
                case Notify():
                    assert command.kind in NOTIFY_KINDS and command.rollout_id == m.new.rollout_id
        same = m.new.rollout_id == m.old.rollout_id
        if m.new.weight_bp != m.old.weight_bp and same:
            assert SetWeight in kinds or SwapRoles in kinds
        if same and not isinstance(m.event, Started):
            assert (SwapRoles in kinds) == (m.new.swapped != m.old.swapped)
        if m.new != m.old:
            assert Notify in kinds


@given(lives)
def test_a_restart_never_raises_a_weight_nor_exposure(life: list[Event]) -> None:
    for m in live(life):
        if isinstance(m.event, Restarted):
            assert m.new.weight_bp <= m.old.weight_bp
            assert not raises_exposure(m.old, m.new)
            if m.event.live_weight_bp is not None:
                assert m.new.weight_bp <= m.event.live_weight_bp
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
        if isinstance(m.event, Started) and not m.refused and m.new.rollout_id != m.old.rollout_id:
            assert raises_exposure(m.old, m.new)
        if m.new.phase is Phase.PROMOTED and m.old.phase is not Phase.PROMOTED:
            assert raises_exposure(m.old, m.new)


def test_a_first_deployment_after_another_waits_for_the_journal() -> None:
    """Both give all traffic to what had no stable version before it: the weight is the same, the version is not."""
    begun = Started("r1", "digits", "", "v1", Plan((Step(500),)), at_s=0.0, by="alice")
    first, _ = step(Rollout(), begun)
    second, _ = step(first, replace(begun, rollout_id="r2", canary="v2"))
    assert (first.phase, second.phase, first.weight_bp) == (Phase.PROMOTED, Phase.PROMOTED, second.weight_bp)
    assert raises_exposure(first, second)


@given(lives)
def test_step_is_deterministic(life: list[Event]) -> None:
    assert live(life) == live(life)


@given(lives)
def test_a_refusal_is_a_sentence_with_the_phase_and_what_is_allowed(life: list[Event]) -> None:
    for m in live(life):
        if m.refused:
            with pytest.raises(TransitionError, match=r"cannot .*(; allowed now: |; ask for|healthy endpoint|go back)"):
                step(m.old, m.event)


def test_a_refusal_says_what_is_asked_of_a_start_and_names_no_way_back_where_there_is_none() -> None:
    def refused(state: Rollout) -> str:
        with pytest.raises(TransitionError) as found:
            step(state, PauseRequested(at_s=9.0, by="bob"))
        return str(found.value).partition("allowed now: ")[2]

    begun = Started("r1", "digits", "v1", "v2", Plan((Step(500),)), at_s=0.0, by="alice")
    running, _ = step(Rollout(), begun)
    promoted, _ = step(running, PromoteRequested(at_s=1.0, by="alice"))
    assert refused(promoted) == "start (of another canary), abort"
    aborted, _ = step(running, AbortRequested(at_s=1.0, by="alice"))
    assert refused(aborted) == "start (of another canary, or as a retry)"
    first, _ = step(Rollout(), replace(begun, stable=""))
    assert (first.phase, refused(first)) == (Phase.PROMOTED, "start (of another canary)")


# --- the table, and values outside their domain ---


def test_what_happens_outside_has_an_answer_in_every_phase() -> None:
    assert all(
        (phase, kind) in TRANSITIONS
        for phase in Phase
        for kind in (Analysed, Ticked, GateAnswered, JournalTimedOut, Withdrawn, Restarted)
    )
    assert all(kind in typing.get_args(Event) for _, kind in TRANSITIONS)


def test_the_tables_every_end_is_reached_by_some_life() -> None:
    """The table promises no transition that the machine cannot make."""
    plan_steps = (Step(500, 0.0, 0), Step(1000, 0.0, 0))
    gated = (Step(500, 0.0, 0, gate="hook"), Step(1000, 0.0, 0, gate="hook"))
    bare = Plan(plan_steps, 10.0)
    ramped = Plan(
        gated, 10.0, OnDeadline.ROLLBACK, rollback_ramp_s=10.0, warmup_s=1.0, bake_s=1.0, promotion_gate="hook"
    )
    lives = [
        bare,
        ramped,
        replace(ramped, warmup_s=0.0, bake_s=0.0, rollback_ramp_s=0.0, pause_max_s=3.0),
        replace(bare, bake_s=5.0, pause_max_s=3.0, rollback_ramp_s=10.0),
        replace(bare, bake_s=5.0),
        replace(bare, warmup_s=5.0, on_deadline=OnDeadline.ROLLBACK),
        replace(bare, warmup_s=1.0, mirror=MirrorStep(min_time_s=0.0, min_requests=0)),
    ]
    up, down = Conditions(canary_up=1), Conditions(canary_up=0)
    rounds: list[Event] = [
        *(Analysed(at_s, verdict, "", (), 10, up) for verdict in Verdict for at_s in (2.0, 20.0)),
        Analysed(2.0, Verdict.ERROR, "", ("sample_ratio",), 10),
        Analysed(20.0, Verdict.NODATA, "", (), 0, down),
        Ticked(2.0),
        Ticked(40.0),
        PauseRequested(1.0, "bob"),
        ResumeRequested(1.0, "bob"),
        PromoteRequested(1.0, "bob"),
        PromoteRequested(1.0, "bob", next_step=True),
        ApproveRequested(1.0, "bob"),
        GateAnswered(1.0, "hook", True, "", "bob"),
        GateAnswered(1.0, "hook", False, "", "bob"),
        AbortRequested(1.0, "bob"),
        WeightRequested(1.0, "bob", 700),
        Withdrawn(1.0, "bob", "superseded"),
        JournalTimedOut(1.0, 0, "the disk hangs"),
        *(
            JournalTimedOut(1.0, 500, "the disk hangs", Rollout("r1", "digits", "v1", "v2", bare, phase, index, 500))
            for phase, index in (
                (Phase.WAITING, -2),
                (Phase.WARMING, -1),
                (Phase.PROGRESSING, 0),
                (Phase.BAKING, 2),
            )
        ),
        Restarted(1.0, None),
        Restarted(1.0, 0),
    ]
    starts: list[Event] = [
        Started("r1", "digits", stable, "v2", plan, 0.0, "alice", retry=True, canary_up=canary_up)
        for plan in lives
        for stable in ("v1", "")
        for canary_up in (1, 0)
    ]
    seen: dict[tuple[Phase, type[Event]], set[Phase]] = {}
    states, frontier = {Rollout()}, {Rollout()}
    for depth in range(6):
        reached: dict[Rollout, Rollout] = {}
        for state, event in itertools.product(frontier, rounds + (starts if depth in (0, 4) else [])):
            try:
                new, _commands = step(state, event)
            except TransitionError:
                continue
            seen.setdefault((state.phase, type(event)), set()).add(new.phase)
            # Who said it and in which words makes no other state.
            plain = replace(new, by="", reason="", causes=(), last_at_s=0.0, revision=min(new.revision, 2))
            reached.setdefault(plain, new)
        frontier = {new for plain, new in reached.items() if plain not in states}
        states |= reached.keys()
    missing = {(phase, kind): ends - seen.get((phase, kind), set()) for (phase, kind), ends in TRANSITIONS.items()}
    assert {pair: ends for pair, ends in missing.items() if ends} == {}
    assert {pair: ends - TRANSITIONS[pair] for pair, ends in seen.items() if not ends <= TRANSITIONS[pair]} == {}


def _started(plan: Plan) -> Started:
    return Started("r1", "digits", "v1", "v2", plan, 0.0, "alice")


@pytest.mark.parametrize("weight_bp", [-1, 10_001, 10**9])
def test_a_weight_outside_its_domain_is_refused_with_the_domain(weight_bp: int) -> None:
    state, _ = step(Rollout(), _started(Plan(steps=(Step(500),))))
    with pytest.raises(InvalidValueError, match=r"weight_bp must be from 0 to 10000 basis points"):
        step(state, WeightRequested(at_s=1.0, by="bob", weight_bp=weight_bp))


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
    state, _ = step(state, ResumeRequested(at_s=50.0, by="bob"))
    held, _ = step(state, Analysed(149.0, Verdict.UNDECIDED, "", (), 10))
    assert held is state
    state, _ = step(state, Analysed(150.0, Verdict.UNDECIDED, "", (), 10))
    assert state.phase is Phase.PAUSED


def test_a_resume_before_the_deadline_keeps_its_clock() -> None:
    plan = Plan(steps=(Step(500, 0.0, 10**6),), deadline_s=100.0, on_deadline=OnDeadline.ROLLBACK)
    state, _ = step(Rollout(), _started(plan))
    state, _ = step(state, PauseRequested(40.0, "bob"))
    state, _ = step(state, ResumeRequested(60.0, "bob"))
    state, _ = step(state, Analysed(100.0, Verdict.UNDECIDED, "", (), 10))
    assert state.phase is Phase.ROLLED_BACK
