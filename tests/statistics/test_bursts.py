"""The simulation of bursts: it is the guard's arithmetic, and healthy canaries are left alone."""

from __future__ import annotations

import numpy as np
import pytest

from gateway.core.analysis.betting.eprocess import Rates, TrialBatch
from gateway.core.analysis.bursts import guard
from loadtests.statistics import bursts as program
from loadtests.statistics import guarded


def test_the_arrays_do_what_the_guard_does() -> None:
    rng = np.random.default_rng(8)
    arrays, states = program.Guard(6), [guard.fresh()] * 6
    for tick in range(150):
        trials = rng.integers(0, [[40, 6]] * 4 + [[2, 2]] * 2, (6, 2)) + (
            1 if tick == 0 else [[1, 1]] * 4 + [[0, 0]] * 2
        )
        paused = rng.random((6, 2)) < 0.05
        rates = np.where(paused, 1.0, [[0.001, 0.02], [0.01, 0.01], [0.3, 0.2], [0.0, 0.9], [0.01, 0.3], [0.0, 0.1]])
        events = rng.binomial(trials, rates)
        counts = np.stack([events[:, 0], trials[:, 0], events[:, 1], trials[:, 1]], axis=1)
        arrays.take(counts.astype(float))
        believed, passing = arrays.guarded(np.full(6, 20.0)), arrays.guarded_ok(np.full(6, 20.0))
        for i, look in enumerate(counts.tolist()):
            states[i] = guard.take(states[i], TrialBatch(*look), tick * program.TICK_S, 0.3)
            assert believed[i] == pytest.approx(guard.guarded(20.0, states[i]), rel=1e-9, abs=1e-9), (tick, i)
            assert passing[i] == pytest.approx(guard.guarded_ok(20.0, states[i]), rel=1e-9), (tick, i)


def test_pauses_convict_healthy_canaries_by_requests_and_not_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(program, "AA_S", 60.0)
    row = program.alarms(program.WORLDS[0], 200.0, 0.2, 0.01, 60, np.random.default_rng(3))
    assert row.alarms <= 2 and row.alarms_by_requests > 30, row


def test_the_dead_are_convicted_within_a_second() -> None:
    row = program.conviction("dead", 2000.0, 0.05, 0.01, 20, np.random.default_rng(3))
    assert row.median_s <= 1.0 and row.median_s_by_requests <= 0.2, row


@pytest.mark.parametrize("cells_max", [10, 10_000])
def test_the_guard_costs_little_where_failures_are_single(monkeypatch: pytest.MonkeyPatch, cells_max: int) -> None:
    """Clumps drawn (a limit of more cells than ``cells_max``) or counted."""
    monkeypatch.setattr(guarded, "CELLS_MAX", cells_max)
    row = guarded.detect(Rates(0.01, 0.1), 0.5, 0.01, 2.0, 15, np.random.default_rng(5))
    assert 1.0 < row.ratio_by_requests <= row.ratio < 1.25 * row.ratio_by_requests, row
    assert row.undecided == 0.0
