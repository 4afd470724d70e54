"""Means: bets that are fair whatever the values, verdicts in all directions, and what is shown of them."""

from __future__ import annotations

import math
import random
from typing import Any

import msgspec
import pytest

from gateway.core.analysis import AnalysisSpec, Evidence, bake, explained, fresh_state, judge, restore
from gateway.core.analysis.metrics import means
from gateway.core.analysis.metrics.means import (
    GRAIN,
    MEANS,
    OK_PRIORS,
    PRIORS,
    MeanNull,
    ValueCounts,
    bad_gains,
    ok_gains,
)
from gateway.core.analysis.spec import EventSpec, Unit, Worse
from gateway.core.analysis.types import Finding, Verdict
from gateway.core.errors import InvalidValueError
from gateway.core.stats import EpochCounts
from gateway.core.stats.counts import cell_of
from gateway.core.stats.histogram import bucket_of
from tests.support.specs import silent

BOUNDS = (0.0, 2.0)


def spec(**changes: Any) -> AnalysisSpec:
    event: dict[str, Any] = {"name": "cost", "bounds": BOUNDS, "margin_ratio": 1.2, "margin_delta": 0.0}
    only = {**silent(), "latency": AnalysisSpec().duration, "alpha_sample_ratio": 0.0}
    return AnalysisSpec(**only, events=(EventSpec(**(event | changes)),))


class World:
    """Log-normal values of both versions, look by look."""

    def __init__(self, seed: int, asked: AnalysisSpec, weight_bp: int = 2_000, spread: float = 0.5) -> None:
        self.rng, self.spec, self.spread = random.Random(seed), asked, spread
        self.state, self.entries, self.at_s = fresh_state(asked), [EpochCounts("r", 1, weight_bp)], 0.0

    def look(self, stable: float, canary: float, requests: int = 100) -> Any:
        entry, low = self.entries[-1], -0.5 * self.spread**2
        for _ in range(requests):
            is_canary = self.rng.random() < entry.weight_bp / 10_000
            counts, mean = (entry.canary, canary) if is_canary else (entry.stable, stable)
            value = mean * math.exp(low + self.spread * self.rng.gauss(0, 1))
            counts.requests, counts.assigned = counts.requests + 1, counts.assigned + 1
            counts.value("cost", cell_of(value, BOUNDS, self.rng.random()))
            bucket = bucket_of(int(1_000 * value))
            counts.latency[bucket] = counts.latency.get(bucket, 0) + 1
        self.at_s += 1.0
        self.state, analysis = judge(self.spec, self.state, Evidence(self.at_s, tuple(self.entries)))
        return analysis

    def until(self, looks: int, stable: float, canary: float) -> tuple[Verdict, int]:
        for n in range(1, looks + 1):
            verdict = self.look(stable, canary).verdict
            if verdict in (Verdict.FAIL, Verdict.PASS):
                return verdict, n
        return verdict, looks


def of(analysis: Any) -> Finding:
    return next(one for one in analysis.findings if one.metric == "cost")


@pytest.mark.parametrize("null", [MeanNull(1.0, 0.0), MeanNull(1.3, 0.0), MeanNull(1.0, 0.1), MeanNull(1.2, -0.05)])
@pytest.mark.parametrize(("n_s", "n_c"), [(3, 1), (2, 2), (1, 3)])
def test_a_bet_is_fair_under_every_pair_of_means_of_its_null(null: MeanNull, n_s: int, n_c: int) -> None:
    # Values of 0 and 1 have the most scatter; a mean of what they win, over all outcomes.
    for stable in (0.0, 0.05, 0.3, 0.7):
        edge = null.ratio * stable + null.delta
        if not 0.0 <= edge <= 1.0:
            continue
        for guess in (0.02, 0.3, 0.9):
            for gains_of, priors, canary in ((bad_gains, PRIORS, edge), (ok_gains, PRIORS, edge)):
                won = 0.0
                for s in range(n_s + 1):
                    for c in range(n_c + 1):
                        part = ValueCounts({GRAIN: s, 0: n_s - s}, {GRAIN: c, 0: n_c - c})
                        chance = math.comb(n_s, s) * stable**s * (1 - stable) ** (n_s - s)
                        chance *= math.comb(n_c, c) * canary**c * (1 - canary) ** (n_c - c)
                        gains = gains_of((null,), part, guess)
                        won += chance * sum(p * math.exp(g) for p, g in zip(priors, gains, strict=True))
                assert won <= 1.0 + 1e-9, (null, stable, guess, gains_of.__name__)
    assert math.fsum(PRIORS) == pytest.approx(1.0) == pytest.approx(math.fsum(OK_PRIORS))


