"""This engine against the recorded values of independent packages (loadtests/statistics/oracles.py), to 9 digits.

A package's mixture over all alternatives is had here as a grid: with Gauss's nodes the sum over a grid IS the integral
(of a polynomial, exactly; of a cut-off prior, to all digits), so the engine's own bets and wealth do the rest.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest
from scipy.special import roots_jacobi, roots_legendre

from gateway.core.analysis.betting import hypergeometric, wealth
from gateway.core.analysis.betting.eprocess import NOT_WORSE, Rates, TrialBatch, log_odds
from gateway.core.analysis.evidence.intake import Arrival
from gateway.core.analysis.metrics import guardrails, sample_ratio, time_slices
from gateway.core.analysis.show import intervals
from gateway.core.analysis.sizing.limit import information
from gateway.core.analysis.types import LatencySpec
from gateway.core.stats import Counts, bucket_of
from gateway.core.stats.histogram import lower_us, upper_us

RECORDED = Path(__file__).parents[2] / "loadtests" / "statistics" / "results" / "oracles.jsonl"
ROWS = [json.loads(line) for line in RECORDED.read_text(encoding="utf-8").splitlines()]
DIGITS = 1e-9


def rows(package: str, quantity: str) -> Iterator[tuple[dict[str, Any], float]]:
    """(inputs, value) of one quantity; there must be some."""
    found = [row for row in ROWS if row["package"] == package and row["quantity"] == quantity]
    assert found, f"no recorded {quantity} of {package}: run python -m loadtests.statistics.oracles"
    return iter((row["inputs"], row["value"]) for row in found)


def close(value: float) -> Any:
    return pytest.approx(value, rel=DIGITS, abs=DIGITS)


def beta_grid(a: float, b: float, size: int = 200) -> tuple[list[float], list[float]]:
    """Nodes in (0, 1) and weights of sum 1: exact for polynomials up to 2 * size - 1 under a Beta(a, b) prior."""
    nodes, weights = roots_jacobi(size, b - 1.0, a - 1.0)
    keep = weights > 0.0  # the outermost weights underflow
    return ((1.0 + nodes[keep]) / 2.0).tolist(), (weights[keep] / weights.sum()).tolist()


def test_every_package_and_quantity_is_compared() -> None:
    assert {(row["package"], row["quantity"]) for row in ROWS} == {
        *(("savvi", name) for name in ("mixture", "interval", "split", "failures by arm")),
        *(("confseq", name) for name in ("mixture", "mixture of worse", "rank above", "rank below")),
        *(("confseq", name) for name in ("slices", "slices within the margin", "guarded slices")),
        ("spotify-confidence", "requests at fixed size"),
    }
    assert all(row["version"] for row in ROWS)


def test_mixture_of_intervals_is_savvis_multinomial() -> None:
    for given, value in rows("savvi", "mixture"):
        none, events = np.sum(given["batches"], axis=0).tolist()
        rate, weight = given["rate"], given["prior"]
        mine = intervals.log_mixture(events, none + events, rate, weight * rate, weight * (1.0 - rate))
        assert mine == close(value), given


def test_intervals_of_rates_are_savvis() -> None:
    for given, value in rows("savvi", "interval"):
        (low, high) = intervals.rate_interval(given["events"], given["trials"], given["alpha"])
        assert (low if given["end"] == "low" else high) == close(value), given


def test_mixture_of_intervals_is_confseqs_beta_binomial() -> None:
    for given, value in rows("confseq", "mixture"):
        rate, weight = given["rate"], given["prior"]
        mine = intervals.log_mixture(given["events"], given["trials"], rate, weight * rate, weight * (1.0 - rate))
        assert mine == close(value), given


def test_quantile_intervals_end_where_confseqs_boundary_is_crossed() -> None:
    """The boundary is a real number above (below) q n; ours are the first ranks that it still allows."""
    pairs = zip(rows("confseq", "rank above"), rows("confseq", "rank below"), strict=True)
    for (given, above), (_, below) in pairs:
        q, trials = given["quantile"], given["trials"]
        first = bucket_of(100_000)
        found = intervals.quantile_interval({first + i: 1 for i in range(trials)}, q, given["alpha"])
        assert found is not None
        least, most = math.ceil(q * trials - below), math.floor(q * trials + above)
        # From the least-th value to the one after the most-th, if there is one.
        assert found.low == lower_us(first + least - 1), given
        assert found.high == (upper_us(first + most) if most < trials else math.inf), given


def test_split_check_over_a_grid_is_savvis_multinomial(monkeypatch: pytest.MonkeyPatch) -> None:
    for given, value in rows("savvi", "split"):
        weight = given["weight"]
        nodes, priors = beta_grid(given["prior"] * weight, given["prior"] * (1.0 - weight), 1100)
        monkeypatch.setattr(sample_ratio, "SHIFTS", tuple(log_odds(node) - log_odds(weight) for node in nodes))
        mine = wealth.fresh(priors)
        for stable, canary in given["batches"]:
            mine = wealth.grow(mine, sample_ratio.gains(weight, stable, canary), priors)
        assert wealth.log_e(mine) == close(value), given


def test_conditional_process_of_rare_events_is_savvis_canary_test() -> None:
    """A label of each failure: with 10^15 trials the conditional distribution is a coin's to 11 digits."""
    for given, value in rows("savvi", "failures by arm"):
        weight, trials = given["weight"], 10**15
        nodes, priors = beta_grid(given["prior"] * weight, given["prior"] * (1.0 - weight), 60)
        ratios = [node * (1.0 - weight) / ((1.0 - node) * weight) for node in nodes]
        canary = round(weight * trials)
        mine = wealth.fresh(priors)
        for stable_events, canary_events in given["batches"]:
            batch = TrialBatch(stable_events, trials - canary, canary_events, canary)
            mine = wealth.grow(mine, [_conditional(ratio, batch) for ratio in ratios], priors)
        assert wealth.log_e(mine) == close(value), given


