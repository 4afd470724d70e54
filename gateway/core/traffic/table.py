"""The routing table: an immutable snapshot of everything that the data plane needs to know, with its epoch.

Rules:

1. A table is never changed, only replaced by one with a higher epoch; a worker ignores a lower one.
2. An exchange reads the table once. What it did is counted under that table's epoch, hence under the weight that
   assigned it.
3. Health is not in here: it changes often and must not start a new epoch of evidence.
"""

from __future__ import annotations

import enum

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


class BackendTls(msgspec.Struct, frozen=True):
    """How a backend's certificate is verified and what is shown to it: paths of PEM files, and the expected name."""

    ca: str | None = None
    certificate: str | None = None
    key: str | None = None
    server_name: str | None = None


class OutlierEjection(msgspec.Struct, frozen=True):
    """When live traffic takes an endpoint out of its backend's rotation, and for how long (seconds).

    ``failures`` in a row eject it for ``base_s``, doubling up to ``max_s`` with each ejection that follows soon. At
    most ``ejected_percent_max`` of the backend's endpoints, rounded up, are out at once. One that comes back takes a
    growing share of its turns for ``slow_start_s``.
    """

    failures: int = 5
    base_s: float = 1.0
    max_s: float = 30.0
    ejected_percent_max: float = 50.0
    slow_start_s: float = 0.0


class AddressGuard(msgspec.Struct, frozen=True):
    """Where a backend that came in over the API may be (`addresses`): ``allow``, for the endpoints of these URLs."""

    allow: tuple[str, ...]
    urls: tuple[str, ...]


class SetHeader(msgspec.Struct, frozen=True):
    """A field that a backend gets in its requests, in place of the client's of this name (lower case).

    It says ``prefix`` and behind it one of: ``value``, what an environment variable holds, or a file.
    """

    name: str
    prefix: str = ""
    value: str | None = None
    value_env: str | None = None
    value_file: str | None = None


class RequestChanges(msgspec.Struct, frozen=True):
    """What a backend's requests say other than the client's.

    A path that begins with ``path_prefix`` (whole segments) begins with ``path_replacement`` instead. ``model`` is the
    backend's name of the model, in the paths of the inference protocols and as ``model`` of a JSON body.
    """

    path_prefix: str | None = None
    path_replacement: str | None = None
    model: str | None = None
    set_headers: tuple[SetHeader, ...] = ()
    remove_headers: tuple[str, ...] = ()


class Backend(msgspec.Struct, frozen=True):
    """One deployed model version with its endpoints."""

    name: str
    endpoints: tuple[Endpoint, ...]
    # Open connections per endpoint and worker; further requests wait in a bounded queue.
    connections_max: int = 256
    queue_max: int = 1024
    # Connections idle for longer are closed before the backend's own keep-alive limit (uvicorn: 5 s) can race us.
    keepalive_s: float = 4.0
    tls: BackendTls | None = None
    passive: OutlierEjection = OutlierEjection()
    # Host names are looked up again after ``resolve_s``; addresses that were good serve on for ``resolve_max_age_s``
    # when the lookup fails.
    resolve_s: float = 10.0
    resolve_max_age_s: float = 3600.0
    # What the backend sees as Host: the client's (``client``), the endpoint's (``endpoint``), or this text.
    host_header: str = "client"
    request: RequestChanges | None = None
    # Below this share of endpoints that look well, what probes say is ignored. None at all is always too few.
    panic_percent: float = 0.0
    # None: all its endpoints are where the configuration file says, and may be anywhere.
    guard: AddressGuard | None = None

    def allow(self, endpoint: Endpoint) -> tuple[str, ...] | None:
        """Where this endpoint's name may lead; None: anywhere."""
        return self.guard.allow if self.guard is not None and endpoint.url in self.guard.urls else None


