"""A kind of metric that only this test knows: a class and a line in the registry, and it decides like the others."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from gateway.core.analysis import AnalysisSpec, Mode, Verdict, explained, fresh_state, restore
from gateway.core.analysis.betting import wealth
from gateway.core.analysis.betting.wealth import Wealth
from gateway.core.analysis.findings import MetricFinding, Share
from gateway.core.analysis.metrics import registry
from gateway.core.analysis.metrics.kind import TICK_S, Metric, MetricKind, Standing, Tick, bets_in
from gateway.core.analysis.state import AnalysisState
from gateway.core.errors import EvidenceError
from gateway.core.stats import bucket_of

PRIORS = (1.0,)


class SlowState(msgspec.Struct, frozen=True):
    """Two e-processes and what was seen of both versions."""

    bad: Wealth
    ok: Wealth
    stable: tuple[int, int] = (0, 0)
    canary: tuple[int, int] = (0, 0)


class SlowHalf(MetricKind[SlowState]):
    """The share of slow answers, as a coin of the canary alone that should fall so at most every other time."""

    name = "slow_half"
    state_type = SlowState

    def metrics(self, spec: AnalysisSpec) -> tuple[Metric, ...]:
        return (Metric("slow_half", Mode.DECIDE, 1.0),) if spec.alpha_rollback == 0.02 else ()

    def fresh(self, spec: AnalysisSpec) -> SlowState:
        return SlowState(wealth.fresh(PRIORS, wealth.HELD_BACK), wealth.fresh(PRIORS))

    def baked(self, state: SlowState, spec: AnalysisSpec, bake_s: float) -> SlowState:
        return msgspec.structs.replace(state, bad=wealth.watch(PRIORS, bets_in(bake_s, TICK_S)))

    def take(self, state: SlowState, tick: Tick) -> SlowState:
        for arrival in tick.arrivals:
            seen = [
                (sum(n for bucket, n in arm.latency.items() if bucket > bucket_of(20_000)), sum(arm.latency.values()))
                for arm in (arrival.stable, arrival.canary)
            ]
            slow, trials = seen[1]
            gain = slow * math.log(0.9 / 0.5) + (trials - slow) * math.log(0.1 / 0.5)
            less = slow * math.log(0.1 / 0.5) + (trials - slow) * math.log(0.9 / 0.5)
            state = SlowState(
                wealth.grow(state.bad, [gain], PRIORS),
                wealth.grow(state.ok, [less], PRIORS),
                (state.stable[0] + seen[0][0], state.stable[1] + seen[0][1]),
                (state.canary[0] + slow, state.canary[1] + trials),
            )
        return state

    def log_e_bad(self, whole: AnalysisState, metric: str) -> float:
        return wealth.log_e(self.own(whole).bad)

    def log_e_ok(self, whole: AnalysisState, metric: str) -> float:
        return wealth.log_e(self.own(whole).ok)

    def units(self, whole: AnalysisState, metric: str) -> tuple[int, bool]:
        return self.own(whole).canary[1], True

    def finding(self, whole: AnalysisState, standing: Standing) -> MetricFinding:
        state = self.own(whole)
        return MetricFinding(
            standing.metric,
            standing.verdict,
            standing.decides,
            standing.log_e_bad,
            standing.log_e_ok,
            standing.needed,
            Share(*state.stable),
            Share(*state.canary),
        )


@pytest.mark.parametrize("slower_us", [0, 100_000])
def test_a_kind_that_is_registered_takes_part_in_everything(
    make_world: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, slower_us: int
) -> None:
    kind = SlowHalf()
    monkeypatch.setattr(registry, "KINDS", (*registry.KINDS, kind))
    spec = AnalysisSpec(alpha_rollback=0.02)
    world = make_world(3, weight_bp=2_000, spec=spec)
    world.added_us[1] = slower_us
    analysis = world.until("FAIL", 12)
    found = next(one for one in analysis.findings if one.metric == "slow_half")
    seen = f"canary slow_half {found.canary_events} of {found.canary_trials}"
    assert found.reason.startswith(seen) and found.decides
    assert math.exp(found.details["log_e_bad_needed"]) < 200, "it shares alpha_rollback"
    if slower_us:
        assert analysis.verdict is Verdict.FAIL and "slow_half" in analysis.causes
        assert analysis.reason.startswith(f"worse than stable: {seen}")
    else:
        assert found.verdict is Verdict.PASS and "slow_half" not in analysis.reason.split(": ")[1]
    shown = next(one for one in explained(world.state, analysis).findings if one.metric == "slow_half")
    assert {"canary_rate_low", "difference_high"} <= set(shown.details)
    assert restore(world.state.encode()) == world.state


def test_a_state_without_a_kind_that_is_registered_now_begins_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = AnalysisSpec(alpha_rollback=0.02)
    before = fresh_state(spec).encode()
    monkeypatch.setattr(registry, "KINDS", (*registry.KINDS, SlowHalf()))
    with pytest.raises(EvidenceError, match="cannot be read"):
        restore(before)
