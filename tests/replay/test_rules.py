"""The rules that people run now, on sequences whose answer is known by hand."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from gateway.core.stats.counts import Counts
from gateway.core.stats.histogram import bucket_of
from gateway.replay import argo, flagger, kayenta
from gateway.replay.argo import ArgoParams
from gateway.replay.flagger import FlaggerParams
from gateway.replay.intervals import DecisionKind, Meter, RecordedInterval, RuleDecision, windows
from gateway.replay.kayenta import KayentaParams, Series
from gateway.replay.mann_whitney import shift

GOOD, BAD = 0, 20  # errors of 1000 canary requests: 100 % and 98 % success


def recorded(
    errors: list[int | None], *, every_s: float = 60.0, stable: int = 0, ms: int = 20
) -> Iterator[RecordedInterval]:
    """One interval for each number of canary errors of 1000; None has no canary request."""
    for index, many in enumerate(errors):
        requests = 0 if many is None else 1000
        canary = Counts(requests, {"errors": many or 0}, latency={bucket_of(ms * 1000): requests} if requests else {})
        since_s = 7.0 + index * every_s
        yield RecordedInterval(since_s, since_s + every_s, 1000, Counts(9000, {"errors": stable}), canary)


def at(check: int, every_s: float = 60.0) -> float:
    return 7.0 + check * every_s


# Flagger


@pytest.mark.parametrize(
    ("errors", "kind", "check"),
    [
        ([GOOD] * 20, DecisionKind.PROMOTE, 10),
        ([10] * 20, DecisionKind.PROMOTE, 10),  # 99.0 % is not under 99 %
        ([11] * 20, DecisionKind.ROLLBACK, 10),
        (
            [BAD, GOOD] * 20,
            DecisionKind.ROLLBACK,
            19,
        ),  # the counter of failures is cumulative: 10 of each, the failure first
        ([GOOD, BAD] * 20, DecisionKind.PROMOTE, 19),
        ([None] * 20, DecisionKind.ROLLBACK, 10),  # no traffic fails a check too
        ([GOOD] * 9, DecisionKind.UNDECIDED, None),
    ],
)
def test_flagger(errors: list[int | None], kind: DecisionKind, check: int | None) -> None:
    decision = flagger.decide(recorded(errors), FlaggerParams())
    assert (decision.kind, decision.at_s) == (kind, None if check is None else at(check))


def test_flagger_is_set_by_its_parameters() -> None:
    params = FlaggerParams(interval_s=120.0, threshold=2, max_weight=50.0, step_weight=20.0, success_percent_min=98.0)
    assert flagger.decide(recorded([BAD] * 20), params).at_s == at(6)  # three steps to 50 %, each of two intervals
    assert flagger.decide(recorded([21] * 20), params) == RuleDecision(
        DecisionKind.ROLLBACK, at(4), "2 failed checks (threshold 2), the last: success rate 97.90 % < 98 %"
    )
    slow = flagger.decide(recorded([GOOD] * 20, ms=501), FlaggerParams())
    assert slow.kind is DecisionKind.ROLLBACK and "> 500 ms" in slow.reason


# Argo Rollouts


@pytest.mark.parametrize(
    ("errors", "kind", "measurement"),
    [
        ([GOOD] * 20, DecisionKind.PROMOTE, 8),
        ([50] * 20, DecisionKind.PROMOTE, 8),  # 95 % is good enough
        ([51] * 20, DecisionKind.ROLLBACK, 4),  # three failures are allowed
        ([51, GOOD, 51, GOOD, 51, GOOD, GOOD, GOOD], DecisionKind.PROMOTE, 8),
        ([51, GOOD, 51, GOOD, 51, GOOD, GOOD, 51], DecisionKind.ROLLBACK, 8),
        ([None] * 20, DecisionKind.ROLLBACK, 5),  # four errors in succession are allowed
        ([None] * 4 + [GOOD] + [None] * 4 + [GOOD] * 7, DecisionKind.PROMOTE, 16),  # they do not count as measurements
        ([GOOD] * 7, DecisionKind.UNDECIDED, None),
    ],
)
def test_argo(errors: list[int | None], kind: DecisionKind, measurement: int | None) -> None:
    decision = argo.decide(recorded(errors, every_s=300.0), ArgoParams())
    assert (decision.kind, decision.at_s) == (kind, None if measurement is None else at(measurement, 300.0))


def test_argo_without_a_failure_limit_aborts_at_the_first() -> None:
    params = ArgoParams(failure_limit=0, success_rate_min=0.99, interval_s=60.0)
    assert argo.decide(recorded([GOOD, GOOD, BAD, GOOD]), params).at_s == at(3)


# Kayenta

FAST = KayentaParams(interval_s=600.0, lifetime_s=1800.0, points_min=10)


def alternating(low: int, high: int, many: int) -> list[int | None]:
    return [low if index % 2 else high for index in range(many)]


@pytest.mark.parametrize(
    ("errors", "kind", "minute"),
    [
        (alternating(18, 22, 40), DecisionKind.ROLLBACK, 10),  # 2 % against stable's 0.2 %: the first run sees it
        (alternating(1, 3, 40), DecisionKind.PROMOTE, 30),  # around stable's rate
        (alternating(0, 1, 40), DecisionKind.PROMOTE, 30),  # better is not worse
        ([2] * 40, DecisionKind.PROMOTE, 30),  # equal series
        ([3] * 40, DecisionKind.ROLLBACK, 10),  # two constants differ by any difference
        (
            [GOOD] * 10 + alternating(18, 22, 30),
            DecisionKind.ROLLBACK,
            30,
        ),  # the second run sees ten good points and ten bad ones
        ([2] * 29, DecisionKind.UNDECIDED, None),
        ([None] * 40, DecisionKind.UNDECIDED, None),
    ],
)
def test_kayenta(errors: list[int | None], kind: DecisionKind, minute: int | None) -> None:
    decision = kayenta.decide(recorded(errors, stable=18), FAST)
    assert (decision.kind, decision.at_s) == (kind, None if minute is None else at(minute)), decision.reason


def test_kayenta_by_default_runs_after_an_hour_and_ends_after_three() -> None:
    assert kayenta.decide(recorded([BAD] * 200, stable=18), KayentaParams()).at_s == at(60)
    assert kayenta.decide(recorded([2] * 200, stable=18), KayentaParams()).at_s == at(180)
    few = kayenta.decide(recorded([BAD] * 13, every_s=900.0, stable=18), KayentaParams())
    assert few.kind is DecisionKind.UNDECIDED and "12 points, 50 are required" in few.reason


def test_one_high_metric_of_two_is_below_marginal() -> None:
    series = [Series("errors"), Series("latency p99")]
    for index in range(50):
        series[0].add(index % 7, index % 7)
        series[1].add(100 + index % 5, 200 + index % 5)
    assert kayenta.judgement(series, KayentaParams()) == (50.0, "score 50 on 50 points (latency p99 High)")


def test_the_tolerance_is_a_share_of_the_shift() -> None:
    rng = np.random.default_rng(5)
    metric = Series("errors")
    for control, experiment in zip(rng.normal(10, 1, 60), rng.normal(11, 1, 60), strict=True):
        metric.add(control, experiment)
    found = shift(metric.experiment, metric.control, 0.98)
    assert 0 < found.low < found.estimate < found.high
    just = found.low / found.estimate
    assert kayenta.is_high(metric, KayentaParams(tolerance=just * 0.999))
    assert not kayenta.is_high(metric, KayentaParams(tolerance=just * 1.001))
    assert not kayenta.is_high(metric, KayentaParams(tolerance=0.0, allowed_increase=1.2))


# windows


def test_windows_fall_on_the_first_interval_at_or_after_each_multiple() -> None:
    assert [w.at_s - 7 for w in windows(recorded([0] * 12, every_s=25.0), 60.0)] == [75.0, 125.0, 200.0, 250.0, 300.0]
    sums = [(w.canary.requests, w.canary.of("errors")) for w in windows(recorded([1, 2, 3, 4, 5]), 120.0)]
    assert sums == [(2000, 3), (2000, 7)]
    assert len(list(windows(recorded([0] * 1000, every_s=0.1), 1.0))) == 100


def test_a_rule_reads_no_further_than_its_decision() -> None:
    meter = Meter(recorded([BAD] * 100))
    assert flagger.decide(meter, FlaggerParams()).at_s == meter.at_s == at(10)
    assert (meter.intervals, meter.canary_requests, meter.canary_errors) == (10, 10_000, 200)
