"""From cumulative evidence to what is new, and the refusal of evidence that cannot be true.

Rules:

1. Counts are cumulative per epoch; the state remembers what it consumed and takes the difference.
2. An epoch whose weight is 0 or 100 % is no experiment: it is checked, and adds nothing.
3. Only epochs present in the evidence are remembered. One that left may not come back: it would be counted twice.
4. Whatever cannot be true raises EvidenceError, before anything was consumed.
"""

from __future__ import annotations

import math
from typing import Any

import msgspec

from gateway.core.analysis.types import Evidence
from gateway.core.errors import EvidenceError
from gateway.core.stats.checked_delta import COUNT_MAX, gained
from gateway.core.stats.counts import HISTOGRAMS, NUMBERS, Counts, EpochCounts, check, delta
from gateway.core.types import WEIGHT_BP_MAX

LABELLED = ("outcomes", "trials", "events")
_NOTHING = Counts()


class Consumed(msgspec.Struct, frozen=True):
    """What was consumed of one epoch, without the histograms that no test reads."""

    weight_bp: int
    stable: Counts
    canary: Counts


class Arrival(msgspec.Struct, frozen=True):
    """What one epoch of the experiment gained since the last look."""

    epoch: int
    stable: Counts
    canary: Counts
    weight_bp: int = 0


class Intake(msgspec.Struct, frozen=True):
    """What the state remembers of consumed evidence; ``left`` is the newest epoch that left it (-1: none did)."""

    epochs: dict[int, Consumed] = msgspec.field(default_factory=dict)
    left: int = -1


def take(intake: Intake, evidence: Evidence, unread: tuple[str, ...] = ()) -> tuple[Intake, list[Arrival]]:
    """The memory after this evidence and what is new in it, by ascending epoch. Raises EvidenceError.

    ``unread`` are histograms that no test reads: they are checked and not kept.
    """
    _check_time(evidence.at_s)
    _check_epochs(evidence.epochs)
    _check_future(evidence)
    epochs: dict[int, Consumed] = {}
    arrivals: list[Arrival] = []
    for entry in sorted(evidence.epochs, key=lambda e: e.epoch):
        seen = intake.epochs.get(entry.epoch)
        if seen is not None and seen.weight_bp != entry.weight_bp:
            raise EvidenceError(
                f"epoch {entry.epoch} changed its weight from {seen.weight_bp} to {entry.weight_bp} basis points"
            )
        if not 0 < entry.weight_bp < WEIGHT_BP_MAX:
            _checked(entry.epoch, entry.stable)
            _checked(entry.epoch, entry.canary)
            continue
        if seen is None and entry.epoch <= intake.left:
            raise EvidenceError(f"epoch {entry.epoch} came back after it had left the evidence")
        now, arrival = _consume(entry, seen, unread)
        if seen is not None and arrival.stable == _NOTHING and arrival.canary == _NOTHING:
            epochs[entry.epoch] = seen
            continue
        epochs[entry.epoch] = now
        arrivals.append(arrival)
    gone = intake.epochs.keys() - epochs.keys()
    return Intake(epochs, max(gone | {intake.left})), arrivals


def _consume(entry: EpochCounts, seen: Consumed | None, unread: tuple[str, ...]) -> tuple[Consumed, Arrival]:
    before = seen if seen is not None else Consumed(entry.weight_bp, Counts(), Counts())
    stable, canary = gained(entry.stable, before.stable, unread), gained(entry.canary, before.canary, unread)
    if stable is None or canary is None:
        return _consume_slowly(entry, before, unread)
    now = Consumed(entry.weight_bp, _kept(entry.stable.copy(), unread), _kept(entry.canary.copy(), unread))
    return now, Arrival(entry.epoch, stable, canary, entry.weight_bp)


def _consume_slowly(entry: EpochCounts, before: Consumed, unread: tuple[str, ...]) -> tuple[Consumed, Arrival]:
    """The same with every number looked at: the way of what may be untrue, to say what is."""
    stable, canary = _checked(entry.epoch, entry.stable), _checked(entry.epoch, entry.canary)
    now = Consumed(entry.weight_bp, _kept(stable, unread), _kept(canary, unread))
    try:
        stable, canary = delta(now.stable, before.stable), delta(now.canary, before.canary)
        arrival = Arrival(entry.epoch, stable, canary, entry.weight_bp)
        check(arrival.stable)
        check(arrival.canary)
    except EvidenceError as error:
        raise EvidenceError(f"epoch {entry.epoch}: {error}") from error
    return now, arrival


