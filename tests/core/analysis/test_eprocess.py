"""The e-variable's promise, by brute force: over every null, its mean never exceeds 1."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar

from gateway.core.analysis.betting.eprocess import (
    NOT_WORSE,
    Null,
    Rates,
    TrialBatch,
    at_most_ratio,
    at_most_shift,
    clip,
    from_log_odds,
    log_gain,
    log_odds,
    worse_by_margin,
)
from gateway.core.analysis.metrics.rates import bad_guesses, ok_guesses
from gateway.core.analysis.types import RateSpec

MARGINS = [(1.5, 0.01), (1.0, 0.01), (1.5, 0.0), (1.0, 0.0), (1.001, 0.05), (50.0, 0.5), (3.0, 0.9)]
STABLE = [1e-7, 1e-4, 0.002, 0.01, 0.05, 0.3, 0.5, 0.9, 0.999, 1 - 1e-7]
WEIGHTS = [0.0001, 0.01, 0.05, 0.25, 0.5, 0.9, 0.9999]
GRID = [0.0, 1e-6, 1e-4, 1e-3, 0.01, 0.02, 0.05, 0.1, 0.25, 0.4, 0.5, 0.6, 0.75, 0.9, 0.95, 0.99, 0.999, 1.0]


def mean(guess: Rates, null: Null, truth: Rates, stable: int, canary: int) -> float:
    """The exact mean of e given the arms' sizes: a sum over all outcomes of both arms."""
    total = 0.0
    for a, b in itertools.product(range(stable + 1), range(canary + 1)):
        chance = math.comb(stable, a) * truth.stable**a * (1 - truth.stable) ** (stable - a)
        chance *= math.comb(canary, b) * truth.canary**b * (1 - truth.canary) ** (canary - b)
        if chance:
            total += chance * math.exp(log_gain(guess, null, TrialBatch(a, stable, b, canary)))
    return total


def inside(kind: str, parameter: tuple[float, float], truth: Rates) -> bool:
    s, c = truth
    ratio, shift = parameter
    return {
        "not worse": c <= s,
        "at most ratio": c <= ratio * s,
        "at most shift": c <= s + shift,
        "worse by margin": c >= max(ratio * s, s + shift),
    }[kind]


def nulls() -> list[tuple[str, tuple[float, float], Null]]:
    out: list[tuple[str, tuple[float, float], Null]] = [("not worse", (1.0, 0.0), NOT_WORSE)]
    for ratio, shift in MARGINS:
        out.append(("at most ratio", (ratio, shift), at_most_ratio(ratio)))
        out.append(("at most shift", (ratio, shift), at_most_shift(shift)))
        out.append(("worse by margin", (ratio, shift), worse_by_margin(ratio, shift)))
    return out


@pytest.mark.parametrize(("kind", "parameter", "null"), nulls(), ids=lambda value: str(value)[:40])
def test_the_corners_span_the_null(kind: str, parameter: tuple[float, float], null: Null) -> None:
    for truth in itertools.starmap(Rates, itertools.product(GRID, GRID)):
        if inside(kind, parameter, truth):
            for along in range(64):
                angle = along * math.pi / 32
                dx, dy = math.cos(angle), math.sin(angle)
                furthest = max(dx * corner.stable + dy * corner.canary for corner in null.corners)
                assert dx * truth.stable + dy * truth.canary <= furthest + 1e-12, (truth, null.corners)


