"""Recovery: the first table after a start, from the journal and from what the workers do.

Rules:

1. The first table gives no canary more than the journal says, nor more than the workers were found giving it.
2. A journal that cannot be read, or a rollout that does not follow from its own events, means stable only: for all
   routes, or for that one.
3. Nothing is published before that, and nothing here waits for a write: what the restart changed is journaled after.
4. A rollout about backends or a route that the configuration no longer names is over.
5. What was promoted is a route's stable backend as long as the configuration names the stable backend that it was
   promoted over, and has it among its backends. Another stable backend in the file is newer: it counts. Without
   a journal, what the workers were found serving as stable goes on, if it is one of the route's two, or what the table
   memory says.
6. The table memory (runtime/table_memory.py) counts like one more surviving worker, where it knows at least as much
   as the journal: always when it is of this gateway's own life; when it was read from the state directory, where the
   journal ends before the event at which it was written, or does not go on after it. Its weights never count under
   another text of the configuration file.
7. A journal that ends before the event at which the memory was written has lost decisions; so has one that ends there
   and knows nothing of a route on which the memory has a promotion (it was lost before, and again since). Then
   promotions are the memory's, whatever the journal says, and are journaled anew; an alarm says that the rest is lost.
8. Where the state was lost (app/state.py), the configuration's own weight gives a canary nothing until an operator
   decides: it may have been rolled back.
"""

from __future__ import annotations

import logging

import msgspec

from gateway.control.alarms import Alarms
from gateway.control.decide.pipeline import DecisionPipeline
from gateway.control.decide.rollout_records import RolloutRecord, RolloutRecords
from gateway.control.decide.routes import RouteState, SavedRoute, read_route
from gateway.control.journal.rows import HandWeight, Roles
from gateway.control.journal.store import Journal
from gateway.control.journal.writer import JournalWriter
from gateway.control.workers.hub import WorkerHub
from gateway.control.workers.table_keeper import TableKeeper
from gateway.control.workers.table_publisher import TablePublisher
from gateway.core.errors import JournalError
from gateway.core.rollout import Event, Phase, Restarted, Withdrawn
from gateway.core.traffic.table import RoutingTable
from gateway.core.types import WEIGHT_BP_MAX
from gateway.runtime import wire
from gateway.runtime.clock import Clock

_log = logging.getLogger("gateway.control")
BY = "the configuration"


class JournalContents(msgspec.Struct):
    """What the journal holds about the routes of this configuration."""

    records: list[RolloutRecord]
    routes: dict[str, SavedRoute]
    hand_weights: dict[str, HandWeight]
    archived: bool


def read(journal: Journal, names: list[str]) -> JournalContents:
    """Read it. Blocks; raises JournalError."""
    try:
        saved = {name: read_route(journal, name) for name in names}
        records = [RolloutRecord.of(past) for past in journal.recent()]
        return JournalContents(records, saved, journal.weights(), bool(journal.archive.page(limit=1)))
    except ValueError as error:
        raise JournalError(
            f"{journal.place}: its content cannot be read by this version of the gateway: {error}"
        ) from error


