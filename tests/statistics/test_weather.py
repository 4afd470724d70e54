"""Everyday weather: what the engine cannot bear yet, and a candidate that learns stable's bad moments."""

from __future__ import annotations

import numpy as np
import pytest

from gateway.core.analysis.betting.eprocess import Rates
from loadtests.statistics import weather
from loadtests.statistics.bursts import TICK_S
from loadtests.statistics.detection import Floats
from loadtests.statistics.moments import StablePast
from loadtests.statistics.weather import World


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weather, "PAST_S", 120.0)
    monkeypatch.setattr(weather, "LENGTH_S", 60.0)


def test_moments_of_seconds_convict_the_healthy_and_not_by_the_candidate() -> None:
    row = weather.healthy(World("often", 60.0, 1.0, 3.0), 200.0, 0.2, 20, np.random.default_rng(4))
    assert row.alarms >= 5 and row.alarms_by_moments <= 2, row


def test_the_candidate_convicts_the_dead_within_seconds() -> None:
    row = weather.worse(Rates(0.002, 1.0), 2000.0, 0.05, 0.0, 5, np.random.default_rng(4))
    assert row.mean_s_by_requests < row.mean_s_by_moments < 3.0, row


def test_an_outage_of_both_convicts_nobody() -> None:
    began = round((weather.PAST_S + 5.0) / TICK_S)

    def both(tick: int) -> Floats:
        return np.full(10, 0.6 if began <= tick < began + 30 else 0.002)

    for found in weather.simulate((both, both), 200.0, 0.2, 15.0, 10, np.random.default_rng(4)):
        assert not np.isfinite(found).any()


def test_stable_teaches_how_often_it_fails_and_for_how_long() -> None:
    rng, ticks = np.random.default_rng(4), 2400
    past, schedule = StablePast(8), World("often", 5.0, 0.3, 0.3).schedule(rng, 8, ticks)
    for tick in range(ticks):
        trials = rng.poisson(20.0, 8)
        past.take(trials.astype(float), rng.binomial(trials, schedule(tick)).astype(float), TICK_S)
    starts_per_s, length_s = float(past.starts_per_s().sum(axis=0).mean()), float(past.length_s()[-1].mean())
    assert 0.15 < starts_per_s < 0.3 and 0.15 < length_s < 0.45, (starts_per_s, length_s)
    assert past.rate.max() < 0.004