@pytest.mark.parametrize("stable", STABLE)
def test_every_guess_of_the_grids_has_mean_at_most_one_over_its_null(stable: float) -> None:
    checked = 0
    cases = [("not worse", (1.0, 0.0), NOT_WORSE, guess) for guess in bad_guesses(stable)]
    for ratio, shift in MARGINS:
        spec = RateSpec(margin_ratio=ratio, margin_delta=shift)
        null = worse_by_margin(ratio, shift)
        cases += [("worse by margin", (ratio, shift), null, guess) for guess in ok_guesses(stable, spec)]
    for kind, parameter, null, pair in cases:
        guess = Rates(*pair)
        for corner, (n_s, n_c) in itertools.product(null.corners, ((19, 1), (3, 3), (1, 9))):
            assert mean(guess, null, corner, n_s, n_c) <= 1 + 1e-12, (kind, parameter, guess, corner)
        for truth in itertools.starmap(Rates, itertools.product(GRID, GRID)):
            if inside(kind, parameter, truth):
                assert mean(guess, null, truth, 1, 1) <= 1 + 1e-12, (kind, parameter, guess, truth)
                checked += 1
    assert checked > 1000


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(range(len(nulls()))),
    st.floats(-16, 16),
    st.floats(-16, 16),
    st.integers(1, 4),
    st.integers(1, 4),
    st.floats(0, 1),
    st.floats(0, 1),
)
def test_any_guess_has_mean_at_most_one_over_its_null(
    which: int, stable: float, canary: float, n_s: int, n_c: int, p_s: float, p_c: float
) -> None:
    kind, parameter, null = nulls()[which]
    truth = Rates(p_s, p_c)
    if inside(kind, parameter, truth):
        guess = Rates(from_log_odds(stable), from_log_odds(canary))
        assert mean(guess, null, truth, n_s, n_c) <= 1 + 1e-12
    for corner in null.corners:
        assert mean(Rates(from_log_odds(stable), from_log_odds(canary)), null, corner, n_s, n_c) <= 1 + 1e-12


def divergence(a: float, b: float) -> float:
    return a * math.log(a / b) + (1 - a) * math.log((1 - a) / (1 - b))


@pytest.mark.parametrize(("ratio", "shift"), MARGINS)
@pytest.mark.parametrize("weight", WEIGHTS)
def test_the_projection_is_the_nearest_point_of_the_margin_null(ratio: float, shift: float, weight: float) -> None:
    null = worse_by_margin(ratio, shift)
    for s, u in itertools.product((0.001, 0.01, 0.03, 0.2, 0.6), (0.1, 0.5, 0.95)):
        guess = Rates(s, u * min(max(ratio * s, s + shift), 0.999))
        got = Rates(*null.project(guess, weight))

        def distance(q_s: float, guess: Rates = guess) -> float:
            q_c = max(ratio * q_s, q_s + shift, guess.canary)
            return (1 - weight) * divergence(guess.stable, q_s) + weight * divergence(guess.canary, q_c)

        end = min(1 / ratio, 1 - shift)
        best = minimize_scalar(distance, bounds=(1e-12, end - 1e-12), method="bounded", options={"xatol": 1e-14})
        assert distance(got.stable) <= best.fun * (1 + 1e-6) + 1e-12, (guess, got, best.x)


def test_a_guess_inside_the_null_bets_nothing() -> None:
    assert log_gain(Rates(0.1, 0.05), NOT_WORSE, TrialBatch(5, 10, 5, 10)) == 0.0
    assert log_gain(Rates(0.1, 0.5), worse_by_margin(1.5, 0.01), TrialBatch(5, 10, 5, 10)) == 0.0


@pytest.mark.parametrize("stable", [0.0, 1e-6, 0.01, 0.5, 1.0])
@pytest.mark.parametrize("events", [(0, 0), (0, 10**9), (10**9, 0), (10**9, 10**9), (10**6, 1)])
def test_a_billion_counts_stay_finite(stable: float, events: tuple[int, int]) -> None:
    batch = TrialBatch(events[0], 10**9, events[1], 10**9)
    for guess in bad_guesses(clip(stable)):
        assert math.isfinite(log_gain(guess, NOT_WORSE, batch))
    for guess in ok_guesses(clip(stable), RateSpec()):
        assert math.isfinite(log_gain(guess, worse_by_margin(1.5, 0.01), batch))


@given(st.floats(-16, 16))
def test_log_odds_and_rates_are_inverse(value: float) -> None:
    assert log_odds(from_log_odds(value)) == pytest.approx(value, rel=1e-6, abs=1e-9)
