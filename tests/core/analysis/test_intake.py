"""Evidence that came back, that belongs to no experiment, and that cannot be yet."""

from __future__ import annotations

import pytest

from gateway.core.analysis import Evidence
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
    with pytest.raises(EvidenceError, match="reappeared after"):
        take(memory, Evidence(0.3, (entry(2, 500),)))


def test_an_experiment_that_lost_its_weight_is_refused() -> None:
    memory, _ = take(Intake(), Evidence(0.0, (entry(1, 500),)))
    with pytest.raises(EvidenceError, match="changed its weight from 500 to 0"):
        take(memory, Evidence(0.1, (entry(1, 0),)))


def test_an_epoch_that_is_not_in_force_yet_is_refused() -> None:
    take(Intake(), Evidence(0.0, (entry(4, 500),), newest=4))
    with pytest.raises(EvidenceError, match="epoch 5 is not published yet: the newest is 4"):
        take(Intake(), Evidence(0.0, (entry(5, 500),), newest=4))
