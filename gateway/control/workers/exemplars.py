"""The newest attempts that stand for others; `/metrics` shows them as exemplars.

Of each route and variant that is one for each power of two of their time, and one for each failure. So a slow bucket or
a failure leads to a trace.
"""

from __future__ import annotations

from collections.abc import Iterable

from gateway.core.stats.histogram import size_class
from gateway.core.stats.outcomes import OK
from gateway.runtime.wire import Exemplar

# The oldest go first. About a dozen each of a thousand routes.
_KEPT_MAX = 20_000


class NewestExemplars:
    """What workers have shown, the newest of each kind."""

    def __init__(self) -> None:
        self._newest: dict[tuple[str, int, int, str], Exemplar] = {}

    def take(self, exemplars: Iterable[Exemplar]) -> None:
        """Keep what a report brought."""
        newest = self._newest
        for one in exemplars:
            keys = [(one.route, one.variant, size_class(one.duration_us), "")]
            if one.result != OK:
                keys.append((one.route, one.variant, -1, one.result))
            for key in keys:
                newest.pop(key, None)  # so that the order is that of time
                newest[key] = one
        while len(newest) > _KEPT_MAX:
            del newest[next(iter(newest))]

    def all(self) -> list[Exemplar]:
        """All of them, the oldest first."""
        return list(self._newest.values())
