"""The aggregator: many workers' cumulative reports become one set of totals and one body of evidence.

Rules:

1. Of each worker's life (boot) only the newest report counts; cumulative counts make lost and repeated ones harmless.
2. What a worker stops reporting is folded into the *departed* sums once, be it an epoch whose counts are final or all
   it had counted when it died; so nothing is lost or counted twice, and merged counts never go backwards.
3. A connection that ends is not a death: the same boot may come back and go on counting. It is dead when another boot
   has taken its index.
4. A report that cannot be true is rejected whole and counted; the last good one stands.
5. Evidence of an epoch is kept while it is in force or in a worker's newest report, and one grace period longer, so
   that every tick of the analysis has seen its final counts before it goes, all of them at once. It does not come back:
   a worker that hung may still report epochs that it only passed through.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import TypeVar

import msgspec

from gateway.control.workers.exemplars import NewestExemplars
from gateway.control.workers.stable_outcomes import OutcomeChanges
from gateway.core.analysis.types import Evidence
from gateway.core.errors import EvidenceError
from gateway.core.stats import counts as arithmetic
from gateway.core.stats.counts import Counts, EpochCounts
from gateway.core.stats.outcomes import ANSWERED, UNAVAILABLE
from gateway.core.stats.pairs import merged as merged_pairs
from gateway.core.types import Variant
from gateway.runtime.wire import Ejected, Exemplar, Report, RouteTotals

# An epoch that no worker reports any more is kept this long: many ticks.
_GRACE_S = 5.0
_BURIED_MAX = 1000

Key = tuple[str, int]
FailuresByEndpoint = dict[str, dict[str, int]]
K = TypeVar("K")


class MergedTotals(msgspec.Struct):
    """Everything that the workers have counted, over all their lives (satisfies control.api.TrafficTotals)."""

    totals: list[RouteTotals]
    faults: dict[str, int]
    aborted: int
    reports: list[Report]
    worker_starts: int
    rejected_reports: int
    notes: dict[str, int] = {}
    exemplars: list[Exemplar] = []


class ReportAggregator:
    """Takes reports in, gives evidence and totals out."""

    def __init__(self) -> None:
        self._newest: dict[str, Report] = {}
        self._boots: dict[int, str] = {}
        self._away: set[str] = set()
        self._departed: dict[Key, EpochCounts] = {}
        self._departed_totals: dict[tuple[str, int], RouteTotals] = {}
        self._departed_faults: dict[str, int] = {}
        self._departed_aborted = 0
        self._departed_notes: dict[str, int] = {}
        # The epochs of each route that count as evidence, and the newest one that no longer does.
        self._last_seen_s: dict[Key, float] = {}
        self._left: dict[str, int] = {}
        # Workers whose successor is there while they drain, and those of them that have ended (in that order).
        self._leaving: set[str] = set()
        self._buried: dict[str, None] = {}
        self._starts = 0
        self._rejected = 0
        self._exemplars = NewestExemplars()
        self.stable_changes = OutcomeChanges()

    def arrived(self, boot: str, index: int, at_s: float) -> None:
        """A worker introduced itself: a new life at this index, or one that has only lost its connection."""
        self._away.discard(boot)
        before = self._boots.get(index)
        if before == boot or boot in self._leaving or boot in self._buried:
            return
        self._boots[index] = boot
        self._starts += index >= 0  # the inspector's is below
        if before is None:
            return
        if before in self._away or before not in self._newest:
            self._bury(before, at_s)
        else:
            # Its successor began before it has finished: it still counts what it has in hand.
            self._leaving.add(before)

    def gone(self, boot: str, at_s: float | None = None) -> None:
        """A worker's connection ended: what it has counted stays, its gauges do not."""
        self._away.add(boot)
        if boot in self._leaving:
            self._leaving.discard(boot)
            self._buried[boot] = None
            if len(self._buried) > _BURIED_MAX:
                del self._buried[next(iter(self._buried))]
            self._bury(boot, at_s if at_s is not None else max(self._last_seen_s.values(), default=0.0))

    def take(self, report: Report, at_s: float) -> bool:
        """Take a report in; False when it is older than the newest or cannot be true."""
        if report.boot in self._buried:
            return False  # all that it had counted is among the departed
        known = self._newest.get(report.boot)
        if known is not None and report.seq <= known.seq:
            return False
        try:
            for entry in report.evidence:
                arithmetic.check_entry(entry)
        except EvidenceError:
            self._rejected += 1
            return False
        self._newest[report.boot] = report
        self._exemplars.take(report.exemplars)
        if known is not None:
            self._compare(known, report)
        self._see(report, at_s)
        return True

    def _see(self, report: Report, at_s: float) -> None:
        for entry in report.evidence:
            key = (entry.route, entry.epoch)
            if key in self._last_seen_s or entry.epoch > self._left.get(entry.route, -1):
                self._last_seen_s[key] = at_s

    def _bury(self, boot: str, at_s: float) -> None:
        """A worker is dead: keep what it had counted."""
        self._away.discard(boot)
        report = self._newest.pop(boot, None)
        if report is None:
            return
        self._see(report, at_s)
        for entry in report.evidence:
            self._depart(entry)
        # Made anew, not added to: what `merged_later` gave out is read on other threads.
        self._departed_totals = _summed([*self._departed_totals.values(), *report.totals])
        self._departed_faults = _sum_of(self._departed_faults, report.faults)
        self._departed_aborted += report.aborted
        self._departed_notes = _sum_of(self._departed_notes, report.notes)

    def _compare(self, before: Report, now: Report) -> None:
        """What changed from one report to the next.

        A worker stops reporting an epoch when its counts are final; other workers may still be counting under it.
        """
        left = {(entry.route, entry.epoch): entry for entry in before.evidence}
        for entry in now.evidence:
            known = left.pop((entry.route, entry.epoch), None)
            self.stable_changes.add(entry.route, entry.epoch, None if known is None else known.stable, entry.stable)
        for entry in left.values():
            self._depart(entry)

    def _depart(self, entry: EpochCounts) -> None:
        key = (entry.route, entry.epoch)
        if key not in self._last_seen_s:
            return
        known = self._departed.get(key)
        self._departed[key] = _merged_entry([entry] if known is None else [known, entry])

    def evidence(self, route: str, first_epoch: int, epoch: int, at_s: float, unread: Collection[str] = ()) -> Evidence:
        """The route's evidence from ``first_epoch`` up to the epoch in force, merged over workers.

        ``unread`` histograms are left out: merging them takes most of the time.
        """
        parts: dict[int, list[EpochCounts]] = {}
        for entry in [*self._departed.values(), *(e for r in self._newest.values() for e in r.evidence)]:
            if entry.route != route or not first_epoch <= entry.epoch <= epoch:
                continue
            if (route, entry.epoch) in self._last_seen_s:
                parts.setdefault(entry.epoch, []).append(entry)
        return Evidence(at_s, tuple(_merged_entry(parts[number], unread) for number in sorted(parts)))

    def forget(self, epoch: int, at_s: float) -> None:
        """Drop the evidence of epochs that are over and that no worker reports any more."""
        over = {k for k, seen_s in self._last_seen_s.items() if k[1] < epoch and at_s - seen_s > _GRACE_S}
        if not over:
            return
        reported = {(entry.route, entry.epoch) for report in self._newest.values() for entry in report.evidence}
        for key in over - reported:
            del self._last_seen_s[key]
            self._departed.pop(key, None)
            self._left[key[0]] = max(key[1], self._left.get(key[0], -1))

    def tried(self) -> dict[tuple[str, int], int]:
        """How many requests each version of each route was sent so far: by route and variant."""
        sent: dict[tuple[str, int], int] = {}
        reported = (totals for report in self._newest.values() for totals in report.totals)
        for totals in (*self._departed_totals.values(), *reported):
            key = (totals.route, totals.variant)
            sent[key] = sent.get(key, 0) + sum(totals.tries.values())
        return sent

    def tries(self, route: str, variant: Variant) -> tuple[int, int]:
        """How many upstream tries of one variant came to an answer so far, and how many failed or were turned away."""
        well = ill = 0
        reported = (t for report in self._newest.values() for t in report.totals if t.route == route)
        for totals in (*reported, *(t for (name, _), t in self._departed_totals.items() if name == route)):
            if totals.variant == variant:
                failed = sum(totals.tries.get(name, 0) for name in UNAVAILABLE)
                well += sum(totals.tries.get(name, 0) for name in ANSWERED) - failed
                ill += failed
        return well, ill

    def despite_probes(self) -> tuple[frozenset[tuple[str, str]], frozenset[str]]:
        """What the present workers use although probes find it down: endpoints (backend, URL), and whole backends."""
        present = self.present
        kept = frozenset((name, url) for report in present for name, urls in report.kept.items() for url in urls)
        return kept, frozenset(name for report in present for name in report.panics)

    @property
    def present(self) -> list[Report]:
        """The newest report of each worker that is connected."""
        return [report for boot, report in self._newest.items() if boot not in self._away]

    def forced(self, route: str, variant: Variant) -> int:
        """How many requests were forced to this variant so far."""
        reported = (t for report in self._newest.values() for t in report.totals if t.route == route)
        parts = (*reported, *(t for (name, _), t in self._departed_totals.items() if name == route))
        return sum(totals.forced for totals in parts if totals.variant == variant)

    def in_flight(self, route: str, variant: Variant) -> int:
        """How many requests the present workers have assigned to this variant and not finished yet.

        An epoch that is over is reported until no exchange of it is open.
        """
        open_requests = 0
        for report in self.present:
            for entry in report.evidence:
                if entry.route == route:
                    counts = entry.canary if variant is Variant.CANARY else entry.stable
                    open_requests += max(0, counts.assigned - counts.requests)
        return open_requests

    def samples(self, route: str) -> tuple[dict[str, int], dict[str, int]]:
        """What became of stable's and the canary's answers at the tap."""
        found: tuple[dict[str, int], dict[str, int]] = ({}, {})
        reported = (t for report in self._newest.values() for t in report.totals if t.route == route)
        for totals in (*reported, *(t for (name, _), t in self._departed_totals.items() if name == route)):
            _add(found[totals.variant], totals.samples)
        return found

    def rescues(self) -> dict[str, tuple[int, dict[str, int]]]:
        """By route: how many failures of the canary stable answered so far, and by reason those that it did not."""
        found: dict[str, tuple[int, dict[str, int]]] = {}
        reported = (totals for report in self._newest.values() for totals in report.totals)
        for totals in (*reported, *self._departed_totals.values()):
            if totals.rescued or totals.rescues_refused:
                rescued, refused = found.get(totals.route, (0, {}))
                _add(refused, totals.rescues_refused)
                found[totals.route] = rescued + totals.rescued, refused
        return found

    def failed_at(self) -> dict[tuple[str, int], FailuresByEndpoint]:
        """By route and variant: at which endpoints requests have failed so far, by URL and by outcome class."""
        found: dict[tuple[str, int], FailuresByEndpoint] = {}
        reported = (totals for report in self._newest.values() for totals in report.totals)
        for totals in (*self._departed_totals.values(), *reported):
            if totals.failed_at:
                places = found.setdefault((totals.route, totals.variant), {})
                for url, classes in totals.failed_at.items():
                    _add(places.setdefault(url, {}), classes)
        return found

    def ejected(self) -> dict[tuple[str, str], list[Ejected]]:
        """By backend and URL, what the present workers say that keep an endpoint out of rotation."""
        found: dict[tuple[str, str], list[Ejected]] = {}
        for report in self.present:
            for one in report.ejected:
                found.setdefault((one.backend, one.url), []).append(one)
        return found

    def merged(self) -> MergedTotals:
        """All totals, for metrics."""
        return self.merged_later()()

    def merged_later(self) -> Callable[[], MergedTotals]:
        """What merges the totals of this moment. It reads nothing that changes later, so any thread may call it."""
        reports = list(self._newest.values())
        present = self.present
        departed, faults, notes = self._departed_totals, self._departed_faults, self._departed_notes
        aborted, starts, rejected = self._departed_aborted, self._starts, self._rejected
        exemplars = self._exemplars.all()

        def merge() -> MergedTotals:
            return MergedTotals(
                list(_summed([*departed.values(), *(t for report in reports for t in report.totals)]).values()),
                _sum_of(faults, *(report.faults for report in reports)),
                aborted + sum(report.aborted for report in reports),
                present,
                starts,
                rejected,
                _sum_of(notes, *(report.notes for report in reports)),
                exemplars,
            )

        return merge


