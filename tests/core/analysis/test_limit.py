"""The information limit: the numbers that are published, the three nulls, and its edges."""

from __future__ import annotations

import itertools
import math

import pytest
from scipy.optimize import minimize_scalar

from gateway.core.analysis.betting.eprocess import NOT_WORSE, Null, Rates, at_most_ratio, at_most_shift, worse_by_margin
from gateway.core.analysis.sizing.limit import divergence, information, requests_at_limit
from gateway.core.errors import InvalidValueError

WEIGHTS = (0.01, 0.05, 0.1, 0.25, 0.5)


@pytest.mark.parametrize(
    ("truth", "requests"),
    [
        (Rates(0.001, 0.01), (33_681, 7_495, 4_238, 2_382, 2_145)),
        (Rates(0.01, 0.02), (119_204, 25_129, 13_448, 6_714, 5_341)),
        (Rates(0.01, 0.05), (11_373, 2_457, 1_350, 719, 615)),
        (Rates(0.01, 0.5), (305, 74, 44, 26, 24)),
    ],
)
def test_requests_at_the_limit_of_equal_rates_agree_to_the_digit(truth: Rates, requests: tuple[int, ...]) -> None:
    assert tuple(round(requests_at_limit(truth, NOT_WORSE, w, 0.01)) for w in WEIGHTS) == requests


@pytest.mark.parametrize(
    ("null", "line"),
    [
        (at_most_ratio(1.5), lambda q: 1.5 * q),
        (at_most_shift(0.01), lambda q: q + 0.01),
        (worse_by_margin(1.5, 0.01), lambda q: max(1.5 * q, q + 0.01)),
    ],
)
def test_it_is_the_least_divergence_along_the_border_of_the_null(null: Null, line: object) -> None:
    assert callable(line)
    better = null.corners[0].canary == 1.0
    for s, w in itertools.product((0.002, 0.01, 0.1), WEIGHTS):
        truth = Rates(s, s) if better else Rates(s, 4 * s + 0.02)

        def cost(q: float, truth: Rates = truth, w: float = w) -> float:
            return (1 - w) * divergence(truth.stable, q) + w * divergence(truth.canary, line(q))

        best = minimize_scalar(cost, bounds=(1e-9, 0.6), method="bounded", options={"xatol": 1e-13})
        assert information(truth, null, w) == pytest.approx(best.fun, rel=1e-6)


def test_inside_the_null_nothing_can_be_shown() -> None:
    assert information(Rates(0.02, 0.01), NOT_WORSE, 0.1) == 0.0
    assert requests_at_limit(Rates(0.02, 0.02), NOT_WORSE, 0.1, 0.01) == math.inf
    assert requests_at_limit(Rates(0.02, 0.2), worse_by_margin(1.5, 0.01), 0.1, 0.01) == math.inf


def test_certain_rates_have_a_limit_too() -> None:
    # A dead canary beside a clean stable: the entropy of the coin.
    entropy = -0.05 * math.log(0.05) - 0.95 * math.log(0.95)
    assert information(Rates(0.0, 1.0), NOT_WORSE, 0.05) == pytest.approx(entropy)
    assert divergence(1.0, 0.0) == divergence(0.5, 1.0) == math.inf


@pytest.mark.parametrize("bad", [math.nan, -0.1, 1.1])
def test_what_is_no_rate_weight_or_alpha_is_refused(bad: float) -> None:
    with pytest.raises(InvalidValueError, match="canary rate"):
        information(Rates(0.1, bad), NOT_WORSE, 0.1)
    with pytest.raises(InvalidValueError, match="weight"):
        information(Rates(0.1, 0.2), NOT_WORSE, bad)
    with pytest.raises(InvalidValueError, match="alpha"):
        requests_at_limit(Rates(0.1, 0.2), NOT_WORSE, 0.1, bad)
