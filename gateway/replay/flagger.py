"""Flagger's rule, on recorded traffic.

The rule, from Flagger's documentation (docs.flagger.app: "How it works", "Deployment Strategies", "Metrics Analysis"):

1. Every ``interval_s`` the canary's own metrics over the last interval are checked: the share of requests without
   errors must be at least ``success_percent_min``, the p99 latency at most ``latency_ms_max`` (only if recorded).
   Stable is not looked at.
2. A failed check halts the advance and increments a counter, which a good check does not reset. So does a check
   without data ("no values found"). At ``threshold`` failed checks the canary is rolled back.
3. A good check raises the weight by ``step_weight`` percent; at ``max_weight`` the canary is promoted. So promotion
   takes interval * (max_weight / step_weight), and a rollback interval * threshold, at the least.

The defaults are those of the documentation's example: 60 s, threshold 10, weights 5 to 50, 99 %, 500 ms.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import msgspec

from gateway.core.stats.histogram import quantile_us
from gateway.core.stats.outcomes import ERRORS
from gateway.replay.intervals import DecisionKind, RecordedInterval, RuleDecision, windows
from gateway.replay.parameters import Percent, Positive, PositiveCount


class FlaggerParams(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The fields of a Canary's ``analysis`` that decide."""

    interval_s: Positive = 60.0
    threshold: PositiveCount = 10
    max_weight: Percent = 50.0
    step_weight: Percent = 5.0
    success_percent_min: Percent = 99.0
    latency_ms_max: Positive = 500.0


def decide(intervals: Iterable[RecordedInterval], params: FlaggerParams) -> RuleDecision:
    """What Flagger decides, and at which check. Reads no further than that."""
    needed = math.ceil(params.max_weight / params.step_weight)
    passed = failed = 0
    for window in windows(intervals, params.interval_s):
        fault = _fault(window, params)
        if fault is None:
            passed += 1
        else:
            failed += 1
        if failed >= params.threshold:
            reason = f"{failed} failed checks (threshold {params.threshold}), the last: {fault}"
            return RuleDecision(DecisionKind.ROLLBACK, window.at_s, reason)
        if passed >= needed:
            reason = f"{passed} good checks reached max_weight {params.max_weight:g} %, {failed} failed"
            return RuleDecision(DecisionKind.PROMOTE, window.at_s, reason)
    reason = f"{passed} of {needed} good checks, {failed} of {params.threshold} failed ones when the recording ended"
    return RuleDecision(DecisionKind.UNDECIDED, None, reason)


def _fault(window: RecordedInterval, params: FlaggerParams) -> str | None:
    canary = window.canary
    if not canary.requests:
        return "no canary request in the interval"
    success_percent = 100.0 * (canary.requests - canary.of(ERRORS)) / canary.requests
    if success_percent < params.success_percent_min:
        return f"success rate {success_percent:.2f} % < {params.success_percent_min:g} %"
    p99_us = quantile_us(canary.latency, 0.99)
    if p99_us is not None and p99_us > params.latency_ms_max * 1000:
        return f"p99 {p99_us / 1000:.0f} ms > {params.latency_ms_max:g} ms"
    return None
