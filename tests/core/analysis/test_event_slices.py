"""Bets on slices of labelled events: no mean over one whatever a slice holds, on the edge of every null."""

from __future__ import annotations

import itertools
import math

import pytest

from gateway.core.analysis.evidence.trials import PooledTrials
from gateway.core.analysis.metrics.event_slices import (
    LAMBDAS,
    OK_PRIORS,
    EventSlicesState,
    _shares,
    bad_gains,
    fresh,
    ok_gains,
    take,
)
from gateway.core.analysis.spec import EventSpec, RateSpec

PARAMETERS = [(1.0, 0.0), (1.5, 0.0), (1.0, 0.1), (1.5, 0.1), (4.0, 0.5)]
CORNERS = [0.0, 0.25, 0.5, 0.75, 1.0]


def two_points() -> list[tuple[tuple[float, float], tuple[float, float], float]]:
    """Slices that are one of two (S, C) pairs, dependent as you like, with a probability of the first."""
    pairs = list(itertools.product(CORNERS, CORNERS))
    return [(a, b, p) for a, b in itertools.product(pairs, pairs) for p in (0.0, 0.1, 0.5, 0.9)]


@pytest.mark.parametrize(("ratio", "delta"), PARAMETERS)
def test_every_bet_has_a_mean_of_at_most_one_over_its_null(ratio: float, delta: float) -> None:
    spec = RateSpec(margin_ratio=ratio, margin_delta=delta, tolerance_ratio=ratio, tolerance_delta=delta)
    checked = [0, 0]
    for a, b, p in two_points():
        stable = p * a[0] + (1 - p) * b[0]
        canary = p * a[1] + (1 - p) * b[1]
        edge = max(ratio * stable, stable + delta)
        for nulls, gains, index in ((canary <= edge, bad_gains, 0), (canary >= edge, ok_gains, 1)):
            if not nulls:
                continue
            means = [
                p * math.exp(x) + (1 - p) * math.exp(y) for x, y in zip(gains(spec, *a), gains(spec, *b), strict=True)
            ]
            assert max(means) <= 1 + 1e-12, (a, b, p)
            checked[index] += 1
    assert min(checked) > 100


@pytest.mark.parametrize(("ratio", "delta"), PARAMETERS)
def test_no_slice_ever_ruins_a_bet(ratio: float, delta: float) -> None:
    spec = RateSpec(margin_ratio=ratio, margin_delta=delta, tolerance_ratio=ratio, tolerance_delta=delta)
    for stable, canary in itertools.product(CORNERS, CORNERS):
        found = [*bad_gains(spec, stable, canary), *ok_gains(spec, stable, canary)]
        assert len(found) == len(LAMBDAS) + len(OK_PRIORS)
        assert all(math.isfinite(gain) for gain in found)


def test_a_ramp_between_epochs_does_not_speak_against_the_canary() -> None:
    # 1 % while events are rare, 50 % while they are common: pooled shares would differ by a factor of two.
    stable, canary = _shares([PooledTrials(990, 10, (99,), (1,)), PooledTrials(500, 500, (450,), (450,))])
    assert stable == pytest.approx(canary)


def test_a_clock_that_went_backwards_only_makes_the_slice_longer() -> None:
    spec = EventSpec("x", slice_s=1.0)
    state: EventSlicesState = fresh(spec)
    state = take(state, spec, [], [1], 100.0)
    assert take(state, spec, [], [1], 0.5).slices == 0
    assert take(state, spec, [], [1], 200.0).slices == 0
