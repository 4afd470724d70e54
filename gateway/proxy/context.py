"""What all exchanges of one worker share: the current table and its indexes, pools, counters, and the clock.

A new table replaces router and tallies in one assignment each, between two events of the loop; an exchange that has
chosen keeps what it chose.
"""

from __future__ import annotations

import asyncio
import ipaddress
import random
from time import monotonic
from typing import TYPE_CHECKING, Final

from gateway.core.traffic.addresses import plain_network
from gateway.core.traffic.router import Router
from gateway.core.traffic.table import Route, RoutingTable
from gateway.proxy.access_log import AccessLog
from gateway.proxy.counting.counters import RouteTally, Tally
from gateway.proxy.counting.response_sampler import SampleQueue, tap_of
from gateway.proxy.exchange.body_store import BodyStore
from gateway.proxy.heads import gateway_errors
from gateway.proxy.heads.fast_heads import BYTES_MAX, FastHeadReader
from gateway.proxy.heads.headers import field_policy
from gateway.proxy.listen.limits import DeathWatch, Patience
from gateway.proxy.routes.route_runtime import RouteRuntime
from gateway.proxy.upstream.backends import Pools
from gateway.runtime.settings import AccessLogSettings, HeaderPolicy, Limits

if TYPE_CHECKING:
    from gateway.proxy.exchange.settlement import Settlement
    from gateway.proxy.http1.server_connection import DownstreamConnection

SWEEP_S: Final = 0.025
# A loop that was away for longer than this has missed answers that were already there: deadlines are moved by as much.
_STALL_S: Final = 0.25
# A request body may fall behind its least rate by so much: a network that pauses is no attack.
BODY_GRACE_S: Final = 20.0
# A scrape comes every 5 to 15 s: a lag stays visible for one to two windows of 15 s.
_LAG_WINDOW_SWEEPS: Final = 600


class Budget:
    """A token bucket in requests: every request on the route adds a share, a rescue (or a retry) takes one."""

    __slots__ = ("_max", "_share", "tokens")

    def __init__(self, percent: float, burst: int) -> None:
        self._share = percent / 100
        self._max = self.tokens = float(burst)

    def adopt(self, percent: float, burst: int) -> None:
        """Take over new limits, keeping what was saved up."""
        self._share = percent / 100
        self._max = float(burst)
        self.tokens = min(self.tokens, self._max)

    @property
    def half_spent(self) -> bool:
        """Whether no more than half of what may be saved up is left."""
        return 2 * self.tokens <= self._max

    def deposit(self) -> None:
        """One request came along the route."""
        self.tokens = min(self._max, self.tokens + self._share)

    def take(self) -> None:
        """Take the token that was seen to be there."""
        self.tokens -= 1


