"""The routing table: an immutable snapshot of everything that the data plane needs to know, with its epoch.

Rules:

1. A table is never changed, only replaced by one with a higher epoch; a worker ignores a lower one.
2. An exchange reads the table once. What it did is counted under that table's epoch, hence under the weight that
   assigned it.
3. Health is not in here: it changes often and must not start a new epoch of evidence.
"""

from __future__ import annotations

import msgspec

from gateway.core.errors import NotFoundError
from gateway.core.types import WEIGHT_BP_MAX


class Endpoint(msgspec.Struct, frozen=True):
    """One address of a backend. ``host`` is what is connected to, ``authority`` what a Host header would say."""

    host: str
    port: int
    tls: bool = False

    @property
    def authority(self) -> str:
        """``host:port`` without the scheme's default port, IPv6 in brackets."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.tls else 80) else f"{host}:{self.port}"

    @property
    def url(self) -> str:
        """The endpoint's base URL, without a trailing slash: its name in health reports."""
        return f"{'https' if self.tls else 'http'}://{self.authority}"


class Backend(msgspec.Struct, frozen=True):
    """One deployed model version with its endpoints."""

    name: str
    endpoints: tuple[Endpoint, ...]
    # Open connections per endpoint and worker; further requests wait in a bounded queue.
    connections_max: int = 256
    queue_max: int = 1024
    # Connections idle for longer are closed before the backend's own keep-alive limit (uvicorn: 5 s) can race us.
    keepalive_s: float = 4.0


class Timeouts(msgspec.Struct, frozen=True):
    """Deadlines of one route, all in seconds. ``first_byte_s`` is per try, the others per exchange."""

    connect_s: float = 1.0
    first_byte_s: float = 15.0
    idle_s: float = 60.0
    total_s: float = 300.0


class Rescue(msgspec.Struct, frozen=True):
    """Whether and how much stable may answer for a failing canary.

    ``replayable`` says that sending a request twice does no harm (inference is a pure function). Only requests whose
    body fits into ``body_bytes_max`` are kept for a replay. The budget is a token bucket per worker: each request on
    the route adds ``budget_percent`` hundredths of a token, a rescue takes one, at most ``budget_burst`` are saved up.
    """

    replayable: bool = True
    body_bytes_max: int = 1 << 20
    budget_percent: float = 100.0
    budget_burst: int = 1000


class Sticky(msgspec.Struct, frozen=True):
    """Where the sticky key of a request is found: a header or a cookie, by name (lower case for headers)."""

    header: str | None = None
    cookie: str | None = None


class Route(msgspec.Struct, frozen=True):
    """Which requests, to which stable and canary backend, at which weight."""

    name: str
    path_prefix: str
    stable: str
    canary: str | None = None
    weight_bp: int = 0
    hosts: tuple[str, ...] = ()
    forced_header: str | None = None
    sticky: Sticky | None = None
    salt: str = ""
    timeouts: Timeouts = Timeouts()
    rescue: Rescue = Rescue()

    def __post_init__(self) -> None:
        """Reject a weight that is out of range or that has no canary to go to."""
        if not 0 <= self.weight_bp <= WEIGHT_BP_MAX:
            raise ValueError(f"route {self.name}: weight_bp {self.weight_bp} is not in 0..{WEIGHT_BP_MAX}")
        if self.weight_bp and self.canary is None:
            raise ValueError(f"route {self.name}: a weight without a canary backend")


class RoutingTable(msgspec.Struct, frozen=True):
    """All routes and backends at one epoch."""

    epoch: int
    routes: tuple[Route, ...]
    backends: dict[str, Backend]

    def route(self, name: str) -> Route:
        """The route of that name, or NotFoundError."""
        for route in self.routes:
            if route.name == name:
                return route
        known = ", ".join(sorted(r.name for r in self.routes)) or "none"
        raise NotFoundError(f"no route is named {name!r}; there are: {known}")

    def with_weight(self, name: str, weight_bp: int) -> RoutingTable:
        """The next table, in which route ``name`` has ``weight_bp``."""
        self.route(name)
        routes = tuple(msgspec.structs.replace(r, weight_bp=weight_bp) if r.name == name else r for r in self.routes)
        return msgspec.structs.replace(self, epoch=self.epoch + 1, routes=routes)