class Recovery:
    """One recovery; used once."""

    def __init__(
        self,
        *,
        routes: dict[str, RouteState],
        hub: WorkerHub,
        journal_writer: JournalWriter,
        alarms: Alarms,
        records: RolloutRecords,
        publisher: TablePublisher,
        pipeline: DecisionPipeline,
        clock: Clock,
        keeper: TableKeeper,
        state_lost: bool,
    ) -> None:
        self._routes = routes
        self._hub = hub
        self._journal_writer = journal_writer
        self._alarms = alarms
        self._records = records
        self._publisher = publisher
        self._pipeline = pipeline
        self._clock = clock
        self._state_lost = state_lost
        self._remembered = keeper.found
        self._same_file = self._remembered is not None and self._remembered.config_sha256 == keeper.config_sha256
        self._hand_weights: dict[str, HandWeight] = {}
        # The memory has a promotion on a route of which the journal has neither roles nor a rollout.
        self._promotion_lost = False

    @property
    def _lost(self) -> bool:
        """Whether the journal has lost decisions (rule 7)."""
        if self._remembered is None or not self._journal_writer.readable:
            return False
        missing = self._remembered.journal_seq - self._journal_writer.last_seq
        return missing > 0 or (missing == 0 and self._promotion_lost)

    @property
    def source(self) -> str:
        """Where the first table comes from, in one word."""
        if self._journal_writer.readable and not self._lost:
            return "journal"
        if self._remembered is not None:
            return "memory"
        return "workers" if self._remembering() else "configuration"

    def _remembering(self) -> list[wire.Hello]:
        """What the surviving workers that remember a table said of it."""
        return [session.hello for session in self._hub.sessions if session.hello.epoch > 0]

    async def read(self) -> JournalContents | None:
        """What the journal has; None when it cannot be used (the journal writer has raised the alarm)."""
        if not self._journal_writer.readable:
            return None
        try:
            return await self._journal_writer.read(lambda journal: read(journal, list(self._routes)))
        except JournalError as error:
            self._journal_writer.distrust(error)
            return None

    def take_over(self, contents: JournalContents | None) -> None:
        """Publish the first table. Does not wait, so that nothing can come between the workers' state and it."""
        if contents is None:
            for route in self._routes.values():
                stable = self._stable_without_journal(route)
                if stable != route.configured:
                    # Not journaled, but known to the route: another configuration must not undo it.
                    route.promoted = Roles(route.name, route.configured, stable, "", self._clock.wall_s())
            assignments = {route.name: route.assignment(0) for route in self._routes.values()}
            announcements: list[tuple[RouteState, str]] = []
        else:
            self._records.adopt(contents.records, archived=contents.archived)
            self._hand_weights = contents.hand_weights
            self._promotion_lost = any(
                saved.roles is None and saved.rollout is None and not saved.damage
                for saved in (
                    contents.routes[route.name] for route in self._routes.values() if self._remembered_promotion(route)
                )
            )
            for route in self._routes.values():
                self._adopt_roles(route, contents.routes[route.name].roles)
            if self._lost:
                self._adopt_remembered_roles()
            restarted = [(route, self._restart(route, contents.routes[route.name])) for route in self._routes.values()]
            announcements = [(route, kind) for route, kind in restarted if kind is not None]
            assignments = {
                route.name: route.assignment(self._weight_bp(route, contents)) for route in self._routes.values()
            }
            self._retire_removed_routes()
        remembered = max(route.remembered_epoch for route in self._routes.values())
        if self._remembered is not None:
            remembered = max(remembered, self._remembered.table.epoch)
        self._publisher.publish_first(assignments, remembered)
        for route in self._routes.values():
            route.first_epoch = self._publisher.table.epoch
        for route, kind in announcements:
            self._pipeline.announce(route, kind)

    def _stable_without_journal(self, route: RouteState) -> str:
        """The stable backend by the newest table that a worker or the table memory knows (rule 5)."""
        newest = max(self._remembering(), key=_epoch_of, default=None)
        if newest is not None and newest.stables.get(route.name) == route.config.canary:
            return route.config.canary or route.configured
        memory = self._remembered
        if memory is not None and (newest is None or memory.table.epoch >= newest.epoch):
            return self._remembered_promotion(route) or route.configured
        if newest is None:
            _log.error(
                "route %s: serves %s as the configuration says; whether another version was promoted is unknown",
                *(route.name, route.configured or "nothing"),
            )
        return route.configured

    def _remembered_promotion(self, route: RouteState) -> str | None:
        """The promoted backend of a route by the table memory."""
        if self._remembered is None:
            return None
        return self._remembered.promoted(route.name, route.configured, self._publisher.table)

    def _adopt_remembered_roles(self) -> None:
        """Rule 7."""
        assert self._remembered is not None  # or nothing could be missed
        for route in self._routes.values():
            promoted = self._remembered_promotion(route)
            if promoted is None:
                route.promoted = None
                continue
            roles = Roles(route.name, route.configured, promoted, "", self._clock.wall_s())
            route.promoted = roles
            self._journal_writer.write(lambda journal, roles=roles: journal.keep_roles(roles))  # type: ignore[misc]  # mypy cannot infer a lambda with a default
        last, known = self._journal_writer.last_seq, self._remembered.journal_seq
        what = f"it ends at event {last}, and there were {known}" if last < known else "it has none of the promotions"
        why = (
            f"the journal has lost decisions: {what}. Promoted versions stay, and no canary has more than before; which"
            " versions were rolled back is no longer known: restore the journal, or go on without its history"
        )
        self._alarms.sound("journal lost", why, warning=True)

    def _adopt_roles(self, route: RouteState, roles: Roles | None) -> None:
        if roles is None:
            return
        if roles.configured == route.configured and roles.stable in self._publisher.table.backends:
            route.promoted = roles
        else:
            self._journal_writer.write(lambda journal: journal.drop_roles(route.name))

    def _restart(self, route: RouteState, saved: SavedRoute) -> str | None:
        if saved.rollout is None:
            return None
        route.adopt(saved.rollout, saved.snapshot, self._records.get(saved.rollout.rollout_id).analysis)
        self._pipeline.series.adopt(saved.rollout.rollout_id, saved.series)
        now_s = self._clock.monotonic_s()
        if route.concerns_present_backends():
            event: Event = Restarted(now_s, self._live_weight_bp(route), route.canary_requests)
        elif route.rollout.phase.terminal:
            route.forget()
            return None
        else:
            event = Withdrawn(now_s, BY, "its stable or canary backend was changed")
        announcement = self._pipeline.restart(route, event)
        if route.rollout.phase is Phase.PROMOTED and not route.concerns_present_backends():
            # A promotion that was not in force everywhere, of a canary that the configuration no longer names.
            route.forget()
            return None
        return announcement

    def _weight_bp(self, route: RouteState, contents: JournalContents) -> int:
        damage = contents.routes[route.name].damage
        if damage:
            why = f"route {route.name} serves stable only: {damage}"
            self._alarms.sound(f"route {route.name}", why, warning=True)
            return 0
        if self._state_lost and route.rollout.phase is Phase.IDLE and route.name not in contents.hand_weights:
            return 0
        live_bp = self._live_weight_bp(route)
        wanted_bp = route.first_weight_bp(contents.hand_weights.get(route.name), None)
        weight_bp = route.first_weight_bp(contents.hand_weights.get(route.name), live_bp)
        if weight_bp < wanted_bp and not route.active:
            # Lowered by hand, and the journal does not know: what is live must also outlive the workers.
            self._pipeline.keep_weight(route, weight_bp, "restart")
        return weight_bp

    def _live_weight_bp(self, route: RouteState) -> int | None:
        """The least that a surviving worker gives the canary; None when none remembers a table."""
        canary = route.canary if route.rollout.phase is Phase.IDLE else route.rollout.canary
        remembering = self._remembering()
        if self._remembered is not None and self._speaks_of(route):
            remembering.append(_as_worker(self._remembered.table))
        if route.rollout.swapped and remembering:
            # It was in force when the newest table was published; a worker that hung since then does not undo it.
            newest = max(remembering, key=_epoch_of)
            if newest.stables.get(route.name) == canary:
                return WEIGHT_BP_MAX
        live = [_weight_of(canary, route.name, hello) for hello in remembering]
        return min(live, default=None)

    def _speaks_of(self, route: RouteState) -> bool:
        """Whether the table memory knows a weight at least as well as the journal (rule 6)."""
        kept = self._remembered
        if kept is None or not self._same_file:
            return False
        if not kept.from_file or self._lost:
            return True
        # Weights that were set by hand have no number to compare.
        decided = route.rollout.phase is not Phase.IDLE and route.name not in self._hand_weights
        return decided and kept.journal_seq == self._journal_writer.last_seq

    def _retire_removed_routes(self) -> None:
        for record in self._records.all():
            if record.rollout.route in self._routes or record.rollout.phase.terminal:
                continue
            event = Withdrawn(self._clock.monotonic_s(), BY, "its route was removed")
            self._pipeline.retire(record.rollout, event)


def _epoch_of(hello: wire.Hello) -> int:
    return hello.epoch


def _as_worker(table: RoutingTable) -> wire.Hello:
    """A table as a worker that routes by it would introduce itself."""
    return wire.Hello(
        "memory",
        -1,
        0,
        table.epoch,
        {route.name: route.weight_bp for route in table.routes},
        {route.name: route.stable for route in table.routes},
        {route.name: route.canary for route in table.routes if route.canary is not None},
    )


def _weight_of(canary: str | None, route: str, hello: wire.Hello) -> int:
    """What a worker gives a backend that is, or was, tried on a route."""
    if hello.stables.get(route) == canary:
        return WEIGHT_BP_MAX
    return hello.weights_bp.get(route, 0) if hello.canaries.get(route) == canary else 0
