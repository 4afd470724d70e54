"""What stable answered on each route since it was last asked, from what changes between workers' reports.

Rules:

1. It is there for every route at any weight, also without a rollout: workers count under every table.
2. A worker's first report in the life of this control process is where its counting begins. What it had counted before
   has no time: after a restart of control, the failures of an hour would look like those of one moment.
3. Only failures are kept by class (core/stats/outcomes.py): a success in another form is no sign of bad health.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from gateway.core.stats.counts import Counts
from gateway.core.stats.outcomes import FAILURES


class StableOutcomes(msgspec.Struct):
    """Requests that came to an outcome, and failures among them by class."""

    requests: int = 0
    failures: dict[str, int] = msgspec.field(default_factory=dict)


class OutcomeChanges:
    """Sums of what was new, by route and epoch, until they are taken."""

    def __init__(self) -> None:
        self._new: dict[tuple[str, int], StableOutcomes] = {}

    def add(self, route: str, epoch: int, before: Counts | None, now: Counts) -> None:
        """One worker's counts of stable have become these; None: it has not reported this epoch before."""
        added = now.requests - (0 if before is None else before.requests)
        if added <= 0:
            return
        new = self._new.get((route, epoch))
        if new is None:
            new = self._new[route, epoch] = StableOutcomes()
        new.requests += added
        known: Mapping[str, int] = {} if before is None else before.outcomes
        if now.outcomes != known:
            for name in FAILURES:
                failed = now.outcomes.get(name, 0) - known.get(name, 0)
                if failed > 0:
                    new.failures[name] = new.failures.get(name, 0) + failed

    def taken(self) -> dict[tuple[str, int], StableOutcomes]:
        """What came since the last time, by route and epoch."""
        new, self._new = self._new, {}
        return new
