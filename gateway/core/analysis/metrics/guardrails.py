"""Guardrails: absolute limits on the canary, crossed on proof and not on a raw threshold.

Theory. H0: each request of the canary has the event with probability at most L, given everything before it. For a guess
theta > L the factor f(theta, Y) / f(L, Y) has mean <= 1 under H0 (it grows with p and is 1 at p = L), so the product
over requests is an e-process, whatever stable does and however the traffic is split. Guesses are odds ratios to the
limit. For latencies the unit is a slice of time with the canary's slow share S: 1 + lambda (S - L), lambda < 1 / L,
needs only that S has a mean of at most L, so a pause is one observation (time_slices.py says why).

Rules:

1. One bet for each tick with news, and in a bake at most one in ``every_s`` (wealth.py, rule 3).
2. What a client left before it was over is a trial of a latency, and slow if it had lasted beyond the threshold.
3. A crossing is FAIL with the guardrail's name as its cause: E counts with the guardrail's share of alpha_rollback like
   any metric's E_bad (budget.py). A guardrail proves nothing good: PASS does not wait for it.
4. A limit on an outcome class believes no more of a burst than the class itself does (bursts/guard.py).
5. It is absolute: a fault that hits both versions alike crosses it too. That is what it is for.
"""

from __future__ import annotations

import functools
import math

import msgspec

from gateway.core.analysis.betting import wealth
from gateway.core.analysis.betting.eprocess import from_log_odds, log_odds
from gateway.core.analysis.betting.wealth import Wealth
from gateway.core.analysis.bursts import guard
from gateway.core.analysis.evidence.intake import Arrival
from gateway.core.analysis.findings import LimitClaim, MetricFinding, Share
from gateway.core.analysis.metrics.kind import TICK_S, Metric, MetricKind, Role, Standing, Tick, bets_in
from gateway.core.analysis.metrics.outcomes import bursts_of
from gateway.core.analysis.metrics.time_slices import beyond, left_of
from gateway.core.analysis.spec import LATENCY_METRICS, RATE_METRICS, AnalysisSpec, GuardrailSpec, Mode
from gateway.core.analysis.state import AnalysisState
from gateway.core.stats.counts import LEFT, Counts
from gateway.core.stats.ranks import Ranks

ODDS_RATIOS = (1.2, 1.6, 2.5, 5.0, 20.0, 300.0)
PRIORS = (0.1, 0.2, 0.2, 0.2, 0.15, 0.15)
# Of the largest lambda, 1 / limit.
LAMBDAS = (0.02, 0.05, 0.15, 0.4, 0.8, 0.95)


class GuardrailState(msgspec.Struct, frozen=True):
    """One guardrail's e-process, what waits for the next bet and since when, and totals for the report."""

    bad: Wealth
    waiting: tuple[int, int] = (0, 0)
    since_s: float = 0.0
    events: int = 0
    trials: int = 0


class Guardrails(MetricKind[dict[str, GuardrailState]]):
    """The kind of the absolute limits."""

    name = "guardrails"
    state_type = dict[str, GuardrailState]

    def metrics(self, spec: AnalysisSpec) -> tuple[Metric, ...]:
        """Each guardrail that is not off."""
        on = (one for one in spec.guardrails if one.mode is not Mode.OFF)
        return tuple(Metric(one.name, one.mode, one.share, Role.LIMIT) for one in on)

    def fresh(self, spec: AnalysisSpec) -> dict[str, GuardrailState]:
        """Nothing seen."""
        return {one.name: fresh() for one in spec.guardrails if one.mode is not Mode.OFF}

    def baked(self, state: dict[str, GuardrailState], spec: AnalysisSpec, bake_s: float) -> dict[str, GuardrailState]:
        """New tests for the bake."""
        slices_s = {one.name: max(TICK_S, one.slice_s) for one in spec.guardrails}
        return {name: baked(one, bets_in(bake_s, slices_s[name])) for name, one in state.items()}

    def take(self, state: dict[str, GuardrailState], tick: Tick) -> dict[str, GuardrailState]:
        """The state after one look's evidence."""
        return {
            one.name: take(state[one.name], one, tick.arrivals, tick.at_s, tick.every_s, warm=tick.warm)
            for one in tick.spec.guardrails
            if one.name in state
        }

    def log_e_bad(self, whole: AnalysisState, metric: str) -> float:
        """log of E against "within the limit", as far as it is believed (rule 4)."""
        log_e, of = wealth.log_e(self.own(whole)[metric].bad), _spec_of(whole.spec, metric).metric
        return guard.guarded(log_e, bursts_of(whole, of)) if of in RATE_METRICS else log_e

    def log_e_ok(self, whole: AnalysisState, metric: str) -> float:  # a limit proves nothing good
        """Nothing (rule 3)."""
        return 0.0

    def units(self, whole: AnalysisState, metric: str) -> tuple[int, bool]:
        """The canary's trials."""
        trials = self.own(whole)[metric].trials
        return trials, trials > 0

    def finding(self, whole: AnalysisState, standing: Standing) -> MetricFinding:
        """One limit, in numbers."""
        state, spec = self.own(whole)[standing.metric], _spec_of(whole.spec, standing.metric)
        return standing.finding(
            canary=Share(state.events, state.trials),
            claim=LimitClaim(spec.metric, spec.limit, spec.threshold_us),
            details={"limit": spec.limit},
        )


