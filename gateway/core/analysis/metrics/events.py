"""Labelled yes/no events: whatever is counted under a name, each of its own trials.

The unit is the request (rates.py) or, for events that come in bursts, the slice of time (event_slices.py). Events of
which the labels say ``guarded`` count those that come together as about one, as failures are counted.
"""

from __future__ import annotations

import msgspec

from gateway.core.analysis.bursts import guard
from gateway.core.analysis.evidence.intake import Arrival
from gateway.core.analysis.evidence.trials import labelled, summed
from gateway.core.analysis.findings import MetricFinding, Share
from gateway.core.analysis.metrics import event_slices, rates
from gateway.core.analysis.metrics.event_slices import EventSlicesState
from gateway.core.analysis.metrics.kind import TICK_S, Measure, Metric, MetricKind, Standing, Tick, bets_in
from gateway.core.analysis.metrics.rates import LABELLED_PRIOR, RatesState, directions_of, tolerance_of
from gateway.core.analysis.spec import AnalysisSpec, EventSpec, Mode, Unit
from gateway.core.analysis.state import AnalysisState


class EventsState(msgspec.Struct, frozen=True):
    """The events with the request as unit, and those with the slice, by name."""

    by_request: dict[str, RatesState]
    by_slice: dict[str, EventSlicesState]


class Events(MetricKind[EventsState]):
    """The kind of the labelled events."""

    name = "events"
    state_type = EventsState

    def metrics(self, spec: AnalysisSpec) -> tuple[Metric, ...]:
        """Each event that is not off."""
        return tuple(Metric(one.name, one.mode, one.share, group=one.group) for one in _active_events(spec))

    def fresh(self, spec: AnalysisSpec) -> EventsState:
        """Nothing seen."""
        return EventsState(
            {
                one.name: rates.fresh(len(directions_of(one)), LABELLED_PRIOR)
                for one in _active_events(spec)
                if one.unit is Unit.REQUEST
            },
            {one.name: event_slices.fresh(one) for one in _active_events(spec) if one.unit is Unit.SLICE},
        )

    def baked(self, state: EventsState, spec: AnalysisSpec, bake_s: float) -> EventsState:
        """New tests for the bake."""
        slices_s = {one.name: one.slice_s for one in spec.events}
        return EventsState(
            {name: rates.baked(one, bets_in(bake_s, TICK_S)) for name, one in state.by_request.items()},
            {name: event_slices.baked(one, bets_in(bake_s, slices_s[name])) for name, one in state.by_slice.items()},
        )

    def take(self, state: EventsState, tick: Tick) -> EventsState:
        """The state after one look's labels."""
        spec = tick.spec
        if not spec.events:
            return state
        by_request, by_slice = dict(state.by_request), dict(state.by_slice)
        for one in spec.events:
            if one.name in by_request:
                by_request[one.name] = take(
                    by_request[one.name],
                    one,
                    tick.arrivals,
                    tick.live,
                    tick.needed[one.name],
                    tick.at_s,
                    tick.every_s,
                    spec.burst_s,
                )
            elif one.name in by_slice:
                by_slice[one.name] = event_slices.take(by_slice[one.name], one, tick.arrivals, tick.live, tick.at_s)
        return EventsState(by_request, by_slice)

    def log_e_bad(self, whole: AnalysisState, metric: str) -> float:
        """The average over the event's directions."""
        state = self.own(whole)
        if metric in state.by_slice:
            return event_slices.log_e_bad(state.by_slice[metric])
        return rates.log_e_bad(state.by_request[metric].metrics)

    def log_e_ok(self, whole: AnalysisState, metric: str) -> float:
        """The least of the event's directions."""
        state = self.own(whole)
        if metric in state.by_slice:
            return event_slices.log_e_ok(state.by_slice[metric])
        return rates.log_e_ok(state.by_request[metric].metrics)

    def measure(self, whole: AnalysisState, metric: Metric, known: dict[int, tuple[float, float]]) -> Measure:
        """Events that have no trial yet share their state, and are computed once a look."""
        one = self.own(whole).by_request.get(metric.name)
        if one is None:
            return super().measure(whole, metric, known)
        bad, ok = rates.measured(one.metrics, known)
        return Measure(bad, ok, *self.units(whole, metric.name))

    def units(self, whole: AnalysisState, metric: str) -> tuple[int, bool]:
        """The canary's trials, or the slices that have closed, once both versions have some."""
        state = self.own(whole)
        one = state.by_slice.get(metric) or state.by_request[metric]
        units = one.slices if isinstance(one, EventSlicesState) else one.canary
        return units if one.stable and one.canary else 0, one.stable > 0 or one.canary > 0

    def finding(self, whole: AnalysisState, standing: Standing) -> MetricFinding:
        """One event, in numbers."""
        spec, state = _spec_of(whole.spec, standing.metric), self.own(whole)
        if spec.unit is Unit.SLICE:
            of_slice = state.by_slice[spec.name]
            shares = Share(of_slice.stable_events, of_slice.stable), Share(of_slice.canary_events, of_slice.canary)
            return rates.finding(standing, spec.rate, spec.worse, shares, "slices", per_request=False)
        return rates.finding(standing, spec.rate, spec.worse, counted(whole, spec.name), "trials")


