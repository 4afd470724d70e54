"""The simulation of tolerances: it is the engine's arithmetic, and what may be worse is left alone."""

from __future__ import annotations

import math

import numpy as np
import pytest

from gateway.core.analysis import RateSpec
from gateway.core.analysis.betting import wealth
from gateway.core.analysis.bursts.guard import Tolerance
from gateway.core.analysis.evidence.intake import Arrival
from gateway.core.analysis.metrics import outcomes, rates
from gateway.core.stats import Counts
from loadtests.statistics import bursts, tolerances


@pytest.mark.parametrize("tolerance", tolerances.TOLERANCES)
def test_the_arrays_do_what_the_engine_does(tolerance: Tolerance) -> None:
    """Three rollouts, 150 looks a tenth of a second apart, pauses and all: the same evidence, as far as believed."""
    needed = math.log(200.0)
    rng = np.random.default_rng(6)
    arrays, guard = tolerances.Tolerant(3, needed, tolerance), bursts.Guard(3, tolerance=tolerance)
    spec = RateSpec(tolerance_ratio=tolerance.ratio, tolerance_delta=tolerance.delta)
    states = [rates.fresh(1)] * 3
    for tick in range(150):
        trials = rng.integers(1, (40, 6), (3, 2))
        paused = rng.random((3, 2)) < 0.05
        events = rng.binomial(trials, np.where(paused, 1.0, [[0.001, 0.02], [0.03, 0.06], [0.0, 0.5]]))
        counts = np.stack([events[:, 0], trials[:, 0], events[:, 1], trials[:, 1]], axis=1)
        arrays.take(counts.astype(float))
        guard.take(counts.astype(float))
        believed = guard.guarded(arrays.log_e)
        for i, (xs, ns, xc, nc) in enumerate(counts.tolist()):
            new = Arrival(1, Counts(ns, {"errors": xs}), Counts(nc, {"errors": xc}))
            # `errors` alone: the first of the classes.
            states[i] = outcomes.take(states[i], (spec,), [new], [1], (needed,), tick * bursts.TICK_S, burst_s=0.3)
            mine = states[i].metrics[0]
            assert arrays.log_e[i] == pytest.approx(wealth.log_e(mine.bad), rel=1e-6, abs=1e-6), (tick, i)
            assert believed[i] == pytest.approx(rates.log_bad(mine), rel=1e-6, abs=1e-6), (tick, i)


def test_beyond_a_tolerated_difference_nobody_is_spared_beside_a_stable_that_never_fails() -> None:
    """5 % of the canary's requests fail where one point is tolerated, 5 requests of it a second."""
    tolerance, runs = Tolerance(1.0, 0.01), 8
    judges = tolerances.Tolerant(runs, math.log(200.0), tolerance), bursts.Guard(runs, tolerance=tolerance)
    rates_ = (lambda _tick: np.zeros(runs)), (lambda _tick: np.full(runs, 0.05))
    guarded_s, plain_s = bursts.simulate(rates_, 100.0, 0.05, 2400, judges, np.random.default_rng(8))
    assert np.median(guarded_s) < 120.0, guarded_s
    assert np.median(guarded_s) < 5.0 * np.median(plain_s), (guarded_s, plain_s)


def test_twice_as_many_pauses_are_spared_where_twice_as_many_failures_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bursts, "AA_S", 60.0)
    rng = np.random.default_rng(4)
    row = tolerances.at_the_edge(Tolerance(2.0), "more pauses", (200.0, 0.2), 0.01, 60, rng)
    assert row.alarms <= 2 and row.alarms_by_requests > 30, row
    independent = tolerances.at_the_edge(Tolerance(1.0, 0.01), "independent", (200.0, 0.5), 0.05, 60, rng)
    assert independent.alarms <= 6, independent
