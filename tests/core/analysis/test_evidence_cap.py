"""What incidents are worth: a fair bet against bursts of any size, and one burst is one incident."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.core.analysis.betting.eprocess import TrialBatch
from gateway.core.analysis.bursts import guard
from gateway.core.analysis.bursts.evidence_cap import SCATTER, SPARSE, Incidents, grow, worth

# 200 requests/s at 5 %: of the 60 that a burst meets three are the canary's.
MET, WEIGHT = 60.0, 0.05


def told(*cells: float, hit: float = MET, weight: float = WEIGHT, odds: float = 1.0) -> Incidents:
    so_far = Incidents()
    for events in cells:
        so_far = grow(so_far, events, hit, weight, odds)
    return so_far


@given(st.integers(1, 9), st.floats(SPARSE, 1e4), st.floats(0.01, 0.7), st.floats(0.01, 1.0), st.floats(1.0, 4.0))
@example(5, 60.0, 0.05, 0.35, 1.0)
@example(1, 468.0, 0.5, 0.01, 4.0)
def test_a_fair_bet_while_healthy_arms_toss_for_bursts(
    tosses: int, hit: float, weight: float, share: float, odds: float
) -> None:
    """Bursts strike both arms alike; the first ``tosses`` that show all fall to the canary, in every way they may."""
    mean = share * hit * weight
    single, none = mean * math.exp(-mean), math.exp(-mean)
    seen = odds * (1.0 - none) + 1.0 - math.exp(-share * hit * (1.0 - weight))
    total = 0.0
    for alone in range(tosses + 1):
        # Quiet cells between them: each is a incident of its own.
        cells = [1.0, 0.0] * alone + [2.0, 0.0] * (tosses - alone)
        chance = (odds * single / seen) ** alone * (odds * max(1.0 - none - single, 0.0) / seen) ** (tosses - alone)
        value = worth(told(*cells, hit=hit, weight=weight, odds=odds), hit, weight)
        if value > 0.0:  # what is worth nothing speaks for nobody: `worth` is never negative
            total += math.comb(tosses, alone) * chance * math.exp(value)
    assert total <= 1.0 + 1e-9


@given(
    st.lists(st.tuples(st.integers(0, 3), st.floats(0.0, 1e4), st.floats(1e-4, 1.0), st.floats(1.0, 50.0)), max_size=40)
)
@example([(1, 3.0, 0.5, 1.0), (2, 800.0, 0.5, 1.0)])
def test_chances_are_chances_however_traffic_and_weights_change(cells: list[tuple[int, float, float, float]]) -> None:
    so_far = Incidents()
    for events, hit, weight, odds in cells:
        so_far = grow(so_far, events, hit, weight, odds)
        assert max(so_far.log_null) <= 1e-9 and min(so_far.single, so_far.several) >= 0.0
        assert 0.0 <= worth(so_far, hit, weight) < math.inf


def test_neighbouring_cells_are_one_incident() -> None:
    assert told(1.0, 1.0, 0.0) == told(2.0, 0.0), "a burst that lies in two cells"
    assert told(2.0, 3.0, 0.0) == told(2.0, 0.0)
    assert told(1.0, 0.0, 1.0, 0.0).single == 2.0
    three = told(2.0, 1.0, 1.0, 0.0)
    assert (three.single, three.several) == (1.0, 1.0), "a burst lies in no more than two cells"


def test_single_failures_are_worth_more_where_a_burst_would_show_as_several() -> None:
    alone = [worth(told(*[1.0, 0.0] * n), MET, WEIGHT) for n in range(7)]
    together = [worth(told(*[3.0, 0.0] * n), MET, WEIGHT) for n in range(7)]
    mixed = worth(told(*[1.0, 0.0] * 3, *[3.0, 0.0] * 3), MET, WEIGHT)
    assert alone[0] == together[0] == 0.0
    assert all(a < b for a, b in itertools.pairwise(alone))
    assert together[6] < mixed < alone[6]
    # Under the null six in a row have a chance of 0.23^6 at most; betting on them beforehand costs two nats.
    assert alone[6] == pytest.approx(6.0 * 1.49 - 2.0, abs=0.2)
    assert together[6] < 6.0 * math.log(2.0)


def test_the_more_bursts_are_tolerated_the_less_each_is_worth() -> None:
    six = [1.0, 0.0] * 6
    assert worth(told(*six, odds=3.0), MET, WEIGHT) < 0.6 * worth(told(*six), MET, WEIGHT)


def test_where_bursts_meet_hardly_a_request_failures_are_worth_what_the_weight_says() -> None:
    assert worth(told(1.0, 1.0, 0.0, hit=0.9 * SPARSE), 0.9 * SPARSE, WEIGHT) == pytest.approx(
        2.0 * (math.log(20.0) + SCATTER)
    )
    assert worth(told(1.0, hit=SPARSE), SPARSE, WEIGHT) < 3.0


@pytest.mark.parametrize("idle", [0, 3000])
def test_traffic_in_bouts_is_as_dense_as_its_bouts(idle: int) -> None:
    """Two failures in bouts of 20 s at 200 requests/s: what lies between the bouts does not make them sparse."""
    calm, failing = [TrialBatch(0, 19, 0, 1)] * 100, [TrialBatch(0, 19, 1, 1)]
    looks = [*calm, *failing, *calm, *[TrialBatch(0, 0, 0, 0)] * idle] * 2
    state = guard.fresh()
    for index, look in enumerate(looks):
        state = guard.take(state, look, 0.1 * index, 0.3)
    assert 1.0 < guard.guarded(20.0, state) < 2.5