def _merged_entry(parts: list[EpochCounts], unread: Collection[str] = ()) -> EpochCounts:
    first = parts[0]
    stable: Counts = arithmetic.merge((part.stable for part in parts), unread)
    canary: Counts = arithmetic.merge((part.canary for part in parts), unread)
    pairs = merged_pairs([part.pairs for part in parts if part.pairs])
    return EpochCounts(first.route, first.epoch, first.weight_bp, stable, canary, pairs)


def _add_totals(into: RouteTotals, part: RouteTotals) -> None:
    _add(into.answered, part.answered)
    _add(into.tries, part.tries)
    _add(into.first_byte, part.first_byte)
    _add(into.duration, part.duration)
    into.duration_us_sum += part.duration_us_sum
    into.first_byte_us_sum += part.first_byte_us_sum
    into.rescued += part.rescued
    _add(into.rescues_refused, part.rescues_refused)
    _add(into.retries, part.retries)
    _add(into.retries_refused, part.retries_refused)
    _add(into.unserved, part.unserved)
    into.forced += part.forced
    _add(into.queued, part.queued)
    into.queued_us_sum += part.queued_us_sum
    _add(into.first_token, part.first_token)
    into.first_token_us_sum += part.first_token_us_sum
    _add(into.per_token, part.per_token)
    into.per_token_us_sum += part.per_token_us_sum
    _add(into.request_sizes, part.request_sizes)
    into.request_bytes_sum += part.request_bytes_sum
    _add(into.response_sizes, part.response_sizes)
    into.response_bytes_sum += part.response_bytes_sum
    _add(into.samples, part.samples)
    for url, classes in part.failed_at.items():
        _add(into.failed_at.setdefault(url, {}), classes)
    _add(into.mirrored, part.mirrored)
    _add(into.mirror_shed, part.mirror_shed)
    _add(into.mirror_pairs, part.mirror_pairs)


def _summed(parts: Iterable[RouteTotals]) -> dict[tuple[str, int], RouteTotals]:
    """Totals by route and variant; the parts stay as they are."""
    sums: dict[tuple[str, int], RouteTotals] = {}
    for part in parts:
        _add_totals(sums.setdefault((part.route, part.variant), RouteTotals(part.route, part.variant)), part)
    return sums


def _sum_of(*parts: dict[K, int]) -> dict[K, int]:
    sums: dict[K, int] = {}
    for part in parts:
        _add(sums, part)
    return sums


def _add(into: dict[K, int], part: dict[K, int]) -> None:
    for key, n in part.items():
        into[key] = into.get(key, 0) + n
