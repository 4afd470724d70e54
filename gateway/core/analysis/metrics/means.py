"""Means: a number of each request (tokens, cost, a user's score, a latency), compared by its average.

Theory (Waudby-Smith and Ramdas, betting, 2023). Values are clipped to the metric's bounds and scaled to y in [0, 1], so
that an average exists whatever a single request says. Against "mu_c <= r mu_s + d" each request is a bet of the size k:

    of the canary   1 + (k / w) (y - q_c)             q_c = r q_s + d
    of stable       1 - (r k / (1 - w)) (y - q_s)     q_s a guess of stable's mean

With w the canary's share of the requests, the logarithm of their product has at most the mean N k (mu_c - r mu_s - d),
which the null makes at most 0: its mean is at most 1, whatever the guess, the values' distribution, and the drift that
both versions share. The guess only takes the noise of the common level out of the bets.

Rules:

1. Factors stay positive for k below min(w / q_c, (1 - w) / (r (1 - q_s))). Bets are `SHARES` of that, side by side: the
   best one depends on how far the means lie apart and how much values scatter, of which nothing is assumed.
2. E_bad tests "at most max(ratio * mu_s, mu_s + delta)", a union: a batch's factor is the lesser of the two, as in
   event_slices.py. E_ok tests "at least" that, an intersection: half of the wealth bets against each. Directions,
   averages and minima are those of rates.py, rule 5.
3. A ratio is one of the values as they are reported, not of the scaled ones: with bounds [a, b] the scaled null has
   d = ((r - 1) a + delta (b - a)) / (b - a). A delta is a share of the range.
4. Batches close on time alone, `slice_s` after the last one, for each epoch that has values of both versions. Where the
   unit is the slice, a batch is one observation (event_slices.py): of what happens together in it only the mean counts.
   Latencies are always judged so.
5. Stable's guess is its mean so far, before the batch, with a past that is halved when it grows long. The first batch
   is learnt without a bet.
6. Values come as counts of a grid (`counts.VALUE_CELLS`); in between they are rounded up or down by how near they are,
   which leaves means as they are. Latencies come as their histogram, at the middle of each bucket.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Mapping, Sequence
from math import log1p
from typing import NamedTuple

import msgspec

from gateway.core.analysis.betting import wealth
from gateway.core.analysis.betting.wealth import Wealth
from gateway.core.analysis.evidence.intake import Arrival
from gateway.core.analysis.findings import MeanClaim, MetricFinding, Moments, Share
from gateway.core.analysis.metrics.kind import Metric, MetricKind, Standing, Tick, bets_in
from gateway.core.analysis.metrics.rates import PairSpec, directions_of
from gateway.core.analysis.spec import AnalysisSpec, EventSpec, Mode, Unit
from gateway.core.analysis.state import AnalysisState
from gateway.core.stats.counts import VALUE_CELLS, Counts
from gateway.core.stats.histogram import lower_us, upper_us

# Of the largest bet that keeps all factors positive.
SHARES = (0.01, 0.03, 0.1, 0.25, 0.5, 0.9)
PRIORS = (1.0 / len(SHARES),) * len(SHARES)
OK_PRIORS = tuple(0.5 * prior for prior in (*PRIORS, *PRIORS))
# Scaled values are whole numbers of this part of the range.
GRAIN = 1024
_PAST_MAX = 20_000.0
# A guess at the very edge would leave no bet.
_GUESS_MIN = 1e-4

Values = dict[int, int]


class ValueCounts(msgspec.Struct, frozen=True):
    """The values of one epoch that wait for their batch to close, as counts by `GRAIN`."""

    stable: Values = {}
    canary: Values = {}


class MeanTests(msgspec.Struct, frozen=True):
    """Two e-processes of one direction."""

    bad: Wealth
    ok: Wealth


class MeanState(msgspec.Struct, frozen=True):
    """One metric's tests, what waits by epoch, when the last batch closed, stable's past, and totals for the report."""

    tests: tuple[MeanTests, ...]
    pending: dict[int, ValueCounts] = msgspec.field(default_factory=dict)
    closed_s: float | None = None
    batches: int = 0
    past: float = 0.0
    past_sum: float = 0.0
    stable: int = 0
    canary: int = 0


class MeanNull(NamedTuple):
    """mu_c <= ratio * mu_s + delta, of scaled values; or >=, for E_ok."""

    ratio: float
    delta: float


class Means(MetricKind[dict[str, MeanState]]):
    """The kind of the events that have bounds."""

    name = "means"
    state_type = dict[str, MeanState]

    def metrics(self, spec: AnalysisSpec) -> tuple[Metric, ...]:
        """Each that is not off."""
        return tuple(Metric(one.name, one.mode, one.share) for one in _active(spec))

    def fresh(self, spec: AnalysisSpec) -> dict[str, MeanState]:
        """Nothing seen."""
        one = MeanTests(wealth.fresh(PRIORS, wealth.HELD_BACK), wealth.fresh(OK_PRIORS))
        return {event.name: MeanState(tuple(one for _ in directions_of(event))) for event in _active(spec)}

    def baked(self, state: dict[str, MeanState], spec: AnalysisSpec, bake_s: float) -> dict[str, MeanState]:
        """New tests for the bake; what was learnt of stable stays."""
        after = {}
        for event in _active(spec):
            one = MeanTests(wealth.watch(PRIORS, bets_in(bake_s, event.slice_s)), wealth.fresh(OK_PRIORS))
            before = state[event.name]
            after[event.name] = msgspec.structs.replace(before, tests=tuple(one for _ in before.tests), pending={})
        return after

    def take(self, state: dict[str, MeanState], tick: Tick) -> dict[str, MeanState]:
        """The state after one look's values."""
        after = {}
        for one in _active(tick.spec):
            # A canary's first answers are slow because it is new (evidence/warmup.py): they are shown and not counted.
            arrivals = tick.arrivals if one.of is None or tick.warm else []
            after[one.name] = take(state[one.name], one, arrivals, tick.live, tick.at_s)
        return after

    def log_e_bad(self, whole: AnalysisState, metric: str) -> float:
        """The average over the directions."""
        return wealth.mean_logs([wealth.log_e(test.bad) for test in self.own(whole)[metric].tests])

    def log_e_ok(self, whole: AnalysisState, metric: str) -> float:
        """The least of the directions."""
        return min(wealth.log_e(test.ok) for test in self.own(whole)[metric].tests)

    def units(self, whole: AnalysisState, metric: str) -> tuple[int, bool]:
        """The canary's values once stable has some."""
        state = self.own(whole)[metric]
        return state.canary if state.stable else 0, state.stable > 0 or state.canary > 0

    def finding(self, whole: AnalysisState, standing: Standing) -> MetricFinding:
        """One mean, in numbers."""
        state, spec = self.own(whole)[standing.metric], spec_of(whole.spec, standing.metric)
        return standing.finding(
            stable=Share(0, state.stable),
            canary=Share(0, state.canary),
            units="values",
            claim=MeanClaim(
                worse=spec.worse,
                tolerance_ratio=spec.tolerance_ratio,
                tolerance_delta=spec.tolerance_delta * range_of(spec),
                margin_ratio=spec.margin_ratio,
                margin_delta=spec.margin_delta * range_of(spec),
                bounds=bounds_of(spec),
            ),
        )


