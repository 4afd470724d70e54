"""Findings in sentences: what was seen, what it weighs, what it would need.

Rules:

1. Every reason carries both arms' numbers and the evidence as "X of the Y needed": E itself, not its logarithm.
2. An undecided metric says what is missing, and how much more traffic would show it at the pace so far.
3. Nothing here decides: verdicts are made from logarithms in judge.py and handed in.
"""

from __future__ import annotations

import math

from gateway.core.analysis import slices, wealth
from gateway.core.analysis.rates import RateState, stable_guess
from gateway.core.analysis.slices import PAST_MIN, LatencyState
from gateway.core.analysis.types import Finding, LatencySpec, RateSpec, Verdict
from gateway.core.stats.histogram import lower_us, total


def rate_finding(
    metric: str, spec: RateSpec, state: RateState, trials: tuple[int, int], needed: tuple[float, float]
) -> Finding:
    """One failure class. ``trials`` are (stable, canary) requests, ``needed`` the (bad, ok) logarithms of E."""
    stable, canary = trials
    bad, ok = wealth.log_e(state.bad), wealth.log_e(state.ok)
    verdict = _verdict(bad, ok, needed, canary)
    seen = f"canary {metric} {_share(state.canary_events, canary)} against stable {_share(state.stable_events, stable)}"
    margin = f"worse than {spec.margin_ratio:g} x stable and stable + {100 * spec.margin_delta:g} points"
    return Finding(
        metric=metric,
        verdict=verdict,
        reason=_sentence(verdict, seen, bad, ok, needed, "not worse", margin, canary, "canary requests"),
        decides=spec.decides,
        log_e_bad=bad,
        log_e_ok=ok,
        stable_events=state.stable_events,
        stable_trials=stable,
        canary_events=state.canary_events,
        canary_trials=canary,
        details={
            "log_e_bad_needed": needed[0],
            "log_e_ok_needed": needed[1],
            "margin_ratio": spec.margin_ratio,
            "margin_delta": spec.margin_delta,
            "stable_rate_guess": stable_guess(state),
        },
    )


def latency_finding(spec: LatencySpec, state: LatencyState, needed: tuple[float, float]) -> Finding:
    """Latency, told at the quantile that made it FAIL or keeps it from PASS. Events and trials are of closed slices."""
    bad, ok = slices.log_e_bad(state), slices.log_e_ok(state)
    verdict = _verdict(bad, ok, needed, state.slices)
    failing = verdict is Verdict.FAIL
    speaks = [wealth.log_e(q.bad) if failing else -wealth.log_e(q.ok) for q in state.quantiles]
    index = speaks.index(max(speaks))
    worst = state.quantiles[index]
    name = f"p{100 * spec.quantiles[index]:g}"
    tolerance = f"{spec.tolerance_ratio:g} x stable's {name} + {spec.tolerance_us / 1000:g} ms"
    margin = f"slower than {spec.margin_ratio:g} x stable + {spec.margin_us / 1000:g} ms"
    if state.slices:
        seen = (
            f"canary latency beyond {tolerance} in {_share(worst.canary_bad, state.canary)} requests against stable"
            f" beyond its {name} in {_share(worst.stable_slow, state.stable)}, {state.slices} slices"
        )
        reason = _sentence(verdict, seen, bad, ok, needed, "not slower", margin, state.slices, "slices")
    else:
        reason = _waiting(spec, state)
    return Finding(
        metric="latency",
        verdict=verdict,
        reason=reason,
        decides=spec.decides,
        log_e_bad=bad,
        log_e_ok=ok,
        stable_events=worst.stable_slow,
        stable_trials=state.stable,
        canary_events=worst.canary_bad,
        canary_trials=state.canary,
        details={
            "log_e_bad_needed": needed[0],
            "log_e_ok_needed": needed[1],
            "quantile": spec.quantiles[index],
            "slices": float(state.slices),
            "mean_excess": worst.excess_sum / state.slices if state.slices else 0.0,
            **_thresholds(spec, state),
        },
    )


def times(log_value: float) -> str:
    """exp(log_value) for people, whatever its size: ``0.37``, ``20``, ``1.2e5``, ``3.1e-1200``."""
    ten = log_value / math.log(10.0)
    if -2.0 <= ten < 4.0:
        value = 10.0**ten
        return f"{value:.0f}" if value >= 100.0 else f"{value:.3g}"
    exponent = math.floor(ten)
    mantissa = f"{10.0 ** (ten - exponent):.1f}"
    if mantissa == "10.0":
        mantissa, exponent = "1.0", exponent + 1
    return f"{mantissa}e{exponent}"


def _verdict(bad: float, ok: float, needed: tuple[float, float], units: int) -> Verdict:
    if bad >= needed[0]:
        return Verdict.FAIL
    if not units:
        return Verdict.NODATA
    return Verdict.PASS if ok >= needed[1] else Verdict.UNDECIDED


def _share(events: int, trials: int) -> str:
    return f"{events} of {trials} ({100 * events / trials:.3g} %)" if trials else "0 of 0"


def _sentence(
    verdict: Verdict,
    seen: str,
    bad: float,
    ok: float,
    needed: tuple[float, float],
    null: str,
    margin: str,
    units: int,
    unit: str,
) -> str:
    against = f"evidence {times(bad)} of the {times(needed[0])} needed against '{null}'"
    if verdict is Verdict.FAIL:
        return f"{seen}: {against}"
    passing = f"{times(ok)} of the {times(needed[1])} needed against '{margin}'"
    if verdict is Verdict.NODATA:
        return f"{seen}: no {unit} yet"
    if verdict is Verdict.PASS:
        return f"{seen}: evidence {passing}; {times(bad)} of {times(needed[0])} against '{null}'"
    more = f", about {math.ceil(units * (needed[1] / ok - 1.0))} more {unit} at this pace" if ok > 0.0 else ""
    return f"{seen}: {against}, {passing}{more}"


def _waiting(spec: LatencySpec, state: LatencyState) -> str:
    past = total(state.past)
    if past < PAST_MIN:
        return f"latency: {past} of the {PAST_MIN} stable requests needed to set thresholds"
    return f"latency: the first slice of {spec.slice_s:g} s is open until both arms have answered in it"


def _thresholds(spec: LatencySpec, state: LatencyState) -> dict[str, float]:
    if state.open is None:
        return {}
    out = {}
    for q, threshold in zip(spec.quantiles, state.open.thresholds, strict=True):
        out[f"p{100 * q:g}_stable_us"] = float(lower_us(threshold.stable))
        out[f"p{100 * q:g}_tolerated_us"] = float(lower_us(threshold.canary_bad))
        out[f"p{100 * q:g}_margin_us"] = float(lower_us(threshold.canary_ok))
    return out
