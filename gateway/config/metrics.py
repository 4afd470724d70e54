"""How each kind of metric is judged: outcome classes, latencies, labelled events, failures in answers, guardrails.

Every default is read from the core's own specs. Milliseconds here, microseconds inside.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

import msgspec
from pydantic import AfterValidator, Field

from gateway.config.errors import BadValue, show
from gateway.config.predictions import EventHeader, EventHeaderValue, ModeKey, TrialsKey
from gateway.config.section import Milliseconds, Ratio, Section
from gateway.config.shape import Doc, Noun
from gateway.core.analysis.spec import (
    LATENCY_METRICS,
    ROUTE_DEFAULT,
    EventSpec,
    GuardrailSpec,
    LatencySpec,
    Mode,
    RateSpec,
    Unit,
    Worse,
)
from gateway.core.errors import InvalidValueError
from gateway.core.predictions.failures import MODEL_ERRORS, UNREAD_ANSWERS

_RATE = RateSpec()
_LATENCY = LatencySpec()
_DURATION = ROUTE_DEFAULT.duration
_STREAM = ROUTE_DEFAULT.gap
_EVENT = EventSpec("event")
_GUARDRAIL = GuardrailSpec("errors", 0.5)


def _event_name(text: str) -> str:
    if text in (MODEL_ERRORS, UNREAD_ANSWERS):
        raise BadValue(f"{show(text)} is a metric of the gateway itself", "choose another name")
    try:
        return EventSpec(text).name
    except InvalidValueError as error:
        raise BadValue(str(error), "choose a name such as low_confidence") from None


def _guarded_metric(text: str) -> str:
    try:
        return GuardrailSpec(text, 0.5, 1 if text in LATENCY_METRICS else None).metric
    except InvalidValueError as error:
        raise BadValue(str(error), "use an outcome class, a latency or an event of this route") from None


def _rising(bounds: list[float]) -> list[float]:
    if len(bounds) != 2 or bounds[0] >= bounds[1]:
        raise BadValue("bounds are two rising numbers", "write them as [low, high]")
    return bounds


def _latency_name(text: str) -> str:
    if text not in LATENCY_METRICS:
        raise BadValue(f"{show(text)} is not a latency", f"use one of {', '.join(LATENCY_METRICS)}")
    return text


EventName = Annotated[str, AfterValidator(_event_name), Noun("an event's name")]
GuardedMetric = Annotated[str, AfterValidator(_guarded_metric), Noun("a metric's name")]
PartOfAlpha = Annotated[float, Field(ge=1e-6, le=1), Noun("a share")]
Delta = Annotated[float, Field(ge=0, le=0.99), Noun("a share")]
SliceSeconds = Annotated[float, Field(ge=0.01, le=3600), Noun("a number of seconds")]
Slo = Annotated[float, Field(ge=0.001, le=10_000_000), Noun("a number of milliseconds")]
Quantile = Annotated[float, Field(ge=0.01, le=0.9999), Noun("a probability")]
Quantiles = Annotated[list[Quantile], Field(min_length=1, max_length=16)]
Slos = Annotated[list[Slo], Field(max_length=16)]
Bound = Annotated[float, Field(ge=-1e12, le=1e12), Noun("a number")]
Bounds = Annotated[list[Bound], Field(max_length=2), AfterValidator(_rising)]
LatencyName = Annotated[str, AfterValidator(_latency_name), Noun("a latency's name")]
MetricMode = Annotated[
    ModeKey,
    Doc(
        "`decide`: takes part in the verdict. `auto`: as `decide`, from the first data of either version on. "
        "`advise`: is reported and never decides. `off`: is not measured."
    ),
]
ToleranceRatio = Annotated[
    Ratio,
    Doc(
        "Rolled back on proof that the canary's rate is above the larger of `tolerance_ratio` times stable's rate, and "
        "stable's rate + `tolerance_delta`."
    ),
]
ToleranceDelta = Annotated[Delta, Doc("See `tolerance_ratio`; 0.01 is one percentage point.")]
MarginRatio = Annotated[
    Ratio,
    Doc(
        "A step passes on proof that the canary's rate is below the larger of `margin_ratio` times stable's rate, and "
        "stable's rate + `margin_delta`."
    ),
]
MarginDelta = Annotated[Delta, Doc("See `margin_ratio`; 0.01 is one percentage point.")]
MetricShare = Annotated[PartOfAlpha, Doc("Part of `alpha_rollback`, relative to the other metrics'.")]


class RateConfig(Section):
    """How one class of outcomes is judged."""

    mode: MetricMode = _RATE.mode
    tolerance_ratio: ToleranceRatio = _RATE.tolerance_ratio
    tolerance_delta: ToleranceDelta = _RATE.tolerance_delta
    margin_ratio: MarginRatio = _RATE.margin_ratio
    margin_delta: MarginDelta = _RATE.margin_delta

    core: ClassVar[type[msgspec.Struct] | None] = RateSpec


class ModelErrorsConfig(RateConfig):
    """How failures inside of answers are found and judged."""

    mode: MetricMode = Mode.AUTO
    share: MetricShare = _EVENT.share
    samples_per_s_max: Annotated[
        float,
        Field(ge=1, le=10_000),
        Noun("a number per second"),
        Doc("At most twice this many of both variants together are read, in each worker, while both have traffic."),
    ] = 50.0

    core = EventSpec


class LatencyConfig(Section):
    """How a latency is judged."""

    mode: MetricMode = _LATENCY.mode
    quantiles: Annotated[Quantiles, Doc("Which quantiles of stable are compared, in rising order.")] = list(
        _LATENCY.quantiles
    )
    slo_ms: Annotated[
        Slos,
        Doc(
            "Fixed thresholds, in rising order: beyond each the canary may not be more often than stable, whatever "
            "the tolerance."
        ),
    ] = []
    tolerance_ratio: Annotated[
        Ratio,
        Doc(
            "The canary is slower when it exceeds stable's quantile times `tolerance_ratio` + `tolerance_ms` more "
            "often than stable exceeds the quantile."
        ),
    ] = _LATENCY.tolerance_ratio
    tolerance_ms: Annotated[Milliseconds, Doc("See `tolerance_ratio`.")] = _LATENCY.tolerance_us / 1000
    margin_ratio: Annotated[
        Ratio,
        Doc(
            "A step passes on proof that the canary does not exceed stable's quantile times `margin_ratio` + "
            "`margin_ms` more often."
        ),
    ] = _LATENCY.margin_ratio
    margin_ms: Annotated[Milliseconds, Doc("See `margin_ratio`.")] = _LATENCY.margin_us / 1000
    margin_delta: Annotated[
        float, Field(ge=0, le=0.9), Noun("a share"), Doc("Slack of that proof, as a share of requests.")
    ] = _LATENCY.margin_delta
    slice_s: Annotated[
        SliceSeconds, Doc("Length of the slices that are compared, so that a burst of slow requests counts once.")
    ] = _LATENCY.slice_s

    core = LatencySpec

    def to_core(self) -> dict[str, Any]:
        """Milliseconds are microseconds."""
        return {
            "tolerance_us": round(self.tolerance_ms * 1000),
            "margin_us": round(self.margin_ms * 1000),
            "slo_us": [round(slo_ms * 1000) for slo_ms in self.slo_ms],
        }


class DurationConfig(LatencyConfig):
    """The time to the last byte, which depends on how fast clients read: not looked at unless it is switched on."""

    mode: MetricMode = _DURATION.mode


class StreamConfig(LatencyConfig):
    """A latency that only event streams have."""

    mode: MetricMode = _STREAM.mode


class EventConfig(Section):
    """Where a labelled yes/no event comes from, and how it is judged."""

    name: Annotated[EventName, Doc("The name under which trials and events are counted.")]
    header: Annotated[
        EventHeader | None,
        Doc(
            "The response header that reports it: each answered request is a trial, and the event happened when the "
            "header is there."
        ),
    ] = None
    header_value: Annotated[
        EventHeaderValue | None, Doc("Only when this is one of the header's comma-separated values, such as `click=1`.")
    ] = None
    trial: Annotated[
        TrialsKey | None,
        Doc(
            "For events that arrive at the admin API later, by request id. `request`: every answered request is a "
            "trial (a click). `label`: only those that a label came for (right or wrong). See docs/predictions.md."
        ),
    ] = None
    bounds: Annotated[
        Bounds | None,
        Doc(
            "Makes it a number of each request instead of yes or no: its mean is compared, of values clipped to these "
            "bounds ([judging.md](judging.md#means)). The header's text is the number; of a label, `value`. Ratios are "
            "those of the means, deltas shares of the range."
        ),
    ] = None
    of: Annotated[
        LatencyName | None,
        Doc("The mean of a latency: its name. `bounds` are milliseconds then; it needs neither header nor trial."),
    ] = None
    mode: MetricMode = _EVENT.mode
    worse: Annotated[
        Worse,
        Field(strict=False),
        Doc(
            "Which way of differing from stable is worse: more events, fewer (the arms are exchanged in both rules), "
            "or either."
        ),
    ] = _EVENT.worse
    tolerance_ratio: ToleranceRatio = _EVENT.tolerance_ratio
    tolerance_delta: ToleranceDelta = _EVENT.tolerance_delta
    margin_ratio: MarginRatio = _EVENT.margin_ratio
    margin_delta: MarginDelta = _EVENT.margin_delta
    share: MetricShare = _EVENT.share
    unit: Annotated[
        Unit,
        Field(strict=False),
        Doc("What counts as one observation: each request, or a slice of time with everything in it."),
    ] = _EVENT.unit
    slice_s: Annotated[SliceSeconds, Doc("Length of a slice, where slices are the observations.")] = _EVENT.slice_s

    core = EventSpec


class GuardrailConfig(Section):
    """An absolute limit on the canary."""

    metric: Annotated[GuardedMetric, Doc("A failure class, a latency or an event.")]
    limit: Annotated[
        float,
        Field(ge=1e-6, le=0.99),
        Noun("a share"),
        Doc("Rolled back on proof that the canary's share of such requests is above it."),
    ]
    threshold_ms: Annotated[
        Slo | None,
        Doc(
            "For a latency, and required there: what is too slow. A p99 of at most 200 ms is a limit of 0.01 with 200."
        ),
    ] = None
    mode: MetricMode = _GUARDRAIL.mode
    share: MetricShare = _GUARDRAIL.share
    slice_s: Annotated[SliceSeconds, Doc("Length of a slice, where slices are the observations.")] = _GUARDRAIL.slice_s

    core = GuardrailSpec

    def to_core(self) -> dict[str, Any]:
        """Milliseconds are microseconds."""
        return {"threshold_us": None if self.threshold_ms is None else round(self.threshold_ms * 1000)}
