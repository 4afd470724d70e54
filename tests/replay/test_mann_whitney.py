"""R's wilcox.test, as Kayenta's judge follows it: reference values of R, scipy's statistic, and steps of the statistic.

The samples and R's answers are those with which Kayenta tests itself against R (spinnaker/kayenta, MannWhitneySuite,
"tie out with R version" and "tie out intermediate variables"; Apache License 2.0). In R:

    wilcox.test(experiment, control, conf.int = TRUE, conf.level = 0.95, exact = FALSE)$conf.int
"""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from gateway.replay.kayenta import KayentaParams, Series, is_high
from gateway.replay.mann_whitney import root, score, shift

# How often each value occurs: the order of a sample says nothing.
CONTROL_95 = {1.5: 2, 2.0: 16, 2.5: 18, 3.0: 16, 3.5: 10, 4.0: 8, 4.5: 4, 5.0: 6, 5.5: 2, 6.0: 5, 8.0: 1}
CONTROL_95 |= {15.5: 1, 54.5: 1}
EXPERIMENT_95 = {1.5: 9, 2.0: 16, 2.5: 22, 3.0: 17, 3.5: 9, 4.0: 5, 4.5: 1, 5.0: 3, 5.5: 1, 6.0: 2, 6.5: 2, 7.0: 1}
EXPERIMENT_95 |= {7.5: 1, 16.5: 1}
CONTROL_98 = {0.0: 1, 0.5: 7, 1.0: 32, 1.5: 70, 2.0: 33, 2.5: 22, 3.0: 6, 3.5: 2, 4.0: 3, 4.5: 1, 5.5: 1, 7.0: 1}
CONTROL_98 |= {7.5: 1}
EXPERIMENT_98 = {0.5: 20, 1.0: 41, 1.5: 67, 2.0: 37, 2.5: 3, 3.0: 2, 3.5: 3, 4.0: 1, 5.0: 1, 5.5: 3, 8.5: 1, 19.0: 1}
MOSTLY_ZERO = {
    0.0: 146,
    1.234567901234584: 1,
    1.3333333333333286: 1,
    1.3513513513513544: 1,
    1.3698630136986196: 1,
    1.3888888888888857: 1,
    1.4285714285714164: 2,
    1.4285714285714448: 1,
    1.4492753623188293: 1,
    1.470588235294116: 1,
    1.5151515151515156: 2,
    1.5625: 2,
    1.5625000000000142: 1,
    1.5873015873015817: 1,
    1.6129032258064484: 1,
    1.6393442622950687: 2,
    1.6666666666666572: 2,
    1.6666666666666714: 1,
    1.6949152542372872: 1,
    1.7241379310344769: 2,
    1.7543859649122737: 1,
    1.754385964912288: 1,
    1.7857142857142776: 1,
    1.818181818181813: 4,
    1.8518518518518476: 3,
    1.8518518518518619: 2,
    1.8867924528301785: 1,
    1.8867924528301927: 2,
    1.9230769230769198: 1,
    1.9607843137255117: 2,
    2.0000000000000284: 1,
    2.040816326530603: 2,
    2.439024390243887: 1,
    2.564102564102555: 1,
    2.702702702702709: 1,
    2.8169014084507182: 1,
    2.985074626865682: 1,
    3.0303030303030454: 1,
    3.125000000000014: 1,
    3.1746031746031633: 1,
    3.225806451612911: 1,
    3.333333333333343: 2,
    3.3898305084745743: 1,
    3.4482758620689538: 1,
    3.5714285714285836: 1,
    3.703703703703681: 1,
    4.081632653061206: 1,
    4.1095890410959015: 1,
    5.555555555555557: 1,
}
ALMOST_ALL_ZERO = {
    0.0: 193,
    1.3888888888888857: 1,
    1.470588235294116: 1,
    1.492537313432834: 3,
    1.5384615384615614: 1,
    1.5625000000000142: 1,
    1.5873015873015817: 1,
    1.6393442622950687: 1,
    1.6949152542373014: 1,
    1.7241379310344769: 1,
    1.754385964912288: 1,
    1.7857142857142776: 1,
    1.8518518518518619: 1,
    2.5000000000000284: 1,
    2.9850746268656536: 1,
    3.124999999999986: 1,
}
TIGHT = 1e-6


def sample(counts: dict[float, int]) -> list[float]:
    return [value for value, times in counts.items() for _ in range(times)]


