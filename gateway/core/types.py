"""Small values that every floor shares: variants, weights, outcomes' classes.

Weights are integers in basis points inside (0..10 000) and percent with 0.01 steps at the user's edge, so that a
weight never suffers from floating point and equality means equality.
"""

from __future__ import annotations

import enum
import math
from typing import Final

import msgspec

from gateway.core.errors import InvalidValueError

WEIGHT_BP_MAX: Final = 10_000


class Variant(enum.IntEnum):
    """The role a backend plays on a route. Integers, because the hot path indexes tuples with it."""

    STABLE = 0
    CANARY = 1

    @property
    def label(self) -> str:
        """The name used in logs, labels and JSON: ``stable`` or ``canary``."""
        return "canary" if self else "stable"


def weight_bp_from_percent(percent: object) -> int:
    """Convert a canary share in percent (0..100, steps of 0.01) to basis points.

    Raises InvalidValueError for NaN, infinities, values outside 0..100 and finer steps than 0.01.
    """
    if isinstance(percent, bool) or not isinstance(percent, (int, float)) or not math.isfinite(percent):
        raise InvalidValueError(f"canary_percent must be a number from 0 to 100, not {percent!r}")
    if not 0 <= percent <= 100:
        raise InvalidValueError(f"canary_percent must be from 0 to 100, not {percent!r}")
    weight_bp = round(percent * 100)
    if abs(weight_bp - percent * 100) > 1e-6:
        raise InvalidValueError(f"canary_percent has steps of 0.01, {percent!r} is finer")
    return weight_bp


def percent_from_weight_bp(weight_bp: int) -> float:
    """Convert basis points to percent for people and JSON."""
    return weight_bp / 100


class Why(enum.StrEnum):
    """Why a metric cannot be judged: not in this way ever, not yet, or because there is nothing of the kind.

    LEARNING is a "not yet" with data: what stable's first answers are compared by is being found out.
    """

    NEVER = "never"
    WAITS = "waits"
    LEARNING = "learning"
    ABSENT = "absent"


class Unjudged(msgspec.Struct, frozen=True):
    """A metric that has nothing to compare: what was seen and what would help, in a sentence.

    ABSENT keeps no promotion away; the others do, since nothing to compare is no proof. A metric in mode ``auto`` is
    silent on NEVER as well: the route has nothing of the kind, and nobody asked for it.
    """

    reason: str
    why: Why
