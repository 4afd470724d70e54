"""Counts: what one arm of an experiment has seen, cumulative and mergeable.

Rules:

1. Cumulative, never deltas: a lost, repeated or reordered message harms nothing, the newest one says it all.
2. A request is counted exactly once, under the epoch of the table that assigned it.
3. Outcomes are told apart by class (outcomes.py). A request is in one class at most, so that together they are never
   more than ``requests``; what is in none was answered as asked.
4. Requests that the experiment must not see (forced variants, the gateway's own faults) never enter. A request whose
   client left before its answer was whole is ``abandoned``. What is known of it enters all the same (`LEFT`): what was
   whole when the client left, and of what was not whole how long it had lasted.
5. ``trials`` and ``events`` are labelled yes/no events by name. A trial enters once, when its answer is known, and its
   event (if it was one) in the same step: between two snapshots there are never more new events than new trials.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeVar

import msgspec

from gateway.core.errors import EvidenceError
from gateway.core.stats.histogram import BUCKET_MAX
from gateway.core.stats.outcomes import NAMES

Key = TypeVar("Key", int, str)

NUMBERS = ("requests", "assigned")
# The labels under which a sticky route's sessions are counted, by class (proxy/units.py).
SESSION_EVENTS = {name: f"session:{name}" for name in NAMES}
LEFT = {
    "latency": ("aborted",),
    "duration": ("aborted", "duration_left"),
    "gap": ("gap_left",),
    "time_per_event": (),
}
"""The latencies, and the histograms of those that were not over when the client left: they lasted at least so long."""
# Of these a request has one entry at most.
PER_REQUEST = tuple(LEFT)
HISTOGRAMS = (*PER_REQUEST, "aborted", "duration_left", "gap_left")
# Names are few and known beforehand; a report that grows them is broken (or hostile), not news.
LABELS_MAX = 256
LABEL_LENGTH_MAX = 64


class Counts(msgspec.Struct):
    """Counts of one variant under one epoch. All fields are events since the counter's birth.

    Histograms are in microseconds (see histogram.py): ``latency`` from dispatch to the response's head, of a stream to
    its first event, or to the failure; ``duration`` to its last byte; of event streams ``gap`` the largest pause
    between two events, ``time_per_event`` the mean one. Of clients that left: ``aborted`` how long they had waited for
    the end of ``latency``, ``duration_left`` how long the answer had lasted that they left in the middle, ``gap_left``
    the largest pause until then, the one that was still open included. ``assigned`` counts requests when the coin
    falls; ``requests`` when their outcome is known.
    """

    requests: int = 0
    outcomes: dict[str, int] = msgspec.field(default_factory=dict)
    latency: dict[int, int] = msgspec.field(default_factory=dict)
    duration: dict[int, int] = msgspec.field(default_factory=dict)
    assigned: int = 0
    gap: dict[int, int] = msgspec.field(default_factory=dict)
    aborted: dict[int, int] = msgspec.field(default_factory=dict)
    time_per_event: dict[int, int] = msgspec.field(default_factory=dict)
    duration_left: dict[int, int] = msgspec.field(default_factory=dict)
    gap_left: dict[int, int] = msgspec.field(default_factory=dict)
    trials: dict[str, int] = msgspec.field(default_factory=dict)
    events: dict[str, int] = msgspec.field(default_factory=dict)

    def copy(self) -> Counts:
        """A snapshot that later increments do not touch."""
        return Counts(
            self.requests,
            dict(self.outcomes),
            dict(self.latency),
            dict(self.duration),
            self.assigned,
            dict(self.gap),
            dict(self.aborted),
            dict(self.time_per_event),
            dict(self.duration_left),
            dict(self.gap_left),
            dict(self.trials),
            dict(self.events),
        )

    def of(self, outcome: str) -> int:
        """How many requests were in this class."""
        return self.outcomes.get(outcome, 0)

    def enter(self, outcome: str, requests: int = 1) -> None:
        """Put so many of the requests into this class; ``requests`` itself is not touched."""
        self.outcomes[outcome] = self.outcomes.get(outcome, 0) + requests

    def label(self, name: str, happened: bool) -> None:
        """One labelled trial whose answer is known: ``happened`` or not."""
        self.trials[name] = self.trials.get(name, 0) + 1
        if happened:
            self.events[name] = self.events.get(name, 0) + 1


class EpochCounts(msgspec.Struct):
    """Both variants' counts on one route under one epoch, with the weight that assigned them."""

    route: str
    epoch: int
    weight_bp: int
    stable: Counts = msgspec.field(default_factory=Counts)
    canary: Counts = msgspec.field(default_factory=Counts)


