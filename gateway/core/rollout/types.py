"""The values of a rollout: the plan, where it stands, what can happen to it, and what must be done about it."""

from __future__ import annotations

import enum

import msgspec

from gateway.core.analysis.types import Verdict

AUTOMATION = "automation"
NOTIFY_KINDS = ("started", "advanced", "paused", "resumed", "weight_set", "promoted", "rolled_back", "restarted")


class Phase(enum.StrEnum):
    """Where a rollout is. PROMOTED and ROLLED_BACK are terminal."""

    IDLE = "IDLE"
    PROGRESSING = "PROGRESSING"
    PAUSED = "PAUSED"
    PROMOTED = "PROMOTED"
    ROLLED_BACK = "ROLLED_BACK"

    @property
    def terminal(self) -> bool:
        """Whether the rollout has ended."""
        return self in (Phase.PROMOTED, Phase.ROLLED_BACK)


class OnDeadline(enum.StrEnum):
    """What becomes of a rollout that its evidence could not decide in time."""

    HOLD = "hold"
    ROLLBACK = "rollback"
    PROMOTE = "promote"


class Step(msgspec.Struct, frozen=True):
    """One rung: the weight, and the floor of time and canary requests before the next one."""

    weight_bp: int
    min_time_s: float = 60.0
    min_requests: int = 100


class Plan(msgspec.Struct, frozen=True):
    """The ladder of weights. After the last step's floor and a PASS the canary is promoted to 100 %."""

    steps: tuple[Step, ...]
    deadline_s: float = 86_400.0
    on_deadline: OnDeadline = OnDeadline.HOLD


class Started(msgspec.Struct, frozen=True, tag=True):
    """An operator (or a pipeline) starts a rollout. Times are monotonic seconds."""

    rollout_id: str
    route: str
    stable: str
    canary: str
    plan: Plan
    at_s: float
    by: str


class Analysed(msgspec.Struct, frozen=True, tag=True):
    """The evidence was judged. ``canary_requests`` is cumulative over the rollout."""

    at_s: float
    verdict: Verdict
    reason: str
    causes: tuple[str, ...]
    canary_requests: int


class PauseWished(msgspec.Struct, frozen=True, tag=True):
    """An operator wants the rollout to hold its weight."""

    at_s: float
    by: str
    reason: str = ""


class ResumeWished(msgspec.Struct, frozen=True, tag=True):
    """An operator wants automation to go on."""

    at_s: float
    by: str
    canary_requests: int = 0


class PromoteWished(msgspec.Struct, frozen=True, tag=True):
    """An operator promotes by hand, whatever the evidence says."""

    at_s: float
    by: str
    reason: str = ""


class AbortWished(msgspec.Struct, frozen=True, tag=True):
    """An operator rolls back by hand."""

    at_s: float
    by: str
    reason: str = ""


class WeightWished(msgspec.Struct, frozen=True, tag=True):
    """An operator sets the weight by hand, which suspends automation."""

    at_s: float
    by: str
    weight_bp: int


class Restarted(msgspec.Struct, frozen=True, tag=True):
    """The control plane came back. Timers start anew; ``live_weight_bp`` is what the workers were found with."""

    at_s: float
    live_weight_bp: int | None
    canary_requests: int = 0


Event = Started | Analysed | PauseWished | ResumeWished | PromoteWished | AbortWished | WeightWished | Restarted


class SetWeight(msgspec.Struct, frozen=True, tag=True):
    """Publish a table in which the route has this weight."""

    route: str
    weight_bp: int
    reason: str


class Notify(msgspec.Struct, frozen=True, tag=True):
    """Tell the world (event stream, log, metrics) that something was decided. ``kind`` is one of NOTIFY_KINDS."""

    rollout_id: str
    kind: str
    reason: str


Command = SetWeight | Notify


class Rollout(msgspec.Struct, frozen=True):
    """The state of one rollout: everything that `step` needs, and nothing that only a clock could change.

    ``step_index`` is the rung in force; ``step_since_s`` and ``step_requests_base`` are the monotonic time and the
    cumulative canary requests when it was entered. ``since_s`` is when the rollout began (rebased on restart so that
    the deadline keeps counting time under control). ``last_at_s`` is when the state last changed. ``reason``,
    ``causes`` and ``by`` tell of the last change: why, which metrics, who (an operator's name, or ``AUTOMATION``).
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
