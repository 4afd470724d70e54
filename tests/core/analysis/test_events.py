"""Labelled events with the request as unit: nulls in both directions, tolerances that are no convex set, two sides."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from gateway.core.analysis import AnalysisSpec, EventSpec, Evidence, LatencySpec, Mode, RateSpec, fresh_state, judge
from gateway.core.analysis.betting.eprocess import Rates, TrialBatch, log_gains_beyond, within_tolerance
from gateway.core.analysis.metrics.rates import bad_guesses, directions_of, ok_guesses
from gateway.core.analysis.spec import Unit, Worse
from gateway.core.errors import EvidenceError, InvalidValueError
from gateway.core.stats import Counts, EpochCounts
from gateway.core.stats.counts import check_entry
from tests.support.specs import silent

TOLERANCES = [(1.0, 0.0), (1.5, 0.0), (1.0, 0.02), (1.5, 0.02), (3.0, 0.3)]
GRID = [0.0, 1e-4, 0.01, 0.03, 0.06, 0.3, 0.7, 0.98, 1.0]
SILENT = RateSpec(mode=Mode.OFF)


def only(*events: EventSpec, **changes: Any) -> AnalysisSpec:
    """A spec in which these events alone decide."""
    return AnalysisSpec(
        **silent(),
        latency=LatencySpec(mode=Mode.OFF),
        events=events,
        **changes,
    )


def chance(truth: Rates, batch: TrialBatch) -> float:
    """The probability of a batch's events, its trials given."""
    return (
        math.comb(batch.stable_trials, batch.stable_events)
        * truth.stable**batch.stable_events
        * (1 - truth.stable) ** (batch.stable_trials - batch.stable_events)
        * math.comb(batch.canary_trials, batch.canary_events)
        * truth.canary**batch.canary_events
        * (1 - truth.canary) ** (batch.canary_trials - batch.canary_events)
    )


@pytest.mark.parametrize(("ratio", "delta"), TOLERANCES)
@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("stable", [1e-4, 0.03, 0.4, 0.97])
def test_within_the_tolerance_no_guess_has_a_mean_over_one(
    ratio: float, delta: float, mirrored: bool, stable: float
) -> None:
    spec, nulls = RateSpec(tolerance_ratio=ratio, tolerance_delta=delta), within_tolerance(ratio, delta)
    checked = 0
    guesses = bad_guesses(stable, spec, mirrored)[::3]
    for guess, truth in itertools.product(guesses, itertools.starmap(Rates, pairs())):
        if truth.canary > max(ratio * truth.stable, truth.stable + delta):
            continue
        for n_s, n_c in ((4, 1), (1, 3)):
            batches = [TrialBatch(a, n_s, b, n_c) for a in range(n_s + 1) for b in range(n_c + 1)]
            mean = sum(chance(truth, one) * math.exp(log_gains_beyond((guess,), nulls, one)[0]) for one in batches)
            assert mean <= 1 + 1e-12, (guess, truth, n_s, n_c)
            checked += 1
    assert checked > 200


def pairs() -> itertools.product[tuple[float, float]]:
    return itertools.product(GRID, GRID)


@pytest.mark.parametrize("stable", [1e-5, 0.03, 0.6])
@pytest.mark.parametrize("mirrored", [False, True])
def test_guesses_lie_on_their_side_of_stable(stable: float, mirrored: bool) -> None:
    spec = RateSpec(tolerance_ratio=1.5, tolerance_delta=0.001)
    for pair in bad_guesses(stable, spec, mirrored):
        canary, own = pair if mirrored else (pair[1], pair[0])
        assert own == stable
        assert canary < stable if mirrored else canary > stable
    assert len(ok_guesses(stable, spec, mirrored)) == 5


class Labelled:
    """Requests with one labelled event each, of known rates."""

    def __init__(self, spec: AnalysisSpec, seed: int, weight_bp: int = 2_000) -> None:
        self.random, self.spec, self.state = random.Random(seed), spec, fresh_state(spec)
        self.entry, self.at_s = EpochCounts("r", 1, weight_bp), 0.0

    def until(self, verdict: str, rates: tuple[float, float], ticks: int = 300) -> Any:
        for _ in range(ticks):
            for _ in range(20):
                canary = self.random.random() * 10_000 < self.entry.weight_bp
                counts = self.entry.canary if canary else self.entry.stable
                counts.requests += 1
                counts.label(self.spec.events[0].name, self.random.random() < rates[canary])
            self.at_s += 0.1
            self.state, analysis = judge(self.spec, self.state, Evidence(self.at_s, (self.entry,)))
            if analysis.verdict == verdict:
                break
        return analysis


