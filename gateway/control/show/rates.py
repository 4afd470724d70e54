"""Requests a second of each version on each route, for people: an average over the last four seconds."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

from gateway.core.types import Variant

EVERY_S = 2.0
_SAMPLES = 3


class RequestRates:
    """Differences of cumulative counts."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, Mapping[tuple[str, int], int]]] = deque(maxlen=_SAMPLES)

    def due(self, now_s: float) -> bool:
        """Whether it is time for the next sample."""
        return not self._samples or now_s - self._samples[-1][0] >= EVERY_S

    def take(self, now_s: float, counts: Mapping[tuple[str, int], int]) -> None:
        """Take a sample of the counts by route and variant."""
        self._samples.append((now_s, counts))

    def per_s(self, route: str, variant: Variant) -> float | None:
        """The rate, or None until it is known."""
        if len(self._samples) < 2:
            return None
        (before_s, before), (now_s, now) = self._samples[0], self._samples[-1]
        key = (route, int(variant))
        more = now.get(key, 0) - before.get(key, 0)
        return None if more < 0 or now_s <= before_s else round(more / (now_s - before_s), 2)
