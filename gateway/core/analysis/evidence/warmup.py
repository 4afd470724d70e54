"""The warm-up: a canary's first answers are slow because it is new, not because it is worse.

A version that has just been started fills caches, loads weights and compiles; its first answers take several times as
long as later ones. Latencies of that time are shown and are no evidence, for or against. Failures count from the
first request on: a canary that is dead is convicted at once, warm or not.

Rules:

1. The warm-up ends when the canary has answered for ``warmup_s`` AND has answered ``warmup_requests``, and its
   latency has stopped falling; or after ``warmup_max_s``, whatever it does. All count from its first answer. So a
   slow canary costs so many slow answers, or so much time, before its slowness begins to count.
2. Falling. Latencies are put into blocks of at least a third of ``warmup_s`` and a sixth of ``warmup_requests``. With
   P the probability that a latency of the last whole block is below one of the block before (ties count half: Mann
   and Whitney), it falls if P - 1/2 exceeds both `MATERIAL` and `Z` standard deviations, sqrt((m + n + 1) / (12 m
   n)). One such comparison of equal blocks errs in 1 %, which costs a block. Nothing is claimed of blocks that are
   alike but dependent: they only make the warm-up longer, never beyond ``warmup_max_s``.
3. What was learnt of stable meanwhile stays. Bets on latencies begin with the first slice after the warm-up, so the
   canary's past neither convicts nor excuses it. The end of the warm-up looks at the canary alone and at the past, so
   the bets after it are as fair as without it.
4. It does not begin again at a later step: a version is new once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import msgspec

from gateway.core.analysis.evidence.intake import Arrival
from gateway.core.analysis.spec import WarmUpSpec
from gateway.core.stats.histogram import total

Z = 2.33
MATERIAL = 0.05
_BLOCKS_IN_TIME = 3
_BLOCKS_OF_REQUESTS = 6


class WarmUp(msgspec.Struct, frozen=True):
    """How far it has come: since the canary's first answer, its answers, the last blocks of its latencies.

    ``at_s`` is the last look, ``since_s`` None before the first answer.
    """

    since_s: float | None = None
    at_s: float = 0.0
    requests: int = 0
    before: dict[int, int] = {}
    last: dict[int, int] = {}
    open: dict[int, int] = {}
    opened_s: float = 0.0
    opened_at: int = 0
    over: bool = False

    @property
    def lasted_s(self) -> float:
        """Time since the canary's first answer."""
        return 0.0 if self.since_s is None else self.at_s - self.since_s

    @property
    def falling(self) -> bool:
        """Whether the canary's latency still falls (rule 2)."""
        return falls(self.before, self.last)


def fresh(spec: WarmUpSpec) -> WarmUp:
    """Nothing answered yet; over where there is none."""
    return WarmUp(over=not spec.most_s or (not spec.least_s and not spec.requests))


def take(state: WarmUp, spec: WarmUpSpec, arrivals: list[Arrival], at_s: float) -> WarmUp:
    """The state after one look's answers."""
    if state.over:
        return state
    answers = sum(arrival.canary.requests for arrival in arrivals)
    if state.since_s is None:
        if not answers:
            return state
        state = WarmUp(since_s=at_s, at_s=at_s, opened_s=at_s)
    # A clock that went backwards (a restart) makes the warm-up longer, not shorter.
    back_s = max(0.0, state.at_s - at_s)
    since_s, opened_s = (state.since_s or at_s) - back_s, state.opened_s - back_s
    since_s = min(since_s, at_s)
    opened, requests = dict(state.open), state.requests + answers
    for arrival in arrivals:
        for bucket, n in arrival.canary.latency.items():
            opened[bucket] = opened.get(bucket, 0) + n
    before, last, opened_at = state.before, state.last, state.opened_at
    long_s, many = spec.least_s / _BLOCKS_IN_TIME, spec.requests / _BLOCKS_OF_REQUESTS
    if at_s - opened_s >= long_s and requests - opened_at >= many:
        before, last, opened, opened_s, opened_at = last, opened, {}, at_s, requests
    lasted_s = at_s - since_s
    enough = lasted_s >= spec.least_s and requests >= spec.requests and not falls(before, last)
    over = enough or lasted_s >= spec.most_s
    return WarmUp(since_s, at_s, requests, before, last, opened, opened_s, opened_at, over)


def falls(before: Mapping[int, int], after: Mapping[int, int]) -> bool:
    """Whether the latencies of ``after`` are lower than those of ``before``, by more than chance (rule 2)."""
    m, n = total(before), total(after)
    if not m or not n:
        return False
    lower = 0.0
    below = 0
    for bucket in sorted(before.keys() | after.keys()):
        here = after.get(bucket, 0)
        lower += before.get(bucket, 0) * (below + 0.5 * here)
        below += here
    share = lower / (m * n) - 0.5
    return share > max(MATERIAL, Z * math.sqrt((m + n + 1) / (12.0 * m * n)))
