"""The simulations of metrics.py and sticky.py: the arrays do what the engine does, and healthy canaries are spared."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from gateway.core.analysis import EventSpec, GuardrailSpec, RateSpec
from gateway.core.analysis.betting import wealth
from gateway.core.analysis.evidence.intake import Arrival
from gateway.core.analysis.evidence.trials import CLASS_TESTS
from gateway.core.analysis.metrics import event_slices, events, guardrails, outcomes, rates, sample_ratio
from gateway.core.analysis.spec import Mode, Worse
from gateway.core.stats import Counts
from gateway.core.stats.counts import SESSION_EVENTS
from loadtests.statistics import metrics, sticky

RATES = np.array([[0.3, 0.35], [0.02, 0.02], [0.6, 0.2], [0.0, 0.9]])

# Outcome classes beside the first one.
OTHERS = len(CLASS_TESTS) - 1


def looks(seed: int, count: int, top: int = 6) -> list[np.ndarray]:
    """[rollout, (stable events, stable trials, canary events, canary trials)] of each look."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        trials = rng.integers(0, (40, top), (4, 2))
        events = rng.binomial(trials, RATES)
        found.append(np.stack([events[:, 0], trials[:, 0], events[:, 1], trials[:, 1]], axis=1))
    return found


@pytest.mark.parametrize("direction", list(metrics.DIRECTIONS))
@pytest.mark.parametrize("needed", [math.log(20), math.log(1e30)])
def test_labelled_events_over_arrays(direction: str, needed: float) -> None:
    spec = EventSpec("click", worse=Worse(direction))
    tests = metrics.Tests(4, needed, rates.LABELLED_PRIOR, metrics.DIRECTIONS[direction])
    states = [rates.fresh(len(metrics.DIRECTIONS[direction]), rates.LABELLED_PRIOR)] * 4
    for counts in looks(5, 120):
        tests.take(counts.astype(float))
        for i, (xs, ns, xc, nc) in enumerate(counts.tolist()):
            arms = [Counts(trials={"click": n}, events={"click": x}) for x, n in ((xs, ns), (xc, nc))]
            states[i] = events.take(states[i], spec, [Arrival(1, arms[0], arms[1])], [1], needed)
            assert tests.log_e[i] == pytest.approx(rates.log_e_bad(states[i].metrics), rel=1e-9, abs=1e-9)


def test_bakes_over_arrays() -> None:
    needed, horizon = math.log(100), 60
    tests = metrics.Tests(4, needed, rates.FAILURES_PRIOR, (False,), horizon)
    states, closed = [rates.baked(rates.fresh(), horizon)] * 4, 0
    off = RateSpec(mode=Mode.OFF)
    # Every look has trials enough to close a batch: one clock for all rollouts, as in metrics.py.
    for tick, counts in enumerate(looks(6, 200)):
        counts[:, 1] += 10
        counts[:, 3] += 10
        may_close = tick - closed >= 10
        closed = tick if may_close else closed
        tests.take(counts.astype(float), may_close)
        for i, (xs, ns, xc, nc) in enumerate(counts.tolist()):
            new = [Arrival(1, Counts(ns, {"errors": xs}), Counts(nc, {"errors": xc}))]
            limits = (needed, *[math.inf] * OTHERS)
            states[i] = outcomes.take(states[i], (RateSpec(), *[off] * OTHERS), new, [1], limits, 1.0 * tick, 10.0)
            assert tests.log_e[i] == pytest.approx(wealth.log_e(states[i].metrics[0].bad), rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("needed", [math.log(100), math.log(1e30)])
def test_sessions_over_arrays(needed: float) -> None:
    tests = sticky.Sessions(4, needed)
    labels, off = tuple(SESSION_EVENTS.values()), RateSpec(mode=Mode.OFF)
    states = [rates.fresh()] * 4
    for counts in looks(7, 80, 9):
        tests.take(counts.astype(float))
        for i, (xs, ns, xc, nc) in enumerate(counts.tolist()):
            arms = [Counts(trials=dict.fromkeys(labels, n), events={labels[0]: x}) for x, n in ((xs, ns), (xc, nc))]
            limits = (needed, *[math.inf] * OTHERS)
            states[i] = outcomes.take(
                states[i], (RateSpec(), *[off] * OTHERS), [Arrival(1, arms[0], arms[1])], [1], limits, sticky=True
            )
            assert tests.log_e[i] == pytest.approx(wealth.log_e(states[i].metrics[0].bad), rel=1e-9, abs=1e-9)


def test_votes_guardrails_and_the_split_over_arrays() -> None:
    arrays = metrics.Wealths(1, guardrails.PRIORS, wealth.HELD_BACK)
    state, spec, which = guardrails.fresh(), GuardrailSpec("errors", 0.05), np.array([0])
    for tick, (trials, seen) in enumerate([(5, 0), (3, 1), (40, 6), (1, 1)]):
        state = guardrails.take(state, spec, [Arrival(1, Counts(), Counts(trials, {"errors": seen}))], float(tick))
        gains = metrics.guard_gains(0.05, np.array([seen]), np.array([trials]))
        assert arrays.grow(which, gains)[0] == pytest.approx(wealth.log_e(state.bad), rel=1e-12)
    shares = np.array([0.1]), np.array([0.4])
    assert metrics.vote_gains(*shares)[:, 0] == pytest.approx(event_slices.bad_gains(RateSpec(), 0.1, 0.4), rel=1e-12)
    slow = metrics.guard_slice_gains(0.05, np.array([0.4]))
    assert slow[:, 0] == pytest.approx(guardrails.slice_gains(0.05, 2, 5), rel=1e-12)
    found = metrics.split_gains(0.1, np.array([17]), np.array([3]))
    assert found[:, 0] == pytest.approx(sample_ratio.gains(0.1, 17, 3), rel=1e-12)


def test_the_program_counts_and_reproduces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("LOOKS", 40), ("SLICES", 20), ("LATENCY_SLICES", 8), ("BAKE_S", 3.0), ("ALPHAS", (0.5,))):
        monkeypatch.setattr(metrics, name, value)
    lines = []
    for name in ("a", "b"):
        status = metrics.main(["--runs", "12", "--seed", "3", "--out", str(tmp_path / name)])
        lines.append([json.loads(line) for line in (tmp_path / name).read_text().splitlines()])
        assert status == int(any(row["upper"] > row["alpha"] for row in lines[-1]))
    assert lines[0] == lines[1], "the same seed gave another result"
    assert {row["metric"].split(",")[0].split(":")[0] for row in lines[0]} >= {"event", "latency", "split", "bake"}
    assert all(row["alarms"] < row["runs"] for row in lines[0])


def test_a_rollout_of_sessions_is_the_engines(monkeypatch: pytest.MonkeyPatch) -> None:
    """More failing sessions convict; sessions keep alpha where requests break it."""
    broken, _ = sticky.simulate(0.5, 0.2, 0.01, 20, np.random.default_rng(12))
    assert (broken >= -math.log(0.01)).all()
    found = sticky.row(0.5, sticky.BAD_SESSIONS, 0.01, 200, np.random.default_rng(12))
    assert found.by_sessions <= 5 and found.by_requests > 100, found
