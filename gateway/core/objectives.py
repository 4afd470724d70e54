"""What a route promises its users: service level objectives. They alert people (gateway_slo_*), and never decide."""

from __future__ import annotations

import msgspec


class Objectives(msgspec.Struct, frozen=True):
    """``availability_percent`` of answers are no 5xx; ``latency_percent`` begin within ``latency_ms`` (None: any)."""

    availability_percent: float = 99.9
    latency_ms: float | None = None
    latency_percent: float = 99.0
