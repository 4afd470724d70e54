"""Latencies: bets on slices of time, valid whatever happens together inside a slice.

Why slices. A pause (garbage collection, a batch boundary, a noisy neighbour) makes neighbouring requests of one arm
slow TOGETHER. Counted as independent coins, one 300 ms pause of a healthy canary is thirty votes. Here a slice of
about a second is one vote: D = (canary's share of slow requests) - (stable's share), a number in [-1, 1] of which only
the mean is assumed. What it costs: a slice multiplies E by less than 2, so proof against a hopelessly slow canary
takes at least log2(K * quantiles / alpha) slices, and the proof of "not slower by the margin" about
log(1 / alpha) / log(1 + margin_delta) slices, however much traffic there is. Pauses much longer than a slice span
several slices and are votes again: choose ``slice_s`` above the pauses that a healthy version may make.

Rules:

1. E_bad = product of (1 + lambda D), null mean D <= 0; E_ok = product of (1 + lambda (margin_delta - D)), null mean
   D >= margin_delta; each averaged over a grid of lambda with which every factor stays positive (Waudby-Smith and
   Ramdas, betting, 2023).
2. Thresholds are the quantile buckets of stable's own past, frozen when the slice opens, after `PAST_MIN` stable
   requests. Every request of the slice is answered after that. The past is of what was seen to its end; only where
   there is too little of that (event streams that end when their clients leave) it takes in what was left, too.
3. A slice closes on time, at the first tick past ``slice_s`` at which some epoch has requests of both arms; never on
   outcomes. Inside a slice the arms are compared per epoch (under one weight) and the epochs' differences averaged with
   weights n_c n_s / (n_c + n_s): a ramp inside a slice cannot mix a slow minute into one arm only.
4. Tolerances are latencies, and buckets round against the claim. With u the first latency beyond the quantile's bucket:
   - stable is slow at u and beyond, exactly;
   - for E_bad the canary is slow from the first bucket that lies WHOLLY at or beyond u * ratio + add: if it is
     stochastically not slower than that, its share cannot exceed stable's;
   - for E_ok it is slow from the bucket that CONTAINS u * margin_ratio + margin_us: its share is never understated.
5. E_bad is the average over the quantiles, E_ok their minimum: every quantile must be proven (intersection-union).
6. Fixed objectives (``slo_us``) are thresholds like the others, the same for both arms: the first bucket that lies
   wholly at or beyond the objective.
7. Clients that left are informative: they leave a version that hangs early, and take its slowest answers out of every
   latency. What a client did not see the end of has lasted at least until it left (`counts.LEFT`: the wait for the
   first byte or event, the whole answer, the largest pause of a stream with the one that was open). It is a trial, and
   - for E_bad it is slow exactly when it had passed the threshold: Y = 1{min(T, C) beyond x}, with T the latency and C
     the time at which the client would leave. Y can only fall when T falls;
   - for E_ok it is slow always, and so speaks for no promotion: Y = 1 - 1{T <= x, T <= C}, which can only rise when T
     rises.
   Assumed of the censoring: C has the same law whichever arm a request went to (assignment is a coin that the client
   does not see). C may depend on the request, and on T through the request. Then equal arms are never convicted
   beyond alpha, nor is a canary that is not slower to any client. If C is independent of T within the arms, nor is one
   that is only stochastically not slower. Not covered: patience that looks at the version itself (a client that knows
   the canary by its answers, or is made impatient by what it says). A version whose first words make clients leave
   sooner (or stay longer) has other minima min(T, C) without being slower: it can be convicted here for being left
   early only if those who leave had already waited beyond the threshold, and it can be held back.
8. A clock that went backwards (a restart) restarts the open slice's time; the slice only becomes longer.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import msgspec

from gateway.core.analysis.betting import wealth
from gateway.core.analysis.betting.wealth import Wealth
from gateway.core.analysis.evidence.intake import Arrival
from gateway.core.analysis.types import LatencySpec
from gateway.core.stats.counts import LEFT, Counts
from gateway.core.stats.histogram import bucket_of, lower_us, total, upper_us
from gateway.core.stats.ranks import Ranks

PAST_MIN = 50
# The past is halved beyond this, so that thresholds follow the day.
_PAST_MAX = 20_000

BAD_LAMBDAS = (0.1, 0.3, 0.6, 0.9, 0.99)
BAD_PRIORS = (0.1, 0.15, 0.2, 0.2, 0.35)
# Shares of the largest lambda that keeps 1 + lambda (margin_delta - D) positive, 1 / (1 - margin_delta).
OK_SHARES = (0.2, 0.5, 0.95)
OK_PRIORS = (0.25, 0.25, 0.5)


class Threshold(msgspec.Struct, frozen=True):
    """Where "slow" begins, as first buckets: stable's, the canary's for E_bad and for E_ok."""

    stable: int
    canary_bad: int
    canary_ok: int


class Slow(msgspec.Struct, frozen=True):
    """One epoch's part of the open slice: trials per arm and, per threshold, how many were slow (for E_bad, E_ok)."""

    stable: int
    canary: int
    stable_slow: tuple[int, ...]
    canary_bad: tuple[int, ...]
    canary_ok: tuple[int, ...]
    stable_ok: tuple[int, ...]


