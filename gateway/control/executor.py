"""The executor: the only one who changes what the workers do.

It holds the table in force and carries out the machine's commands in their order: publish a weight under a new epoch,
tell the world. Epochs only grow, also across restarts of the control plane: the first table is numbered above
everything that a worker was found routing by.
"""

from __future__ import annotations

import msgspec

from gateway.control.events import EventLog
from gateway.control.hub import WorkerHub
from gateway.core.traffic.table import RoutingTable
from gateway.core.types import percent_from_weight_bp


class Executor:
    """Publishes tables."""

    def __init__(self, table: RoutingTable, hub: WorkerHub, events: EventLog) -> None:
        self.table = table
        self._hub = hub
        self._events = events

    async def publish_first(self, weights_bp: dict[str, int]) -> None:
        """Publish the first table of this control plane's life, above every epoch that is live."""
        newest = max((session.hello.epoch for session in self._hub.sessions), default=0)
        routes = tuple(msgspec.structs.replace(route, weight_bp=weights_bp[route.name]) for route in self.table.routes)
        epoch = max(newest, self.table.epoch) + 1
        self.table = msgspec.structs.replace(self.table, epoch=epoch, routes=routes)
        await self._hub.publish(self.table)

    async def set_weight(self, route: str, weight_bp: int) -> bool:
        """Publish a weight; True when every connected worker routes by it."""
        self.table = self.table.with_weight(route, weight_bp)
        applied = await self._hub.publish(self.table)
        self._events.publish(
            "weight",
            {
                "canary_percent": percent_from_weight_bp(weight_bp),
                "epoch": self.table.epoch,
                "applied_everywhere": applied,
            },
            route=route,
        )
        return applied

    async def outbid(self, epoch: int) -> None:
        """A worker turned up with a newer epoch than ours (a life we do not remember): number above it."""
        if epoch > self.table.epoch:
            self.table = msgspec.structs.replace(self.table, epoch=epoch + 1)
            await self._hub.publish(self.table)
