"""What a worker process must know before it can hear from control: passed once, at its birth, as one JSON value."""

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


class WorkerSettings(msgspec.Struct, frozen=True):
    """A worker's birth certificate. ``table`` is what it routes by until control speaks: stable only."""

    index: int
    listen_fd: int
    control_path: str
    table: RoutingTable
    limits: Limits = Limits()
    trusted_proxies: tuple[str, ...] = ()
    report_interval_s: float = 0.05
