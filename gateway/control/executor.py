"""The executor: the only one who changes what the workers do.

It holds the table in force and publishes each change under a new epoch. Publishing never waits; whoever wants to know
that the workers route by it asks `settled`.

Epochs only grow, also across restarts: the first table is numbered above everything that a worker was found routing by
and everything that the restored evidence remembers, at the next full thousand. The gap is for a worker that hung while
its fellows were asked: no epoch of its old life is ever taken for one of ours.
"""

from __future__ import annotations

import msgspec

from gateway.control.events import EventLog
from gateway.control.hub import WorkerHub
from gateway.core.traffic.table import RoutingTable
from gateway.core.types import percent_from_weight_bp

_LIFE = 1000


class Executor:
    """Publishes tables."""

    def __init__(self, table: RoutingTable, hub: WorkerHub, events: EventLog) -> None:
        self.table = table
        self._hub = hub
        self._events = events

    def publish_first(self, weights_bp: dict[str, int], remembered_epoch: int) -> None:
        """Publish the first table of this control plane's life, above every epoch that is live or remembered."""
        newest = max([remembered_epoch, *(session.hello.epoch for session in self._hub.sessions)])
        routes = tuple(msgspec.structs.replace(route, weight_bp=weights_bp[route.name]) for route in self.table.routes)
        epoch = (newest // _LIFE + 1) * _LIFE if newest else 1
        self.table = msgspec.structs.replace(self.table, epoch=epoch, routes=routes)
        self._hub.send_table(self.table)

    def weight_bp(self, route: str) -> int:
        """The weight in force."""
        return self.table.route(route).weight_bp

    def set_weight(self, route: str, weight_bp: int) -> None:
        """Publish a weight."""
        self.table = self.table.with_weight(route, weight_bp)
        self._hub.send_table(self.table)
        data = {"canary_percent": percent_from_weight_bp(weight_bp), "epoch": self.table.epoch}
        self._events.publish("weight", data, route=route)

    async def settled(self) -> bool:
        """Wait for the workers; True when every connected one routes by the table in force."""
        return await self._hub.settled(self.table.epoch)

    def outbid(self, epoch: int) -> None:
        """A worker turned up with a newer epoch than ours (a life we do not remember): number above it."""
        self.table = msgspec.structs.replace(self.table, epoch=(epoch // _LIFE + 1) * _LIFE)
        self._hub.send_table(self.table)
