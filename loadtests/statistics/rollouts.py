"""Whole rollouts by the pure API, as control drives it: counts by epoch in, `look`, `step`, another weight out.

What befalls a request is said by a world: a function from the arm and the time to ways of ending, each with its chance,
delay, outcome class and latency. A tick of 0.1 s is one look. Requests are entered under the epoch that assigned them,
when they end; an epoch is reported while one of its requests is open and `_GRACE_S` longer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from gateway.core.analysis import AnalysisState, Evidence, fresh_state, look
from gateway.core.analysis.spec import ROUTE_DEFAULT, AnalysisSpec
from gateway.core.rollout import Analysed, Phase, Plan, Rollout, Started, step
from gateway.core.rollout.types import Step
from gateway.core.stats import EpochCounts, bucket_of
from gateway.core.stats.counts import Counts

TICK_S = 0.1
_GRACE_S = 5.0
# The quantiles of a log-normal latency around its median that stand for all of it.
_SHAPE = (0.55, 0.67, 0.76, 0.84, 0.92, 1.0, 1.09, 1.19, 1.32, 1.5, 1.82)
DEFAULT_PLAN = Plan(tuple(Step(weight_bp) for weight_bp in (100, 500, 2500, 5000)))


@dataclass(frozen=True)
class Ending:
    """A way in which requests end: with this chance, after so long; "" is well, None that no outcome ever comes."""

    chance: float
    after_s: float = 0.05
    outcome: str | None = ""
    latency_s: float | None = None


World = Callable[[int, float, int], Sequence[Ending]]
"""Arm (0: stable), time, how many requests the arm has had so far: the endings of the requests assigned now."""


@dataclass
class Outcome:
    """What became of a rollout."""

    phase: Phase = Phase.IDLE
    at_s: float = 0.0
    reason: str = ""
    causes: tuple[str, ...] = ()


@dataclass
class Simulation:
    """One rollout."""

    world: World
    requests_per_s: float
    rng: np.random.Generator
    spec: AnalysisSpec = ROUTE_DEFAULT
    plan: Plan = DEFAULT_PLAN
    until_s: float = 1800.0

    def run(self) -> Outcome:
        """Until it is over, or ``until_s``."""
        rollout, _ = step(Rollout(), Started("r", "r", "v1", "v2", self.plan, 0.0, "sim"))
        state: AnalysisState = fresh_state(self.spec)
        traffic, done = Traffic(self, rollout.weight_bp), Outcome()
        for tick in range(1, round(self.until_s / TICK_S) + 1):
            at_s = tick * TICK_S
            traffic.pass_by(tick, rollout.weight_bp)
            state, seen = look(state.spec, state, Evidence(at_s, tuple(traffic.epochs.values()), traffic.epoch))
            event = Analysed(at_s, seen.verdict, seen.reason, seen.causes, seen.canary_requests, unknown=seen.unknown)
            after, _ = step(rollout, event)
            if after.weight_bp != rollout.weight_bp:
                traffic.next_epoch(tick, after.weight_bp)
            rollout = after
            if rollout.phase.terminal:
                break
        done.phase, done.at_s, done.reason, done.causes = rollout.phase, at_s, rollout.reason, rollout.causes
        return done


class Traffic:
    """The requests of a rollout, and what is counted of them by epoch."""

    def __init__(self, of: Simulation, weight_bp: int) -> None:
        self._of = of
        self.epoch = 1
        self.epochs = {1: EpochCounts("r", 1, weight_bp)}
        # By tick: the epoch, arm and ending of requests that end then, and how many.
        self._waiting: dict[int, list[tuple[int, int, Ending, int]]] = {}
        self._last = {1: 0}
        self._had = [0, 0]

    def next_epoch(self, tick: int, weight_bp: int) -> None:
        """Another weight."""
        self.epoch += 1
        self.epochs[self.epoch], self._last[self.epoch] = EpochCounts("r", self.epoch, weight_bp), tick

    def pass_by(self, tick: int, weight_bp: int) -> None:
        """One tick's requests begin, and those that are due end."""
        of = self._of
        for epoch, arm, ending, n in self._waiting.pop(tick, ()):
            if epoch in self.epochs:
                self._enter(_arm(self.epochs[epoch], arm), ending, n)
        for arm, share in enumerate((1.0 - weight_bp / 1e4, weight_bp / 1e4)):
            n = int(of.rng.poisson(of.requests_per_s * TICK_S * share))
            if n:
                self._assign(tick, arm, n)
        over = [e for e, when in self._last.items() if e != self.epoch and (tick - when) * TICK_S > _GRACE_S]
        for epoch in over:
            del self.epochs[epoch], self._last[epoch]

    def _assign(self, tick: int, arm: int, n: int) -> None:
        endings = self._of.world(arm, tick * TICK_S, self._had[arm])
        self._had[arm] += n
        counts = _arm(self.epochs[self.epoch], arm)
        counts.assigned += n
        parts = self._of.rng.multinomial(n, [one.chance for one in endings]).tolist()
        for ending, some in zip(endings, parts, strict=True):
            if not some or ending.outcome is None:
                continue
            when = tick + max(0, round(ending.after_s / TICK_S))
            if when == tick:
                self._enter(counts, ending, some)
            else:
                self._last[self.epoch] = max(self._last[self.epoch], when)
                self._waiting.setdefault(when, []).append((self.epoch, arm, ending, some))

    def _enter(self, counts: Counts, ending: Ending, n: int) -> None:
        counts.requests += n
        if ending.outcome:
            counts.enter(ending.outcome, n)
        median_s = ending.after_s if ending.latency_s is None else ending.latency_s
        counts.lasted_us += int(n * 1e6 * ending.after_s)
        parts = self._of.rng.multinomial(n, [1 / len(_SHAPE)] * len(_SHAPE)).tolist()
        for shape, some in zip(_SHAPE, parts, strict=True):
            if some:
                bucket = bucket_of(int(1e6 * median_s * shape))
                counts.latency[bucket] = counts.latency.get(bucket, 0) + some


def _arm(entry: EpochCounts, arm: int) -> Counts:
    return entry.canary if arm else entry.stable
