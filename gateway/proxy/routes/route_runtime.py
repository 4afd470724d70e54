"""A route as exchanges read it: numbers, bytes and pools, looked up once when a table comes into force.

What a table is made of are msgspec's structures, whose attributes cost some two hundred instructions each; this class
is compiled with the rest of the data plane (docs/decisions/0014) and costs three. One per route and table.
"""

from __future__ import annotations

from gateway.core.stats.outcomes import by_status
from gateway.core.traffic.table import Hold, Route
from gateway.proxy.counting.epoch_counters import EpochCounters
from gateway.proxy.counting.recent_answers import RecentAnswers
from gateway.proxy.counting.response_sampler import RouteSampler
from gateway.proxy.counting.sticky_sessions import StickySessions
from gateway.proxy.routes.rescue_budget import Budget
from gateway.proxy.routes.route_mirror import MirrorLoad, RouteMirror
from gateway.proxy.upstream.backends import BackendPool


class RouteRuntime:
    """What a route says, and what is counted of it under one table.

    ``forced`` and ``sticky_*`` are names, empty where there is none; ``try_s`` is 0 for no limit. ``outcomes`` has the
    class of each status. A pool is None where no backend is deployed; ``sampler`` where no answer is sampled;
    ``sessions`` where the route is not sticky, or has no experiment; ``mirror`` where no request is mirrored.
    """

    __slots__ = (
        "budget",
        "canary_pool",
        "connect_s",
        "counters",
        "features",
        "file_bytes_max",
        "first_byte_s",
        "forced",
        "has_canary",
        "holds_streams",
        "idle_s",
        "kept_bytes_max",
        "mirror",
        "outcomes",
        "recent",
        "replayable",
        "rescue_statuses",
        "rescues_unlike",
        "retry_budget",
        "retry_statuses",
        "route",
        "sampler",
        "sessions",
        "stable_pool",
        "sticky_cookie",
        "sticky_header",
        "streams_requests",
        "tight",
        "total_s",
        "try_s",
        "weight_bp",
    )

    def __init__(
        self,
        route: Route,
        backends: dict[str, BackendPool],
        budgets: tuple[Budget, Budget],
        counters: EpochCounters,
        recent: RecentAnswers,
        sessions: StickySessions | None,
        sampler: RouteSampler | None,
        mirror_load: MirrorLoad,
    ) -> None:
        self.route = route
        self.budget, self.retry_budget = budgets
        self.counters = counters
        self.recent = recent
        self.sessions = sessions
        self.sampler = sampler
        self.rescue_statuses = _statuses(route.rescue.statuses)
        self.rescues_unlike = route.rescue.unlike_stable
        self.retry_statuses = _statuses(route.retry.statuses)
        self.stable_pool = backends.get(route.stable)
        self.canary_pool = None if route.canary is None else backends.get(route.canary)
        self.has_canary = route.canary is not None
        self.weight_bp = route.weight_bp
        self.forced = (route.forced_header or "").encode()
        sticky = route.sticky
        self.sticky_header = b"" if sticky is None else (sticky.header or "").encode()
        self.sticky_cookie = b"" if sticky is None else (sticky.cookie or "").encode()
        timeouts = route.timeouts
        self.total_s = float(timeouts.total_s)
        self.try_s = 0.0 if timeouts.try_s is None else float(timeouts.try_s)
        self.connect_s = float(timeouts.connect_s)
        self.first_byte_s = float(timeouts.first_byte_s)
        self.idle_s = float(timeouts.idle_s)
        # Whether a canary that hangs could use up the time that stable needs after it.
        self.tight = self.has_canary and 2 * self.first_byte_s > self.total_s
        self.replayable = route.rescue.replayable
        self.holds_streams = route.rescue.hold is Hold.FIRST_TOKEN and route.rescue.replayable
        self.kept_bytes_max = route.rescue.body_bytes_max
        self.file_bytes_max = route.rescue.file_bytes_max
        self.streams_requests = route.streams_requests
        self.features = route.features
        self.outcomes = by_status(route.exempt_statuses)
        self.mirror: RouteMirror | None = None
        stable, canary = self.stable_pool, self.canary_pool
        if route.mirror.share_bp and self.replayable and stable is not None and canary is not None:
            weighted = self.weight_bp > 0
            self.mirror = RouteMirror(route.mirror, mirror_load, counters, stable, canary, weighted=weighted)


def _statuses(named: tuple[str, ...]) -> frozenset[int]:
    """The numbers of statuses as the configuration names them: ``429``, or ``5xx`` for a whole class."""
    found: set[int] = set()
    for name in named:
        if name.endswith("xx"):
            found.update(range(100 * int(name[0]), 100 * int(name[0]) + 100))
        else:
            found.add(int(name))
    return frozenset(found)
