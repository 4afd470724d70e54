"""Counts: what one arm of an experiment has seen, cumulative and mergeable.

Rules:

1. Cumulative, never deltas: a lost, repeated or reordered message harms nothing, the newest one says it all.
2. A request is counted exactly once, under the epoch of the table that assigned it.
3. Outcomes are distinguished by class (outcomes.py). A request is in one class at most, so that together they are never
   more than ``requests``; what is in none was answered as asked.
4. Requests that the experiment must not see (forced variants, the gateway's own faults) never enter. A request whose
   client left before its answer was whole is ``abandoned``. What is known of it enters all the same (`LEFT`): what was
   whole when the client left, and of what was not whole how long it had lasted.
5. ``trials`` and ``events`` are labelled yes/no events by name. A trial enters once, when its answer is known, and its
   event (if it was one) in the same step: between two snapshots there are never more new events than new trials.
6. ``values`` are numbers that requests came with (tokens, cost, a score), by name: how many lie at each point of a grid
   of `VALUE_CELLS` steps between the bounds of the metric. One that lies between two points is put on one of them by a
   coin, the nearer the likelier (`cell_of`), so that sums are right on average.
7. Counts are checked once, where they enter (`check`: a worker's or the inspector's report, a recording). Sums of
   checked counts need no check. What is new between two of them is refused by `delta` if it cannot be true.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import TypeVar

import msgspec

from gateway.core.errors import EvidenceError
from gateway.core.stats.histogram import BUCKET_MAX
from gateway.core.stats.outcomes import NAMES
from gateway.core.stats.pairs import check_pairs
from gateway.core.types import WEIGHT_BP_MAX

Key = TypeVar("Key", int, str)

# The labels under which a sticky route's sessions are counted, by class (proxy/counting/sticky_sessions.py).
SESSION_EVENTS = {name: f"session:{name}" for name in NAMES}
# The label of sessions that were well and came again: did they fail?
RETURNING = "session:returned"
LEFT = {
    "latency": ("aborted",),
    "duration": ("aborted", "duration_left"),
    "gap": ("gap_left",),
    "time_per_event": (),
    "first_token": ("first_token_left",),
}
"""The latencies, and the histograms of those that were not over when the client left: they lasted at least so long."""
# Of these a request has one entry at most.
PER_REQUEST = tuple(LEFT)
HISTOGRAMS = (*PER_REQUEST, "aborted", "duration_left", "gap_left", "first_token_left")
# What is bounded by no other number.
_UNBOUNDED = ("aborted", "duration_left", "gap_left", "first_token_left", "trials")
# Names are few and known beforehand; a report that grows them is broken (or hostile), not news.
LABELS_MAX = 256
# Beyond this, floats no longer distinguish neighbouring counts.
COUNT_MAX = 1 << 53
LABEL_LENGTH_MAX = 64
_LASTED_US_MAX = 1 << 62
# Rounding to so many steps adds at most 1/128 of the range to the standard deviation of a value.
VALUE_CELLS = 64


def cell_of(value: float, bounds: tuple[float, float], draw: float) -> int:
    """The point of the grid for a value, which is clipped to the bounds; ``draw`` is from [0, 1).

    >>> cell_of(0.5, (0.0, 1.0), 0.9), cell_of(-3.0, (0.0, 1.0), 0.9), cell_of(7.0, (0.0, 1.0), 0.9)
    (32, 0, 64)
    >>> cell_of(0.25 / 64, (0.0, 1.0), 0.2), cell_of(0.25 / 64, (0.0, 1.0), 0.3)
    (1, 0)
    """
    low, high = bounds
    at = VALUE_CELLS * (min(max(value, low), high) - low) / (high - low)
    whole = int(at)
    return whole + 1 if draw < at - whole else whole


class Counts(msgspec.Struct):
    """Counts of one variant under one epoch. All fields are events since the counter's birth.

    Histograms are in microseconds (see histogram.py): ``latency`` from dispatch to the response's head, of a stream to
    its first event, or to the failure; ``duration`` to its last byte; of event streams ``gap`` the largest pause
    between two events, ``time_per_event`` the mean one, ``first_token`` from dispatch to the first event with content
    (``first_token_left``: of streams that failed, or were left, before one). Of clients that left: ``aborted`` how long
    they had waited for the end of ``latency``, ``duration_left`` how long the answer had lasted that they left in the
    middle, ``gap_left`` the largest pause until then, the one that was still open included. ``assigned`` counts
    requests when the coin falls; ``requests`` when their outcome is known; ``lasted_us`` is how long these lasted, all
    together.
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
    lasted_us: int = 0
    values: dict[str, dict[int, int]] = msgspec.field(default_factory=dict)
    first_token: dict[int, int] = msgspec.field(default_factory=dict)
    first_token_left: dict[int, int] = msgspec.field(default_factory=dict)

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
            self.lasted_us,
            {name: dict(cells) for name, cells in self.values.items()},
            dict(self.first_token),
            dict(self.first_token_left),
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

    def value(self, name: str, cell: int) -> None:
        """One value, at this point of its grid."""
        cells = self.values.get(name)
        if cells is None:
            cells = self.values[name] = {}
        cells[cell] = cells.get(cell, 0) + 1