def _conditional(ratio: float, batch: TrialBatch) -> float:
    """log e for any ratio: below 1 it is the reciprocal of the bet on 1 against the ratio."""
    return hypergeometric.log_gain(ratio, batch) if ratio > 1.0 else -hypergeometric.log_gain(1.0, batch, ratio)


def test_guardrail_over_a_grid_is_confseqs_one_sided_mixture(monkeypatch: pytest.MonkeyPatch) -> None:
    """The prior is cut off at the limit: Gauss's nodes between the limit and 1."""
    base, weights = roots_legendre(600)
    for given, value in rows("confseq", "mixture of worse"):
        limit, a, b = given["rate"], given["prior"] * given["rate"], given["prior"] * (1.0 - given["rate"])
        nodes = limit + (1.0 - limit) * (1.0 + base) / 2.0
        logs = np.log(weights) + (a - 1.0) * np.log(nodes) + (b - 1.0) * np.log1p(-nodes)
        priors = np.exp(logs - logs.max())
        kept = priors > 0.0
        chosen, shares = nodes[kept].tolist(), (priors[kept] / priors.sum()).tolist()
        ratios = tuple(math.exp(log_odds(n) - log_odds(limit)) for n in chosen)
        monkeypatch.setattr(guardrails, "ODDS_RATIOS", ratios)
        gains = guardrails.request_gains(limit, given["events"], given["trials"])
        assert wealth.log_e(wealth.grow(wealth.fresh(shares), gains, shares)) == close(value), given


def _latencies(fast: int, slow: int) -> dict[int, int]:
    return {bucket_of(us): n for us, n in ((1_000, fast), (900_000, slow)) if n}


def _arrival(stable_slow: int, stable: int, canary_slow: int, canary: int) -> Arrival:
    arms = [Counts(n, latency=_latencies(n - slow, slow)) for slow, n in ((stable_slow, stable), (canary_slow, canary))]
    return Arrival(1, arms[0], arms[1])


def test_slices_are_confseqs_bets(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fixed objective of 100 ms, slices of the recorded sizes: stakes, late starts and their sum."""
    for given, value in rows("confseq", "slices"):
        monkeypatch.setattr(time_slices, "BAD_LAMBDAS", tuple(given["lambdas"]))
        monkeypatch.setattr(time_slices, "BAD_PRIORS", tuple(given["priors"]))
        monkeypatch.setattr(wealth, "HELD_BACK", given["held_back"])
        assert wealth.log_e(_judged(given, LatencySpec(slo_us=(100_000,))).bad) == close(value), given["case"]


def test_proof_of_a_latency_margin_is_confseqs_bet(monkeypatch: pytest.MonkeyPatch) -> None:
    for given, value in rows("confseq", "slices within the margin"):
        monkeypatch.setattr(time_slices, "OK_SHARES", tuple(given["shares"]))
        monkeypatch.setattr(time_slices, "OK_PRIORS", tuple(given["priors"]))
        spec = LatencySpec(slo_us=(100_000,), margin_delta=given["margin"])
        assert wealth.log_e(_judged(given, spec).ok) == close(value), given["case"]


def _judged(given: dict[str, Any], spec: LatencySpec) -> time_slices.QuantileState:
    """The objective's test after the recorded slices, of a second each."""
    state = time_slices.take(time_slices.fresh(spec), spec, [_arrival(0, time_slices.PAST_MIN, 0, 0)], [1], 0.0)
    for second, counts in enumerate(given["slices"], start=1):
        state = time_slices.take(state, spec, [_arrival(*counts)], [1], second * spec.slice_s)
        # A closed slice leaves the next to be opened by the same look.
        assert state.slices == second
    return state.quantiles[-1]


def test_guarded_latency_is_confseqs_bet(monkeypatch: pytest.MonkeyPatch) -> None:
    for given, value in rows("confseq", "guarded slices"):
        monkeypatch.setattr(guardrails, "LAMBDAS", tuple(given["lambdas"]))
        priors = given["priors"]
        mine = wealth.fresh(priors, 0.05)
        for _, _, slow, canary in given["slices"]:
            mine = wealth.grow(mine, guardrails.slice_gains(given["limit"], slow, canary), priors)
        assert wealth.log_e(mine) == close(value), given["case"]


def test_a_fixed_size_is_the_limits_nats_at_spotifys_quantiles() -> None:
    """For small effects requests times I(w) is (z_(alpha/2) + z_power)^2 / 2."""
    for given, requests in rows("spotify-confidence", "requests at fixed size"):
        z = NormalDist().inv_cdf(1.0 - given["alpha"] / 2.0) + NormalDist().inv_cdf(given["power"])
        nats = _curvature(given["weight"]) * given["effect"] ** 2
        assert requests * nats == pytest.approx(0.5 * z * z, rel=DIGITS), given


def _curvature(weight: float) -> float:
    """I(w) / effect^2 around a pooled rate of one half as the effect goes to 0 (Richardson, in even powers)."""
    table = []
    for effect in (0.04, 0.02, 0.01):
        truth = Rates(0.5 - weight * effect, 0.5 + (1.0 - weight) * effect)
        table.append(information(truth, NOT_WORSE, weight) / effect**2)
    for power in (4.0, 16.0):
        table = [(power * finer - coarser) / (power - 1.0) for coarser, finer in itertools.pairwise(table)]
    return table[0]
