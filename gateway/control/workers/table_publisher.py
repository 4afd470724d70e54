"""The publisher: the only one who changes what the workers do.

It holds the table in force and publishes each change under a new epoch. Publishing never waits; a caller that needs to
know that the workers route by it asks `settled`.

Every table goes into the table memory before it is published (runtime/table_memory.py): who starts without control must
not find an older one there.

Epochs only grow, also across restarts: the first table is numbered above everything that a worker was found routing by
and everything that the restored evidence remembers, at the next full thousand. The gap is for a worker that hung while
its fellows were asked: no epoch of its old life is ever taken for one of ours.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import msgspec

from gateway.control.events import EventLog
from gateway.control.workers.hub import WorkerHub
from gateway.core.traffic.table import Mirroring, Route, RoutingTable
from gateway.core.types import percent_from_weight_bp

_LIFE = 1000


class RouteAssignment(NamedTuple):
    """How a route is served: by whom, how much of it by the canary, and how much is mirrored (None: as it is)."""

    stable: str
    canary: str | None
    weight_bp: int
    mirror: Mirroring | None = None


class TablePublisher:
    """Publishes tables."""

    def __init__(
        self, table: RoutingTable, hub: WorkerHub, events: EventLog, remember: Callable[[RoutingTable], None]
    ) -> None:
        self.table = table
        self._hub = hub
        self._remember = remember
        self._events = events

    def publish_first(self, assignments: dict[str, RouteAssignment], remembered_epoch: int) -> None:
        """Publish the first table of this control plane's life, above every epoch that is live or remembered."""
        newest = max([remembered_epoch, *(session.hello.epoch for session in self._hub.sessions)])
        epoch = (newest // _LIFE + 1) * _LIFE if newest else 1
        self._publish(_serving(msgspec.structs.replace(self.table, epoch=epoch), assignments))

    def _publish(self, table: RoutingTable) -> None:
        self.table = table
        self._remember(table)
        self._hub.send_table(table)

    def replace(self, table: RoutingTable, assignments: dict[str, RouteAssignment]) -> None:
        """Publish another configuration's table, in which the routes are served so."""
        self._publish(_serving(msgspec.structs.replace(table, epoch=self.table.epoch + 1), assignments))
        for route in self.table.routes:
            self._publish_weight_event(route.name)

    def weight_bp(self, route: str) -> int:
        """The weight in force."""
        return self.table.route(route).weight_bp

    def set_weight(self, route: str, weight_bp: int, mirror: Mirroring | None = None) -> None:
        """Publish a weight, and how much is mirrored (None: as it is)."""
        table = self.table.with_weight(route, weight_bp)
        if mirror is not None:
            routes = [msgspec.structs.replace(r, mirror=mirror) if r.name == route else r for r in table.routes]
            table = msgspec.structs.replace(table, routes=tuple(routes))
        self._publish(table)
        self._publish_weight_event(route)

    def swap_roles(self, route: str, assignment: RouteAssignment) -> None:
        """Publish who is stable and who is canary on a route, with the weight."""
        self._publish(_serving(msgspec.structs.replace(self.table, epoch=self.table.epoch + 1), {route: assignment}))
        data = {"stable": assignment.stable or None, "canary": assignment.canary, "epoch": self.table.epoch}
        self._events.publish("roles", data, route=route)
        if assignment.weight_bp:
            self._publish_weight_event(route)

    def _publish_weight_event(self, route: str) -> None:
        percent = percent_from_weight_bp(self.weight_bp(route))
        self._events.publish("weight", {"canary_percent": percent, "epoch": self.table.epoch}, route=route)

    async def settled(self) -> bool:
        """Wait for the workers; True when every connected one routes by the table in force."""
        return await self._hub.settled(self.table.epoch)

    def renumber_above(self, epoch: int) -> None:
        """A worker turned up with a newer epoch than ours (a life we do not remember): number above it."""
        self._publish(msgspec.structs.replace(self.table, epoch=(epoch // _LIFE + 1) * _LIFE))


def _serving(table: RoutingTable, assignments: dict[str, RouteAssignment]) -> RoutingTable:
    """The table with some of its routes served so."""

    def route_of(route: Route) -> Route:
        if (how := assignments.get(route.name)) is None:
            return route
        mirror = route.mirror if how.mirror is None else how.mirror
        return msgspec.structs.replace(
            route, stable=how.stable, canary=how.canary, weight_bp=how.weight_bp, mirror=mirror
        )

    return msgspec.structs.replace(table, routes=tuple(map(route_of, table.routes)))