class EpochCounts(msgspec.Struct):
    """Both variants' counts on one route under one epoch, with the weight that assigned them.

    ``pairs`` are the requests that both versions were sent (mirroring), by what came of the two (stats/pairs.py).
    """

    route: str
    epoch: int
    weight_bp: int
    stable: Counts = msgspec.field(default_factory=Counts)
    canary: Counts = msgspec.field(default_factory=Counts)
    pairs: dict[str, int] = msgspec.field(default_factory=dict)


def merge(parts: Iterable[Counts], unread: Collection[str] = ()) -> Counts:
    """The sum of counts from many workers (associative, commutative, empty sum is zero).

    ``unread`` histograms are left out.
    """
    out = Counts()
    for part in parts:
        out.requests += part.requests
        out.assigned += part.assigned
        out.lasted_us += part.lasted_us
        _add(out.outcomes, part.outcomes)
        for name in HISTOGRAMS:
            if name not in unread and (histogram := getattr(part, name)):
                _add(getattr(out, name), histogram)
        _add(out.trials, part.trials)
        _add(out.events, part.events)
        for name, cells in part.values.items():
            _add(out.values.setdefault(name, {}), cells)
    return out


def delta(new: Counts, old: Counts, unread: Collection[str] = ()) -> Counts:
    """What was added between two cumulative counts of the same source, in the order of the new ones.

    ``unread`` histograms are left out. Raises EvidenceError when a counter went backwards, or when more was added to a
    part than to the whole.
    """
    out = Counts(new.requests - old.requests, assigned=new.assigned - old.assigned)
    out.lasted_us = new.lasted_us - old.lasted_us
    if min(out.requests, out.assigned, out.lasted_us) < 0:
        raise EvidenceError(f"counts went backwards: {old.requests} requests before, {new.requests} now")
    out.outcomes = _minus("outcomes", new.outcomes, old.outcomes)
    for name in HISTOGRAMS:
        if name not in unread:
            now: dict[int, int] = getattr(new, name)
            if now or getattr(old, name):
                setattr(out, name, _minus(name, now, getattr(old, name)))
    out.trials, out.events = _minus("trials", new.trials, old.trials), _minus("events", new.events, old.events)
    if not old.values.keys() <= new.values.keys():
        raise EvidenceError("values of a metric vanished")
    for name, cells in new.values.items():
        if added := _minus(f"the values of {name[:LABEL_LENGTH_MAX]}", cells, old.values.get(name, {})):
            out.values[name] = added
    _check_parts(out, "new ")
    return out