EVENTS = Events()


def counted(whole: AnalysisState, name: str) -> tuple[Share, Share]:
    """Stable's and the canary's share of an event with the request as unit."""
    state = EVENTS.own(whole).by_request[name]
    first = state.metrics[0]
    return Share(first.stable_events, state.stable), Share(first.canary_events, state.canary)


def with_new_events(whole: AnalysisState, group: str) -> AnalysisState:
    """The state when the events of a group have come to mean something else (what is compared was chosen anew)."""
    names, state = {event.name for event in whole.spec.events if event.group == group}, EVENTS.own(whole)
    by_request = {name: rates.with_new_events(one) if name in names else one for name, one in state.by_request.items()}
    tests = {**whole.tests, EVENTS.name: EventsState(by_request, state.by_slice)}
    return msgspec.structs.replace(whole, tests=tests)


def _active_events(spec: AnalysisSpec) -> list[EventSpec]:
    return [one for one in spec.events if one.mode is not Mode.OFF and one.bounds is None]


def _spec_of(spec: AnalysisSpec, name: str) -> EventSpec:
    return next(one for one in spec.events if one.name == name)


def _rests(state: RatesState, name: str, arrivals: list[Arrival], live: list[int], at_s: float) -> bool:
    """Whether a look brings an event nothing and changes nothing of it: most events have no trial for hours."""
    if state.pending or state.closed_s > at_s or not state.by_epoch.keys() <= set(live):
        return False
    if any(one.bursts.seen_s is not None for one in state.metrics):
        return False
    return not any(name in one.stable.trials or name in one.canary.trials for one in arrivals)


def take(
    state: RatesState,
    spec: EventSpec,
    arrivals: list[Arrival],
    live: list[int],
    needed: float,
    at_s: float = 0.0,
    every_s: float = 0.0,
    burst_s: float = 0.0,
) -> RatesState:
    """The state of an event with the request as unit after one look; the rest is as for `rates.advance`."""
    if _rests(state, spec.name, arrivals, live, at_s):
        return state
    parts = {arrival.epoch: labelled(arrival, spec.name) for arrival in arrivals}
    tests = directions_of(spec)
    after = rates.advance(state, tests, parts, live, (needed,) * len(tests), at_s, every_s)
    if not spec.guarded or not burst_s:
        return after
    seen, tolerance = summed(parts).batch(0), tolerance_of(spec.rate)
    guarded = [
        msgspec.structs.replace(m, bursts=guard.take(m.bursts, seen, at_s, burst_s, tolerance)) for m in after.metrics
    ]
    return msgspec.structs.replace(after, metrics=tuple(guarded))
