"""From the samples of counters to what was counted between two scrapes. Pure.

Rules:

1. Samples are read as they were scraped, not by `rate` or `increase`, which extrapolate: counts stay whole numbers, and
   nothing is counted twice or lost at the edge of a window.
2. Of each series the last sample that was consumed is remembered. The next one is an increment between both moments,
   however late it comes; an older one changes nothing.
3. A value that is lower than the one before is a counter that began anew: all of it is new.
4. A series that appears counts from zero where its target was scraped before (the first 500 of a server that answered
   200 so far); of a target that appears it is where counting begins. So is the last sample of all at the first look.
5. A gap is one long increment: whether it may count depends on whether the split stood still meanwhile (`intervals`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from typing import NamedTuple

# How long a series may be away and still go on from its last sample.
_REMEMBERED_S = 7200.0
Labels = frozenset[tuple[str, str]]


class ScrapedSeries(NamedTuple):
    """One series: its labels, and its samples in the order of time (seconds, value)."""

    labels: Labels
    samples: tuple[tuple[float, float], ...]

    def label(self, name: str | None) -> str:
        """The value of a label, empty without it."""
        return next((value for key, value in self.labels if key == name), "")


class Increment(NamedTuple):
    """What a series gained between two moments."""

    labels: Labels
    began_s: float
    ended_s: float
    gained: int

    def label(self, name: str | None) -> str:
        """The value of a label, empty without it."""
        return next((value for key, value in self.labels if key == name), "")


class CounterReader:
    """The memory of one selector's series. ``apart`` are the labels in which series of one target differ."""

    def __init__(self, apart: AbstractSet[str]) -> None:
        self._apart = apart
        self._last: dict[Labels, tuple[float, float]] = {}
        self._scraped: dict[Labels, list[float]] = {}
        self._first = True

    def take(self, found: Iterable[ScrapedSeries]) -> list[Increment]:
        """What is new in these samples."""
        new: list[Increment] = []
        series = list(found)
        before = {target: times[-1] for target, times in self._scraped.items()}
        for one in series:
            self._see(one)
        for one in series:
            samples = [(at_s, value) for at_s, value in one.samples if math.isfinite(value) and value >= 0]
            last = self._last.get(one.labels)
            if last is None:
                if not samples:
                    continue
                last, samples = self._beginning(one.labels, samples, before)
            for at_s, value in samples:
                if at_s <= last[0]:
                    continue
                added = value - last[1] if value >= last[1] else value
                if added > 0:
                    new.append(Increment(one.labels, last[0], at_s, round(added)))
                last = at_s, value
            self._last[one.labels] = last
        self._first = False
        self._forget()
        return new

    def _forget(self) -> None:
        """Of targets that are gone nothing is kept for ever."""
        oldest_s = self.newest_s - _REMEMBERED_S
        self._last = {labels: last for labels, last in self._last.items() if last[0] >= oldest_s}
        self._scraped = {target: times for target, times in self._scraped.items() if times and times[-1] >= oldest_s}

    def _beginning(
        self, labels: Labels, samples: list[tuple[float, float]], before: Mapping[Labels, float]
    ) -> tuple[tuple[float, float], list[tuple[float, float]]]:
        """Where counting begins in a series that was not there before (rule 4), and the samples after that."""
        if self._first:
            return samples[-1], []
        scraped = [at_s for at_s in self._scraped.get(self._target(labels), ()) if at_s < samples[0][0]]
        if self._target(labels) in before and scraped:
            return (scraped[-1], 0.0), samples
        return samples[0], samples[1:]

    def _see(self, one: ScrapedSeries) -> None:
        times = self._scraped.setdefault(self._target(one.labels), [])
        times.extend(at_s for at_s, _ in one.samples)
        times[:] = sorted(set(times))[-100:]

    def _target(self, labels: Labels) -> Labels:
        return frozenset(label for label in labels if label[0] not in self._apart)

    @property
    def newest_s(self) -> float:
        """When the newest sample was scraped; minus infinity without one."""
        return max((times[-1] for times in self._scraped.values() if times), default=-math.inf)
