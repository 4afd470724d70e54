"""Trials: what one look brings to the tests of one kind of event, taken out of an arrival.

Outcome classes are events of the same requests (or sessions), a labelled event has trials of its own. What waits for
its batch to close is the same thing summed over looks.

A failure class has one test: does the canary have more of it? A success in another form (201, 204) has two, for more
and for fewer of it; there failures explain a difference, because they are compared in classes of their own. Stable
answers 500 to a third of its requests and 201 to the rest, a fixed canary 201 to all: more of 201, and no
harm. A canary that fails all has fewer of 201, and its failures say so. So "more" compares the canary's share of the
class with stable's share of the class or of failures, and "fewer" the other way round: each test's null is still about
two rates, of an event that is not defined alike in both arms.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import NamedTuple

import msgspec

from gateway.core.analysis.betting.eprocess import TrialBatch
from gateway.core.analysis.evidence.intake import Arrival
from gateway.core.stats.counts import SESSION_EVENTS, Counts
from gateway.core.stats.outcomes import CLASSES, FAILURES


class ClassTest(NamedTuple):
    """One test of an outcome class; ``fewer``: it looks for fewer of it in the canary."""

    name: str
    success: bool = False
    fewer: bool = False


CLASS_TESTS = (
    *(ClassTest(one.name, one.success) for one in CLASSES),
    *(ClassTest(one.name, success=True, fewer=True) for one in CLASSES if one.success),
)
"""All tests of outcome classes: first one for each class in their order, then those for fewer of a success."""

_NONE = (0,) * len(CLASS_TESTS)


class PooledTrials(msgspec.Struct, frozen=True):
    """Trials of one epoch that wait for their batch to close; events in the order of the tests' ``event``.

    ``share`` is set when the batch is closed with requests that came late (`TrialBatch.share`).
    """

    stable: int = 0
    canary: int = 0
    stable_events: tuple[int, ...] = _NONE
    canary_events: tuple[int, ...] = _NONE
    share: float = 0.0

    def batch(self, event: int) -> TrialBatch:
        """One event's counts."""
        return TrialBatch(self.stable_events[event], self.stable, self.canary_events[event], self.canary, self.share)


_NOTHING = PooledTrials()


def labelled(arrival: Arrival, name: str) -> PooledTrials:
    """The trials and events of one label in an arrival."""
    stable, canary = arrival.stable, arrival.canary
    return PooledTrials(
        stable.trials.get(name, 0),
        canary.trials.get(name, 0),
        (stable.events.get(name, 0),),
        (canary.events.get(name, 0),),
    )


def pooled(part: PooledTrials, new: PooledTrials) -> PooledTrials:
    """Both together."""
    return PooledTrials(
        part.stable + new.stable,
        part.canary + new.canary,
        tuple(map(sum, zip(part.stable_events, new.stable_events, strict=True))),
        tuple(map(sum, zip(part.canary_events, new.canary_events, strict=True))),
    )


def summed(parts: Mapping[int, PooledTrials]) -> PooledTrials:
    """All epochs together."""
    return functools.reduce(pooled, parts.values()) if parts else _NOTHING


def requests(arrival: Arrival) -> PooledTrials:
    """The requests whose outcome is known; each is a trial of all outcome classes at once."""
    stable, canary = arrival.stable, arrival.canary
    return PooledTrials(stable.requests, canary.requests, *_events(stable.outcomes, canary.outcomes))


def sessions(arrival: Arrival) -> PooledTrials:
    """The sessions that were entered; each is a trial of all outcome classes at once."""
    first = next(iter(SESSION_EVENTS.values()))
    stable, canary = arrival.stable, arrival.canary
    return PooledTrials(
        stable.trials.get(first, 0), canary.trials.get(first, 0), *_events(_by_session(stable), _by_session(canary))
    )


def _by_session(counts: Counts) -> dict[str, int]:
    return {name: counts.events.get(label, 0) for name, label in SESSION_EVENTS.items()}


def _events(stable: Mapping[str, int], canary: Mapping[str, int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Both arms' events of each of `CLASS_TESTS`."""
    return _events_of(stable, excused=False), _events_of(canary, excused=True)


def _events_of(outcomes: Mapping[str, int], *, excused: bool) -> tuple[int, ...]:
    """One arm's; of a success, failures are added on the side that they excuse: the canary's for "fewer"."""
    if not outcomes:
        return _NONE
    failed = sum(outcomes.get(name, 0) for name in FAILURES)
    return tuple(
        outcomes.get(test.name, 0) + (failed if test.success and test.fewer is excused else 0) for test in CLASS_TESTS
    )
