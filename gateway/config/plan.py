"""The section ``routes[].plan``: the ladder that a rollout climbs, and what may hold it, end it or take it back."""

from __future__ import annotations

import re
import zoneinfo
from datetime import date
from enum import StrEnum
from typing import Annotated

from pydantic import AfterValidator, Field

from gateway.config.errors import BadValue, show
from gateway.config.section import YEAR_S, Percentage, Seconds, Section, StepPercentage
from gateway.config.shape import Noun
from gateway.core.rollout.types import (
    GATE_CANARY,
    Day,
    OnDeadline,
    OnNewCanary,
    Plan,
    SafeAction,
    Step,
    WhenDown,
    Window,
)
from gateway.core.types import WEIGHT_BP_MAX, percent_from_weight_bp, weight_bp_from_percent

_STEP = Step(weight_bp=1)
_PLAN = Plan(steps=())
_TIME = re.compile(r"(?:([01]\d|2[0-3]):([0-5]\d)|24:00)", re.ASCII)


class PlanDeadline(StrEnum):
    """What becomes of a rollout that is undecided when its time is over. Only a step can proceed to another."""

    HOLD = OnDeadline.HOLD.value
    ROLLBACK = OnDeadline.ROLLBACK.value
    PROMOTE = OnDeadline.PROMOTE.value


def _time_of_day(text: str) -> str:
    if not _TIME.fullmatch(text):
        raise BadValue(f"{show(text)} is not a time of day", "write it as 09:00")
    return text


def _date(text: str) -> str:
    try:
        return date.fromisoformat(text).isoformat()
    except ValueError:
        raise BadValue(f"{show(text)} is not a date", "write it as 2026-12-24") from None


def _timezone(name: str) -> str:
    try:
        zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        hint = "use UTC or a name of the time zone database, such as Europe/Berlin"
        raise BadValue(f"{show(name)} is not a time zone of this machine", hint) from None
    return name


def _gate(text: str) -> str:
    if text == GATE_CANARY:
        raise BadValue(f"{show(text)} is reserved: every start waits for it anyway", "use manual or a gate's name")
    if not text:
        raise BadValue("'' is not a gate", "use manual or a gate's name, or null for none")
    return text


Gate = Annotated[str, Field(max_length=200), AfterValidator(_gate), Noun("manual or a gate's name")]
TimeOfDay = Annotated[str, AfterValidator(_time_of_day), Noun("a time of day")]
LocalDate = Annotated[str, AfterValidator(_date), Noun("a date")]
TimeZone = Annotated[str, AfterValidator(_timezone), Noun("a time zone's name")]
SecondsOrNone = Annotated[float, Field(ge=0, le=YEAR_S), Noun("a number of seconds")]


class StepConfig(Section):
    """One rung of the ladder."""

    percent: StepPercentage
    min_time_s: SecondsOrNone = _STEP.min_time_s
    min_requests: Annotated[int, Field(ge=0, le=1_000_000_000)] = _STEP.min_requests
    deadline_s: Seconds | None = _STEP.deadline_s
    on_deadline: Annotated[OnDeadline, Field(strict=False)] = _STEP.on_deadline
    gate: Gate | None = None

    def step(self) -> Step:
        """The same, as the machine wants it."""
        weight_bp = weight_bp_from_percent(self.percent)
        return Step(weight_bp, self.min_time_s, self.min_requests, self.deadline_s, self.on_deadline, self.gate or "")


class WindowConfig(Section):
    """A time of the week in which automation may raise the weight; one that closes before it opens ends a day later."""

    days: Annotated[list[Annotated[Day, Field(strict=False)]], Field(min_length=1, max_length=7)] = list(Day)
    opens: TimeOfDay = "00:00"
    closes: TimeOfDay = "24:00"

    def window(self) -> Window:
        """The same, as the machine wants it."""
        days = tuple(index for index, day in enumerate(Day) if day in self.days)
        return Window(days, _minute(self.opens), _minute(self.closes))


def _minute(text: str) -> int:
    hours, minutes = text.split(":")
    return int(hours) * 60 + int(minutes)


class PlanConfig(Section):
    """The ladder of weights that a rollout climbs."""

    steps: Annotated[list[StepConfig], Field(min_length=1, max_length=100)] = [
        StepConfig(percent=percent) for percent in (1, 5, 25, 50)
    ]
    deadline_s: Seconds = _PLAN.deadline_s
    on_deadline: Annotated[PlanDeadline, Field(strict=False)] = PlanDeadline(_PLAN.on_deadline.value)
    on_no_data: Annotated[SafeAction, Field(strict=False)] = SafeAction.ROLLBACK
    promotion_gate: Gate | None = None
    warmup_s: SecondsOrNone = _PLAN.warmup_s
    bake_s: SecondsOrNone = _PLAN.bake_s
    bake_holdout_percent: Annotated[Percentage, Field(lt=100)] = percent_from_weight_bp(_PLAN.bake_holdout_bp)
    rollback_ramp_s: SecondsOrNone = _PLAN.rollback_ramp_s
    stable_endpoints_min: Annotated[int, Field(ge=0, le=1000)] = _PLAN.stable_endpoints_min
    when_canary_down: Annotated[WhenDown, Field(strict=False)] = _PLAN.when_canary_down
    windows: Annotated[list[WindowConfig], Field(max_length=100)] = []
    closed_dates: Annotated[list[LocalDate], Field(max_length=1000)] = []
    timezone: TimeZone = _PLAN.timezone
    pause_max_s: Seconds | None = _PLAN.pause_max_s
    on_new_canary: Annotated[OnNewCanary, Field(strict=False)] = _PLAN.on_new_canary

    def plan(self) -> Plan:
        """The same, as the machine wants it."""
        return Plan(
            steps=tuple(step.step() for step in self.steps),
            deadline_s=self.deadline_s,
            on_deadline=OnDeadline(self.on_deadline.value),
            on_no_data=self.on_no_data,
            promotion_gate=self.promotion_gate or "",
            warmup_s=self.warmup_s,
            bake_s=self.bake_s,
            bake_holdout_bp=min(weight_bp_from_percent(self.bake_holdout_percent), WEIGHT_BP_MAX - 1),
            rollback_ramp_s=self.rollback_ramp_s,
            stable_endpoints_min=self.stable_endpoints_min,
            when_canary_down=self.when_canary_down,
            windows=tuple(window.window() for window in self.windows),
            closed_dates=tuple(self.closed_dates),
            timezone=self.timezone,
            pause_max_s=self.pause_max_s,
            on_new_canary=self.on_new_canary,
        )