@pytest.mark.parametrize(
    ("experiment", "control", "confidence", "low", "high"),
    [
        (EXPERIMENT_95, CONTROL_95, 0.95, -0.500002521696696, -3.486287505871302e-5),
        (EXPERIMENT_98, CONTROL_98, 0.98, -0.4999173250549087, -6.912685789769486e-6),
        (MOSTLY_ZERO, ALMOST_ALL_ZERO, 0.95, 3.521755377702165e-5, 2.02456461662334e-5),
    ],
)
def test_the_limits_are_those_of_r(
    experiment: dict[float, int], control: dict[float, int], confidence: float, low: float, high: float
) -> None:
    found = shift(sample(experiment), sample(control), confidence)
    assert (found.low, found.high) == (pytest.approx(low, abs=TIGHT), pytest.approx(high, abs=TIGHT))


def test_the_values_on_the_way_to_the_limits_are_those_of_r() -> None:
    x, y = np.array(sample(MOSTLY_ZERO)), np.array(sample(ALMOST_ALL_ZERO))
    smallest, largest, z = x.min() - y.max(), x.max() - y.min(), stats.norm.ppf(0.975)
    assert (smallest, largest) == (pytest.approx(-3.124999999999986), pytest.approx(5.555555555555557))
    assert score(x - smallest, y) - z == pytest.approx(17.090968923762254, abs=TIGHT)
    assert score(x - largest, y) - z == pytest.approx(-20.997687930433106, abs=TIGHT)
    assert score(x - smallest, y) + z == pytest.approx(21.01089689284236, abs=TIGHT)
    assert score(x - largest, y) + z == pytest.approx(-17.077759961353, abs=TIGHT)
    assert shift(list(x), list(y), 0.95).estimate == pytest.approx(2.6279243045155653e-5, abs=TIGHT)


@pytest.mark.parametrize("seed", range(8))
def test_the_statistic_is_that_of_scipy(seed: int) -> None:
    rng = np.random.default_rng(seed)
    # Error rates of small counts: mostly 0, and tied.
    x, y = rng.binomial(60, 0.01, 70) / 60, rng.binomial(60, 0.004, 50) / 60
    expected = stats.mannwhitneyu(x, y, alternative="two-sided", method="asymptotic")
    assert 2.0 * stats.norm.sf(abs(score(x, y))) == pytest.approx(expected.pvalue, abs=1e-12), f"seed {seed}"


@pytest.mark.parametrize("seed", range(8))
def test_without_ties_a_limit_is_a_difference_at_which_the_test_turns(seed: int) -> None:
    rng = np.random.default_rng(seed)
    x, y = rng.normal(1.0, 1.0, 25), rng.normal(0.0, 1.0, 30)
    low, high = shift(list(x), list(y), 0.95)[::2]
    for limit in (low, high):
        values = [
            stats.mannwhitneyu(x - limit - nudge, y, alternative="two-sided", method="asymptotic").pvalue
            for nudge in (-1e-4, 1e-4)
        ]
        assert min(values) <= 0.05 <= max(values), f"seed {seed}"


def test_a_smooth_root_is_found_within_the_tolerance() -> None:
    for low, high, f in ((0.0, 3.0, lambda x: 2.0 - x * x), (-1.0, 4.0, lambda x: 1.0 - np.exp(x))):
        found = root(f, low, high, f(low), f(high))
        assert abs(f(found)) < 3e-4 and f(found - 1e-4) > 0.0 > f(found + 1e-4)
    assert root(lambda x: -x, 0.0, 1.0, 0.0, -1.0) == 0.0
    assert root(lambda x: 1.0 - x, 0.0, 1.0, 1.0, 0.0) == 1.0


def test_a_canary_that_fails_more_often_is_high_also_where_most_points_are_zero() -> None:
    # 180 points of 60 requests each, most of them without an error: the limit lies beside the step at 0, and so does
    # the estimate that it is compared with.
    high = {0.012: 0, 0.004: 0}
    for seed in range(30):
        rng = np.random.default_rng(seed)
        for rate in high:
            metric = Series("errors")
            for control, experiment in zip(rng.binomial(60, 0.004, 180), rng.binomial(60, rate, 180), strict=True):
                metric.add(control / 60, experiment / 60)
            high[rate] += is_high(metric, KayentaParams())
    assert high[0.012] >= 20 and high[0.004] <= 1, high
