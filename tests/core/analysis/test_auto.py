"""Mode `auto`: a metric that decides where there is something to decide on, and is silent elsewhere."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import pytest

from gateway.core.analysis import AnalysisSpec, EventSpec, Evidence, LatencySpec, Mode, fresh_state, judge
from gateway.core.analysis.budget import bad_needed
from gateway.core.analysis.types import Analysis
from gateway.core.stats import Counts, EpochCounts, bucket_of

SPEC = AnalysisSpec(
    latency=LatencySpec(mode=Mode.OFF),
    gap=LatencySpec(mode=Mode.AUTO, slice_s=0.1),
    events=(EventSpec("model_errors", mode=Mode.AUTO),),
)
Enter = Callable[[Counts, bool, int], None]


def run(enter: Enter, ticks: int = 150, spec: AnalysisSpec = SPEC) -> list[Analysis]:
    """The analysis after each tick of 60 requests, 20 of them on the canary; ``enter`` adds to one request's counts."""
    state, entry, seen = fresh_state(spec), EpochCounts("r", 1, 3_333), []
    for tick in range(1, ticks + 1):
        for i in range(60):
            counts = entry.canary if i % 3 == 0 else entry.stable
            counts.requests += 1
            enter(counts, i % 3 == 0, 60 * tick + i)
        state, analysis = judge(spec, state, Evidence(0.1 * tick, (entry,)))
        seen.append(analysis)
        if analysis.verdict == "FAIL":
            break
    return seen


def paused(counts: Counts, gap_us: float) -> None:
    bucket = bucket_of(int(gap_us))
    counts.gap[bucket] = counts.gap.get(bucket, 0) + 1


def finding(analysis: Analysis, metric: str) -> tuple[str, bool, str]:
    (one,) = [one for one in analysis.findings if one.metric == metric]
    return one.verdict, one.must_pass, one.reason


def test_without_data_it_is_silent() -> None:
    last = run(lambda *_: None)[-1]
    assert last.verdict == "PASS", last.reason
    for metric in ("gap", "model_errors"):
        verdict, must_pass, _ = finding(last, metric)
        assert (verdict, must_pass) == ("NODATA", False)


@pytest.mark.parametrize("only", ["stable", "canary"])
def test_data_of_one_version_alone_hold_promotion_and_say_so(only: str) -> None:
    def event(counts: Counts, canary: bool, i: int) -> None:
        if canary == (only == "canary"):
            counts.label("model_errors", happened=False)

    def gap(counts: Counts, canary: bool, i: int) -> None:
        if canary == (only == "canary"):
            paused(counts, 20_000)

    for enter, metric in ((event, "model_errors"), (gap, "gap")):
        analyses = run(enter)
        assert "PASS" not in {one.verdict for one in analyses}
        verdict, must_pass, reason = finding(analyses[-1], metric)
        assert (verdict, must_pass) == ("NODATA", True)
        assert metric in analyses[-1].reason
        if metric == "gap" and only == "canary":
            assert "stable requests have none" in reason


def test_with_data_of_both_it_must_be_proven_and_convicts() -> None:
    rng = random.Random(1)

    def event(rate: float) -> Enter:
        return lambda counts, canary, i: counts.label("model_errors", happened=canary and rng.random() < rate)

    assert run(event(0.0))[-1].verdict == "PASS"
    failed = run(event(0.2))[-1]
    assert (failed.verdict, failed.causes) == ("FAIL", ("model_errors",))

    def gap(slower: float) -> Enter:
        return lambda counts, canary, i: paused(
            counts, 20_000 * math.exp(rng.gauss(0, 0.3)) * (slower if canary else 1)
        )

    assert run(gap(1.0))[-1].verdict == "PASS"
    failed = run(gap(4.0))[-1]
    assert (failed.verdict, failed.causes) == ("FAIL", ("gap",))


def test_data_that_come_late_are_judged_from_then_on() -> None:
    def late(counts: Counts, canary: bool, i: int) -> None:
        if i > 60 * 100:
            paused(counts, 80_000 if canary else 20_000)

    analyses = run(late)
    assert [one.verdict for one in analyses[80:99]] == ["PASS"] * 19
    after = [one.verdict for one in analyses[101:]]
    assert after[-1] == "FAIL" and "PASS" not in after, "from the first data on, promotion waits for their proof"


def test_a_stray_stream_holds_nothing_up_but_still_convicts() -> None:
    # One canary request in 200 has a gap: to prove them takes hours.
    def stray(counts: Counts, canary: bool, i: int) -> None:
        if i % 600 in (0, 1):
            paused(counts, 20_000)

    last = run(stray, 300)[-1]
    assert last.verdict == "PASS", last.reason
    assert "does not hold up promotion" in finding(last, "gap")[2]

    def stray_and_slow(counts: Counts, canary: bool, i: int) -> None:
        if i % 600 < 3:
            paused(counts, 2_000_000 if canary else 20_000)

    failed = run(stray_and_slow, 1_000)[-1]
    assert (failed.verdict, failed.causes) == ("FAIL", ("gap",)), failed.reason
    assert finding(failed, "gap")[1], "what convicts, decides"


def test_its_share_of_alpha_is_reserved_from_the_start() -> None:
    paid = bad_needed(SPEC)
    assert math.fsum(math.exp(-needed) for needed in paid.values()) == pytest.approx(SPEC.alpha_rollback)
    assert {"gap", "model_errors"} <= paid.keys()
