"""The JSON that goes out. What comes in is in `request_schemas`; a plan is the configuration's section in both.

Rules:

1. Answers may gain fields, never lose any.
2. JSON knows no infinity and no NaN: such a number in an analysis is null.
3. Bodies that equal the control plane's views are those views; only what must differ is declared here.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from gateway.control.journal.rows import AuditEntry
from gateway.control.views import AlarmView, BackendView, DecisionView, RolloutFields, RouteView, WorkerView
from gateway.core.analysis.types import Verdict

# As a configuration would say it: the section `plan` of a route, with all its keys.
PlanTree = Annotated[dict[str, Any], Meta(extra_json_schema={"$ref": "#/components/schemas/PlanConfig"})]


class LabelsTaken(msgspec.Struct, frozen=True):
    """How many labels were taken. What became of them is in `gateway_labels_total` of the metrics."""

    accepted: int


class FindingBody(msgspec.Struct, frozen=True):
    """One metric's answer with its numbers; null for a number that is not finite."""

    metric: str
    verdict: Verdict
    reason: str
    decides: bool
    log_e_bad: float | None
    log_e_ok: float | None
    stable_events: int
    stable_trials: int
    canary_events: int
    canary_trials: int
    details: dict[str, float | None] = {}


class AnalysisBody(msgspec.Struct, frozen=True):
    """What the evidence says: the worst verdict of those that decide, with the metrics named as its cause."""

    verdict: Verdict
    reason: str
    causes: tuple[str, ...]
    findings: tuple[FindingBody, ...]
    log_e_bad: float | None
    log_e_bad_needed: float | None
    log_e_ok_needed: float | None
    stable_requests: int
    canary_requests: int


class RolloutBody(RolloutFields[PlanTree, AnalysisBody | None], frozen=True):
    """One rollout: where it is, why, and on which evidence. ``step`` counts from 1; times are ISO 8601 in UTC.

    ``stable`` is null for a route's first version. ``revision`` counts its decisions. ``gate`` is what a WAITING one
    waits for; ``waiting_for`` says in one sentence why the weight does not rise just now.
    ``warnings`` name deciding metrics that cannot have data as things are, with what was seen and what would help;
    ``compared`` says which outputs of the models are compared and why, ``meanings`` what each event stands for.
    """


class RouteList(msgspec.Struct, frozen=True):
    """All routes, in the order of the configuration."""

    routes: tuple[RouteView, ...]


class RolloutList(msgspec.Struct, frozen=True):
    """A page of rollouts, newest first; ``next_before`` is the ``before`` of the next page, null at the end."""

    rollouts: tuple[RolloutBody, ...]
    next_before: str | None = None


class StoryBody(msgspec.Struct, frozen=True):
    """What was decided on one rollout, oldest first, from the journal alone."""

    id: str
    decisions: tuple[DecisionView, ...]


class WorkerList(msgspec.Struct, frozen=True):
    """The connected workers, by their index."""

    workers: tuple[WorkerView, ...]


class BackendList(msgspec.Struct, frozen=True):
    """All backends, in the order of the configuration."""

    backends: tuple[BackendView, ...]


class AlarmList(msgspec.Struct, frozen=True):
    """What is wrong right now, in the order in which it came up."""

    alarms: tuple[AlarmView, ...]


class AuditList(msgspec.Struct, frozen=True):
    """A page of the audit trail, newest first; ``next_before`` is the ``before`` of the next page, null at the end."""

    entries: tuple[AuditEntry, ...]
    next_before: int | None = None


class Health(msgspec.Struct, frozen=True):
    """The process lives."""

    alive: bool


def encode(body: Any) -> bytes:
    """JSON in UTF-8; numbers that are not finite become null."""
    return msgspec.json.encode(body)
