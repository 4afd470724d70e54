"""What misfortunes are worth: a fair bet against bursts of any size, and one burst is one misfortune."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.core.analysis.misfortunes import SHARES, SPARSE, Misfortunes, believe, grow, worth


def told(*cells: float, mean_s: float = 60.0, mean_c: float = 3.0, odds: float = 1.0) -> Misfortunes:
    so_far = Misfortunes()
    for events in cells:
        so_far = grow(so_far, events, mean_s, mean_c, odds)
    return so_far


@given(st.integers(1, 9), st.floats(0.05, 30.0), st.floats(2.0, 300.0), st.sampled_from(SHARES), st.floats(1.0, 4.0))
@example(5, 3.0, 57.0, 0.3, 1.0)
def test_a_fair_bet_while_healthy_arms_toss_for_bursts(
    tosses: int, mean_c: float, mean_s: float, share: float, odds: float
) -> None:
    """Bursts strike both arms alike; the first ``tosses`` that show all fall to the canary, in every way they may."""
    met = share * mean_c
    single, none = met * math.exp(-met), math.exp(-met)
    seen = odds * (1.0 - none) + 1.0 - math.exp(-share * mean_s)
    mean = 0.0
    for alone in range(tosses + 1):
        # Quiet cells between them: each is a misfortune of its own.
        cells = [1.0, 0.0] * alone + [2.0, 0.0] * (tosses - alone)
        chance = (odds * single / seen) ** alone * (odds * (1.0 - none - single) / seen) ** (tosses - alone)
        value = worth(told(*cells, mean_s=mean_s, mean_c=mean_c, odds=odds), mean_c)
        mean += math.comb(tosses, alone) * chance * math.exp(value)
    assert mean <= 1.0 + 1e-9


def test_neighbouring_cells_are_one_misfortune() -> None:
    assert told(1.0, 1.0, 0.0) == told(2.0, 0.0), "a burst that two cells share"
    assert told(2.0, 3.0, 0.0) == told(2.0, 0.0)
    assert told(1.0, 0.0, 1.0, 0.0).single == 2.0
    three = told(2.0, 1.0, 1.0, 0.0)
    assert (three.single, three.several) == (1.0, 1.0), "a burst lies in no more than two cells"


def test_single_failures_are_worth_more_where_a_burst_would_show_as_several() -> None:
    """200 requests/s at 5 % of which a burst takes all: three of the canary's."""
    alone = [worth(told(*[1.0, 0.0] * n), 3.0) for n in range(7)]
    together = [worth(told(*[3.0, 0.0] * n), 3.0) for n in range(7)]
    mixed = worth(told(*[1.0, 0.0] * 3, *[3.0, 0.0] * 3), 3.0)
    assert alone[0] == together[0] == 0.0
    assert all(a < b for a, b in itertools.pairwise(alone))
    assert together[6] < mixed < alone[6]
    # Under the null six in a row have a chance of 0.23^6 at most; betting on them beforehand costs two nats.
    assert alone[6] == pytest.approx(6.0 * 1.49 - 2.0, abs=0.2)
    assert together[6] < 6.0 * math.log(2.0)


def test_the_more_bursts_are_tolerated_the_less_each_is_worth() -> None:
    assert worth(told(*[1.0, 0.0] * 6, odds=3.0), 3.0) < 0.6 * worth(told(*[1.0, 0.0] * 6), 3.0)


def test_where_bursts_meet_hardly_a_request_all_is_believed() -> None:
    sparse = told(1.0, 1.0, 0.0, mean_s=0.5 * SPARSE, mean_c=0.4 * SPARSE)
    assert worth(sparse, 0.8) >= 40.0 and sparse == believe(Misfortunes(), 2.0)
    assert worth(told(1.0, mean_s=0.5 * SPARSE, mean_c=0.6 * SPARSE), 1.2) < 2.0
