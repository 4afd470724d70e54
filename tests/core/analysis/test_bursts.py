"""Bursts: one incident counts once, nothing is ever believed beyond the evidence, and the dead are convicted."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.analysis import AnalysisSpec, Evidence, LatencySpec, Mode, Verdict, fresh_state, judge
from gateway.core.analysis.betting import wealth
from gateway.core.analysis.betting.eprocess import TrialBatch
from gateway.core.analysis.bursts import evidence_cap, guard
from gateway.core.analysis.bursts.guard import (
    BURST_SHARE,
    DEAD_SHARES,
    WIDER,
    BurstState,
    Tolerance,
    clumping,
    guarded,
    guarded_ok,
    take,
)
from gateway.core.stats import Counts, EpochCounts

LOOKS = st.lists(
    st.tuples(st.integers(0, 60), st.integers(0, 60), st.integers(0, 30), st.integers(0, 30), st.floats(0.01, 3.0)),
    max_size=40,
)


def after(
    looks: list[tuple[int, int, int, int]],
    tick_s: float = 0.1,
    burst_s: float = 0.3,
    tolerance: Tolerance = guard.NONE,
) -> BurstState:
    state = guard.fresh()
    for index, look in enumerate(looks):
        state = take(state, TrialBatch(*look), index * tick_s, burst_s, tolerance)
    return state


@given(LOOKS, st.floats(-1e3, 1e6))
@settings(max_examples=150, deadline=None)
def test_never_more_is_believed_than_the_evidence_and_all_numbers_stay_finite(
    looks: list[tuple[int, int, int, int, float]], log_e: float
) -> None:
    state, at_s = guard.fresh(), 0.0
    for events_s, more_s, events_c, more_c, wait_s in looks:
        at_s += wait_s
        state = take(state, TrialBatch(events_s, events_s + more_s, events_c, events_c + more_c), at_s, 0.3)
        assert guarded(log_e, state) <= log_e and guarded_ok(log_e, state) <= log_e
        assert math.isfinite(guarded(log_e, state)) and math.isfinite(guarded_ok(log_e, state))
        assert math.isfinite(wealth.log_e(state.dead)) and math.isfinite(
            evidence_cap.worth(state.incidents, 60.0, 0.05)
        )
        assert clumping(state.stable) >= 1.0 and clumping(state.canary) >= 1.0


def test_single_failures_are_believed_whole() -> None:
    looks = [(0, 20, int(tick % 20 == 10), 5) for tick in range(200)]
    assert guarded(7.0, after(looks)) == 7.0


def test_where_a_burst_would_show_as_one_failure_it_is_not_worth_more_than_its_turn() -> None:
    """1 % of 200 requests/s: 0.6 canary requests per cell, 60 of stable. Eight seconds between failures."""
    calm = [(0, 20, 0, 0)] * 80
    once = [*calm[:75], *[(0, 20, 0, 1)] * 15, (0, 20, 1, 1), *calm[:9]]
    worth = [guarded(20.0, after(once * failures)) for failures in (1, 2, 4, 6)]
    assert worth[0] < 1.5
    # Incidents of healthy arms come by turns: five in a row are needed where log 200 is.
    assert worth[1] < worth[2] < math.log(200) < worth[3]


def test_in_sparse_traffic_a_failure_is_worth_what_the_weight_says() -> None:
    """1 % of 2 requests/s: neither arm has two requests in a burst; a failure is worth log(1 / w) at most anyway."""
    quiet = [(0, 0, 0, 0)] * 4
    stable = [(0, 1, 0, 0), *quiet] * 99
    state = after([*stable, (0, 0, 1, 1), *stable, (0, 0, 1, 1)])
    assert guarded(2 * math.log(30.0), state) == 2 * math.log(30.0)


def test_what_is_not_guarded_is_believed_whole() -> None:
    assert guarded(9.0, guard.fresh()) == 9.0 and guarded_ok(9.0, guard.fresh()) == 9.0


def test_to_pass_clumps_count_by_how_far_they_widen_the_difference() -> None:
    """A burst of stable among 60 s without failures; the canary had none yet, at 5 % and with single failures only."""
    calm = [(0, 95, int(tick % 100 == 50), 5) for tick in range(600)]
    assert guarded_ok(9.0, after(calm)) == 9.0
    burst = after([*calm[:300], (90, 95, 0, 5), *calm[300:]])
    # 90 of stable together make phi_s = 90; D is 1 + 2 w (phi_s - 1), and a fifth more.
    assert guarded_ok(9.0, burst) == pytest.approx(9.0 / (1.0 + WIDER * 2.0 * 0.05 * 89.0), rel=0.1)


def test_a_burst_weighs_about_a_toss_of_a_coin() -> None:
    """Fifteen requests that fail within 300 ms, at 5 %: 15 times 3 nats by requests, less than one nat here."""
    calm = [(0, 95, 0, 5)] * 300
    state = after([*calm, (0, 95, 5, 5), (0, 95, 5, 5), (0, 95, 5, 5), *calm[:6]])
    assert clumping(state.canary) == pytest.approx(15.0, rel=0.15)
    assert guarded(15 * 3.0, state) < 1.0


def test_a_burst_is_found_wherever_the_cells_cut_it() -> None:
    calm = [(0, 19, 0, 5)] * 30
    for shift in range(3):
        state = after([*calm, *[(0, 19, 0, 5)] * shift, (0, 19, 3, 5), (0, 19, 3, 5), *calm])
        assert clumping(state.canary) > 4.0, shift


def test_stables_bursts_teach_too() -> None:
    calm = [(0, 95, 0, 5)] * 60
    state = after([*calm, (60, 95, 0, 5), *calm, (0, 95, 2, 5)])
    assert guarded(9.0, state) < 1.0


def test_looks_a_second_apart_see_bursts_too() -> None:
    """A cell is then a second; a canary's pause fails a third of it."""
    calm = [(0, 190, 0, 10)] * 30
    state = after([*calm, (0, 190, 3, 10), *calm[:5]], tick_s=1.0)
    assert clumping(state.canary) == pytest.approx(3.0, rel=0.2) and state.cells == pytest.approx(35.0 / 0.3)
    assert guarded(9.0, state) < 1.5


