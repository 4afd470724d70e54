"""The judge: what it must convict, what it must pass, what it must refuse, and that it is pure."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.analysis import (
    Analysis,
    AnalysisSpec,
    AnalysisState,
    Evidence,
    LatencySpec,
    MetricShares,
    Mode,
    RateSpec,
    Verdict,
    fresh_state,
    judge,
    restore,
)
from gateway.core.analysis.metrics.latencies import LATENCIES
from gateway.core.analysis.metrics.outcomes import OUTCOMES
from gateway.core.analysis.spec import RATE_METRICS
from gateway.core.errors import EvidenceError, InvalidValueError
from gateway.core.stats import Counts, EpochCounts
from gateway.core.stats.counts import check_entry, merge
from tests.support.specs import silent

Make = Callable[..., Any]
SPEC = AnalysisSpec()


def finding(analysis: Analysis, metric: str) -> Any:
    return next(found for found in analysis.findings if found.metric == metric)


def restored(state: AnalysisState) -> AnalysisState:
    return restore(msgspec.json.encode(state))


# What must be convicted.


# At small weights each failure is worth up to log(1 / weight); at a half it is worth log 2, however dead the canary is:
# log(200) / log(2) = 7.6 requests, 3.8 of them the canary's, is the limit there. After a healthy life the late starts
# (wealth.py) cost some more.
@pytest.mark.parametrize(
    ("weight_bp", "warm", "most"),
    [
        *((100, 0, 4), (500, 0, 4), (1_000, 0, 5), (2_500, 0, 10), (5_000, 0, 18)),
        *((100, 2_000, 8), (500, 2_000, 8), (1_000, 2_000, 10), (2_500, 2_000, 16), (5_000, 2_000, 32)),
    ],
)
def test_a_dead_canary_is_convicted_after_a_few_of_its_requests(
    make_world: Make, weight_bp: int, warm: int, most: int
) -> None:
    for seed in range(6):
        world = make_world(seed, weight_bp=weight_bp)
        for _ in range(warm // 20):
            world.tick(20)
        healthy = world.canary_requests
        world.errors[1] = 1.0
        analysis = world.until("FAIL", 5_000, requests=1)
        assert analysis.verdict is Verdict.FAIL and analysis.causes == ("errors",), f"seed {seed}: {analysis.reason}"
        failed = world.canary_requests - healthy
        assert failed <= most, f"seed {seed}: convicted after {failed} failures"


def test_a_fifth_of_failures_at_five_percent_is_convicted_within_3000_requests(make_world: Make) -> None:
    for seed in range(10):
        world = make_world(seed)
        world.errors[1] = 0.2
        analysis = world.until("FAIL", 150)
        assert analysis.verdict is Verdict.FAIL, f"seed {seed}: {analysis.reason}"
        assert "errors" in analysis.causes


def test_a_canary_slower_by_40_ms_is_convicted_within_14_slices(make_world: Make) -> None:
    for seed in range(5):
        world = make_world(seed)
        world.added_us[1] = 40_000
        analysis = world.until("FAIL", 200)
        assert analysis.verdict is Verdict.FAIL and analysis.causes == ("latency",), f"seed {seed}: {analysis.reason}"
        assert LATENCIES.own(world.state)["latency"].slices <= 14, f"seed {seed}"
        assert "errors" not in analysis.reason


# What must not be convicted.


def test_equal_arms_watched_at_every_tick_are_convicted_less_often_than_alpha(make_world: Make) -> None:
    spec = AnalysisSpec(alpha_rollback=0.05, latency=LatencySpec(tolerance_ratio=1.0, tolerance_us=0, slice_s=0.3))
    runs, alarms = 100, 0
    for seed in range(runs):
        world = make_world(seed, weight_bp=100, spec=spec, rps=150)
        for weight_bp in (500, 2_000, 5_000):
            world.set_weight(weight_bp)
            world.errors = [rate + 0.01 for rate in world.errors]
            world.median_us = [1.3 * median for median in world.median_us]
            if world.until("FAIL", 12).verdict is Verdict.FAIL:
                alarms += 1
                break
    # 5 % of 100 is 5; more than 11 would happen less than once in 200.
    assert alarms <= 11, f"{alarms} false alarms in {runs} runs, seeds 0..{runs - 1}"


def test_a_canary_within_the_latency_tolerance_is_not_convicted(make_world: Make) -> None:
    for seed in range(5):
        world = make_world(seed, weight_bp=2_000)
        world.added_us[1] = 1_500
        assert world.until("FAIL", 200).verdict is not Verdict.FAIL, f"seed {seed}"


def test_a_canary_whose_answers_are_still_in_flight_is_not_convicted_of_failing(make_world: Make) -> None:
    world = make_world(0)
    stable = world.epochs[-1].stable
    for _ in range(100):
        for _ in range(95):
            world.answer(stable, False, 2_000)
        analysis = world.judge()
    assert analysis.verdict is Verdict.NODATA
    assert finding(analysis, "errors").log_e_bad == pytest.approx(0.0, abs=1e-9)
    for _ in range(5):
        world.answer(world.epochs[-1].canary, False, 900_000)
    assert finding(world.judge(), "errors").log_e_bad <= 0.0


# What must be passed.


def test_a_healthy_canary_is_passed_within_70_slices_and_1500_canary_requests(make_world: Make) -> None:
    for seed in range(3):
        world = make_world(seed, weight_bp=1_000)
        analysis = world.until("PASS", 720)
        assert analysis.verdict is Verdict.PASS, f"seed {seed}: {analysis.reason}"
        assert LATENCIES.own(world.state)["latency"].slices <= 70 and world.canary_requests <= 1_500, f"seed {seed}"
        proven = {found.metric for found in analysis.findings if found.verdict is Verdict.PASS}
        assert proven == {*RATE_METRICS, "latency"}, f"seed {seed}"


def test_a_canary_that_turns_bad_loses_its_pass(make_world: Make) -> None:
    world = make_world(1, weight_bp=2_000, spec=AnalysisSpec(latency=LatencySpec(mode=Mode.ADVISE)))
    assert world.until("PASS", 400).verdict is Verdict.PASS
    world.errors[1] = 0.1
    seen = {world.tick().verdict for _ in range(150)}
    assert Verdict.FAIL in seen
    assert world.tick().verdict is Verdict.FAIL


# No news is no good news.


def test_no_canary_request_is_nodata(make_world: Make) -> None:
    assert judge(SPEC, fresh_state(SPEC), Evidence(0.0, ()))[1].verdict is Verdict.NODATA
    world = make_world(0)
    world.answer(world.epochs[-1].stable, False, 2_000)
    assert world.judge().verdict is Verdict.NODATA


@pytest.mark.parametrize("weight_bp", [0, 10_000])
def test_an_epoch_without_an_experiment_adds_nothing(weight_bp: int) -> None:
    epoch = EpochCounts(
        "r", 1, weight_bp, Counts(900, latency={40: 900}), Counts(900, {"errors": 900}, latency={40: 900})
    )
    state, analysis = judge(SPEC, fresh_state(SPEC), Evidence(1.0, (epoch,)))
    assert analysis.verdict is Verdict.NODATA
    assert state == fresh_state(SPEC)


def test_metrics_that_do_not_decide_report_and_nothing_more(make_world: Make) -> None:
    world = make_world(0, spec=AnalysisSpec(errors=RateSpec(mode=Mode.ADVISE)))
    world.errors[1] = 1.0
    for _ in range(20):
        analysis = world.tick()
    assert analysis.verdict is Verdict.UNDECIDED
    assert finding(analysis, "errors").verdict is Verdict.FAIL and not finding(analysis, "errors").decides
    spec = AnalysisSpec(**silent(mode=Mode.ADVISE), latency=LatencySpec(mode=Mode.ADVISE))
    world = make_world(0, spec=spec)
    world.errors[1] = 1.0
    for _ in range(20):
        analysis = world.tick()
    assert (analysis.verdict, analysis.reason) == (
        Verdict.UNDECIDED,
        "no metric decides: all of them are set to advise or off",
    )


EQUAL = AnalysisSpec(
    **silent("errors", "client_errors", "overload"), shares=MetricShares(1, 1, 1, 1), alpha_rollback=0.1
)


@pytest.mark.parametrize(
    ("spec", "needed"),
    [
        (AnalysisSpec(), {"errors": 200, "client_errors": 960, "overload": 960, "latency": 480, "abandoned": 3_000}),
        (AnalysisSpec(), dict.fromkeys(("not_found", "redirects", "unauthorized", "other_success"), 12_000)),
        (
            AnalysisSpec(latency=LatencySpec(mode=Mode.ADVISE)),
            {"errors": 950 / 6, "client_errors": 760, "latency": 480},
        ),
        (EQUAL, dict.fromkeys(("errors", "latency"), 40)),
    ],
)
def test_alpha_is_shared_by_the_metrics_that_decide(spec: AnalysisSpec, needed: dict[str, float]) -> None:
    analysis = judge(spec, fresh_state(spec), Evidence(0.0, ()))[1]
    for metric, value in needed.items():
        assert math.exp(finding(analysis, metric).details["log_e_bad_needed"]) == pytest.approx(value)
    paid = [math.exp(-f.details["log_e_bad_needed"]) for f in analysis.findings if f.decides]
    assert math.fsum(paid) == pytest.approx(spec.alpha_rollback)


# What must be refused.


def refused(state: AnalysisState, evidence: Any, spec: AnalysisSpec = SPEC) -> str:
    """The reason of the refusal, after checking that it is one and that nothing was consumed."""
    before = msgspec.json.encode(state)
    after, analysis = judge(spec, state, evidence)
    assert analysis.verdict is Verdict.ERROR and not analysis.causes
    assert analysis.findings[0].verdict is Verdict.ERROR
    assert after is state and msgspec.json.encode(after) == before
    return analysis.reason


def one(stable: Counts, canary: Counts, epoch: Any = 1, weight_bp: Any = 500, route: str = "r") -> EpochCounts:
    return EpochCounts(route, epoch, weight_bp, stable, canary)


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        (one(Counts(8), Counts(1)), "epoch 1: counts went backwards"),
        (one(Counts(9), Counts(2), weight_bp=600), "changed its weight"),
        (one(Counts(9), Counts(1, latency={5: 1})), "latency histogram holds 1 of 0 new requests"),
        (one(Counts(9), None), "the evidence cannot be read"),  # type: ignore[arg-type]  # wrong on purpose
    ],
)
def test_evidence_that_contradicts_what_was_seen_is_refused_with_its_reason(entry: EpochCounts, said: str) -> None:
    state, _ = judge(SPEC, fresh_state(SPEC), Evidence(0.0, (one(Counts(9), Counts(1)),)))
    assert said in refused(state, Evidence(0.1, (entry,)))


@pytest.mark.parametrize("at_s", [math.nan, math.inf, -math.inf, None, "1"])
def test_a_time_that_is_not_finite_is_refused(at_s: Any) -> None:
    said = refused(fresh_state(SPEC), Evidence(at_s, ()))
    assert "an invalid time" in said or "cannot be read" in said


def test_events_that_outgrow_their_new_requests_are_refused() -> None:
    state, _ = judge(SPEC, fresh_state(SPEC), Evidence(0.0, (one(Counts(9), Counts(9)),)))
    assert "outcome classes hold 5 of 1 new requests" in refused(
        state, Evidence(0.1, (one(Counts(9), Counts(10, {"errors": 5})),))
    )


def test_epochs_that_repeat_mix_or_come_back_are_refused() -> None:
    first, second = one(Counts(9), Counts(1)), one(Counts(9), Counts(1), epoch=2)
    fresh = fresh_state(SPEC)
    assert "twice" in refused(fresh, Evidence(0.0, (first, first)))
    state, _ = judge(SPEC, fresh, Evidence(0.0, (first, second)))
    state, _ = judge(SPEC, state, Evidence(0.1, (second,)))
    assert set(state.intake.epochs) == {2}
    assert "reappeared after" in refused(state, Evidence(0.2, (first, second)))


def test_a_state_for_another_question_is_refused() -> None:
    state = fresh_state(SPEC)
    assert "settings changed" in refused(state, Evidence(0.0, ()), AnalysisSpec(alpha_rollback=0.001))


def test_a_state_that_another_gateway_made_is_not_restored() -> None:
    state = fresh_state(SPEC)
    assert restore(state.encode()) == state
    with pytest.raises(EvidenceError, match="version 99"):
        restore(msgspec.structs.replace(state, version=99).encode())
    fewer = {"latency": msgspec.structs.replace(LATENCIES.own(state)["latency"], quantiles=())}
    for name, tests in (("latencies", fewer), ("events", 5), ("guardrails", None)):
        broken = msgspec.structs.replace(state, tests={**state.tests, name: tests})
        with pytest.raises(EvidenceError, match=r"different tests|cannot be read"):
            restore(broken.encode())
    for encoded in (b"", b"{}", b"[1]", state.encode().replace(b'"guardrails"', b'"others"')):
        with pytest.raises(EvidenceError, match="cannot be read"):
            restore(encoded)


garbage = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.integers() | st.text(max_size=2), inner, max_size=3),
    max_leaves=5,
)
numbers = st.integers(-3, 50) | garbage
wild_counts = st.builds(Counts, numbers, numbers, numbers, numbers, garbage, garbage) | garbage
wild_epochs = st.builds(EpochCounts, garbage, numbers, numbers, wild_counts, wild_counts) | garbage


@settings(max_examples=200, deadline=None)
@given(garbage | st.floats(0, 9), st.lists(wild_epochs, max_size=3).map(tuple) | garbage)
def test_garbage_is_never_passed_and_never_raises(at_s: Any, epochs: Any) -> None:
    state = fresh_state(SPEC)
    after, analysis = judge(SPEC, state, Evidence(at_s, epochs))
    assert analysis.verdict is not Verdict.PASS
    assert after is state or analysis.verdict is not Verdict.ERROR


few = st.integers(-1, 9)
small_counts = st.builds(Counts, st.integers(0, 50), st.dictionaries(st.sampled_from(RATE_METRICS), few))
small_epochs = st.builds(EpochCounts, st.just("r"), few, st.integers(-1, 10_001), small_counts, small_counts)


@settings(max_examples=200, deadline=None)
@given(st.floats(0, 9), st.lists(small_epochs, max_size=3).map(tuple))
def test_whatever_passes_the_check_leaves_a_state_that_can_be_restored(
    at_s: float, epochs: tuple[EpochCounts, ...]
) -> None:
    try:
        for entry in epochs:
            check_entry(entry)
    except EvidenceError:
        return
    after, analysis = judge(SPEC, fresh_state(SPEC), Evidence(at_s, epochs))
    assert analysis.verdict is not Verdict.PASS
    assert restored(after) == after


@pytest.mark.parametrize(
    ("build", "named"),
    [
        (lambda: RateSpec(margin_ratio=0.9), "margin_ratio"),
        (lambda: RateSpec(margin_delta=math.nan), "margin_delta"),
        (lambda: LatencySpec(quantiles=()), "quantiles"),
        (lambda: LatencySpec(quantiles=(0.5, 0.5)), "quantiles"),
        (lambda: LatencySpec(quantiles=(1.0,)), "quantiles"),
        (lambda: LatencySpec(slice_s=0.0), "slice_s"),
        (lambda: LatencySpec(tolerance_us=-1), "tolerance_us"),
        (lambda: AnalysisSpec(alpha_rollback=0.0), "alpha_rollback"),
        (lambda: MetricShares(errors=0.0), "errors"),
        (lambda: MetricShares(latency=math.inf), "latency"),
        (lambda: AnalysisSpec(alpha_promote=math.nan), "alpha_promote"),
    ],
)
def test_a_spec_that_promises_nothing_cannot_be_made(build: Callable[[], object], named: str) -> None:
    with pytest.raises(InvalidValueError, match=named):
        build()


# Purity.


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32), st.lists(st.booleans(), min_size=30, max_size=30))
def test_a_snapshot_at_any_tick_goes_on_bit_for_bit(make_world: Make, seed: int, snapshots: list[bool]) -> None:
    world = make_world(seed, weight_bp=2_000, spec=AnalysisSpec(latency=LatencySpec(slice_s=0.3)))
    world.errors = [0.02, 0.1]
    other = world.state
    for i, snapshot in enumerate(snapshots):
        if i % 10 == 9:
            world.set_weight(1_000 + i)
        if snapshot:
            other = restored(other)
        analysis = world.tick()
        other, again = judge(world.spec, other, world.evidence)
        assert again == analysis
        assert other == world.state
        assert msgspec.json.encode(other) == msgspec.json.encode(world.state)


def test_neither_the_state_nor_the_evidence_is_touched(make_world: Make) -> None:
    world = make_world(3, weight_bp=3_000)
    for _ in range(30):
        world.tick()
    world.request()
    before, seen = msgspec.json.encode(world.state), msgspec.json.encode(world.evidence)
    first = judge(world.spec, world.state, world.evidence)
    assert judge(world.spec, world.state, world.evidence) == first
    assert (msgspec.json.encode(world.state), msgspec.json.encode(world.evidence)) == (before, seen)


def test_looking_again_without_news_changes_no_evidence(make_world: Make) -> None:
    world = make_world(4, weight_bp=3_000)
    before = [world.tick() for _ in range(15)][-1]
    again = world.judge(tick_s=0.0)
    assert again == before


def test_the_order_of_workers_and_epochs_does_not_matter(make_world: Make) -> None:
    rng = random.Random(5)
    workers = [make_world(seed, weight_bp=2_000) for seed in range(3)]
    states = [fresh_state(SPEC)] * 2
    for tick in range(25):
        for worker in workers:
            if tick == 12:
                worker.set_weight(4_000)
            worker.tick(10)
        entries = []
        for order in (workers, rng.sample(workers, 3)):
            epochs = [
                EpochCounts(
                    "r",
                    n + 1,
                    workers[0].epochs[n].weight_bp,
                    merge(worker.epochs[n].stable for worker in order),
                    merge(worker.epochs[n].canary for worker in order),
                )
                for n in range(len(workers[0].epochs))
            ]
            entries.append(tuple(epochs))
        states[0], a = judge(SPEC, states[0], Evidence(0.1 * tick, entries[0]))
        states[1], b = judge(SPEC, states[1], Evidence(0.1 * tick, entries[1][::-1]))
        assert a == b and states[0] == states[1]


def test_a_billion_requests_stay_finite_and_bounded() -> None:
    n = 10**9
    state = fresh_state(SPEC)
    for i in range(1, 40):
        stable = Counts(
            20 * n * i, {"client_errors": 19 * n * i, "overload": n * i}, dict.fromkeys(range(0, 900, 50), n * i)
        )
        canary = Counts(n * i, {"errors": n * i}, dict.fromkeys(range(0, 900, 50), n * i // 20))
        state, analysis = judge(SPEC, state, Evidence(float(i), (one(stable, canary),)))
        # What came before the first look, and the first seconds after it, could be bursts.
        assert analysis.verdict is Verdict.FAIL or i < 4
        assert all(math.isfinite(f.log_e_bad) and math.isfinite(f.log_e_ok) for f in analysis.findings)
    assert len(msgspec.json.encode(state)) < 25_000


def test_the_state_holds_only_epochs_in_evidence(make_world: Make) -> None:
    world = make_world(6)
    sizes = []
    for n in range(40):
        world.set_weight(100 + n)
        world.epochs = world.epochs[-2:]
        world.epochs[-1] = EpochCounts("r", n + 10, 100 + n)
        for _ in range(3):
            assert world.tick().verdict is not Verdict.ERROR
        sizes.append(len(world.state.intake.epochs) + len(OUTCOMES.own(world.state).pending))
    assert max(sizes) <= 4


def test_the_cause_is_named_with_its_numbers(make_world: Make) -> None:
    world = make_world(7)
    world.errors[1] = 0.5
    analysis = world.until("FAIL", 200)
    errors = finding(analysis, "errors")
    assert analysis.causes == ("errors",)
    assert f"canary errors {errors.canary_events} of {errors.canary_trials}" in analysis.reason
    assert "evidence that it is worse: " in analysis.reason and "(needs 200)" in analysis.reason
    assert analysis.log_e_bad >= analysis.log_e_bad_needed == pytest.approx(math.log(100))
