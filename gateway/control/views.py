"""What the control plane shows: plain values for the admin API, the CLI, the demo and the event stream.

They are versioned by the API's path (/api/v1); fields are only ever added.
"""

from __future__ import annotations

from typing import Any, Generic, TypeVar

import msgspec

from gateway.core.analysis.types import Analysis
from gateway.core.rollout.types import NOTIFY_KINDS, Plan

PlanT = TypeVar("PlanT")
AnalysisT = TypeVar("AnalysisT")


class EndpointView(msgspec.Struct, frozen=True):
    """One endpoint and what active probes say of it (None: not probed).

    ``why`` is the latest answer to a probe and ``since`` when that state began (ISO 8601, UTC). ``unknown`` says why
    probes are undecided at present; the state is then the last one that was known. ``kept``: it is used although probes
    get no answer, because it answers requests.
    """

    backend: str
    url: str
    healthy: bool | None
    why: str = ""
    since: str | None = None
    unknown: str = ""
    kept: bool = False


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


class AlarmView(msgspec.Struct, frozen=True):
    """Something that is wrong right now and needs a person."""

    what: str
    reason: str


class RouteView(msgspec.Struct, frozen=True):
    """One route as it is being served. ``workers_applied`` of ``workers`` route by ``epoch``.

    ``stable`` is null where nothing has been deployed yet.
    """

    name: str
    path_prefix: str
    hosts: tuple[str, ...]
    stable: str | None
    canary: str | None
    canary_percent: float
    epoch: int
    workers: int
    workers_applied: int
    endpoints: tuple[EndpointView, ...]
    rollout_id: str | None
    phase: str
    # What the configuration names; `stable` is another one after a promotion that the configuration does not have.
    configured_stable: str | None = None
    # What an operator should know about the weight as it is, in one sentence; empty where there is nothing to say.
    warning: str = ""
    # Statuses that count as 200 does here (`analysis.exempt_statuses`).
    exempt_statuses: tuple[int, ...] = ()
    # The canary's failures that stable answered since the gateway's start, and by reason those that it did not.
    rescued: int = 0
    rescues_refused: dict[str, int] = {}


class RolloutFields(msgspec.Struct, Generic[PlanT, AnalysisT], frozen=True):
    """What is shown of one rollout, here and by the API, which has plan and analysis in forms of their own.

    ``step`` counts from 1; times are ISO 8601, UTC. ``stable`` is null for a route's first version, which has nothing
    to be compared with.
    """

    id: str
    route: str
    stable: str | None
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
    plan: PlanT
    canary_requests: int
    analysis: AnalysisT
    # Counts the rollout's decisions from 1; with the id it names this state.
    revision: int = 0
    # What a WAITING rollout waits for, and in one sentence why the rollout does not go up just now.
    gate: str = ""
    waiting_for: str = ""
    # Deciding metrics that cannot have data as things are: what was seen, and the configuration that would help.
    warnings: tuple[str, ...] = ()
    # Which outputs of the models are compared and why, and what the events stand for; empty without predictions.
    compared: str = ""
    meanings: dict[str, str] = {}


class RolloutView(RolloutFields[Plan, Analysis | None], frozen=True):
    """One rollout: where it is, why, and on which evidence."""


class ControlEvent(msgspec.Struct, frozen=True):
    """Something happened. ``id`` grows by one; ``kind`` is one of the names in `EVENT_KINDS`."""

    id: int
    at: str
    kind: str
    route: str | None
    rollout_id: str | None
    data: dict[str, Any]


# The machine's kinds are a rollout's transitions (data: RolloutView). Besides: analysis, what the evidence says now
# (data: RolloutView); weight, a published weight (data: canary_percent, epoch); roles, who is stable and who is canary
# since a promotion or its end (data: stable, canary, epoch); health, an endpoint went up or down (data: EndpointView);
# ejection, live traffic took an endpoint out of rotation, or it is back (data: backend, url, ejected, reason, lasts_s);
# readiness, /readyz changed its answer (data: Readiness); worker, one came or went; alarm (data: what, reason).
EVENT_KINDS = (*NOTIFY_KINDS, "analysis", "weight", "roles", "health", "ejection", "readiness", "worker", "alarm")


class Readiness(msgspec.Struct, frozen=True):
    """Whether the gateway can do its work, what is missing, and what is wrong beside it (``warnings``)."""

    ready: bool
    workers: int
    reasons: tuple[str, ...]
    warnings: tuple[str, ...] = ()


class ProbeCounts(msgspec.Struct, frozen=True):
    """What the probes could not find out, by reason, and the backends of which too few endpoints look well."""

    unknown: dict[str, int] = {}
    panics: dict[str, bool] = {}


class FindingNumbers(msgspec.Struct, frozen=True):
    """What one metric's finding said when the decision was made; a log that is not finite is None."""

    metric: str
    verdict: str
    reason: str
    decides: bool
    stable_events: int
    stable_trials: int
    canary_events: int
    canary_trials: int
    log_e_bad: float | None
    log_e_ok: float | None


class DecisionView(msgspec.Struct, frozen=True):
    """One change of a rollout. ``at`` is ISO 8601 in UTC, by the wall clock of then; ``seq`` is the true order.

    ``after_s`` is the time since the decision before, by the clock that decides, and None where the control plane was
    started in between. ``event`` is what happened, ``phase`` and ``canary_percent`` what the rollout became.
    """

    seq: int
    revision: int
    at: str
    after_s: float | None
    event: str
    by: str
    automatic: bool
    phase_before: str
    phase: str
    step: str
    canary_percent_before: float
    canary_percent: float
    reason: str
    causes: tuple[str, ...]
    canary_requests: int | None
    verdict: str | None
    numbers: tuple[FindingNumbers, ...]
