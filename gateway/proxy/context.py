"""What every connection and exchange of one worker reads: clock, limits, policies; the table in force, pools, counters.

It knows what is below exchanges. What is above (exchanges and connections that are open) it knows by two small abstract
classes: native ones and no protocols, because compiled code calls those slowly, and of the metaclass ABCMeta, not with
the base ABC, which would make them ordinary Python classes to the compiler (docs/decisions/0014).

A new table replaces router and routes in one assignment each, between two events of the loop; an exchange that has
chosen keeps what it chose.
"""

from __future__ import annotations

import asyncio
import ipaddress
import random
from abc import ABCMeta, abstractmethod
from collections.abc import Callable
from time import monotonic

from gateway.core.traffic.addresses import plain_network
from gateway.core.traffic.router import Router
from gateway.core.traffic.table import Route, RoutingTable
from gateway.proxy.access_log import AccessLog
from gateway.proxy.body_store import BodyStore
from gateway.proxy.counting.counters import WorkerCounters
from gateway.proxy.counting.epoch_counters import EpochCounters
from gateway.proxy.counting.response_sampler import route_sampler
from gateway.proxy.counting.sample_link import SampleQueue
from gateway.proxy.features.feature_link import FeatureLink
from gateway.proxy.heads.fast_heads import BYTES_MAX, FastHeadReader
from gateway.proxy.heads.field_policy import FieldPolicy
from gateway.proxy.heads.gateway_errors import Fault
from gateway.proxy.heads.headers import field_policy
from gateway.proxy.routes.rescue_budget import Budget, budgets_of
from gateway.proxy.routes.route_mirror import MirrorLoad
from gateway.proxy.routes.route_runtime import RouteRuntime
from gateway.proxy.spans import Tracer
from gateway.proxy.upstream.backends import Pools
from gateway.proxy.upstream.types import Connect
from gateway.runtime.settings import AccessLogSettings, HeaderPolicy, Limits, TracingSettings


class OpenExchange(metaclass=ABCMeta):
    """An exchange that is not over, as the sweeper sees it: its deadlines, and what to call when one has passed."""

    __slots__ = ("deadline_s", "total_at_s")

    def __init__(self) -> None:
        self.deadline_s = 0.0
        self.total_at_s = 0.0

    @abstractmethod
    def sweep(self, now_s: float) -> None:
        """Act on a deadline that has passed."""

    @abstractmethod
    def awaited_body_bytes(self) -> int:
        """How much of the request's body has come while it is the client's turn to send more; -1 otherwise."""

    @abstractmethod
    def malformed(self, fault: Fault) -> None:
        """The request cannot be served as it is: refuse it."""


class OpenConnection(metaclass=ABCMeta):
    """A client's connection, as the sweeper and the listener see it."""

    __slots__ = ()

    @property
    @abstractmethod
    def busy(self) -> bool:
        """Whether a request has begun that is not answered yet, or an answer is not yet with the client."""

    @abstractmethod
    def shutdown(self) -> None:
        """The server drains: finish what is under way, keep nothing."""

    @abstractmethod
    def abort(self) -> None:
        """Close at once, dropping what was not sent."""

    @abstractmethod
    def sweep(self, now_s: float) -> None:
        """Close it when it idles, sends its head too slowly, or does not read what is left for it."""

    @abstractmethod
    def forgive(self, late_s: float) -> None:
        """The event loop stood still for that long: move the deadlines."""


class WorkerContext:
    """Everything that the protocols of one worker need, and nothing global.

    ``connections`` gives what makes the connections to backends: the codec that is spoken there.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        table: RoutingTable,
        limits: Limits,
        *,
        boot: str,
        connections: Callable[[FastHeadReader, FieldPolicy], Connect],
        trusted_proxies: tuple[str, ...] = (),
        policy: HeaderPolicy | None = None,
        access_log: AccessLogSettings | None = None,
        tracing: TracingSettings | None = None,
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
        self.tracer = None if tracing is None else Tracer(tracing)
        self.head_reader = FastHeadReader()
        self.fast_head_bytes_max = min(BYTES_MAX, limits.head_bytes_max, limits.line_bytes_max)
        self.header_fields_max = limits.header_fields_max
        self.boot = boot
        self.bodies = BodyStore(limits.body_memory_bytes, limits.body_disk_bytes, limits.body_directory)
        self.counts = WorkerCounters(boot, place)
        self.samples = SampleQueue()
        self.pools = Pools(loop, connections(self.head_reader, self.fields))
        self.active: dict[OpenExchange, None] = {}
        # Copies of requests for canaries (exchange/mirror.py): nobody waits for them.
        self.mirrors: dict[OpenExchange, None] = {}
        self.mirror_load = MirrorLoad()
        self.features = FeatureLink(loop)
        self.connections: set[OpenConnection] = set()
        self._trusted = tuple(plain_network(cidr) for cidr in trusted_proxies)
        self._budgets: dict[str, tuple[Budget, Budget]] = {}
        # The drain's time is over: connections that end from now on were cut here, their clients did not leave.
        self.cutting = False
        self.table = table
        self.router: Router
        self.routes: dict[str, RouteRuntime]
        self._enter(table)

    def enter_table(self, table: RoutingTable) -> bool:
        """Route by ``table`` from the next request on; a table that is not newer is refused."""
        if table.epoch <= self.table.epoch:
            return False
        self._enter(table)
        return True

    def _enter(self, table: RoutingTable) -> None:
        self.pools.enter_table(table.backends)
        counters = self.counts.enter_table(table.epoch, table.routes)
        self._budgets = {route.name: budgets_of(route, self._budgets.get(route.name)) for route in table.routes}
        self.routes = {route.name: self._runtime_of(route, counters[route.name]) for route in table.routes}
        self.samples.wanted = any(
            route.sampler is not None or (route.mirror is not None and route.mirror.settings.outputs)
            for route in self.routes.values()
        )
        self.router = Router(table)
        self.table = table

    def _runtime_of(self, route: Route, counters: EpochCounters) -> RouteRuntime:
        return RouteRuntime(
            route,
            self.pools.backends,
            self._budgets[route.name],
            counters,
            self.counts.recent[route.name],
            self.counts.sessions.get(route.name),
            route_sampler(route, counters, self.samples),
            self.mirror_load,
        )

    def stop_mirroring(self) -> None:
        """The worker drains: make no copies of requests any more, and drop those that are under way."""
        self.mirror_load.stopped = True
        for copy in list(self.mirrors):
            copy.sweep(self.now_s())

    def trusts(self, address: str) -> bool:
        """Whether a peer's X-Forwarded-* are believed."""
        if not self._trusted or not address:
            return False
        try:
            parsed = ipaddress.ip_address(address)
        except ValueError:
            return False
        return any(parsed in network for network in self._trusted)