class Slice(msgspec.Struct, frozen=True):
    """The open slice: when it opened, its frozen thresholds, and what arrived, by epoch."""

    since_s: float
    thresholds: tuple[Threshold, ...]
    parts: dict[int, Slow] = msgspec.field(default_factory=dict)


class QuantileState(msgspec.Struct, frozen=True):
    """Two e-processes of one threshold, with totals over closed slices for the report."""

    bad: Wealth
    ok: Wealth
    stable_slow: int = 0
    canary_bad: int = 0
    excess_sum: float = 0.0


class LatencyState(msgspec.Struct, frozen=True):
    """Stable's past, the open slice and the evidence of closed ones; ``stable``/``canary`` count closed requests.

    ``quantiles`` are the tests: one for each of the spec's quantiles, then one for each objective. ``stable_seen`` and
    ``canary_seen`` are all latencies of the rollout that were seen to their end, for the report, ``stable_left`` and
    ``canary_left`` how many clients left before. ``past_left`` is what stable's past has of those.
    """

    quantiles: tuple[QuantileState, ...]
    past: dict[int, int] = msgspec.field(default_factory=dict)
    open: Slice | None = None
    slices: int = 0
    stable: int = 0
    canary: int = 0
    stable_seen: dict[int, int] = msgspec.field(default_factory=dict)
    canary_seen: dict[int, int] = msgspec.field(default_factory=dict)
    stable_left: int = 0
    canary_left: int = 0
    past_left: dict[int, int] = msgspec.field(default_factory=dict)


def fresh(spec: LatencySpec) -> LatencyState:
    """Nothing seen, one unit of wealth in every test."""
    one = QuantileState(wealth.fresh(BAD_PRIORS, wealth.HELD_BACK), wealth.fresh(OK_PRIORS))
    return LatencyState(tuple(one for _ in (*spec.quantiles, *spec.slo_us)))


def baked(state: LatencyState, horizon: int) -> LatencyState:
    """The state at promotion: what was learnt about stable stays, the tests begin anew as CUSUMs."""
    tests = tuple(
        QuantileState(wealth.watch(BAD_PRIORS, horizon), wealth.fresh(OK_PRIORS), q.stable_slow, q.canary_bad)
        for q in state.quantiles
    )
    return msgspec.structs.replace(state, quantiles=tests, open=None, slices=0)


def log_e_bad(state: LatencyState) -> float:
    """log of E against "not slower than the tolerance": the average over quantiles."""
    return wealth.mean_logs([wealth.log_e(q.bad) for q in state.quantiles])


def log_e_ok(state: LatencyState) -> float:
    """log of E against "slower by the margin": the least of the quantiles."""
    return min(wealth.log_e(q.ok) for q in state.quantiles)


