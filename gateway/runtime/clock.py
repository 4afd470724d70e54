"""Time as a value that is passed in: the control plane asks a clock, tests and simulations bring their own."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """Monotonic time decides; wall time is only ever shown."""

    def monotonic_s(self) -> float:
        """Seconds since some moment, never going back."""

    def wall_s(self) -> float:
        """Seconds since the Unix epoch, as far as the machine knows."""


class SystemClock:
    """The machine's clocks."""

    def monotonic_s(self) -> float:
        """CLOCK_MONOTONIC."""
        return time.monotonic()

    def wall_s(self) -> float:
        """CLOCK_REALTIME."""
        return time.time()


def iso(wall_s: float) -> str:
    """A wall time for people and JSON: ISO 8601 in UTC with milliseconds.

    >>> iso(0.0)
    '1970-01-01T00:00:00.000Z'
    """
    return datetime.fromtimestamp(wall_s, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