class WorkerState:
    """Everything that the protocols of one worker need, and nothing global."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        table: RoutingTable,
        limits: Limits,
        *,
        boot: str,
        trusted_proxies: tuple[str, ...] = (),
        policy: HeaderPolicy | None = None,
        access_log: AccessLogSettings | None = None,
        place: tuple[int, int] = (0, 1),
    ) -> None:
        self.loop = loop
        # Not the loop's time: libuv rounds it to milliseconds and freezes it during a turn.
        self.now_s = monotonic
        self.draw = random.Random().random
        self.limits = limits
        self.fields = field_policy(policy or HeaderPolicy())
        log = access_log or AccessLogSettings()
        self.access = None if log.path is None else AccessLog(log.path, log)
        self.head_reader = FastHeadReader()
        self.fast_head_bytes_max = min(BYTES_MAX, limits.head_bytes_max, limits.line_bytes_max)
        self.header_fields_max = limits.header_fields_max
        self.boot = boot
        self.bodies = BodyStore(limits.body_memory_bytes, limits.body_disk_bytes, limits.body_directory)
        self.counts = Tally(boot, place, self.bodies)
        self.samples = SampleQueue()
        self.pools = Pools(loop, self.head_reader)
        self.active: dict[Settlement, None] = {}
        self.connections: set[DownstreamConnection] = set()
        self._trusted = tuple(plain_network(cidr) for cidr in trusted_proxies)
        self._budgets: dict[str, tuple[Budget, Budget]] = {}
        self.deaths = DeathWatch(loop)
        # The drain's time is over: connections that end from now on were cut here, their clients did not leave.
        self.cutting = False
        # Of request bodies that are under way: the bytes that had arrived, when, and by how much they are behind.
        self._arrivals: dict[Settlement, tuple[int, float, float]] = {}
        self._patience = Patience()
        self._stalled_s = self._swept_s = monotonic()
        self._sweeps = 0
        self.table = table
        self.router: Router
        self.tallies: dict[str, RouteTally]
        self._enter(table)

    def enter_table(self, table: RoutingTable) -> bool:
        """Route by ``table`` from the next request on; a table that is not newer is refused."""
        if table.epoch <= self.table.epoch:
            return False
        self._enter(table)
        return True

    def _enter(self, table: RoutingTable) -> None:
        self.pools.enter_table(table.backends)
        self.tallies = self.counts.enter_table(table.epoch, table.routes)
        self._budgets = {route.name: _budgets(route, self._budgets.get(route.name)) for route in table.routes}
        for tally in self.tallies.values():
            tally.tap = tap_of(tally.route, tally, self.samples)
            tally.plan = RouteRuntime(tally.route, self.pools.backends, *self._budgets[tally.route.name])
        self.samples.wanted = any(tally.tap is not None for tally in self.tallies.values())
        self.router = Router(table)
        self.table = table

    def trusts(self, address: str) -> bool:
        """Whether a peer's X-Forwarded-* are believed."""
        if not self._trusted or not address:
            return False
        try:
            parsed = ipaddress.ip_address(address)
        except ValueError:
            return False
        return any(parsed in network for network in self._trusted)

    def sweep(self) -> None:
        """Look for deadlines that have passed; called every ``SWEEP_S``.

        One pass over the open exchanges costs less than a timer armed and cancelled per request would.
        """
        now_s = self.now_s()
        late_s = now_s - self._swept_s - SWEEP_S
        self._swept_s = now_s
        self._sweeps += 1
        if self.access is not None:
            self.access.flush()
            self.counts.log_lines, self.counts.log_dropped = self.access.lines, self.access.dropped
        next_window = self._sweeps % _LAG_WINDOW_SWEEPS == 0
        self.counts.lagged(int(late_s * 1e6), next_window=next_window)
        if next_window:
            self.counts.move_on()
        self.counts.sweep_units(now_s)
        if late_s > _STALL_S and self._stalled(late_s, now_s):
            return
        for exchange in [e for e in self.active if now_s >= e.deadline_s or now_s >= e.total_at_s]:
            exchange.sweep(now_s)
        if self._sweeps % 20 == 0:
            for connection in list(self.connections):
                connection.sweep(now_s)
            self.pools.each(lambda pool: pool.sweep(now_s))
            if self.limits.body_rate_min:
                self.sweep_bodies(now_s)
            self.bodies.sweep(now_s)

    def sweep_bodies(self, now_s: float) -> None:
        """Refuse request bodies that have fallen behind ``body_rate_min`` by more than the grace."""
        arrivals: dict[Settlement, tuple[int, float, float]] = {}
        for exchange in list(self.active):
            arrived = exchange.awaited_body_bytes()
            if arrived < 0:
                continue
            before, since_s, behind_s = self._arrivals.get(exchange, (arrived, now_s, 0.0))
            behind_s = max(0.0, behind_s + now_s - since_s - (arrived - before) / self.limits.body_rate_min)
            if behind_s > BODY_GRACE_S:
                exchange.malformed(gateway_errors.BODY_TOO_SLOW)
            else:
                arrivals[exchange] = (arrived, now_s, behind_s)
        self._arrivals = arrivals

    def _stalled(self, late_s: float, now_s: float) -> bool:
        """The loop stood still. True when all of it is forgiven: then no deadline is looked at before the next turn."""
        self.counts.stalls += 1
        forgiven_s = self._patience.forgive(late_s, now_s - self._stalled_s)
        self._stalled_s = now_s
        self._forgive(forgiven_s)
        return forgiven_s >= late_s

    def _forgive(self, late_s: float) -> None:
        for exchange in self.active:
            exchange.deadline_s += late_s
            exchange.total_at_s += late_s
        for connection in self.connections:
            connection.forgive(late_s)
        self._arrivals = {e: (n, since_s + late_s, behind_s) for e, (n, since_s, behind_s) in self._arrivals.items()}
        self.pools.each(lambda pool: pool.forgive(late_s))


def _budgets(route: Route, known: tuple[Budget, Budget] | None) -> tuple[Budget, Budget]:
    """A route's budgets for rescues and for retries; what is saved up outlives the table."""
    limits = (
        (route.rescue.budget_percent, route.rescue.budget_burst),
        (route.retry.budget_percent, route.retry.budget_burst),
    )
    if known is None:
        return Budget(*limits[0]), Budget(*limits[1])
    known[0].adopt(*limits[0])
    known[1].adopt(*limits[1])
    return known