MEANS = Means()


def spec_of(spec: AnalysisSpec, name: str) -> EventSpec:
    """The metric of this name."""
    return next(one for one in spec.events if one.name == name)


def bounds_of(spec: EventSpec) -> tuple[float, float]:
    """Between which values are compared."""
    assert spec.bounds is not None  # else it is no mean
    return spec.bounds


def range_of(spec: EventSpec) -> float:
    """How far the bounds lie apart."""
    low, high = bounds_of(spec)
    return high - low


@functools.lru_cache(maxsize=64)
def _active(spec: AnalysisSpec) -> tuple[EventSpec, ...]:
    return tuple(one for one in spec.events if one.bounds is not None and one.mode is not Mode.OFF)


def take(state: MeanState, spec: EventSpec, arrivals: list[Arrival], live: list[int], at_s: float) -> MeanState:
    """The state of one metric after a look. ``live`` are the experiment's epochs still in evidence."""
    pending = {epoch: part for epoch, part in state.pending.items() if epoch in live}
    stable, canary = state.stable, state.canary
    for arrival in arrivals:
        new = ValueCounts(values(arrival.stable, spec), values(arrival.canary, spec))
        if new.stable or new.canary:
            pending[arrival.epoch] = _pooled(pending[arrival.epoch], new) if arrival.epoch in pending else new
            stable, canary = stable + sum(new.stable.values()), canary + sum(new.canary.values())
    since_s = at_s if state.closed_s is None else min(state.closed_s, at_s)
    state = msgspec.structs.replace(state, pending=pending, closed_s=since_s, stable=stable, canary=canary)
    ready = {epoch: part for epoch, part in pending.items() if part.stable and part.canary}
    if not ready or at_s - since_s < spec.slice_s:
        return state
    tests, parts = state.tests, list(ready.values())
    if state.past:
        guess = min(max(state.past_sum / state.past, _GUESS_MIN), 1.0 - _GUESS_MIN)
        tests = tuple(_bet(one, test, spec, parts, guess) for one, test in zip(tests, directions_of(spec), strict=True))
    past, past_sum = state.past, state.past_sum
    for part in parts:
        past, past_sum = past + sum(part.stable.values()), past_sum + _sum(part.stable)
    scale = 0.5 * _PAST_MAX / past if past > _PAST_MAX else 1.0
    left = {epoch: part for epoch, part in pending.items() if epoch not in ready}
    return msgspec.structs.replace(
        state,
        tests=tests,
        pending=left,
        closed_s=at_s,
        batches=state.batches + 1,
        past=past * scale,
        past_sum=past_sum * scale,
    )


