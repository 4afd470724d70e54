"""The rollout machine: `step(state, event) -> (state, commands)`, and nothing else decides."""

from __future__ import annotations

from gateway.core.rollout.machine import TRANSITIONS, raises_exposure, step
from gateway.core.rollout.types import (
    AUTOMATION,
    NOTIFY_KINDS,
    AbortWished,
    Analysed,
    Command,
    Event,
    Notify,
    OnDeadline,
    PauseWished,
    Phase,
    Plan,
    PromoteWished,
    Restarted,
    ResumeWished,
    Rollout,
    SetWeight,
    Started,
    Step,
    WeightWished,
)

__all__ = [
    "AUTOMATION",
    "NOTIFY_KINDS",
    "TRANSITIONS",
    "AbortWished",
    "Analysed",
    "Command",
    "Event",
    "Notify",
    "OnDeadline",
    "PauseWished",
    "Phase",
    "Plan",
    "PromoteWished",
    "Restarted",
    "ResumeWished",
    "Rollout",
    "SetWeight",
    "Started",
    "Step",
    "WeightWished",
    "raises_exposure",
    "step",
]