def _kept(counts: Counts, unread: tuple[str, ...]) -> Counts:
    for name in unread:
        setattr(counts, name, {})
    return counts


def _checked(epoch: int, counts: Counts) -> Counts:
    """A private copy of true counts: the owner may go on incrementing its own."""
    numbers = [getattr(counts, name) for name in NUMBERS]
    dictionaries = {name: _dictionary(epoch, counts, name) for name in (*HISTOGRAMS, *LABELLED)}
    for name in LABELLED:
        if any(type(label) is not str for label in dictionaries[name]):
            raise EvidenceError(f"epoch {epoch}: a label of {name} is no text")
    if set(map(type, numbers)) != {int} or max(numbers) > COUNT_MAX or not _whole(dictionaries):
        for name, dictionary in dictionaries.items():
            numbers += [*dictionary.values(), *(() if name in LABELLED else dictionary)]
        wrong = [number for number in numbers if type(number) is not int or number > COUNT_MAX]
        if wrong:
            raise EvidenceError(f"epoch {epoch}: {wrong[0]!r} is not a count")
    try:
        check(counts)
    except EvidenceError as error:
        raise EvidenceError(f"epoch {epoch}: {error}") from error
    if 0 < counts.assigned < counts.requests:
        raise EvidenceError(f"epoch {epoch}: {counts.requests} requests of {counts.assigned} assigned")
    return counts.copy()


def _whole(dictionaries: dict[str, dict[Any, Any]]) -> bool:
    """Whether these hold nothing but counts and buckets: a sum of whole numbers is one, and no less than any of them.

    Some negative ones may hide behind it: `check` looks for those.
    """
    try:
        sums = [sum(dictionary.values()) for dictionary in dictionaries.values()]
        buckets = [sum(dictionaries[name]) for name in HISTOGRAMS]
    except (TypeError, ValueError):
        return False
    return set(map(type, (*sums, *buckets))) == {int} and max(sums) <= COUNT_MAX


def _dictionary(epoch: int, counts: Counts, name: str) -> dict[Any, Any]:
    found = getattr(counts, name)
    if not isinstance(found, dict):
        raise EvidenceError(f"epoch {epoch}: {name} is a {type(found).__name__}")
    return found


def _check_time(at_s: float) -> None:
    if type(at_s) not in (float, int) or not math.isfinite(at_s):
        raise EvidenceError(f"the time of the evidence is {at_s!r}")


def _check_future(evidence: Evidence) -> None:
    newest = evidence.newest
    if newest is None:
        return
    if type(newest) is not int:
        raise EvidenceError(f"{newest!r} is not an epoch")
    future = sorted(entry.epoch for entry in evidence.epochs if entry.epoch > newest)
    if future:
        raise EvidenceError(f"epoch {future[0]} is from the future: {newest} is in force")


def _check_epochs(entries: tuple[EpochCounts, ...]) -> None:
    for entry in entries:
        for counts in (entry.stable, entry.canary):
            if not isinstance(counts, Counts):
                raise EvidenceError(f"epoch {entry.epoch!r}: counts are a {type(counts).__name__}")
        if type(entry.epoch) is not int or not 0 <= entry.epoch <= COUNT_MAX:
            raise EvidenceError(f"{entry.epoch!r} is not an epoch")
        if type(entry.weight_bp) is not int or not 0 <= entry.weight_bp <= WEIGHT_BP_MAX:
            raise EvidenceError(f"epoch {entry.epoch} has a weight of {entry.weight_bp!r} basis points")
    numbers = [entry.epoch for entry in entries]
    if len(set(numbers)) != len(numbers):
        raise EvidenceError("an epoch occurs twice in the evidence")
    routes = {entry.route for entry in entries}
    if len(routes) > 1:
        raise EvidenceError(f"the evidence mixes routes: {', '.join(sorted(map(str, routes)))}")
