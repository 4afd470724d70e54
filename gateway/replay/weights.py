"""The canary's share where a recording does not say it: inferred from how many requests each version had.

Rules:

1. Intervals are joined until they hold `BLOCK_REQUESTS` requests. The weight stays while the share of such a block
   agrees with that of those before it (within `AGREES_SD` standard deviations); where it does not, another begins.
2. A stretch without a request of one version has the weight 0 or 100 %, and is no experiment.
3. Only how many requests there were is looked at, never what became of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator

import msgspec

from gateway.core.types import WEIGHT_BP_MAX
from gateway.replay.intervals import RecordedInterval

UNKNOWN_BP = -1
BLOCK_REQUESTS = 200
AGREES_SD = 4.0
_SEGMENTS_MAX = 10_000


class _Stretch(msgspec.Struct):
    """Neighbouring intervals under one weight: where they begin, and their requests."""

    first: int
    canary: int = 0
    requests: int = 0

    @property
    def weight_bp(self) -> int:
        if not self.canary or self.canary == self.requests:
            return WEIGHT_BP_MAX if self.canary else 0
        return min(max(round(WEIGHT_BP_MAX * self.canary / self.requests), 1), WEIGHT_BP_MAX - 1)


def inferred(read: Callable[[bool], Iterator[RecordedInterval]]) -> Iterator[RecordedInterval]:
    """The intervals of ``read(True)``, with a weight for those that have none; ``read(False)`` is a reading ahead."""
    stretches: list[_Stretch] = []
    at = 0
    for index, interval in enumerate(read(True)):
        if interval.weight_bp != UNKNOWN_BP:
            yield interval
            continue
        stretches = stretches or _stretches(read(False))
        while at + 1 < len(stretches) and stretches[at + 1].first <= index:
            at += 1
        yield msgspec.structs.replace(interval, weight_bp=stretches[at].weight_bp)


def _stretches(intervals: Iterable[RecordedInterval]) -> list[_Stretch]:
    found = [_Stretch(0)]
    block = _Stretch(0)
    for index, interval in enumerate(intervals):
        if interval.weight_bp != UNKNOWN_BP:
            continue
        block.canary += interval.canary.requests
        block.requests += interval.canary.requests + interval.stable.requests
        if block.requests >= BLOCK_REQUESTS:
            _join(found, block)
            block = _Stretch(index + 1)
    _join(found, block)
    return found


def _join(found: list[_Stretch], block: _Stretch) -> None:
    last = found[-1]
    if last.requests and block.requests and not _agree(last, block) and len(found) < _SEGMENTS_MAX:
        found.append(block)
    else:
        last.canary += block.canary
        last.requests += block.requests


def _agree(one: _Stretch, other: _Stretch) -> bool:
    share = (one.canary + other.canary) / (one.requests + other.requests)
    spread = math.sqrt(share * (1.0 - share) * (1.0 / one.requests + 1.0 / other.requests))
    apart = abs(one.canary / one.requests - other.canary / other.requests)
    return apart <= AGREES_SD * spread
