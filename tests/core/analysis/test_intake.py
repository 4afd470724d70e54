"""Evidence that came back, that belongs to no experiment, and that cannot be yet."""

from __future__ import annotations

import math

import pytest

from gateway.core.analysis import AnalysisSpec, Evidence, fresh_state, judge
from gateway.core.analysis.evidence.intake import Intake, take
from gateway.core.errors import EvidenceError
from gateway.core.stats import Counts, EpochCounts


def entry(epoch: int, weight_bp: int, stable: int = 9, canary: int = 1) -> EpochCounts:
    return EpochCounts("r", epoch, weight_bp, Counts(stable), Counts(canary))


@pytest.mark.parametrize("weight_bp", [0, 10_000])
def test_an_epoch_without_an_experiment_may_stay_after_a_later_one_has_left(weight_bp: int) -> None:
    memory, _ = take(Intake(), Evidence(0.0, (entry(1, weight_bp), entry(2, 500))))
    memory, _ = take(memory, Evidence(0.1, (entry(1, weight_bp),)))
    assert memory.left == 2
    memory, arrivals = take(memory, Evidence(0.2, (entry(1, weight_bp, 20, 5), entry(3, 500))))
    assert [arrival.epoch for arrival in arrivals] == [3]
    with pytest.raises(EvidenceError, match="came back"):
        take(memory, Evidence(0.3, (entry(2, 500),)))


def test_an_experiment_that_lost_its_weight_is_refused() -> None:
    memory, _ = take(Intake(), Evidence(0.0, (entry(1, 500),)))
    with pytest.raises(EvidenceError, match="changed its weight from 500 to 0"):
        take(memory, Evidence(0.1, (entry(1, 0),)))


def test_an_epoch_from_the_future_is_refused() -> None:
    take(Intake(), Evidence(0.0, (entry(4, 500),), newest=4))
    with pytest.raises(EvidenceError, match="epoch 5 is from the future: 4 is in force"):
        take(Intake(), Evidence(0.0, (entry(5, 500),), newest=4))
    with pytest.raises(EvidenceError, match="not an epoch"):
        take(Intake(), Evidence(0.0, (), newest=math.nan))  # type: ignore[arg-type]  # wrong on purpose


def test_more_answers_than_were_assigned_are_refused() -> None:
    false = EpochCounts("r", 1, 500, Counts(9, assigned=8), Counts(1))
    spec = AnalysisSpec()
    analysis = judge(spec, fresh_state(spec), Evidence(0.0, (false,)))[1]
    assert analysis.verdict == "ERROR" and "9 requests of 8 assigned" in analysis.reason


@pytest.mark.parametrize(
    ("counts", "said"),
    [
        (Counts(5, gap={3: 6}), "gap histogram holds more"),
        (Counts(5, aborted={3: -1}), "aborted histogram has a negative"),
        (Counts(5, assigned=-1), "-1 assigned"),
        (Counts(5, assigned=math.inf), "inf is not a count"),  # type: ignore[arg-type]  # wrong on purpose
        (Counts(5, trials=None), "trials is a NoneType"),  # type: ignore[arg-type]  # wrong on purpose
    ],
)
def test_new_fields_that_cannot_be_true_are_refused(counts: Counts, said: str) -> None:
    with pytest.raises(EvidenceError, match=said):
        take(Intake(), Evidence(0.0, (EpochCounts("r", 1, 500, counts, Counts()),)))