def values(counts: Counts, spec: EventSpec) -> Values:
    """One version's values in units of `GRAIN` (rule 6)."""
    if spec.of is None:
        cells = counts.values.get(spec.name)
        return {cell * GRAIN // VALUE_CELLS: n for cell, n in cells.items()} if cells else {}
    found: Values = {}
    for bucket, n in getattr(counts, spec.of).items():
        at = _latency_at(bucket, bounds_of(spec))
        found[at] = found.get(at, 0) + n
    return found


@functools.lru_cache(maxsize=4096)
def _latency_at(bucket: int, bounds: tuple[float, float]) -> int:
    """A bucket of a latency, in `GRAIN` of bounds that are milliseconds."""
    middle_ms = (lower_us(bucket) + upper_us(bucket) - 1) / 2000.0
    low, high = bounds
    return round(GRAIN * min(max((middle_ms - low) / (high - low), 0.0), 1.0))


def scaled(spec: EventSpec, ratio: float, delta: float) -> tuple[MeanNull, MeanNull]:
    """The two nulls of a ratio and of a difference, of scaled values (rule 3)."""
    low, _ = bounds_of(spec)
    return MeanNull(ratio, (ratio - 1.0) * low / range_of(spec)), MeanNull(1.0, delta)


def bad_gains(nulls: Sequence[MeanNull], part: ValueCounts, guess: float) -> list[float]:
    """log factors of E_bad, in the order of `SHARES`, for a batch; ``guess`` is stable's mean."""
    return list(map(min, zip(*(_gains(null, part, guess, 1.0) for null in nulls), strict=True)))


def ok_gains(nulls: Sequence[MeanNull], part: ValueCounts, guess: float) -> list[float]:
    """log factors of E_ok, in the order of `OK_PRIORS`, for a batch."""
    return [gain for null in nulls for gain in _gains(null, part, guess, -1.0)]


def _gains(null: MeanNull, part: ValueCounts, guess: float, sign: float) -> list[float]:
    """log factors of bets that the canary's mean is above the null's line (``sign`` 1), or below it (-1)."""
    n_s, n_c = sum(part.stable.values()), sum(part.canary.values())
    weight = n_c / (n_s + n_c)
    rest, ratio = 1.0 - weight, null.ratio
    q_c = ratio * guess + null.delta
    # The largest loss of a canary's value and of a stable one, for a bet of size 1.
    worst_c, worst_s = (q_c, 1.0 - guess) if sign > 0.0 else (1.0 - q_c, guess)
    sizes = [weight / worst_c] if worst_c > 0.0 else []
    sizes += [rest / (ratio * worst_s)] if worst_s > 0.0 else []
    most = min(sizes, default=0.0)
    gains = []
    for share in SHARES:
        by_c, by_s = sign * share * most / weight, -sign * share * most * ratio / rest
        gain = sum([n * log1p(by_c * (y / GRAIN - q_c)) for y, n in part.canary.items()])
        gains.append(gain + sum([n * log1p(by_s * (y / GRAIN - guess)) for y, n in part.stable.items()]))
    return gains


def slice_bad_gains(nulls: Sequence[MeanNull], stable: float, canary: float) -> list[float]:
    """log factors of E_bad for a slice with these means, as one observation (rule 4)."""
    worst = [(canary - null.ratio * stable - null.delta) / (null.ratio + max(null.delta, 0.0)) for null in nulls]
    return [log1p(share * min(worst)) for share in SHARES]


def slice_ok_gains(nulls: Sequence[MeanNull], stable: float, canary: float) -> list[float]:
    """log factors of E_ok for a slice, in the order of `OK_PRIORS`."""
    by = [(null.ratio * stable + null.delta - canary) / (1.0 - min(null.delta, 0.0)) for null in nulls]
    return [log1p(share * one) for one in by for share in SHARES]


def _bet(one: MeanTests, test: PairSpec, spec: EventSpec, parts: list[ValueCounts], guess: float) -> MeanTests:
    if test.mirrored:
        parts = [ValueCounts(part.canary, part.stable) for part in parts]
    worse = scaled(spec, spec.tolerance_ratio, spec.tolerance_delta)
    good = scaled(spec, spec.margin_ratio, spec.margin_delta)
    if spec.of is not None or spec.unit is Unit.SLICE:
        stable, canary = _means(parts)
        bad, ok = slice_bad_gains(worse, stable, canary), slice_ok_gains(good, stable, canary)
    else:
        bad = _all([bad_gains(worse, part, guess) for part in parts])
        ok = _all([ok_gains(good, part, guess) for part in parts])
    return MeanTests(wealth.grow(one.bad, bad, PRIORS), wealth.grow(one.ok, ok, OK_PRIORS))


def _all(gains: list[list[float]]) -> list[float]:
    return [math.fsum(column) for column in zip(*gains, strict=True)]


def _means(parts: Iterable[ValueCounts]) -> tuple[float, float]:
    """Both versions' means: over epochs with the same weights for both (event_slices.py, rule 3)."""
    weighed = []
    for part in parts:
        n_s, n_c = sum(part.stable.values()), sum(part.canary.values())
        weighed.append((n_s * n_c / (n_s + n_c), _sum(part.stable) / n_s, _sum(part.canary) / n_c))
    whole = math.fsum(weight for weight, _, _ in weighed)
    stable = math.fsum(weight * mean for weight, mean, _ in weighed) / whole
    canary = math.fsum(weight * mean for weight, _, mean in weighed) / whole
    return min(stable, 1.0), min(canary, 1.0)


def _sum(found: Values) -> float:
    return sum([y * n for y, n in found.items()]) / GRAIN


def _pooled(part: ValueCounts, new: ValueCounts) -> ValueCounts:
    return ValueCounts(_added(part.stable, new.stable), _added(part.canary, new.canary))


def _added(a: Values, b: Values) -> Values:
    out = dict(a)
    for y, n in b.items():
        out[y] = out.get(y, 0) + n
    return out


def moments(found: Mapping[int, int], bounds: tuple[float, float]) -> Moments:
    """How many values, their mean and their variance, as they are reported."""
    n = sum(found.values())
    if not n:
        return Moments(0, 0.0, 0.0)
    low, high = bounds
    mean = math.fsum(y * count for y, count in found.items()) / n
    spread = math.fsum(count * (y - mean) ** 2 for y, count in found.items()) / n
    unit = (high - low) / GRAIN
    return Moments(n, low + unit * mean, unit * unit * spread)
