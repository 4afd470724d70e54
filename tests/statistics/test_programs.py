"""The other programs of loadtests/statistics: they run, they reproduce, and what they show is so."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from gateway.core.analysis import RateSpec
from gateway.core.analysis.betting import wealth
from gateway.core.analysis.betting.eprocess import TrialBatch
from gateway.core.analysis.metrics import rates
from loadtests.statistics import bursts, known, metrics, promotion, returning, rules
from loadtests.statistics.lines import alarms_in, finish, options, upper_bound, write


def test_promotion_comes_near_its_limit() -> None:
    row = promotion.promotion(0.01, RateSpec(), 0.2, 12, np.random.default_rng(2))
    assert row is not None and row.ratio < 1.9, row


def test_a_margin_that_takes_too_long_is_left_out() -> None:
    assert (
        promotion.promotion(0.001, RateSpec(margin_ratio=1.3, margin_delta=0.0), 0.2, 5, np.random.default_rng(2))
        is None
    )


def test_a_canary_at_the_margin_seldom_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(promotion, "WRONG_BATCHES", 40)
    row = promotion.wrong(0.05, RateSpec(), 0.5, 60, np.random.default_rng(2))[0]
    assert row.passed <= 6, row


@pytest.mark.parametrize("margin", promotion.MARGINS)
def test_the_arrays_pass_as_the_engine_does(margin: tuple[float, float]) -> None:
    rng = np.random.default_rng(1)
    spec = RateSpec(margin_ratio=margin[0], margin_delta=margin[1])
    arrays, states = promotion.Passing(3, 1e9, spec), [rates.fresh().metrics[0]] * 3
    for _ in range(60):
        trials = rng.integers(rates.SCARCE_MAX, (200, 20), (3, 2))
        events = rng.binomial(trials, [[0.001, 0.02], [0.03, 0.03], [0.3, 0.2]])
        counts = np.stack([events[:, 0], trials[:, 0], events[:, 1], trials[:, 1]], axis=1)
        arrays.take(counts.astype(float))
        states = [rates.bet(one, spec, TrialBatch(*row)) for one, row in zip(states, counts.tolist(), strict=True)]
        assert arrays.log_ok() == pytest.approx([wealth.log_e(one.ok) for one in states], rel=1e-6, abs=1e-6)


def test_pauses_pass_the_inferior_by_requests_and_not_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bursts, "AA_S", 60.0)
    monkeypatch.setattr(promotion, "MIN_TIME_S", 0.0)
    row = promotion.wrong_in_bursts("failures between", 200.0, 0.2, 80, np.random.default_rng(3))[0]
    assert row.passed <= 7 and row.passed_by_requests > 12, row


def test_the_rules_see_the_same_recording_and_the_gateway_is_quicker_to_convict(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(rules, "LENGTH_S", 300.0)
    dead = next(scenario for scenario in rules.SCENARIOS if scenario.name == "dead")
    found = {row.rule: row for row in rules.rows(dead, 1, (1,))}
    assert found["gateway"].rollbacks == 1 and found["gateway"].median_s < 10.0
    assert found["flagger, tuned"].rollbacks == 1 and found["flagger, tuned"].median_s == 30.0
    assert found["kayenta"].rollbacks == 0


def test_a_canary_that_hangs_is_held_in_whole_rollouts() -> None:
    case = known.Case(known.hangs_for_ever, 50.0, False, until_s=80.0)
    row = known.simulate(case, 1, (1,))
    assert (row.promoted, row.rolled_back) == (0, 0), row


def test_users_come_back_to_a_dead_canary(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(returning, "USERS", 200)
    kind = returning.Kind("dead", dead_s=30.0, length_s=45.0, requests_per_s=50.0)
    row = returning.row(kind, 0.5, 1, (1,))
    assert row.alarms == 0 and row.median_s < 10.0, row


def test_results_are_lines_and_what_never_happened_is_null(tmp_path: Path) -> None:
    row = rules.Row("rules", "s", True, "r", 1, 0, 0, math.inf, math.inf, 0.0)
    write(tmp_path / "a" / "rows.jsonl", [row])
    (line,) = (tmp_path / "a" / "rows.jsonl").read_text().splitlines()
    assert json.loads(line)["median_s"] is None


def test_the_bound_is_clopper_pearsons() -> None:
    """20 of 2000 at 95 %, and no error at all: 1 - 0.05 ** (1 / n)."""
    assert upper_bound(0, 2000) == pytest.approx(1.0 - 0.05 ** (1 / 2000), rel=1e-9)
    assert upper_bound(20, 2000) == pytest.approx(0.01447, abs=5e-5)
    assert upper_bound(5, 5) == 1.0


def test_a_program_ends_with_1_when_a_bound_lies_beyond_its_alpha(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = options("a program", 10).parse_args(["--out", str(tmp_path / "rows.jsonl"), "--seed", "4"])
    good = metrics.Alarms("t", "errors", "calm", 0.05, 1000, 20, 0.03)
    assert finish(asked, [good], [good]) == 0 and "\nseed 4, " in capsys.readouterr().out
    bad = metrics.Alarms("t", "errors", "calm", 0.05, 1000, 90, upper_bound(90, 1000))
    assert finish(asked, [good, bad], [good, bad]) == 1
    assert "BEYOND ITS ALPHA: Alarms(table='t'" in capsys.readouterr().out
    assert [json.loads(line)["alarms"] for line in (tmp_path / "rows.jsonl").read_text().splitlines()] == [20, 90]
    assert alarms_in(good) == "20 of 1000 | 3.00 %"
