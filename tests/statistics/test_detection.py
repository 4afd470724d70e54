"""The simulation of detection: it is the engine's arithmetic, and it reproduces."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from gateway.core.analysis import RateSpec
from gateway.core.analysis.betting import wealth
from gateway.core.analysis.betting.eprocess import NOT_WORSE, Rates
from gateway.core.analysis.evidence.intake import Arrival
from gateway.core.analysis.metrics import outcomes, rates
from gateway.core.analysis.sizing.limit import requests_at_limit
from gateway.core.stats import Counts
from loadtests.statistics import detection


@pytest.mark.parametrize("needed", [math.log(20), math.log(200), math.log(1e30)])
def test_the_arrays_do_what_the_engine_does(needed: float) -> None:
    """Four rollouts of different rates, 400 ticks each: the same closings, the same evidence."""
    rng = np.random.default_rng(3)
    arrays = detection.Engine(4, needed)
    one = RateSpec()
    states = [rates.fresh(1)] * 4
    for _ in range(400):
        trials = rng.integers(0, (40, 4), (4, 2))
        trials[1] *= 20
        events = rng.binomial(trials, [[0.001, 0.02], [0.01, 0.01], [0.3, 0.2], [0.0, 1.0]])
        counts = np.stack([events[:, 0], trials[:, 0], events[:, 1], trials[:, 1]], axis=1)
        closed = arrays.take(counts.astype(float))
        for i, (xs, ns, xc, nc) in enumerate(counts.tolist()):
            before = states[i].batches
            new = Arrival(1, Counts(ns, {"errors": xs}), Counts(nc, {"errors": xc}))
            # `errors` alone: the first of the classes.
            states[i] = outcomes.take(states[i], (one,), [new], [1], (needed,))
            assert states[i].batches - before == int(closed[i])
            assert arrays.log_e[i] == pytest.approx(wealth.log_e(states[i].metrics[0].bad), rel=1e-9, abs=1e-9)


@pytest.mark.parametrize(
    ("truth", "weight", "most"),
    [(Rates(0.01, 0.1), 0.1, 1.55), (Rates(0.01, 0.5), 0.5, 1.75), (Rates(0.02, 0.04), 0.5, 1.5)],
)
def test_proof_comes_near_the_information_limit(truth: Rates, weight: float, most: float) -> None:
    row = detection.detect(truth, weight, 0.01, 100, np.random.default_rng(1))
    assert 1.0 < row.ratio < most and row.error < 0.1, row
    # Wald's identity: the ratio by likelihoods is the ratio by requests, which varies more.
    limit = requests_at_limit(truth, NOT_WORSE, weight, 0.01)
    assert row.requests / limit == pytest.approx(row.ratio, abs=0.35)


def test_equal_arms_are_convicted_less_often_than_alpha() -> None:
    row = detection.false_alarms("ramp", 0.05, 400, np.random.default_rng(2))
    assert row.upper <= 0.05 and row.alarms < row.runs * row.upper, row


def test_the_program_writes_lines_and_tables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(detection, "BASES", (0.05,))
    monkeypatch.setattr(detection, "EFFECTS", (10.0,))
    monkeypatch.setattr(detection, "AA_TICKS", 50)
    lines = []
    for name in ("a", "b"):
        out = tmp_path / name
        assert detection.main(["--runs", "5", "--aa-runs", "2000", "--seed", "7", "--out", str(out)]) == 0
        lines.append([json.loads(line) for line in out.read_text().splitlines()])
    assert lines[0] == lines[1], "the same seed gave another result"
    assert {line["alpha"] for line in lines[0]} == {0.05, 0.01, 0.001}
    said = capsys.readouterr().out
    assert "mean R" in said and "| ramp |" in said
