"""Every answer has a class, and the classes are declared once."""

from __future__ import annotations

import pytest

from gateway.config.analysis import AnalysisConfig, SharesConfig
from gateway.config.core_values import core_value
from gateway.core.analysis.evidence.trials import CLASS_TESTS
from gateway.core.analysis.spec import RATE_METRICS, AnalysisSpec, MetricShares
from gateway.core.stats import outcomes
from gateway.core.stats.outcomes import by_status

# From the RFCs (9110, 6585, 4918, ...), by hand: what the declaration is to say.
SINGLE = {
    101: "other_success",
    200: "ok",
    204: "no_content",
    205: "no_content",
    401: "unauthorized",
    403: "unauthorized",
    404: "not_found",
    407: "unauthorized",
    410: "not_found",
    429: "overload",
    503: "overload",
}
HUNDREDS = {2: "other_success", 3: "redirects", 4: "client_errors"}


@pytest.mark.parametrize("hundred", range(10))
def test_every_status_is_in_the_class_of_the_table(hundred: int) -> None:
    classes = by_status()
    for status in range(100 * hundred, 100 * hundred + 100):
        assert classes[status] == SINGLE.get(status, HUNDREDS.get(hundred, "errors")), status


def test_an_exempt_status_is_ok_and_no_other_changes() -> None:
    usual, exempt = by_status(), by_status((404, 302, 999))
    assert [status for status in range(1000) if exempt[status] != usual[status]] == [302, 404, 999]
    assert {exempt[status] for status in (302, 404, 999)} == {outcomes.OK}
    assert by_status() == usual, "what one route exempts is no other's"


def test_a_class_is_declared_wherever_it_is_needed() -> None:
    names = set(outcomes.NAMES)
    assert len(names) == len(outcomes.CLASSES) and outcomes.OK not in names
    assert names == set(RATE_METRICS) == {test.name for test in CLASS_TESTS}
    assert names == {name for name in AnalysisSpec.__struct_fields__ if name in names}
    assert names <= set(MetricShares.__struct_fields__)
    assert names <= set(AnalysisConfig.model_fields) and names <= set(SharesConfig.model_fields)
    assert set(outcomes.FAILURES) | set(outcomes.SUCCESSES) == names


def test_the_configurations_defaults_are_the_cores() -> None:
    assert AnalysisConfig().spec().rates == AnalysisSpec().rates
    assert core_value(SharesConfig(), MetricShares) == MetricShares()


def test_margins_that_a_rare_class_does_not_have_are_those_of_errors() -> None:
    spec = AnalysisConfig.model_validate(
        {"errors": {"margin_delta": 0.03, "tolerance_delta": 0.1}, "redirects": {"margin_delta": 0.2}}
    ).spec()
    assert (spec.not_found.margin_delta, spec.redirects.margin_delta, spec.client_errors.margin_delta) == (
        0.03,
        0.2,
        0.01,
    )
    assert spec.not_found.tolerance_delta == 0.0, "what may be worse is said of each class by itself"
