"""The evidence over time: a bounded number of points, whatever the length of a rollout."""

from __future__ import annotations

import dataclasses
import math
import zlib

import msgspec
import pytest

from gateway.control.decide.evidence_series import ENDED_MAX, POINTS_MAX, EvidenceSeries, SeriesLog
from gateway.control.decide.rollout_records import RolloutRecord
from gateway.control.show.distributions import _binned, distributions
from gateway.control.show.rates import RequestRates
from gateway.control.views import RolloutView
from gateway.core.analysis.types import Analysis, Finding, Verdict
from gateway.core.rollout import Plan, Rollout, Started, Step, step
from gateway.core.stats.histogram import bucket_of
from gateway.core.types import Variant


def a_view(rollout_id: str, log_e: float, events: int = 1, phase: str = "PROGRESSING", **details: float) -> RolloutView:
    rollout, _ = step(Rollout(), Started(rollout_id, "digits", "v1", "v2", Plan((Step(500),)), 0.0, "ada"))
    findings = (
        Finding("errors", Verdict.UNDECIDED, "", True, log_e, -math.inf, 0, 100, events, 10, details),
        Finding("overload", Verdict.UNDECIDED, "", True, 0.0, 1.0, 0, 100, 0, 10),
    )
    analysis = Analysis(Verdict.UNDECIDED, "", (), findings, log_e, 4.6, 3.0, 100, 10)
    view = RolloutRecord(rollout, analysis, 0.0, 0.0).view(rollout, analysis, 10)
    return dataclasses.replace(view, phase=phase)


def test_a_point_a_second_and_where_something_was_decided() -> None:
    log = SeriesLog()
    for tenth in range(31):
        log.take(a_view("r", tenth), 1000.0 + tenth / 10, decided=tenth == 5)
    assert log.series("r").at == (1000.0, 1000.5, 1001.5, 1002.5)
    (errors,) = log.series("r").metrics
    assert errors.metric == "errors" and errors.log_e_bad == (0.0, 5.0, 15.0, 25.0)
    assert errors.log_e_ok == (None,) * 4 and errors.effect == (0.1,) * 4


def test_days_are_as_small_as_minutes() -> None:
    log = SeriesLog()
    for second in range(0, 200_000, 10):
        log.take(a_view("r", second), float(second), decided=False)
    series = log.series("r")
    assert POINTS_MAX / 4 < len(series.at) <= POINTS_MAX and series.at == tuple(sorted(series.at))
    assert {len(series.metrics[0].log_e_bad), len(series.canary_percent), len(series.log_e_bad)} == {len(series.at)}
    assert series.at[-1] > 199_000 and series.every_s > 100


def test_a_metric_begins_with_its_first_event() -> None:
    log = SeriesLog()
    log.take(a_view("r", 0.0, events=0), 1.0, decided=False)
    log.take(a_view("r", 2.0, events=3, difference=0.3, difference_low=0.1, margin_high=0.01), 2.0, decided=False)
    (errors,) = log.series("r").metrics
    assert errors.log_e_bad == (None, 2.0) and errors.effect == (None, 0.3)
    assert (errors.low, errors.high, errors.margin_high) == ((None, 0.1), (None, None), (None, 0.01))


def test_old_rollouts_are_forgotten_and_running_ones_never() -> None:
    log = SeriesLog()
    log.take(a_view("running", 0.0), 0.0, decided=True)
    for number in range(ENDED_MAX + 20):
        log.take(a_view(f"ended-{number}", 0.0, phase="PROMOTED"), float(number), decided=True)
    assert log.series("running").at and log.series(f"ended-{ENDED_MAX + 19}").at
    assert not log.series("ended-0").at and not log.series("never").at


def test_a_restart_leaves_a_gap_and_loses_nothing() -> None:
    log = SeriesLog()
    for second in range(20):
        log.take(a_view("r", second, difference=0.1, difference_low=0.05), 1000.0 + second, decided=False)
    points = log.to_save("r", 1019.0)
    assert points is not None
    assert log.to_save("r", 1020.0) is None, "there is nothing new"
    log.take(a_view("r", 20.0), 1020.0, decided=False)
    assert log.to_save("r", 1020.0) is None and log.to_save("r", 1020.0, at_once=True) is not None
    after = SeriesLog()
    after.adopt("r", points)
    assert after.series("r") == SeriesLog.series(_only(log, 20), "r")
    after.take(a_view("r", 50.0), 1100.0, decided=False)
    series = after.series("r")
    assert series.at[-3:] == (1019.0, 1020.0, 1100.0) and series.log_e_bad[-3:] == (19.0, None, 50.0)
    assert series.metrics[0].log_e_bad[-3:] == (19.0, None, 50.0)
    after.take(a_view("r", 51.0, phase="ROLLED_BACK"), 1101.0, decided=True)
    assert after.to_save("r", 1101.0) is not None, "the end is written at once"


def _only(log: SeriesLog, points: int) -> SeriesLog:
    """The first points of the one series."""
    made = SeriesLog()
    for second in range(points):
        made.take(a_view("r", second, difference=0.1, difference_low=0.05), 1000.0 + second, decided=False)
    assert log.series("r").at[:points] == made.series("r").at
    return made


@pytest.mark.parametrize("stored", [b"", b"x", zlib.compress(b"x"), zlib.compress(msgspec.msgpack.encode([1.0]))])
def test_a_series_that_cannot_be_read_begins_anew(stored: bytes) -> None:
    log = SeriesLog()
    log.adopt("r", stored)
    assert log.series("r").at == ()


def test_columns_of_different_lengths_are_not_believed() -> None:
    log = SeriesLog()
    log.take(a_view("r", 1.0), 1000.0, decided=False)
    points = log.to_save("r", 1000.0)
    assert points is not None
    parts = msgspec.msgpack.decode(zlib.decompress(points))
    parts[2] += parts[2]
    assert EvidenceSeries.decode(zlib.compress(msgspec.msgpack.encode(parts))) is None


def test_bins_hold_all_and_end_on_the_ground() -> None:
    histogram = {bucket_of(us): 1 for us in range(1000, 9000, 7)}
    assert sum(_binned(histogram).values()) == sum(histogram.values())
    assert distributions("r", None).edges_us == ()


def test_a_rate_is_known_from_the_second_look_on() -> None:
    rates = RequestRates()
    assert rates.due(0.0) and rates.per_s("digits", Variant.CANARY) is None
    rates.take(0.0, {("digits", 0): 10, ("digits", 1): 0})
    assert not rates.due(1.0) and rates.per_s("digits", Variant.STABLE) is None
    rates.take(2.0, {("digits", 0): 510, ("digits", 1): 30})
    assert rates.per_s("digits", Variant.STABLE) == 250.0 and rates.per_s("digits", Variant.CANARY) == 15.0
    assert rates.per_s("new", Variant.CANARY) == 0.0
    rates.take(4.0, {("digits", 0): 3})
    assert rates.per_s("digits", Variant.STABLE) is None, "a counter that went back is no rate"
