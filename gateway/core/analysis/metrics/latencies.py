"""Latencies: the first byte, the last, pauses of streams. Each is judged by slices of time (time_slices.py).

A metric in mode ``auto`` takes part once `AUTO_SHARE_MIN` of either version's requests have the latency, so that a
stray event stream in ten thousand requests, which could never be proven, holds nothing up. While the canary warms up
(evidence/warmup.py) its latencies are shown and not counted.
"""

from __future__ import annotations

from collections.abc import Mapping

from gateway.core.analysis.betting import wealth
from gateway.core.analysis.findings import LatencyClaim, MetricFinding, Share, Warming
from gateway.core.analysis.metrics import time_slices
from gateway.core.analysis.metrics.kind import Metric, MetricKind, Standing, Tick, bets_in
from gateway.core.analysis.metrics.time_slices import PAST_MIN, LatencyState
from gateway.core.analysis.spec import AnalysisSpec, LatencySpec, Mode
from gateway.core.analysis.state import AnalysisState
from gateway.core.analysis.types import Verdict
from gateway.core.stats.histogram import lower_us, total

# A latency is passed on proof about all but `margin_delta` (5 %) of requests; what fewer have is no reason to wait.
AUTO_SHARE_MIN = 0.01


class Latencies(MetricKind[dict[str, LatencyState]]):
    """The kind of the latencies, by the name of their histogram."""

    name = "latencies"
    state_type = dict[str, LatencyState]

    def metrics(self, spec: AnalysisSpec) -> tuple[Metric, ...]:
        """Each latency that is not off."""
        return tuple(Metric(name, one.mode, getattr(spec.shares, name)) for name, one in spec.latencies.items())

    def fresh(self, spec: AnalysisSpec) -> dict[str, LatencyState]:
        """Nothing seen."""
        return {name: time_slices.fresh(one) for name, one in spec.latencies.items()}

    def baked(self, state: dict[str, LatencyState], spec: AnalysisSpec, bake_s: float) -> dict[str, LatencyState]:
        """New tests for the bake; what was learnt of stable stays."""
        specs = spec.latencies
        return {name: time_slices.baked(one, bets_in(bake_s, specs[name].slice_s)) for name, one in state.items()}

    def take(self, state: dict[str, LatencyState], tick: Tick) -> dict[str, LatencyState]:
        """The state after one look's answers."""
        specs = tick.spec.latencies
        return {
            name: time_slices.take(one, specs[name], tick.arrivals, tick.live, tick.at_s, name, warm=tick.warm)
            for name, one in state.items()
        }

    def log_e_bad(self, whole: AnalysisState, metric: str) -> float:
        """The average over thresholds."""
        return time_slices.log_e_bad(self.own(whole)[metric])

    def log_e_ok(self, whole: AnalysisState, metric: str) -> float:
        """The least over thresholds."""
        return time_slices.log_e_ok(self.own(whole)[metric])

    def units(self, whole: AnalysisState, metric: str) -> tuple[int, bool]:
        """The slices that have closed."""
        state, spec = self.own(whole)[metric], whole.spec.latencies[metric]
        return state.slices, spec.mode is Mode.AUTO and _material(state, whole)

    def finding(self, whole: AnalysisState, standing: Standing) -> MetricFinding:
        """One latency, at the threshold that made it FAIL or keeps it from PASS. Events and trials: closed slices."""
        name = standing.metric
        state, spec = self.own(whole)[name], whole.spec.latencies[name]
        index = _deciding(state, standing.verdict)
        worst, quantiles = state.quantiles[index], len(spec.quantiles)
        quantile = spec.quantiles[index] if index < quantiles else None
        return standing.finding(
            stable=Share(worst.stable_slow, state.stable),
            canary=Share(worst.canary_bad, state.canary),
            units="slices",
            claim=LatencyClaim(
                slices=state.slices,
                slice_s=spec.slice_s,
                quantile=quantile,
                slo_us=spec.slo_us[index - quantiles] if quantile is None else None,
                tolerance_ratio=spec.tolerance_ratio,
                tolerance_us=spec.tolerance_us,
                margin_ratio=spec.margin_ratio,
                margin_us=spec.margin_us,
                margin_delta=spec.margin_delta,
                past=total(state.past) + total(state.past_left),
                past_needed=PAST_MIN,
                stable_seen=state.stable_seen,
                canary_seen=state.canary_seen,
                stable_left=state.stable_left,
                canary_left=state.canary_left,
                warming=_warming(whole),
                minor_below=AUTO_SHARE_MIN if spec.mode is Mode.AUTO and not _material(state, whole) else None,
            ),
            details={
                **({} if quantile is None else {"quantile": quantile}),
                "slices": float(state.slices),
                "mean_excess": worst.excess_sum / state.slices if state.slices else 0.0,
                **_thresholds(spec, state),
            },
        )


LATENCIES = Latencies()


def latencies_seen(whole: AnalysisState, metric: str = "latency") -> tuple[Mapping[int, int], Mapping[int, int]]:
    """All latencies of stable and of the canary so far, as histograms; empty where the metric is not judged."""
    state = LATENCIES.own(whole).get(metric)
    return ({}, {}) if state is None else (state.stable_seen, state.canary_seen)


def _warming(whole: AnalysisState) -> Warming | None:
    """How far the canary's warm-up has come; None when it is over."""
    state, spec = whole.warmup, whole.spec.warmup
    if state.over:
        return None
    return Warming(state.lasted_s, spec.least_s, state.requests, spec.requests, spec.most_s, state.falling)


def _deciding(state: LatencyState, verdict: Verdict) -> int:
    """The threshold that says most: the one that convicts most, or the one that is furthest from its proof."""
    if verdict is Verdict.FAIL:
        bads = [wealth.log_e(q.bad) for q in state.quantiles]
        return bads.index(max(bads))
    oks = [wealth.log_e(q.ok) for q in state.quantiles]
    return oks.index(min(oks))


def _material(state: LatencyState, whole: AnalysisState) -> bool:
    """Whether enough of either version's requests have this latency."""
    stable, canary = total(state.stable_seen) + state.stable_left, total(state.canary_seen) + state.canary_left
    pairs = ((stable, whole.stable_requests), (canary, whole.canary_requests))
    return any(seen and seen >= AUTO_SHARE_MIN * requests for seen, requests in pairs)


def _thresholds(spec: LatencySpec, state: LatencyState) -> dict[str, float]:
    if state.open is None:
        return {}
    out = {}
    for q, threshold in zip(spec.quantiles, state.open.thresholds, strict=False):
        out[f"p{100 * q:g}_stable_us"] = float(lower_us(threshold.stable))
        out[f"p{100 * q:g}_tolerated_us"] = float(lower_us(threshold.canary_bad))
        out[f"p{100 * q:g}_margin_us"] = float(lower_us(threshold.canary_ok))
    return out
