"""What people are shown: effects that hold what is true, quantiles, and what is still needed."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from gateway.core.analysis import (
    AnalysisSpec,
    EventSpec,
    Evidence,
    GuardrailSpec,
    LatencySpec,
    explained,
    fresh_state,
    judge,
    restore,
)
from gateway.core.analysis.betting.eprocess import worse_by_margin
from gateway.core.analysis.bursts import guard
from gateway.core.analysis.bursts.past import Weather
from gateway.core.analysis.metrics.outcomes import OUTCOMES
from gateway.core.analysis.show.explain import likely
from gateway.core.analysis.sizing.limit import information, requests_at_limit
from gateway.core.analysis.spec import RATE_METRICS, Unit, Worse
from gateway.core.analysis.types import Analysis, Finding, Verdict
from gateway.core.stats import Counts, EpochCounts
from gateway.core.stats.counts import SESSION_EVENTS

Make = Callable[..., Any]
SPEC = AnalysisSpec(
    duration=LatencySpec(),
    events=(
        EventSpec("clicked", worse=Worse.DIFFERENT),
        EventSpec("bought", worse=Worse.LOWER),
        EventSpec("voted", unit=Unit.SLICE),
        EventSpec("never"),
    ),
    guardrails=(GuardrailSpec("errors", 0.5), GuardrailSpec("latency", 0.1, threshold_us=100_000)),
)


def shown(world: Any, analysis: Analysis) -> dict[str, Finding]:
    return {found.metric: found for found in explained(world.state, analysis).findings}


@pytest.fixture(scope="module")
def findings(make_world: Make) -> dict[str, Finding]:
    world = make_world(1, weight_bp=2_000, spec=SPEC)
    world.errors = [0.02, 0.03]
    for _ in range(150):
        for _ in range(20):
            world.request()
        for counts, n, k in ((world.epochs[-1].stable, 16, 4), (world.epochs[-1].canary, 4, 1)):
            counts.assigned = counts.requests
            for name in ("clicked", "bought", "voted"):
                for i in range(n):
                    counts.label(name, i < k)
        analysis = world.judge()
    return shown(world, analysis)


def test_a_rate_has_its_difference_and_ratio_with_both_ends(findings: dict[str, Finding]) -> None:
    details = findings["errors"].details
    for name in ("stable_rate", "canary_rate", "difference", "ratio"):
        assert details[f"{name}_low"] <= details[name] <= details[f"{name}_high"], name
    assert details["difference_low"] <= 0.01 <= details["difference_high"]
    assert details["ratio_low"] <= 1.5 <= details["ratio_high"]


def test_latencies_have_quantiles_of_both_arms(findings: dict[str, Finding]) -> None:
    for metric in ("latency", "duration"):
        details = findings[metric].details
        for arm in ("stable", "canary"):
            assert details[f"{arm}_p50_us_low"] <= 2_000 <= details[f"{arm}_p50_us_high"]
            assert 2_500 < details[f"{arm}_p95_us"] < 6_000


def test_what_is_still_needed_is_said_in_requests_and_time(findings: dict[str, Finding]) -> None:
    found = findings["client_errors"]
    assert found.verdict in (Verdict.UNDECIDED, Verdict.PASS)
    undecided = [f for f in findings.values() if "canary_needed" in f.details]
    assert undecided
    for finding in undecided:
        unit = "trials" if finding.metric in ("clicked", "bought", "voted", "never") else "requests"
        assert f"canary {unit} more at this effect to be " in finding.reason
        # 20 requests in a tick of 0.1 s, a fifth of them the canary's.
        assert finding.details["needed_s"] == pytest.approx(finding.details["canary_needed"] / 40, rel=0.2, abs=1.0)


def test_the_need_is_that_of_the_information_limit(make_world: Make) -> None:
    world = make_world(3, weight_bp=2_000)
    entry = world.epochs[-1]
    for _ in range(3):
        entry.stable.requests, entry.canary.requests = entry.stable.requests + 80, entry.canary.requests + 20
        analysis = world.judge()
    found = shown(world, analysis)["overload"]
    spec, alpha = world.spec, world.spec.alpha_promote
    null = worse_by_margin(spec.overload.margin_ratio, spec.overload.margin_delta)
    at_limit = requests_at_limit(likely(found), null, 0.2, alpha)
    left = 1.0 - found.log_e_ok / math.log(1 / alpha)
    assert found.details["canary_needed"] == pytest.approx(math.ceil(0.2 * at_limit * left), abs=1.0)


def test_where_failures_clump_more_is_needed_by_as_much(make_world: Make) -> None:
    world = make_world(4, weight_bp=2_000)
    entry = world.epochs[-1]
    for look in range(200):
        # Each arm pauses for 300 ms, every four seconds, never both.
        paused = look % 40 < 3, look % 40 in (20, 21, 22)
        for counts, requests, failing in ((entry.stable, 16, paused[0]), (entry.canary, 4, paused[1])):
            counts.requests += requests
            counts.enter("errors", requests * failing)
        analysis = world.judge()
    found = shown(world, analysis)["errors"]
    assert "to be proven" in found.reason, found.reason
    state = OUTCOMES.own(world.state).metrics[0]
    believed = guard.guarded_ok(1.0, state.bursts)
    assert believed < 0.2
    spec, missing = world.spec, math.log(1 / world.spec.alpha_promote) - found.log_e_ok
    null = worse_by_margin(spec.errors.margin_ratio, spec.errors.margin_delta)
    per_request = believed * information(likely(found), null, 0.2)
    assert found.details["canary_needed"] == pytest.approx(0.2 * missing / per_request, rel=0.01, abs=1.0)


def test_what_is_needed_is_shown_in_the_metrics_own_unit() -> None:
    spec = AnalysisSpec(sticky=True, alpha_sample_ratio=0.0)
    labels = SESSION_EVENTS.values()
    arms = [Counts(10 * n, trials=dict.fromkeys(labels, n)) for n in (400, 100)]
    state = fresh_state(spec)
    for epoch in (1, 2):
        state, analysis = judge(spec, state, Evidence(epoch, (EpochCounts("r", epoch, 2000, arms[0], arms[1]),)))
    found = explained(state, analysis).findings[0]
    assert " canary sessions more at this effect to be proven" in found.reason, found.reason


def test_every_kind_of_metric_can_be_shown_and_sent(findings: dict[str, Finding]) -> None:
    assert set(findings) == {
        *RATE_METRICS,
        *("latency", "duration", "clicked", "bought", "voted", "never"),
        *("guardrail:errors", "guardrail:latency>100ms", "missing_outcomes", "sample_ratio"),
    }
    assert findings["never"].verdict is Verdict.NODATA and "no trials of either version yet" in findings["never"].reason
    for finding in findings.values():
        assert all(math.isfinite(value) for value in finding.details.values()), finding.metric
        assert msgspec.json.decode(msgspec.json.encode(finding), type=Finding) == finding
    limit = findings["guardrail:errors"].details
    assert limit["canary_rate_low"] <= 0.03 <= limit["canary_rate_high"]


def test_a_rollout_that_is_over_has_no_forecast(make_world: Make) -> None:
    world = make_world(3)
    for _ in range(60):
        analysis = world.tick()
    both = (explained(world.state, analysis, forecast=one).findings for one in (True, False))
    said = [" ".join(f"{found.reason} {sorted(found.details)}" for found in findings) for findings in both]
    assert " more at this " in said[0] and "canary_needed" in said[0]
    assert " more at this " not in said[1] and "needed_s" not in said[1] and "canary_needed" not in said[1]
    assert "difference_low" in said[1], "what was seen is shown all the same"


def test_showing_changes_no_verdict_and_a_refusal_is_shown_as_it_is(make_world: Make) -> None:
    world = make_world(2)
    analysis = world.tick()
    again = explained(world.state, analysis)
    assert [(f.verdict, f.log_e_bad, f.log_e_ok) for f in again.findings] == [
        (f.verdict, f.log_e_bad, f.log_e_ok) for f in analysis.findings
    ]
    assert (again.verdict, again.reason, again.causes) == (analysis.verdict, analysis.reason, analysis.causes)
    refused = judge(world.spec, world.state, Evidence(math.nan, ()))[1]
    assert explained(world.state, refused) == refused


def test_an_analysis_that_is_older_than_its_state_can_be_shown(make_world: Make) -> None:
    world = make_world(4, spec=SPEC)
    analysis = world.tick()
    fresh = fresh_state(AnalysisSpec())
    assert len(explained(fresh, analysis).findings) == len(analysis.findings)


def test_a_clock_that_went_backwards_leaves_a_pace(make_world: Make) -> None:
    world = make_world(5, weight_bp=2_000)
    for _ in range(5):
        world.tick()
    world.at_s = 0.0
    for _ in range(20):
        analysis = world.tick()
    for finding in shown(world, analysis).values():
        assert finding.details.get("needed_s", 1.0) > 0.0
    assert world.state.pace.since_s < 1.0
    assert isinstance(world.epochs[-1], EpochCounts)


def test_failures_say_what_was_known_of_stables_bad_moments_when_the_rollout_began(make_world: Make) -> None:
    weather = {"errors": Weather(3600.0, 12.0, 1.4, 2.3, 60.0), "overload": Weather(3600.0)}
    world = make_world(1, weight_bp=5_000, spec=SPEC)
    world.state = fresh_state(SPEC, weather)
    for errors, verdict in (([0.02, 0.02], Verdict.UNDECIDED), ([0.01, 0.9], Verdict.FAIL)):
        world.errors = errors
        for _ in range(40):
            analysis = world.tick(20)
        found = shown(world, analysis)["errors"]
        assert found.verdict is verdict, world.seed
        assert "12 bad moments in the 60 min before, 1.4 s long on average and at most 2.3 s" in found.reason
        assert (found.details["bad_moments"], found.details["bad_moment_longest_s"]) == (12.0, 2.3)
    assert "12 bad moments" in analysis.reason
    assert "failures within 0.3 s count as about one" not in analysis.reason
    overload = shown(world, analysis)["overload"]
    assert "moment" not in overload.reason and overload.details["stable_known_s"] == 3600.0
    assert "bad_moments" not in shown(world, analysis)["not_found"].details, "nothing is known of it"
    assert restore(world.state.encode()).weather == weather
