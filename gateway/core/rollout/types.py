"""The values of a rollout: the plan, where it stands, what can happen to it, and what must be done about it."""

from __future__ import annotations

import enum

import msgspec

from gateway.core.analysis.paired_spec import PairedSpec
from gateway.core.model_version import ModelVersion
from gateway.core.types import WEIGHT_BP_MAX
from gateway.core.verdicts import Verdict

AUTOMATION = "automation"
NOTIFY_KINDS = (
    "started",
    "warming",
    "waiting",
    "advanced",
    "paused",
    "resumed",
    "weight_set",
    "baking",
    "returning",
    "promoted",
    "rolled_back",
    "withdrawn",
    "restarted",
)
# What a gate asks for: an operator's approval, or (not a plan's to name) that the canary has a healthy endpoint.
GATE_MANUAL = "manual"
GATE_CANARY = "canary"


class Day(enum.StrEnum):
    """A day of the week."""

    MON = "mon"
    TUE = "tue"
    WED = "wed"
    THU = "thu"
    FRI = "fri"
    SAT = "sat"
    SUN = "sun"


class Phase(enum.StrEnum):
    """Where a rollout is; see `transitions` for what each phase means."""

    IDLE = "IDLE"
    WARMING = "WARMING"
    WAITING = "WAITING"
    PROGRESSING = "PROGRESSING"
    PAUSED = "PAUSED"
    BAKING = "BAKING"
    RETURNING = "RETURNING"
    PROMOTED = "PROMOTED"
    ROLLED_BACK = "ROLLED_BACK"
    WITHDRAWN = "WITHDRAWN"

    @property
    def terminal(self) -> bool:
        """Whether the rollout has ended."""
        return self in (Phase.PROMOTED, Phase.ROLLED_BACK, Phase.WITHDRAWN)

    @property
    def active(self) -> bool:
        """Whether there is a rollout that has not ended."""
        return self is not Phase.IDLE and not self.terminal


class OnDeadline(enum.StrEnum):
    """What happens at the deadline of a rollout or step that its evidence has not decided."""

    HOLD = "hold"
    ROLLBACK = "rollback"
    PROMOTE = "promote"
    PROCEED = "proceed"


class SafeAction(enum.StrEnum):
    """What happens at the deadline of a rollout without data."""

    HOLD = "hold"
    ROLLBACK = "rollback"


class WhenDown(enum.StrEnum):
    """What a start does whose canary has no healthy endpoint."""

    WAIT = "wait"
    REFUSE = "refuse"


class OnNewCanary(enum.StrEnum):
    """What happens to a rollout under way when its route's backends are changed."""

    REFUSE = "refuse"
    SUPERSEDE = "supersede"


class Step(msgspec.Struct, frozen=True):
    """One step: the weight, and the floor of time and canary requests before the next one.

    ``gate`` must open before the step is entered: "" (none), ``GATE_MANUAL``, or the name of an external gate
    that is queried. ``deadline_s`` counts from when the step was entered; ``on_deadline`` acts when no PASS has come by
    then.
    """

    weight_bp: int
    min_time_s: float = 60.0
    min_requests: int = 100
    deadline_s: float | None = None
    on_deadline: OnDeadline = OnDeadline.HOLD
    gate: str = ""


class MirrorStep(msgspec.Struct, frozen=True):
    """The step before all others: stable's requests are copied to the canary, and no user sees it (analysis/paired.py).

    ``share_bp`` of them are. Its floor is of time and of pairs; ``compare`` says what is proven of them.
    """

    share_bp: int = WEIGHT_BP_MAX
    min_time_s: float = 60.0
    min_requests: int = 100
    deadline_s: float | None = None
    on_deadline: OnDeadline = OnDeadline.HOLD
    compare: PairedSpec = PairedSpec()


class Window(msgspec.Struct, frozen=True):
    """A time of the week: days (0 is Monday), and minutes of the local day, ``until_minute`` excluded.

    A window whose end is not after its beginning goes on into the next day.
    """

    days: tuple[int, ...]
    from_minute: int = 0
    until_minute: int = 1440


