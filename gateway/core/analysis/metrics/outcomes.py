"""Outcome classes: 5xx, 4xx, empty bodies and the like (stats/outcomes.py), each a rate of the same requests.

Rules:

1. All classes are tested together (rates.py): a request is a trial of each, and classes without an event are twins that
   cost what one of them costs.
2. A failure class has one test, a success in another form two, for more and for fewer of it (trials.py). The first test
   counts the canary's own events, the last stable's own.
3. Failures that come together are guarded (bursts/guard.py), successes are not: no pause brings them about.
4. On a sticky route the unit is the session.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence

import msgspec

from gateway.core.analysis.betting import wealth
from gateway.core.analysis.bursts import guard, trimmed
from gateway.core.analysis.bursts.guard import BurstState, Tolerance
from gateway.core.analysis.bursts.past import Weather
from gateway.core.analysis.evidence.intake import Arrival
from gateway.core.analysis.evidence.trials import CLASS_TESTS, requests, sessions, summed
from gateway.core.analysis.findings import MetricFinding, Share
from gateway.core.analysis.metrics import rates
from gateway.core.analysis.metrics.kind import TICK_S, Measure, Metric, MetricKind, Standing, Tick, bets_in
from gateway.core.analysis.metrics.rates import PairSpec, RatesState, RateState, stable_guess, tolerance_of
from gateway.core.analysis.spec import RATE_METRICS, AnalysisSpec, Mode, RateSpec, Worse
from gateway.core.analysis.state import AnalysisState


class Outcomes(MetricKind[RatesState]):
    """The kind of the outcome classes."""

    name = "outcomes"
    state_type = RatesState

    def metrics(self, spec: AnalysisSpec) -> tuple[Metric, ...]:
        """Each class that is not off."""
        named = zip(RATE_METRICS, spec.rates, strict=True)
        return tuple(Metric(n, rate.mode, getattr(spec.shares, n)) for n, rate in named if rate.mode is not Mode.OFF)

    def fresh(self, spec: AnalysisSpec) -> RatesState:  # the same tests for every spec
        """Nothing seen."""
        return rates.fresh()

    def baked(self, state: RatesState, spec: AnalysisSpec, bake_s: float) -> RatesState:  # see above
        """New tests for the bake."""
        return rates.baked(state, bets_in(bake_s, TICK_S))

    def take(self, state: RatesState, tick: Tick) -> RatesState:
        """The state after one look's requests, or sessions."""
        spec = tick.spec
        specs = tuple([getattr(spec, test.name) for test in CLASS_TESTS])
        # A class that is off has no test that could convict.
        needed = [tick.needed.get(test.name, float("inf")) for test in CLASS_TESTS]
        return take(
            state,
            specs,
            tick.arrivals,
            tick.live,
            needed,
            tick.at_s,
            tick.every_s,
            spec.burst_s,
            sticky=spec.sticky,
            weather=tick.weather if spec.learn_bursts else {},
        )

    def log_e_bad(self, whole: AnalysisState, metric: str) -> float:
        """The average over the class's tests."""
        return rates.log_e_bad(of_class(self.own(whole), metric))

    def log_e_ok(self, whole: AnalysisState, metric: str) -> float:
        """The least of the class's tests."""
        return rates.log_e_ok(of_class(self.own(whole), metric))

    def measure(self, whole: AnalysisState, metric: Metric, known: dict[int, tuple[float, float]]) -> Measure:
        """Twins are computed once a look (rule 1)."""
        bad, ok = rates.measured(of_class(self.own(whole), metric.name), known)
        return Measure(bad, ok, *self.units(whole, metric.name))

    def units(self, whole: AnalysisState, metric: str) -> tuple[int, bool]:  # the same for all classes
        """The canary's requests once stable has answered some, too."""
        stable, canary = _trials(whole, self.own(whole))
        return canary if stable else 0, stable > 0 or canary > 0

    def finding(self, whole: AnalysisState, standing: Standing) -> MetricFinding:
        """One class, in numbers."""
        name, state = standing.metric, self.own(whole)
        stable, canary = _trials(whole, state)
        tests, spec = of_class(state, name), getattr(whole.spec, name)
        return rates.finding(
            standing,
            spec,
            Worse.DIFFERENT if len(tests) > 1 else Worse.HIGHER,
            (Share(tests[-1].stable_events, stable), Share(tests[0].canary_events, canary)),
            "sessions" if whole.spec.sticky else "requests",
            believed=guard.guarded_ok(1.0, tests[0].bursts),
            guess=stable_guess(tests[0]),
        )


