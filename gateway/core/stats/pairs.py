"""Pairs: requests that were mirrored, so that both versions have met each of them; and what came of the two.

Rules:

1. A pair is counted once, when both versions have answered it or failed. All counts are cumulative, by name:
   ``pairs`` is how many there were; ``canary:CLASS`` how many of them only the canary answered in this class
   (outcomes.py), ``stable:CLASS`` only stable. Where both did the same nothing else is counted.
2. ``ratio:N`` is how much longer the canary took, of pairs that both answered well: N is `RATIO_STEPS` times the
   logarithm to the base 2 of the ratio of the two latencies, rounded, from 0 (a 32th) to 80 (32 times). Half a
   millisecond is added to both: below it a ratio is noise.
3. ``compared`` is how many pairs of outputs were compared, ``disagreed`` how many of them did not agree, ``unread``
   how many could not be compared.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

from gateway.core.errors import EvidenceError
from gateway.core.stats.outcomes import NAMES

PAIRS: Final = "pairs"
COMPARED: Final = "compared"
DISAGREED: Final = "disagreed"
UNREAD: Final = "unread"
CANARY_ONLY: Final = "canary:"
STABLE_ONLY: Final = "stable:"
RATIO: Final = "ratio:"
RATIO_STEPS: Final = 8
_SPAN: Final = 40
_FLOOR_US: Final = 500
# As in counts.py: beyond this, floats no longer distinguish neighbouring counts.
_COUNT_MAX: Final = 1 << 53

RATIO_NAMES: Final = tuple(f"{RATIO}{step}" for step in range(2 * _SPAN + 1))
_NAMES: Final = frozenset(
    (
        PAIRS,
        COMPARED,
        DISAGREED,
        UNREAD,
        *RATIO_NAMES,
        *(side + name for side in (CANARY_ONLY, STABLE_ONLY) for name in NAMES),
    )
)


def ratio_name(stable_us: int, canary_us: int) -> str:
    """Under which name a pair of latencies is counted.

    >>> ratio_name(10_000, 10_000), ratio_name(9_500, 19_500), ratio_name(0, 10_000_000)
    ('ratio:40', 'ratio:48', 'ratio:80')
    """
    steps = round(RATIO_STEPS * math.log2((canary_us + _FLOOR_US) / (stable_us + _FLOOR_US)))
    return RATIO_NAMES[_SPAN + max(-_SPAN, min(_SPAN, steps))]


def ratio_of(name: str) -> float:
    """The ratio that a name stands for.

    >>> ratio_of("ratio:40"), ratio_of("ratio:48"), ratio_of("ratio:32")
    (1.0, 2.0, 0.5)
    """
    return float(2.0 ** ((int(name.removeprefix(RATIO)) - _SPAN) / RATIO_STEPS))


def check_pairs(pairs: Mapping[str, int]) -> None:
    """Raise EvidenceError for counts that cannot be true."""
    for name, count in pairs.items():
        if name not in _NAMES:
            raise EvidenceError(f"{name[:64]!r} is no count of pairs")
        if not 0 <= count <= _COUNT_MAX:
            raise EvidenceError(f"the count of pairs {name!r} is {count}")
    every = pairs.get(PAIRS, 0)
    for name in NAMES:
        if max(pairs.get(CANARY_ONLY + name, 0), pairs.get(STABLE_ONLY + name, 0)) > every:
            raise EvidenceError(f"more pairs differ in {name} than there are ({every})")
    if pairs.get(DISAGREED, 0) > pairs.get(COMPARED, 0):
        raise EvidenceError(f"{pairs[DISAGREED]} of {pairs.get(COMPARED, 0)} compared pairs disagree")


def merged(parts: list[Mapping[str, int]]) -> dict[str, int]:
    """The sum of many sources' pairs."""
    out: dict[str, int] = {}
    for part in parts:
        for name, count in part.items():
            out[name] = out.get(name, 0) + count
    return out
