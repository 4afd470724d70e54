"""Taking over: what the journal says, what the workers are doing, and the first table that follows from both.

Rules:

1. The first table gives no canary more than the journal says, nor more than the workers were found giving it.
2. A journal that cannot be read, or a rollout that does not follow from its own events, means stable only: for all
   routes, or for that one.
3. Nothing is published before that, and nothing here waits for a write: what the restart changed is journaled after.
4. A rollout about backends or a route that the configuration no longer names is over.
5. What was promoted is a route's stable backend as long as the configuration names the stable backend that it was
   promoted over, and has it among its backends. Another stable backend in the file is a newer word: it counts. Without
   a journal, what the workers were found serving as stable goes on, if it is one of the route's two.
"""

from __future__ import annotations

import msgspec

from gateway.control.alarms import Alarms
from gateway.control.decisions import Decisions
from gateway.control.executor import Executor, Served
from gateway.control.hub import WorkerHub
from gateway.control.journal import Journal
from gateway.control.journal_rows import HandWeight, Roles
from gateway.control.records import Record, Records, read_records
from gateway.control.routes import RouteState, Saved, read_route
from gateway.control.scribe import Scribe
from gateway.core.errors import JournalError
from gateway.core.rollout import Event, Phase, Restarted, Withdrawn
from gateway.core.types import WEIGHT_BP_MAX
from gateway.runtime import wire
from gateway.runtime.clock import Clock

BY = "the configuration"


class Memory(msgspec.Struct):
    """All that the journal knows of what concerns this configuration."""

    records: list[Record]
    routes: dict[str, Saved]
    hand_weights: dict[str, HandWeight]


def read(journal: Journal, names: list[str]) -> Memory:
    """Read it. Blocks; raises JournalError."""
    try:
        saved = {name: read_route(journal, name) for name in names}
        return Memory(read_records(journal, names), saved, journal.weights())
    except ValueError as error:
        raise JournalError(f"journal {journal.path}: it holds what this gateway cannot read: {error}") from error


class Recovery:
    """One take-over; made once, used once."""

    def __init__(
        self,
        route_states: dict[str, RouteState],
        hub: WorkerHub,
        scribe: Scribe,
        alarms: Alarms,
        records: Records,
        executor: Executor,
        decisions: Decisions,
        clock: Clock,
    ) -> None:
        self._routes = route_states
        self._hub = hub
        self._scribe = scribe
        self._alarms = alarms
        self._records = records
        self._executor = executor
        self._decisions = decisions
        self._clock = clock

    async def read(self) -> Memory | None:
        """What the journal knows; None when it cannot be believed (the scribe has raised the alarm)."""
        if not self._scribe.readable:
            return None
        try:
            return await self._scribe.read(lambda journal: read(journal, list(self._routes)))
        except JournalError as error:
            self._scribe.distrust(error)
            return None

    def take_over(self, memory: Memory | None) -> None:
        """Publish the first table. Does not wait, so that nothing can come between the workers' state and it."""
        if memory is None:
            served = {route.name: Served(*self._without_memory(route), 0) for route in self._routes.values()}
            announcements: list[tuple[RouteState, str]] = []
        else:
            self._records.adopt(memory.records)
            for route in self._routes.values():
                self._adopt_roles(route, memory.routes[route.name].roles)
            restarted = [(route, self._restart(route, memory.routes[route.name])) for route in self._routes.values()]
            announcements = [(route, kind) for route, kind in restarted if kind is not None]
            served = {
                route.name: Served(route.stable, route.canary, self._weight_bp(route, memory))
                for route in self._routes.values()
            }
            self._retire_strangers()
        remembered = max(route.remembered_epoch for route in self._routes.values())
        self._executor.publish_first(served, remembered)
        for route in self._routes.values():
            route.first_epoch = self._executor.table.epoch
        for route, kind in announcements:
            self._decisions.announce(route, kind)

    def _without_memory(self, route: RouteState) -> tuple[str, str | None]:
        """Who is stable and who is canary as far as the workers know."""
        pair = (route.configured, route.config.canary)
        live = {session.hello.stables.get(route.name) for session in self._hub.sessions if session.hello.epoch > 0}
        if live == {route.config.canary} and route.config.canary is not None:
            return route.config.canary, None
        return pair

    def _adopt_roles(self, route: RouteState, roles: Roles | None) -> None:
        if roles is None:
            return
        if roles.configured == route.configured and roles.stable in self._executor.table.backends:
            route.promoted = roles
        else:
            self._scribe.write(lambda journal: journal.drop_roles(route.name))

    def _restart(self, route: RouteState, saved: Saved) -> str | None:
        if saved.rollout is None:
            return None
        route.adopt(saved.rollout, saved.snapshot, self._records.get(saved.rollout.rollout_id).analysis)
        now_s = self._clock.monotonic_s()
        if route.concerns_present_backends():
            event: Event = Restarted(now_s, self._live_weight_bp(route), route.canary_requests)
        elif route.rollout.phase.terminal:
            route.forget()
            return None
        else:
            event = Withdrawn(now_s, BY, "its stable or canary backend was changed")
        announcement = self._decisions.restart(route, event)
        if route.rollout.phase is Phase.PROMOTED and not route.concerns_present_backends():
            # A promotion that was not in force everywhere, of a canary that the configuration no longer names.
            route.forget()
            return None
        return announcement

    def _weight_bp(self, route: RouteState, memory: Memory) -> int:
        damage = memory.routes[route.name].damage
        if damage:
            self._alarms.sound(f"route {route.name}", f"route {route.name} serves stable only: {damage}")
            return 0
        live_bp = self._live_weight_bp(route)
        wished_bp = route.first_weight_bp(memory.hand_weights.get(route.name), None)
        weight_bp = route.first_weight_bp(memory.hand_weights.get(route.name), live_bp)
        if weight_bp < wished_bp and not route.active:
            # Lowered by hand, and the journal does not know: what is live must also outlive the workers.
            self._decisions.keep_weight(route, weight_bp, "restart")
        return weight_bp

    def _live_weight_bp(self, route: RouteState) -> int | None:
        """The least that a surviving worker gives the canary; None when none remembers a table."""
        canary = route.canary if route.rollout.phase is Phase.IDLE else route.rollout.canary
        remembering = [session.hello for session in self._hub.sessions if session.hello.epoch > 0]
        if route.rollout.swapped and remembering:
            # It was in force when the newest table was published; a worker that hung since then does not undo it.
            newest = max(remembering, key=lambda hello: hello.epoch)
            if newest.stables.get(route.name) == canary:
                return WEIGHT_BP_MAX
        live = [_weight_of(canary, route.name, hello) for hello in remembering]
        return min(live, default=None)

    def _retire_strangers(self) -> None:
        for record in self._records.all():
            if record.rollout.route in self._routes or record.rollout.phase.terminal:
                continue
            event = Withdrawn(self._clock.monotonic_s(), BY, "its route was removed")
            self._decisions.retire(record.rollout, event)


def _weight_of(canary: str | None, route: str, hello: wire.Hello) -> int:
    """What a worker gives a backend that is, or was, tried on a route."""
    if hello.stables.get(route) == canary:
        return WEIGHT_BP_MAX
    return hello.weights_bp.get(route, 0) if hello.canaries.get(route) == canary else 0
