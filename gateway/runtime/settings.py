"""What a worker or the inspector needs before it is connected to control: passed at its start, as one JSON value.

`WorkerSettings.same_worker` says whether two of them differ in more than the table, which control brings anyway.
"""

from __future__ import annotations

import msgspec

from gateway.core.traffic.table import RoutingTable


class Limits(msgspec.Struct, frozen=True):
    """Bounds on what one client may ask of a worker. Bytes, counts and seconds as the names say."""

    head_bytes_max: int = 32 * 1024
    header_fields_max: int = 100
    line_bytes_max: int = 8 * 1024
    body_bytes_max: int | None = None
    connections_max: int = 10_000
    head_timeout_s: float = 10.0
    keepalive_s: float = 75.0
    drain_timeout_s: float = 30.0
    # Of one address (of a proxy's client, with PROXY protocol); those of trusted proxies are not counted.
    connections_per_client_max: int | None = None
    # A request body may fall behind this rate (bytes per second) by a grace, and is refused then. 0: no such bound.
    body_rate_min: int = 500
    # Accepting goes on for so long after the signal to stop, while readiness already says no.
    drain_grace_s: float = 0.0
    # A worker from which the supervisor has no sign of life for so long is killed and replaced. 0: never.
    hang_timeout_s: float = 10.0
    # What a worker holds of request bodies: in memory, and in temporary files there (None: where the system has them).
    body_memory_bytes: int = 64 << 20
    body_disk_bytes: int = 256 << 20
    body_directory: str | None = None


class TlsSettings(msgspec.Struct, frozen=True):
    """TLS towards clients: certificate and key files (the first for clients that name no host, or an unknown one)."""

    certificates: tuple[tuple[str, str], ...]
    client_ca: str | None = None
    min_version: str = "TLSv1.2"
    handshake_timeout_s: float = 10.0


class ProxyProtocolSettings(msgspec.Struct, frozen=True):
    """Every connection begins with a PROXY header, and comes from one of these address ranges (CIDR)."""

    trusted: tuple[str, ...]
    timeout_s: float = 3.0


class HeaderPolicy(msgspec.Struct, frozen=True):
    """What is done with certain header fields. ``via`` and ``request_id``: None leaves them alone.

    ``underscores``: ``reject``, ``drop`` or ``pass`` fields with one in their name. ``traceparent``: ``make`` one where
    the client sent none, only ``pass`` it on, or ``span``: each attempt has one of its own (with tracing).
    """

    via: str | None = "canary-gateway"
    forwarded: bool = False
    underscores: str = "reject"
    request_id: str | None = "x-request-id"
    traceparent: str = "make"


class AccessLogSettings(msgspec.Struct, frozen=True):
    """Where request lines go (a file, ``-`` for standard output, None for nowhere), which, and how many may wait."""

    path: str | None = None
    sample: float = 1.0
    failures: bool = True
    query: bool = False
    queue_bytes_max: int = 4 << 20


class TracingSettings(msgspec.Struct, frozen=True):
    """What a worker needs of tracing: the share of requests without a parent that is sampled, and how many may wait."""

    sample: float = 0.05
    queue_max: int = 2048


class ExporterSettings(msgspec.Struct, frozen=True):
    """What the exporter of traces gets at its start."""

    path: str
    endpoint: str
    service: str
    version: str
    headers: dict[str, str] = {}
    timeout_s: float = 10.0


class FeaturesSettings(msgspec.Struct, frozen=True):
    """What the process that looks features up gets at its start."""

    path: str


class WorkerSettings(msgspec.Struct, frozen=True):
    """A worker's birth certificate.

    ``table`` is what the configuration file says, stable only. Until control speaks the worker routes by it, or by what
    it finds in the memory behind ``memory_fds`` (table_memory.py); ``config_sha256`` names the file's text.
    """

    index: int
    listen_fd: int
    control_path: str
    table: RoutingTable
    limits: Limits = Limits()
    trusted_proxies: tuple[str, ...] = ()
    report_interval_s: float = 0.05
    workers: int = 1
    tls: TlsSettings | None = None
    proxy_protocol: ProxyProtocolSettings | None = None
    headers: HeaderPolicy = HeaderPolicy()
    access_log: AccessLogSettings = AccessLogSettings()
    tracing: TracingSettings | None = None
    config_sha256: str = ""
    memory_fds: tuple[int, int] | None = None

    def same_worker(self, other: WorkerSettings) -> bool:
        """Whether a worker born with these need not be replaced by one born with ``other``."""
        return msgspec.structs.replace(self, table=other.table, config_sha256=other.config_sha256) == other


class InspectorSettings(msgspec.Struct, frozen=True):
    """What the inspector is given at its start; the rest comes from control."""

    path: str