class Timeouts(msgspec.Struct, frozen=True):
    """Deadlines of one route, all in seconds. ``first_byte_s`` and ``try_s`` are per try, the others per exchange.

    ``try_s`` bounds a try from its sending to its last byte (None: nothing does, as streams want it).
    ``tunnel_idle_s`` is for what follows a protocol upgrade.
    """

    connect_s: float = 1.0
    first_byte_s: float = 15.0
    idle_s: float = 60.0
    total_s: float = 300.0
    try_s: float | None = None
    tunnel_idle_s: float = 300.0


class Hold(enum.StrEnum):
    """How long the canary's event streams are held back, so that stable can answer in their place."""

    FIRST_TOKEN = "first_token"  # noqa: S105  # of a model, no password
    OFF = "off"


class Rescue(msgspec.Struct, frozen=True):
    """Whether and how much stable may answer for a failing canary.

    ``replayable`` says that sending a request twice does no harm (inference is a pure function). A request's body is
    kept for it: up to ``body_bytes_max`` in memory, up to ``file_bytes_max`` more in a temporary file. The budget is
    a token bucket per worker: each request on the route adds ``budget_percent`` hundredths of a token, a rescue takes
    one, at most ``budget_burst`` are saved up.
    Its event streams are held back as ``hold`` says, so that one that fails before it said anything is rescued, too.
    An answer of the canary's is rescued by its status: one of ``statuses`` (``429``, or ``5xx`` for a class), and with
    ``unlike_stable`` also one of a failing class that the canary gives far oftener than stable does.
    """

    replayable: bool = True
    body_bytes_max: int = 1 << 20
    file_bytes_max: int = 64 << 20
    budget_percent: float = 20.0
    budget_burst: int = 1000
    statuses: tuple[str, ...] = ("5xx", "429")
    unlike_stable: bool = True
    hold: Hold = Hold.FIRST_TOKEN


class Retry(msgspec.Struct, frozen=True):
    """How much may be tried again on another endpoint of the same backend: a budget as a rescue's.

    ``statuses`` are answers that are tried again as a broken connection is (as in `Rescue`).
    """

    budget_percent: float = 20.0
    budget_burst: int = 100
    statuses: tuple[str, ...] = ()


class Sticky(msgspec.Struct, frozen=True):
    """Where the sticky key of a request is found: a header or a cookie, by name (lower case for headers)."""

    header: str | None = None
    cookie: str | None = None


class Mark(msgspec.Struct, frozen=True):
    """A yes/no event taken from a response header: named ``event``, it happened when ``header`` says so.

    ``header`` is in lower case. ``value`` None: the header is there; otherwise one of its comma-separated values is it.
    With ``bounds`` it is the number that the header says.
    """

    event: str
    header: str
    value: str | None = None
    bounds: tuple[float, float] | None = None


class Tap(msgspec.Struct, frozen=True):
    """What a worker takes note of in a route's answers, for the inspector and for labelled events.

    An answered request is sampled by a coin of ``share``, and at most twice ``samples_per_s`` are in a second, of both
    variants together (proxy/tap.py).
    Only bodies up to ``body_bytes_max`` are looked at. ``ids`` reports the ids of requests that may be labelled later.
    ``failures_per_s``: at most twice so many answers a second of both variants are read for failures inside of them,
    while both have traffic (0: none are). ``modest``: predictions are sampled within the same
    bounds, because nobody has asked for them: only then, and within the same budget of bytes. ``requests``: what is
    sampled for predictions comes with its request's body, where that is whole and in memory.
    """

    share: float = 1.0
    samples_per_s: float = 50.0
    body_bytes_max: int = 256 * 1024
    ids: bool = False
    marks: tuple[Mark, ...] = ()
    failures_per_s: float = 0.0
    modest: bool = False
    requests: bool = False


