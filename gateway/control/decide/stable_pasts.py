"""What stable of each route did while it was served: how often it has bad moments, and how long they last.

Rules:

1. It is kept for every route for as long as its stable backend is served, at any weight, also without a rollout: one
   `StablePast` (core/analysis/bursts/past.py) for each failure class that stable ever had, and one, under the empty
   name, for all the others, which have in common that they never occurred.
2. A rollout is told what is known when it begins, and nothing later (`weather`): the blocks in which it is judged are
   chosen before its evidence is looked at. A canary that has warmed up begins its climb with what is known by then.
3. It is of a backend, and follows its promotions: a promoted canary inherits it, and so does the backend to which the
   route returns. The canary was proven to be like stable under the same traffic, bad moments come from the place more
   often than from the version, and a past that is too bad only makes verdicts slower, whereas one that is too good
   convicts healthy canaries. Any other backend in stable's place is a stranger: its past begins anew.
4. It is journaled every `SAVE_EVERY_S` and when control stops, and is no decision: a restart without it, or with one
   that this gateway cannot read, begins anew and says so. The time in which control was away is not known.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

import msgspec

from gateway.control.decide.routes import RouteState
from gateway.control.journal.rows import NEVER, KeptPast, RoutePast
from gateway.control.journal.writer import JournalWriter
from gateway.control.workers.stable_outcomes import OutcomeChanges, StableOutcomes
from gateway.control.workers.table_publisher import TablePublisher
from gateway.core.analysis.bursts import past
from gateway.core.analysis.bursts.past import GAP_S, StablePast
from gateway.core.errors import JournalError
from gateway.runtime.clock import Clock

_log = logging.getLogger("gateway.control")
SAVE_EVERY_S = 60.0
_NOTHING = StableOutcomes()


class StablePasts:
    """The pasts of all routes; each route has its own at hand (`RouteState.past`)."""

    def __init__(
        self,
        *,
        routes: Mapping[str, RouteState],
        changes: OutcomeChanges,
        publisher: TablePublisher,
        journal_writer: JournalWriter,
        clock: Clock,
    ) -> None:
        self._routes = routes
        self._changes = changes
        self._publisher = publisher
        self._journal_writer = journal_writer
        self._clock = clock
        self._saved_s = clock.monotonic_s()
        # What the store has, so that only changes are written.
        self._kept: dict[str, RoutePast] = {}

    async def restore(self) -> None:
        """Go on from what an earlier control process has stored."""
        if not self._journal_writer.readable:
            return
        try:
            found = await self._journal_writer.read_store(lambda store: store.pasts.all())
        except JournalError as error:
            _log.warning("what stable versions did before the restart is not known: %s", error)
            return
        for one in found:
            if one.past is None:
                _log.warning("route %s: what stable did before the restart is not known: %s", one.route, one.damage)
                continue
            route = self._routes.get(one.route)
            if route is not None:
                # The clock of this process says nothing about times of that one.
                classes = {name: msgspec.structs.replace(past, at_s=None) for name, past in one.past.classes.items()}
                self._kept[one.route] = route.past = RoutePast(one.past.stable, classes)

    def take(self, now_s: float) -> None:
        """Take in what stable of each route did since the last tick."""
        news: dict[str, list[tuple[int, StableOutcomes]]] = {}
        for (name, epoch), new in self._changes.taken().items():
            news.setdefault(name, []).append((epoch, new))
        for route in self._routes.values():
            self._follow(route)
            found = [new for epoch, new in news.get(route.name, ()) if epoch >= route.past_epoch]
            new = found[0] if len(found) == 1 else _together(found)
            if new.requests:
                route.answered_s = now_s
            elif now_s - route.answered_s > GAP_S:
                continue  # nothing is known of time without requests, and of a thousand routes most may be idle
            route.past = learnt(route.past, new, now_s)
        if now_s - self._saved_s >= SAVE_EVERY_S and self._journal_writer.idle:
            self.save(now_s)

    def _follow(self, route: RouteState) -> None:
        """Rule 3."""
        if route.past.stable == route.stable:
            return
        before, rollout = route.past.stable, route.rollout
        promoted = rollout.swapped and (before, route.stable) == (rollout.stable, rollout.canary)
        inherits = promoted or (bool(before) and (before, route.stable) == (rollout.canary, rollout.stable))
        classes = route.past.classes if inherits else {}
        if before and not inherits:
            _log.info("route %s: %s takes the place of %s, its past begins anew", route.name, route.stable, before)
        route.past = RoutePast(route.stable, dict(classes))
        # What was assigned under an older table was answered by the backend before.
        route.past_epoch = self._publisher.table.epoch

    def save(self, now_s: float) -> None:
        """Store what has changed. Never waits."""
        self._saved_s = now_s
        if self._journal_writer.refusal is not None:
            return
        changed = [
            KeptPast(route.name, route.past)
            for route in self._routes.values()
            if route.past.classes and route.past is not self._kept.get(route.name)
        ]
        gone = self._kept.keys() - self._routes.keys()
        if not changed and not gone:
            return
        wall_s, names = self._clock.wall_s(), frozenset(self._routes)
        self._kept = {name: route.past for name, route in self._routes.items() if route.past.classes}
        self._journal_writer.keep(lambda store: store.pasts.save(changed, names, wall_s))


def learnt(kept: RoutePast, new: StableOutcomes, now_s: float) -> RoutePast:
    """The past with one tick's outcomes more (rule 1)."""
    classes = kept.classes or {NEVER: StablePast()}
    for name in new.failures:
        if name not in classes:
            classes = {**classes, name: classes[NEVER]}
    failures, requests = new.failures, new.requests
    return RoutePast(
        kept.stable, {name: past.add(one, now_s, requests, failures.get(name, 0)) for name, one in classes.items()}
    )


def _together(parts: list[StableOutcomes]) -> StableOutcomes:
    """What came under several tables."""
    if not parts:
        return _NOTHING
    both = StableOutcomes()
    for part in parts:
        both.requests += part.requests
        for name, failed in part.failures.items():
            both.failures[name] = both.failures.get(name, 0) + failed
    return both