OUTCOMES = Outcomes()


def _trials(whole: AnalysisState, state: RatesState) -> tuple[int, int]:
    if whole.spec.sticky:
        return state.stable, state.canary
    return whole.stable_requests, whole.canary_requests


def take(
    state: RatesState,
    specs: tuple[RateSpec, ...],
    arrivals: list[Arrival],
    live: list[int],
    needed: Sequence[float],
    at_s: float = 0.0,
    every_s: float = 0.0,
    burst_s: float = 0.0,
    *,
    sticky: bool = False,
    weather: Mapping[str, Weather] | None = None,
) -> RatesState:
    """The outcome classes' state after one tick's arrivals.

    ``specs`` and ``needed`` are by test (`CLASS_TESTS`): ``needed`` the log E_bad at which each metric convicts by
    itself. ``live`` are the experiment's epochs still in evidence, ascending; ``every_s`` the least time between two
    bets of a bake (0: not baking); ``burst_s`` how long failures of one arm may come together (0: they are
    independent); ``sticky`` that sessions are the units; ``weather`` what is known of stable's bad moments.
    """
    if weather and burst_s and not state.batches:
        state = _learning(state, weather, at_s)
    parts = {arrival.epoch: sessions(arrival) if sticky else requests(arrival) for arrival in arrivals}
    tests = [PairSpec(spec, i, CLASS_TESTS[i].fewer, conditional=sticky) for i, spec in enumerate(specs)]
    after = rates.advance(state, tests, parts, live, needed, at_s, every_s)
    if not burst_s:
        return after
    new = summed(parts)
    metrics: list[RateState] = []
    # Twins are one object (rule 8).
    asked: dict[tuple[int, int, int, Tolerance], RateState] = {}
    for i, (metric, spec) in enumerate(zip(after.metrics, specs, strict=True)):
        if CLASS_TESTS[i].success:
            metrics.append(metric)
            continue
        batch, tolerance = new.batch(i), tolerance_of(spec)
        asking = (id(metric), batch.stable_events, batch.canary_events, tolerance)
        answer = asked.get(asking)
        if answer is None:
            seen = guard.take(metric.bursts, batch, at_s, burst_s, tolerance)
            left = None if metric.trimmed is None else trimmed.take(metric.trimmed, batch, at_s, rates.BAD_PRIORS)
            same = seen is metric.bursts and left is metric.trimmed
            answer = metric if same else msgspec.structs.replace(metric, bursts=seen, trimmed=left)
            asked[asking] = answer
        metrics.append(answer)
    return msgspec.structs.replace(after, metrics=tuple(metrics))


def _learning(state: RatesState, weather: Mapping[str, Weather], at_s: float) -> RatesState:
    """With stable's bad moments taken out of the evidence of each failure class of which enough is known."""
    known: dict[tuple[int, Weather], RateState] = {}
    metrics: list[RateState] = []
    for metric, test in zip(state.metrics, CLASS_TESTS, strict=False):
        seen = weather.get(test.name)
        rule = None if test.success or seen is None or metric.trimmed is not None else trimmed.rule(seen)
        if seen is None or rule is None:
            metrics.append(metric)
            continue
        # Twins stay one object (rule 1).
        asking = id(metric), seen
        if asking not in known:
            one = trimmed.fresh(rule, at_s, rates.BAD_PRIORS, wealth.HELD_BACK)
            known[asking] = msgspec.structs.replace(metric, trimmed=one)
        metrics.append(known[asking])
    return msgspec.structs.replace(state, metrics=tuple(metrics))


def bursts_of(whole: AnalysisState, metric: str) -> BurstState:
    """How the failures of one class come together."""
    return of_class(OUTCOMES.own(whole), metric)[0].bursts


@functools.cache
def tests_of(name: str) -> tuple[int, ...]:
    """Where an outcome class has its tests."""
    return tuple(i for i, test in enumerate(CLASS_TESTS) if test.name == name)


def of_class(state: RatesState, name: str) -> tuple[RateState, ...]:
    """An outcome class's tests: one, or one for each direction.

    The first counts the canary's own events (and excuses some of stable's), the last stable's own.
    """
    return tuple([state.metrics[i] for i in tests_of(name)])