def test_a_cell_is_right_on_average_and_clipped() -> None:
    rng = random.Random(1)
    cells = [cell_of(0.3, (0.1, 1.1), rng.random()) for _ in range(20_000)]
    assert sum(cells) / len(cells) / 64 == pytest.approx(0.2, abs=1e-3) and set(cells) == {12, 13}
    assert cell_of(math.inf, (0.0, 1.0), 0.0) == 64 and cell_of(-9.0, (0.0, 1.0), 0.5) == 0


@pytest.mark.parametrize(
    ("worse", "canary", "verdict"),
    [
        (Worse.HIGHER, 0.3, Verdict.FAIL),
        (Worse.HIGHER, 0.2, Verdict.PASS),
        (Worse.HIGHER, 0.1, Verdict.PASS),
        (Worse.LOWER, 0.13, Verdict.FAIL),
        (Worse.LOWER, 0.3, Verdict.PASS),
        (Worse.DIFFERENT, 0.3, Verdict.FAIL),
        (Worse.DIFFERENT, 0.13, Verdict.FAIL),
        (Worse.DIFFERENT, 0.2, Verdict.PASS),
    ],
)
def test_a_mean_convicts_and_passes_in_its_directions(worse: Worse, canary: float, verdict: Verdict) -> None:
    found, looks = World(1, spec(worse=worse)).until(120, 0.2, canary)
    assert found is verdict, f"after {looks} looks"


def test_equal_means_convict_seldom_and_a_tolerance_spares_what_is_within() -> None:
    wrong = [seed for seed in range(12) if World(seed, spec(mode="decide")).until(30, 0.2, 0.2)[0] is Verdict.FAIL]
    assert not wrong, f"seeds {wrong}"
    spared = World(3, spec(tolerance_ratio=1.25, margin_ratio=1.5))
    assert spared.until(40, 0.2, 0.23)[0] is not Verdict.FAIL


def test_slices_and_latencies_are_judged_as_one_observation_each() -> None:
    by_slice = World(5, spec(unit=Unit.SLICE, bounds=(0.0, 2.0)))
    assert by_slice.until(120, 0.3, 1.2)[0] is Verdict.FAIL
    latency = World(5, spec(of="latency", bounds=(0.0, 2.0)))
    assert latency.until(120, 0.3, 1.2)[0] is Verdict.FAIL
    assert World(6, spec(of="latency", bounds=(0.0, 2.0))).until(30, 0.3, 0.3)[0] is not Verdict.FAIL


def test_latencies_of_a_canary_that_warms_up_are_not_counted() -> None:
    cold = World(9, msgspec.structs.replace(spec(of="latency", bounds=(0.0, 2.0)), warmup_s=60.0, warmup_requests=100))
    for _ in range(20):
        cold.look(0.2, 1.9)
    assert MEANS.own(cold.state)["cost"].canary == 0
    assert World(9, spec(of="latency", bounds=(0.0, 2.0))).until(20, 0.2, 1.9)[0] is Verdict.FAIL


def test_what_is_shown_is_the_mean_with_its_interval_through_a_ramp_and_a_restart() -> None:
    world = World(7, spec())
    for weight_bp, level in ((500, 0.1), (2_000, 0.2), (5_000, 0.4)):
        world.entries.append(EpochCounts("r", world.entries[-1].epoch + 1, weight_bp))
        for _ in range(10):
            analysis = world.look(level, level)
        world.state = restore(world.state.encode())
    finding = of(explained(world.state, analysis))
    details = finding.details
    assert details["canary_mean"] == pytest.approx(details["stable_mean"], rel=0.15)
    assert details["mean_difference_low"] < 0.0 < details["mean_difference_high"]
    assert (
        "canary cost 0.2" in finding.reason and " on average (" in finding.reason and "it is higher" in finding.reason
    )
    assert finding.stable_rate is None and finding.canary_rate is None


def test_a_bake_finds_a_mean_that_rises_late() -> None:
    world = World(8, spec())
    for _ in range(10):
        world.look(0.2, 0.2)
    world.state = bake(world.state, 300.0)
    world.entries.append(EpochCounts("r", 2, 9_000))
    for _ in range(10):
        assert world.look(0.2, 0.2).verdict is not Verdict.FAIL
    assert world.until(60, 0.2, 0.4)[0] is Verdict.FAIL


def test_values_that_cannot_be_are_refused() -> None:
    for wrong in (
        {"bounds": (1.0, 1.0)},
        {"bounds": (0.0, math.inf)},
        {"bounds": (-1.0, 1.0)},
        {"of": "weight"},
        {"bounds": None, "of": "latency"},
    ):
        with pytest.raises(InvalidValueError):
            spec(**wrong)
    signed = spec(bounds=(-1.0, 1.0), tolerance_ratio=1.0, margin_ratio=1.0, margin_delta=0.1)
    assert means.scaled(signed.events[0], 1.0, 0.1) == (MeanNull(1.0, 0.0), MeanNull(1.0, 0.1))
    assert means.scaled(spec(bounds=(1.0, 5.0)).events[0], 1.2, 0.0)[0].delta == pytest.approx(0.05)