def merge(parts: Iterable[Counts]) -> Counts:
    """The sum of counts from many workers (associative, commutative, empty sum is zero)."""
    out = Counts()
    for part in parts:
        out.requests += part.requests
        out.assigned += part.assigned
        _add(out.outcomes, part.outcomes)
        for name in HISTOGRAMS:
            _add(getattr(out, name), getattr(part, name))
        _add(out.trials, part.trials)
        _add(out.events, part.events)
    return out


def delta(new: Counts, old: Counts) -> Counts:
    """What was added between two cumulative counts of the same source.

    Raises EvidenceError when any counter went backwards.
    """
    out = Counts(
        new.requests - old.requests,
        _minus("outcomes", new.outcomes, old.outcomes),
        _minus("latency", new.latency, old.latency),
        _minus("duration", new.duration, old.duration),
        new.assigned - old.assigned,
        _minus("gap", new.gap, old.gap),
        _minus("aborted", new.aborted, old.aborted),
        _minus("time_per_event", new.time_per_event, old.time_per_event),
        _minus("duration_left", new.duration_left, old.duration_left),
        _minus("gap_left", new.gap_left, old.gap_left),
        _minus("trials", new.trials, old.trials),
        _minus("events", new.events, old.events),
    )
    if min(out.requests, out.assigned) < 0:
        raise EvidenceError(f"counts went backwards: {old.requests} requests before, {new.requests} now")
    return out


def check(counts: Counts) -> None:
    """Raise EvidenceError for counts that cannot be true: negative, more events than trials, alien buckets or names."""
    for name, value in counts.outcomes.items():
        if name not in NAMES:
            raise EvidenceError(f"{name[:LABEL_LENGTH_MAX]!r} is no class of outcomes")
        if value < 0 or value > counts.requests:
            raise EvidenceError(f"{name} is {value} of {counts.requests} requests")
    if (classed := sum(counts.outcomes.values())) > counts.requests:
        raise EvidenceError(f"the classes of outcomes hold {classed} of {counts.requests} requests")
    if counts.requests < 0 or counts.assigned < 0:
        raise EvidenceError(f"{counts.requests} requests of {counts.assigned} assigned")
    for name in HISTOGRAMS:
        histogram: dict[int, int] = getattr(counts, name)
        if histogram and (min(histogram.values()) < 0 or min(histogram) < 0 or max(histogram) > BUCKET_MAX):
            raise EvidenceError(f"{name} histogram has a negative count or a bucket outside 0..{BUCKET_MAX}")
        if name in PER_REQUEST and sum(histogram.values()) > counts.requests:
            raise EvidenceError(f"{name} histogram holds more entries than the {counts.requests} requests")
    _check_labels(counts)


def _check_labels(counts: Counts) -> None:
    if len(counts.trials) > LABELS_MAX:
        raise EvidenceError(f"{len(counts.trials)} names of labelled events, at most {LABELS_MAX} are kept")
    for label, trials in counts.trials.items():
        if trials < 0 or not 0 < len(label) <= LABEL_LENGTH_MAX:
            raise EvidenceError(f"the labelled event {label[:LABEL_LENGTH_MAX]!r} has {trials} trials")
    for label, events in counts.events.items():
        trials = counts.trials.get(label, 0)
        if events < 0 or events > trials:
            raise EvidenceError(f"the labelled event {label[:LABEL_LENGTH_MAX]!r} is {events} of {trials} trials")


def _add(into: dict[Key, int], part: Mapping[Key, int]) -> None:
    if not into:
        into.update(part)
        return
    for key, n in part.items():
        into[key] = into.get(key, 0) + n


def _minus(what: str, new: Mapping[Key, int], old: Mapping[Key, int]) -> dict[Key, int]:
    if new == old:
        return {}
    if not old.keys() <= new.keys():
        raise EvidenceError(f"a counter of {what} vanished")
    get = old.get
    out = {key: added for key, n in new.items() if (added := n - get(key, 0))}
    if out and min(out.values()) < 0:
        key = min(out, key=lambda key: out[key])
        raise EvidenceError(f"{what} {key!r} went backwards")
    return out
