"""Independent arithmetic says the same: scipy's exact tests at fixed n, and the definitions in rational numbers.

Theory. For a batch with the odds ratio as the only unknown, the conditional e-variable is the likelihood ratio of
Fisher's non-central hypergeometric distribution, so Markov's inequality puts 1/e above the exact p-value: Fisher's test
at fixed n must reject whatever an e-value rejects. The two-arm e-variable of one request per arm is that of Turner, Ly
and Gruenwald, whose values can be had from the plain definition in rational arithmetic.
"""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from scipy.stats import binomtest, fisher_exact

from gateway.core.analysis.betting import hypergeometric
from gateway.core.analysis.betting.eprocess import NOT_WORSE, Rates, TrialBatch, log_gain


@pytest.mark.parametrize("seed", range(3))
def test_no_e_value_rejects_what_fishers_exact_test_would_not(seed: int) -> None:
    rng = np.random.default_rng(seed)
    for _ in range(200):
        stable, canary = int(rng.integers(5, 2000)), int(rng.integers(5, 300))
        batch = TrialBatch(
            int(rng.binomial(stable, 0.05)), stable, int(rng.binomial(canary, rng.choice([0.05, 0.1, 0.4]))), canary
        )
        table = [
            [batch.canary_events, canary - batch.canary_events],
            [batch.stable_events, stable - batch.stable_events],
        ]
        p = fisher_exact(table, alternative="greater").pvalue
        for guess in (1.5, 4.0, 20.0):
            assert math.exp(-hypergeometric.log_gain(guess, batch)) >= p * (1.0 - 1e-9)


def test_the_two_arm_e_variable_is_the_ratio_of_its_definition_in_rational_numbers() -> None:
    """Turner, Ly and Gruenwald's formula for equal rates, exactly: the guess over the pooled rate."""
    stable, canary = Fraction(1, 50), Fraction(3, 10)
    batch = TrialBatch(3, 95, 4, 5)
    pooled = (95 * stable + 5 * canary) / 100
    exact = (
        (stable / pooled) ** 3
        * ((1 - stable) / (1 - pooled)) ** 92
        * (canary / pooled) ** 4
        * ((1 - canary) / (1 - pooled))
    )
    assert log_gain(Rates(0.02, 0.3), NOT_WORSE, batch) == pytest.approx(math.log(exact), rel=1e-13)


def test_one_sided_exact_binomial_agrees_where_all_failures_are_labels() -> None:
    """With rare events the label of each failure is a coin: e of the labels never beats the exact binomial test."""
    for canary_events in range(1, 12):
        batch = TrialBatch(8, 10**7, canary_events, 10**6)
        p = binomtest(canary_events, canary_events + 8, 1 / 11, alternative="greater").pvalue
        for guess in (2.0, 9.0, 55.0):
            assert math.exp(-hypergeometric.log_gain(guess, batch)) >= p * (1.0 - 1e-5)