@pytest.mark.parametrize("unit", list(Unit))
@pytest.mark.parametrize(
    ("worse", "canary", "convicted"),
    [
        (Worse.HIGHER, 0.6, True),
        (Worse.HIGHER, 0.05, False),
        (Worse.LOWER, 0.05, True),
        (Worse.LOWER, 0.6, False),
        (Worse.DIFFERENT, 0.6, True),
        (Worse.DIFFERENT, 0.05, True),
        (Worse.DIFFERENT, 0.3, False),
    ],
)
def test_an_event_convicts_in_the_direction_that_is_worse(
    worse: Worse, canary: float, convicted: bool, unit: Unit
) -> None:
    spec = only(EventSpec("clicked", worse=worse, unit=unit, slice_s=0.5))
    analysis = Labelled(spec, 5).until("FAIL", (0.3, canary), 200)
    assert (analysis.verdict == "FAIL") is convicted, analysis.reason
    if convicted:
        assert analysis.causes == ("clicked",) and "clicked" in analysis.reason


@pytest.mark.parametrize("unit", list(Unit))
@pytest.mark.parametrize("worse", list(Worse))
def test_an_equal_canary_is_passed_in_every_direction(worse: Worse, unit: Unit) -> None:
    event = EventSpec("clicked", worse=worse, margin_delta=0.25, margin_ratio=2.0, unit=unit, slice_s=0.2)
    analysis = Labelled(only(event), 2).until("PASS", (0.3, 0.3), 400)
    assert analysis.verdict == "PASS", analysis.reason


def test_a_canary_within_the_tolerance_is_not_convicted_and_beyond_it_is() -> None:
    event = EventSpec("clicked", tolerance_ratio=1.2, tolerance_delta=0.1)
    within = Labelled(only(event), 4).until("FAIL", (0.3, 0.38), 400)
    assert within.verdict != "FAIL", within.reason
    assert Labelled(only(event), 4).until("FAIL", (0.3, 0.6), 400).verdict == "FAIL"


def test_an_event_that_advises_never_decides_and_one_that_is_off_is_not_looked_at() -> None:
    advise = EventSpec("clicked", mode=Mode.ADVISE)
    analysis = Labelled(only(advise), 1).until("FAIL", (0.1, 0.9), 30)
    assert (analysis.verdict, analysis.findings[0].verdict) == ("UNDECIDED", "FAIL")
    off = Labelled(only(EventSpec("clicked", mode=Mode.OFF)), 1).until("FAIL", (0.1, 0.9), 5)
    assert off.findings == ()


def test_an_event_without_trials_is_nodata_and_keeps_pass_away() -> None:
    world = Labelled(only(EventSpec("clicked", margin_delta=0.3)), 1)
    spec = only(*world.spec.events, EventSpec("bought"))
    world.spec, world.state = spec, fresh_state(spec)
    analysis = world.until("PASS", (0.1, 0.1), 200)
    assert analysis.verdict == "UNDECIDED"
    assert [found.verdict for found in analysis.findings] == ["PASS", "NODATA"]
    assert "bought" in analysis.reason


@pytest.mark.parametrize(
    ("build", "named"),
    [
        (lambda: EventSpec("Click"), "name"),
        (lambda: EventSpec(""), "name"),
        (lambda: EventSpec("a" * 65), "name"),
        (lambda: EventSpec("errors"), "built-in"),
        (lambda: EventSpec("sample_ratio"), "built-in"),
        (lambda: EventSpec("guardrail:x"), "built-in"),
        (lambda: EventSpec("x", share=0.0), "share"),
        (lambda: EventSpec("x", tolerance_ratio=0.5), "tolerance_ratio"),
        (lambda: EventSpec("x", tolerance_delta=math.nan), "tolerance_delta"),
        (lambda: EventSpec("x", slice_s=0.0), "slice_s"),
        (lambda: only(EventSpec("x"), EventSpec("x")), "twice"),
        (lambda: only(*(EventSpec(f"x{i}") for i in range(129))), "129 events"),
    ],
)
def test_an_event_that_cannot_be_judged_cannot_be_asked_for(build: Callable[[], object], named: str) -> None:
    with pytest.raises(InvalidValueError, match=named):
        build()


def test_a_two_sided_event_has_two_tests() -> None:
    assert [len(directions_of(EventSpec("x", worse=worse))) for worse in Worse] == [1, 1, 2]


def test_labels_that_cannot_be_true_are_refused_where_they_are_decoded() -> None:
    for trials, events, reason in (
        ({"clicked": 1}, {"clicked": 2}, "2 of 1"),
        ({"clicked": -1}, {}, "-1 trials"),
        ({}, {"clicked": 1}, "1 of 0"),
        ({"": 1}, {}, "1 trials"),
        ({1: 1}, {}, "Expected `str`"),
        ({"clicked": math.nan}, {}, "Expected `int`"),
        ({str(i): 1 for i in range(300)}, {}, "300 names"),
    ):
        counts = Counts(5, trials=trials, events=events)  # type: ignore[arg-type]  # wrong on purpose
        frame = msgspec.msgpack.encode(EpochCounts("r", 1, 500, Counts(5), counts))
        with pytest.raises((EvidenceError, msgspec.ValidationError), match=reason):
            check_entry(msgspec.msgpack.decode(frame, type=EpochCounts))
