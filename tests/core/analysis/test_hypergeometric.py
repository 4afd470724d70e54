"""The conditional e-variable: an exact bet, the same numbers as scipy's, and no trouble with large counts."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import hypergeom, nchypergeom_fisher

from gateway.core.analysis.betting.eprocess import TrialBatch
from gateway.core.analysis.betting.hypergeometric import log_gain, support

GUESSES = (1.2, 2.4, 9.0, 55.0, 300.0)


def outcomes(stable: int, canary: int, events: int) -> list[TrialBatch]:
    low, high = support(TrialBatch(events, stable, 0, canary))
    return [TrialBatch(events - y, stable, y, canary) for y in range(low, high + 1)]


@pytest.mark.parametrize(("stable", "canary"), [(1, 1), (7, 1), (3, 5), (40, 12), (12, 40), (70, 30)])
@pytest.mark.parametrize("null", [1.0, 1.5])
def test_the_bet_is_fair_at_the_null_and_unfair_below_it(stable: int, canary: int, null: float) -> None:
    """Sum over all outcomes given the totals: exactly 1 at the null, at most 1 below."""
    for events in range(0, stable + canary + 1, max(1, (stable + canary) // 12)):
        found = outcomes(stable, canary, events)
        for truth in (null, 0.7 * null, 0.1):
            weights = [
                math.comb(canary, b.canary_events)
                * math.comb(stable, b.stable_events)
                * Fraction(truth) ** b.canary_events
                for b in found
            ]
            whole = sum(weights)
            chances = [float(w / whole) for w in weights]
            for guess in GUESSES:
                gains = [math.exp(log_gain(guess, b, null)) for b in found]
                mean = math.fsum(c * g for c, g in zip(chances, gains, strict=True))
                assert mean <= 1.0 + 1e-12, (events, truth, guess)
                if truth == null:
                    assert mean == pytest.approx(1.0, abs=1e-12)


@given(st.integers(1, 3000), st.integers(1, 300), st.data())
@settings(max_examples=100, deadline=None)
def test_scipy_says_the_same(stable: int, canary: int, data: st.DataObject) -> None:
    batch = TrialBatch(data.draw(st.integers(0, stable)), stable, data.draw(st.integers(0, canary)), canary)
    whole, events = stable + canary, batch.stable_events + batch.canary_events
    central = hypergeom.logpmf(batch.canary_events, whole, events, canary)
    for guess in (1.2, 9.0):
        # Its logarithm is that of a double: below -700 few of its bits are left.
        raw = nchypergeom_fisher.logpmf(batch.canary_events, whole, events, canary, guess)
        if raw > -700.0 and central > -700.0:
            assert log_gain(guess, batch) == pytest.approx(raw - central, rel=1e-8, abs=1e-8)


@pytest.mark.parametrize(
    ("batch", "sign"),
    [
        (TrialBatch(10**5, 10**9, 10**6, 10**8), 1),
        (TrialBatch(10**7, 10**9, 10**6, 10**8), -1),
        (TrialBatch(0, 10**9, 3, 10), 1),
        (TrialBatch(10**9, 10**9, 0, 10**6), -1),
    ],
)
def test_large_counts_stay_finite_and_point_the_right_way(batch: TrialBatch, sign: int) -> None:
    gain = log_gain(3.0, batch)
    assert math.isfinite(gain) and gain * sign > 0


def test_plain_and_array_sums_agree_at_their_border() -> None:
    for events in range(100, 140):
        batch = TrialBatch(events, 500, 40, 200)
        values = [log_gain(guess, batch) for guess in np.linspace(1.1, 20.0, 30)]
        theirs = [
            nchypergeom_fisher.logpmf(40, 700, events + 40, 200, guess) - hypergeom.logpmf(40, 700, events + 40, 200)
            for guess in np.linspace(1.1, 20.0, 30)
        ]
        assert values == pytest.approx(theirs, rel=1e-7, abs=1e-8)


def test_totals_that_leave_no_choice_say_nothing() -> None:
    assert log_gain(9.0, TrialBatch(0, 50, 0, 5)) == 0.0
    assert log_gain(9.0, TrialBatch(50, 50, 5, 5)) == 0.0
    assert log_gain(0.5, TrialBatch(1, 50, 5, 5)) == 0.0
