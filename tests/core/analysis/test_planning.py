"""Plans: numbers checked by hand and against the published table, orders that hold, proposals that keep their word."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from gateway.core.analysis import AnalysisSpec, LatencySpec, MetricShares, Mode, RateSpec, budget
from gateway.core.analysis.bursts import trimmed
from gateway.core.analysis.bursts.past import Weather
from gateway.core.analysis.sizing import excused
from gateway.core.analysis.sizing.forecasts import Forecast
from gateway.core.analysis.sizing.planning import (
    HOLDOUTS_BP,
    PRICE_DETECT_NATS,
    PRICE_PROVE_NATS,
    R_DETECT,
    R_PROVE,
    forecast,
)
from gateway.core.analysis.sizing.proposals import proposals, question_with
from gateway.core.analysis.sizing.question import PlannedStep, Question
from gateway.core.errors import InvalidValueError
from tests.support.specs import silent

LADDER = (PlannedStep(100), PlannedStep(500), PlannedStep(2500), PlannedStep(5000))
NO_LATENCY = LatencySpec(mode=Mode.ADVISE)
# One metric, failures taken as they come: what can be computed by hand.
ONLY_ERRORS = AnalysisSpec(**silent("errors", mode=Mode.ADVISE), latency=NO_LATENCY, burst_s=0.0)
GUARDED = msgspec.structs.replace(ONLY_ERRORS, burst_s=0.3)
RESULTS = Path(__file__).parents[3] / "loadtests" / "statistics" / "results"
WEIGHTS_BP = (100, 500, 1000, 2500, 5000)
# Requests of both variants at the limit: alpha 0.01, "not worse", one row for each pair of rates.
TABLE = {
    (0.001, 0.01): (33_681, 7_495, 4_238, 2_382, 2_145),
    (0.01, 0.02): (119_204, 25_129, 13_448, 6_714, 5_341),
    (0.01, 0.05): (11_373, 2_457, 1_350, 719, 615),
    (0.01, 0.5): (305, 74, 44, 26, 24),
}


def question(**changes: Any) -> Question:
    given_: dict[str, Any] = {
        "requests_per_s": 50.0,
        "base_rate": 0.01,
        "regression_rate": 0.02,
        "steps": LADDER,
        "deadline_s": 86_400.0,
        "spec": ONLY_ERRORS,
    }
    return Question(**(given_ | changes))


def margins(ratio: float, delta: float, spec: AnalysisSpec = ONLY_ERRORS) -> AnalysisSpec:
    return msgspec.structs.replace(spec, errors=RateSpec(margin_ratio=ratio, margin_delta=delta))


# --- numbers ---


@pytest.mark.parametrize(("rates", "row"), TABLE.items())
def test_detection_at_the_limit_is_the_published_table(rates: tuple[float, float], row: tuple[int, ...]) -> None:
    steps = tuple(PlannedStep(weight_bp) for weight_bp in WEIGHTS_BP)
    answer = forecast(question(base_rate=rates[0], regression_rate=rates[1], steps=steps, requests_per_s=10.0))
    for step, requests in zip(answer.steps, row, strict=True):
        assert step.detect.limit.canary_requests / (step.weight_bp / 10_000) == pytest.approx(requests, abs=0.6)
        assert step.detect.limit.time_s == pytest.approx(requests / 10.0, abs=0.06)


def test_one_deciding_metric_at_one_percent_costs_the_measured_factor() -> None:
    for step in forecast(question()).steps:
        assert step.detect.engine.time_s == pytest.approx(R_DETECT * step.detect.limit.time_s)


def test_a_metric_pays_for_its_share_of_alpha() -> None:
    # Half of alpha_rollback costs log 2 more.
    spec = AnalysisSpec(**silent("errors", "overload"), shares=MetricShares(errors=0.5, overload=0.25, latency=0.25))
    step = forecast(question(spec=msgspec.structs.replace(spec, burst_s=0.0))).steps[0]
    wanted = (math.log(100) + PRICE_DETECT_NATS + math.log(2)) / math.log(100)
    assert step.detect.engine.time_s == pytest.approx(wanted * step.detect.limit.time_s)


def test_what_a_rollout_can_tell_grows_with_its_traffic() -> None:
    few, many = (forecast(question(requests_per_s=per_s, deadline_s=3_600.0)).reach for per_s in (2.0, 200.0))
    assert few.caught_from is not None and many.caught_from is not None and many.caught_from < few.caught_from
    # 1.3 times stable's rate does not matter, and what the margin allows is promoted.
    assert many.caught_from > 0.013 and many.promoted_below is not None and many.promoted_below >= 0.013
    tolerant = msgspec.structs.replace(ONLY_ERRORS, errors=RateSpec(tolerance_ratio=1.01))
    assert forecast(question(regression_rate=0.013, spec=tolerant)).steps[0].detect.engine.time_s < math.inf
    assert forecast(question(regression_rate=0.013)).steps[0].detect.engine.time_s == math.inf


def test_a_bake_is_planned_with_its_holdout_and_with_others() -> None:
    spec = budget.for_bake(ONLY_ERRORS, 3_600.0)
    asked = question(spec=spec, bake_s=3_600.0, bake_holdout_bp=250)
    own, *others = forecast(asked).bake
    assert (own.holdout_percent, [100 * one.holdout_percent for one in others]) == (2.5, list(HOLDOUTS_BP))
    times = [one.detect_s for one in sorted((own, *others), key=lambda one: one.holdout_percent)]
    assert times == sorted(times, reverse=True) and 1.5 < times[0] / times[1] < 2.5, "half the holdout, twice the time"
    rate = asked.requests_per_s * (1.0 - 0.025) * asked.regression_rate
    assert own.bad_answers == pytest.approx(own.detect_s * rate)
    assert forecast(msgspec.structs.replace(asked, bake_holdout_bp=0)).bake[0].detect_s == math.inf
    assert forecast(msgspec.structs.replace(asked, bake_s=0.0)).bake == ()


def test_a_bake_keeps_its_part_of_alpha() -> None:
    spec = budget.for_bake(ONLY_ERRORS, 600.0)
    step = forecast(question(spec=spec)).steps[0]
    wanted = (math.log(100 / (1.0 - budget.BAKE_SHARE)) + PRICE_DETECT_NATS) / math.log(100)
    assert step.detect.engine.time_s == pytest.approx(wanted * step.detect.limit.time_s)


def test_what_is_tolerated_is_never_convicted_and_what_is_not_only_for_the_rest() -> None:
    def steps(regression_rate: float, burst_s: float, **tolerances: Any) -> list[float]:
        spec = msgspec.structs.replace(ONLY_ERRORS, errors=RateSpec(**tolerances), burst_s=burst_s)
        answer = forecast(question(regression_rate=regression_rate, spec=spec))
        return [step.detect.engine.time_s for step in answer.steps]

    for burst_s in (0.0, 0.3):
        tolerances: dict[str, Any]
        for tolerances in ({"tolerance_ratio": 2.0}, {"tolerance_delta": 0.01}):
            assert steps(0.02, burst_s, **tolerances) == [math.inf] * len(LADDER), tolerances
            for plain, tolerant in zip(steps(0.03, burst_s), steps(0.03, burst_s, **tolerances), strict=True):
                assert plain < tolerant < math.inf, tolerances
        # Either of the two may be made use of.
        assert steps(0.02, burst_s, tolerance_ratio=1.1, tolerance_delta=0.01) == [math.inf] * len(LADDER)


def test_convictions_take_as_long_as_they_were_measured_with_the_guard() -> None:
    measured = [
        row
        for row in map(msgspec.json.decode, (RESULTS / "guarded.jsonl").read_bytes().splitlines())
        if row["table"] == "guarded" and row["alpha"] == 0.01
    ]
    assert {row["requests_per_s"] for row in measured} == {2.0, 20.0, 200.0}
    for requests_per_s, mean in ((2.0, 1.1), (20.0, 1.15), (200.0, 1.25)):
        factors = []
        for row in (row for row in measured if row["requests_per_s"] == requests_per_s):
            asked_ = question(
                requests_per_s=requests_per_s,
                base_rate=row["stable"],
                regression_rate=row["canary"],
                steps=(PlannedStep(round(10_000 * row["weight"])),),
                spec=GUARDED,
            )
            need = forecast(asked_).steps[0].detect
            factors.append(row["ratio"] * need.limit.time_s / need.engine.time_s)
        assert min(factors) >= 0.85 and max(factors) <= 2.25
        assert 1.0 / mean <= sum(factors) / len(factors) <= mean


def test_a_proof_takes_as_long_as_it_was_measured() -> None:
    rows = map(msgspec.json.decode, (RESULTS / "promotion.jsonl").read_bytes().splitlines())
    factors = [row["ratio"] / R_PROVE for row in rows if row["table"] == "promotion"]
    assert len(factors) == 40
    assert min(factors) >= 0.7 and max(factors) <= 1.5
    assert sum(factors) / len(factors) == pytest.approx(1.0, abs=0.1)


def test_a_dead_canary_waits_for_cells_however_dense_the_traffic() -> None:
    for requests_per_s in (200.0, 2e4):
        answer = forecast(question(requests_per_s=requests_per_s, regression_rate=0.99, spec=GUARDED))
        for step in answer.steps[1:]:
            assert 0.6 <= step.detect.engine.time_s <= 1.0
        assert answer.engine.regressed.at_s == pytest.approx(answer.steps[0].detect.engine.time_s)
        # The limit knows of no bursts.
        assert answer.limit.regressed.at_s < 0.6


@given(st.floats(0.1, 1e4), st.floats(1e-4, 0.3), st.floats(1.1, 3.0), st.integers(10, 5000))
def test_the_guard_never_hastens(requests_per_s: float, base: float, worse: float, weight_bp: int) -> None:
    by_hand, guarded_ = (
        forecast(
            question(
                requests_per_s=requests_per_s,
                base_rate=base,
                regression_rate=worse * base,
                steps=(PlannedStep(weight_bp),),
                spec=spec,
            )
        )
        for spec in (ONLY_ERRORS, GUARDED)
    )
    assert guarded_.steps[0].detect.engine.time_s >= by_hand.steps[0].detect.engine.time_s * (1.0 - 1e-9)
    assert guarded_.engine.healthy == by_hand.engine.healthy


def test_proof_by_hand() -> None:
    # Half of the traffic each, p = 0.5 against p_c >= p_s + 0.2: by symmetry the nearest pair is (0.4, 0.6).
    spec = margins(1.0, 0.2)
    step = forecast(question(base_rate=0.5, regression_rate=0.9, steps=(PlannedStep(5000),), spec=spec)).steps[0]
    per_request = 0.5 * math.log(0.5 / 0.4) + 0.5 * math.log(0.5 / 0.6)
    assert step.prove.limit.time_s == pytest.approx(math.log(20) / per_request / 50.0)
    assert step.prove.limit.canary_requests == pytest.approx(math.log(20) / per_request / 2.0)
    assert step.prove.engine.time_s == pytest.approx((math.log(20) + PRICE_PROVE_NATS) / per_request / 50.0)


def test_latency_by_hand() -> None:
    step = forecast(question(spec=AnalysisSpec(), requests_per_s=1e5)).steps[0]
    assert step.latency_prove is not None and step.latency_convict is not None
    assert step.latency_prove.limit.slices == pytest.approx(math.log(20) / math.log(1.05))
    # The largest stake, which has half of the wealth: 1 + 0.95 / 0.95 * 0.05.
    assert step.latency_prove.engine.slices == pytest.approx(math.log(2 * 20) / math.log(1.05))
    assert step.latency_prove.engine.time_s == pytest.approx(step.latency_prove.engine.slices, rel=1e-4)
    # K = 4 of shares, three quantiles: at least log2(4 * 3 * 100) slices.
    assert math.log2(1200) <= step.latency_convict.engine.slices <= 12


def test_a_slice_waits_for_the_canary() -> None:
    # 0.1 canary requests a second: a second, then with probability exp(-0.1) ten more on average.
    step = forecast(question(spec=AnalysisSpec(), requests_per_s=10.0)).steps[0]
    assert step.latency_prove is not None
    length_s = 1.0 + math.exp(-0.1) * 10.0
    warm_s = 50 / 9.9
    assert step.latency_prove.engine.time_s == pytest.approx(warm_s + step.latency_prove.engine.slices * length_s)


def test_the_first_step_carries_the_proof_and_the_others_their_floors() -> None:
    answer = forecast(question())
    first = answer.steps[0].prove.engine.time_s
    healthy = answer.engine.healthy
    assert (healthy.outcome, healthy.proven_in_step) == ("promoted", 1)
    assert healthy.proven_at_s == pytest.approx(first)
    assert healthy.entered_s == pytest.approx((0.0, first, first + 60.0, first + 120.0))
    assert healthy.at_s == pytest.approx(first + 180.0)


def test_a_step_lasts_until_its_canary_requests_have_come() -> None:
    # 400 canary requests at 1 % of 50 a second.
    answer = forecast(
        question(steps=(PlannedStep(100, 60.0, 400), PlannedStep(5000, 60.0, 100)), spec=margins(1.5, 0.5))
    )
    assert answer.steps[0].floor_s == pytest.approx(800.0)
    assert answer.engine.healthy.entered_s == pytest.approx((0.0, 800.0))
    assert answer.steps[0].proves_within_floor


def test_a_regression_outside_the_margin_is_held_at_the_first_weight() -> None:
    answer = forecast(question(regression_rate=0.05))
    regressed = answer.engine.regressed
    assert (regressed.outcome, regressed.step, regressed.proven_in_step) == ("detected", 1, None)
    assert regressed.at_s == pytest.approx(answer.steps[0].detect.engine.time_s)
    assert answer.decidable and proposals(answer) == ()


def test_evidence_is_kept_from_step_to_step() -> None:
    # Well within the margin: the ladder climbs by its floors while evidence against the canary adds up.
    answer = forecast(question(regression_rate=0.04, spec=margins(1.5, 0.5), requests_per_s=30.0))
    regressed, steps = answer.engine.regressed, answer.steps
    assert (regressed.outcome, regressed.step) == ("detected", 3) and regressed.proven_in_step == 1
    stays = [b - a for a, b in zip(regressed.entered_s, (*regressed.entered_s[1:], regressed.at_s), strict=True)]
    shares = [stay / step.detect.engine.time_s for stay, step in zip(stays, steps, strict=False)]
    assert math.fsum(shares) == pytest.approx(1.0)


# --- plans that cannot be decided ---


def test_a_deadline_before_the_proof_is_a_problem_with_ways_out() -> None:
    answer = forecast(question(regression_rate=0.05, deadline_s=600.0, spec=AnalysisSpec()))
    assert answer.problems == ("promotion_too_late",)
    ways = {proposal.changes: proposal for proposal in proposals(answer)}
    assert set(ways) == {("weights",), ("margin",), ("deadline",)}
    assert ways["weights",].steps[0].weight_bp > 100
    assert 0.01 < ways["margin",].margin_delta <= 0.04
    assert ways["deadline",].deadline_s > answer.engine.healthy.at_s


def test_a_margin_that_lets_the_regression_through_is_narrowed() -> None:
    # 1 % to 1.5 % with 5 points tolerated: promoted after the floors.
    answer = forecast(question(regression_rate=0.015, spec=margins(1.5, 0.05)))
    assert answer.problems == ("regression_let_through",)
    found = proposals(answer)
    assert found and all(proposal.margin_delta <= 0.005 for proposal in found)


def test_no_margin_at_all_can_never_be_proven() -> None:
    answer = forecast(question(spec=margins(1.0, 0.0)))
    assert answer.problems[0] == "promotion_never" and answer.engine.healthy.at_s == math.inf
    assert all("margin" in proposal.changes for proposal in proposals(answer)) and proposals(answer)


def test_when_neither_weights_nor_margin_are_enough_the_deadline_moves_too() -> None:
    answer = forecast(question(spec=margins(1.0, 0.0), requests_per_s=0.001))
    (proposal,) = proposals(answer)
    assert proposal.changes == ("margin", "deadline") and forecast(question_with(answer.question, proposal)).decidable


def test_latency_without_a_margin_can_never_be_proven_and_nothing_is_proposed() -> None:
    spec = AnalysisSpec(latency=LatencySpec(margin_delta=0.0))
    answer = forecast(question(spec=spec))
    assert answer.problems == ("promotion_never",) and proposals(answer) == ()


# --- properties ---

rates_per_s = st.floats(0.01, 1e5)
base_rates = st.floats(1e-4, 0.3)
ladders = st.lists(st.integers(10, 5000), min_size=1, max_size=5, unique=True).map(
    lambda weights: tuple(PlannedStep(weight_bp, 30.0, 50) for weight_bp in sorted(weights))
)


@st.composite
def questions(draw: st.DrawFn) -> Question:
    base = draw(base_rates)
    return question(
        requests_per_s=draw(rates_per_s),
        base_rate=base,
        regression_rate=base * draw(st.floats(1.05, 3.0)),
        steps=draw(ladders),
        deadline_s=draw(st.floats(60.0, 1e6)),
        spec=margins(draw(st.floats(1.0, 3.0)), draw(st.floats(0.0, 0.1)), AnalysisSpec(burst_s=0.0)),
    )


def times(answer: Forecast) -> dict[str, list[float]]:
    """What each step needs, by what it is needed for."""
    steps = answer.steps
    return {
        "detect": [need.time_s for step in steps for need in (step.detect.limit, step.detect.engine)],
        "prove": [need.time_s for step in steps for need in (step.prove.limit, step.prove.engine)],
        "latency": [step.latency_prove.engine.time_s for step in steps if step.latency_prove],
        "floor": [step.floor_s for step in steps],
        "promotion": [answer.limit.healthy.at_s, answer.engine.healthy.at_s],
    }


def never_longer(after: list[float], before: list[float]) -> bool:
    return all(a <= b * (1.0 + 1e-4) for a, b in zip(after, before, strict=True))


@given(questions(), st.floats(1.0, 100.0))
def test_more_traffic_never_takes_longer(asked_: Question, factor: float) -> None:
    more = msgspec.structs.replace(asked_, requests_per_s=asked_.requests_per_s * factor)
    before, after = times(forecast(asked_)), times(forecast(more))
    assert all(never_longer(after[name], before[name]) for name in before)


@given(questions(), st.floats(1.0, 3.0))
def test_a_larger_regression_never_takes_longer_to_detect_at_a_weight(asked_: Question, factor: float) -> None:
    larger = asked_.regression_rate * factor
    assume(larger < 1.0)
    before, after = forecast(asked_), forecast(msgspec.structs.replace(asked_, regression_rate=larger))
    assert never_longer(times(after)["detect"], times(before)["detect"])
    if before.engine.regressed.proven_in_step is None and before.engine.regressed.outcome == "detected":
        assert after.engine.regressed.at_s <= before.engine.regressed.at_s * (1.0 + 1e-4)


@given(questions(), st.floats(1.0, 2.0), st.floats(0.0, 0.2))
def test_a_larger_margin_never_takes_longer_to_prove(asked_: Question, ratio: float, delta: float) -> None:
    old = asked_.rate_spec
    spec = margins(old.margin_ratio * ratio, old.margin_delta + delta, asked_.spec)
    before, after = times(forecast(asked_)), times(forecast(msgspec.structs.replace(asked_, spec=spec)))
    assert never_longer(after["prove"], before["prove"]) and never_longer(after["promotion"], before["promotion"])


@given(questions())
def test_the_engine_is_never_ahead_of_the_limit(asked_: Question) -> None:
    answer = forecast(asked_)
    for step in answer.steps:
        assert step.detect.limit.time_s <= step.detect.engine.time_s
        assert step.prove.limit.time_s <= step.prove.engine.time_s
    assert answer.limit.healthy.at_s <= answer.engine.healthy.at_s


@given(questions())
def test_every_proposal_asked_again_can_be_decided(asked_: Question) -> None:
    answer = forecast(asked_)
    found = proposals(answer)
    assert not (found and answer.decidable)
    for proposal in found:
        again = forecast(question_with(asked_, proposal))
        assert again.decidable and again.engine == proposal.outlook
    # A longer deadline always helps who can be proven at all, unless the regression is too small to matter.
    if (
        answer.engine.regressed.at_s < math.inf
        and answer.problems
        and "regression_let_through" not in answer.problems
        and "promotion_never" not in answer.problems
    ):
        assert any(proposal.changes == ("deadline",) for proposal in found)


# --- bad questions ---


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"requests_per_s": 0.0}, "more than 0 requests per second"),
        ({"requests_per_s": math.nan}, "more than 0 requests per second"),
        ({"requests_per_s": math.inf}, "more than 0 requests per second"),
        ({"base_rate": 0.0}, "base rate must lie between 0 and 1"),
        ({"base_rate": 1.0}, "base rate must lie between 0 and 1"),
        ({"regression_rate": 1.2}, "regression's rate must lie between 0 and 1"),
        ({"regression_rate": math.nan}, "regression's rate must lie between 0 and 1"),
        ({"regression_rate": 0.01}, "not worse than the base rate"),
        ({"regression_rate": 0.005}, "not worse than the base rate"),
        ({"deadline_s": 0.0}, "deadline must be more than 0"),
        ({"steps": ()}, "at least one step"),
        ({"steps": (PlannedStep(0),)}, "between 0 and 100 %"),
        ({"steps": (PlannedStep(500), PlannedStep(10_000))}, "step 2 has 100 %"),
        ({"steps": (PlannedStep(500), PlannedStep(500))}, "rising order"),
        ({"steps": (PlannedStep(500, -1.0),)}, "0 or more"),
        ({"steps": (PlannedStep(500, math.nan),)}, "0 or more"),
        ({"metric": "latency"}, "errors, client_errors, overload"),
        ({"metric": "overload"}, "only reports"),
    ],
)
def test_a_question_without_an_answer_says_what_to_ask(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidValueError, match=says):
        question(**changes)


# --- stable's bad moments ---


def test_bad_moments_of_stable_are_expected_of_the_canary_and_longer_ones_need_a_longer_burst() -> None:
    assert forecast(question()).moments is None, "nothing is known"
    assert forecast(question(weather=Weather(59.0, 1.0, 1.0, 1.0))).moments is None
    guarded = msgspec.structs.replace(ONLY_ERRORS, burst_s=0.3, learn_bursts=False)
    dense = {"requests_per_s": 2000.0, "regression_rate": 0.1, "spec": guarded}
    answer = forecast(question(weather=Weather(3600.0, 12.0, 1.4, 2.26), **dense))
    moments = answer.moments
    assert moments is not None
    assert moments.expected == pytest.approx(12.0 * answer.engine.healthy.at_s / 3600.0)
    assert moments.burst_s == 2.3
    with_it = msgspec.structs.replace(answer.question.spec, burst_s=2.3)
    assert (
        moments.detect_s
        == forecast(question(**dense | {"spec": with_it})).engine.regressed.at_s
        > answer.engine.regressed.at_s
    )
    short = forecast(question(weather=Weather(3600.0, 40.0, 0.2, 0.3), **dense)).moments
    assert short is not None and (short.burst_s, short.detect_s) == (0.0, answer.engine.regressed.at_s)
    learnt = msgspec.structs.replace(guarded, learn_bursts=True)
    known = forecast(question(weather=Weather(3600.0, 12.0, 1.4, 2.26), **dense | {"spec": learnt})).moments
    assert known is not None and (known.burst_s, known.excused_s) == (0.0, 4.52)


def test_what_is_learnt_of_stable_takes_its_time_from_a_conviction() -> None:
    learnt = msgspec.structs.replace(ONLY_ERRORS, burst_s=0.3, learn_bursts=True)
    dense = {"requests_per_s": 2000.0, "regression_rate": 0.1, "spec": learnt}
    found_s = []
    for weather in (Weather(3600.0), Weather(3600.0, 12.0, 1.4, 2.3, 60.0), Weather(3600.0, 1200.0, 0.3, 0.3, 2.0)):
        answer = forecast(question(weather=weather, **dense))
        assert answer.moments is not None
        assert answer.moments.detect_s == answer.engine.regressed.at_s > answer.limit.regressed.at_s
        found_s.append(answer.engine.regressed.at_s)
    calm_s, long_s, often_s = found_s
    assert calm_s < often_s and calm_s + 2.0 < long_s, "long moments and frequent ones make verdicts slower"
    dead = forecast(question(weather=Weather(3600.0, 12.0, 1.4, 2.3, 60.0), **dense | {"regression_rate": 0.99}))
    assert 4.6 <= dead.engine.regressed.at_s <= 5.6, "it outlasts what is excused"


@given(st.floats(0.01, 1e4), st.floats(5.0, 30.0), st.floats(0.1, 12.0), st.floats(0.0, 2000.0))
def test_a_plan_never_says_less_than_without_moments(
    nats_per_s: float, needed: float, longest_s: float, n: float
) -> None:
    rule = trimmed.rule(Weather(3600.0, n, longest_s, longest_s, 10.0))
    assert rule is not None
    plain_s = (needed + 1.8) / nats_per_s
    assert plain_s * (1.0 - 1e-9) <= excused.conviction_s(rule, needed, 1.8, nats_per_s) < math.inf