def take(
    state: LatencyState,
    spec: LatencySpec,
    arrivals: list[Arrival],
    live: list[int],
    at_s: float,
    source: str = "latency",
    *,
    warm: bool = True,
) -> LatencyState:
    """The state after one tick's arrivals. ``live`` are the experiment's epochs still in evidence.

    ``source`` is the latency's name, which is that of its histogram. While the canary is not ``warm`` no slice opens.
    """
    seen = [_seen(arrival, source) for arrival in arrivals]
    opened = state.open
    if opened is not None:
        parts = {epoch: part for epoch, part in opened.parts.items() if epoch in live}
        for arrival in seen:
            if arrival.trials:
                parts[arrival.epoch] = _add(parts.get(arrival.epoch), _slow(opened.thresholds, arrival))
        opened = Slice(min(opened.since_s, at_s), opened.thresholds, parts)
        if at_s - opened.since_s >= spec.slice_s and any(p.stable and p.canary for p in parts.values()):
            state, opened = _close(state, spec, opened), None
    if any(arrival.trials for arrival in seen):
        state = _learnt(state, seen)
    if opened is None and warm and (past := past_of(state)):
        opened = Slice(at_s, thresholds(past, spec))
    return state if opened is state.open else msgspec.structs.replace(state, open=opened)


def past_of(state: LatencyState) -> dict[int, int]:
    """Stable's past as thresholds are made from it (rule 2); empty while there is too little."""
    if total(state.past) >= PAST_MIN:
        return state.past
    both = _sum(state.past, state.past_left)
    return both if total(both) >= PAST_MIN else {}


def _learnt(state: LatencyState, seen: list[_NewLatencies]) -> LatencyState:
    return msgspec.structs.replace(
        state,
        past=_learn(state.past, [one.stable for one in seen]),
        past_left=_learn(state.past_left, [one.stable_left for one in seen]),
        stable_seen=_sum(state.stable_seen, *(one.stable for one in seen)),
        canary_seen=_sum(state.canary_seen, *(one.canary for one in seen)),
        stable_left=state.stable_left + sum(total(one.stable_left) for one in seen),
        canary_left=state.canary_left + sum(total(one.canary_left) for one in seen),
    )


def thresholds(past: dict[int, int], spec: LatencySpec) -> tuple[Threshold, ...]:
    """Where "slow" begins, in the order of the tests (rules 4 and 6)."""
    ranks = Ranks(past)
    return (*(threshold(ranks, spec, q) for q in spec.quantiles), *(objective(slo_us) for slo_us in spec.slo_us))


def objective(slo_us: int) -> Threshold:
    """Where "slow" begins at a fixed objective."""
    bucket = beyond(slo_us)
    return Threshold(bucket, bucket, bucket)


def beyond(latency_us: int) -> int:
    """The first bucket that lies wholly at or beyond a latency."""
    bucket = bucket_of(latency_us)
    return bucket if lower_us(bucket) >= latency_us else bucket + 1


def threshold(past: Ranks, spec: LatencySpec, q: float) -> Threshold:
    """Where "slow" begins at stable's q-quantile (rule 4)."""
    bucket = past.quantile_bucket(q)
    if bucket is None:
        raise ValueError("a threshold needs a past")
    beyond_us = upper_us(bucket)
    tolerated_us = math.ceil(beyond_us * spec.tolerance_ratio) + spec.tolerance_us
    margin_us = math.floor(beyond_us * spec.margin_ratio) + spec.margin_us
    return Threshold(bucket + 1, beyond(tolerated_us), bucket_of(margin_us))


def _close(state: LatencyState, spec: LatencySpec, done: Slice) -> LatencyState:
    parts = [part for part in done.parts.values() if part.stable and part.canary]
    quantiles = tuple(_bet(q, spec, parts, i) for i, q in enumerate(state.quantiles))
    return msgspec.structs.replace(
        state,
        quantiles=quantiles,
        slices=state.slices + 1,
        stable=state.stable + sum(part.stable for part in parts),
        canary=state.canary + sum(part.canary for part in parts),
    )


