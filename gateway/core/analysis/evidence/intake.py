"""From cumulative evidence to what is new.

Rules:

1. Counts are cumulative per epoch; the state remembers what it consumed and takes the difference.
2. An epoch whose weight is 0 or 100 % is no experiment, and adds nothing.
3. Only epochs present in the evidence are remembered. One that left may not come back: it would be counted twice.
4. Counts were checked when they were decoded (stats/counts.py, rule 6). What only a comparison with the past can show
   (a counter that went backwards, a weight that changed, an epoch that is not in force yet) raises EvidenceError here,
   before anything was consumed.
"""

from __future__ import annotations

import math

import msgspec

from gateway.core.analysis.types import Evidence
from gateway.core.errors import EvidenceError
from gateway.core.stats.counts import Counts, EpochCounts, delta
from gateway.core.types import WEIGHT_BP_MAX

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

    ``unread`` are histograms that no test reads: they are not kept.
    """
    if not math.isfinite(evidence.at_s):
        raise EvidenceError(f"the evidence has an invalid time: {evidence.at_s!r}")
    epochs: dict[int, Consumed] = {}
    arrivals: list[Arrival] = []
    for entry in sorted(evidence.epochs, key=lambda e: e.epoch):
        seen = intake.epochs.get(entry.epoch)
        if evidence.newest is not None and entry.epoch > evidence.newest:
            raise EvidenceError(f"epoch {entry.epoch} is not published yet: the newest is {evidence.newest}")
        if seen is not None and seen.weight_bp != entry.weight_bp:
            raise EvidenceError(
                f"epoch {entry.epoch} changed its weight from {seen.weight_bp} to {entry.weight_bp} basis points"
            )
        if not 0 < entry.weight_bp < WEIGHT_BP_MAX:
            continue
        if seen is None and entry.epoch <= intake.left:
            raise EvidenceError(f"epoch {entry.epoch} reappeared after it was dropped from the evidence")
        if entry.epoch in epochs:
            raise EvidenceError(f"epoch {entry.epoch} occurs twice in the evidence")
        arrival = _new(entry, seen, unread)
        if seen is not None and arrival.stable == _NOTHING and arrival.canary == _NOTHING:
            epochs[entry.epoch] = seen
            continue
        # Copies: the owner may go on incrementing its own.
        stable, canary = _without(entry.stable.copy(), unread), _without(entry.canary.copy(), unread)
        epochs[entry.epoch] = Consumed(entry.weight_bp, stable, canary)
        arrivals.append(arrival)
    gone = intake.epochs.keys() - epochs.keys()
    return Intake(epochs, max(gone | {intake.left})), arrivals


def _new(entry: EpochCounts, seen: Consumed | None, unread: tuple[str, ...]) -> Arrival:
    before = (_NOTHING, _NOTHING) if seen is None else (seen.stable, seen.canary)
    try:
        stable, canary = delta(entry.stable, before[0], unread), delta(entry.canary, before[1], unread)
    except EvidenceError as error:
        raise EvidenceError(f"epoch {entry.epoch}: {error}") from error
    return Arrival(entry.epoch, stable, canary, entry.weight_bp)


def _without(counts: Counts, unread: tuple[str, ...]) -> Counts:
    for name in unread:
        setattr(counts, name, {})
    return counts
