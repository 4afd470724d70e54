"""Trials: what one look brings to the tests of one kind of event, taken out of an arrival.

Failure classes are events of the same requests (or sessions), a labelled event has trials of its own. What waits for
its batch to close is the same thing summed over looks.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from gateway.core.analysis.eprocess import Batch
from gateway.core.analysis.intake import Arrival
from gateway.core.analysis.spec import FAILURE_METRICS
from gateway.core.stats.counts import UNIT_EVENTS, Counts


class Pending(msgspec.Struct, frozen=True):
    """Trials of one epoch that wait for their batch to close; events in the order of the tests' ``event``."""

    stable: int = 0
    canary: int = 0
    stable_events: tuple[int, ...] = (0,) * len(FAILURE_METRICS)
    canary_events: tuple[int, ...] = (0,) * len(FAILURE_METRICS)


def labelled(arrival: Arrival, name: str) -> Pending:
    """The trials and events of one label in an arrival."""
    stable, canary = arrival.stable, arrival.canary
    return Pending(
        stable.trials.get(name, 0),
        canary.trials.get(name, 0),
        (stable.events.get(name, 0),),
        (canary.events.get(name, 0),),
    )


def pooled(part: Pending, new: Pending) -> Pending:
    """Both together."""
    return Pending(
        part.stable + new.stable,
        part.canary + new.canary,
        tuple(map(sum, zip(part.stable_events, new.stable_events, strict=True))),
        tuple(map(sum, zip(part.canary_events, new.canary_events, strict=True))),
    )


def summed(parts: Mapping[int, Pending], event: int) -> Batch:
    """One event's counts over all epochs."""
    return Batch(
        sum(part.stable_events[event] for part in parts.values()),
        sum(part.stable for part in parts.values()),
        sum(part.canary_events[event] for part in parts.values()),
        sum(part.canary for part in parts.values()),
    )


def requests(arrival: Arrival) -> Pending:
    """The requests that were answered; each is a trial of all failure classes at once."""
    stable, canary = arrival.stable, arrival.canary
    return Pending(stable.requests, canary.requests, _failures(stable), _failures(canary))


def sessions(arrival: Arrival) -> Pending:
    """The sessions that were entered; each is a trial of all failure classes at once."""
    labels = [UNIT_EVENTS[name] for name in FAILURE_METRICS]
    stable, canary = arrival.stable, arrival.canary
    return Pending(
        stable.trials.get(labels[0], 0),
        canary.trials.get(labels[0], 0),
        tuple(stable.events.get(label, 0) for label in labels),
        tuple(canary.events.get(label, 0) for label in labels),
    )


def _failures(counts: Counts) -> tuple[int, ...]:
    return (counts.errors, counts.client_errors, counts.overload)