class Plan(msgspec.Struct, frozen=True):
    """The plan: ascending weights. After the last step's floor and a PASS the canary is promoted to 100 %.

    ``on_no_data`` is for a deadline at which nothing is known (None, in old journals: hold where ``on_deadline`` holds,
    else roll back).
    With ``mirror`` a rollout begins with copies of stable's requests, at weight 0.
    Before the first step the canary is warmed up for ``warmup_s`` at that step's weight. After the last one it gets all
    but ``bake_holdout_bp`` for ``bake_s``, and only then the rest. ``rollback_ramp_s`` is how long the way back takes
    (0: at once). ``stable_endpoints_min`` healthy endpoints of stable are needed for every step up. Automation raises
    the weight only in ``windows`` (none: always), never on ``closed_dates``; both are local to ``timezone``. A pause
    longer than ``pause_max_s`` ends in a rollback.
    """

    steps: tuple[Step, ...]
    deadline_s: float = 86_400.0
    on_deadline: OnDeadline = OnDeadline.HOLD
    on_no_data: SafeAction | None = SafeAction.ROLLBACK
    promotion_gate: str = ""
    warmup_s: float = 0.0
    bake_s: float = 0.0
    bake_holdout_bp: int = 500
    rollback_ramp_s: float = 0.0
    stable_endpoints_min: int = 0
    when_canary_down: WhenDown = WhenDown.WAIT
    windows: tuple[Window, ...] = ()
    closed_dates: tuple[str, ...] = ()
    timezone: str = "UTC"
    pause_max_s: float | None = None
    on_new_canary: OnNewCanary = OnNewCanary.REFUSE
    mirror: MirrorStep | None = None


class LocalTime(msgspec.Struct, frozen=True):
    """A moment in the plan's time zone: ISO date, weekday (0 is Monday), minute of the day."""

    date: str
    weekday: int
    minute: int


class Conditions(msgspec.Struct, frozen=True):
    """What else is known at the moment of an analysis; None is "not known", and holds nothing back.

    ``stable_up`` and ``canary_up`` count the endpoints that active probes find healthy.
    """

    local: LocalTime | None = None
    stable_up: int | None = None
    canary_up: int | None = None


class Started(msgspec.Struct, frozen=True, tag=True):
    """An operator (or a pipeline) starts a rollout. Times are monotonic seconds.

    ``stable`` is empty where there is nothing to compare with yet. ``retry`` says that a canary that was rolled back
    is to be tried again. ``model`` and ``stable_model`` are what canary and stable serve, where that is known.
    """

    rollout_id: str
    route: str
    stable: str
    canary: str
    plan: Plan
    at_s: float
    by: str
    retry: bool = False
    canary_up: int | None = None
    reason: str = ""
    model: ModelVersion | None = None
    stable_model: ModelVersion | None = None


class Analysed(msgspec.Struct, frozen=True, tag=True):
    """The evidence was judged. ``canary_requests`` is cumulative over the rollout.

    ``unknown`` says what is not known yet of the canary and holds the end of a bake.
    """

    at_s: float
    verdict: Verdict
    reason: str
    causes: tuple[str, ...]
    canary_requests: int
    conditions: Conditions = Conditions()
    unknown: str = ""


class Ticked(msgspec.Struct, frozen=True, tag=True):
    """Time has passed in which nothing could be judged."""

    at_s: float


class PauseRequested(msgspec.Struct, frozen=True, tag=True):
    """An operator pauses the rollout at its weight."""

    at_s: float
    by: str
    reason: str = ""


class ResumeRequested(msgspec.Struct, frozen=True, tag=True):
    """An operator resumes automation."""

    at_s: float
    by: str
    canary_requests: int = 0
    reason: str = ""


class PromoteRequested(msgspec.Struct, frozen=True, tag=True):
    """An operator promotes by hand, whatever the evidence says: to the next step, or all the way."""

    at_s: float
    by: str
    reason: str = ""
    next_step: bool = False
    canary_requests: int = 0


class ApproveRequested(msgspec.Struct, frozen=True, tag=True):
    """An operator opens the gate, whatever it waits for."""

    at_s: float
    by: str
    reason: str = ""
    canary_requests: int = 0


class GateAnswered(msgspec.Struct, frozen=True, tag=True):
    """The final answer of a gate. The answer of a gate that is not the one in force is ignored."""

    at_s: float
    gate: str
    passed: bool
    reason: str
    by: str
    canary_requests: int = 0


class AbortRequested(msgspec.Struct, frozen=True, tag=True):
    """An operator rolls back by hand."""

    at_s: float
    by: str
    reason: str = ""


