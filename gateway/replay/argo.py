"""The rule of Argo Rollouts' analysis, on recorded traffic.

The rule, from Argo Rollouts' documentation (argo-rollouts.readthedocs.io: "Analysis & Progressive Delivery") and the
field descriptions of its AnalysisTemplate:

1. Every ``interval_s`` one measurement of the canary's own success rate over the last interval. It is successful when
   the rate is at least ``success_rate_min``, failed when not, an error without data. Stable is not looked at.
2. ``failure_limit`` is the number of failed measurements that are allowed, ``consecutive_error_limit`` of errors in
   succession: with one more the run is Failed or Error, and either aborts the rollout.
3. After ``count`` measurements (without errors) the run is Successful, and the canary is promoted.

The defaults are those of the documentation's example of a background analysis: 5 minutes, 95 %, failureLimit 3
(0 if it is left out), consecutiveErrorLimit 4. The example sets no count: its run lasts as long as the rollout's four
pauses of 10 minutes, which is 8 measurements.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from gateway.core.stats.outcomes import ERRORS
from gateway.replay.intervals import DecisionKind, RecordedInterval, RuleDecision, windows
from gateway.replay.parameters import Count, Positive, PositiveCount, Share


class ArgoParams(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The fields of an AnalysisTemplate's metric that decide."""

    interval_s: Positive = 300.0
    success_rate_min: Share = 0.95
    failure_limit: Count = 3
    consecutive_error_limit: Count = 4
    count: PositiveCount = 8


def decide(intervals: Iterable[RecordedInterval], params: ArgoParams) -> RuleDecision:
    """What the analysis decides, and at which measurement. Reads no further than that."""
    measured = failed = errors_in_succession = 0
    for window in windows(intervals, params.interval_s):
        canary = window.canary
        if not canary.requests:
            errors_in_succession += 1
            if errors_in_succession > params.consecutive_error_limit:
                reason = f"{errors_in_succession} measurements in succession without a canary request"
                reason += f" (consecutiveErrorLimit {params.consecutive_error_limit})"
                return RuleDecision(DecisionKind.ROLLBACK, window.at_s, reason)
            continue
        errors_in_succession = 0
        measured += 1
        rate = (canary.requests - canary.of(ERRORS)) / canary.requests
        failed += rate < params.success_rate_min
        if failed > params.failure_limit:
            reason = f"{failed} failed measurements (failureLimit {params.failure_limit}), the last: success rate"
            return RuleDecision(
                DecisionKind.ROLLBACK, window.at_s, f"{reason} {rate:.4f} < {params.success_rate_min:g}"
            )
        if measured >= params.count:
            reason = f"{measured} measurements done, {failed} failed (failureLimit {params.failure_limit})"
            return RuleDecision(DecisionKind.PROMOTE, window.at_s, reason)
    reason = f"{measured} of {params.count} measurements, {failed} failed, when the recording ended"
    return RuleDecision(DecisionKind.UNDECIDED, None, reason)
