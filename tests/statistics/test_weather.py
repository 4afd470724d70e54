"""Everyday weather: what is learnt from stable's past holds where nothing else does, and is the engine's own."""

from __future__ import annotations

import math

import numpy as np
import pytest

from gateway.core.analysis import RateSpec
from gateway.core.analysis.betting.eprocess import Rates
from gateway.core.analysis.bursts import trimmed
from gateway.core.analysis.bursts.past import Weather
from gateway.core.analysis.evidence.intake import Arrival
from gateway.core.analysis.metrics import outcomes, rates
from gateway.core.stats import Counts
from loadtests.statistics import weather
from loadtests.statistics.bursts import TICK_S, Guard
from loadtests.statistics.detection import Floats
from loadtests.statistics.weather import QUIET, World


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weather, "PAST_S", 600.0)
    monkeypatch.setattr(weather, "PASTS", 2)
    monkeypatch.setattr(weather, "LENGTH_S", 30.0)
    weather.weathers.cache_clear()


def test_the_arrays_do_what_the_engine_does() -> None:
    """Three rollouts, 20 s each: the same evidence is believed at each look."""
    rng, one, needed = np.random.default_rng(3), RateSpec(), math.log(200.0)
    known = [Weather(3600.0), Weather(3600.0, 12.0, 2.0, 3.2, 40.0), Weather(3600.0, 700.0, 0.4, 0.6, 0.1)]
    arrays, guard = weather.Trimming(needed, known), Guard(3)
    states = [rates.fresh(1)] * 3
    for tick in range(1, 201):
        trials = rng.poisson((16, 4), (3, 2))
        events = rng.binomial(trials, [0.005, 0.5 if 50 < tick <= 65 else 0.03])
        counts = np.stack([events[:, 0], trials[:, 0], events[:, 1], trials[:, 1]], axis=1)
        guard.take(counts.astype(float))
        arrays.look(counts.astype(float), tick * TICK_S, guard)
        for i, (xs, ns, xc, nc) in enumerate(counts.tolist()):
            new = Arrival(1, Counts(ns, {"errors": xs}), Counts(nc, {"errors": xc}))
            at_s, told = tick * TICK_S, {"errors": known[i]}
            # `errors` alone: the first of the classes.
            states[i] = outcomes.take(states[i], (one,), [new], [1], (needed,), at_s, burst_s=0.3, weather=told)
            if math.isinf(arrays.convicted_s[i]) and not trimmed.sparse(arrays.states[i]):
                believed = trimmed.log_e(arrays.states[i], rates.BAD_PRIORS)
                assert believed == pytest.approx(rates.log_bad(states[i].metrics[0]), rel=1e-9, abs=1e-9)
    assert np.isfinite(arrays.convicted_s[0])


def test_moments_of_seconds_convict_the_healthy_unless_they_are_known() -> None:
    row = weather.healthy(World("often", 40.0, 1.0, 3.0), 200.0, 0.2, 6, np.random.default_rng(4))
    assert row.alarms_unknown >= 2 and row.alarms <= 1, row


def test_the_dead_are_convicted_within_seconds() -> None:
    row = weather.worse(QUIET, Rates(0.002, 1.0), 2000.0, 0.05, 0.0, 4, np.random.default_rng(4))
    assert row.mean_s_by_requests < row.mean_s < 3.0, row


def test_an_outage_of_both_convicts_nobody() -> None:
    def both(tick: int) -> Floats:
        return np.full(6, 0.6 if 50 <= tick < 80 else 0.002)

    for found in weather.simulate((both, both), 200.0, 0.2, 15.0, [Weather(3600.0)] * 6, np.random.default_rng(4)):
        assert not np.isfinite(found).any()
