"""The section ``routes[].plan``: the steps of a rollout, and what may hold it, end it or take it back."""

from __future__ import annotations

import re
import zoneinfo
from datetime import date
from enum import StrEnum
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from gateway.config import grammar
from gateway.config.errors import BadValue, show
from gateway.config.section import (
    YEAR_S,
    Percentage,
    Seconds,
    Section,
    Share,
    StepPercentage,
    in_basis_points,
)
from gateway.config.shape import Doc, Noun
from gateway.core.analysis.paired_spec import PairedSpec
from gateway.core.rollout.types import (
    GATE_CANARY,
    Day,
    MirrorStep,
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
_MIRROR_STEP = MirrorStep()
_COMPARE = PairedSpec()
_TIME = re.compile(r"(?:([01]\d|2[0-3]):([0-5]\d)|24:00)", re.ASCII)


class PlanDeadline(StrEnum):
    """What becomes of a rollout that is undecided when its time is over. Only a step can proceed to another."""

    HOLD = OnDeadline.HOLD.value
    ROLLBACK = OnDeadline.ROLLBACK.value
    PROMOTE = OnDeadline.PROMOTE.value


_time_of_day = grammar.matching(_TIME, "is not a time of day", "write it as 09:00")


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
MirroredPercentage = Annotated[float, Field(gt=0, le=100), AfterValidator(in_basis_points), Noun("a percentage")]
MarginShare = Annotated[float, Field(gt=0, le=0.5), Noun("a share")]
DisagreementShare = Annotated[float, Field(gt=0, le=0.99), Noun("a share")]
MirroredRatio = Annotated[float, Field(ge=1, le=30), Noun("a ratio")]
SecondsOrNone = Annotated[float, Field(ge=0, le=YEAR_S), Noun("a number of seconds")]


class StepConfig(Section):
    """One step of a rollout."""

    percent: Annotated[
        StepPercentage,
        Doc(
            "The canary's share on this step, in steps of 0.01. 100 is refused: stable needs requests of its own to "
            "be compared with."
        ),
    ]
    min_time_s: Annotated[SecondsOrNone, Doc("Minimum time on this step, however good the evidence.")] = (
        _STEP.min_time_s
    )
    min_requests: Annotated[
        int, Field(ge=0, le=1_000_000_000), Doc("Minimum number of canary requests on this step.")
    ] = _STEP.min_requests
    deadline_s: Annotated[
        Seconds | None, Doc("Maximum time on this step. `null`: as long as the rollout may take.")
    ] = _STEP.deadline_s
    on_deadline: Annotated[
        OnDeadline,
        Field(strict=False),
        Doc("What happens when the step is undecided by then; `proceed` goes on to the next step."),
    ] = _STEP.on_deadline
    gate: Annotated[
        Gate | None,
        Doc("What must open before the step: `manual` is an operator's approval, any other name is one of `gates`."),
    ] = None

    core = Step

    def to_core(self) -> dict[str, Any]:
        """Percent are basis points, and no gate is the empty one."""
        return {"weight_bp": weight_bp_from_percent(self.percent), "gate": self.gate or ""}

    @classmethod
    def of_core(cls, value: Step) -> dict[str, Any]:
        """The way back."""
        return {"percent": percent_from_weight_bp(value.weight_bp), "gate": value.gate or None}


class CompareConfig(Section):
    """What is proven of mirrored requests, each of which both versions have met."""

    core = PairedSpec

    tolerance_delta: Annotated[
        Share,
        Doc(
            "Share of the requests that the canary alone may fail, more than stable alone does: rolled back on proof "
            "of more, for each outcome class."
        ),
    ] = _COMPARE.tolerance_delta
    margin_delta: Annotated[MarginShare, Doc("The step passes on proof of less than this share.")] = (
        _COMPARE.margin_delta
    )
    latency: Annotated[bool, Doc("Judge latencies, as the ratio of both versions' on the same request.")] = (
        _COMPARE.latency
    )
    latency_tolerance_ratio: Annotated[
        MirroredRatio,
        Doc("Rolled back on proof that the canary usually takes longer than so many times stable's time."),
    ] = _COMPARE.latency_tolerance_ratio
    latency_margin_ratio: Annotated[MirroredRatio, Doc("The step passes on proof that it takes less.")] = (
        _COMPARE.latency_margin_ratio
    )

    outputs: Annotated[
        bool, Doc("Judge how often the outputs of both versions differ, where `mirror.outputs` has them compared.")
    ] = _COMPARE.outputs
    disagreement_tolerance: Annotated[
        Share, Doc("Share of compared outputs that may differ: rolled back on proof of more.")
    ] = _COMPARE.disagreement_tolerance
    disagreement_margin: Annotated[DisagreementShare, Doc("The step passes on proof of less than this share.")] = (
        _COMPARE.disagreement_margin
    )


class MirrorStepConfig(Section):
    """The step before all others: stable's requests are copied to the canary, whose answers no client gets."""

    core = MirrorStep

    percent: Annotated[
        MirroredPercentage, Doc("Share of stable's requests that are copied, within the limits of `mirror`.")
    ] = percent_from_weight_bp(_MIRROR_STEP.share_bp)
    min_time_s: Annotated[SecondsOrNone, Doc("Minimum time on this step.")] = _MIRROR_STEP.min_time_s
    min_requests: Annotated[
        int, Field(ge=0, le=1_000_000_000), Doc("Minimum number of requests that both versions have met.")
    ] = _MIRROR_STEP.min_requests
    deadline_s: Annotated[
        Seconds | None, Doc("Maximum time on this step. `null`: as long as the rollout may take.")
    ] = _MIRROR_STEP.deadline_s
    on_deadline: Annotated[
        OnDeadline,
        Field(strict=False),
        Doc("What happens when the step is undecided by then; `proceed` goes on to the first step."),
    ] = _MIRROR_STEP.on_deadline
    compare: Annotated[CompareConfig, Doc("What is convicted, and what is good enough.")] = CompareConfig()

    def to_core(self) -> dict[str, Any]:
        """Percent are basis points."""
        return {"share_bp": weight_bp_from_percent(self.percent)}

    @classmethod
    def of_core(cls, value: MirrorStep) -> dict[str, Any]:
        """The way back."""
        return {"percent": percent_from_weight_bp(value.share_bp)}


class WindowConfig(Section):
    """A time of the week in which automation may raise the weight; one that closes before it opens ends a day later."""

    days: Annotated[
        list[Annotated[Day, Field(strict=False)]],
        Field(min_length=1, max_length=7),
        Doc("The days on which the window opens."),
    ] = list(Day)
    opens: Annotated[TimeOfDay, Doc("When it opens, such as 09:00.")] = "00:00"
    closes: Annotated[TimeOfDay, Doc("When it closes; a time that is not after `opens` means on the next day.")] = (
        "24:00"
    )

    core = Window

    def to_core(self) -> dict[str, Any]:
        """Days are numbers from Monday's 0, times are minutes."""
        days = [index for index, day in enumerate(Day) if day in self.days]
        return {"days": days, "from_minute": _minute(self.opens), "until_minute": _minute(self.closes)}

    @classmethod
    def of_core(cls, value: Window) -> dict[str, Any]:
        """The way back."""
        opens, closes = (f"{minute // 60:02}:{minute % 60:02}" for minute in (value.from_minute, value.until_minute))
        return {"days": [list(Day)[index] for index in value.days], "opens": opens, "closes": closes}


def _minute(text: str) -> int:
    hours, minutes = text.split(":")
    return int(hours) * 60 + int(minutes)


class PlanConfig(Section):
    """The steps of a rollout: rising weights."""

    steps: Annotated[
        list[StepConfig],
        Field(min_length=1, max_length=100),
        Doc(
            "At least one, in ascending order of `percent`. After the last one passes, the canary is promoted to 100 %."
        ),
    ] = [StepConfig(percent=percent) for percent in (1, 5, 25, 50)]
    mirror: Annotated[
        MirrorStepConfig | None,
        Doc(
            "A step before the first one: copies of stable's requests for the canary, which no user sees. `null`: none."
        ),
    ] = None
    deadline_s: Annotated[Seconds, Doc("Maximum time of the whole rollout.")] = _PLAN.deadline_s
    on_deadline: Annotated[
        PlanDeadline,
        Field(strict=False),
        Doc(
            "What happens when the rollout is undecided by then: `hold` the weight and wait for an operator, "
            "`rollback`, or `promote`."
        ),
    ] = PlanDeadline(_PLAN.on_deadline.value)
    on_no_data: Annotated[
        SafeAction,
        Field(strict=False),
        Doc("What happens at a deadline without data, or when nothing could be judged: `hold` or `rollback`."),
    ] = SafeAction.ROLLBACK
    promotion_gate: Annotated[Gate | None, Doc("What must open before the promotion.")] = None
    warmup_s: Annotated[
        SecondsOrNone, Doc("How long the canary gets the first step's share before its responses count as evidence.")
    ] = _PLAN.warmup_s
    bake_s: Annotated[
        SecondsOrNone,
        Doc("How long a promoted canary is compared with a holdout of stable before the promotion is final."),
    ] = _PLAN.bake_s
    bake_holdout_percent: Annotated[
        Percentage,
        Field(lt=100),
        Doc(
            "Stable's share during the bake, less than 100. A small one finds late regressions later: `gateway plan` "
            "says how much."
        ),
    ] = percent_from_weight_bp(_PLAN.bake_holdout_bp)
    rollback_ramp_s: Annotated[SecondsOrNone, Doc("How long a rollback takes, in ten steps. 0: at once.")] = (
        _PLAN.rollback_ramp_s
    )
    stable_endpoints_min: Annotated[
        int, Field(ge=0, le=1000), Doc("How many endpoints of stable must be healthy before the canary's share rises.")
    ] = _PLAN.stable_endpoints_min
    when_canary_down: Annotated[
        WhenDown,
        Field(strict=False),
        Doc(
            "What happens when a rollout starts and the canary has no healthy endpoint: `wait` at 0 %, or `refuse` it."
        ),
    ] = _PLAN.when_canary_down
    windows: Annotated[
        list[WindowConfig],
        Field(max_length=100),
        Doc("When automation may raise the share; empty: always. It may lower the share at any time."),
    ] = []
    closed_dates: Annotated[
        list[LocalDate], Field(max_length=1000), Doc("Dates (2026-12-24) on which automation never raises the share.")
    ] = []
    timezone: Annotated[TimeZone, Doc("The time zone of `windows` and `closed_dates`.")] = _PLAN.timezone
    pause_max_s: Annotated[
        Seconds | None, Doc("Maximum time of a pause; then the rollout is rolled back. `null`: no limit.")
    ] = _PLAN.pause_max_s
    on_new_canary: Annotated[
        OnNewCanary,
        Field(strict=False),
        Doc(
            "What happens when a new configuration changes the route's backends during a rollout: the configuration is "
            "refused (`refuse`), or it ends the rollout (`supersede`)."
        ),
    ] = _PLAN.on_new_canary

    core = Plan

    def to_core(self) -> dict[str, Any]:
        """Percent are basis points, and no gate is the empty one."""
        holdout_bp = min(weight_bp_from_percent(self.bake_holdout_percent), WEIGHT_BP_MAX - 1)
        return {"bake_holdout_bp": holdout_bp, "promotion_gate": self.promotion_gate or ""}

    @classmethod
    def of_core(cls, value: Plan) -> dict[str, Any]:
        """The way back."""
        return {
            "bake_holdout_percent": percent_from_weight_bp(value.bake_holdout_bp),
            "promotion_gate": value.promotion_gate or None,
        }