class WeightRequested(msgspec.Struct, frozen=True, tag=True):
    """An operator sets the weight by hand, which suspends automation."""

    at_s: float
    by: str
    weight_bp: int
    reason: str = ""


class Withdrawn(msgspec.Struct, frozen=True, tag=True):
    """The route's backends were changed: there is nothing left to roll out."""

    at_s: float
    by: str
    reason: str


class JournalTimedOut(msgspec.Struct, frozen=True, tag=True):
    """The last decision was more exposure, and the journal did not take it in time: the live weight stands.

    ``before`` is the state in force where nobody commanded that decision: automation goes on from there. Without it
    the rollout waits for an operator. ``canary_requests`` is cumulative over the rollout.
    """

    at_s: float
    live_weight_bp: int
    reason: str
    before: Rollout | None = None
    canary_requests: int = 0


class Restarted(msgspec.Struct, frozen=True, tag=True):
    """The control plane came back. Timers start anew; ``live_weight_bp`` is what the workers were found with."""

    at_s: float
    live_weight_bp: int | None
    canary_requests: int = 0


Event = (
    Started
    | Analysed
    | Ticked
    | PauseRequested
    | ResumeRequested
    | PromoteRequested
    | ApproveRequested
    | GateAnswered
    | AbortRequested
    | WeightRequested
    | Withdrawn
    | JournalTimedOut
    | Restarted
)


class SetWeight(msgspec.Struct, frozen=True, tag=True):
    """Publish a table in which the route has this weight."""

    route: str
    weight_bp: int
    reason: str


class SwapRoles(msgspec.Struct, frozen=True, tag=True):
    """Publish a table in which the route has these backends and this weight."""

    route: str
    stable: str
    canary: str | None
    weight_bp: int
    reason: str


class Notify(msgspec.Struct, frozen=True, tag=True):
    """Publish a decision (event stream, log, metrics). ``kind`` is one of NOTIFY_KINDS."""

    rollout_id: str
    kind: str
    reason: str


Command = SetWeight | SwapRoles | Notify

_MIRRORING = (Phase.PROGRESSING, Phase.PAUSED, Phase.WAITING)

# Steps outside the plan: `step_index` before anything was served, while requests are mirrored, and while the canary
# warms up. The bake's is the number of steps.
MIRROR = -3
NOT_BEGUN = -2
WARMUP = -1


class Rollout(msgspec.Struct, frozen=True):
    """The state of one rollout: everything that `step` needs, and nothing that only a clock could change.

    ``step_index`` is the step in force; ``step_since_s`` and ``step_requests_base`` are the monotonic time and the
    cumulative canary requests when it was entered. ``gate`` is what the step ``gate_index`` waits for, "" for nothing.
    ``ramp_from_bp`` is the weight from which a RETURNING one falls. ``since_s`` is when the rollout began (rebased on
    restart so that the deadline keeps counting time under control). ``last_at_s`` is when the state last changed.
    ``reason``, ``causes`` and ``by`` describe the last change: why, which metrics, who (an operator's name, or
    ``AUTOMATION``). ``revision`` counts the changes from 1: with the id it names this state of this rollout, here and
    in the journal. ``model`` and ``stable_model`` are what canary and stable served when it began.
    """

    rollout_id: str = ""
    route: str = ""
    stable: str = ""
    canary: str = ""
    plan: Plan = Plan(steps=())
    phase: Phase = Phase.IDLE
    step_index: int = 0
    weight_bp: int = 0
    reason: str = ""
    causes: tuple[str, ...] = ()
    by: str = ""
    since_s: float = 0.0
    step_since_s: float = 0.0
    step_requests_base: int = 0
    last_at_s: float = 0.0
    revision: int = 0
    gate: str = ""
    gate_index: int = 0
    ramp_from_bp: int = 0
    model: ModelVersion | None = None
    stable_model: ModelVersion | None = None

    @property
    def mirror(self) -> MirrorStep | None:
        """The plan's mirror step, while it is in force: also while it is paused, or waits for the next step's gate."""
        held = self.step_index == MIRROR and not self.weight_bp and self.phase in _MIRRORING
        return self.plan.mirror if held else None

    @property
    def swapped(self) -> bool:
        """Whether the canary has become the route's stable backend."""
        return self.phase is Phase.PROMOTED and self.weight_bp == 10_000
