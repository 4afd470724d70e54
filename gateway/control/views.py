"""What the control plane shows: plain values for the admin API, the CLI, the demo and the event stream.

They are versioned by the API's path (/api/v1); fields are only ever added. Those that clients read as they stand are
declared in api_types.py, and are named here again.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from gateway.api_types import (
    ControlEvent,
    DecisionView,
    EndpointView,
    FindingNumbers,
    Readiness,
    RolloutFields,
    RouteView,
)
from gateway.core.analysis.types import Analysis
from gateway.core.model_version import ModelVersion
from gateway.core.rollout.types import NOTIFY_KINDS, Plan

__all__ = [
    "EVENT_KINDS",
    "AlarmView",
    "BackendView",
    "ControlEvent",
    "DecisionView",
    "EndpointView",
    "FindingNumbers",
    "ProbeCounts",
    "Readiness",
    "RolloutView",
    "RouteView",
    "WorkerView",
]


class WorkerView(msgspec.Struct, frozen=True):
    """One connected worker; ``epoch`` is the table that it routes by, ``heard_ago_s`` how long ago it last spoke."""

    index: int
    pid: int
    epoch: int
    in_flight: int
    connections: int
    heard_ago_s: float


class BackendView(msgspec.Struct, frozen=True):
    """One backend: its endpoints, and the routes that name it."""

    name: str
    endpoints: tuple[EndpointView, ...]
    routes: tuple[str, ...]
    # Whether so few endpoints look well that all of them are used, whatever probes say.
    panic: bool = False
    # What it serves, where the configuration says so.
    model: ModelVersion | None = None


class AlarmView(msgspec.Struct, frozen=True):
    """Something that is wrong right now and needs a person."""

    what: str
    reason: str


@dataclass(frozen=True)
class RolloutView(RolloutFields):
    """One rollout, with plan and analysis as the core has them."""

    plan: Plan
    analysis: Analysis | None


# The machine's kinds are a rollout's transitions (data: RolloutView). Besides: analysis, what the evidence says now
# (data: RolloutView); weight, a published weight (data: canary_percent, epoch); roles, who is stable and who is canary
# since a promotion or its end (data: stable, canary, epoch); health, an endpoint went up or down (data: EndpointView);
# ejection, live traffic took an endpoint out of rotation, or it is back (data: backend, url, ejected, reason, lasts_s);
# readiness, /readyz changed its answer (data: Readiness); worker, one came or went; alarm (data: what, reason).
# source, what a model registry's source does for its route (data: state, version, reason).
EVENT_KINDS = (
    *(*NOTIFY_KINDS, "analysis", "weight", "roles", "health", "ejection", "readiness", "worker", "alarm"),
    "source",
)


class ProbeCounts(msgspec.Struct, frozen=True):
    """What the probes could not find out, by reason, and the backends of which too few endpoints look well."""

    unknown: dict[str, int] = {}
    panics: dict[str, bool] = {}
