"""The warm-up: a cold canary's latencies are shown and not counted, a dead one is convicted all the same."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest

from gateway.core.analysis import AnalysisSpec, Evidence, Look, Verdict, budget, fresh_state, look, restore
from gateway.core.analysis.evidence import warmup
from gateway.core.analysis.evidence.intake import Arrival
from gateway.core.analysis.evidence.warmup import WarmUp, falls
from gateway.core.analysis.spec import GuardrailSpec, WarmUpSpec
from gateway.core.stats import Counts, EpochCounts, bucket_of

MS = 1000
COLD = AnalysisSpec(warmup_s=30.0, warmup_requests=300)
SPEC = WarmUpSpec(30.0, 300, 600.0)


def over_after(latency_ms: Callable[[float, int], float], per_s: int, spec: WarmUpSpec = SPEC) -> float:
    """Seconds until the warm-up is over, of a canary with ``per_s`` requests a second."""
    state, had = warmup.fresh(spec), 0
    for second in range(1, 1000):
        counts = Counts(per_s)
        for i in range(per_s):
            # A spread of latencies, the same in each second.
            bucket = bucket_of(int(MS * latency_ms(float(second), had) * (1.0 + 0.5 * i / per_s)))
            counts.latency[bucket] = counts.latency.get(bucket, 0) + 1
            had += 1
        state = warmup.take(state, spec, [Arrival(1, Counts(), counts)], float(second))
        if state.over:
            return float(second)
    return float("inf")


def test_it_takes_time_and_answers() -> None:
    assert over_after(lambda at_s, had: 20.0, 20) == 31.0, "since the first answer"
    assert over_after(lambda at_s, had: 20.0, 2) == 150.0
    assert over_after(lambda at_s, had: 20.0, 0) == float("inf"), "nothing was answered"


def test_it_goes_on_while_latency_falls() -> None:
    assert over_after(lambda at_s, had: 80.0 if at_s <= 25.0 else 20.0, 20) > 40.0
    assert over_after(lambda at_s, had: 20.0 * (1.0 + 9.0 * 0.5 ** (at_s / 15.0)), 20) > 50.0


def test_a_canary_that_stays_slow_or_becomes_slower_is_not_warming_up() -> None:
    assert over_after(lambda at_s, had: 80.0, 20) == 31.0
    assert over_after(lambda at_s, had: 20.0 + at_s, 20) == 31.0


def test_it_has_a_limit() -> None:
    assert over_after(lambda at_s, had: 20.0, 2, WarmUpSpec(30.0, 10_000, 60.0)) == 61.0
    assert over_after(lambda at_s, had: 1e6 * 0.9**at_s, 20, WarmUpSpec(30.0, 300, 60.0)) == 61.0


def test_there_is_none_without_time_and_answers() -> None:
    assert warmup.fresh(WarmUpSpec(0.0, 0, 600.0)).over and warmup.fresh(WarmUpSpec(30.0, 300, 0.0)).over


def test_falling_is_more_than_chance_and_more_than_a_little() -> None:
    before = {bucket_of(20 * MS): 100, bucket_of(30 * MS): 100}
    assert not falls(before, before) and not falls({}, before) and not falls(before, {})
    assert falls(before, {bucket_of(10 * MS): 50})
    assert not falls(before, {bucket_of(10 * MS): 1}), "one request may be lucky"
    many = {bucket: 10_000 * n for bucket, n in before.items()}
    little = {bucket_of(20 * MS): 1_020_000, bucket_of(30 * MS): 980_000}
    assert not falls(many, little), "significant, and nothing to wait for"
    assert not falls(before, {bucket_of(60 * MS): 200})


class Route:
    """A canary with a tenth of 200 requests a second, a look each second."""

    def __init__(self, spec: AnalysisSpec) -> None:
        self.spec, self.state, self.entry = spec, fresh_state(spec), EpochCounts("r", 1, 1000)
        self.at_s = 0.0

    def second(self, canary_ms: int, errors: int = 0) -> Look:
        self.at_s += 1.0
        for counts, n, ms in ((self.entry.stable, 180, 20), (self.entry.canary, 20, canary_ms)):
            counts.requests += n
            bucket = bucket_of(ms * MS)
            counts.latency[bucket] = counts.latency.get(bucket, 0) + n
        self.entry.canary.enter("errors", errors)
        self.state, seen = look(self.spec, self.state, Evidence(self.at_s, (self.entry,)))
        return seen

    def until(self, verdict: Verdict, canary_ms: int, errors: int = 0, most: int = 400) -> float:
        """Seconds until the verdict."""
        for _ in range(most):
            if self.second(canary_ms, errors).verdict is verdict:
                return self.at_s
        return float("inf")


LIMIT = GuardrailSpec("latency", 0.01, threshold_us=50 * MS)


def test_a_cold_canary_is_not_convicted_and_the_finding_says_why() -> None:
    route = Route(msgspec.structs.replace(COLD, guardrails=(LIMIT,)))
    for _ in range(30):
        seen = route.second(80)
        assert seen.verdict is not Verdict.FAIL
    (found,) = (one for one in seen.analysis.findings if one.metric == "latency")
    assert "the canary warms up" in found.reason and "29 of 30 s" in found.reason, found.reason
    assert "not counted" in found.reason and found.verdict is Verdict.NODATA
    assert route.until(Verdict.PASS, 20) < 130.0


def test_a_canary_that_stays_slow_is_convicted_soon_after_it() -> None:
    without = Route(AnalysisSpec()).until(Verdict.FAIL, 80)
    assert Route(COLD).until(Verdict.FAIL, 80) <= without + 33.0


def test_a_dead_canary_is_convicted_as_if_there_were_none() -> None:
    without = Route(AnalysisSpec()).until(Verdict.FAIL, 20, 20)
    assert Route(COLD).until(Verdict.FAIL, 20, 20) == without


def test_a_restart_goes_on_with_it() -> None:
    route = Route(COLD)
    for _ in range(20):
        route.second(80)
    state = restore(route.state.encode())
    assert state == route.state and state.warmup.requests == 400 and not state.warmup.over
    # The clock of the new process begins anew.
    arrival = Arrival(1, Counts(), Counts(1))
    assert warmup.take(state.warmup, SPEC, [arrival], 3.0).lasted_s >= 0.0
    assert not warmup.take(state.warmup, SPEC, [arrival], 3.0).over


def test_a_plan_that_warms_up_convicts_the_dead_and_nobody_else() -> None:
    spec = budget.while_warming(COLD)
    assert Route(spec).until(Verdict.FAIL, 20, 20) < 10.0
    assert Route(spec).until(Verdict.FAIL, 200, 4, most=120) == float("inf"), "20 % fail, and it is slow"
    assert Route(spec).until(Verdict.PASS, 20, 0, most=120) == float("inf"), "nothing is proven"
    both = budget.after_warming(COLD).alpha_rollback + spec.alpha_rollback
    assert both == pytest.approx(COLD.alpha_rollback)


def test_a_state_is_a_value() -> None:
    assert WarmUp() == WarmUp() and WarmUp().lasted_s == 0.0