class Mirroring(msgspec.Struct, frozen=True):
    """Which of stable's requests are copied to the canary, and what the copies may take; the limits are per worker.

    ``share_bp`` of them are (0: none), at most ``concurrency_max`` at a time. A copy's request may have
    ``body_bytes_max``, of its answer and of stable's ``answer_bytes_max`` are read, and all copies together hold
    ``memory_bytes_max``. One that is not answered whole in ``timeout_s`` is given up. A worker whose event loop is
    later than ``loop_lag_max_s`` makes none. ``outputs``: what both answer is compared; numbers that differ by no more
    than ``number_tolerance`` of stable's are equal (predictions/agreement.py).
    """

    share_bp: int = 0
    concurrency_max: int = 32
    body_bytes_max: int = 256 * 1024
    answer_bytes_max: int = 1 << 20
    memory_bytes_max: int = 32 << 20
    timeout_s: float = 30.0
    loop_lag_max_s: float = 0.05
    outputs: bool = True
    number_tolerance: float = 0.001


# A client that half-closes does so as it sends; one that leaves, when it has waited. Long enough for a lost packet.
HALF_CLOSE_S = 0.25


class OnMissing(enum.StrEnum):
    """What becomes of a request whose features are not all known."""

    PASS = "pass"  # noqa: S105  # no password
    DEFAULT = "default"
    REJECT = "reject"


class EntityKey(msgspec.Struct, frozen=True):
    """A key of the entity that a request is about: where in its JSON body it is, or in which header (lower case)."""

    name: str
    path: tuple[str, ...] = ()
    header: str | None = None


class Features(msgspec.Struct, frozen=True):
    """Features of a feature store, put into each request before a variant is chosen.

    ``service`` or ``features`` say which, ``into`` where in the JSON body they are put.
    """

    url: str
    entity: tuple[EntityKey, ...]
    token_env: str | None = None
    service: str | None = None
    features: tuple[str, ...] = ()
    into: tuple[str, ...] = ("features",)
    timeout_s: float = 0.05
    ttl_s: float = 0.0
    on_missing: OnMissing = OnMissing.PASS
    defaults: dict[str, bool | int | float | str] = {}
    body_bytes_max: int = 1 << 20


class Route(msgspec.Struct, frozen=True):
    """Which requests, to which stable and canary backend, at which weight.

    ``stable`` is empty where nothing has been deployed yet: requests are refused until a first canary is promoted.
    """

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
    retry: Retry = Retry()
    tap: Tap | None = None
    # Protocols (lower case) that a client may switch to; a request for any other is answered as an ordinary one.
    upgrades: tuple[str, ...] = ("websocket",)
    # Statuses that are ordinary answers here: they count as ``ok`` (core/stats/outcomes.py).
    exempt_statuses: tuple[int, ...] = ()
    # A client that ends its sending side later than this after its request was whole has left (0: whenever it does).
    half_close_s: float = HALF_CLOSE_S
    # Whether requests go to the backend as they come in, for dialogues in one exchange; otherwise once they flow.
    streams_requests: bool = False
    mirror: Mirroring = Mirroring()
    # Something else splits the requests of this route, as its weight says; none of them is taken here.
    external: bool = False
    features: Features | None = None

    def __post_init__(self) -> None:
        """Reject a weight that is out of range or that has no canary to go to."""
        if not 0 <= self.weight_bp <= WEIGHT_BP_MAX:
            raise ValueError(f"route {self.name}: weight_bp {self.weight_bp} is not in 0..{WEIGHT_BP_MAX}")
        if self.weight_bp and self.canary is None:
            raise ValueError(f"route {self.name}: a weight without a canary backend")
        if 0 < self.weight_bp < WEIGHT_BP_MAX and not self.stable:
            raise ValueError(f"route {self.name}: a part of the requests without a stable backend for the others")


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

    def stable_only(self) -> RoutingTable:
        """The same table (and epoch) in which no canary gets anything."""
        routes = tuple(msgspec.structs.replace(route, weight_bp=0) for route in self.routes)
        return msgspec.structs.replace(self, routes=routes)

    def with_weight(self, name: str, weight_bp: int) -> RoutingTable:
        """The next table, in which route ``name`` has ``weight_bp``."""
        self.route(name)
        routes = tuple(msgspec.structs.replace(r, weight_bp=weight_bp) if r.name == name else r for r in self.routes)
        return msgspec.structs.replace(self, epoch=self.epoch + 1, routes=routes)