def _bet(state: QuantileState, spec: LatencySpec, parts: list[Slow], index: int) -> QuantileState:
    """One closed slice's bets at one quantile."""
    bad = _difference(parts, [(part.stable_slow[index], part.canary_bad[index]) for part in parts])
    ok = spec.margin_delta - _difference(parts, [(part.stable_ok[index], part.canary_ok[index]) for part in parts])
    largest = 1.0 / (1.0 - spec.margin_delta)
    return QuantileState(
        wealth.grow(state.bad, [math.log1p(share * bad) for share in BAD_LAMBDAS], BAD_PRIORS),
        wealth.grow(state.ok, [math.log1p(share * largest * ok) for share in OK_SHARES], OK_PRIORS),
        state.stable_slow + sum(part.stable_slow[index] for part in parts),
        state.canary_bad + sum(part.canary_bad[index] for part in parts),
        state.excess_sum + bad,
    )


def _difference(parts: list[Slow], slow: list[tuple[int, int]]) -> float:
    """D: the mean over epochs of the arms' difference in slow shares."""
    weights = [part.stable * part.canary / (part.stable + part.canary) for part in parts]
    differences = [c / part.canary - s / part.stable for part, (s, c) in zip(parts, slow, strict=True)]
    mean = math.fsum(w * d for w, d in zip(weights, differences, strict=True)) / math.fsum(weights)
    return min(max(mean, -1.0), 1.0)


class _NewLatencies(NamedTuple):
    """One epoch's new latencies per arm, and how long those had lasted that clients left."""

    epoch: int
    stable: dict[int, int]
    canary: dict[int, int]
    stable_left: dict[int, int]
    canary_left: dict[int, int]

    @property
    def trials(self) -> bool:
        return bool(self.stable or self.canary or self.stable_left or self.canary_left)


def _seen(arrival: Arrival, source: str) -> _NewLatencies:
    stable, canary, left = arrival.stable, arrival.canary, LEFT[source]
    return _NewLatencies(
        arrival.epoch, getattr(stable, source), getattr(canary, source), left_of(stable, left), left_of(canary, left)
    )


def left_of(counts: Counts, names: tuple[str, ...]) -> dict[int, int]:
    """How long what was not over had lasted when clients left: these histograms together."""
    found = [getattr(counts, name) for name in names if getattr(counts, name)]
    return _sum(*found) if found else {}


def _slow(limits: tuple[Threshold, ...], new: _NewLatencies) -> Slow:
    stable, stable_left = Ranks(new.stable), Ranks(new.stable_left)
    canary, canary_left = Ranks(new.canary), Ranks(new.canary_left)
    stable_slow = [stable.at_or_above(t.stable) for t in limits]
    return Slow(
        stable.total + stable_left.total,
        canary.total + canary_left.total,
        tuple([n + stable_left.at_or_above(t.stable) for n, t in zip(stable_slow, limits, strict=True)]),
        tuple([canary.at_or_above(t.canary_bad) + canary_left.at_or_above(t.canary_bad) for t in limits]),
        tuple([canary.at_or_above(t.canary_ok) + canary_left.total for t in limits]),
        tuple([n + stable_left.total for n in stable_slow]),
    )


def _add(a: Slow | None, b: Slow) -> Slow:
    if a is None:
        return b
    return Slow(
        a.stable + b.stable,
        a.canary + b.canary,
        tuple(map(sum, zip(a.stable_slow, b.stable_slow, strict=True))),
        tuple(map(sum, zip(a.canary_bad, b.canary_bad, strict=True))),
        tuple(map(sum, zip(a.canary_ok, b.canary_ok, strict=True))),
        tuple(map(sum, zip(a.stable_ok, b.stable_ok, strict=True))),
    )


def _sum(*histograms: dict[int, int]) -> dict[int, int]:
    out = dict(histograms[0])
    get = out.get
    for histogram in histograms[1:]:
        for bucket, n in histogram.items():
            out[bucket] = get(bucket, 0) + n
    return out


def _learn(past: dict[int, int], new: list[dict[int, int]]) -> dict[int, int]:
    learnt = _sum(past, *new)
    held = total(learnt)
    while held > _PAST_MAX:
        learnt = {bucket: n // 2 for bucket, n in learnt.items() if n > 1}
        held = total(learnt)
    return learnt
