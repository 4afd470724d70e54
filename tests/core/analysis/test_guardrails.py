"""Guardrails: a limit is crossed on proof, whatever stable does, and a canary on the right side of it is left alone."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import pytest

from gateway.core.analysis import (
    AnalysisSpec,
    Evidence,
    GuardrailSpec,
    LatencySpec,
    Mode,
    fresh_state,
    judge,
)
from gateway.core.analysis.metrics.guardrails import ODDS_RATIOS, request_gains, seen, slice_gains
from gateway.core.analysis.types import Analysis
from gateway.core.errors import InvalidValueError
from gateway.core.stats import Counts, EpochCounts, bucket_of
from tests.support.specs import silent


def only(*guardrails: GuardrailSpec) -> AnalysisSpec:
    """A spec in which these guardrails alone decide."""
    off = LatencySpec(mode=Mode.OFF)
    return AnalysisSpec(**silent(), latency=off, guardrails=guardrails)


@pytest.mark.parametrize("limit", [1e-6, 0.001, 0.01, 0.3, 0.99])
def test_below_the_limit_every_guess_has_a_mean_of_at_most_one(limit: float) -> None:
    for share in (0.0, 0.2, 0.9, 1.0):
        rate, n = share * limit, 4
        for guess in range(len(ODDS_RATIOS)):
            mean = sum(
                math.comb(n, k) * rate**k * (1 - rate) ** (n - k) * math.exp(request_gains(limit, k, n)[guess])
                for k in range(n + 1)
            )
            assert mean <= 1 + 1e-12, (limit, rate, guess)


@pytest.mark.parametrize("limit", [1e-6, 0.01, 0.3, 0.99])
def test_a_slice_with_a_mean_below_the_limit_has_bets_of_mean_at_most_one(limit: float) -> None:
    for high in (0.25, 0.5, 1.0):
        p = min(limit / high, 1.0)
        up, down = slice_gains(limit, round(1000 * high), 1000), slice_gains(limit, 0, 1000)
        for a, b in zip(up, down, strict=True):
            assert p * math.exp(a) + (1 - p) * math.exp(b) <= 1 + 1e-12, (limit, high)
    assert all(math.isfinite(gain) for gain in slice_gains(limit, 1000, 1000))


def run(spec: AnalysisSpec, seed: int, rate: float, ticks: int = 200, stable: float = 0.0) -> Analysis:
    rng, state, entry = random.Random(seed), fresh_state(spec), EpochCounts("r", 1, 2_000)
    for tick in range(1, ticks + 1):
        for counts, p, n in ((entry.stable, stable, 16), (entry.canary, rate, 4)):
            for _ in range(n):
                event = rng.random() < p
                counts.requests += 1
                counts.enter("errors", event)
                counts.label("nan", event)
                bucket = bucket_of(900_000 if event else 1_000)
                counts.latency[bucket] = counts.latency.get(bucket, 0) + 1
        state, analysis = judge(spec, state, Evidence(0.1 * tick, (entry,)))
        if analysis.verdict == "FAIL":
            break
    return analysis


LIMITS = [
    GuardrailSpec("errors", 0.05),
    GuardrailSpec("nan", 0.05),
    GuardrailSpec("latency", 0.05, threshold_us=200_000, slice_s=0.5),
]


@pytest.mark.parametrize("guardrail", LIMITS, ids=lambda one: one.name)
def test_a_crossing_is_fail_with_the_guardrail_as_its_cause_even_if_stable_crosses_it_too(
    guardrail: GuardrailSpec,
) -> None:
    analysis = run(only(guardrail), 3, 0.4, stable=0.4)
    assert analysis.verdict == "FAIL" and analysis.causes == (guardrail.name,)
    assert "beyond its limit" in analysis.reason and "5 %" in analysis.reason


@pytest.mark.parametrize("guardrail", LIMITS, ids=lambda one: one.name)
def test_a_canary_below_the_limit_is_left_alone(guardrail: GuardrailSpec) -> None:
    alarms = [seed for seed in range(20) if run(only(guardrail), seed, 0.04, 100).verdict == "FAIL"]
    assert not alarms, alarms


def test_watched_at_every_tick_a_canary_on_the_limit_is_convicted_less_often_than_alpha() -> None:
    off = LatencySpec(mode=Mode.OFF)
    spec = AnalysisSpec(alpha_rollback=0.1, **silent(), latency=off, guardrails=(GuardrailSpec("errors", 0.05),))
    alarms = sum(run(spec, seed, 0.05, 100).verdict == "FAIL" for seed in range(60))
    # 10 % of 60 is 6; more than 13 would happen less than once in 200.
    assert alarms <= 13, f"{alarms} false alarms of 60, seeds 0..59"


def test_a_guardrail_without_data_says_so() -> None:
    spec = only(GuardrailSpec("errors", 0.05), GuardrailSpec("latency", 0.01, threshold_us=200_000))
    analysis = judge(spec, fresh_state(spec), Evidence(1.0, ()))[1]
    guards = [finding for finding in analysis.findings if finding.guardrail]
    assert [finding.verdict for finding in guards] == ["NODATA", "NODATA"]
    assert all(finding.reason.endswith("%: no canary trials yet") for finding in guards)


def test_a_guardrail_never_passes_and_does_not_hold_a_pass_back() -> None:
    alone = run(only(GuardrailSpec("errors", 0.5)), 1, 0.0)
    assert (alone.verdict, alone.findings[0].verdict) == ("UNDECIDED", "UNDECIDED")
    assert "only guardrails decide" in alone.reason
    spec = AnalysisSpec(
        **silent("errors"),
        latency=LatencySpec(mode=Mode.OFF),
        guardrails=(GuardrailSpec("errors", 0.5),),
    )
    assert run(spec, 1, 0.0, 400).verdict in ("PASS", "UNDECIDED")
    state, entry = fresh_state(spec), EpochCounts("r", 1, 2_000, Counts(40_000), Counts(10_000))
    assert judge(spec, state, Evidence(1.0, (entry,)))[1].verdict == "PASS"


def test_who_left_before_the_first_byte_counts_as_slow_once_they_had_waited_long_enough() -> None:
    spec = GuardrailSpec("latency", 0.01, threshold_us=200_000)
    counts = Counts(2, latency={bucket_of(1_000): 2}, aborted={bucket_of(900_000): 3, bucket_of(100): 4})
    assert seen(spec, counts) == (3, 9)


@pytest.mark.parametrize(
    ("build", "named"),
    [
        (lambda: GuardrailSpec("errors", 0.0), "limit"),
        (lambda: GuardrailSpec("errors", math.nan), "limit"),
        (lambda: GuardrailSpec("latency", 0.01), "threshold_us"),
        (lambda: GuardrailSpec("errors", 0.01, threshold_us=5), "threshold_us"),
        (lambda: GuardrailSpec("Errors", 0.01), "neither"),
        (lambda: GuardrailSpec("errors", 0.01, share=0.0), "share"),
        (lambda: only(GuardrailSpec("errors", 0.1), GuardrailSpec("errors", 0.2)), "twice"),
    ],
)
def test_a_guardrail_that_cannot_be_crossed_cannot_be_made(build: Callable[[], object], named: str) -> None:
    with pytest.raises(InvalidValueError, match=named):
        build()