GUARDRAILS = Guardrails()


def _spec_of(spec: AnalysisSpec, name: str) -> GuardrailSpec:
    return next(one for one in spec.guardrails if one.name == name)


def fresh() -> GuardrailState:
    """Nothing seen, one unit of wealth."""
    return GuardrailState(wealth.fresh(PRIORS, wealth.HELD_BACK))


def baked(state: GuardrailState, horizon: int) -> GuardrailState:
    """The state at promotion: the test begins anew as CUSUMs."""
    return msgspec.structs.replace(state, bad=wealth.watch(PRIORS, horizon), waiting=(0, 0))


def take(
    state: GuardrailState,
    spec: GuardrailSpec,
    arrivals: list[Arrival],
    at_s: float,
    every_s: float = 0.0,
    *,
    warm: bool = True,
) -> GuardrailState:
    """The state after one tick's arrivals. Of a canary that is not ``warm`` latencies are counted and not bet on."""
    new = [seen(spec, arrival.canary) for arrival in arrivals]
    events, trials = sum(one[0] for one in new), sum(one[1] for one in new)
    by_slice = spec.metric in LATENCY_METRICS
    if by_slice and not warm:
        return GuardrailState(state.bad, (0, 0), at_s, state.events + events, state.trials + trials)
    waiting = (state.waiting[0] + events, state.waiting[1] + trials)
    wait_s = max(spec.slice_s if by_slice else 0.0, every_s)
    since_s = min(state.since_s, at_s) if state.trials else at_s
    bad = state.bad
    if waiting[1] and at_s - since_s >= wait_s:
        gains = slice_gains(spec.limit, *waiting) if by_slice else request_gains(spec.limit, *waiting)
        bad, waiting, since_s = wealth.grow(bad, gains, PRIORS), (0, 0), at_s
    return GuardrailState(bad, waiting, since_s, state.events + events, state.trials + trials)


def request_gains(limit: float, events: int, trials: int) -> list[float]:
    """log factors of independent requests, one for each odds ratio."""
    return [events * yes + (trials - events) * no for yes, no in _factors(limit, ODDS_RATIOS)]


@functools.lru_cache(maxsize=256)
def _factors(limit: float, ratios: tuple[float, ...]) -> tuple[tuple[float, float], ...]:
    """log factors of a request with the event and of one without, for each odds ratio."""
    odds = log_odds(limit)
    guesses = [max(from_log_odds(odds + math.log(ratio)), limit) for ratio in ratios]
    return tuple((math.log(guess / limit), math.log1p(-guess) - math.log1p(-limit)) for guess in guesses)


def slice_gains(limit: float, events: int, trials: int) -> list[float]:
    """log factors of one slice, one for each lambda."""
    return [math.log1p(share * (events / trials - limit) / limit) for share in LAMBDAS]


def seen(spec: GuardrailSpec, counts: Counts) -> tuple[int, int]:
    """The guarded events and trials among counts."""
    if spec.threshold_us is None:
        if spec.metric in RATE_METRICS:
            return counts.of(spec.metric), counts.requests
        return counts.events.get(spec.metric, 0), counts.trials.get(spec.metric, 0)
    bucket, answered = beyond(spec.threshold_us), Ranks(getattr(counts, spec.metric))
    left = Ranks(left_of(counts, LEFT[spec.metric]))
    return answered.at_or_above(bucket) + left.at_or_above(bucket), answered.total + left.total