def test_looks_that_are_far_apart_show_no_clumps() -> None:
    assert guarded(50.0, after([(0, 900, 40, 100)] * 5, tick_s=5.0)) == 50.0


def test_looks_that_come_a_little_late_are_as_far_apart_as_they_were_asked_for() -> None:
    """As far apart as a configuration may ask for, and each a few milliseconds late, as every look is."""
    looks = [(0, 570, 0, 30)] * 20 + [(0, 570, 9, 30)]
    assert guarded(9.0, after(looks, tick_s=guard.COARSE * 0.3 + 0.005)) < 1.5


@pytest.mark.parametrize("weight", [0.05, 0.2, 0.5])
def test_a_pause_while_nobody_looks_is_a_pause_all_the_same(weight: float) -> None:
    def verdicts(late: frozenset[int]) -> set[Verdict]:
        spec = AnalysisSpec(latency=LatencySpec(mode=Mode.OFF))
        state, stable, canary, found = fresh_state(spec), Counts(), Counts(), set()
        ours = round(20 * weight)
        for look in range(1, 701):
            # Both arms fail now and then; for 300 ms all of the canary's requests do.
            stable.requests += 20 - ours
            stable.enter("errors", look % 25 == 0)
            failing = ours if 600 <= look < 603 else look % 100 == 50
            canary.requests += ours
            canary.enter("errors", failing)
            if look not in late:
                entry = EpochCounts("r", 1, round(10_000 * weight), stable.copy(), canary.copy())
                state, analysis = judge(spec, state, Evidence(look / 10, (entry,)))
                found.add(analysis.verdict)
        return found

    assert Verdict.FAIL not in verdicts(frozenset())
    assert Verdict.FAIL not in verdicts(frozenset(range(596, 606)))


@pytest.mark.parametrize("weight", [0.05, 0.5])
def test_a_dead_canary_waits_for_a_few_cells_only(weight: float) -> None:
    canary = round(100 * weight)
    looks = [(0, 100 - canary, canary, canary)] * 10
    nats = canary * (1.0 - math.log2(weight)) * math.log(2)
    assert guarded(3 * nats, after(looks[:3])) < math.log(200)
    assert guarded(8 * nats, after(looks[:8])) > math.log(200)


def test_an_outage_of_both_arms_is_no_dead_canary() -> None:
    looks = [(95, 95, 5, 5)] * 100
    assert wealth.log_e(after(looks).dead) < 0.1


