"""What the control plane shows: plain values for the admin API, the CLI, the demo and the event stream.

They are versioned by the API's path (/api/v1); fields are only ever added.
"""

from __future__ import annotations

from typing import Any

import msgspec

from gateway.core.analysis.types import Analysis
from gateway.core.rollout.types import NOTIFY_KINDS, Plan


class EndpointView(msgspec.Struct, frozen=True):
    """One endpoint and what active probes say of it (None: not probed)."""

    backend: str
    url: str
    healthy: bool | None


class RouteView(msgspec.Struct, frozen=True):
    """One route as it is being served. ``workers_applied`` of ``workers`` route by ``epoch``."""

    name: str
    path_prefix: str
    hosts: tuple[str, ...]
    stable: str
    canary: str | None
    canary_percent: float
    epoch: int
    workers: int
    workers_applied: int
    endpoints: tuple[EndpointView, ...]
    rollout_id: str | None
    phase: str


class RolloutView(msgspec.Struct, frozen=True):
    """One rollout: where it is, why, and on which evidence. ``step`` counts from 1; times are ISO 8601, UTC."""

    id: str
    route: str
    stable: str
    canary: str
    phase: str
    step: int
    steps: int
    canary_percent: float
    reason: str
    causes: tuple[str, ...]
    by: str
    started_at: str
    updated_at: str
    plan: Plan
    canary_requests: int
    analysis: Analysis | None


class ControlEvent(msgspec.Struct, frozen=True):
    """Something happened. ``id`` grows by one; ``kind`` is one of the names in `EVENT_KINDS`."""

    id: int
    at: str
    kind: str
    route: str | None
    rollout_id: str | None
    data: dict[str, Any]


# The machine's kinds are a rollout's transitions (data: RolloutView). Besides: analysis, what the evidence says now
# (data: RolloutView); weight, a published weight (data: canary_percent, epoch); health, an endpoint went up or down
# (data: EndpointView); worker, one came or went; alarm (data: what, reason).
EVENT_KINDS = (*NOTIFY_KINDS, "analysis", "weight", "health", "worker", "alarm")


class Readiness(msgspec.Struct, frozen=True):
    """Whether the gateway can do its work, and what is missing."""

    ready: bool
    workers: int
    reasons: tuple[str, ...]
