"""What the control plane shows: plain values for the admin API, the CLI, the demo and the event stream.

They are versioned by the API's path (/api/v1); fields are only ever added. Those that clients read as they stand are
declared in api_types.py, and are named here again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec

from gateway.api_types import (
    BadMoments,
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
    "BadMoments",
    "ControlEvent",
    "DecisionView",
    "EndpointView",
    "FindingNumbers",
    "LatencyDistributions",
    "MetricSeries",
    "ProbeCounts",
    "Readiness",
    "RolloutSeries",
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


class MetricSeries(msgspec.Struct, frozen=True):
    """One metric over time, in columns as long as the rollout's ``at``; null where nothing was known.

    ``log_e_bad`` and ``log_e_ok`` are the logarithms of its e-values. ``effect`` is canary minus stable, with the ends
    of the band that holds it at all moments together with 95 % probability: in shares, or (``unit`` is ``us``) the
    95th percentiles' difference in microseconds. A canary whose effect is proven to lie between the margins passes.
    """

    metric: str
    unit: str
    log_e_bad: tuple[float | None, ...]
    log_e_ok: tuple[float | None, ...]
    effect: tuple[float | None, ...]
    low: tuple[float | None, ...]
    high: tuple[float | None, ...]
    margin_low: tuple[float | None, ...]
    margin_high: tuple[float | None, ...]


class RolloutSeries(msgspec.Struct, frozen=True):
    """The evidence of a rollout over time, thinned so that it stays small; ``at`` is in seconds since the Unix epoch.

    It outlives restarts of the gateway, with a gap; of rollouts that are archived it is empty.
    """

    id: str
    every_s: float
    at: tuple[float, ...]
    canary_percent: tuple[float, ...]
    log_e_bad: tuple[float | None, ...]
    metrics: tuple[MetricSeries, ...]


class DataResult(msgspec.Struct, frozen=True):
    """What a validator said of one window of a version's data; ``result`` is its own JSON."""

    at: str
    variant: str
    success: bool
    failures: tuple[str, ...] = ()
    result: Any = None


class RolloutDataResults(msgspec.Struct, frozen=True):
    """What validators said of a rollout's windows: of each version the newest that failed and that conformed."""

    id: str
    results: tuple[DataResult, ...] = ()


class LatencyDistributions(msgspec.Struct, frozen=True):
    """How many requests of each version took how long, of those that are evidence.

    ``edges_us`` are the lower ends of the bins, which grow by about a sixth each.
    """

    id: str
    edges_us: tuple[int, ...]
    stable: tuple[int, ...]
    canary: tuple[int, ...]


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
