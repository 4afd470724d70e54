"""The simulation of failures inside of answers: the arrays do what inspector, worker and judge do."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from gateway.config.analysis import AnalysisConfig
from gateway.core.analysis.evidence.intake import Arrival
from gateway.core.analysis.metrics import events as labelled_events
from gateway.core.analysis.metrics import rates
from gateway.core.predictions.failures import ERROR, INVALID, UNFINISHED, ReadAnswer
from gateway.core.predictions.usual import FailureRules
from gateway.core.stats import Counts
from gateway.core.types import Variant
from gateway.proxy.counting.response_sampler import Sampler
from loadtests.statistics import answers


@pytest.mark.parametrize("alpha", [0.05, 1e-30])
def test_the_default_metric_over_arrays(alpha: float) -> None:
    spec = AnalysisConfig().failures_inside()
    assert spec.guarded
    judge, rng = answers.Judge(4, alpha), np.random.default_rng(7)
    states = [rates.fresh(1, rates.LABELLED_PRIOR)] * 4
    for tick in range(200):
        trials = rng.poisson((5.0, 1.0), (4, 2)) + (tick == 0)
        burst = rng.random((4, 2)) < 0.03
        events = np.where(burst, trials, rng.binomial(trials, [[0.1, 0.1], [0.0, 0.3], [0.5, 0.5], [0.01, 0.02]]))
        counts = np.stack([events[:, 0], trials[:, 0], events[:, 1], trials[:, 1]], axis=1)
        judge.take(counts.astype(float))
        log_e = judge.log_e()
        for i, (xs, ns, xc, nc) in enumerate(counts.tolist()):
            arms = [Counts(trials={spec.name: n}, events={spec.name: x}) for x, n in ((xs, ns), (xc, nc))]
            new = [Arrival(1, arms[0], arms[1])] if ns or nc else []
            at_s = 0.1 * (tick + 1)
            states[i] = labelled_events.take(states[i], spec, new, [1], -math.log(alpha), at_s, 0.0, 0.3)
            assert log_e[i] == pytest.approx(rates.log_e_bad(states[i].metrics), rel=1e-9, abs=1e-9), (tick, i)


@pytest.mark.parametrize(("kind", "share"), [(ERROR, 0.3), (INVALID, 0.9), (UNFINISHED, 0.01), (UNFINISHED, 1.0)])
def test_kinds_switch_over_arrays_as_on_a_route(kind: str, share: float) -> None:
    rng = np.random.default_rng(11)
    switch, routes = answers.Switch(kind, 3), [FailureRules() for _ in range(3)]
    switched = set()
    for _ in range(5_000):
        had, stable = rng.random(3) < share, rng.random(3) < 0.8
        counts = switch.counts()
        for i, route in enumerate(routes):
            seen = ReadAnswer("json", frozenset((kind,)) if had[i] else frozenset(), results=True, ends=True)
            assert (route.failure(seen) is not None) == (had[i] and counts[i])
            if stable[i]:
                route.learn(seen)
        switch.learn(stable, had)
        switched.update(counts.tolist())
    assert len(switched) == (1 if kind == ERROR or share == 1.0 else 2), "the share was meant to cross its threshold"


@pytest.mark.parametrize("weight", [0.01, 0.3, 0.8])
def test_budgets_over_arrays_as_in_a_worker(weight: float) -> None:
    rng = np.random.default_rng(13)
    budgets, samplers = answers.Budgets(3, 20.0, weight), [Sampler(20.0, weight) for _ in range(3)]
    now_s, read = 1.0, np.zeros((3, 2))
    for _ in range(4_000):
        gap_s = float(rng.exponential(0.002))
        now_s += gap_s
        budgets.refill(gap_s)
        arms, draws = (rng.random(3) < weight).astype(np.int64), rng.random(3)
        taken = budgets.take(arms, draws)
        expected = [one.take(Variant(int(a)), float(d), now_s) for one, a, d in zip(samplers, arms, draws, strict=True)]
        assert taken.tolist() == expected
        read[np.arange(3), arms] += taken
    assert (read.sum(axis=1) < 40.0 * (now_s - 1.0) + 60.0).all(), "more than twice the rate was read"
    assert (read.max(axis=1) < 6.0 * read.min(axis=1)).all(), "one version crowded the other out"


def test_no_end_marks_and_bursts_convict_nobody_and_a_bad_canary_is_convicted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "SECONDS", 20)
    rng = np.random.default_rng(3)
    assert not np.isfinite(answers.steady(answers.WORLDS["no end marks"], 0.05, 40, rng).convicted_s).any()
    assert np.isfinite(answers.in_bursts(0.5, 0.05, 40, rng).convicted_s).sum() <= 6
    clean, bad = (answers.World(ERROR, answers.constant(share)) for share in (0.0, 1.0))
    assert np.isfinite(answers.steady(clean, 0.01, 40, rng, bad).convicted_s).all()


def test_a_budget_for_each_version_would_convict_healthy_canaries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bouts of traffic that end in error bodies, alike for both: why both pay from one budget."""
    monkeypatch.setattr(answers, "SECONDS", 60)
    found = [
        np.isfinite(answers.in_bouts(0.05, 0.01, 60, np.random.default_rng(5), common=common).convicted_s).sum()
        for common in (True, False)
    ]
    assert found[0] <= 2 and found[1] > 30, found


def test_the_program_counts_and_reproduces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("SECONDS", 3), ("BOUT", 40), ("ALPHAS", (0.5,)), ("BAD_WEIGHTS", (0.5,))):
        monkeypatch.setattr(answers, name, value)
    lines = []
    for name in ("a", "b"):
        status = answers.main(["--runs", "12", "--seed", "3", "--out", str(tmp_path / name)])
        lines.append([json.loads(line) for line in (tmp_path / name).read_text().splitlines()])
        beyond = any(row["upper"] > row["alpha"] for row in lines[-1] if row["table"] == "answers")
        assert status == int(beyond)
    assert lines[0] == lines[1], "the same seed gave another result"
    assert {row["table"] for row in lines[0]} == {"answers", "answers contrast", "answers convictions"}