def check_entry(entry: EpochCounts) -> None:
    """Raise EvidenceError for an epoch's counts that cannot be true, with the epoch and what is wrong."""
    if not 0 <= entry.epoch <= COUNT_MAX:
        raise EvidenceError(f"{entry.epoch} is not an epoch")
    if not 0 <= entry.weight_bp <= WEIGHT_BP_MAX:
        raise EvidenceError(f"epoch {entry.epoch} has a weight of {entry.weight_bp} basis points")
    try:
        check(entry.stable)
        check(entry.canary)
        check_pairs(entry.pairs)
    except EvidenceError as error:
        raise EvidenceError(f"epoch {entry.epoch}: {error}") from error


def check(counts: Counts) -> None:
    """Raise EvidenceError for counts that cannot be true: negative, more events than trials, unknown buckets or names.

    Their types are the decoder's business: they were read as `Counts`.
    """
    if counts.requests < 0 or counts.assigned < 0 or 0 < counts.assigned < counts.requests:
        raise EvidenceError(f"{counts.requests} requests of {counts.assigned} assigned")
    for name, value in counts.outcomes.items():
        if name not in NAMES:
            raise EvidenceError(f"{name[:LABEL_LENGTH_MAX]!r} is not an outcome class")
        if value < 0:
            raise EvidenceError(f"{name} is {value} of {counts.requests} requests")
    for name in HISTOGRAMS:
        histogram: dict[int, int] = getattr(counts, name)
        if histogram and (min(histogram.values()) < 0 or min(histogram) < 0 or max(histogram) > BUCKET_MAX):
            raise EvidenceError(f"{name} histogram has a negative count or a bucket outside 0..{BUCKET_MAX}")
    if len(counts.trials) > LABELS_MAX:
        raise EvidenceError(f"{len(counts.trials)} names of labelled events, at most {LABELS_MAX} are kept")
    for label, trials in counts.trials.items():
        if trials < 0 or not 0 < len(label) <= LABEL_LENGTH_MAX:
            raise EvidenceError(f"the labelled event {label[:LABEL_LENGTH_MAX]!r} has {trials} trials")
    if counts.events and min(counts.events.values()) < 0:
        raise EvidenceError("a labelled event has a negative count")
    _check_values(counts.values)
    _check_parts(counts)
    largest = max(counts.requests, counts.assigned, *(sum(getattr(counts, name).values()) for name in _UNBOUNDED))
    largest = max(largest, *(sum(cells.values()) for cells in counts.values.values())) if counts.values else largest
    if largest > COUNT_MAX:
        raise EvidenceError(f"{largest} is over the largest possible count")


def _check_values(values: Mapping[str, Mapping[int, int]]) -> None:
    if len(values) > LABELS_MAX:
        raise EvidenceError(f"{len(values)} names of values, at most {LABELS_MAX} are kept")
    for name, cells in values.items():
        if not 0 < len(name) <= LABEL_LENGTH_MAX:
            raise EvidenceError(f"{name[:LABEL_LENGTH_MAX]!r} is not a name of values")
        if cells and (min(cells.values()) < 0 or min(cells) < 0 or max(cells) > VALUE_CELLS):
            raise EvidenceError(f"the values of {name!r} have a negative count or a point outside 0..{VALUE_CELLS}")


def _check_parts(counts: Counts, new: str = "") -> None:
    """Of no part more than of the whole; counts are not negative."""
    if not 0 <= counts.lasted_us < _LASTED_US_MAX:
        raise EvidenceError(f"{counts.requests} {new}requests that lasted {counts.lasted_us} us together")
    if (classed := sum(counts.outcomes.values())) > counts.requests:
        raise EvidenceError(f"outcome classes hold {classed} of {counts.requests} {new}requests")
    for name in PER_REQUEST:
        if (entries := sum(getattr(counts, name).values())) > counts.requests:
            raise EvidenceError(f"{name} histogram holds {entries} of {counts.requests} {new}requests")
    trials = counts.trials
    for label, events in counts.events.items():
        if events > trials.get(label, 0):
            of = f"{trials.get(label, 0)} {new}trials"
            raise EvidenceError(f"the labelled event {label[:LABEL_LENGTH_MAX]!r} is {events} of {of}")


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
