"""What the admin API says, as values: the API's own types, which control plane, API and clients share.

Rules:

1. Dataclasses of the standard library alone: a client needs no more than httpx, and the gateway not even that.
2. They are versioned by the API's path (/api/v1). Answers may gain fields, never lose any: clients pass over fields
   that they do not know, and fields that came later have a default.
3. JSON knows no infinity and no NaN: such a number in an analysis is null.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from gateway.core.model_version import ModelVersion
from gateway.core.verdicts import Verdict

# The phases in which a rollout has ended.
PROMOTED, ROLLED_BACK, WITHDRAWN = "PROMOTED", "ROLLED_BACK", "WITHDRAWN"
ENDED = frozenset({PROMOTED, ROLLED_BACK, WITHDRAWN})


@dataclass(frozen=True)
class FindingBody:
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
    details: dict[str, float | None] = field(default_factory=dict)


@dataclass(frozen=True)
class AnalysisBody:
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


@dataclass(frozen=True)
class RolloutFields:
    """What is shown of one rollout, by the control plane and the API, which have plan and analysis in their own forms.

    ``step`` counts from 1, and 0 is the mirror step; times are ISO 8601, UTC. ``stable`` is null for a route's first
    version, which has nothing to be compared with.
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
    plan: Any
    canary_requests: int
    analysis: Any
    # Counts the rollout's decisions from 1; with the id it names this state.
    revision: int = 0
    # What a WAITING rollout waits for, and in one sentence why the rollout does not go up just now.
    gate: str = ""
    waiting_for: str = ""
    # Deciding metrics that cannot have data as things are: what was seen, and the configuration that would help.
    warnings: tuple[str, ...] = ()
    # The protocol of the answers that were read; which outputs of the models are compared and why, and what the events
    # stand for: empty without predictions.
    protocol: str = ""
    compared: str = ""
    meanings: dict[str, str] = field(default_factory=dict)
    # What canary and stable served when the rollout began, where that was configured.
    model: ModelVersion | None = None
    stable_model: ModelVersion | None = None
    # The commands that would be accepted now, by the names of the command line.
    allowed: tuple[str, ...] = ()
    # The share of stable's requests that the plan's mirror step copies to the canary, while it is in force.
    mirror_percent: float = 0.0


@dataclass(frozen=True)
class RolloutBody(RolloutFields):
    """One rollout: where it is, why, and on which evidence.

    ``step`` counts from 1, and 0 is the mirror step; times are ISO 8601 in UTC.

    ``stable`` is null for a route's first version. ``revision`` counts its decisions. ``gate`` is what a WAITING one
    waits for; ``waiting_for`` says in one sentence why the weight does not rise just now.
    ``warnings`` name deciding metrics that cannot have data as things are, with what was seen and what would help;
    ``protocol`` says which protocol the answers are in that were read, and how that is known; ``compared`` which
    outputs of the models are compared and why, ``meanings`` what each event stands for.
    ``model`` and ``stable_model`` are what canary and stable served when the rollout began, where that was configured.
    ``allowed`` are the commands that would be accepted now.
    """

    plan: dict[str, Any]
    analysis: AnalysisBody | None

    @property
    def ended(self) -> bool:
        """Whether it has come to its end, whichever."""
        return self.phase in ENDED

    @property
    def promoted(self) -> bool:
        """Whether its canary has become the route's stable version."""
        return self.phase == PROMOTED

    def _repr_html_(self) -> str:
        # For notebooks only, and above this module.
        rollout_html = import_module("gateway.client.html").rollout_html
        return str(rollout_html(self))


@dataclass(frozen=True)
class RolloutList:
    """A page of rollouts, newest first; ``next_before`` is the ``before`` of the next page, null at the end."""

    rollouts: tuple[RolloutBody, ...]
    next_before: str | None = None


@dataclass(frozen=True)
class FindingNumbers:
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


@dataclass(frozen=True)
class DecisionView:
    """One change of a rollout. ``at`` is ISO 8601 in UTC, by the wall clock of then; ``seq`` is the true order.

    ``after_s`` is the time since the decision before, by the clock that decides, and None where the control plane was
    started in between. ``event`` is what happened, ``phase`` and ``canary_percent`` what the rollout became. ``model``
    is what the canary served when the rollout began.
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
    model: ModelVersion | None = None


@dataclass(frozen=True)
class StoryBody:
    """What was decided on one rollout, oldest first, from the journal alone."""

    id: str
    decisions: tuple[DecisionView, ...]


@dataclass(frozen=True)
class EndpointView:
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


@dataclass(frozen=True)
class BadMoments:
    """Stable's bad moments with failures of one class (``metric``): how many in ``known_s`` seconds, and how long.

    ``usual_rate`` is the share of requests that fail so outside of them. Old ones count less and less, so ``moments``
    need not be a whole number.
    """

    metric: str
    known_s: float
    moments: float
    per_hour: float
    mean_s: float
    longest_s: float
    usual_rate: float = 0.0


@dataclass(frozen=True)
class RouteView:
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
    rescues_refused: dict[str, int] = field(default_factory=dict)
    # Requests a second that each version was sent lately; null until that is known.
    stable_per_s: float | None = None
    canary_per_s: float | None = None
    # Why the last rollout is where it is: the reason of its last decision, when that was, and who made it.
    decision: str | None = None
    decided_at: str | None = None
    decided_by: str | None = None
    # For how long stable's failures have been watched, and its bad moments, of the classes in which it ever failed.
    stable_known_s: float = 0.0
    bad_moments: tuple[BadMoments, ...] = ()


@dataclass(frozen=True)
class RouteList:
    """Routes, in the order of the configuration; ``total`` is how many match, on all pages."""

    routes: tuple[RouteView, ...]
    total: int = 0


@dataclass(frozen=True)
class Readiness:
    """Whether the gateway can do its work, what is missing, and what is wrong beside it (``warnings``)."""

    ready: bool
    workers: int
    reasons: tuple[str, ...]
    warnings: tuple[str, ...] = ()


# An event's cursor, or its id alone.
EVENT_CURSOR = "([0-9a-f]{8}-)?[0-9]{1,18}"


@dataclass(frozen=True)
class ControlEvent:
    """Something happened. ``id`` grows by one; ``kind`` is one of the names in docs/api.md, "The event stream".

    ``cursor`` names the event across restarts of the gateway, after which ids begin at 1 again.
    """

    id: int
    at: str
    kind: str
    route: str | None
    rollout_id: str | None
    data: dict[str, Any]
    cursor: str = ""