@pytest.mark.parametrize("always", [0.0, 0.02, 0.2])
@pytest.mark.parametrize("share", [0.0, 0.01, BURST_SHARE])
@pytest.mark.parametrize(
    "tolerance",
    [guard.NONE, Tolerance(2.0), Tolerance(1.0, 0.01), Tolerance(1.5, 0.005), Tolerance(20.0), Tolerance(1.0, 0.5)],
)
def test_cells_are_fair_bets_for_a_healthy_canary_with_bursts(
    always: float, share: float, tolerance: Tolerance
) -> None:
    """Mean of one cell's e-variable, arms lost to bursts in ``share`` of the cells, or as many as tolerated."""
    past = guard.ArmFailures(all_events=1e6 * always, all_trials=1e6)
    edge = tolerance.edge(share + (1.0 - share) * always)
    share_c = min(max((edge - always) / (1.0 - always), 0.0), 1.0)
    for index in range(len(DEAD_SHARES)):
        mean = 0.0
        for lost_s in (False, True):
            for lost_c in (False, True):
                chance = (share if lost_s else 1.0 - share) * (share_c if lost_c else 1.0 - share_c)
                arms = [_arm(past, events=100.0 * (1.0 if lost else always), trials=100.0) for lost in (lost_s, lost_c)]
                gains = guard._dead_gains(arms[0], arms[1], tolerance)  # noqa: SLF001  # the bet itself
                mean += chance * math.exp(gains[index])
        assert mean <= 1.0 + 1e-9


def test_a_burst_weighs_less_where_more_bursts_are_tolerated() -> None:
    calm = [(0, 95, 0, 5)] * 300
    looks = [*calm, (0, 95, 5, 5), (0, 95, 5, 5), (0, 95, 5, 5), *calm[:6]] * 6
    plain, twice = after(looks), after(looks, tolerance=Tolerance(2.0))
    assert clumping(plain.canary) == clumping(twice.canary) and twice.odds == 2.0
    # log 2 for a toss of a coin, log 1.5 where two of three may be the canary's; a failure alone log 20 and log 10.5.
    assert guarded(15.0 * math.log(10.5), twice) < 0.75 * guarded(15.0 * math.log(20.0), plain)
    assert evidence_cap.worth(twice.incidents, 300.0, 0.05) < evidence_cap.worth(plain.incidents, 300.0, 0.05)


def test_a_tolerated_difference_is_odds_by_stables_rate() -> None:
    """One point more beside a stable that fails 1 %: as many again. Beside one that never fails: three for nothing."""
    state = after([(1, 100, 0, 100)] * 1000, tolerance=Tolerance(1.0, 0.01))
    assert state.odds == pytest.approx(2.0, rel=0.01)
    for looks in (1, 5, 1000):
        state = after([(0, 100, 0, 100)] * looks, tolerance=Tolerance(1.0, 0.01))
        assert state.odds == pytest.approx(3.0)


def _arm(arm: guard.ArmFailures, **changes: float) -> guard.ArmFailures:
    return guard.ArmFailures(**{**{name: getattr(arm, name) for name in arm.__struct_fields__}, **changes})


@pytest.mark.parametrize(("burst_s", "pauses_harm"), [(0.3, False), (0.0, True)])
def test_the_judge_forgives_pauses_and_not_death(burst_s: float, pauses_harm: bool) -> None:
    """60 s of two healthy arms that pause by turns (the canary first), then the canary dies: seed 4."""
    rng = np.random.default_rng(4)
    spec = AnalysisSpec(burst_s=burst_s)
    state, convicted_s = fresh_state(spec), math.inf
    stable, canary = Counts(), Counts()
    for tick in range(700):
        second = tick / 10
        for arm, n, paused in (
            (stable, 190, 20 <= second % 30 < 20.3),
            (canary, 10, 5 <= second % 30 < 5.3 or second >= 60),
        ):
            arm.requests += n
            arm.enter("errors", n if paused else int(rng.binomial(n, 0.001)))
            arm.latency[100] = arm.latency.get(100, 0) + n
        entry = EpochCounts("r", 1, 500, stable.copy(), canary.copy())
        state, analysis = judge(spec, state, Evidence(second, (entry,)))
        if analysis.verdict is Verdict.FAIL:
            convicted_s = second
            break
    if pauses_harm:
        assert convicted_s < 5.5
    else:
        assert 60.0 <= convicted_s < 63.0
